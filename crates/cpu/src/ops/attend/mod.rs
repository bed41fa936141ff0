//! Attention: blocked, so that scores are never held for more than a page of keys, with an online softmax (Milakov &
//! Gimelshein 2018; Dao et al. 2022), and all query heads that share a key head together.
//!
//! Over paged keys and values: with few rows the cache is read as it is kept, each number converted once for all of them;
//! with many a page is decoded first. Over a run's own keys and values ([`flat`]): they are laid out once for all tasks.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod cross;
mod flat;
mod panel;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weigh;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::exec::{Call, Cpu, Precision};
use crate::kv::{GROUP, Kv, PAGE, Side, decode_f16, rotate};
use crate::math;
use crate::ops::rows::Shared;
use hob_graph::{Attend, DType, Graph, Node, Op, Seq, StateId};
use std::ops::Range;
use weigh::Known;

/// Query rows (tokens × heads of a group) a task holds at most, unless one token has more.
const ROWS: usize = 64;
/// With few tokens a long context is split between threads in up to this many parts, merged at the end.
const SPLITS: usize = 64;
/// Tasks a thread should have, so that none waits long for the last.
const TASKS: usize = 8;
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
    /// whether what is read goes by AMX: its products are nearly those of f32, but not quite
    tiles: bool,
}

impl Shape {
    fn of(cpu: &Cpu, graph: &Graph, node: &Node) -> Shape {
        let (q, k) = (node.shape, graph.node(node.inputs[1]).shape);
        let (heads, kv_heads, dim) = (q[1], k[1], q[2]);
        let by = |rows: usize| (rows / (heads / kv_heads)).max(1);
        let cached = matches!(node.op, Op::Attend(Attend { cache: Some(_), .. }));
        let tiles = cached && cpu.precision == Precision::Fast && by_amx(dim);
        let s = Shape { heads, kv_heads, dim, tile: by(ROWS), tiles };
        #[cfg(target_arch = "x86_64")]
        if s.tiles && q[0] * heads >= TASKS / 2 * cpu.pool.threads() * amx::ROWS {
            return Shape { tile: by(amx::ROWS), ..s };
        }
        s
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn rows(&self) -> usize {
        let rows = self.tile * self.group();
        if self.tiles { rows.next_multiple_of(32) } else { rows }
    }

    /// D filled up to whole groups and vectors.
    fn wide(&self) -> usize {
        self.dim.next_multiple_of(GROUP)
    }

    /// Floats of a decoded page: its keys, its values and their center.
    fn page(&self) -> usize {
        (2 * PAGE + 1) * self.wide()
    }

    /// Floats of the rows of a task: of each its query, sum, scores twice, and three numbers.
    fn task(&self) -> usize {
        self.rows() * (2 * self.wide() + 2 * PAGE + 3)
    }

    /// Floats a thread works in over the cache.
    fn per_thread(&self) -> usize {
        self.page() + self.tiled() + self.task()
    }

    /// Floats of it that AMX takes.
    fn tiled(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.tiles {
            return amx::floats(*self);
        }
        0
    }

    /// Parts of a context for each of `tasks` tasks, at most.
    fn splits(&self, threads: usize, tasks: usize) -> usize {
        if threads == 1 { 1 } else { (TASKS * threads).div_ceil(tasks.max(1)).clamp(1, SPLITS) }
    }

    /// Floats of one part of one row: its unnormalised sum, its largest score and its weight.
    fn part(&self) -> usize {
        self.dim + 2
    }
}

/// Whether AMX is there, and takes heads of `dim` numbers.
fn by_amx(dim: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::can(dim);
    #[cfg(not(target_arch = "x86_64"))]
    return dim == usize::MAX;
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    let (s, tokens) = (Shape::of(cpu, graph, node), node.shape[0]);
    let Op::Attend(Attend { cache: Some(_), .. }) = node.op else {
        return 4 * (cpu.pool.threads() * s.task() + flat::Laid::of(s, tokens).floats());
    };
    let parts = if tokens <= SPLIT_TOKENS {
        tokens * s.heads * s.splits(cpu.pool.threads(), s.kv_heads) * s.part()
    } else {
        0
    };
    (cpu.pool.threads() * s.per_thread() + parts) * 4
}

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let Op::Attend(how) = c.node.op else { unreachable!("called for attend") };
    let s = Shape::of(c.cpu, c.graph, c.node);
    match how.cache {
        Some(state) => paged(c, s, how, state),
        None => flat::run(c, s, how),
    }
}

