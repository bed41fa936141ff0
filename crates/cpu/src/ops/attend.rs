//! Attention over paged keys and values: blocked, so that scores are never held for more than a page, with an online
//! softmax (Milakov & Gimelshein 2018; Dao et al. 2022), and all query heads that share a key head together.

use crate::exec::{Call, Cpu};
use crate::isa::{fma, for_each_isa};
use crate::kv::{Kv, PAGE, Side};
use crate::{math, reference};
use hob_graph::{Attend, Graph, Node, Op, Seq, StateId};
use std::ops::Range;

/// Query rows (tokens × heads of a group) a task holds at most, unless one token has more.
const ROWS: usize = 64;
/// With few tokens a long context is split between threads in up to this many parts, merged at the end.
const SPLITS: usize = 8;
/// Up to this many tokens in a run, parts are planned for.
const SPLIT_TOKENS: usize = 4;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// tokens of a task
    tile: usize,
}

impl Shape {
    fn of(graph: &Graph, node: &Node) -> Shape {
        let (q, k) = (node.shape, graph.node(node.inputs[1]).shape);
        let (heads, kv_heads, dim) = (q[1], k[1], q[2]);
        Shape { heads, kv_heads, dim, tile: (ROWS / (heads / kv_heads)).max(1) }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn rows(&self) -> usize {
        self.tile * self.group()
    }

    /// Floats a thread works in: a page of keys and of values, and per row its query, scores, sum, and two numbers.
    fn per_thread(&self) -> usize {
        2 * PAGE * self.dim + self.rows() * (2 * self.dim + PAGE + 2)
    }

    /// Floats of one part of one row: its unnormalised sum, its largest score and its weight.
    fn part(&self) -> usize {
        self.dim + 2
    }
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    let Op::Attend(Attend { cache: Some(_), .. }) = node.op else { return 0 };
    let (s, tokens) = (Shape::of(graph, node), node.shape[0]);
    let parts = if tokens <= SPLIT_TOKENS { tokens * s.heads * SPLITS * s.part() } else { 0 };
    (cpu.pool.threads() * s.per_thread() + parts) * 4
}

/// Attention with cached keys and values; without a cache the reference does it.
pub fn run(c: &mut Call) {
    let Op::Attend(how) = c.node.op else { unreachable!("called for attend") };
    let Some(state) = how.cache else { return reference::run(c) };
    let s = Shape::of(c.graph, c.node);
    let [q, k, v] = [c.x(0).f32s(), c.x(1).f32s(), c.x(2).f32s()];
    let kv = c.kv.as_deref_mut().expect("a graph with cached attention runs with a cache");
    append(kv, state, s, c.batch.seqs, k, v);
    let kv: &Kv = kv;

    let pool = &c.cpu.pool;
    let tiles: usize = c.batch.seqs.iter().map(|seq| seq.len.div_ceil(s.tile)).sum();
    let longest = c.batch.seqs.iter().map(|seq| seq.pos + seq.len).max().unwrap_or(0).div_ceil(PAGE);
    let few =
        tiles * s.kv_heads < 4 * pool.threads() && c.node.shape[0] <= SPLIT_TOKENS && pool.threads() > 1;
    let splits = if few { (longest / 4).clamp(1, SPLITS) } else { 1 };

    // SAFETY: the plan's scratch is aligned and as large as `scratch` says; any bits are an f32.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    let (working, parts) = scratch.split_at_mut(pool.threads() * s.per_thread());
    let (working, parts, out) =
        (Shared(working.as_mut_ptr()), Shared(parts.as_mut_ptr()), Shared(c.out.as_mut_ptr()));
    pool.run(tiles * s.kv_heads * splits, &|task, thread| {
        let (tile, head, split) = (task / splits / s.kv_heads, task / splits % s.kv_heads, task % splits);
        let (seq, first) = find_tile(c.batch.seqs, s.tile, tile);
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * s.per_thread(), s.per_thread()) };
        let mut t = Task::new(s, how, seq, first, memory);
        t.load(q, head);
        let pages = t.pages();
        let (n, from) = (pages.len(), pages.start);
        t.attend(kv, state, head, from + n * split / splits..from + n * (split + 1) / splits);
        let g = s.group();
        for r in 0..t.rows {
            let row = (seq.start + first + r / g) * s.heads + head * g + r % g;
            if splits == 1 {
                // SAFETY: rows of different tasks are different.
                t.finish(r, unsafe { out.slice(row * s.dim, s.dim) });
            } else {
                // SAFETY: rows and splits of different tasks are different.
                t.part(r, unsafe { parts.slice((row * splits + split) * s.part(), s.part()) });
            }
        }
    });
    if splits > 1 {
        for (row, out) in c.out.chunks_exact_mut(s.dim).enumerate() {
            let n = splits * s.part();
            // SAFETY: the tasks are done.
            merge(unsafe { parts.slice(row * n, n) }, s.dim, out);
        }
    }
}

