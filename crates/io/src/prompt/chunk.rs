//! From parts of a prompt to chunks of tokens, and weights into what an encoder says of them: A1111's
//! `modules/sd_hijack_clip.py` (`tokenize_line`, `process_tokens`) and `modules/sd_emphasis.py` (`EmphasisOriginal`).

use super::{Embeddings, Part, Prompt, TOKENS};
use crate::Tokenizer;

/// Tokens of a prompt in a chunk.
const ROOM: usize = TOKENS - 2;
/// How many tokens after a comma are moved to the next chunk rather than parted.
const BACK: usize = 20;

/// The tokens that a chunk is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// begins a chunk
    pub bos: u32,
    /// ends it
    pub eos: u32,
    /// fills it up: the same in CLIP, 0 in OpenCLIP (Stable Diffusion 2, SDXL's second encoder)
    pub pad: u32,
    /// parts phrases
    pub comma: Option<u32>,
}

impl Frame {
    /// Those of a tokenizer of CLIP's kind; `pad` where another one fills up than it says.
    ///
    /// Errors: it names none that begin and end texts.
    pub fn new(tokenizer: &Tokenizer, pad: Option<u32>) -> Result<Frame, String> {
        let (bos, eos) = tokenizer
            .bos_id()
            .zip(tokenizer.eos_ids().first().copied())
            .ok_or("the tokenizer of this model names no tokens that begin and end a text")?;
        let comma = match tokenizer.encode(",", false)[..] {
            [comma] => Some(comma),
            _ => None,
        };
        Ok(Frame { bos, eos, pad: pad.or(tokenizer.pad_id()).unwrap_or(eos), comma })
    }
}

/// What an encoder reads at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// the tokens; 0 where vectors stand
    pub ids: [u32; TOKENS],
    /// how much of each is wanted
    pub weights: [f32; TOKENS],
    /// where vectors of textual inversion begin, and which of [`Embeddings`] they are, in order
    pub vectors: Vec<(usize, usize)>,
}

impl Chunk {
    /// A chunk that says nothing, such as fills up the shorter of two prompts.
    pub fn empty(frame: &Frame) -> Chunk {
        Growing::default().finish(frame)
    }

    /// Writes the chunk's vectors, each `(V, channels)`, into `given` `(TOKENS, channels)`, and 0 into `keep` `(TOKENS)` at
    /// their tokens; the rest of `given` becomes 0 and of `keep` 1. These are inputs of `hob_models::clip`.
    pub fn place(&self, embeddings: &Embeddings, channels: usize, keep: &mut [f32], given: &mut [f32]) {
        keep.fill(1.0);
        given.fill(0.0);
        for &(at, which) in &self.vectors {
            let values = embeddings.values(which);
            keep[at..at + values.len() / channels].fill(0.0);
            given[at * channels..at * channels + values.len()].copy_from_slice(values);
        }
    }
}

/// A token, or vectors in the place of some.
#[derive(Clone, Copy)]
enum Piece {
    Token(u32),
    Vectors(usize),
}

/// A chunk in the making.
#[derive(Default)]
struct Growing {
    ids: Vec<u32>,
    weights: Vec<f32>,
    vectors: Vec<(usize, usize)>,
    /// the last comma's place
    comma: Option<usize>,
}

impl Growing {
    fn add(&mut self, id: u32, count: usize, weight: f32) {
        self.ids.resize(self.ids.len() + count, id);
        self.weights.resize(self.ids.len(), weight);
    }

    fn finish(self, frame: &Frame) -> Chunk {
        let (mut ids, mut weights) = ([frame.pad; TOKENS], [1.0; TOKENS]);
        let len = self.ids.len();
        ids[0] = frame.bos;
        ids[1..=len].copy_from_slice(&self.ids);
        ids[len + 1] = frame.eos;
        weights[1..=len].copy_from_slice(&self.weights);
        Chunk { ids, weights, vectors: self.vectors.into_iter().map(|(at, which)| (at + 1, which)).collect() }
    }

