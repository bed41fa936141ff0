//! One graph, three uses: it is run, planned and differentiated.
//!
//! A model file writes its mathematics with [`Builder`]; the result is a [`Graph`]. [`Plan`] knows every byte of a
//! run before a weight is read, [`grad()`] extends a graph by its gradient, [`lora`] rewrites its linear layers.
//! This crate does no I/O, knows no device and no file format.

pub mod batch;
pub mod build;
pub mod compose;
pub mod grad;
pub mod graph;
pub mod infer;
pub mod lora;
pub mod op;
pub mod plan;
pub mod print;
pub mod scale;
pub mod shape;
pub mod x;

pub use batch::{Batch, Data, GONE, Seq};
pub use build::{Builder, Path};
pub use grad::grad;
pub use graph::{Graph, GraphError, Node, NodeId};
pub use hob_dtype::DType;
pub use op::{Act, Attend, Axes, Binary, Cross, Op, RopeStyle, StateId, Unary, WeightId, Window};
pub use plan::{Place, Plan, Scratch};
pub use shape::Shape;
pub use x::X;
