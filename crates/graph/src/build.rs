//! The builder: model files write their mathematics with it, and no error handling.
//!
//! Handles are `Copy`. The first invalid op is remembered with the line that asked for it; its result, and all that
//! follows from it, are poisoned, and [`Builder::finish`] returns that first error.

use crate::graph::{Graph, GraphError, Node, NodeId, State};
use crate::op::*;
use crate::shape::{MAX_RANK, Shape};
use hob_dtype::DType;
use std::cell::{Cell, RefCell};
use std::ops;
use std::panic::Location;

/// Builds one graph for `tokens` tokens of which `rows` are asked for results.
pub struct Builder {
    graph: RefCell<Graph>,
    paths: RefCell<Vec<String>>,
    error: RefCell<Option<GraphError>>,
    tokens: usize,
    rows: usize,
    keep_state: bool,
    line: Cell<Option<&'static Location<'static>>>, // stands for the caller's while a graph is rewritten
}

/// A tensor in the making.
#[derive(Clone, Copy)]
pub struct X<'g> {
    g: &'g Builder,
    id: Option<NodeId>, // None: poisoned
}

/// The path of a weight or of a part of the model, in the names of the original checkpoint. `p / "up_proj"` and
/// `p / 3` go deeper.
#[derive(Clone, Copy)]
pub struct Path<'g> {
    g: &'g Builder,
    index: usize,
}

impl Builder {
    /// A graph over `tokens` tokens, with results for `rows` of them, whose attention keeps its keys and values.
    pub fn new(tokens: usize, rows: usize) -> Builder {
        Builder {
            graph: RefCell::default(),
            paths: RefCell::default(),
            error: RefCell::default(),
            tokens,
            rows,
            keep_state: true,
            line: Cell::default(),
        }
    }

    /// A graph that sees whole sequences at once and keeps nothing: for training, encoders and pictures.
    pub fn stateless(tokens: usize) -> Builder {
        Builder { keep_state: false, ..Builder::new(tokens, tokens) }
    }

    /// Continues `graph`.
    pub fn over(graph: Graph) -> Builder {
        Builder { graph: RefCell::new(graph), ..Builder::stateless(0) }
    }

    /// The finished graph, or the first thing that was wrong.
    pub fn finish(self) -> Result<Graph, GraphError> {
        match self.error.into_inner() {
            Some(e) => Err(e),
            None => Ok(self.graph.into_inner()),
        }
    }