    /// Cuts off what stands at `from` and after it.
    fn split(&mut self, from: usize) -> Growing {
        let moved = self
            .vectors
            .iter()
            .filter(|(at, _)| *at >= from)
            .map(|&(at, which)| (at - from, which))
            .collect();
        self.vectors.retain(|(at, _)| *at < from);
        Growing {
            ids: self.ids.split_off(from),
            weights: self.weights.split_off(from),
            vectors: moved,
            comma: None,
        }
    }
}

impl Prompt {
    /// The prompt's chunks, at least one. A name of `embeddings` in the text stands for its vectors.
    ///
    /// As in A1111, a chunk holds 75 tokens between those that begin and end it. One that is full ends at the last comma
    /// where that is among its last 20 tokens, and vectors are never parted.
    pub fn chunks(&self, tokenizer: &Tokenizer, frame: &Frame, embeddings: &Embeddings) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut chunk = Growing::default();
        let mut next = |chunk: &mut Growing, begun: Growing| {
            chunks.push(std::mem::replace(chunk, begun).finish(frame));
        };
        for part in &self.parts {
            let Part::Text(text, weight) = part else {
                next(&mut chunk, Growing::default());
                continue;
            };
            for piece in pieces(text, tokenizer, embeddings) {
                let (id, count) = match piece {
                    Piece::Token(id) => (id, 1),
                    Piece::Vectors(which) => (0, embeddings.count(which)),
                };
                let is_comma = matches!(piece, Piece::Token(id) if Some(id) == frame.comma);
                if chunk.ids.len() == ROOM
                    && !is_comma
                    && let Some(comma) = chunk.comma
                    && ROOM - comma <= BACK
                {
                    let begun = chunk.split(comma + 1);
                    next(&mut chunk, begun);
                }
                if chunk.ids.len() + count > ROOM {
                    next(&mut chunk, Growing::default());
                }
                match piece {
                    Piece::Vectors(which) => chunk.vectors.push((chunk.ids.len(), which)),
                    Piece::Token(_) if is_comma => chunk.comma = Some(chunk.ids.len()),
                    Piece::Token(_) => {}
                }
                chunk.add(id, count, *weight);
            }
        }
        if !chunk.ids.is_empty() || chunks.is_empty() {
            chunks.push(chunk.finish(frame));
        }
        chunks
    }
}

/// The tokens of a text, with vectors where a name of theirs stands: of names that text could run into (`<cat>`) by the
/// text itself, of others by their tokens, as A1111 does.
fn pieces(text: &str, tokenizer: &Tokenizer, embeddings: &Embeddings) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut tokens = |text: &str| {
        let ids = tokenizer.encode(text, false);
        let mut at = 0;
        while at < ids.len() {
            let (piece, len) = match embeddings.at(&ids[at..]) {
                Some((which, len)) => (Piece::Vectors(which), len),
                None => (Piece::Token(ids[at]), 1),
            };
            pieces.push(piece);
            at += len;
        }
        pieces.len()
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((at, len, which)) = embeddings.in_text(rest) {
        found.push((tokens(&rest[..at]), which));
        rest = &rest[at + len..];
    }
    tokens(rest);
    for (at, which) in found.into_iter().rev() {
        pieces.insert(at, Piece::Vectors(which));
    }
    pieces
}

/// Multiplies what an encoder says of a chunk's tokens, `(TOKENS, C)`, by their weights, and then all of it so that its mean
/// is as before: A1111's emphasis "Original". Of several chunks, each for itself; of SDXL, each encoder's for itself. What
/// several chunks give then is one sequence of `(chunks · TOKENS, C)`.
pub fn weigh(encoded: &mut [f32], weights: &[f32]) {
    let channels = encoded.len() / weights.len().max(1);
    if channels == 0 || weights.iter().all(|&weight| weight == 1.0) {
        return;
    }
    let mean = |of: &[f32]| of.iter().map(|&x| x as f64).sum::<f64>() / of.len() as f64;
    let before = mean(encoded);
    for (row, &weight) in encoded.chunks_exact_mut(channels).zip(weights) {
        row.iter_mut().for_each(|x| *x *= weight);
    }
    let ratio = (before / mean(encoded)) as f32;
    // Weights of 0 leave no mean to restore.
    if ratio.is_finite() {
        encoded.iter_mut().for_each(|x| *x *= ratio);
    }
}
