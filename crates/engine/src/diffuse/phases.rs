//! What each phase of a picture takes of memory, before a weight is read, and how it takes place within what there is.

use super::held::Controller;
use super::network::Network;
use super::painter::{Denoiser, Painter, ask};
use super::tiles::{Search, Way};
use crate::lora::Updates;
use crate::memory::Budget;
use crate::outline::{Footprint, Residency};
use crate::{Error, Result};
use hob_graph::{Graph, Plan};
use hob_io::pipeline::{Purpose, Role};
use hob_io::prompt::TOKENS;
use hob_models::vae::{Norms, Side};
use hob_models::{clip, flux, t5, tae, unet};
use std::collections::HashSet;

/// A picture that memory is planned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// pixels
    pub width: usize,
    /// pixels
    pub height: usize,
    /// whether a negative prompt is run beside
    pub guided: bool,
    /// tokens of a prompt
    pub tokens: usize,
    /// texts that the prompts may become, the negative one among them; what each says stays
    pub texts: usize,
    /// it begins with another picture
    pub begins: bool,
    /// the size of the picture that it begins with, where the denoiser sees it beside in a size of its own
    pub seen: Option<(usize, usize)>,
    /// another picture holds it
    pub held: bool,
    /// the tiny autoencoder shows it while it is made
    pub shown: bool,
    /// more pictures follow, for which the denoiser stays where there is room
    pub again: bool,
}

/// A phase, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// what runs
    pub role: Role,
    /// what is held: weights, copies of some, memory to work in
    pub budget: Budget,
    /// bytes of weights that leave memory after use, and are read again for each run
    pub streamed: usize,
    /// tiles that the picture is cut in
    pub tiles: usize,
    /// it would take so many bytes at least, which there are not
    pub short: Option<usize>,
}

impl Phase {
    /// Bytes that no file stands behind.
    pub fn work(&self) -> usize {
        self.budget.copies + self.budget.activations
    }
}

/// How a picture is made within the memory there is.
#[derive(Clone, Debug)]
pub struct Room {
    /// what it is for
    pub shape: Shape,
    /// the phases, in their order
    pub phases: Vec<Phase>,
    /// the denoiser stays open from one picture to the next
    pub keep: bool,
    /// what the prompt asks for and what the negative one does are run one after the other, not side by side
    pub split: bool,
    /// bytes of what lies beside all phases: pictures, latents, weights that a file has in another order
    pub beside: usize,
    /// names of weights that leave memory, those of a ControlNet after [`CONTROL`]
    streamed: Vec<(Role, String)>,
    /// through the autoencoder
    pub(super) ways: Vec<Way>,
}

impl Room {
    /// Bytes that are held at most, beside the process.
    pub fn total(&self) -> usize {
        let of = |p: &Phase| match p.role {
            Role::Denoiser if self.keep => 0,
            _ => p.budget.total(),
        };
        self.rests() + self.phases.iter().map(of).max().unwrap_or(0)
    }

    /// Bytes that are held between pictures, beside the process.
    pub fn rests(&self) -> usize {
        let stays = self.phases.iter().find(|p| self.keep && p.role == Role::Denoiser);
        self.beside + stays.map_or(0, |p| p.budget.total())
    }

    /// Bytes to work in, which no file stands behind, at most.
    pub fn work(&self) -> usize {
        self.beside + self.phases.iter().map(Phase::work).max().unwrap_or(0)
    }

    /// The phase that takes more than there is, and how many bytes would do for the picture.
    pub fn short(&self) -> Option<(Role, usize)> {
        let phase = self.phases.iter().filter_map(|p| Some((p.role, self.beside + p.short?)));
        phase.max_by_key(|(_, least)| *least)
    }

    /// Whether a part takes longer than with all memory, or does not fit at all.
    pub fn presses(&self, role: Role) -> bool {
        let pressed = |p: &Phase| p.role == role && (p.streamed > 0 || p.tiles > 1 || p.short.is_some());
        self.split && role == Role::Denoiser || self.phases.iter().any(pressed)
    }

    /// Whether the same weights stay in memory.
    pub(super) fn same_weights(&self, other: &Room) -> bool {
        self.streamed == other.streamed
    }

