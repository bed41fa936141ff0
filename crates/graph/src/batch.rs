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
    /// whether these tokens are read, as those of a prompt are, rather than said one by one: a backend may then compute
    /// them otherwise, if only it always does, whatever shares the run and however many they are
    pub read: bool,
    /// its cache pages in order, a table for each of [`crate::graph::windows`], with pages for `pos + len` tokens; those
    /// no token of the run looks back to may be [`GONE`]. Empty in stateless graphs.
    pub pages: &'a [&'a [u32]],
}

/// Stands for a page that was given back, as a window has moved past it.
pub const GONE: u32 = u32::MAX;

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
