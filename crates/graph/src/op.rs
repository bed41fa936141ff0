//! Every op there is, in one closed enum: a backend, a rule or a printer that forgets one does not compile.
//!
//! *Primitives* have a reference kernel, a shape rule ([`crate::infer`]) and a gradient rule ([`crate::grad`]).
//! *Compositions* are defined by primitives ([`crate::compose`]); a backend may have fast kernels for them, and
//! their definition is the specification, oracle, fallback and gradient of those kernels.

use crate::shape::MAX_RANK;

/// A weight of the graph, in the order of first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A tensor given at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputId(pub u32);

/// Numbers baked into the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConstId(pub u32);

/// Memory that outlives a run: the keys and values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateId(pub u32);

/// An order of axes: output axis `i` is input axis `axes[i]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axes(pub [u8; MAX_RANK]);

/// Elementwise functions of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// -x
    Neg,
    /// e^x
    Exp,
    /// natural logarithm
    Log,
    /// square root
    Sqrt,
    /// 1 / x
    Recip,
    /// sine, radians
    Sin,
    /// cosine, radians
    Cos,
    /// hyperbolic tangent
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// the error function
    Erf,
    /// max(x, 0)
    Relu,
    /// 1 where x > 0, else 0: the derivative of `Relu`; its own gradient is zero
    Step,
}

/// Elementwise functions of two numbers, broadcast as numpy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

/// The activations that gate or follow a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// x · sigmoid(x) (Elfwing et al. 2017; "swish")
    Silu,
    /// x · Φ(x), by tanh (Hendrycks & Gimpel 2016): PyTorch's `approximate="tanh"`
    GeluTanh,
    /// x · Φ(x), by the error function
    Gelu,
    /// x · sigmoid(1.702 x) (Hendrycks & Gimpel 2016): CLIP's `quick_gelu`
    GeluQuick,
}

/// Which elements rotary embedding pairs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(x[i], x[i + D/2])`, as Hugging Face checkpoints do
    Halves,
    /// `(x[2i], x[2i + 1])`, as the original paper and GGUF's llama do
    Pairs,
}

/// What distinguishes one attention from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// factor on q·k before the softmax
    pub scale: f32,
    /// a token sees this many tokens back, itself included, and as many ahead unless causal; all when `None`
    pub window: Option<usize>,
    /// scores become cap · tanh(score / cap)
    pub softcap: Option<f32>,
    /// whether a token sees only itself and what came before it
    pub causal: bool,
    /// keys and values of earlier runs; `None` where a run holds whole sequences (training, encoders)
    pub cache: Option<StateId>,
}

/// Attention whose keys may come from elsewhere, over parts known when the graph is built: of pictures, and of what
/// describes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cross {
    /// factor on q·k before the softmax
    pub scale: f32,
    /// queries and keys are so many equal parts, each of which sees its own alone
    pub parts: u32,
    /// whether a query sees only as many keys as it has queries before it, and its own
    pub causal: bool,
}

