//! Laying weights out anew while a model is in use.
//!
//! A mapped file answers within milliseconds; panels of sixteen rows in huge pages (see `quant/packed.rs`) are read
//! twice as fast. So a model starts on the file and its weights move to panels bit by bit, between runs. Every weight
//! is whole in one form or the other at any time, and what was laid out is dropped from the process's memory as
//! mapped: the two never take twice the room.

use crate::ceiling::free;
use crate::ops::linear::packed_bytes;
use crate::weights::{Buffer, Tensor, Weights};
use crate::{Cpu, Precision};
use hob_graph::graph::Weight;
use hob_graph::{Graph, Op};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Rows that are laid out together.
const ROWS: usize = crate::quant::packed::ROWS;

/// Bytes of a weight that lie twice in memory while it is laid out.
pub const PART: usize = 1 << 20;

/// Bytes of a weight that is taken out of the file before others leave it: Linux maps up to 2 MiB around a page that
/// is read, a hundred times the size of a norm.
pub const SMALL: usize = 128 << 10;

/// Bytes of memory that stay free.
const RESERVE: usize = 512 << 20;

/// One weight to lay out.
struct Todo {
    name: String,
    n: usize,
    k: usize,
    /// where its panels go
    to: Range<usize>,
}

/// The work that is left.
pub struct Packing {
    /// memory for all panels; shared with the weights that are done
    memory: Arc<Buffer>,
    /// the same, to write
    start: *mut u8,
    todo: Vec<Todo>,
    /// the first weight that is not laid out
    at: usize,
    /// weights that stay as they are, and are so small that pages of the file around them are more
    small: Vec<String>,
}

// SAFETY: `start` points into `memory`, which lives as long; `step` alone writes, to parts no weight has yet.
unsafe impl Send for Packing {}

/// Writes to parts of the memory that different tasks keep apart.
#[derive(Clone, Copy)]
struct Start(*mut u8);
// SAFETY: see above.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// The range lies within the memory, and nobody else uses it at the same time.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// Weights `(N, K)` of a graph that linear layers read, or experts `(E, N, K)`, and that can be laid out anew: name, all
/// rows, K, bytes of it. No panel holds rows of two experts.
fn candidates(graph: &Graph) -> Vec<(&str, usize, usize, usize)> {
    let mut seen = HashSet::new();
    let read = graph.nodes.iter().flat_map(|node| match node.op {
        Op::Linear => &node.inputs[1..2],
        Op::Experts(_) => &node.inputs[2..],
        _ => &[],
    });
    let weights = read.filter_map(|&id| graph.as_weight(id));
    let fresh = weights.filter(|id| seen.insert(id.0)).collect::<Vec<_>>();
    let of = |id: hob_graph::WeightId| {
        let w = &graph.weights[id.0 as usize];
        let (e, n, k) = match w.shape[..] {
            [n, k] => (1, n, k),
            [e, n, k] => (e, n, k),
            _ => return None,
        };
        Some((w.name.as_str(), e * n, k, e * packed_bytes(w.dtype, n, k)?))
    };
    fresh.into_iter().filter_map(of).collect()
}

/// Bytes of each weight of `graph` as `cpu` comes to hold it: laid out anew where that can be.
pub fn held(cpu: &Cpu, graph: &Graph) -> Vec<usize> {
    let mut held: Vec<usize> = graph.weights.iter().map(Weight::bytes).collect();
    if cpu.precision == Precision::Fast && !cpu.reference {
        for (name, _, _, bytes) in candidates(graph) {
            if let Some(id) = graph.weight(name) {
                held[id.0 as usize] = bytes;
            }
        }
    }
    held
}

