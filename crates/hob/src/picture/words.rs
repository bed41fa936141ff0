//! What prompts say to a picture model: the texts that they become, in its tokenizers' tokens, read by its text encoders.

use std::collections::BTreeMap;
use std::sync::Arc;

use hob_engine::diffuse::{Guidance, Script, Tokens, Turns, Words};
use hob_io::picture::Recipe;
use hob_io::pipeline::{Family, Role};
use hob_io::prompt::{Chunk, Embeddings, Frame, Prompt, TOKENS, schedule, together};
use hob_io::{Pipeline, Tokenizer};

use super::Studio;
use crate::error::{Error, Result};

/// Chunks of 77 tokens of all texts that a prompt may change into: 2048 of SDXL are 1.3 GB.
const MOST_CHUNKS: usize = 2048;

/// What conditions depend on: prompt, negative prompt, clip skip, whether guidance is on, calls of the denoiser.
pub type Asked = (String, String, Option<usize>, bool, usize);

impl Studio {
    /// What prompt and negative prompt say, each distinct text read once.
    ///
    /// # Errors
    /// A prompt is too long for a text encoder, or changes into too many texts; memory.
    pub fn script(&mut self, asked: Asked) -> Result<Arc<Script>> {
        if let Some((last, script)) = &self.said
            && *last == asked
        {
            return Ok(script.clone());
        }
        let (mut script, mut all) = self.texts(&asked)?;
        for (role, (_, frame)) in &self.tokenizers {
            let Some(frame) = frame else { continue };
            let most = all.iter().filter_map(|tokens| tokens.get(role)).map(length).max().unwrap_or(0);
            for tokens in &mut all {
                if let Some(Words::Chunks(chunks)) = tokens.get_mut(role) {
                    chunks.resize(most, Chunk::empty(frame));
                }
            }
        }
        script.said = self.painter.said(&all.iter().collect::<Vec<_>>(), asked.2, &self.embeddings)?;
        if !script.negative.is_empty()
            && asked.1.is_empty()
            && let Some(nothing) = script.said.first().and_then(|like| self.painter.nothing(like))
        {
            script.negative = vec![(usize::MAX, script.said.len())];
            script.said.push(nothing);
        }
        let script = Arc::new(script);
        self.said = Some((asked, script.clone()));
        Ok(script)
    }

    /// The texts that prompts become, each once, and which of them counts when.
    ///
    /// # Errors
    /// One is too long for a text encoder, or there are too many.
    pub(super) fn texts(&self, asked: &Asked) -> Result<(Script, Vec<Tokens>)> {
        let (prompt, negative, _, guided, calls) = asked;
        // A network that is told its guidance has nothing to weigh prompts against.
        let parts = match self.painter.pipeline().family.is_flux() {
            true => vec![(prompt.clone(), 1.0)],
            false => together(prompt),
        };
        let mut texts: Vec<String> = Vec::new();
        let mut turns = |text: &str| -> Turns {
            let mut index = |text: String| {
                texts.iter().position(|t| *t == text).unwrap_or_else(|| {
                    texts.push(text);
                    texts.len() - 1
                })
            };
            schedule(text, *calls).into_iter().map(|(end, text)| (end, index(text))).collect()
        };
        let guided = *guided || parts.len() > 1;
        let parts = parts.iter().map(|(text, weight)| (*weight, turns(text))).collect();
        let negative = if guided { turns(negative) } else { Turns::new() };
        let mut all = Vec::new();
        for text in &texts {
            all.push(self.tokens(text)?);
            if chunks(&all) * texts.len() > MOST_CHUNKS {
                return Err(Error::new(format!(
                    "the prompt changes into {} texts, more than are kept; let fewer parts of it take turns",
                    texts.len()
                )));
            }
        }
        Ok((Script { parts, negative, ..Script::default() }, all))
    }

    /// What is asked of the text encoders for a recipe whose sampler calls the denoiser so often a step.
    pub(super) fn asked(recipe: &Recipe, evaluations: usize) -> Asked {
        let Recipe { prompt, negative, clip_skip, cfg, steps, .. } = recipe;
        let guidance = Guidance { scale: *cfg, rescale: 0.0 };
        // As A1111 counts them where prompts change.
        let calls = *steps as usize * evaluations;
        (prompt.clone(), negative.clone(), clip_skip.map(|n| n as usize), guidance.is_on(), calls)
    }

    fn tokens(&self, text: &str) -> Result<Tokens> {
        let prompt = Prompt::parse(text);
        let none = Embeddings::default();
        let mut tokens = Tokens::new();
        for (role, (tokenizer, frame)) in &self.tokenizers {
            let words = match frame {
                Some(frame) => {
                    let embeddings = self.embeddings.get(role).unwrap_or(&none);
                    Words::Chunks(prompt.chunks(tokenizer, frame, embeddings))
                }
                None => {
                    let most = self.painter.pipeline().text(*role).map_or(512, |t| t.max_tokens);
                    let mut ids = tokenizer.encode_text(&prompt.text());
                    if ids.len() > most {
                        return Err(Error::new(format!(
                            "the prompt has {} tokens, {} more than this model reads; shorten it",
                            ids.len(),
                            ids.len() - most
                        )));
                    }
                    ids.resize(most, tokenizer.pad_id().unwrap_or(0));
                    Words::Ids(ids)
                }
            };
            tokens.insert(*role, words);
        }
        Ok(tokens)
    }
}

/// Chunks of the longest text.
pub(super) fn chunks(texts: &[Tokens]) -> usize {
    texts.iter().flat_map(BTreeMap::values).map(length).max().unwrap_or(0)
}

/// Chunks of a prompt; of an encoder that has none, one for as many tokens.
fn length(words: &Words) -> usize {
    match words {
        Words::Chunks(chunks) => chunks.len(),
        Words::Ids(ids) => ids.len().div_ceil(TOKENS),
    }
}

/// The tokenizer of a text encoder; with the frame of its chunks, where it is of CLIP's kind.
pub(super) fn tokenizer(pipeline: &Pipeline, role: Role) -> Result<(Tokenizer, Option<Frame>)> {
    let is_t5 = pipeline.family.is_flux() && role == Role::TextEncoder2;
    let tokenizer = match pipeline.tokenizers.get(&role) {
        Some(folder) if folder.is_dir() => Tokenizer::from_dir(folder)?,
        Some(file) => Tokenizer::from_gguf(&hob_io::Gguf::open(file)?)?,
        None if is_t5 => Tokenizer::t5(),
        None => Tokenizer::clip(),
    };
    if is_t5 {
        return Ok((tokenizer, None));
    }
    // OpenCLIP's encoders fill up with zeros, which a folder's tokenizer says itself.
    let open = role == Role::TextEncoder2 || pipeline.family == Family::Sd2;
    let pad = (open && !pipeline.tokenizers.contains_key(&role)).then_some(0);
    let frame = Frame::new(&tokenizer, pad).map_err(Error::new)?;
    Ok((tokenizer, Some(frame)))
}
