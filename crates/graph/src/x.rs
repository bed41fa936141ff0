//! Handles on tensors in the making, and all that can be done with them.

use crate::build::{Builder, Path};
use crate::graph::{NodeId, State};
use crate::op::*;
use crate::shape::{MAX_RANK, Shape};
use hob_dtype::DType;
use std::ops;

/// A tensor in the making.
#[derive(Clone, Copy)]
pub struct X<'g> {
    pub(crate) g: &'g Builder,
    /// `None`: poisoned
    pub(crate) id: Option<NodeId>,
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

    /// 1 at the `k` largest of each row, else 0; of equal ones the first count.
    #[track_caller]
    pub fn top_k(self, k: usize) -> X<'g> {
        self.with(Op::TopK(k.try_into().unwrap_or(u16::MAX)), &[])
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

    /// RMS norm over the last axis by nothing.
    #[track_caller]
    pub fn rms_norm_plain(self, eps: f32) -> X<'g> {
        self.with(Op::RmsNorm { eps, offset: 0.0 }, &[])
    }

    /// Layer norm over the last axis by nothing.
    #[track_caller]
    pub fn layer_norm_plain(self, eps: f32) -> X<'g> {
        self.with(Op::LayerNorm { eps }, &[])
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

    /// Rotary positions on `(T, H, D)` with inverse frequencies `(D/2)`, at positions `(T)` or `(T, D/2)`.
    #[track_caller]
    pub fn rope_at(self, positions: X<'g>, inv_freq: X<'g>, style: RopeStyle, mscale: f32) -> X<'g> {
        self.with(Op::Rope { style, mscale }, &[positions, inv_freq])
    }

    /// Attention of queries `(N·T, H, D)` over `k` and `v` `(N·S, K, D)` in N parts, with a bias `(H, T + S - 1)` by distance.
    #[track_caller]
    pub fn cross_attend(self, k: X<'g>, v: X<'g>, how: Cross, bias: Option<X<'g>>) -> X<'g> {
        match bias {
            Some(bias) => self.with(Op::CrossAttend(how), &[k, v, bias]),
            None => self.with(Op::CrossAttend(how), &[k, v]),
        }
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

    /// Gated MLPs of which each token takes some: `x (T, C)` by the experts that `shares` `(T, E)` are not 0 for. The
    /// matrices of gate, up `(E, inner, C)` and down `(E, C, inner)` are at `p.NAME.weight`, or, where the checkpoint
    /// has them not `stacked`, each expert's at `p.NUMBER.NAME.weight`.
    #[track_caller]
    pub fn experts(
        self,
        shares: X<'g>,
        p: Path<'g>,
        names: [&str; 3],
        inner: usize,
        act: Act,
        stacked: bool,
    ) -> X<'g> {
        let (c, e) = (self.shape().last(), shares.shape().last());
        let dims = [[inner, c], [inner, c], [c, inner]];
        let mut others = vec![shares];
        if stacked {
            others.extend((0..3).map(|k| (p / names[k] / "weight").weight(&[e, dims[k][0], dims[k][1]])));
        } else {
            let matrix = |i: usize| (p / (i / 3) / names[i % 3] / "weight").weight(&dims[i % 3]);
            others.extend((0..3 * e).map(matrix));
        }
        self.with(Op::Experts(act), &others)
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

    /// Convolution by a weight `(O, C, k, k)` that is a node.
    #[track_caller]
    pub fn conv2d_by(self, w: X<'g>, window: Window) -> X<'g> {
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
        if self.g.rows == self.g.tokens() {
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