impl Packing {
    /// Makes room for the weights of `graph` that can be laid out and are not streamed; `None` where there are none, or the
    /// machine has too little free memory. Fails where the system grants none.
    pub fn new(cpu: &Cpu, graph: &Graph, weights: &Weights) -> std::io::Result<Option<Packing>> {
        if cpu.precision != Precision::Fast || cpu.reference {
            return Ok(None);
        }
        let mut end = 0;
        let place = |(name, n, k, bytes): (&str, usize, usize, usize)| {
            let to = end..end + bytes;
            end = to.end.next_multiple_of(64);
            Todo { name: name.to_string(), n, k, to }
        };
        let stays = |name: &str| weights.get(name).is_some_and(|w| !w.is_streamed());
        let todo: Vec<Todo> = candidates(graph).into_iter().filter(|c| stays(c.0)).map(place).collect();
        // Panels cannot be dropped and read again as a mapped file can.
        if todo.is_empty() || end.saturating_add(RESERVE) > free() {
            return Ok(None);
        }
        let mut memory = Buffer::zeroed(end)?;
        memory.prefer_huge_pages();
        let start = memory.as_mut_ptr();
        let stays = |w: &&Weight| w.bytes() <= SMALL && todo.iter().all(|t| t.name != w.name);
        let small = graph.weights.iter().filter(stays).map(|w| w.name.clone()).collect();
        Ok(Some(Packing { memory: Arc::new(memory), start, todo, at: 0, small }))
    }

    /// Bytes of the new layout, all weights together.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Lays out whole weights until they are `bytes` of panels or more. Returns whether all is done.
    ///
    /// A run between two halves of a weight would read what was dropped already; hence whole ones.
    pub fn step(&mut self, cpu: &Cpu, weights: &Weights, bytes: usize) -> bool {
        for tensor in self.small.drain(..).filter_map(|name| weights.get(&name)) {
            let _ = tensor.take_out(); // without memory for it, it stays where it is
        }
        let end = self.todo.get(self.at).map_or(0, |t| t.to.start.saturating_add(bytes));
        while let Some(todo) = self.todo.get(self.at).filter(|t| t.to.start < end) {
            if let Some(tensor) = weights.get(&todo.name) {
                self.pack(cpu, &tensor, todo);
            }
            self.at += 1;
        }
        self.at == self.todo.len()
    }

