//! The builder: model files write their mathematics with it, and no error handling.
//!
//! Handles are `Copy`. The first invalid op is remembered with the line that asked for it; its result, and all that
//! follows from it, are poisoned, and [`Builder::finish`] returns that first error.

use crate::graph::{Graph, GraphError, Node, NodeId};
use crate::op::*;
use crate::shape::Shape;
use crate::x::X;
use hob_dtype::DType;
use std::cell::{Cell, RefCell};
use std::ops;
use std::panic::Location;

/// Builds one graph for `tokens` tokens of which `rows` are asked for results.
pub struct Builder {
    pub(crate) graph: RefCell<Graph>,
    paths: RefCell<Vec<String>>,
    error: RefCell<Option<GraphError>>,
    tokens: usize,
    pub(crate) rows: usize,
    pub(crate) keep_state: bool,
    line: Cell<Option<&'static Location<'static>>>, // stands for the caller's while a graph is rewritten
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

    /// The same, with results for `rows` of the tokens.
    pub fn asking(self, rows: usize) -> Builder {
        Builder { rows, ..self }
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
    pub(crate) fn shape(&self, dims: &[usize]) -> Option<Shape> {
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
    pub(crate) fn push(&self, op: Op, inputs: &[X<'_>], wanted: Option<Shape>) -> X<'_> {
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
        let wrong: [(&str, &Wrong); 11] = [
            ("axis 2 of (2, 3)", &|_, x| x.pad(2, 1, 1)),
            ("axis 2 of (2, 3)", &|_, x| x.slice(2, 0, 1)),
            ("axis 9 of (2, 3)", &|_, x| x.sum(9)),
            ("[1, 1] is no order of the axes of (2, 3)", &|_, x| x.permute(&[1, 1])),
            ("operand 0 must be f32, not I32", &|g, _| g.ids().reshape(&[2, 2]).permute(&[1, 0])),
            ("operand 0 must be f32, not I32", &|g, _| g.ids().expand(&[2, 4])),
            ("the 0 largest of rows of (2, 3)", &|_, x| x.top_k(0)),
            ("the 4 largest of rows of (2, 3)", &|_, x| x.top_k(4)),
            ("(2, 3) by the shares (1, 4)", &|g, x| {
                let shares = g.constant(vec![0.0; 4]).reshape(&[1, 4]);
                x.experts(shares, g.path("e"), ["a", "b", "c"], 5, Act::Silu, true)
            }),
            ("takes tokens, shares and matrices", &|g, x| {
                x.experts(
                    g.constant(Vec::new()).reshape(&[2, 0]),
                    g.path("e"),
                    ["a", "b", "c"],
                    5,
                    Act::Silu,
                    false,
                )
            }),
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
