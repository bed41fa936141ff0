//! What a model's header tells: enough for every graph of it and every byte of its runs, with no weight read.

use crate::adapter::Adapted;
use crate::cache;
use crate::cost::experts;
use crate::memory::{self, Budget};
use crate::{CHUNK, Error, Options, Result};
use hob_cpu::{Cpu, KvTypes, Precision, packing};
use hob_graph::graph::State;
use hob_graph::graph::Weight;
use hob_graph::lora::adapt;
use hob_graph::plan::Home;
use hob_graph::{DType, Graph, Op, Plan};
use hob_io::Checkpoint;
use hob_models::{Architecture, Encoder, Language};
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

/// Format and dimensions of a stored tensor, by its name.
type Stored = dyn Fn(&str) -> Option<(DType, Vec<usize>)> + Send + Sync;

/// A model without its weights.
pub struct Outline {
    /// what errors call it
    name: String,
    architecture: Architecture,
    stored: Box<Stored>,
    /// bytes that are read to open it
    header: usize,
    /// what changes its linear layers
    pub(crate) adapter: Option<Adapted>,
}

impl Outline {
    /// Of a checkpoint, of which the header alone may be at hand. Checks that every weight is there with the right
    /// dimensions.
    pub fn of(checkpoint: &Arc<Checkpoint>) -> Result<Outline> {
        let name = checkpoint.path.display().to_string();
        // Each layer has weights of its own; a graph of more layers would only cost memory before it fails.
        let (layers, tensors) = (&checkpoint.config["num_hidden_layers"], checkpoint.tensors.len());
        if layers.as_u64().is_some_and(|n| n > tensors as u64) {
            return Err(Error::Ask(format!(
                "{name} cannot be run: it has {tensors} tensors for {layers} layers"
            )));
        }
        let architecture = hob_models::model(&checkpoint.config)
            .map_err(|source| Error::Config { model: name.clone(), source })?;
        let header = checkpoint.header_bytes() as usize;
        let checkpoint = checkpoint.clone();
        let stored = move |name: &str| checkpoint.tensors.get(name).map(|t| (t.dtype, t.shape.clone()));
        let outline = Outline { name, architecture, stored: Box::new(stored), header, adapter: None };
        // A model that was stored for its vectors may lack the output matrix.
        outline.graph(1, 1).or_else(|e| outline.encoding_graph(1, 1, false).map_err(|_| e))?;
        Ok(outline)
    }

    /// Of a configuration (config.json's content), each weight stored in the format that `dtype` gives for its name and
    /// dimensions. `header` is the bytes that such a model's file has beside its weights.
    pub fn imagined(
        name: &str,
        config: &serde_json::Value,
        header: usize,
        dtype: impl Fn(&str, &[usize]) -> DType,
    ) -> Result<Outline> {
        let name = name.to_string();
        let language =
            hob_models::language(config).map_err(|source| Error::Config { model: name.clone(), source })?;
        let fail = |source| Error::Graph { model: name.clone(), source };
        let graph = language.graph(1, 1).map_err(fail)?;
        let architecture = Architecture::Language(language);
        let stored: HashMap<String, (DType, Vec<usize>)> = graph
            .weights
            .iter()
            .map(|w| (w.name.clone(), (dtype(&w.name, &w.shape), w.shape.to_vec())))
            .collect();
        let stored = Box::new(move |name: &str| stored.get(name).cloned());
        let outline = Outline { name, architecture, stored, header, adapter: None };
        outline.graph(1, 1)?;
        Ok(outline)
    }