fn paged(c: &mut Call, s: Shape, how: Attend, state: StateId) {
    let [q, k, v] = [c.x(0).f32s(), c.x(1).f32s(), c.x(2).f32s()];
    let kv = c.kv.as_deref_mut().expect("a graph with cached attention runs with a cache");
    let pool = &c.cpu.pool;
    // SAFETY: the plan's scratch is aligned and as large as `scratch` says; any bits are an f32.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    let (working, parts) = scratch.split_at_mut(pool.threads() * s.per_thread());
    kv.append(pool, state, c.batch.seqs, [k, v], working);
    let kv: &Kv = kv;

    let tiles: usize = c.batch.seqs.iter().map(|seq| seq.len.div_ceil(s.tile)).sum();
    let seen = |seq: &Seq| {
        let all = seq.pos + seq.len;
        how.window.map_or(all, |w| all.min(w + seq.len))
    };
    let longest = c.batch.seqs.iter().map(seen).max().unwrap_or(0).div_ceil(PAGE);
    let few = c.node.shape[0] <= SPLIT_TOKENS;
    let splits = if few { s.splits(pool.threads(), tiles * s.kv_heads).min((longest / 2).max(1)) } else { 1 };

    let (working, parts, out) =
        (Shared(working.as_mut_ptr()), Shared(parts.as_mut_ptr()), Shared(c.out.as_mut_ptr()));
    pool.run(tiles * s.kv_heads * splits, &|task, thread| {
        let (tile, head, split) = (task / splits / s.kv_heads, task / splits % s.kv_heads, task % splits);
        let (seq, first) = find_tile(c.batch.seqs, s.tile, tile);
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * s.per_thread(), s.per_thread()) };
        let (page, memory) = memory.split_at_mut(s.page());
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
        let (tiled, memory) = memory.split_at_mut(s.tiled());
        let mut t = Task::new(s, how, *seq, first, memory);
        t.load(q, head, kv.types().k);
        let pages = t.pages();
        let (n, from) = (pages.len(), pages.start);
        let part = from + n * split / splits..from + n * (split + 1) / splits;
        match seq.read && s.tiles {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has AMX.
            true => unsafe { t.attend_by_tiles(kv, state, head, part, page, tiled) },
            _ => t.attend(kv, state, head, part, page),
        }
        for r in 0..t.rows {
            let row = t.row(r, head);
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
    seq: Seq<'a>,
    first: usize,
    rows: usize,
    queries: &'a mut [f32],
    sums: &'a mut [f32],
    scores: &'a mut [f32],
    scaled: &'a mut [f32],
    largest: &'a mut [f32],
    weight: &'a mut [f32],
    keep: &'a mut [f32],
}

impl<'a> Task<'a> {
    fn new(s: Shape, how: Attend, seq: Seq<'a>, first: usize, memory: &'a mut [f32]) -> Task<'a> {
        let rows = s.tile.min(seq.len - first) * s.group();
        let (queries, rest) = memory.split_at_mut(s.rows() * s.wide());
        let (sums, rest) = rest.split_at_mut(s.rows() * s.wide());
        let (scores, rest) = rest.split_at_mut(s.rows() * PAGE);
        let (scaled, rest) = rest.split_at_mut(s.rows() * PAGE);
        let (largest, rest) = rest.split_at_mut(s.rows());
        let (weight, keep) = rest.split_at_mut(s.rows());
        Task { s, how, seq, first, rows, queries, sums, scores, scaled, largest, weight, keep }
    }

    /// Takes the queries, scaled, and as keys in `dtype` want them; clears the sums.
    fn load(&mut self, q: &[f32], head: usize, dtype: DType) {
        let (d, wide) = (self.s.dim, self.s.wide());
        for r in 0..self.rows {
            let row = self.row(r, head);
            let to = &mut self.queries[r * wide..(r + 1) * wide];
            to[d..].fill(0.0);
            to.iter_mut().zip(&q[row * d..(row + 1) * d]).for_each(|(to, q)| *to = q * self.how.scale);
            if dtype == DType::Q4_0 {
                rotate(to); // products stay what they are when both sides are turned
            }
        }
        self.sums[..self.rows * wide].fill(0.0);
        self.largest[..self.rows].fill(f32::NEG_INFINITY);
        self.weight[..self.rows].fill(0.0);
    }

    /// Where row `r` lies among all tokens and heads, under the key head `head`.
    fn row(&self, r: usize, head: usize) -> usize {
        let g = self.s.group();
        (self.seq.start + self.first + r / g) * self.s.heads + head * g + r % g
    }

    /// Positions that row `r` may see.
    fn sees(&self, r: usize) -> Range<usize> {
        visible(self.how, &self.seq, self.seq.pos + self.first + r / self.s.group())
    }

    /// Of `page` what row `r` may see.
    fn sees_of(&self, page: usize, r: usize) -> Range<usize> {
        let within = |p: usize| p.saturating_sub(page * PAGE).min(PAGE);
        within(self.sees(r).start)..within(self.sees(r).end)
    }

    /// Pages any row may see.
    fn pages(&self) -> Range<usize> {
        self.sees(0).start / PAGE..self.sees(self.rows - 1).end.div_ceil(PAGE)
    }

    /// The rows that see some of `page`: as both ends of what a row sees only grow, they are neighbours.
    fn seeing(&self, page: usize) -> Range<usize> {
        let blind = (0..self.rows).take_while(|&r| self.sees_of(page, r).is_empty()).count();
        let seeing = (blind..self.rows).take_while(|&r| !self.sees_of(page, r).is_empty()).count();
        blind..blind + seeing
    }

    /// Makes weights of the scores of `rows` on `page`. Returns what any of them sees.
    fn weigh(&mut self, page: usize, rows: Range<usize>) -> Range<usize> {
        let (first, last) = (self.sees_of(page, rows.start), self.sees_of(page, rows.end - 1));
        let masked = first != (0..PAGE) || last != (0..PAGE);
        let scores = &mut self.scores[rows.start * PAGE..rows.end * PAGE];
        if let Some(cap) = self.how.softcap {
            soften(scores, cap);
        }
        if masked {
            for r in rows.clone() {
                let (seen, scores) = (self.sees_of(page, r), &mut self.scores[r * PAGE..(r + 1) * PAGE]);
                scores[..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end..].fill(f32::NEG_INFINITY);
            }
        }
        let known = Known {
            largest: &mut self.largest[rows.clone()],
            weight: &mut self.weight[rows.clone()],
            keep: &mut self.keep[rows.clone()],
        };
        weigh::weigh(&mut self.scores[rows.start * PAGE..rows.end * PAGE], known);
        first.start..last.end
    }

    fn attend(&mut self, kv: &Kv, state: StateId, head: usize, pages: Range<usize>, page_memory: &mut [f32]) {
        let wide = self.s.wide();
        let (decoded_keys, rest) = page_memory.split_at_mut(PAGE * wide);
        let (decoded_values, decoded_center) = rest.split_at_mut(PAGE * wide);
        let direct = panel::direct() && self.rows <= panel::SHARED;
        let table = self.seq.pages[kv.pool(state)];
        let at = |side, page: usize| kv.head(state, side, table[page], head);
        for page in pages.clone() {
            let rows = self.seeing(page);
            if rows.is_empty() {
                continue;
            }
            let (keys, values) = (at(Side::Keys, page), at(Side::Values, page));
            let next = |side| if page + 1 < pages.end { at(side, page + 1).numbers } else { &[] };
            let (next_keys, next_values) =
                if direct { (next(Side::Keys), next(Side::Values)) } else { Default::default() };
            let (keys, values) = match direct {
                true => (keys, values),
                false => (keys.in_f32(decoded_keys), values.in_f32(decoded_values)),
            };

            let scores = &mut self.scores[rows.start * PAGE..rows.end * PAGE];
            scores.fill(0.0);
            if !keys.center().is_empty() {
                // What all keys of the page are kept less: the same for all scores of a row.
                decode_f16(keys.center(), decoded_center);
                let queries = self.queries[rows.start * wide..].chunks(wide);
                for (query, scores) in queries.zip(scores.chunks_mut(PAGE)) {
                    scores.fill(dot(query, decoded_center));
                }
            }
            panel::scores(&self.queries[rows.start * wide..], wide, rows.len(), keys, next_keys, scores);
            let seen = self.weigh(page, rows.clone());
            panel::sums(
                &self.scores[rows.start * PAGE..rows.end * PAGE],
                rows.len(),
                values,
                seen,
                &self.keep[rows.clone()],
                next_values,
                self.scaled,
                &mut self.sums[rows.start * wide..],
                wide,
            );
        }
        if kv.types().v == DType::Q4_0 {
            self.sums[..self.rows * wide].chunks_exact_mut(wide).for_each(rotate); // turned values are turned back
        }
    }

    fn finish(&self, r: usize, out: &mut [f32]) {
        let norm = 1.0 / self.weight[r];
        out.iter_mut().zip(&self.sums[r * self.s.wide()..]).for_each(|(o, s)| *o = s * norm);
    }

    fn part(&self, r: usize, part: &mut [f32]) {
        let d = self.s.dim;
        part[..d].copy_from_slice(&self.sums[r * self.s.wide()..][..d]);
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

crate::isa::for_each_isa! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0f32; GROUP];
        for (a, b) in a.as_chunks::<GROUP>().0.iter().zip(b.as_chunks::<GROUP>().0) {
            for i in 0..GROUP {
                sums[i] = crate::isa::fma::<FMA>(a[i], b[i], sums[i]);
            }
        }
        sums.iter().sum()
    }
}

crate::isa::for_each_width! {
    /// Scores become cap · tanh(score / cap).
    fn soften(scores: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        scores.iter_mut().for_each(|s| *s = cap * math::tanh(*s * inverse));
    }
}