/// An operation of the graph. Shapes: T tokens, C channels, H heads, D per head, V vocabulary, N batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    // ── leaves ──
    /// A tensor given at run time.
    Input(InputId),
    /// A weight, as stored in the checkpoint.
    Weight(WeightId),
    /// Numbers baked into the graph.
    Const(ConstId),
    /// One number, as a scalar.
    Fill(f32),
    /// Position of each token in its sequence, `(T)`, f32.
    Positions,
    /// `(T, T)`: 0 where the row's token may see the column's, else -inf.
    Mask {
        /// see [`Attend::window`]
        window: Option<usize>,
        /// see [`Attend::causal`]
        causal: bool,
    },

    // ── primitives ──
    /// Elementwise, one operand.
    Unary(Unary),
    /// Elementwise, two operands, broadcast.
    Binary(Binary),
    /// Sum along an axis, which stays as 1.
    Sum(u8),
    /// Largest along an axis, which stays as 1.
    Max(u8),
    /// 1 at the so many largest along the last axis, else 0; of equal ones the first count. Its gradient is zero.
    TopK(u16),
    /// The same numbers in another shape.
    Reshape,
    /// Axes in another order.
    Permute(Axes),
    /// Dimensions of 1 repeated to the node's shape.
    Expand,
    /// `len` entries of `axis` from `start` on (`len` is the node's dimension).
    #[allow(missing_docs)]
    Slice { axis: u8, start: usize },
    /// Zeros before and after along `axis` (the node's dimension tells how many after).
    #[allow(missing_docs)]
    Pad { axis: u8, before: usize },
    /// Operands one after another along an axis.
    Concat(u8),
    /// `(B…, M, K) × (B…, K, N) → (B…, M, N)`; the right operand may be a stored weight.
    MatMul,
    /// Rows by number: `(V, C), (T) → (T, C)`; the table may be a stored weight.
    Gather,
    /// Adds rows to where they came from: `(T, C), (T) → (V, C)`, the gradient of `Gather`.
    ScatterAdd,
    /// `(T) → (T, V)`: 1 at the given column; a row of zeros where the number is none of 0..V.
    OneHot,
    /// Patches of an image: `(N, C, H, W) → (N, C·k·k, H'·W')`, zero padded.
    Unfold(Window),
    /// Adds patches to where they came from: the gradient of `Unfold`, to the node's `(N, C, H, W)`.
    Fold(Window),

    // ── compositions ──
    /// `x (T, K), w (N, K) [, b (N)] → (T, N)`: x · wᵀ + b; w as stored.
    Linear,
    /// `x / sqrt(mean(x²) + eps) · (w + offset)` over the last axis (Zhang & Sennrich 2019); without w where x is alone.
    #[allow(missing_docs)]
    RmsNorm { eps: f32, offset: f32 },
    /// `(x - mean) / sqrt(var + eps) · w + b` over the last axis (Ba et al. 2016); without w and b where x is alone.
    #[allow(missing_docs)]
    LayerNorm { eps: f32 },
    /// The same over groups of channels of `(N, C, H, W)` (Wu & He 2018).
    #[allow(missing_docs)]
    GroupNorm { groups: u32, eps: f32 },
    /// Rotary positions on `(T, H, D)`, given positions `(T)`, or `(T, D/2)` where each pair has its own, and inverse
    /// frequencies `(D/2)` (Su et al. 2021); sine and cosine are multiplied by `mscale`, which only YaRN sets apart from 1.
    #[allow(missing_docs)]
    Rope { style: RopeStyle, mscale: f32 },
    /// `q (T, H, D), k (T, K, D), v (T, K, D) → (T, H, D)`: softmax(q·kᵀ) · v, H/K query heads a key head.
    Attend(Attend),
    /// `q (N·T, H, D), k (N·S, K, D), v (N·S, K, D) [, bias (H, T + S - 1)] → (N·T, H, D)`: softmax(q·kᵀ) · v in N parts,
    /// H/K query heads a key head. The bias is added to scores by distance: key j has column `j - i + T - 1` of query i.
    CrossAttend(Cross),
    /// An activation.
    Act(Act),
    /// `gate, up → act(gate) · up` (Shazeer 2020).
    Glu(Act),
    /// Gated MLPs side by side, each token's results added up by its shares (Shazeer et al. 2017):
    /// `x (T, C), shares (T, E), gate (E, F, C), up (E, F, C), down (E, C, F) → (T, C)`, or with the three matrices of
    /// each expert as operands of their own, `(F, C), (F, C), (C, F)`. An expert whose share is 0 counts for nothing,
    /// whatever it holds.
    Experts(Act),
    /// Softmax over the last axis.
    Softmax,
    /// `(T, V), (T) → ()`: mean of -log softmax at the targets; a negative target leaves its row out.
    CrossEntropy,
    /// `x (N, C, H, W), w (O, C, k, k) [, b (O)] → (N, O, H', W')`.
    Conv2d(Window),
    /// Each pixel of `(N, C, H, W)` repeated `n × n`.
    Upsample(u8),
}

