//! What fits: shapes of real models, the formats of their weights, GPUs that people own, and rows by formula.

pub mod formula;
pub mod gpus;
pub mod overview;
pub mod picture;
pub mod plan;
pub mod planner;
pub mod quants;
pub mod subject;
pub mod verdict;
pub mod zoo;
