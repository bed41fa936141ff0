//! Generate, sample, tune: what turns graphs into answers.
//!
//! The engine speaks token ids; text, stopping words and measures are the caller's.

mod adapter;
pub mod cache;
mod cost;
pub mod diffuse;
pub mod embed;
mod error;
mod group;
pub mod lora;
pub mod memory;
mod model;
pub mod near;
mod outline;
mod pages;
pub mod rates;
pub mod sample;
pub mod scheduler;
mod session;
mod stored;
mod tree;
pub mod tune;

pub use cache::Cache;
pub use cost::{Cost, cost, work};
pub use embed::{Embedder, Pooling, Reranker};
pub use error::{Error, Result};
pub use group::Group;
pub use hob_cpu::ceiling::in_int8;
pub use hob_cpu::{Ceilings, Cpu, KvTypes, Pool, Precision, isa};
pub use hob_graph::{DType, Graph, NodeId, Op};
pub use memory::Budget;
pub use model::{CHUNK, Model, Options};
pub use outline::{Footprint, Outline, Residency, Room, is_known, layer_of};
pub use rates::{AttendRate, LinearRate, Rates, Speeds};
pub use sample::{Sampler, Sampling};
pub use scheduler::{Event, Guess, Limits, Out, Request, Rule, Scheduler, Tally, Token};
pub use session::{Generate, Session, Stop};
