//! Attention: of whole sequences, and over the cache.

use super::{dot, probabilities};
use crate::exec::Call;
use crate::kv::{Kv, PAGE, Side};
use hob_graph::{Attend, Cross, Seq, StateId};

/// Whether the token at position `query` may see that at `key` of the same sequence. A window reaches as far ahead
/// as back where attention goes both ways.
pub fn sees(query: usize, key: usize, window: Option<usize>, causal: bool) -> bool {
    (!causal || key <= query) && window.is_none_or(|w| query.abs_diff(key) < w)
}

pub(super) fn mask(c: &mut Call, window: Option<usize>, causal: bool) {
    let tokens = c.node.shape[1];
    c.out.fill(f32::NEG_INFINITY);
    for s in c.batch.seqs {
        for i in 0..s.len {
            for j in (0..s.len).filter(|&j| sees(i, j, window, causal)) {
                c.out[(s.start + i) * tokens + s.start + j] = 0.0;
            }
        }
    }
}

pub(super) fn attend(c: &mut Call, how: Attend) {
    if let Some(state) = how.cache {
        write(c, state);
    }
    let q = c.x(0);
    let (heads, dim, group) = (q.shape[1], q.shape[2], q.shape[1] / c.x(1).shape[1]);
    for s in c.batch.seqs {
        for head in 0..heads {
            let first = first(how, s); // position of keys[0]
            let keys = read(c, how, s, Side::Keys, head / group);
            let values = read(c, how, s, Side::Values, head / group);
            for i in 0..s.len {
                let at = ((s.start + i) * heads + head) * dim;
                let query: Vec<f64> = q.f32s()[at..at + dim].iter().map(|&x| x as f64).collect();
                let visible: Vec<usize> =
                    (0..keys.len()).filter(|&j| sees(s.pos + i, first + j, how.window, how.causal)).collect();
                let score = |j: &usize| {
                    let score = dot(&query, &keys[*j]) * how.scale as f64;
                    how.softcap.map_or(score, |cap| cap as f64 * (score / cap as f64).tanh())
                };
                let p = probabilities(&visible.iter().map(score).collect::<Vec<f64>>());
                for d in 0..dim {
                    let sum: f64 = p.iter().zip(&visible).map(|(p, &j)| p * values[j][d]).sum();
                    c.out[at + d] = sum as f32;
                }
            }
        }
    }
}

pub(super) fn cross(c: &mut Call, how: Cross) {
    let (q, k, v) = (c.x(0), c.x(1), c.x(2));
    let bias = (c.arity() == 4).then(|| c.x(3).f32s());
    let (heads, dim, kv, n) = (q.shape[1], q.shape[2], k.shape[1], how.parts as usize);
    let (queries, keys) = (q.shape[0] / n, k.shape[0] / n);
    let row = |x: &[f32], i: usize| -> Vec<f64> { x[i * dim..][..dim].iter().map(|&x| x as f64).collect() };
    for i in 0..q.shape[0] * heads {
        let (t, head) = (i / heads, i % heads);
        let (part, at) = (t / queries, t % queries);
        let query = row(q.f32s(), i);
        let of = |j: usize| (part * keys + j) * kv + head / (heads / kv);
        let seen = if how.causal { at + 1 } else { keys };
        let score = |j: usize| {
            let bias = bias.map_or(0.0, |b| b[head * (queries + keys - 1) + j + queries - 1 - at] as f64);
            dot(&query, &row(k.f32s(), of(j))) * how.scale as f64 + bias
        };
        let p = probabilities(&(0..seen).map(score).collect::<Vec<f64>>());
        for d in 0..dim {
            c.out[i * dim + d] =
                p.iter().enumerate().map(|(j, p)| p * v.f32s()[of(j) * dim + d] as f64).sum::<f64>() as f32;
        }
    }
}

/// This run's keys and values go to the pages of their sequences.
fn write(c: &mut Call, state: StateId) {
    let (k, v) = (c.x(1).f32s(), c.x(2).f32s());
    let dim = c.x(1).shape[2];
    let kv = c.kv.as_deref_mut().expect("a graph with cached attention is run with a cache");
    let mut memory = vec![0.0; c.cpu.pool.threads() * Kv::working(dim)];
    kv.append(&c.cpu.pool, state, c.batch.seqs, [k, v], &mut memory);
}

/// The first position that any token of the run may see; pages before may be gone.
fn first(how: Attend, s: &Seq) -> usize {
    match (how.cache, how.window) {
        (None, _) => s.pos,
        (_, None) => 0,
        (_, Some(w)) => (s.pos + 1).saturating_sub(w),
    }
}

/// Keys or values of one head: from the cache, of what may be seen of the sequence; or of this run.
fn read(c: &Call, how: Attend, s: &Seq, side: Side, head: usize) -> Vec<Vec<f64>> {
    let x = c.x(if side == Side::Keys { 1 } else { 2 });
    let (heads, dim) = (x.shape[1], x.shape[2]);
    let Some(state) = how.cache else {
        let row = |i: usize| ((s.start + i) * heads + head) * dim;
        return (0..s.len).map(|i| x.f32s()[row(i)..][..dim].iter().map(|&x| x as f64).collect()).collect();
    };
    let kv = c.kv.as_deref().expect("a graph with cached attention is run with a cache");
    let table = s.pages[kv.pool(state)];
    let token = |p: usize| {
        let mut x = vec![0.0; dim];
        kv.read(state, side, table[p / PAGE], head, p % PAGE, &mut x);
        x.iter().map(|&x| x as f64).collect()
    };
    (first(how, s)..s.pos + s.len).map(token).collect()
}