    /// Tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.architecture.vocab_size()
    }

    /// Tokens a sequence may hold at most.
    pub fn context(&self) -> usize {
        self.architecture.context()
    }

    /// The graph for `tokens` tokens with logits for `rows` of them, bound to how the weights are stored.
    pub fn graph(&self, tokens: usize, rows: usize) -> Result<Graph> {
        self.bound(self.language()?.graph(tokens, rows))
    }

    /// The graph of `tokens` tokens of whole sequences with what is said of `rows` of them; see
    /// [`Architecture::encoding_graph`].
    pub fn encoding_graph(&self, tokens: usize, rows: usize, scores: bool) -> Result<Graph> {
        self.bound(self.architecture.encoding_graph(tokens, rows, scores))
    }

    /// The model, where it is an encoder.
    pub fn encoder(&self) -> Option<&dyn Encoder> {
        match &self.architecture {
            Architecture::Encoder(m) => Some(&**m),
            Architecture::Language(_) => None,
        }
    }

    fn language(&self) -> Result<&dyn Language> {
        match &self.architecture {
            Architecture::Language(m) => Ok(&**m),
            Architecture::Encoder(_) => Err(Error::Encoder { model: self.name.clone() }),
        }
    }

    /// Bytes of all weights as they are stored.
    pub fn stored_bytes(&self) -> Result<usize> {
        Ok(self.graph(1, 1)?.weights.iter().map(Weight::bytes).sum())
    }

    /// The formats of weights that linear layers and experts read.
    pub fn formats(&self) -> Result<Vec<DType>> {
        let graph = self.graph(1, 1)?;
        let read = |n: &hob_graph::Node| match n.op {
            Op::Linear => n.inputs[1..2].to_vec(),
            Op::Experts(_) => n.inputs[2..].to_vec(),
            _ => Vec::new(),
        };
        let mut formats: Vec<DType> = (graph.nodes.iter().flat_map(read))
            .filter_map(|id| graph.as_weight(id))
            .map(|id| graph.weights[id.0 as usize].dtype)
            .collect();
        formats.sort_unstable();
        formats.dedup();
        Ok(formats)
    }

    /// The graph of `tokens` tokens of whole sequences with its `loss`; see [`Language::training_graph`].
    pub fn training_graph(&self, tokens: usize) -> Result<Graph> {
        self.bound(self.language()?.training_graph(tokens))
    }

    fn bound(&self, graph: Result<Graph, hob_graph::GraphError>) -> Result<Graph> {
        let fail = |source| Error::Graph { model: self.name.clone(), source };
        let mut graph = graph.map_err(fail)?;
        let Some(adapter) = &self.adapter else {
            graph.bind(&self.stored).map_err(fail)?;
            return Ok(graph);
        };
        graph = adapt(&graph, |module| adapter.part(module)).map_err(fail)?.0;
        graph.bind(|name| adapter.stored(name).or_else(|| (self.stored)(name))).map_err(fail)?;
        Ok(graph)
    }

    /// What runs on `cpu` hold that read prompts of up to `prompt` tokens, for so many sequences at a time.
    pub fn footprint(
        &self,
        cpu: &Cpu,
        options: &Options,
        prompt: usize,
        sequences: usize,
    ) -> Result<Footprint> {
        let mut sizes = vec![(sequences, sequences), (prompt.clamp(1, CHUNK), 1)];
        if prompt > CHUNK && !prompt.is_multiple_of(CHUNK) {
            sizes.push((prompt % CHUNK, 1));
        }
        sizes.dedup();
        let mut fixed = Budget { model: self.header, ..Budget::default() };
        let (mut arena, mut scratch, mut states, mut weights) = (0, 0, Vec::new(), Vec::new());
        for &(tokens, asked) in &sizes {
            let graph = self.graph(tokens, asked)?;
            let plan = Plan::new(&graph, cpu);
            fixed.copies = plan.weight_bytes(&graph).1;
            arena = arena.max(plan.arena);
            scratch = scratch.max(plan.scratch);
            fixed.model += graph.heap_bytes();
            let stored = || graph.weights.iter().map(Weight::bytes).collect();
            let held = if options.mapped { stored() } else { packing::held(cpu, &graph) };
            let by_rows = memory::read_by_rows(&graph);
            let mut shares = vec![1.0; graph.weights.len()];
            for (i, _) in graph.nodes.iter().enumerate().filter(|(_, n)| matches!(n.op, Op::Experts(_))) {
                for (w, read, _) in experts(&graph, hob_graph::NodeId(i as u32)) {
                    if let Some(id) = graph.weight(&w.name) {
                        shares[id.0 as usize] = read / w.bytes().max(1) as f64;
                    }
                }
            }
            // Of the sizes the first is that of a step, which is what streaming is about.
            let first: Vec<f64> = weights.iter().map(|w: &Held| w.share).collect();
            let shares = if first.is_empty() { shares } else { first };
            weights = (graph.weights.iter().zip(held).zip(by_rows).zip(shares).zip(&plan.homes))
                .map(|((((w, bytes), by_rows), share), home)| Held {
                    name: w.name.clone(),
                    bytes,
                    by_rows,
                    share,
                    stays: *home == Home::Decoded || w.bytes() <= packing::SMALL,
                })
                .collect();
            states = graph.states;
        }
        fixed.activations = arena + scratch;
        if !options.mapped && options.precision == Precision::Fast {
            fixed.activations += packing::PART;
        }
        Ok(Footprint { fixed, states, kv: options.kv, sequences, weights })
    }
}

