//! Keys and values of several sequences, and one run over tokens of any of them. What sequences have in common lies in
//! the same pages, and what they leave behind is there for the next (see [`crate::tree`]).

use crate::pages::held;
use crate::tree::{Found, NodeId, ROOT, Tree};
use crate::{CHUNK, Error, Model, Result};
use hob_cpu::exec::{Memory, Watch};
use hob_cpu::kv::PAGE;
use hob_cpu::{Kv, KvTypes, Program, kv};
use hob_graph::graph::State;
use hob_graph::{Batch, Data, GONE, Seq};
use std::sync::Arc;

/// The cache, and the memory that runs work in.
pub struct Cache {
    kv: Kv,
    tree: Tree,
    lines: Vec<Option<Line>>,
    memory: Memory,
}

/// One sequence, by the number that [`Cache::open`] gave.
#[derive(Default)]
struct Line {
    ids: Vec<u32>,
    /// its whole pages, which the tree knows
    path: Vec<NodeId>,
    /// of each pool, in order: the pages of `path`, then those that are the sequence's own
    tables: Vec<Vec<u32>>,
    /// of each pool, the first page that the next token looks back to: those before are [`GONE`]
    from: Vec<usize>,
}

/// Tokens of a prompt from which on it is read as such. A shorter one comes sooner as if it were said.
pub const READ: usize = 16;

/// Tokens to run next in a sequence.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// the sequence
    pub line: usize,
    /// the tokens
    pub ids: &'a [u32],
    /// whether they are read rather than said (see [`Seq::read`])
    pub read: bool,
}

/// Bytes of keys and values of `lines` sequences of `context` tokens each.
pub fn bytes(states: &[State], types: KvTypes, lines: usize, context: usize) -> u128 {
    kv::bytes(states, types, |window| held(window, context)) * lines as u128
}

/// A cache for many sequences of different lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// of all sequences, those that are over as well
    pub tokens: usize,
    /// sequences at a time
    pub streams: usize,
    /// tokens of one
    pub context: usize,
}

impl Size {
    /// Pages of layers with `window`: those that all sequences look back to, and of those that are over as many as keep
    /// half of them at hand.
    fn pages(&self, window: Option<usize>) -> usize {
        let all = self.tokens.max(self.context).div_ceil(PAGE);
        let seen = |w| held(Some(w), self.context).saturating_mul(self.streams).saturating_add(all / 2);
        window.map_or(all, |w| seen(w).min(all).max(held(Some(w), self.context)))
    }

    /// Bytes of all pages; those that were never written take no memory.
    pub fn bytes(&self, states: &[State], types: KvTypes) -> u128 {
        kv::bytes(states, types, |window| self.pages(window))
    }
}

impl Cache {
    /// A cache with so many pages for layers of each window. Memory is taken as they are first written.
    pub fn new(model: &Model, pages: impl Fn(Option<usize>) -> usize) -> Result<Cache> {
        let states = &model.program(1, 1)?.graph.states;
        let types = model.options().kv;
        let bytes = kv::bytes(states, types, &pages);
        let most = states.iter().map(|s| pages(s.window)).max().unwrap_or(0);
        let context = most.saturating_mul(PAGE);
        let room = || Error::Room { context, bytes };
        if u32::try_from(context).is_err() || isize::try_from(bytes).is_err() {
            return Err(room());
        }
        let kv = Kv::new(states, types, pages).map_err(|_| room())?;
        let pools: Vec<_> = kv.pools().iter().map(|p| (p.window, p.count)).collect();
        Ok(Cache { kv, tree: Tree::new(&pools), lines: Vec::new(), memory: Memory::new() })
    }

    /// A cache for `lines` sequences of `context` tokens each.
    pub fn of_lines(model: &Model, lines: usize, context: usize) -> Result<Cache> {
        let cache = Cache::new(model, |window| held(window, context).saturating_mul(lines));
        cache.map_err(|e| match e {
            Error::Room { bytes, .. } => Error::Room { context, bytes },
            e => e,
        })
    }

    /// A cache of `size`.
    pub fn of_size(model: &Model, size: Size) -> Result<Cache> {
        Cache::new(model, |window| size.pages(window))
    }