    /// A handle on an existing node.
    pub fn at(&self, id: NodeId) -> X<'_> {
        X { g: self, id: Some(id) }
    }

    /// Tokens of a run: T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The root of weight paths: `g.path("model.layers")`.
    pub fn path(&self, name: &str) -> Path<'_> {
        self.paths.borrow_mut().push(name.to_string());
        Path { g: self, index: self.paths.borrow().len() - 1 }
    }

    /// The token ids, `(T)` i32.
    #[track_caller]
    pub fn ids(&self) -> X<'_> {
        self.input("ids", &[self.tokens], DType::I32)
    }

    /// The tensor called `name` that is given at run time; F32 or I32.
    #[track_caller]
    pub fn input(&self, name: &str, dims: &[usize], dtype: DType) -> X<'_> {
        let named = self.shape(dims).and_then(|s| {
            let id = self.graph.borrow_mut().name_input(name, s, dtype);
            Some((self.check(id)?, s))
        });
        self.leaf(named.map(|(id, s)| (Op::Input(id), s)))
    }

    /// The weight `name` (its whole path) with the given dimensions.
    #[track_caller]
    pub fn weight(&self, name: &str, dims: &[usize]) -> X<'_> {
        let named = self.shape(dims).and_then(|s| {
            let id = self.graph.borrow_mut().name_weight(name, s);
            Some((self.check(id)?, s))
        });
        self.leaf(named.map(|(id, s)| (Op::Weight(id), s)))
    }

    /// Numbers known when the graph is built, `(len)`.
    #[track_caller]
    pub fn constant(&self, data: Vec<f32>) -> X<'_> {
        let shape = self.shape(&[data.len()]);
        let id = self.graph.borrow_mut().add_const(data);
        self.leaf(shape.map(|s| (Op::Const(id), s)))
    }

    /// One number.
    #[track_caller]
    pub fn fill(&self, value: f32) -> X<'_> {
        self.push(Op::Fill(value), &[], None)
    }

    /// Position of each token in its sequence, `(T)`.
    #[track_caller]
    pub fn positions(&self) -> X<'_> {
        self.push(Op::Positions, &[], self.shape(&[self.tokens]))
    }

    /// `(T, T)`: what each of `tokens` tokens may not see, as -inf; else 0.
    #[track_caller]
    pub fn mask(&self, tokens: usize, window: Option<usize>, causal: bool) -> X<'_> {
        self.push(Op::Mask { window, causal }, &[], self.shape(&[tokens, tokens]))
    }

    /// Names `x` as a result of the graph.
    pub fn output(&self, name: &str, x: X<'_>) {
        if let Some(id) = x.id {
            self.graph.borrow_mut().outputs.push((name.to_string(), id));
        }
    }

    /// `node` of another graph with the same weights, inputs and constants, on other operands; its line is kept.
    pub(crate) fn repeat(&self, node: &Node, inputs: &[X<'_>]) -> X<'_> {
        self.push(node.op, inputs, Some(node.shape))
    }

    /// From here on nodes are said to come from the line that asked for `node`.
    pub(crate) fn say_lines_of(&self, node: &Node) {
        self.line.set(Some(node.at));
    }

    #[track_caller]
    fn leaf(&self, op: Option<(Op, Shape)>) -> X<'_> {
        match op {
            Some((op, shape)) => self.push(op, &[], Some(shape)),
            None => X { g: self, id: None },
        }
    }

    #[track_caller]
    fn shape(&self, dims: &[usize]) -> Option<Shape> {
        self.check(Shape::checked(dims).ok_or_else(|| format!("a tensor of {dims:?} is too large")))
    }

    /// The value, or the error remembered.
    #[track_caller]
    fn check<V>(&self, value: Result<V, String>) -> Option<V> {
        value.map_err(|message| self.fail(message)).ok()
    }

    #[track_caller]
    fn fail(&self, message: String) {
        self.error.borrow_mut().get_or_insert(GraphError { message, at: Some(Location::caller()) });
    }

    #[track_caller]
    fn push(&self, op: Op, inputs: &[X<'_>], wanted: Option<Shape>) -> X<'_> {
        let at = self.line.get().unwrap_or(Location::caller());
        let ids: Option<Vec<NodeId>> = inputs.iter().map(|x| x.id).collect();
        let id = ids.and_then(|ids| match self.graph.borrow_mut().push(op, &ids, wanted, at) {
            Ok(id) => Some(id),
            Err(e) => {
                self.error.borrow_mut().get_or_insert(e);
                None
            }
        });
        X { g: self, id }
    }
}

impl<'g> Path<'g> {
    fn deeper(self, part: &str) -> Path<'g> {
        let name = format!("{}.{part}", self.g.paths.borrow()[self.index]);
        self.g.path(&name)
    }

    /// The weight at this path.
    #[track_caller]
    pub fn weight(self, dims: &[usize]) -> X<'g> {
        let name = self.g.paths.borrow()[self.index].clone();
        self.g.weight(&name, dims)
    }
}

impl<'g> ops::Div<&str> for Path<'g> {
    type Output = Path<'g>;
    fn div(self, part: &str) -> Path<'g> {
        self.deeper(part)
    }
}

impl<'g> ops::Div<usize> for Path<'g> {
    type Output = Path<'g>;
    fn div(self, part: usize) -> Path<'g> {
        self.deeper(&part.to_string())
    }
}