/// Bytes of neighbours that Linux maps with a weight that is read, at both its ends: it maps whole blocks of the file's
/// cache, of up to 2 MiB.
const AROUND: usize = 2 * (2 << 20);

/// One weight as a run holds it.
struct Held {
    name: String,
    bytes: usize,
    /// of which a run reads the tokens' rows alone
    by_rows: bool,
    /// of its bytes those that a step reads: of experts, the ones that are chosen
    share: f64,
    /// too small to be streamed, or needed as a copy anyway
    stays: bool,
}

impl Held {
    /// The weights of a graph that is run once or many times and keeps no state; `merged` are held as copies already.
    fn of(graph: &Graph, plan: &Plan, merged: &HashSet<String>, before: &str) -> Vec<Held> {
        let by_rows = memory::read_by_rows(graph);
        (graph.weights.iter().zip(by_rows).zip(&plan.homes))
            .map(|((w, by_rows), home)| {
                let copied = merged.contains(&w.name);
                Held {
                    name: format!("{before}{}", w.name),
                    bytes: w.bytes(),
                    by_rows: by_rows && !copied,
                    share: 1.0,
                    stays: copied || *home == Home::Decoded || w.bytes() <= packing::SMALL,
                }
            })
            .collect()
    }

    /// Its bytes, where it is one that can be read again for each token. Of one that is read by rows hardly anything is at
    /// hand at a time.
    fn streamable(&self) -> Option<usize> {
        (!self.stays && !self.by_rows).then_some(self.bytes)
    }
}

/// What a run holds, but for how far its context reaches.
pub struct Footprint {
    fixed: Budget,
    states: Vec<State>,
    kv: KvTypes,
    sequences: usize,
    weights: Vec<Held>,
}

/// The context that is not cut further by itself: less is no talk.
const SHORT: usize = 1024;

/// How a run takes place in the memory there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// tokens of context
    pub context: usize,
    /// what is held
    pub budget: Budget,
    /// which weights stay in memory; all where `None`
    pub residency: Option<Residency>,
}

/// Which weights stay in memory where there is too little for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    /// what is held
    pub budget: Budget,
    /// the weights that leave memory after each use
    pub streamed: Vec<String>,
    /// their bytes, which are read again for every token
    pub streamed_bytes: usize,
}

impl Footprint {
    /// What runs of networks without state hold that are open at once, beside `fixed`: of each its graph, its plan, which of
    /// its weights are merged with others, and what its weights' names are told apart by.
    pub(crate) fn of(networks: &[(&Graph, &Plan, &HashSet<String>, &str)], mut fixed: Budget) -> Footprint {
        let mut weights = Vec::new();
        for (graph, plan, merged, before) in networks {
            fixed.copies += plan.weight_bytes(graph).1;
            fixed.model += graph.heap_bytes();
            fixed.activations += plan.arena + plan.scratch;
            weights.extend(Held::of(graph, plan, merged, before));
        }
        Footprint { fixed, states: Vec::new(), kv: KvTypes::default(), sequences: 1, weights }
    }

    /// The same with `bytes` to work in.
    pub(crate) fn working_in(mut self, bytes: usize) -> Footprint {
        self.fixed.activations = bytes;
        self
    }

    /// The same beside a process of `process` bytes, whose tokenizer holds `tokenizer` bytes.
    pub fn beside(mut self, process: usize, tokenizer: usize) -> Footprint {
        self.fixed.process = process;
        self.fixed.model += tokenizer;
        self
    }

    /// What is held when each sequence has reached `reached` tokens.
    pub fn at(&self, reached: usize) -> Budget {
        let by_rows: usize = self.weights.iter().filter(|w| w.by_rows).map(|w| w.bytes).sum();
        let all: usize = self.weights.iter().map(|w| w.bytes).sum();
        let weights = all - memory::unread(by_rows, reached.saturating_mul(self.sequences));
        Budget { weights, ..self.without_weights(reached) }
    }

    fn without_weights(&self, reached: usize) -> Budget {
        let state = usize::try_from(self.state_bytes(reached)).unwrap_or(usize::MAX);
        Budget { state, ..self.fixed }
    }