    /// Opens a sequence that begins with as much of `ids` as is at hand; [`Cache::ids`] tells how much.
    pub fn open(&mut self, ids: &[u32]) -> usize {
        let mut found = self.tree.find(ids);
        let line = loop {
            let mut line = self.along(&found, ids);
            let Some((node, n)) = found.part else { break line };
            if let Some(own) = self.own(node, n) {
                line.tables.iter_mut().zip(own).for_each(|(table, page)| table.push(page));
                break line;
            }
            self.leave(line);
            found.part = None;
            self.tree.shorten(&mut found);
        };
        match self.lines.iter().position(Option::is_none) {
            Some(free) => {
                self.lines[free] = Some(line);
                free
            }
            None => {
                self.lines.push(Some(line));
                self.lines.len() - 1
            }
        }
    }

    /// How many of the first tokens of `ids` are at hand.
    pub fn at_hand(&self, ids: &[u32]) -> usize {
        self.tree.find(ids).len()
    }

    /// A sequence along what was found, which stays where it is meanwhile.
    fn along(&mut self, found: &Found, ids: &[u32]) -> Line {
        let (reached, path) = (found.len(), found.path.clone());
        path.iter().for_each(|&node| self.tree.enter(node));
        let (mut tables, mut from) = (Vec::new(), Vec::new());
        for pool in 0..self.tree.pools() {
            let first = self.tree.seen_from(pool, reached).min(path.len());
            let mut table = vec![GONE; first];
            for &node in &path[first..] {
                self.tree.hold(node, pool);
                table.push(self.tree.page(node, pool));
            }
            tables.push(table);
            from.push(first);
        }
        Line { ids: ids[..reached].to_vec(), path, tables, from }
    }

    /// Pages of one's own with the first `n` tokens of `node`: a copy, or the node's where it is the end of a sequence
    /// that nobody goes on with, or where there is no room for a copy. `None` where neither can be.
    fn own(&mut self, node: NodeId, n: usize) -> Option<Vec<u32>> {
        let pools = self.tree.pools();
        if self.tree.is_idle(node) && self.tree.ends_with(node, n) {
            return Some(self.tree.take_over(node));
        }
        self.tree.enter(node);
        (0..pools).for_each(|pool| self.tree.hold(node, pool));
        let copies: Vec<u32> = (0..pools).map_while(|pool| self.tree.take(pool)).collect();
        if copies.len() == pools {
            copies
                .iter()
                .enumerate()
                .for_each(|(pool, &to)| self.kv.copy(pool, self.tree.page(node, pool), to));
        }
        (0..pools).for_each(|pool| self.tree.release(node, pool));
        self.tree.leave(node);
        if copies.len() == pools {
            return Some(copies);
        }
        copies.into_iter().enumerate().for_each(|(pool, page)| self.tree.give(pool, page));
        self.tree.is_idle(node).then(|| self.tree.take_over(node))
    }

    fn leave(&mut self, line: Line) {
        for (pool, (table, from)) in line.tables.into_iter().zip(line.from).enumerate() {
            line.path[from..].iter().rev().for_each(|&node| self.tree.release(node, pool));
            table[line.path.len()..].iter().for_each(|&page| self.tree.give(pool, page));
        }
        line.path.iter().for_each(|&node| self.tree.leave(node));
    }

    /// Ends a sequence. What it read stays at hand as long as there is room.
    pub fn close(&mut self, line: usize) {
        self.settle(line);
        let mut line = self.lines[line].take().expect("an open sequence");
        let whole = line.path.len();
        let rest = &line.ids[whole * PAGE..];
        if !rest.is_empty() {
            let last: Vec<u32> = line.tables.iter_mut().map(|table| table.remove(whole)).collect();
            self.tree.insert(line.path.last().copied().unwrap_or(ROOT), rest, &last);
        }
        self.leave(line);
    }

    /// Forgets all but what open sequences hold.
    pub fn clear(&mut self) {
        self.tree.clear();
    }

    /// The tokens of a sequence that are in the cache.
    pub fn ids(&self, line: usize) -> &[u32] {
        &self.line(line).ids
    }

    fn line(&self, line: usize) -> &Line {
        self.lines[line].as_ref().expect("an open sequence")
    }

    fn line_mut(&mut self, line: usize) -> &mut Line {
        self.lines[line].as_mut().expect("an open sequence")
    }

    /// Forgets a sequence's last tokens but `len`, of those of its last run.
    ///
    /// # Panics
    /// When they are of an earlier one.
    pub fn truncate(&mut self, line: usize, len: usize) {
        let line = self.line_mut(line);
        assert!(len >= line.path.len() * PAGE, "earlier runs are not taken back");
        line.ids.truncate(len);
    }