/// A square window moved over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub kernel: u8,
    pub stride: u8,
    pub padding: u8,
}

impl Window {
    /// Positions of the window along a side of `n` pixels; `None` where it does not fit once.
    pub fn steps(&self, n: usize) -> Option<usize> {
        let room = (n + 2 * self.padding as usize).checked_sub(self.kernel as usize)?;
        (self.stride > 0).then(|| room / self.stride as usize + 1)
    }
}

impl Op {
    /// Whether the op is defined by other ops.
    pub fn is_composition(&self) -> bool {
        use Op::*;
        match self {
            Linear
            | RmsNorm { .. }
            | LayerNorm { .. }
            | GroupNorm { .. }
            | Rope { .. }
            | Attend(_)
            | CrossAttend(_)
            | Act(_)
            | Glu(_)
            | Experts(_)
            | Softmax
            | CrossEntropy
            | Conv2d(_)
            | Upsample(_) => true,
            Input(_)
            | Weight(_)
            | Const(_)
            | Fill(_)
            | Positions
            | Mask { .. }
            | Unary(_)
            | Binary(_)
            | Sum(_)
            | Max(_)
            | TopK(_)
            | Reshape
            | Permute(_)
            | Expand
            | Slice { .. }
            | Pad { .. }
            | Concat(_)
            | MatMul
            | Gather
            | ScatterAdd
            | OneHot
            | Unfold(_)
            | Fold(_) => false,
        }
    }

    /// The op's name: that of its kernel file in every backend.
    pub fn name(&self) -> &'static str {
        use Op::*;
        match self {
            Input(_) => "input",
            Weight(_) => "weight",
            Const(_) => "const",
            Fill(_) => "fill",
            Positions => "positions",
            Mask { .. } => "mask",
            Unary(u) => match u {
                self::Unary::Neg => "neg",
                self::Unary::Exp => "exp",
                self::Unary::Log => "log",
                self::Unary::Sqrt => "sqrt",
                self::Unary::Recip => "recip",
                self::Unary::Sin => "sin",
                self::Unary::Cos => "cos",
                self::Unary::Tanh => "tanh",
                self::Unary::Sigmoid => "sigmoid",
                self::Unary::Erf => "erf",
                self::Unary::Relu => "relu",
                self::Unary::Step => "step",
            },
            Binary(b) => match b {
                self::Binary::Add => "add",
                self::Binary::Sub => "sub",
                self::Binary::Mul => "mul",
                self::Binary::Div => "div",
            },
            Sum(_) => "sum",
            Max(_) => "max",
            TopK(_) => "top_k",
            Reshape => "reshape",
            Permute(_) => "permute",
            Expand => "expand",
            Slice { .. } => "slice",
            Pad { .. } => "pad",
            Concat(_) => "concat",
            MatMul => "matmul",
            Gather => "gather",
            ScatterAdd => "scatter_add",
            OneHot => "one_hot",
            Unfold(_) => "unfold",
            Fold(_) => "fold",
            Linear => "linear",
            RmsNorm { .. } => "rms_norm",
            LayerNorm { .. } => "layer_norm",
            GroupNorm { .. } => "group_norm",
            Rope { .. } => "rope",
            Attend(_) => "attend",
            CrossAttend(_) => "cross_attend",
            Act(a) => match a {
                self::Act::Silu => "silu",
                self::Act::GeluTanh => "gelu_tanh",
                self::Act::Gelu => "gelu",
                self::Act::GeluQuick => "gelu_quick",
            },
            Glu(_) => "glu",
            Experts(_) => "experts",
            Softmax => "softmax",
            CrossEntropy => "cross_entropy",
            Conv2d(_) => "conv2d",
            Upsample(_) => "upsample",
        }
    }
}
