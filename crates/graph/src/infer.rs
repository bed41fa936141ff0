//! Shape rules: what an op demands of its operands, and the shape it gives.

use crate::op::{Op, Window};
use crate::shape::Shape;
use hob_dtype::DType;

/// What a rule sees of an operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// its dimensions
    pub shape: Shape,
    /// F32 or I32; a stored weight may have any format, or none yet (then F32 stands here)
    pub dtype: DType,
    /// whether it is a stored weight, which only `linear`, `matmul`, `gather`, `experts` and `conv2d` read as it lies
    pub stored: bool,
}

/// The result's shape and dtype, or what is wrong. `wanted` is the shape asked for, which the ops that do not
/// follow from their operands (leaves, reshape, expand, slice, pad, scatter_add, one_hot, fold) need.
pub fn infer(op: &Op, x: &[Operand], wanted: Option<Shape>) -> Result<(Shape, DType), String> {
    let arity = |n: usize| {
        if x.len() == n { Ok(()) } else { Err(format!("takes {n} operands, not {}", x.len())) }
    };
    let want = || wanted.ok_or_else(|| "needs the shape of its result".to_string());
    let f32s = |range: std::ops::Range<usize>| {
        for i in range {
            if !x[i].stored && x[i].dtype != DType::F32 {
                return Err(format!("operand {i} must be f32, not {}", x[i].dtype));
            }
        }
        Ok(())
    };
    let ids = |i: usize| {
        if x[i].dtype != DType::I32 {
            return Err(format!("operand {i} must be i32, not {}", x[i].dtype));
        }
        if x[i].shape.len() != 1 {
            return Err(format!("operand {i} must be (T), not {}", x[i].shape));
        }
        Ok(x[i].shape[0])
    };
    let axis_of = |axis: u8| {
        if (axis as usize) < x[0].shape.len() {
            Ok(axis as usize)
        } else {
            Err(format!("axis {axis} of {}", x[0].shape))
        }
    };
    let rank = |i: usize, n: usize| {
        if x[i].shape.len() == n {
            Ok(())
        } else {
            Err(format!("operand {i} must have {n} dimensions, not {}", x[i].shape))
        }
    };
    let vector = |i: usize, n: usize, what: &str| {
        if x[i].shape[..] == [n] { Ok(()) } else { Err(format!("{what} must be ({n}), not {}", x[i].shape)) }
    };
    let shape = |dims: &[usize]| Shape::checked(dims).ok_or_else(|| format!("{dims:?} is too large"));

    let out = match *op {
        Op::Input(_) | Op::Weight(_) | Op::Const(_) => want()?, // the caller sets the dtype
        Op::Fill(_) => Shape::SCALAR,
        Op::Positions | Op::Mask { .. } => want()?,
        Op::Unary(_) | Op::Act(_) | Op::Softmax => {
            arity(1)?;
            f32s(0..1)?;
            x[0].shape
        }
        Op::Binary(_) => {
            arity(2)?;
            f32s(0..2)?;
            Shape::broadcast(x[0].shape, x[1].shape)
                .ok_or_else(|| format!("{} and {} do not broadcast", x[0].shape, x[1].shape))?
        }
        Op::Glu(_) => {
            arity(2)?;
            f32s(0..2)?;
            if x[0].shape != x[1].shape {
                return Err(format!("gate {} and up {} differ", x[0].shape, x[1].shape));
            }
            x[0].shape
        }
        Op::Sum(axis) | Op::Max(axis) => {
            arity(1)?;
            f32s(0..1)?;
            x[0].shape.with(axis_of(axis)?, 1)
        }
        Op::TopK(k) => {
            arity(1)?;
            f32s(0..1)?;
            if k == 0 || k as usize > x[0].shape.last() {
                return Err(format!("the {k} largest of rows of {}", x[0].shape));
            }
            x[0].shape
        }
        Op::Reshape => {
            arity(1)?;
            let s = want()?;
            if s.count() != x[0].shape.count() {
                return Err(format!("{} has not the elements of {s}", x[0].shape));
            }
            return Ok((s, x[0].dtype));
        }
        Op::Permute(axes) => {
            arity(1)?;
            f32s(0..1)?;
            let n = x[0].shape.len();
            let mut seen = [false; 6];
            let mut out = x[0].shape;
            for i in 0..n {
                let a = axes.0[i] as usize;
                if a >= n || std::mem::replace(&mut seen[a], true) {
                    return Err(format!("{:?} is no order of the axes of {}", &axes.0[..n], x[0].shape));
                }
                out = out.with(i, x[0].shape[a]);
            }
            out
        }
        Op::Expand => {
            arity(1)?;
            f32s(0..1)?;
            let s = want()?;
            if Shape::broadcast(x[0].shape, s) != Some(s) {
                return Err(format!("{} does not expand to {s}", x[0].shape));
            }
            s
        }
        Op::Slice { axis, start } => {
            arity(1)?;
            let (s, a) = (want()?, axis_of(axis)?);
            let fits = s.len() == x[0].shape.len() && start + s[a] <= x[0].shape[a];
            if !fits || x[0].shape.with(a, s[a]) != s {
                return Err(format!("{s} from {start} on is no slice of {}", x[0].shape));
            }
            return Ok((s, x[0].dtype));
        }
        Op::Pad { axis, before } => {
            arity(1)?;
            f32s(0..1)?;
            let (s, a) = (want()?, axis_of(axis)?);
            let fits = s.len() == x[0].shape.len() && before + x[0].shape[a] <= s[a];
            if !fits || x[0].shape.with(a, s[a]) != s {
                return Err(format!("{} does not pad to {s}", x[0].shape));
            }
            s
        }
        Op::Concat(axis) => {
            if x.is_empty() {
                return Err("takes at least one operand".into());
            }
            f32s(0..x.len())?;
            let a = axis_of(axis)?;
            let mut dim = 0;
            for o in x {
                if o.shape.len() != x[0].shape.len() || o.shape.with(a, x[0].shape[a]) != x[0].shape {
                    return Err(format!("{} does not continue {} along axis {a}", o.shape, x[0].shape));
                }
                dim += o.shape[a];
            }
            x[0].shape.with(a, dim)
        }
        Op::MatMul => {
            arity(2)?;
            f32s(0..2)?;
            let (a, b) = (x[0].shape, x[1].shape);
            let n = a.len();
            if n < 2 || b.len() != n || a[..n - 2] != b[..n - 2] || a[n - 1] != b[n - 2] {
                return Err(format!("{a} × {b}"));
            }
            a.with(n - 1, b[n - 1])
        }
        Op::Gather => {
            arity(2)?;
            f32s(0..1)?;
            rank(0, 2)?;
            shape(&[ids(1)?, x[0].shape[1]])?
        }
        Op::ScatterAdd => {
            arity(2)?;
            f32s(0..1)?;
            let s = want()?;
            if x[0].shape.len() != 2 || s.len() != 2 || ids(1)? != x[0].shape[0] || s[1] != x[0].shape[1] {
                return Err(format!("rows {} do not scatter to {s}", x[0].shape));
            }
            s
        }
        Op::OneHot => {
            arity(1)?;
            let s = want()?;
            if s.len() != 2 || s[0] != ids(0)? {
                return Err(format!("{} ids do not make {s}", x[0].shape));
            }
            s
        }
        Op::Unfold(w) => {
            arity(1)?;
            f32s(0..1)?;
            rank(0, 4)?;
            let s = x[0].shape;
            let (h, v) = steps(w, s[2], s[3])?;
            shape(&[s[0], s[1] * (w.kernel as usize).pow(2), h * v])?
        }
        Op::Fold(w) => {
            arity(1)?;
            f32s(0..1)?;
            let s = want()?;
            if s.len() != 4 {
                return Err(format!("{s} is no image"));
            }
            let (h, v) = steps(w, s[2], s[3])?;
            if x[0].shape[..] != [s[0], s[1] * (w.kernel as usize).pow(2), h * v] {
                return Err(format!("{} does not fold to {s}", x[0].shape));
            }
            s
        }
        Op::Linear => {
            if x.len() != 3 {
                arity(2)?;
            }
            f32s(0..x.len())?;
            rank(1, 2)?;
            let (n, k) = (x[1].shape[0], x[1].shape[1]);
            if x[0].shape.is_empty() || x[0].shape.last() != k {
                return Err(format!("{} by a weight of {}", x[0].shape, x[1].shape));
            }
            if x.len() == 3 {
                vector(2, n, "the bias")?;
            }
            x[0].shape.with(x[0].shape.len() - 1, n)
        }
        Op::RmsNorm { .. } => {
            f32s(0..x.len())?;
            if x.len() != 1 {
                arity(2)?;
                vector(1, x[0].shape.last(), "the weight")?;
            }
            x[0].shape
        }
        Op::LayerNorm { .. } => {
            f32s(0..x.len())?;
            if x.len() != 1 {
                arity(3)?;
                vector(1, x[0].shape.last(), "the weight")?;
                vector(2, x[0].shape.last(), "the bias")?;
            }
            x[0].shape
        }
        Op::GroupNorm { groups, .. } => {
            arity(3)?;
            f32s(0..3)?;
            rank(0, 4)?;
            let c = x[0].shape[1];
            if groups == 0 || !c.is_multiple_of(groups as usize) {
                return Err(format!("{c} channels in {groups} groups"));
            }
            vector(1, c, "the weight")?;
            vector(2, c, "the bias")?;
            x[0].shape
        }
        Op::Rope { .. } => {
            arity(3)?;
            f32s(0..3)?;
            rank(0, 3)?;
            rank(2, 1)?;
            if x[1].shape[..] != [x[0].shape[0], x[2].shape[0]] {
                vector(1, x[0].shape[0], "positions")?;
            }
            if x[2].shape[0] * 2 > x[0].shape[2] {
                return Err(format!("{} frequencies for heads of {}", x[2].shape[0], x[0].shape[2]));
            }
            x[0].shape
        }
        Op::Attend(_) => {
            arity(3)?;
            f32s(0..3)?;
            let (q, k, v) = (x[0].shape, x[1].shape, x[2].shape);
            if q.len() != 3
                || k.len() != 3
                || k != v
                || q[0] != k[0]
                || q[2] != k[2]
                || !q[1].is_multiple_of(k[1])
            {
                return Err(format!("q {q}, k {k}, v {v}"));
            }
            q
        }
        Op::CrossAttend(how) => {
            if x.len() != 4 {
                arity(3)?;
            }
            f32s(0..x.len())?;
            let (q, k, v, n) = (x[0].shape, x[1].shape, x[2].shape, how.parts as usize);
            let fine = q.len() == 3 && k.len() == 3 && k == v && q[2] == k[2];
            if !fine || k[1] == 0 || !q[1].is_multiple_of(k[1]) {
                return Err(format!("q {q}, k {k}, v {v}"));
            }
            if n == 0 || !q[0].is_multiple_of(n) || !k[0].is_multiple_of(n) || k[0] == 0 {
                return Err(format!("{} queries and {} keys in {n} parts", q[0], k[0]));
            }
            if how.causal && q[0] != k[0] {
                return Err(format!("{} causal queries of {} keys", q[0], k[0]));
            }
            if x.len() == 4 && x[3].shape[..] != [q[1], ((q[0] + k[0]) / n).saturating_sub(1)] {
                return Err(format!("q {q} and k {k} in {n} parts with a bias of {}", x[3].shape));
            }
            q
        }
        Op::Experts(_) => {
            f32s(0..x.len())?;
            if x.len() < 5 {
                return Err(format!("takes tokens, shares and matrices, not {} operands", x.len()));
            }
            rank(0, 2)?;
            rank(1, 2)?;
            let (c, e, own) = (x[0].shape[1], x[1].shape[1], x[2].shape.len() == 2);
            let f = x[2].shape.iter().nth_back(1).copied().unwrap_or(0);
            if x[1].shape[0] != x[0].shape[0] {
                return Err(format!("{} by the shares {}", x[0].shape, x[1].shape));
            }
            if x.len() - 2 != if own { 3 * e } else { 3 } {
                return Err(format!("{} matrices for {e} experts", x.len() - 2));
            }
            for k in 2..x.len() {
                let right = [[e, f, c], [e, f, c], [e, c, f]][(k - 2) % 3];
                let right = shape(&right[own as usize..])?;
                if x[k].shape != right {
                    return Err(format!("operand {k} must be {right}, not {}", x[k].shape));
                }
            }
            x[0].shape
        }
        Op::CrossEntropy => {
            arity(2)?;
            f32s(0..1)?;
            rank(0, 2)?;
            if ids(1)? != x[0].shape[0] {
                return Err(format!("logits {} for targets {}", x[0].shape, x[1].shape));
            }
            Shape::SCALAR
        }
        Op::Conv2d(w) => {
            if x.len() != 3 {
                arity(2)?;
            }
            f32s(0..x.len())?;
            rank(0, 4)?;
            rank(1, 4)?;
            let (s, k) = (x[0].shape, w.kernel as usize);
            if x[1].shape[1..] != [s[1], k, k] {
                return Err(format!("{s} by a kernel of {}", x[1].shape));
            }
            if x.len() == 3 {
                vector(2, x[1].shape[0], "the bias")?;
            }
            let (h, v) = steps(w, s[2], s[3])?;
            shape(&[s[0], x[1].shape[0], h, v])?
        }
        Op::Upsample(n) => {
            arity(1)?;
            f32s(0..1)?;
            rank(0, 4)?;
            let s = x[0].shape;
            shape(&[s[0], s[1], s[2] * n as usize, s[3] * n as usize])?
        }
    };
    Ok((out, DType::F32))
}

fn steps(w: Window, h: usize, v: usize) -> Result<(usize, usize), String> {
    match (w.steps(h), w.steps(v)) {
        (Some(h), Some(v)) => Ok((h, v)),
        _ => Err(format!("a window of {} does not fit {h} × {v}", w.kernel)),
    }
}
