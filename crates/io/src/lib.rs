//! Model files, tokenizers and chat templates.
//!
//! Everything read here is foreign: each count, length and offset is checked against the file's size before it is
//! believed, and an error is one sentence that names the file and what to do.

pub mod adapter;
pub mod calendar;
pub mod chat;
mod checkpoint;
pub mod config;
mod error;
pub mod gguf;
pub mod lora;
mod map;
pub mod modelfile;
pub mod names;
pub mod onnx;
pub mod picture;
pub mod pipeline;
pub mod prompt;
pub mod safetensors;
mod tensor;
pub mod tokenizer;
mod weights;

pub use adapter::Adapter;
pub use chat::Chat;
pub use checkpoint::{Checkpoint, model_among};
pub use error::{Error, Result};
pub use gguf::Gguf;
pub use lora::Lora;
pub use onnx::Onnx;
pub use picture::Picture;
pub use pipeline::Pipeline;
pub use safetensors::Safetensors;
pub use tensor::Tensor;
pub use tokenizer::Tokenizer;