    /// Tells the tree of pages that are whole by now, and lets go of those that windows have moved past.
    /// Runs do so first; sooner, other sequences can begin with them.
    pub fn settle(&mut self, line: usize) {
        let Cache { tree, lines, .. } = self;
        let line = lines[line].as_mut().expect("an open sequence");
        let pools = tree.pools();
        while line.ids.len() >= (line.path.len() + 1) * PAGE {
            let i = line.path.len();
            let pages: Vec<u32> = line.tables.iter().map(|table| table[i]).collect();
            let parent = line.path.last().copied().unwrap_or(ROOT);
            let node = tree.insert(parent, &line.ids[i * PAGE..][..PAGE], &pages);
            tree.enter(node);
            for pool in 0..pools {
                tree.hold(node, pool);
                line.tables[pool][i] = tree.page(node, pool);
            }
            line.path.push(node);
        }
        for pool in 0..pools {
            let from = tree.seen_from(pool, line.ids.len()).min(line.path.len());
            for i in line.from[pool]..from {
                tree.release(line.path[i], pool);
                line.tables[pool][i] = GONE;
            }
            line.from[pool] = line.from[pool].max(from);
        }
    }

    /// Takes pages for `more` tokens of a sequence, if need be those of sequences that are over. Returns whether there
    /// were enough; those taken are kept in any case.
    pub fn reserve(&mut self, line: usize, more: usize) -> bool {
        self.settle(line);
        let Cache { tree, lines, .. } = self;
        let line = lines[line].as_mut().expect("an open sequence");
        let pages = (line.ids.len() + more).div_ceil(PAGE);
        line.tables.iter_mut().enumerate().all(|(pool, table)| {
            while table.len() < pages {
                let Some(page) = tree.take(pool) else { return false };
                table.push(page);
            }
            true
        })
    }

    /// Runs `parts`, of different sequences and at most a [`CHUNK`] together, with logits for `rows` of their tokens,
    /// counted over all parts; [`Cache::logits`] has them afterwards. It is faster where what is read lies together.
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
            check(model, p.ids)?;
            if !self.reserve(p.line, p.ids.len()) {
                return Err(Error::Full);
            }
        }
        let program = model.program(tokens, rows.len())?;
        let pages: Vec<Vec<&[u32]>> = (parts.iter())
            .map(|p| self.lines[p.line].iter().flat_map(|l| &l.tables).map(Vec::as_slice).collect())
            .collect();
        let mut start = 0;
        let mut seqs = Vec::with_capacity(parts.len());
        for (p, pages) in parts.iter().zip(&pages) {
            seqs.push(Seq {
                start,
                len: p.ids.len(),
                pos: self.lines[p.line].as_ref().map_or(0, |l| l.ids.len()),
                read: p.read,
                pages,
            });
            start += p.ids.len();
        }
        let given: Vec<i32> = parts.iter().flat_map(|p| p.ids).map(|&id| id as i32).collect();
        let inputs = [("ids", Data::I32(&given)), ("rows", Data::I32(rows))];
        let batch = Batch { inputs: &inputs, seqs: &seqs };
        model.cpu().run_watched(&program, &mut self.memory, Some(&mut self.kv), &batch, watch)?;
        for p in parts {
            self.line_mut(p.line).ids.extend_from_slice(p.ids);
        }
        Ok(program)
    }

    /// The logits `(R, V)` of the last run, which was that of `program`.
    pub fn logits(&self, program: &Program) -> &[f32] {
        program.output(&self.memory, "logits").expect("a language model has logits")
    }

    /// The same, to be changed in place.
    pub fn logits_mut(&mut self, program: &Program) -> &mut [f32] {
        program.output_mut(&mut self.memory, "logits").expect("a language model has logits")
    }

    /// Bytes of keys and values that are in memory: of pages that were ever written.
    pub fn touched_bytes(&self) -> u128 {
        self.kv.bytes_of(|pool| self.tree.touched(pool))
    }

    /// Tokens that pages which are free, or that no open sequence uses, have room for.
    pub fn room(&self) -> usize {
        self.tree.available() * PAGE
    }
}

/// Whether the model knows `ids`.
pub fn check(model: &Model, ids: &[u32]) -> Result<()> {
    let vocab = model.vocab_size();
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(&id) => Err(Error::Token { id, vocab }),
        None => Ok(()),
    }
}
