//! Keys and values of several sequences, and one run over tokens of any of them.

use crate::pages::{Table, held};
use crate::{CHUNK, Error, Model, Result};
use hob_cpu::exec::{Memory, Watch};
use hob_cpu::{Kv, KvTypes, Program, kv};
use hob_graph::graph::{State, windows};
use hob_graph::{Batch, Data, Seq};
use std::sync::Arc;

/// The cache of some sequences, and the memory their runs work in.
pub struct Cache {
    kv: Kv,
    /// of each sequence, for each window that layers look back over
    tables: Vec<Vec<Table>>,
    context: usize,
    memory: Memory,
}

/// Tokens to run: of which sequence, how many it holds before them, and which.
pub struct Part<'a> {
    /// the sequence
    pub line: usize,
    /// its tokens so far
    pub pos: usize,
    /// the tokens
    pub ids: &'a [u32],
}

/// Bytes of keys and values of `lines` sequences of `context` tokens each.
pub fn bytes(states: &[State], types: KvTypes, lines: usize, context: usize) -> u128 {
    kv::bytes(states, types, |window| held(window, context)) * lines as u128
}

impl Cache {
    /// Room for `lines` sequences of `context` tokens each. Memory is taken as they come.
    pub fn new(model: &Model, lines: usize, context: usize) -> Result<Cache> {
        let states = &model.program(1, 1)?.graph.states;
        let types = model.options().kv;
        let pages = |window| held(window, context).saturating_mul(lines);
        let bytes = bytes(states, types, lines, context);
        let room = || Error::Room { context, bytes };
        if u32::try_from(context.saturating_mul(lines)).is_err() || isize::try_from(bytes).is_err() {
            return Err(room());
        }
        let kv = Kv::new(states, types, pages).map_err(|_| room())?;
        let tables = |line| windows(states).into_iter().map(|w| Table::new(w, context, line)).collect();
        let tables = (0..lines).map(tables).collect();
        Ok(Cache { kv, tables, context, memory: Memory::new() })
    }

    /// Tokens that each sequence has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Forgets all of a sequence but its first `len` tokens, or all where layers have given back what the next token
    /// would look back to. Returns how many are left.
    pub fn rewind(&mut self, line: usize, len: usize) -> usize {
        let tables = &mut self.tables[line];
        let len = if tables.iter().all(|t| t.reaches(len)) { len } else { 0 };
        tables.iter_mut().for_each(|t| t.rewind(len));
        len
    }

    /// Runs `parts`, of different sequences and at most a [`CHUNK`] together, with logits for `rows` of their tokens,
    /// counted over all parts; [`Cache::logits`] has them afterwards.
    ///
    /// # Panics
    /// When there are more tokens.
    pub fn run(
        &mut self,
        model: &Model,
        parts: &[Part],
        rows: &[i32],
        watch: Option<Watch>,
    ) -> Result<Arc<Program>> {
        let tokens = parts.iter().map(|p| p.ids.len()).sum();
        assert!(tokens <= CHUNK, "at most a chunk");
        for p in parts {
            self.check(model, p.ids, p.pos + p.ids.len())?;
        }
        let program = model.program(tokens, rows.len())?;
        for p in parts {
            self.tables[p.line].iter_mut().for_each(|table| table.grow(p.pos, p.pos + p.ids.len()));
        }
        let pages: Vec<Vec<&[u32]>> =
            parts.iter().map(|p| self.tables[p.line].iter().map(Table::pages).collect()).collect();
        let mut start = 0;
        let mut seqs = Vec::with_capacity(parts.len());
        for (p, pages) in parts.iter().zip(&pages) {
            seqs.push(Seq { start, len: p.ids.len(), pos: p.pos, pages });
            start += p.ids.len();
        }
        let given: Vec<i32> = parts.iter().flat_map(|p| p.ids).map(|&id| id as i32).collect();
        let inputs = [("ids", Data::I32(&given)), ("rows", Data::I32(rows))];
        let batch = Batch { inputs: &inputs, seqs: &seqs };
        model.cpu().run_watched(&program, &mut self.memory, Some(&mut self.kv), &batch, watch)?;
        Ok(program)
    }

    /// The logits `(R, V)` of the last run, which was that of `program`.
    pub fn logits(&self, program: &Program) -> &[f32] {
        program.output(&self.memory, "logits").expect("a language model has logits")
    }

    /// Whether a sequence may reach `total` tokens, and the model knows `ids`.
    pub fn check(&self, model: &Model, ids: &[u32], total: usize) -> Result<()> {
        if total > self.context {
            return Err(Error::Context { tokens: total, context: self.context });
        }
        let vocab = model.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(Error::Token { id, vocab }),
            None => Ok(()),
        }
    }
}
