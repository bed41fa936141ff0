//! What prompts say to a denoiser: the text encoders of a model, each opened, run and closed in turn.

use super::network::Network;
use super::painter::{Painter, ask};
use crate::{Error, Result};
use hob_graph::Data;
use hob_io::pipeline::{Family, Role};
use hob_io::prompt::{Chunk, Embeddings, TOKENS, weigh};
use hob_models::{clip, t5};
use std::collections::BTreeMap;

/// A prompt as one text encoder reads it.
pub enum Words {
    /// of CLIP's kind
    Chunks(Vec<Chunk>),
    /// of T5, filled up
    Ids(Vec<u32>),
}

/// A prompt in tokens, for each encoder of the family.
pub type Tokens = BTreeMap<Role, Words>;

/// What a prompt says to the denoiser.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// `(T, C)`
    pub states: Vec<f32>,
    /// T
    pub tokens: usize,
    /// `(P)`; empty where the family has none
    pub pooled: Vec<f32>,
}

/// What holds when: `(the last call of the denoiser, counted from 1, an index)`, in order.
pub type Turns = Vec<(usize, usize)>;

/// What prompts say while a picture is made.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// what each text says, all of as many tokens
    pub said: Vec<Said>,
    /// what counts together, and how much: which text when
    pub parts: Vec<(f32, Turns)>,
    /// what the picture leads away from; empty where there is no guidance
    pub negative: Turns,
}

impl Script {
    /// Of one text, and one that the picture leads away from.
    pub fn plain(prompt: Said, negative: Option<Said>) -> Script {
        let turns = |i| vec![(usize::MAX, i)];
        let against = if negative.is_some() { turns(1) } else { Turns::new() };
        Script {
            said: [prompt].into_iter().chain(negative).collect(),
            parts: vec![(1.0, turns(0))],
            negative: against,
        }
    }

    /// What counts at a call of the denoiser, from 0: with what weights, and what it leads away from. As A1111 has it, what
    /// holds until a step holds for one call more (`reconstruct_cond_batch` of its `prompt_parser.py`).
    pub(super) fn at(&self, call: usize) -> (Vec<(&Said, f32)>, Option<&Said>) {
        let now = |turns: &Turns| {
            let turn = turns.iter().find(|(end, _)| call <= *end).or(turns.last());
            turn.and_then(|(_, i)| self.said.get(*i))
        };
        let parts = self.parts.iter().filter_map(|(weight, turns)| Some((now(turns)?, *weight)));
        (parts.collect(), now(&self.negative))
    }
}

impl Painter {
    /// What a prompt says. `skip` is which layer of CLIP is taken, counted from its end; that of the family where it is not
    /// given. `embeddings` are the vectors that chunks refer to.
    ///
    /// # Errors
    /// A text encoder cannot be run, or memory.
    pub fn said(
        &self,
        tokens: &[&Tokens],
        skip: Option<usize>,
        embeddings: &BTreeMap<Role, Embeddings>,
    ) -> Result<Vec<Said>> {
        let mut all = vec![Said::default(); tokens.len()];
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            let Some(how) = self.pipeline.text(role) else { continue };
            let config = &self.pipeline.need(role).map_err(ask)?.config;
            let mut network = self.network(role)?;
            for (said, tokens) in all.iter_mut().zip(tokens) {
                let words =
                    tokens.get(&role).ok_or_else(|| ask("the prompt lacks tokens for a text encoder"))?;
                let (states, pooled) = match words {
                    Words::Ids(ids) => {
                        let c = t5::Config::parse(config).map_err(Error::Ask)?;
                        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
                        let graph = || c.encoder(1, ids.len());
                        let inputs = [("ids", Data::I32(&ids))];
                        let [hidden] =
                            network.run(&self.cpu, [1, ids.len(), 0, 0], graph, &inputs, ["hidden"])?;
                        (hidden, Vec::new())
                    }
                    Words::Chunks(chunks) => {
                        let c = clip::Config::parse(config).map_err(Error::Ask)?;
                        let wanted = clip::Wanted {
                            layer: skip.unwrap_or(1 + how.skipped),
                            norm: how.normed,
                            pooled: how.pooled,
                            vectors: chunks.iter().any(|c| !c.vectors.is_empty()),
                        };
                        self.clip(&mut network, &c, chunks, wanted, embeddings.get(&role))?
                    }
                };
                if how.attended {
                    join(said, states, words);
                }
                if how.pooled {
                    said.pooled = pooled;
                }
            }
        }
        Ok(all)
    }

    /// Runs chunks through an encoder of CLIP's kind: states of all, weighed, and the pooled vector of the first.
    fn clip(
        &self,
        network: &mut Network,
        c: &clip::Config,
        chunks: &[Chunk],
        wanted: clip::Wanted,
        embeddings: Option<&Embeddings>,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let n = chunks.len();
        let ids: Vec<i32> = chunks.iter().flat_map(|c| c.ids).map(|id| id as i32).collect();
        let ends: Vec<i32> =
            (chunks.iter().enumerate()).map(|(i, k)| (i * TOKENS + c.end(&k.ids)) as i32).collect();
        let mut inputs = vec![("ids", Data::I32(&ids))];
        if wanted.pooled {
            inputs.push(("ends", Data::I32(&ends)));
        }
        let (mut keep, mut vectors) = (vec![1.0; n * TOKENS], vec![0.0; n * TOKENS * c.hidden_size]);
        if let (true, Some(embeddings)) = (wanted.vectors, embeddings) {
            let rows = keep.chunks_mut(TOKENS).zip(vectors.chunks_mut(TOKENS * c.hidden_size));
            for (chunk, (keep, vectors)) in chunks.iter().zip(rows) {
                chunk.place(embeddings, c.hidden_size, keep, vectors);
            }
        }
        if wanted.vectors {
            inputs.extend([("keep", Data::F32(&keep)), ("vectors", Data::F32(&vectors))]);
        }
        let key = [n, wanted.layer, wanted.pooled as usize, wanted.vectors as usize];
        let graph = || c.encoder(n, TOKENS, wanted);
        let [mut hidden, pooled] = network.run(&self.cpu, key, graph, &inputs, ["hidden", "pooled"])?;
        for (states, chunk) in hidden.chunks_mut(TOKENS * c.hidden_size).zip(chunks) {
            weigh(states, &chunk.weights);
        }
        let first = pooled.len() / n.max(1);
        Ok((hidden, pooled[..first].to_vec()))
    }

    /// What a prompt says that says nothing, where the model was trained to be given zeros for it (SDXL).
    pub fn nothing(&self, like: &Said) -> Option<Said> {
        let zeros = self.pipeline.index["force_zeros_for_empty_prompt"].as_bool();
        let sdxl = matches!(self.pipeline.family, Family::Sdxl);
        (sdxl && zeros.unwrap_or(true)).then(|| Said {
            states: vec![0.0; like.states.len()],
            pooled: vec![0.0; like.pooled.len()],
            ..like.clone()
        })
    }
}

/// Puts what another encoder says beside what is there, token by token.
fn join(said: &mut Said, states: Vec<f32>, words: &Words) {
    let tokens = match words {
        Words::Chunks(chunks) => chunks.len() * TOKENS,
        Words::Ids(ids) => ids.len(),
    };
    if said.states.is_empty() {
        (said.states, said.tokens) = (states, tokens);
        return;
    }
    let (a, b) = (said.states.len() / tokens, states.len() / tokens);
    let rows = said.states.chunks(a).zip(states.chunks(b));
    said.states = rows.flat_map(|(a, b)| [a, b].concat()).collect();
}
