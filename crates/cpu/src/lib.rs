//! The CPU backend: a naive reference of every op, fast kernels beside it, threads, and the executor.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod ceiling;
pub mod exec;
pub mod isa;
pub mod kv;
pub mod math;
pub mod ops;
pub mod packing;
mod quant;
pub mod reference;
pub mod threads;
pub mod weights;

pub use ceiling::Ceilings;
pub use exec::{Call, Cpu, Precision, Program, View};
pub use kv::{Kv, KvTypes};
pub use packing::Packing;
pub use threads::Pool;
pub use weights::{Buffer, Source, Tensor, Weights};