    pub(super) fn streamed(&self, role: Role) -> impl Iterator<Item = &String> {
        self.streamed.iter().filter(move |(of, _)| *of == role).map(|(_, name)| name)
    }
}

/// What the names of a ControlNet's weights are told apart by.
const CONTROL: &str = "ControlNet/";

/// Bytes of lists of weights, of texts, and of pages that the system maps along with weights. Measured: 1 to 5 MiB.
const BESIDE: usize = 4 << 20;

/// Bytes that a graph gives out.
fn outputs(graph: &Graph) -> usize {
    graph.outputs.iter().map(|(_, id)| 4 * graph.node(*id).shape.count()).sum()
}

/// What a phase runs.
struct Part {
    role: Role,
    network: Network,
    merged: HashSet<String>,
    graph: Graph,
    /// of the autoencoder
    side: Option<Side>,
}

impl Painter {
    /// How a picture is made in `bytes` beside the process: with all weights in memory, else with the autoencoder in tiles
    /// and weights read again. A phase for which there is too little nevertheless says so.
    ///
    /// # Errors
    /// The sides are no multiples of [`Painter::multiple`], or a part's weights do not fit its configuration.
    pub fn room(&self, shape: Shape, bytes: usize) -> Result<Room> {
        let Shape { width, height, tokens, .. } = shape;
        self.check_size(width, height)?;
        let (h, w) = (self.latent(height), self.latent(width));
        let copies: usize = self.pipeline.parts().map(|p| p.copied_bytes()).sum();
        // A picture and its mask, and what is left of it beside the mask; a picture for the ControlNet, and for its batch.
        let begun = if self.pipeline.purpose == Purpose::Inpaint { 8 } else { 4 };
        let held = if shape.guided { 9 } else { 3 };
        let (seen_width, seen_height) = shape.seen.unwrap_or((width, height));
        let pictures = seen_width * seen_height * begun * usize::from(shape.begins)
            + width * height * held * usize::from(shape.held);
        // Texts, and those of one step side by side.
        let texts = (shape.texts + 2) * tokens * self.text_channels();
        let latents = 10 * self.vae.latent_channels * h * w;
        let beside = copies + 4 * (pictures + texts + latents) + 3 * self.seen_bytes(&shape) + BESIDE;
        let mut room = Room {
            shape,
            phases: Vec::new(),
            keep: false,
            split: false,
            beside,
            streamed: Vec::new(),
            ways: Vec::new(),
        };
        let parts = self.parts(&shape)?;
        // First all of it in memory.
        let shown = if shape.shown { self.preview(h, w)? } else { 0 };
        let footprints = parts.iter().map(|parts| self.footprint(parts, shown)).collect::<Vec<_>>();
        for (parts, footprint) in parts.iter().zip(&footprints) {
            let budget = footprint.at(tokens);
            room.phases.push(Phase { role: parts[0].role, budget, streamed: 0, tiles: 1, short: None });
        }
        room.keep = shape.again;
        if room.keep && room.total() <= bytes {
            return Ok(room);
        }
        room.keep = false;
        let limit = bytes.saturating_sub(beside);
        for (i, (parts, mut footprint)) in parts.iter().zip(footprints).enumerate() {
            if room.phases[i].budget.total() <= limit {
                continue;
            }
            if let [Part { side: Some(side), network, .. }] = &parts[..] {
                let search = Search { vae: &self.vae, network, cpu: &self.cpu };
                let size = if *side == Side::Encoder { [height, width] } else { [h, w] };
                let others = footprint.at(tokens).total() - footprint.at(tokens).activations;
                let way = search.within(*side, size, limit.saturating_sub(others))?;
                (room.phases[i].tiles, footprint) = (way.tiles(), footprint.working_in(way.work));
                room.phases[i].budget = footprint.at(tokens);
                room.ways.push(way);
                if room.phases[i].budget.total() <= limit {
                    continue;
                }
            }
            let mut residency = footprint.within(limit, tokens);
            // One half at a time takes less to work in, but reads all weights twice.
            if parts[0].role == Role::Denoiser && shape.guided && !self.pipeline.family.is_flux() {
                let half = self.parts(&Shape { guided: false, ..shape })?;
                let half = half.iter().find(|p| p[0].role == Role::Denoiser);
                let half = self.footprint(half.unwrap_or(parts), shown);
                let budget = half.at(tokens);
                if budget.total() <= limit {
                    (room.phases[i].budget, room.split) = (budget, true);
                    continue;
                }
                let read = |r: &Option<Residency>| r.as_ref().map_or(usize::MAX / 2, |r| r.streamed_bytes);
                let less = half.within(limit, tokens);
                if residency.is_none() || 2 * read(&less) < read(&residency) {
                    (footprint, residency, room.split) = (half, less, true);
                }
            }
            match residency {
                Some(residency) => {
                    room.phases[i].budget = residency.budget;
                    room.phases[i].streamed = residency.streamed_bytes;
                    room.streamed.extend(residency.streamed.into_iter().map(|name| {
                        match name.strip_prefix(CONTROL) {
                            Some(name) => (Role::ControlNet, name.to_string()),
                            None => (parts[0].role, name),
                        }
                    }));
                }
                None => room.phases[i].short = Some(footprint.least(tokens)),
            }
        }
        Ok(room)
    }

