//! Texts become vectors, and pairs of texts scores: by encoders, and vectors by models that continue texts too.
//!
//! Texts are packed one after another into runs of at most [`CHUNK`] tokens, with no padding between; a longer text has a
//! run of its own. Nothing is kept from run to run.

use crate::{CHUNK, Error, Model, Result};
use hob_cpu::Program;
use hob_cpu::exec::Memory;
use hob_graph::{Batch, Data, Seq};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// Tokens of one text at most, whatever the model's context: what a run works in grows with them.
const MOST: usize = 8192;

/// Programs kept ready, for the sizes met last.
const KEPT: usize = 4;

/// What a text's vector is made of, which the last layer says of each of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// the mean over all tokens
    Mean,
    /// what is said of the first
    Cls,
    /// what is said of the last
    Last,
}

/// Makes vectors of texts.
pub struct Embedder {
    runner: Runner,
    pooling: Pooling,
    normalize: bool,
}

impl Embedder {
    /// Over a model of either kind, pooling and normalizing as it says of itself. Where it says nothing, encoders take the
    /// mean and others the last token, and vectors have the length 1. Fails where the model wants more done than is known
    /// here.
    pub fn new(model: &Arc<Model>) -> Result<Embedder> {
        let says: &Value = &model.checkpoint.config["embedding"];
        if let Some(what) = says["unsupported"].as_str() {
            let model = model.checkpoint.path.display();
            return Err(Error::Ask(format!("{model} makes its vectors by {what}, which is not supported")));
        }
        let pooling = match says["pooling"].as_str() {
            Some("cls") => Pooling::Cls,
            Some("last") => Pooling::Last,
            Some(_) => Pooling::Mean,
            None if model.outline().encoder().is_some() => Pooling::Mean,
            None => Pooling::Last,
        };
        let normalize = says["normalize"].as_bool().unwrap_or(true);
        Ok(Embedder { runner: Runner::new(model, false), pooling, normalize })
    }

    /// The same, pooling otherwise than the model says.
    pub fn pooled(self, pooling: Pooling) -> Embedder {
        Embedder { pooling, ..self }
    }

    /// The same, with vectors of the length 1 or as they come.
    pub fn normalized(self, normalize: bool) -> Embedder {
        Embedder { normalize, ..self }
    }

    /// How vectors are made of what is said of tokens.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Tokens of a text at most, those around it included.
    pub fn most(&self) -> usize {
        self.runner.most
    }

    /// The vector `(C)` of each text, given as token ids with what stands around them (`Tokenizer::encode_text`).
    ///
    /// Errors: a text is empty, too long, or has an id that the model does not know; memory.
    pub fn embed(&mut self, batch: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let mut out = Vec::with_capacity(batch.len());
        let pooling = self.pooling;
        self.runner.check(batch.iter().copied())?;
        for texts in parts(batch, |ids| ids.len()) {
            let texts = &batch[texts];
            let rows = match pooling {
                Pooling::Mean => Rows::All,
                Pooling::Cls => Rows::First,
                Pooling::Last => Rows::Last,
            };
            let texts: Vec<Text> = texts.iter().map(|ids| Text { ids, types: &[] }).collect();
            let hidden = self.runner.run(&texts, rows)?;
            let width = hidden.len() / if pooling == Pooling::Mean { tokens(&texts) } else { texts.len() };
            let mut rows = hidden.chunks_exact(width);
            for text in &texts {
                let n = if pooling == Pooling::Mean { text.ids.len() } else { 1 };
                let mut sum = vec![0.0f32; width];
                for row in rows.by_ref().take(n) {
                    sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
                }
                // The mean's divisor falls out where the length is made 1.
                let norm = sum.iter().map(|x| (x * x) as f64).sum::<f64>().sqrt() as f32;
                let by = if self.normalize { norm.max(1e-12) } else { n as f32 };
                sum.iter_mut().for_each(|x| *x /= by);
                out.push(sum);
            }
        }
        Ok(out)
    }
}

/// Scores pairs of texts, as a question and what may answer it.
pub struct Reranker {
    runner: Runner,
}

impl Reranker {
    /// Over an encoder with a classifier of one number; fails for any other model.
    pub fn new(model: &Arc<Model>) -> Result<Reranker> {
        let name = model.checkpoint.path.display();
        let labels = model.outline().encoder().map_or(0, |encoder| encoder.labels());
        match labels {
            1 => {}
            0 => {
                return Err(Error::Ask(format!(
                    "{name} scores no pairs: it is no encoder with a classifier"
                )));
            }
            n => {
                return Err(Error::Ask(format!(
                    "{name} scores no pairs: its classifier tells {n} classes apart"
                )));
            }
        }
        if let Err(e) = model.outline().encoding_graph(1, 1, true) {
            // llama.cpp's converter leaves BERT's pooler out, without which scores are far from what they should be.
            let gguf = model.checkpoint.gguf().is_some() && e.to_string().contains("pooler.dense");
            return Err(match gguf {
                true => Error::Ask(format!(
                    "{name} scores no pairs: the layer before its classifier was left out when it was converted; \
                     take the model as safetensors"
                )),
                false => e,
            });
        }
        Ok(Reranker { runner: Runner::new(model, true) })
    }

    /// Tokens of a pair at most, those around its texts included.
    pub fn most(&self) -> usize {
        self.runner.most
    }

