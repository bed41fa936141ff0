//! Prompts of pictures as text encoders of CLIP's kind read them: words with weights, chunks of 75 tokens, and vectors of
//! textual inversion in a token's place. All in the manner of AUTOMATIC1111's web UI, which most prompts are written for.
//!
//! ```
//! # use hob_io::{Tokenizer, prompt::*};
//! let tokenizer = Tokenizer::clip();
//! let frame = Frame::new(&tokenizer, None).unwrap();
//! let chunks = Prompt::parse("a (red:1.3) house").chunks(&tokenizer, &frame, &Embeddings::default());
//! assert_eq!(chunks[0].ids[..5], [49406, 320, 736, 1212, 49407]);
//! assert_eq!(chunks[0].weights[..4], [1.0, 1.0, 1.3, 1.0]);
//! ```
//!
//! ComfyUI differs: there a weight moves a token's vector away from what the encoder says of an empty prompt, means are not
//! restored, `[text]` is text, and a comma does not keep words together.

mod chunk;
mod embedding;
mod parse;
mod schedule;

pub use chunk::{Chunk, Frame, weigh};
pub use embedding::{Embedding, Embeddings, Vectors};
pub use parse::{Part, Prompt};
pub use schedule::{schedule, together};

/// Tokens of a chunk, of which the first begins and the last ends it: the positions that CLIP has.
pub const TOKENS: usize = 77;
