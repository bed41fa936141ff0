//! The gradient, as more of the graph: one rule per primitive, and one for `linear`, whose weight stays as stored.

use crate::build::Builder;
use crate::compose::lower;
use crate::graph::{Graph, GraphError, NodeId};
use crate::op::*;
use crate::x::X;

/// The graph of `loss` (a scalar output) extended by its gradients with respect to `wrt` (names of weights), as
/// outputs called `grad:NAME`. Attention sees the tokens of the run only. Errors when `loss` is no scalar output.
pub fn grad(graph: &Graph, loss: &str, wrt: &[&str]) -> Result<Graph, GraphError> {
    let fail = |message: String| GraphError { message, at: None };
    // A bias or a stored kernel has no special rule: only the product with a stored weight stays whole.
    let low = lower(graph, |op| op.is_composition() && *op != Op::Linear)?;
    let end = low.output(loss).ok_or_else(|| fail(format!("the graph has no output called {loss}")))?;
    if low.node(end).shape.count() != 1 {
        return Err(fail(format!("{loss} is {}, not a single number", low.node(end).shape)));
    }
    let ids: Vec<WeightId> = wrt
        .iter()
        .map(|n| low.weight(n).ok_or_else(|| fail(format!("the graph has no weight called {n}"))))
        .collect::<Result<_, _>>()?;

    let nodes = low.nodes.clone();
    let mut needed = vec![false; nodes.len()];
    for (i, n) in nodes.iter().enumerate() {
        needed[i] = match n.op {
            Op::Weight(w) => ids.contains(&w),
            _ => n.inputs.iter().any(|i| needed[i.index()]),
        };
    }
    let g = Builder::over(low);
    let mut grads: Vec<Option<X>> = vec![None; nodes.len()];
    grads[end.index()] = Some(g.fill(1.0).reshape(&nodes[end.index()].shape));
    for i in (0..=end.index()).rev() {
        let (Some(dy), true) = (grads[i], needed[i]) else { continue };
        g.say_lines_of(&nodes[i]);
        let x: Vec<X> = nodes[i].inputs.iter().map(|&id| g.at(id)).collect();
        let y = g.at(NodeId(i as u32));
        for (k, input) in nodes[i].inputs.iter().enumerate() {
            if !needed[input.index()] {
                continue;
            }
            if let Some(d) = rule(&nodes[i].op, k, &x, y, dy) {
                let sum = &mut grads[input.index()];
                *sum = Some(sum.map_or(d, |s| s + d));
            }
        }
    }
    for (name, id) in wrt.iter().zip(&ids) {
        let uses = nodes.iter().zip(&grads).filter(|(n, _)| n.op == Op::Weight(*id)).filter_map(|(_, d)| *d);
        let total =
            uses.reduce(|a, b| a + b).ok_or_else(|| fail(format!("{loss} does not depend on {name}")))?;
        g.output(&format!("grad:{name}"), total);
    }
    g.finish()
}

/// The part of the loss's gradient that reaches operand `k` of `op`, where `dy` reached its result `y`; `None`
/// where the op is flat.
fn rule<'g>(op: &Op, k: usize, x: &[X<'g>], y: X<'g>, dy: X<'g>) -> Option<X<'g>> {
    let dims = x[k].shape();
    let rank = dims.len();
    Some(match *op {
        Op::Unary(f) => match f {
            Unary::Neg => -dy,
            Unary::Exp => dy * y,
            Unary::Log => dy / x[0],
            Unary::Sqrt => dy * 0.5 / y,
            Unary::Recip => -(dy * y * y),
            Unary::Sin => dy * x[0].unary(Unary::Cos),
            Unary::Cos => -(dy * x[0].unary(Unary::Sin)),
            Unary::Tanh => dy - dy * y * y,
            Unary::Sigmoid => dy * y * (-y + 1.0),
            Unary::Erf => dy * (-(x[0] * x[0])).exp() * std::f32::consts::FRAC_2_SQRT_PI,
            Unary::Relu => dy * x[0].unary(Unary::Step),
            Unary::Step => return None,
        },
        Op::Binary(f) => match (f, k) {
            (Binary::Add, _) | (Binary::Sub, 0) => dy,
            (Binary::Sub, _) => -dy,
            (Binary::Mul, _) => dy * x[1 - k],
            (Binary::Div, 0) => dy / x[1],
            (Binary::Div, _) => -(dy * y / x[1]),
        }
        .unbroadcast(&dims),
        Op::Sum(_) => dy.expand(&dims),
        // Where several are largest they share the gradient, as a subgradient may.
        Op::Max(axis) => {
            let is_max = -(y - x[0]).unary(Unary::Step) + 1.0;
            dy * is_max / is_max.sum(axis as usize)
        }
        Op::Reshape => dy.reshape(&dims),
        Op::Permute(axes) => {
            let mut back = vec![0; rank];
            for i in 0..rank {
                back[axes.0[i] as usize] = i;
            }
            dy.permute(&back)
        }
        Op::Expand => dy.unbroadcast(&dims),
        Op::Slice { axis, start } => {
            let a = axis as usize;
            dy.pad(a, start, dims[a] - start - y.dim(a))
        }
        Op::Pad { axis, before } => dy.slice(axis as usize, before, dims[axis as usize]),
        Op::Concat(axis) => {
            let a = axis as usize;
            dy.slice(a, x[..k].iter().map(|x| x.dim(a)).sum(), dims[a])
        }
        Op::MatMul => match k {
            0 => dy.matmul(x[1].transpose()),
            _ => x[0].transpose().matmul(dy),
        },
        Op::Gather => match k {
            0 => dy.scatter_add(x[1], dims[0]),
            _ => return None,
        },
        Op::ScatterAdd => match k {
            0 => dy.gather(x[1]),
            _ => return None,
        },
        Op::Unfold(w) => dy.fold(w, &dims),
        Op::Fold(w) => dy.unfold(w),
        Op::Linear => {
            let flat = |x: X<'g>| x.reshape(&[x.shape().rows(), x.shape().last()]);
            match k {
                0 => flat(dy).matmul(x[1]).reshape(&dims),
                1 => flat(dy).transpose().matmul(flat(x[0])),
                _ => flat(dy).unbroadcast(&dims),
            }
        }
        Op::OneHot
        | Op::TopK(_)
        | Op::Input(_)
        | Op::Weight(_)
        | Op::Const(_)
        | Op::Fill(_)
        | Op::Positions
        | Op::Mask { .. } => {
            return None;
        }
        Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::GroupNorm { .. }
        | Op::Rope { .. }
        | Op::Attend(_)
        | Op::CrossAttend(_)
        | Op::Act(_)
        | Op::Glu(_)
        | Op::Experts(_)
        | Op::Softmax
        | Op::CrossEntropy
        | Op::Conv2d(_)
        | Op::Upsample(_) => {
            unreachable!("{} is spelt out before it is differentiated", op.name())
        }
    })
}

impl<'g> X<'g> {
    /// Summed over what broadcasting to this shape had repeated: back to `dims`.
    fn unbroadcast(self, dims: &[usize]) -> X<'g> {
        let mut x = self;
        let extra = x.shape().len().saturating_sub(dims.len());
        for axis in 0..x.shape().len() {
            let stretched = axis < extra || dims[axis - extra] == 1;
            if stretched && x.dim(axis) != 1 {
                x = x.sum(axis);
            }
        }
        x.reshape(dims)
    }
}
