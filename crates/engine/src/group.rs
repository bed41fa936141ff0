//! Several sequences that advance together: each step reads the weights once for all of them.

use crate::cache::{Cache, Part};
use crate::{CHUNK, Model, Result};
use std::sync::Arc;

/// Some sequences over one model.
pub struct Group {
    model: Arc<Model>,
    cache: Cache,
    lengths: Vec<usize>,
    /// `(V)` of each sequence
    logits: Vec<Vec<f32>>,
}

impl Group {
    /// `sequences` empty sequences with room for `context` tokens each.
    pub fn new(model: &Arc<Model>, sequences: usize, context: usize) -> Result<Group> {
        let cache = Cache::new(model, sequences, context)?;
        let (lengths, logits) = (vec![0; sequences], vec![Vec::new(); sequences]);
        Ok(Group { model: model.clone(), cache, lengths, logits })
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Logits `(V)` after the last token of sequence `i`; empty before the first.
    pub fn logits(&self, i: usize) -> &[f32] {
        &self.logits[i]
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        for (i, len) in self.lengths.iter_mut().enumerate() {
            *len = self.cache.rewind(i, 0);
        }
        self.logits.iter_mut().for_each(Vec::clear);
    }

    /// Appends `ids` to sequence `i`, a chunk at a time.
    pub fn feed(&mut self, i: usize, ids: &[u32]) -> Result<()> {
        self.cache.check(&self.model, ids, self.lengths[i] + ids.len())?;
        for chunk in ids.chunks(CHUNK) {
            self.advance(&[(i, chunk)])?;
        }
        Ok(())
    }

    /// Appends one token to every sequence.
    ///
    /// # Panics
    /// When there are more or fewer ids than sequences, or more than a chunk.
    pub fn step(&mut self, ids: &[u32]) -> Result<()> {
        assert_eq!(ids.len(), self.lengths.len(), "an id for every sequence");
        let parts: Vec<_> = ids.chunks(1).enumerate().collect();
        self.advance(&parts)
    }

    fn advance(&mut self, parts: &[(usize, &[u32])]) -> Result<()> {
        let part = |&(line, ids): &(usize, _)| Part { line, pos: self.lengths[line], ids };
        let parts: Vec<Part> = parts.iter().map(part).collect();
        let last = |end: &mut i32, p: &Part| {
            *end += p.ids.len() as i32;
            Some(*end - 1)
        };
        let rows: Vec<i32> = parts.iter().scan(0, last).collect();
        let program = self.cache.run(&self.model, &parts, &rows, None)?;
        let all = self.cache.logits(&program);
        for (p, row) in parts.iter().zip(all.chunks(all.len() / parts.len().max(1))) {
            self.lengths[p.line] += p.ids.len();
            let logits = &mut self.logits[p.line];
            logits.clear();
            logits.extend_from_slice(row);
        }
        Ok(())
    }
}