#[track_caller]
fn axes(order: &[usize]) -> Axes {
    assert!(order.len() <= MAX_RANK, "an order of more than {MAX_RANK} axes");
    let mut a = [0; MAX_RANK];
    for (to, &from) in a.iter_mut().zip(order) {
        *to = from as u8;
    }
    Axes(a)
}

impl<'g> X<'g> {
    /// The node behind the handle; `None` when poisoned.
    pub fn id(self) -> Option<NodeId> {
        self.id
    }

    /// The builder the handle belongs to.
    pub fn builder(self) -> &'g Builder {
        self.g
    }

    /// Dimensions; those of a scalar when poisoned.
    pub fn shape(self) -> Shape {
        self.id.map_or(Shape::SCALAR, |id| self.g.graph.borrow().node(id).shape)
    }

    /// Dimension `axis`; 1 when poisoned.
    pub fn dim(self, axis: usize) -> usize {
        self.shape().get(axis).copied().unwrap_or(1)
    }

    #[track_caller]
    fn with(self, op: Op, others: &[X<'g>]) -> X<'g> {
        let mut inputs = vec![self];
        inputs.extend_from_slice(others);
        self.g.push(op, &inputs, None)
    }

    #[track_caller]
    fn into_shape(self, op: Op, dims: &[usize]) -> X<'g> {
        match self.g.shape(dims) {
            Some(s) => self.g.push(op, &[self], Some(s)),
            None => X { id: None, ..self },
        }
    }

    // ── primitives ──

    /// An elementwise function.
    #[track_caller]
    pub fn unary(self, f: Unary) -> X<'g> {
        self.with(Op::Unary(f), &[])
    }

    /// e^x
    #[track_caller]
    pub fn exp(self) -> X<'g> {
        self.unary(Unary::Exp)
    }

    /// natural logarithm
    #[track_caller]
    pub fn log(self) -> X<'g> {
        self.unary(Unary::Log)
    }

    /// square root
    #[track_caller]
    pub fn sqrt(self) -> X<'g> {
        self.unary(Unary::Sqrt)
    }

    /// 1 / x
    #[track_caller]
    pub fn recip(self) -> X<'g> {
        self.unary(Unary::Recip)
    }

    /// hyperbolic tangent
    #[track_caller]
    pub fn tanh(self) -> X<'g> {
        self.unary(Unary::Tanh)
    }

    /// max(x, 0)
    #[track_caller]
    pub fn relu(self) -> X<'g> {
        self.unary(Unary::Relu)
    }

    /// Sum along `axis`, which stays as 1.
    #[track_caller]
    pub fn sum(self, axis: usize) -> X<'g> {
        self.with(Op::Sum(axis as u8), &[])
    }

    /// Sum of everything, a scalar.
    #[track_caller]
    pub fn sum_all(self) -> X<'g> {
        self.reshape(&[self.shape().count()]).sum(0).reshape(&[])
    }

    /// Mean along `axis`, which stays as 1.
    #[track_caller]
    pub fn mean(self, axis: usize) -> X<'g> {
        self.sum(axis) * (1.0 / self.dim(axis) as f32)
    }

    /// Largest along `axis`, which stays as 1.
    #[track_caller]
    pub fn max(self, axis: usize) -> X<'g> {
        self.with(Op::Max(axis as u8), &[])
    }

    /// The same numbers in other dimensions.
    #[track_caller]
    pub fn reshape(self, dims: &[usize]) -> X<'g> {
        if self.shape()[..] == *dims { self } else { self.into_shape(Op::Reshape, dims) }
    }

    /// Axes in another order: output axis `i` is input axis `order[i]`.
    #[track_caller]
    pub fn permute(self, order: &[usize]) -> X<'g> {
        self.with(Op::Permute(axes(order)), &[])
    }

    /// The last two axes exchanged.
    #[track_caller]
    pub fn transpose(self) -> X<'g> {
        let n = self.shape().len();
        let mut order: Vec<usize> = (0..n).collect();
        if n >= 2 {
            order.swap(n - 1, n - 2);
        }
        self.permute(&order)
    }

    /// Broadcast to `dims`.
    #[track_caller]
    pub fn expand(self, dims: &[usize]) -> X<'g> {
        if self.shape()[..] == *dims { self } else { self.into_shape(Op::Expand, dims) }
    }

    /// `len` entries of `axis` from `start` on.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, len: usize) -> X<'g> {
        let dims = self.shape();
        if axis >= dims.len() {
            return self.into_shape(Op::Slice { axis: axis as u8, start }, &dims);
        }
        self.into_shape(Op::Slice { axis: axis as u8, start }, &dims.with(axis, len))
    }

    /// Zeros around the entries of `axis`.
    #[track_caller]
    pub fn pad(self, axis: usize, before: usize, after: usize) -> X<'g> {
        let dims = self.shape();
        let padded = if axis < dims.len() { dims.with(axis, dims[axis] + before + after) } else { dims };
        self.into_shape(Op::Pad { axis: axis as u8, before }, &padded)
    }

    /// This and then `others` along `axis`.
    #[track_caller]
    pub fn concat(self, axis: usize, others: &[X<'g>]) -> X<'g> {
        self.with(Op::Concat(axis as u8), others)
    }

    /// `(B…, M, K) × (B…, K, N)`
    #[track_caller]
    pub fn matmul(self, other: X<'g>) -> X<'g> {
        self.with(Op::MatMul, &[other])
    }

    /// Rows `ids` of this table: `(V, C), (T) → (T, C)`.
    #[track_caller]
    pub fn gather(self, ids: X<'g>) -> X<'g> {
        self.with(Op::Gather, &[ids])
    }

    /// Rows added up where `ids` say: `(T, C), (T) → (rows, C)`.
    #[track_caller]
    pub fn scatter_add(self, ids: X<'g>, rows: usize) -> X<'g> {
        let shape = self.g.shape(&[rows, self.dim(1)]);
        self.g.push(Op::ScatterAdd, &[self, ids], shape)
    }

    /// ids `(T)` as rows with a single 1: `(T, columns)`.
    #[track_caller]
    pub fn one_hot(self, columns: usize) -> X<'g> {
        self.into_shape(Op::OneHot, &[self.dim(0), columns])
    }

    /// Patches of an image: `(N, C, H, W) → (N, C·k·k, H'·W')`.
    #[track_caller]
    pub fn unfold(self, window: Window) -> X<'g> {
        self.with(Op::Unfold(window), &[])
    }

    /// Patches added up into an image of `dims` `(N, C, H, W)`.
    #[track_caller]
    pub fn fold(self, window: Window, dims: &[usize]) -> X<'g> {
        self.into_shape(Op::Fold(window), dims)
    }

    // ── compositions ──

    /// `x · wᵀ` with `w` at `p.weight`, to `out` channels.
    #[track_caller]
    pub fn linear(self, p: Path<'g>, out: usize) -> X<'g> {
        let w = (p / "weight").weight(&[out, self.shape().last()]);
        self.with(Op::Linear, &[w])
    }

    /// `x · wᵀ + b` with `p.weight` and `p.bias`.
    #[track_caller]
    pub fn linear_bias(self, p: Path<'g>, out: usize) -> X<'g> {
        let w = (p / "weight").weight(&[out, self.shape().last()]);
        let b = (p / "bias").weight(&[out]);
        self.with(Op::Linear, &[w, b])
    }

    /// `x · wᵀ` with a weight that is a node.
    #[track_caller]
    pub fn linear_by(self, w: X<'g>) -> X<'g> {
        self.with(Op::Linear, &[w])
    }

    /// The embedding of token ids by the table at `p.weight`: `(T) → (T, C)`.
    #[track_caller]
    pub fn embed(self, p: Path<'g>, vocab: usize, channels: usize) -> X<'g> {
        (p / "weight").weight(&[vocab, channels]).gather(self)
    }

    /// RMS norm over the last axis by `p.weight + offset`.
    #[track_caller]
    pub fn rms_norm(self, p: Path<'g>, eps: f32, offset: f32) -> X<'g> {
        let w = (p / "weight").weight(&[self.shape().last()]);
        self.with(Op::RmsNorm { eps, offset }, &[w])
    }

    /// Layer norm over the last axis by `p.weight` and `p.bias`.
    #[track_caller]
    pub fn layer_norm(self, p: Path<'g>, eps: f32) -> X<'g> {
        let c = self.shape().last();
        self.with(Op::LayerNorm { eps }, &[(p / "weight").weight(&[c]), (p / "bias").weight(&[c])])
    }

    /// Group norm over `(N, C, H, W)` by `p.weight` and `p.bias`.
    #[track_caller]
    pub fn group_norm(self, p: Path<'g>, groups: usize, eps: f32) -> X<'g> {
        let c = self.dim(1);
        let (w, b) = ((p / "weight").weight(&[c]), (p / "bias").weight(&[c]));
        self.with(Op::GroupNorm { groups: groups as u32, eps }, &[w, b])
    }

    /// Rotary positions on `(T, H, D)` with inverse frequencies `(D/2)`.
    #[track_caller]
    pub fn rope(self, inv_freq: X<'g>, style: RopeStyle, mscale: f32) -> X<'g> {
        let positions = self.g.positions();
        self.with(Op::Rope { style, mscale }, &[positions, inv_freq])
    }

    /// Attention of queries `(T, H, D)` over `k` and `v` `(T, K, D)` and, unless the graph is stateless, over those
    /// of earlier runs.
    #[track_caller]
    pub fn attend(self, k: X<'g>, v: X<'g>, how: Attend) -> X<'g> {
        let (heads, dim, window) = (k.dim(1), k.dim(2), how.window);
        let state = State { heads, dim, window };
        let cache = self.g.keep_state.then(|| self.g.graph.borrow_mut().add_state(state));
        self.with(Op::Attend(Attend { cache, ..how }), &[k, v])
    }

    /// An activation.
    #[track_caller]
    pub fn act(self, act: Act) -> X<'g> {
        self.with(Op::Act(act), &[])
    }

    /// `act(self) · up`
    #[track_caller]
    pub fn glu(self, act: Act, up: X<'g>) -> X<'g> {
        self.with(Op::Glu(act), &[up])
    }

    /// Softmax over the last axis.
    #[track_caller]
    pub fn softmax(self) -> X<'g> {
        self.with(Op::Softmax, &[])
    }

    /// Mean of -log softmax of logits `(T, V)` at `targets` `(T)`, leaving out negative targets.
    #[track_caller]
    pub fn cross_entropy(self, targets: X<'g>) -> X<'g> {
        self.with(Op::CrossEntropy, &[targets])
    }

    /// Convolution to `out` channels by `p.weight` `(O, C, k, k)`, and `p.bias` when `bias`.
    #[track_caller]
    pub fn conv2d(self, p: Path<'g>, out: usize, window: Window, bias: bool) -> X<'g> {
        let k = window.kernel as usize;
        let w = (p / "weight").weight(&[out, self.dim(1), k, k]);
        if bias {
            let b = (p / "bias").weight(&[out]);
            return self.with(Op::Conv2d(window), &[w, b]);
        }
        self.with(Op::Conv2d(window), &[w])
    }

    /// Each pixel repeated `n × n`.
    #[track_caller]
    pub fn upsample(self, n: usize) -> X<'g> {
        self.with(Op::Upsample(n as u8), &[])
    }

    /// The rows the run asks for: `(T, C) → (R, C)`. When all are asked for, nothing is done.
    #[track_caller]
    pub fn rows_asked(self) -> X<'g> {
        if self.g.rows == self.g.tokens {
            return self;
        }
        let rows = self.g.input("rows", &[self.g.rows], DType::I32);
        self.gather(rows)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:ident) => {
        impl<'g> ops::$trait<X<'g>> for X<'g> {
            type Output = X<'g>;
            #[track_caller]
            fn $method(self, other: X<'g>) -> X<'g> {
                self.with(Op::Binary(Binary::$op), &[other])
            }
        }
        impl<'g> ops::$trait<f32> for X<'g> {
            type Output = X<'g>;
            #[track_caller]
            fn $method(self, other: f32) -> X<'g> {
                let other = self.g.fill(other);
                self.with(Op::Binary(Binary::$op), &[other])
            }
        }
    };
}
operator!(Add, add, Add);
operator!(Sub, sub, Sub);
operator!(Mul, mul, Mul);
operator!(Div, div, Div);

impl<'g> ops::Neg for X<'g> {
    type Output = X<'g>;
    #[track_caller]
    fn neg(self) -> X<'g> {
        self.unary(Unary::Neg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_returned_with_its_line() {
        let g = Builder::new(4, 1);
        let x = g.ids().embed(g.path("embed"), 10, 8);
        let line = line!() + 1;
        let bad = x + g.constant(vec![0.0; 3]);
        let _worse = bad.matmul(bad).glu(Act::Silu, x);
        let e = g.finish().unwrap_err();
        assert_eq!(e.message, "[add] (4, 8) and (3) do not broadcast");
        assert_eq!(e.at.unwrap().line(), line);
        assert!(e.at.unwrap().file().ends_with("build.rs"));
    }

    #[test]
    fn what_makes_no_sense_is_an_error_and_never_a_panic() {
        type Wrong = dyn for<'g> Fn(&'g Builder, X<'g>) -> X<'g>;
        let wrong: [(&str, &Wrong); 7] = [
            ("axis 2 of (2, 3)", &|_, x| x.pad(2, 1, 1)),
            ("axis 2 of (2, 3)", &|_, x| x.slice(2, 0, 1)),
            ("axis 9 of (2, 3)", &|_, x| x.sum(9)),
            ("[1, 1] is no order of the axes of (2, 3)", &|_, x| x.permute(&[1, 1])),
            ("operand 0 must be f32, not I32", &|g, _| g.ids().reshape(&[2, 2]).permute(&[1, 0])),
            ("operand 0 must be f32, not I32", &|g, _| g.ids().expand(&[2, 4])),
            ("(3) is no image", &|_, x| x.fold(Window { kernel: 1, stride: 1, padding: 0 }, &[3])),
        ];
        for (message, build) in wrong {
            let g = Builder::stateless(4);
            let x = build(&g, g.input("x", &[2, 3], DType::F32));
            // Whatever follows is poisoned too.
            x.pad(1, 1, 1).slice(1, 0, 1).transpose().mean(0);
            let e = g.finish().unwrap_err();
            assert!(e.message.contains(message), "{e}");
        }
    }

    #[test]
    fn a_weight_has_one_shape() {
        let g = Builder::new(1, 1);
        g.path("a.b").weight(&[2, 3]);
        (g.path("a") / "b").weight(&[3, 2]);
        assert_eq!(g.finish().unwrap_err().message, "a.b is (2, 3) and (3, 2)");
    }

    #[test]
    fn binding_names_what_is_missing_or_misshapen() {
        let build = || {
            let g = Builder::new(1, 1);
            let x = g.ids().embed(g.path("embed"), 10, 32);
            g.output("x", x.linear(g.path("up"), 64));
            g.finish().unwrap()
        };
        let e = build().bind(|n| (n == "embed.weight").then(|| (DType::Q8_0, vec![10, 32]))).unwrap_err();
        assert_eq!(e.to_string(), "the checkpoint lacks the tensor up.weight");
        let e = build().bind(|_| Some((DType::F16, vec![10, 32]))).unwrap_err();
        assert!(e.to_string().contains("up.weight is (10, 32)"), "{e}");
        let e =
            build().bind(|n| Some((DType::Q4_K, if n == "up.weight" { vec![64, 32] } else { vec![10, 32] })));
        assert!(e.unwrap_err().to_string().contains("no whole number of Q4_K blocks"));
    }
}
