//! The executor: walks a plan over its arena. Nothing is allocated while it runs.

use crate::isa::{Isa, isa};
use crate::kv::{Kv, PAGE};
use crate::threads::Pool;
use crate::weights::{Buffer, Tensor, Weights};
use crate::{ops, reference};
use hob_graph::plan::Home;
use hob_graph::{Batch, DType, Data, Graph, Node, NodeId, Op, Place, Plan, Scratch, Seq, Shape, WeightId};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How exactly numbers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// all in f32, quantized weights are decoded to it: slow, for comparison and training
    Exact,
    /// activations are quantized to 8 bits per block where an integer kernel exists; where the processor has tiles
    /// (`amx`), they meet weights of 16 bits, and each other, as numbers of 16 bits
    Fast,
}

/// The processor as a device.
pub struct Cpu {
    /// the threads
    pub pool: Pool,
    /// how linear layers compute
    pub precision: Precision,
    /// run every node on the reference too, and stop at the first that differs
    pub check: bool,
    /// run every node on the reference alone
    pub reference: bool,
}

/// Hears of a graph's node, and how long it took.
pub type Watch<'a> = &'a mut dyn FnMut(&Graph, NodeId, Duration);

/// A graph ready to run: planned, with its weights at hand.
pub struct Program {
    /// what is run
    pub graph: Graph,
    /// where everything lies
    pub plan: Plan,
    weights: Vec<Arc<Tensor>>,
    /// of each weight, whether a run reads all of it: not so of experts
    whole: Vec<bool>,
}

/// The memory a run works in; programs of one model share it, as they run one at a time.
pub struct Memory {
    arena: Buffer,
    scratch: Buffer,
}

/// Why a program cannot be made or run.
#[derive(Debug)]
pub enum ExecError {
    /// the weights lack one
    Missing(String),
    /// the system grants no memory
    Memory(std::io::Error),
    /// what was given does not fit the graph
    Input(String),
    /// in check mode: a kernel differs from the reference
    Diverged(String),
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExecError::Missing(name) => write!(f, "the weight {name} is not loaded"),
            ExecError::Memory(e) => write!(f, "the system grants no more memory: {e}"),
            ExecError::Input(what) | ExecError::Diverged(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ExecError {}

impl From<std::io::Error> for ExecError {
    fn from(e: std::io::Error) -> ExecError {
        ExecError::Memory(e)
    }
}

/// An operand: its dimensions and its numbers as they lie.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// dimensions, row-major
    pub shape: Shape,
    /// format of the numbers
    pub dtype: DType,
    /// the numbers
    pub bytes: &'a [u8],
    /// of a weight that was laid out anew, that layout
    pub packed: Option<&'a [u8]>,
}

impl<'a> View<'a> {
    /// The numbers; panics when they are not f32, which the plan's decoded copies rule out where it matters.
    pub fn f32s(&self) -> &'a [f32] {
        assert_eq!(self.dtype, DType::F32);
        cast(self.bytes)
    }

    /// The numbers; panics when they are not i32.
    pub fn i32s(&self) -> &'a [i32] {
        assert_eq!(self.dtype, DType::I32);
        cast(self.bytes)
    }

    /// Bytes of one row, the last dimension.
    pub fn row_bytes(&self) -> usize {
        self.dtype.bytes(self.shape.last()).expect("rows are whole blocks")
    }

    /// The bytes of row `i`.
    pub fn row(&self, i: usize) -> &'a [u8] {
        let n = self.row_bytes();
        &self.bytes[i * n..(i + 1) * n]
    }
}

fn cast<T: Copy>(bytes: &[u8]) -> &[T] {
    // SAFETY: callers take f32 and i32, for which any bits are valid; alignment and length are checked.
    let (head, body, tail) = unsafe { bytes.align_to::<T>() };
    assert!(head.is_empty() && tail.is_empty(), "operands are aligned whole numbers");
    body
}