    /// What each layer holds when its sequences have reached `reached` tokens, its weights with their keys and values; and
    /// the weights that are no layer's, but for those of which only rows are read.
    pub fn by_layer(&self, reached: usize) -> (Vec<usize>, usize) {
        let state = |s: &State| {
            let bytes = cache::bytes(std::slice::from_ref(s), self.kv, self.sequences, reached);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        let mut layers: Vec<usize> = self.states.iter().map(state).collect();
        let mut others = 0;
        for w in self.weights.iter().filter(|w| !w.by_rows) {
            match layer_of(&w.name).and_then(|i| layers.get_mut(i)) {
                Some(layer) => *layer = layer.saturating_add(w.bytes),
                None => others += w.bytes,
            }
        }
        (layers, others)
    }

    /// Bytes of weights that a step reads: all but those of which it reads a row alone, and experts that no token chose.
    pub fn read_bytes(&self) -> usize {
        self.weights.iter().filter(|w| !w.by_rows).map(|w| (w.bytes as f64 * w.share) as usize).sum()
    }

    /// How a run takes place in `bytes`: with all weights there; where `may_cut`, with fewer tokens of context, but not
    /// under 1,024; or with weights read again for each token. `None` where nothing will do.
    pub fn room(&self, bytes: usize, context: usize, may_cut: bool) -> Option<Room> {
        let whole = |context: usize| Room { context, budget: self.at(context), residency: None };
        let streamed = |context: usize| {
            let residency = self.within(bytes, context)?;
            Some(Room { context, budget: residency.budget, residency: Some(residency) })
        };
        if self.at(context).total() <= bytes {
            return Some(whole(context));
        }
        let cut = |longest: Option<usize>| longest.filter(|n| may_cut && *n >= SHORT);
        (cut(self.longest(bytes, context)).map(whole))
            .or_else(|| streamed(context))
            .or_else(|| cut(self.longest_streamed(bytes, context)).and_then(streamed))
    }

    /// The weights to keep in memory so that all is held in `bytes`, each sequence having reached `reached` tokens; the
    /// others are read for each token from where they lie. `None` where even so it is too much: then
    /// [`Footprint::least`] says what would do.
    pub fn within(&self, bytes: usize, reached: usize) -> Option<Residency> {
        let without = self.without_weights(reached);
        let room = bytes.checked_sub(without.total())?.checked_sub(AROUND)?;
        // The largest of the streamed is at hand while it is used: all that are larger stay. Sizes are few, so each is
        // tried, and the one taken that leaves the least to read.
        let mut sizes: Vec<usize> = self.weights.iter().filter_map(Held::streamable).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let choice = |&largest: &usize| {
            let stays = |w: &Held| w.stays || w.streamable().is_some_and(|n| n > largest);
            let mut kept: usize = self.weights.iter().filter(|w| stays(w)).map(|w| w.bytes).sum();
            let (mut streamed, mut streamed_bytes) = (Vec::new(), 0);
            for w in self.weights.iter().filter(|w| !stays(w)) {
                let bytes = w.streamable();
                if bytes.is_some_and(|bytes| kept + bytes + largest <= room) {
                    kept += w.bytes;
                    continue;
                }
                streamed.push(w.name.clone());
                streamed_bytes += (bytes.unwrap_or(0) as f64 * w.share) as usize;
            }
            let budget = Budget { weights: kept + largest + AROUND, ..without };
            (kept + largest <= room).then_some(Residency { budget, streamed, streamed_bytes })
        };
        sizes.iter().filter_map(choice).min_by_key(|r| r.streamed_bytes)
    }

    /// The least that a run is held in which reaches `reached` tokens, all other weights being streamed.
    pub fn least(&self, reached: usize) -> usize {
        let stays: usize = self.weights.iter().filter(|w| w.stays).map(|w| w.bytes).sum();
        let large = self.weights.iter().filter_map(Held::streamable).max();
        self.without_weights(reached).total().saturating_add(stays + large.unwrap_or(0) + AROUND)
    }

    /// Bytes of keys and values, all sequences together.
    fn state_bytes(&self, reached: usize) -> u128 {
        cache::bytes(&self.states, self.kv, self.sequences, reached)
    }

    /// The longest context, up to `most`, with which all is held in `bytes`; `None` where not even one token is.
    pub fn longest(&self, bytes: usize, most: usize) -> Option<usize> {
        longest(most, |reached| self.at(reached).total() <= bytes)
    }

    /// The same, with weights streamed.
    pub fn longest_streamed(&self, bytes: usize, most: usize) -> Option<usize> {
        longest(most, |reached| self.least(reached) <= bytes)
    }
}

/// Whether there is an architecture for a configuration (config.json's content), be it right or not.
pub fn is_known(config: &serde_json::Value) -> bool {
    !matches!(hob_models::model(config), Err(hob_models::ConfigError::Unknown(_)))
}

/// The number after `layers.` in a weight's name.
pub fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// The largest number up to `most` that fits, where each smaller one does too.
fn longest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if most == 0 || !fits(1) {
        return None;
    }
    if fits(most) {
        return Some(most);
    }
    let (mut fine, mut over) = (1, most); // the bytes grow with the context
    while over - fine > 1 {
        let middle = fine + (over - fine) / 2;
        if fits(middle) { fine = middle } else { over = middle }
    }
    Some(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of three weights and a head, a norm that is always there, and an embedding read by rows: 10 to 100 times
    /// `unit` bytes.
    fn footprint(unit: usize) -> Footprint {
        let held = |name: &str, n: usize, by_rows, stays| Held {
            name: name.into(),
            bytes: n * unit,
            by_rows,
            share: 1.0,
            stays,
        };
        let layer = |i: usize| {
            ["q", "up", "down"]
                .map(|n| held(&format!("{i}.{n}"), if n == "q" { 10 } else { 30 }, false, false))
        };
        let mut weights = vec![held("embed", 100, true, false)];
        weights.extend((0..2).flat_map(layer));
        weights.extend([held("norm", 1, false, true), held("head", 100, false, false)]);
        let fixed = Budget { process: 50, activations: 9, ..Budget::default() };
        let states = vec![State { heads: 1, dim: 32, window: None }];
        Footprint { fixed, states, kv: KvTypes::default(), sequences: 1, weights }
    }

    #[test]
    fn what_stays_in_memory_leaves_the_least_to_read() {
        let f = footprint(1);
        let beside = 59 + 64 * 32 * 2 * 2; // a page of keys and values
        assert_eq!(f.without_weights(1).total(), beside);
        assert_eq!((f.read_bytes(), f.least(64)), (241, beside + 101 + AROUND));
        let beside = beside + AROUND;
        assert_eq!(f.within(beside + 100, 1), None);
        let mut last = usize::MAX;
        for room in 101..400 {
            let r = f.within(beside + room, 64).unwrap();
            assert!(r.budget.total() <= beside + room, "{room}: {r:?}");
            assert!(r.streamed_bytes <= last, "{room}: more room, more to read");
            assert!(!r.streamed.contains(&"norm".to_string()));
            let kept = r.budget.weights - AROUND;
            assert!(kept + r.streamed_bytes >= 241 && kept <= room, "{room}: {r:?}");
            last = r.streamed_bytes;
        }
        // The head stays as soon as it and the largest of the others fit: then the others take turns.
        let r = f.within(beside + 131, 64).unwrap();
        assert_eq!((r.streamed.len(), r.streamed_bytes), (7, 140));
    }

    #[test]
    fn a_context_is_cut_before_weights_are_streamed_and_only_where_it_may_be() {
        let f = footprint(1 << 20);
        let (all, some) = (f.at(2048).total(), f.at(1024).total());
        let room = |bytes, may_cut| {
            let room = f.room(bytes, 2048, may_cut)?;
            assert!(room.budget.total() <= bytes);
            Some((room.context, room.residency.is_some()))
        };
        assert_eq!([room(all, false), room(all, true)], [Some((2048, false)); 2]);
        assert_eq!(room(some, true), Some((1024, false)));
        // Room for what a short context needs, but for neither all weights nor the long one.
        let least = f.least(1024);
        assert_eq!([room(least, false), room(least, true)], [None, Some((1024, true))]);
        assert_eq!(room(f.least(960), true), None);
    }

    #[test]
    fn the_longest_context_is_the_last_that_fits() {
        let f = footprint(1);
        let all = |n: usize| f.at(n).total();
        assert_eq!(f.longest(all(640), 100_000), Some(640));
        assert_eq!(f.longest(all(640) - 1, 100_000), Some(576));
        assert_eq!(f.longest(all(640), 600), Some(600));
        assert_eq!(f.longest(all(1) - 1, 600), None);
        assert_eq!(f.longest_streamed(f.least(640), 100_000), Some(640));
        assert_eq!(f.longest(usize::MAX, usize::MAX), Some(usize::MAX), "no context overflows");
        assert!(f.longest_streamed(1 << 40, usize::MAX).is_some_and(|n| n < 1 << 40));
        assert_eq!(f.by_layer(usize::MAX).0, [usize::MAX]);
    }
}