    /// Lays a weight out, dropping bit by bit what is done.
    fn pack(&self, cpu: &Cpu, tensor: &Tensor, todo: &Todo) {
        let Todo { n, k, to, .. } = todo;
        let (count, start) = (n / ROWS, Start(self.start));
        let (stored, new) = (tensor.bytes().len() / count, to.len() / count); // bytes of a panel
        let part = (PART / stored).max(1);
        for first in (0..count).step_by(part) {
            let end = count.min(first + part);
            cpu.pool.split(end - first, 1, |range, _| {
                let range = first + range.start..first + range.end;
                let w = &tensor.bytes()[range.start * stored..range.end * stored];
                // SAFETY: within this weight's part of the memory, which nobody reads before it is done; tasks have
                // different panels.
                let to = unsafe { start.slice(to.start + range.start * new..to.start + range.end * new) };
                crate::ops::linear::pack(tensor.dtype, *k, w, to);
            });
            tensor.forget(first * stored..end * stored);
        }
        tensor.set_packed(self.memory.clone(), to.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::exec::Memory;
    use crate::quant::tests::weights as random_weights;
    use hob_graph::{Batch, Builder, DType, Data};
    use std::sync::Mutex;

    /// Weights that remember what they were told to forget.
    struct Mapped(Vec<u8>, Mutex<Vec<Range<usize>>>);

    impl AsRef<[u8]> for Mapped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Source for Mapped {
        fn forget(&self, part: Range<usize>) {
            self.1.lock().unwrap().push(part);
        }
    }

    /// Three layers; the rows of the last are no whole panels.
    fn graph() -> Graph {
        let g = Builder::stateless(3);
        let (a, b, c) = (g.weight("a", &[64, 256]), g.weight("b", &[32, 64]), g.weight("c", &[24, 32]));
        let x = g.input("x", &[3, 256], DType::F32);
        g.output("y", x.linear_by(a).linear_by(b).linear_by(c));
        let mut graph = g.finish().unwrap();
        graph.bind(|name| Some((DType::Q4_0, shape(name)))).unwrap();
        graph
    }

    fn shape(name: &str) -> Vec<usize> {
        match name {
            "a" => vec![64, 256],
            "b" => vec![32, 64],
            _ => vec![24, 32],
        }
    }

    #[test]
    fn weights_are_laid_out_bit_by_bit_and_give_the_same_results() {
        let cpu = Cpu::new(2, Precision::Fast);
        let graph = graph();
        let mut weights = Weights::default();
        let mapped = |n: usize| Arc::new(Mapped(random_weights(DType::Q4_0, n, 4), Mutex::default()));
        let [a, b, c] = ["a", "b", "c"].map(|name| mapped(shape(name).iter().product()));
        for (name, owner) in [("a", &a), ("b", &b), ("c", &c)] {
            weights.insert(name, Tensor::shared(DType::Q4_0, owner.clone(), 0..owner.0.len()));
        }
        let Some(mut packing) = Packing::new(&cpu, &graph, &weights).unwrap() else {
            assert!(packed_bytes(DType::Q4_0, 64, 256).is_none(), "there are kernels for it");
            return;
        };
        assert_eq!(packing.bytes(), a.0.len() + b.0.len());
        assert_eq!(held(&cpu, &graph), [&a, &b, &c].map(|w| w.0.len()));
        let program = cpu.program(graph, &weights).unwrap();
        let x: Vec<f32> = (0..3 * 256).map(|i| (i % 37) as f32 / 37.0 - 0.5).collect();
        let run = || {
            let mut memory = Memory::new();
            let inputs = [("x", Data::F32(&x))];
            cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
            program.output(&memory, "y").unwrap().to_vec()
        };
        let before = run();
        let mut steps = 1;
        while !packing.step(&cpu, &weights, 1) {
            steps += 1;
        }
        assert_eq!(steps, 2, "a weight at a time");
        let packed = ["a", "b", "c"].map(|name| weights.get(name).unwrap().packed().is_some());
        assert_eq!(packed, [true, true, false]);
        let forgotten = [&a, &b, &c].map(|w| w.1.lock().unwrap().iter().map(|r| r.len()).sum::<usize>());
        assert_eq!(forgotten, [a.0.len(), b.0.len(), c.0.len()], "the last as it is small");
        assert_eq!(weights.get("c").unwrap().bytes(), c.0);
        let size = before.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (x, y) in run().iter().zip(&before) {
            assert!((x - y).abs() <= 2e-2 * size, "{x} and {y}"); // the second layer rounds the first's result anew
        }
    }

    #[test]
    fn streamed_weights_stay_in_the_file_and_leave_memory_after_each_use() {
        let cpu = Cpu::new(2, Precision::Fast);
        let graph = graph();
        let mut weights = Weights::default();
        let owners = ["a", "b", "c"].map(|name| {
            let n = shape(name).iter().product();
            let owner = Arc::new(Mapped(random_weights(DType::Q4_0, n, 4), Mutex::default()));
            weights.insert(name, Tensor::shared(DType::Q4_0, owner.clone(), 0..owner.0.len()));
            owner
        });
        ["a", "c"].iter().for_each(|name| weights.get(name).unwrap().stream());
        if let Some(mut packing) = Packing::new(&cpu, &graph, &weights).unwrap() {
            assert!(packing.step(&cpu, &weights, usize::MAX));
        }
        assert!(weights.get("a").unwrap().packed().is_none());
        let program = cpu.program(graph, &weights).unwrap();
        let x = vec![0.5; 3 * 256];
        let inputs = [("x", Data::F32(&x[..]))];
        let before = owners.each_ref().map(|w| w.1.lock().unwrap().len());
        let mut memory = Memory::new();
        for _ in 0..2 {
            cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
        }
        for (i, (owner, streamed)) in owners.iter().zip([true, false, true]).enumerate() {
            let forgotten = owner.1.lock().unwrap()[before[i]..].to_vec();
            let expected = if streamed { vec![0..owner.0.len(); 2] } else { vec![] };
            assert_eq!(forgotten, expected, "weight {i}");
        }
    }

    #[test]
    fn exact_runs_keep_the_files_weights() {
        let cpu = Cpu::new(1, Precision::Exact);
        let graph = graph();
        assert!(Packing::new(&cpu, &graph, &Weights::default()).unwrap().is_none());
        let stored: Vec<usize> = graph.weights.iter().map(Weight::bytes).collect();
        assert_eq!(held(&cpu, &graph), stored);
    }
}