/// One node's run: operands, result, working memory.
pub struct Call<'a> {
    /// threads and precision
    pub cpu: &'a Cpu,
    /// the graph being run
    pub graph: &'a Graph,
    /// the node's place in it
    pub id: NodeId,
    /// the node
    pub node: &'a Node,
    /// what the run was given
    pub batch: &'a Batch<'a>,
    /// the result
    pub out: &'a mut [f32],
    /// working memory, at least what the plan foresaw for this node
    pub scratch: &'a mut [u8],
    /// keys and values of earlier tokens
    pub kv: Option<&'a mut Kv>,
    program: &'a Program,
    arena: *const u8,
}

impl<'a> Call<'a> {
    /// Operand `k`.
    pub fn x(&self, k: usize) -> View<'a> {
        let id = self.node.inputs[k];
        let node = self.graph.node(id);
        let mut packed = None;
        let (dtype, bytes): (DType, &'a [u8]) = match self.program.plan.places[id.index()] {
            // SAFETY: the plan places every living node within the arena, apart from this call's result.
            Place::Arena(at) => (node.dtype, unsafe {
                std::slice::from_raw_parts(self.arena.add(at), node.shape.count() * 4)
            }),
            Place::Weight(w) => {
                let t = &self.program.weights[w.0 as usize];
                packed = t.packed();
                (t.dtype, t.bytes())
            }
            Place::Input(i) => {
                let name = &self.graph.inputs[i.0 as usize].name;
                match find(self.batch, name) {
                    Some(Data::F32(d)) => (DType::F32, plain(d)),
                    Some(Data::I32(d)) => (DType::I32, plain(d)),
                    None => unreachable!("inputs are checked before the run"),
                }
            }
            Place::Const(c) => (DType::F32, plain(&self.graph.consts[c.0 as usize])),
            Place::Nowhere => unreachable!("operands of a step are live"),
        };
        View { shape: node.shape, dtype, bytes, packed }
    }

    /// The operands' count.
    pub fn arity(&self) -> usize {
        self.node.inputs.len()
    }
}

fn plain<T: Copy>(x: &[T]) -> &[u8] {
    // SAFETY: callers pass f32 and i32, which have no padding.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

fn find<'a>(batch: &Batch<'a>, name: &str) -> Option<Data<'a>> {
    batch.inputs.iter().find(|(n, _)| *n == name).map(|i| i.1)
}

impl Scratch for Cpu {
    fn bytes(&self, graph: &Graph, id: NodeId) -> usize {
        ops::scratch(self, graph, id)
    }
}

impl Cpu {
    /// The processor with `threads` threads.
    pub fn new(threads: usize, precision: Precision) -> Cpu {
        Cpu { pool: Pool::new(threads), precision, check: false, reference: false }
    }

    /// Tokens of prompts that kernels take together: fewer take about as long.
    pub fn together(&self) -> usize {
        if isa() == Isa::Amx && self.precision == Precision::Fast { 32 } else { 16 }
    }

    /// Plans `graph` and finds its weights.
    pub fn program(&self, graph: Graph, weights: &Weights) -> Result<Program, ExecError> {
        let plan = Plan::new(&graph, self);
        let mut held = Vec::with_capacity(graph.weights.len());
        for (w, home) in graph.weights.iter().zip(&plan.homes) {
            let stored = weights.get(&w.name).ok_or_else(|| ExecError::Missing(w.name.clone()))?;
            if stored.dtype != w.dtype || stored.bytes().len() != w.bytes() {
                return Err(ExecError::Input(format!("the weight {} is not stored as it was bound", w.name)));
            }
            // Kernels read f32 in place, so a file that does not align it is decoded like any other format.
            let aligned = stored.dtype != DType::F32 || stored.bytes().as_ptr().align_offset(4) == 0;
            held.push(match home {
                Home::Stored if aligned => stored,
                _ => weights.decoded(&w.name)?.ok_or_else(|| ExecError::Missing(w.name.clone()))?,
            });
        }
        let mut whole = vec![true; graph.weights.len()];
        for node in graph.nodes.iter().filter(|n| matches!(n.op, Op::Experts(_))) {
            for w in node.inputs[2..].iter().filter_map(|&id| graph.as_weight(id)) {
                whole[w.0 as usize] = false;
            }
        }
        Ok(Program { graph, plan, weights: held, whole })
    }

