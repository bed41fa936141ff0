//! Several sequences that advance together: each step reads the weights once for all of them.

use crate::cache::{Cache, Part, READ};
use crate::{CHUNK, Error, Model, Result};
use std::sync::Arc;

/// Some sequences over one model.
pub struct Group {
    model: Arc<Model>,
    cache: Cache,
    context: usize,
    lines: Vec<usize>,
    /// `(V)` of each sequence
    logits: Vec<Vec<f32>>,
}

impl Group {
    /// `sequences` empty sequences with room for `context` tokens each.
    pub fn new(model: &Arc<Model>, sequences: usize, context: usize) -> Result<Group> {
        let mut cache = Cache::of_lines(model, sequences, context)?;
        let lines = (0..sequences).map(|_| cache.open(&[])).collect();
        Ok(Group { model: model.clone(), cache, context, lines, logits: vec![Vec::new(); sequences] })
    }

    /// Tokens of sequence `i`.
    pub fn ids(&self, i: usize) -> &[u32] {
        self.cache.ids(self.lines[i])
    }

    /// Logits `(V)` after the last token of sequence `i`; empty before the first.
    pub fn logits(&self, i: usize) -> &[f32] {
        &self.logits[i]
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        for i in 0..self.lines.len() {
            self.cache.close(self.lines[i]);
        }
        self.cache.clear();
        self.lines.iter_mut().for_each(|line| *line = self.cache.open(&[]));
        self.logits.iter_mut().for_each(Vec::clear);
    }

    /// Reads `ids` into sequence `i`, a chunk at a time.
    pub fn feed(&mut self, i: usize, ids: &[u32]) -> Result<()> {
        for chunk in ids.chunks(CHUNK) {
            self.advance(&[(i, chunk)], ids.len() >= READ)?;
        }
        Ok(())
    }

    /// Appends one token to every sequence, as it is said.
    ///
    /// # Panics
    /// When there are more or fewer ids than sequences, or more than a chunk.
    pub fn step(&mut self, ids: &[u32]) -> Result<()> {
        assert_eq!(ids.len(), self.lines.len(), "an id for every sequence");
        let parts: Vec<_> = ids.chunks(1).enumerate().collect();
        self.advance(&parts, false)
    }

    fn advance(&mut self, parts: &[(usize, &[u32])], read: bool) -> Result<()> {
        let full = |&&(i, ids): &&(usize, &[u32])| self.ids(i).len() + ids.len() > self.context;
        if let Some(&(i, ids)) = parts.iter().find(full) {
            return Err(Error::Context { tokens: self.ids(i).len() + ids.len(), context: self.context });
        }
        let run: Vec<Part> = parts.iter().map(|&(i, ids)| Part { line: self.lines[i], ids, read }).collect();
        let rows = last_rows(&run);
        let program = self.cache.run(&self.model, &run, &rows, None)?;
        let all = self.cache.logits(&program);
        for ((i, _), row) in parts.iter().zip(all.chunks(all.len() / parts.len().max(1))) {
            let logits = &mut self.logits[*i];
            logits.clear();
            logits.extend_from_slice(row);
        }
        Ok(())
    }
}

/// The rows of each part's last token.
fn last_rows(parts: &[Part]) -> Vec<i32> {
    let last = |end: &mut i32, p: &Part| {
        *end += p.ids.len() as i32;
        Some(*end - 1)
    };
    parts.iter().scan(0, last).collect()
}