/// A pointer that threads write through, each to its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: only `slice` gives access, and its callers keep the parts apart.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The range lies in the buffer and no other slice of it is alive.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Writes this run's keys and values to the cache.
fn append(kv: &mut Kv, state: StateId, s: Shape, seqs: &[Seq], k: &[f32], v: &[f32]) {
    for seq in seqs {
        for i in 0..seq.len {
            let (row, at) = (seq.start + i, seq.pos + i);
            let (page, slot) = (seq.pages[at / PAGE], at % PAGE);
            for h in 0..s.kv_heads {
                let x = (row * s.kv_heads + h) * s.dim..(row * s.kv_heads + h + 1) * s.dim;
                kv.write(state, Side::Keys, page, h, slot, &k[x.clone()]);
                kv.write(state, Side::Values, page, h, slot, &v[x]);
            }
        }
    }
}

/// The sequence and its first token of tile `n`, counted over all sequences.
fn find_tile<'a>(seqs: &'a [Seq<'a>], tile: usize, mut n: usize) -> (&'a Seq<'a>, usize) {
    for seq in seqs {
        let tiles = seq.len.div_ceil(tile);
        if n < tiles {
            return (seq, n * tile);
        }
        n -= tiles;
    }
    unreachable!("tiles are counted over the same sequences")
}

/// A few tokens of a sequence under one key head: `rows` queries, token by token, head by head of the group.
struct Task<'a> {
    s: Shape,
    how: Attend,
    seq: &'a Seq<'a>,
    first: usize,
    rows: usize,
    keys: &'a mut [f32],
    values: &'a mut [f32],
    queries: &'a mut [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    largest: &'a mut [f32],
    weight: &'a mut [f32],
}