    /// Runs `program`. Its outputs lie in `memory` afterwards, see [`Program::output`].
    pub fn run(
        &self,
        program: &Program,
        memory: &mut Memory,
        kv: Option<&mut Kv>,
        batch: &Batch,
    ) -> Result<(), ExecError> {
        self.run_watched(program, memory, kv, batch, None)
    }

    /// The same, telling `watch` after each node how long it took.
    pub fn run_watched(
        &self,
        program: &Program,
        memory: &mut Memory,
        mut kv: Option<&mut Kv>,
        batch: &Batch,
        mut watch: Option<Watch>,
    ) -> Result<(), ExecError> {
        program.accepts(batch, kv.as_deref())?;
        memory.grow(program.plan.arena, program.plan.scratch)?;
        let arena = memory.arena.as_mut_ptr();
        for &id in &program.plan.steps {
            let node = program.graph.node(id);
            let Place::Arena(at) = program.plan.places[id.index()] else {
                unreachable!("steps write to the arena")
            };
            // SAFETY: the plan gives the node these bytes of the arena and no living node shares them.
            let out =
                unsafe { std::slice::from_raw_parts_mut(arena.add(at).cast::<f32>(), node.shape.count()) };
            let mut call = Call {
                cpu: self,
                graph: &program.graph,
                id,
                node,
                batch,
                out,
                scratch: memory.scratch.bytes_mut(),
                kv: kv.as_deref_mut(),
                program,
                arena,
            };
            if self.reference {
                reference::run(&mut call);
                continue;
            }
            let start = watch.is_some().then(Instant::now);
            ops::run(&mut call);
            if let (Some(watch), Some(start)) = (&mut watch, start) {
                watch(&program.graph, id, start.elapsed());
            }
            if self.check {
                against_reference(&mut call, id)?;
            }
            program.let_go(id);
        }
        Ok(())
    }
}

/// Runs the node again by the reference and compares.
fn against_reference(call: &mut Call, id: NodeId) -> Result<(), ExecError> {
    let fast = call.out.to_vec();
    reference::run(call);
    let (mut worst, mut at) = (0.0f32, 0);
    let size = call.out.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in fast.iter().zip(call.out.iter()).enumerate() {
        let d = if a == b { 0.0 } else { (a - b).abs() };
        if d.is_nan() || d > worst {
            (worst, at) = (d, i);
        }
    }
    // Integer kernels round activations to 1 part in 127 of the largest of a block.
    let allowed = match call.cpu.precision {
        Precision::Exact => 1e-4,
        Precision::Fast => 3e-2,
    };
    call.out.copy_from_slice(&fast);
    if worst.is_nan() || worst > allowed * size.max(1e-3) {
        return Err(ExecError::Diverged(format!(
            "node %{} {} ({}:{}) differs from the reference by {worst} at element {at} of {}",
            id.0,
            call.node.op.name(),
            call.node.at.file(),
            call.node.at.line(),
            call.node.shape
        )));
    }
    Ok(())
}