    /// Bytes of what the denoiser sees beside the noised latents of a picture.
    fn seen_bytes(&self, shape: &Shape) -> usize {
        let place = self.latent(shape.width) * self.latent(shape.height);
        let channels = match &self.denoiser {
            Denoiser::Unet(c) => c.in_channels,
            Denoiser::Flux(c) => c.in_channels / 4,
        };
        let own = self.vae.latent_channels;
        let held = if shape.held && self.holds_by_latents() { own } else { 0 };
        let second = shape.seen.map_or(0, |(width, height)| self.latent(width) * self.latent(height));
        4 * (place * (channels.saturating_sub(own) + held) + own * second)
    }

    /// What a phase holds; the denoiser's beside a preview of `shown` bytes.
    fn footprint(&self, parts: &[Part], shown: usize) -> Footprint {
        let plans: Vec<Plan> = parts.iter().map(|p| Plan::new(&p.graph, &self.cpu)).collect();
        let names = |p: &Part| if p.role == Role::ControlNet { CONTROL } else { "" };
        let of = parts.iter().zip(&plans).map(|(p, plan)| (&p.graph, plan, &p.merged, names(p)));
        let mut fixed = Budget::default();
        let is = |role: Role| parts.iter().any(|p| p.role == role);
        if is(Role::Denoiser) {
            fixed.activations += shown;
        }
        // What goes into the autoencoder and comes out of it lies beside its own memory.
        for part in parts.iter().filter(|p| p.side.is_some()) {
            let given: usize = part.graph.inputs.iter().map(|i| 4 * i.shape.count()).sum();
            fixed.activations += given.max(outputs(&part.graph));
        }
        // What a ControlNet says of prompts alone stands with zeros for the negative one.
        if matches!(&self.control, Some(Controller::Unet(c)) if c.global_pool_conditions) {
            let control = parts.iter().find(|p| p.role == Role::ControlNet);
            fixed.activations += control.map_or(0, |p| 2 * outputs(&p.graph));
        }
        Footprint::of(&of.collect::<Vec<_>>(), fixed)
    }

    /// Bytes of a preview by the tiny autoencoder, its weights among them, and the picture that comes of it as it is written.
    fn preview(&self, h: usize, w: usize) -> Result<usize> {
        let Some(part) = self.pipeline.part(Role::Preview) else { return Ok(0) };
        let config = tae::Config::parse(&part.config).map_err(Error::Ask)?;
        let (network, merged) = Network::outline(&self.pipeline, Role::Preview, &Updates::default())?;
        let graph = network.bound(config.decoder(1, h, w))?;
        let plan = Plan::new(&graph, &self.cpu);
        let made = outputs(&graph) + outputs(&graph) / 2;
        let fixed = Budget { activations: made, ..Budget::default() };
        Ok(Footprint::of(&[(&graph, &plan, &merged, "")], fixed).at(1).total())
    }