    /// The score of each pair, given as token ids and their types (`Tokenizer::encode_pair`): the higher, the better the
    /// second text fits the first. It is the classifier's own number, of any size; its sigmoid lies within 0 to 1.
    ///
    /// Errors: a pair is empty, too long, or has an id that the model does not know; memory.
    pub fn score(&mut self, pairs: &[(&[u32], &[u32])]) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(pairs.len());
        self.runner.check(pairs.iter().map(|pair| pair.0))?;
        for part in parts(pairs, |pair| pair.0.len()) {
            let texts: Vec<Text> = pairs[part].iter().map(|&(ids, types)| Text { ids, types }).collect();
            out.extend_from_slice(self.runner.run(&texts, Rows::First)?);
        }
        Ok(out)
    }
}

/// How near two vectors of one length are, by their angle: 1 for the same direction, 0 where one is nothing but zeros.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { (dot(a, b) / norms) as f32 } else { 0.0 }
}

/// A sequence of a run.
struct Text<'a> {
    ids: &'a [u32],
    /// of as many tokens as have one; of the others it is 0
    types: &'a [u32],
}

fn tokens(texts: &[Text]) -> usize {
    texts.iter().map(|t| t.ids.len()).sum()
}

/// Which tokens of each text are asked for.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    All,
    First,
    Last,
}

/// Neighbours in `texts` that go into one run: at most a chunk of tokens together, or a single text.
fn parts<T>(texts: &[T], len: impl Fn(&T) -> usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut held = usize::MAX;
    for (i, text) in texts.iter().enumerate() {
        let n = len(text);
        held = held.saturating_add(n);
        match parts.last_mut() {
            Some(part) if held <= CHUNK => part.end = i + 1,
            _ => {
                parts.push(i..i + 1);
                held = n;
            }
        }
    }
    parts
}

/// Runs of whole sequences over a model.
struct Runner {
    model: Arc<Model>,
    /// a classifier's scores rather than what is said of tokens
    scores: bool,
    most: usize,
    memory: Memory,
    /// by tokens and rows, the one used last first
    programs: Vec<((usize, usize), Program)>,
}

impl Runner {
    fn new(model: &Arc<Model>, scores: bool) -> Runner {
        let stated = model.checkpoint.config["embedding"]["max_seq_length"].as_u64();
        let stated = stated.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0).unwrap_or(MOST);
        let most = model.context().min(stated).min(MOST);
        Runner { model: model.clone(), scores, most, memory: Memory::new(), programs: Vec::new() }
    }

    fn check<'a>(&self, texts: impl Iterator<Item = &'a [u32]>) -> Result<()> {
        let vocab = self.model.vocab_size();
        for ids in texts {
            if ids.is_empty() {
                return Err(Error::Empty);
            }
            if ids.len() > self.most {
                return Err(Error::Long { tokens: ids.len(), most: self.most });
            }
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
                return Err(Error::Token { id, vocab });
            }
        }
        Ok(())
    }

    /// Numbers of the rows asked for, text by text.
    fn run(&mut self, texts: &[Text], rows: Rows) -> Result<&[f32]> {
        let encoder = self.model.outline().encoder();
        let (first, kinds) = encoder.map_or((0, 0), |e| (e.first_position(), e.types()));
        let (mut ids, mut positions, mut types, mut asked, mut seqs) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            let (start, len) = (ids.len(), text.ids.len());
            seqs.push(Seq { start, len, pos: 0, read: true, pages: &[] });
            ids.extend(text.ids.iter().map(|&id| id as i32));
            positions.extend((first..first + len).map(|p| p as i32));
            let of = |i: usize| text.types.get(i).map_or(0, |&t| (t as usize).min(kinds.saturating_sub(1)));
            types.extend((0..len).map(|i| of(i) as i32));
            match rows {
                Rows::All => {}
                Rows::First => asked.push(start as i32),
                Rows::Last => asked.push((start + len - 1) as i32),
            }
        }
        let count = if rows == Rows::All { ids.len() } else { texts.len() };
        let key = (ids.len(), count);
        match self.programs.iter().position(|p| p.0 == key) {
            Some(i) => self.programs[..=i].rotate_right(1),
            None => {
                let graph = self.model.outline().encoding_graph(key.0, key.1, self.scores)?;
                let program = self.model.cpu().program(graph, self.model.weights())?;
                self.programs.truncate(KEPT - 1);
                self.programs.insert(0, (key, program));
            }
        }
        let program = &self.programs[0].1;
        let inputs = [
            ("ids", Data::I32(&ids)),
            ("positions", Data::I32(&positions)),
            ("types", Data::I32(&types)),
            ("rows", Data::I32(&asked)),
        ];
        let batch = Batch { inputs: &inputs, seqs: &seqs };
        self.model.cpu().run(program, &mut self.memory, None, &batch)?;
        let name = if self.scores { "scores" } else { "hidden" };
        Ok(program.output(&self.memory, name).expect("the graph has what it was built for"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_packed_in_order() {
        let lens = [100, 400, 12, 1, 600, 511, 1, 1];
        assert_eq!(parts(&lens, |n| *n), [0..3, 3..4, 4..5, 5..7, 7..8]);
        assert!(parts(&[0usize; 0], |n| *n).is_empty());
        assert_eq!(parts(&[CHUNK + 1, 1], |n| *n), [0..1, 1..2]);
    }
}