impl Program {
    /// The output `name` of the last run over `memory`.
    pub fn output<'m>(&self, memory: &'m Memory, name: &str) -> Option<&'m [f32]> {
        let id = self.graph.output(name)?;
        let Place::Arena(at) = self.plan.places[id.index()] else { return None };
        Some(&memory.arena.f32s()[at / 4..][..self.graph.node(id).shape.count()])
    }

    /// The same, to be changed in place.
    pub fn output_mut<'m>(&self, memory: &'m mut Memory, name: &str) -> Option<&'m mut [f32]> {
        let id = self.graph.output(name)?;
        let Place::Arena(at) = self.plan.places[id.index()] else { return None };
        Some(&mut memory.arena.f32s_mut()[at / 4..][..self.graph.node(id).shape.count()])
    }

    /// Gives weight `id` other numbers, in f32; panics when their count differs.
    pub fn replace(&mut self, id: WeightId, tensor: Tensor) {
        let old = &mut self.weights[id.0 as usize];
        assert!(old.dtype == tensor.dtype && old.bytes().len() == tensor.bytes().len());
        *old = Arc::new(tensor);
    }

    /// Lets streamed weights of node `id` leave memory, and has the next ones brought while other nodes run.
    fn let_go(&self, id: NodeId) {
        for input in &self.graph.node(id).inputs {
            let Place::Weight(w) = self.plan.places[input.index()] else { continue };
            let (used, at) = (&self.weights[w.0 as usize], w.0 as usize);
            if used.is_streamed() {
                used.forget(0..used.bytes().len());
                let n = self.weights.len();
                let mut after = (at + 1..n).chain(0..at);
                // Which experts come next is not known yet.
                if let Some(next) = after.find(|&i| self.weights[i].is_streamed() && self.whole[i]) {
                    self.weights[next].fetch();
                }
            }
        }
    }

    /// Whether a sequence has the pages that the run will read and write.
    fn accepts_pages(&self, s: &Seq, kv: &Kv) -> Result<(), ExecError> {
        if s.pages.len() != kv.pools().len() {
            let (has, of) = (s.pages.len(), kv.pools().len());
            return Err(ExecError::Input(format!(
                "a sequence has {has} tables of pages, and the cache {of}"
            )));
        }
        for (pool, table) in kv.pools().iter().zip(s.pages) {
            let first = pool.window.map_or(0, |w| (s.pos + 1).saturating_sub(w)) / PAGE;
            let end = (s.pos + s.len).div_ceil(PAGE);
            let needed = table.get(first.min(end)..end);
            if needed.is_none_or(|needed| needed.iter().any(|&p| p as usize >= pool.count)) {
                return Err(ExecError::Input(format!(
                    "a sequence of {} tokens has not all pages from {first} to {end}",
                    s.pos + s.len
                )));
            }
        }
        Ok(())
    }

    /// Whether the batch gives what the graph asks for.
    fn accepts(&self, batch: &Batch, kv: Option<&Kv>) -> Result<(), ExecError> {
        let bad = |what: String| Err(ExecError::Input(what));
        for input in &self.graph.inputs {
            let (dtype, len) = match find(batch, &input.name) {
                Some(Data::F32(d)) => (DType::F32, d.len()),
                Some(Data::I32(d)) => (DType::I32, d.len()),
                None => return bad(format!("the run is not given {}", input.name)),
            };
            if dtype != input.dtype || len != input.shape.count() {
                return bad(format!(
                    "{} must be {} {}, not {len} {dtype}",
                    input.name, input.shape, input.dtype
                ));
            }
        }
        if kv.is_some_and(|kv| !kv.suits(&self.graph.states)) {
            return bad("the cache is that of another graph".into());
        }
        let mut row = 0;
        for s in batch.seqs {
            if s.start != row {
                return bad(format!("a sequence begins at row {}, where row {row} is next", s.start));
            }
            row += s.len;
            if let Some(kv) = kv {
                self.accepts_pages(s, kv)?;
            }
        }
        for node in &self.graph.nodes {
            match node.op {
                Op::Positions | Op::Mask { .. } if node.shape[0] != row => {
                    return bad(format!("the sequences cover {row} rows of {}", node.shape[0]));
                }
                Op::Attend(a) if a.cache.is_some() != kv.is_some() => {
                    return bad("a graph with cached attention runs with a cache, and no other does".into());
                }
                Op::Attend(_) if node.shape[0] != row => {
                    return bad(format!("the sequences cover {row} rows of {}", node.shape[0]));
                }
                Op::Gather => {
                    let rows = self.graph.node(node.inputs[0]).shape[0];
                    let Op::Input(ids) = self.graph.node(node.inputs[1]).op else { continue };
                    let name = &self.graph.inputs[ids.0 as usize].name;
                    let Some(Data::I32(ids)) = find(batch, name) else { continue };
                    if let Some(id) =
                        ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= rows))
                    {
                        return bad(format!(
                            "{name} has {id}, where there are 0 to {}",
                            rows.wrapping_sub(1)
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Working memory from this size on is in huge pages: kernels go through it in strides.
const HUGE: usize = 8 << 20;

impl Memory {
    /// No memory yet: a run takes what its plan says.
    pub fn new() -> Memory {
        let none = || Buffer::zeroed(0).expect("nothing is always granted");
        Memory { arena: none(), scratch: none() }
    }

    /// At least this much.
    pub fn grow(&mut self, arena: usize, scratch: usize) -> std::io::Result<()> {
        for (buffer, bytes) in [(&mut self.arena, arena), (&mut self.scratch, scratch)] {
            if buffer.bytes().len() < bytes {
                *buffer = Buffer::zeroed(0)?; // given back before more is asked for
                *buffer = Buffer::zeroed(bytes)?;
                if bytes >= HUGE {
                    buffer.prefer_huge_pages();
                }
            }
        }
        Ok(())
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hob_graph::Builder;

    #[test]
    fn check_mode_names_the_node_that_differs() {
        let g = Builder::stateless(0);
        let x = g.input("x", &[2, 3], DType::F32);
        let line = line!() + 1;
        g.output("y", x.exp());
        let cpu = Cpu::new(1, Precision::Exact);
        let program = cpu.program(g.finish().unwrap(), &Weights::default()).unwrap();
        let batch = Batch { inputs: &[("x", Data::F32(&[0.0; 6]))], seqs: &[] };
        // What kernels may have left: right, wrong in one place, and not a number.
        for (wrote, fine) in
            [([1.0; 6], true), ([1.0, 1.0, 1.0, 1.0, 1.1, 1.0], false), ([f32::NAN; 6], false)]
        {
            let mut out = wrote;
            let id = program.plan.steps[0];
            let mut call = Call {
                cpu: &cpu,
                graph: &program.graph,
                id,
                node: program.graph.node(id),
                batch: &batch,
                out: &mut out,
                scratch: &mut [],
                kv: None,
                program: &program,
                arena: std::ptr::null(),
            };
            let said = against_reference(&mut call, id).map_err(|e| e.to_string());
            assert_eq!(said.is_ok(), fine, "{said:?}");
            if let Err(said) = said {
                assert!(said.contains(&format!("exp ({}:{line})", file!())), "{said}");
            }
            assert_eq!(out.map(f32::to_bits), wrote.map(f32::to_bits), "the kernel's result stays");
        }
    }

    #[test]
    fn ids_that_are_no_rows_are_refused() {
        let g = Builder::stateless(2);
        g.output("y", g.input("x", &[5, 1], DType::F32).gather(g.ids()));
        let cpu = Cpu::new(1, Precision::Exact);
        let program = cpu.program(g.finish().unwrap(), &Weights::default()).unwrap();
        let run = |ids: [i32; 2]| {
            let inputs = [("x", Data::F32(&[0.0, 1.0, 2.0, 3.0, 4.0][..])), ("ids", Data::I32(&ids))];
            let mut memory = Memory::new();
            cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] })?;
            Ok(program.output(&memory, "y").map(|y| y.to_vec()))
        };
        let e = |r: Result<_, ExecError>| r.map_err(|e| e.to_string());
        assert_eq!(e(run([4, 0])), Ok(Some(vec![4.0, 0.0])));
        assert_eq!(e(run([0, 5])), Err("ids has 5, where there are 0 to 4".to_string()));
        assert_eq!(e(run([-1, 0])), Err("ids has -1, where there are 0 to 4".to_string()));
    }
}