    /// Channels of what texts say.
    fn text_channels(&self) -> usize {
        match &self.denoiser {
            Denoiser::Unet(c) => c.text_channels(),
            Denoiser::Flux(c) => c.joint_attention_dim,
        }
    }

    /// What each phase runs, in the order of the phases.
    fn parts(&self, shape: &Shape) -> Result<Vec<Vec<Part>>> {
        let &Shape { width, height, guided, tokens, .. } = shape;
        let none = Updates::default();
        let part = |role: Role, graph, side| -> Result<Part> {
            let updates = self.updates.get(&role).unwrap_or(&none);
            let (network, merged) = Network::outline(&self.pipeline, role, updates)?;
            let graph = network.bound(graph)?;
            Ok(Part { role, network, merged, graph, side })
        };
        let mut phases = Vec::new();
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            let Some(how) = self.pipeline.text(role) else { continue };
            let config = &self.pipeline.need(role).map_err(ask)?.config;
            let graph = if self.pipeline.family.is_flux() && role == Role::TextEncoder2 {
                t5::Config::parse(config).map_err(Error::Ask)?.encoder(1, how.max_tokens)
            } else {
                let wanted = clip::Wanted {
                    layer: 1 + how.skipped,
                    norm: how.normed,
                    pooled: how.pooled,
                    vectors: false,
                };
                let c = clip::Config::parse(config).map_err(Error::Ask)?;
                let (most, chunks) = (TOKENS.min(c.max_position_embeddings), tokens.div_ceil(TOKENS).max(1));
                // Flux's CLIP reads one part of the prompt, whatever T5 reads.
                c.encoder(if self.pipeline.family.is_flux() { 1 } else { chunks }, most, wanted)
            };
            phases.push(vec![part(role, graph, None)?]);
        }
        let (h, w) = (self.latent(height), self.latent(width));
        let autoencoder = |side, h, w| {
            let steps = self.vae.groups(side).concat();
            part(Role::Vae, self.vae.part(side, &steps, [1, h, w], Norms::Own), Some(side))
        };
        // What holds the picture is read first.
        let own = Some((width, height));
        let first = own.filter(|_| shape.held && self.holds_by_latents());
        let second = shape.seen.or(own).filter(|_| shape.begins && shape.seen.or(own) != first);
        for (width, height) in first.into_iter().chain(second) {
            phases.push(vec![autoencoder(Side::Encoder, height, width)?]);
        }
        let pooled = self.pooled()?;
        let mut size = self.unet_sizes(if guided { self.sides() } else { 1 }, h, w, tokens, pooled);
        let held = self.control.as_ref().filter(|_| shape.held);
        let mut tokens =
            flux::Size { batch: 1, text: tokens, height: h / 2, width: w / 2, ..flux::Size::default() };
        let control = match held {
            Some(Controller::Unet(c)) => {
                let batch = if c.global_pool_conditions { 1 } else { size.batch };
                Some(part(Role::ControlNet, c.graph(unet::Size { batch, ..size }), None)?)
            }
            Some(Controller::Flux(c)) => {
                tokens.added = c.added();
                Some(part(Role::ControlNet, c.graph(tokens), None)?)
            }
            None => None,
        };
        size.residuals = control.is_some();
        if let Some((width, height)) = shape.seen.filter(|_| shape.begins) {
            tokens.beside = [self.latent(height) / 2, self.latent(width) / 2];
        }
        let graph = match &self.denoiser {
            Denoiser::Unet(c) => c.graph(size),
            Denoiser::Flux(c) => c.graph(tokens),
        };
        phases.push([part(Role::Denoiser, graph, None)?].into_iter().chain(control).collect());
        phases.push(vec![autoencoder(Side::Decoder, h, w)?]);
        Ok(phases)
    }

    /// Channels of the pooled text that the denoiser is given; 0 where it is given none.
    fn pooled(&self) -> Result<usize> {
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            if self.pipeline.text(role).is_some_and(|how| how.pooled) {
                let config = &self.pipeline.need(role).map_err(ask)?.config;
                return Ok(clip::Config::parse(config).map_err(Error::Ask)?.pooled_size());
            }
        }
        Ok(0)
    }
}
