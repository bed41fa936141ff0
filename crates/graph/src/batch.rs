//! What a run is given: ids, which rows are asked for, and where each sequence lies.

/// One sequence's part of a run.
#[derive(Clone, Copy, Debug)]
pub struct Seq<'a> {
    /// its first row among the T tokens of the run
    pub start: usize,
    /// its tokens in this run
    pub len: usize,
    /// position of the first of them in the sequence: how many tokens are already in the cache
    pub pos: usize,
    /// its cache pages in order, enough for `pos + len` tokens; empty in stateless graphs
    pub pages: &'a [u32],
}

/// A tensor given at run time.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Data<'a> {
    F32(&'a [f32]),
    I32(&'a [i32]),
}

/// Everything a run is given besides weights and state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// the graph's inputs by name
    pub inputs: &'a [(&'a str, Data<'a>)],
    /// the sequences, in the order of their rows; together they cover all T tokens
    pub seqs: &'a [Seq<'a>],
}