impl<'a> Task<'a> {
    fn new(s: Shape, how: Attend, seq: &'a Seq<'a>, first: usize, memory: &'a mut [f32]) -> Task<'a> {
        let rows = s.tile.min(seq.len - first) * s.group();
        let (keys, rest) = memory.split_at_mut(PAGE * s.dim);
        let (values, rest) = rest.split_at_mut(PAGE * s.dim);
        let (queries, rest) = rest.split_at_mut(s.rows() * s.dim);
        let (sums, rest) = rest.split_at_mut(s.rows() * s.dim);
        let (scores, rest) = rest.split_at_mut(s.rows() * PAGE);
        let (largest, weight) = rest.split_at_mut(s.rows());
        Task { s, how, seq, first, rows, keys, values, queries, scores, sums, largest, weight }
    }

    /// Takes the queries, scaled, and clears the sums.
    fn load(&mut self, q: &[f32], head: usize) {
        let (d, g) = (self.s.dim, self.s.group());
        for r in 0..self.rows {
            let row = (self.seq.start + self.first + r / g) * self.s.heads + head * g + r % g;
            let to = &mut self.queries[r * d..(r + 1) * d];
            to.iter_mut().zip(&q[row * d..(row + 1) * d]).for_each(|(to, q)| *to = q * self.how.scale);
        }
        self.sums[..self.rows * d].fill(0.0);
        self.largest[..self.rows].fill(f32::NEG_INFINITY);
        self.weight[..self.rows].fill(0.0);
    }

    /// Position of row `r`.
    fn position(&self, r: usize) -> usize {
        self.seq.pos + self.first + r / self.s.group()
    }

    /// Pages any row may see.
    fn pages(&self) -> Range<usize> {
        let sees = |r: usize| visible(self.how, self.seq, self.position(r));
        sees(0).start / PAGE..sees(self.rows - 1).end.div_ceil(PAGE)
    }

    fn attend(&mut self, kv: &Kv, state: StateId, head: usize, pages: Range<usize>) {
        let d = self.s.dim;
        for page in pages {
            let id = self.seq.pages[page];
            let keys = kv.head_f32(state, Side::Keys, id, head, self.keys);
            let values = kv.head_f32(state, Side::Values, id, head, self.values);
            let sees = |r: usize| {
                let seen = visible(self.how, self.seq, self.seq.pos + self.first + r / self.s.group());
                let within = |p: usize| p.saturating_sub(page * PAGE).min(PAGE);
                within(seen.start)..within(seen.end)
            };
            // Both ends of what a row sees only grow, so the rows that see some of this page are neighbours.
            let blind = (0..self.rows).take_while(|&r| sees(r).is_empty()).count();
            let seeing = (blind..self.rows).take_while(|&r| !sees(r).is_empty()).count();
            let rows = blind..blind + seeing;
            let (queries, scores) = (rows.start * d..rows.end * d, rows.start * PAGE..rows.end * PAGE);
            dot_pages(&self.queries[queries], keys, &mut self.scores[scores]);
            for r in rows {
                let seen = sees(r);
                let scores: &mut [f32; PAGE] =
                    (&mut self.scores[r * PAGE..(r + 1) * PAGE]).try_into().expect("PAGE scores a row");
                if let Some(cap) = self.how.softcap {
                    soften(scores, cap);
                }
                scores[..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end..].fill(f32::NEG_INFINITY);
                let best = largest(scores, self.largest[r]);
                let keep = (self.largest[r] - best).exp(); // 0 for the first page, as the largest was -inf
                self.largest[r] = best;
                self.weight[r] = self.weight[r] * keep + exp_sum(scores, best);
                let (sum, values) =
                    (&mut self.sums[r * d..(r + 1) * d], &values[seen.start * d..seen.end * d]);
                add_page(sum, keep, &scores[seen], values);
            }
        }
    }

    fn finish(&self, r: usize, out: &mut [f32]) {
        let d = self.s.dim;
        let norm = 1.0 / self.weight[r];
        out.iter_mut().zip(&self.sums[r * d..]).for_each(|(o, s)| *o = s * norm);
    }

    fn part(&self, r: usize, part: &mut [f32]) {
        let d = self.s.dim;
        part[..d].copy_from_slice(&self.sums[r * d..(r + 1) * d]);
        part[d] = self.largest[r];
        part[d + 1] = self.weight[r];
    }
}

/// Positions the token at position `p` may see.
fn visible(how: Attend, seq: &Seq, p: usize) -> Range<usize> {
    let all = if how.causal { p + 1 } else { seq.pos + seq.len };
    how.window.map_or(0..all, |w| (p + 1).saturating_sub(w)..all.min(p + w))
}

/// Joins the parts of one row: each with its sum `(D)`, largest score and weight.
fn merge(parts: &[f32], d: usize, out: &mut [f32]) {
    let best = parts.chunks_exact(d + 2).fold(f32::NEG_INFINITY, |m, p| m.max(p[d]));
    let mut weight = 0.0;
    out.fill(0.0);
    for p in parts.chunks_exact(d + 2) {
        // A part that saw nothing has the largest score -inf, and so no weight.
        let scale = (p[d] - best).exp();
        weight += p[d + 1] * scale;
        out.iter_mut().zip(p).for_each(|(o, s)| *o += s * scale);
    }
    out.iter_mut().for_each(|o| *o /= weight);
}

for_each_isa! {
    /// Scores of a page: `queries (n, D) · keys (D, PAGE)`, two queries at a time to share what is loaded.
    fn dot_pages(queries: &[f32], keys: &[f32], scores: &mut [f32]) {
        const PART: usize = 32; // two rows of it fill eight registers of AVX2
        let d = keys.len() / PAGE;
        for (queries, scores) in queries.chunks(2 * d).zip(scores.chunks_mut(2 * PAGE)) {
            let (a, b) = (&queries[..d], &queries[queries.len() - d..]); // the same twice where one is left
            for at in (0..PAGE).step_by(PART) {
                let mut sums = [[0.0f32; PART]; 2];
                for ((a, b), row) in a.iter().zip(b).zip(keys.chunks_exact(PAGE)) {
                    let row = &row[at..at + PART];
                    for j in 0..PART {
                        sums[0][j] = fma::<FMA>(*a, row[j], sums[0][j]);
                        sums[1][j] = fma::<FMA>(*b, row[j], sums[1][j]);
                    }
                }
                for (sum, scores) in sums.iter().zip(scores.chunks_exact_mut(PAGE)) {
                    scores[at..at + PART].copy_from_slice(sum);
                }
            }
        }
    }
}

for_each_isa! {
    /// The largest of a page's scores and `so_far`.
    fn largest(scores: &[f32; PAGE], so_far: f32) -> f32 {
        let mut best = [so_far; 16];
        for part in scores.chunks_exact(16) {
            for j in 0..16 {
                best[j] = if part[j] > best[j] { part[j] } else { best[j] };
            }
        }
        best.iter().fold(so_far, |m, x| m.max(*x))
    }
}

for_each_isa! {
    /// Scores become cap · tanh(score / cap).
    fn soften(scores: &mut [f32; PAGE], cap: f32) {
        let inverse = 1.0 / cap;
        scores.iter_mut().for_each(|s| *s = cap * math::tanh(*s * inverse));
    }
}

for_each_isa! {
    /// Scores become e^(score - best); returns their sum.
    fn exp_sum(scores: &mut [f32; PAGE], best: f32) -> f32 {
        let mut sums = [0.0f32; 16];
        for part in scores.chunks_exact_mut(16) {
            for j in 0..16 {
                part[j] = math::exp(part[j] - best);
                sums[j] += part[j];
            }
        }
        sums.iter().sum()
    }
}

for_each_isa! {
    /// `sum (D) = sum · keep + weights (n) · values (n, D)`
    fn add_page(sum: &mut [f32], keep: f32, weights: &[f32], values: &[f32]) {
        let d = sum.len();
        let wide = d / 64 * 64;
        for at in (0..wide).step_by(64) {
            add_part::<FMA, 64>(sum, keep, weights, values, at);
        }
        let narrow = wide + (d - wide) / 16 * 16;
        for at in (wide..narrow).step_by(16) {
            add_part::<FMA, 16>(sum, keep, weights, values, at);
        }
        for i in narrow..d {
            let dot = weights.iter().enumerate().fold(0.0, |s, (j, w)| fma::<FMA>(*w, values[j * d + i], s));
            sum[i] = fma::<FMA>(sum[i], keep, dot);
        }
    }
}

/// `WIDE` columns of it from `at` on, in registers.
#[inline(always)]
fn add_part<const FMA: bool, const WIDE: usize>(
    sum: &mut [f32],
    keep: f32,
    weights: &[f32],
    values: &[f32],
    at: usize,
) {
    let d = sum.len();
    let part: &mut [f32; WIDE] = (&mut sum[at..at + WIDE]).try_into().expect("WIDE floats");
    let mut acc = *part;
    acc.iter_mut().for_each(|a| *a *= keep);
    for (w, row) in weights.iter().zip(values.chunks_exact(d)) {
        let row = &row[at..at + WIDE];
        for i in 0..WIDE {
            acc[i] = fma::<FMA>(*w, row[i], acc[i]);
        }
    }
    *part = acc;
}
