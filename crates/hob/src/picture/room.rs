//! How a picture is made within the memory there is, and words for it.

use hob_engine::diffuse::{Painter, Phase, Room, Sampler, Shape};
use hob_io::picture::Recipe;
use hob_io::pipeline::Role;
use hob_io::prompt::TOKENS;
use serde_json::{Value, json};

use super::words::chunks;
use super::{Begin, Studio};
use crate::error::{Error, Result};
use crate::terminal;

impl Studio {
    /// How a picture is made in so many bytes beside the process. `begin`: with which picture. What no recipe says is that of
    /// `how`: whether the picture is shown, and is followed by others.
    ///
    /// # Errors
    /// A part's weights do not fit its configuration, or the prompt is too long.
    pub fn room(&self, recipe: &Recipe, begin: Option<&Begin>, how: Shape, bytes: u64) -> Result<Room> {
        let pipeline = self.painter.pipeline();
        let evaluations = Sampler::parse(&recipe.sampler).map_err(Error::new)?.evaluations();
        let (script, texts) = self.texts(&Studio::asked(recipe, evaluations))?;
        let text = pipeline.text(Role::TextEncoder2).filter(|_| pipeline.family.is_flux());
        let tokens = text.map_or_else(|| chunks(&texts).max(1) * TOKENS, |text| text.max_tokens);
        let held = self.held.is_some() || self.is_held_by(begin);
        let begin = begin.filter(|_| !self.is_held_by(begin));
        let shape = Shape {
            width: recipe.width,
            height: recipe.height,
            guided: !script.negative.is_empty(),
            tokens,
            texts: texts.len(),
            begins: begin.is_some(),
            seen: begin.and_then(|begin| self.seen(begin, (recipe.width, recipe.height))),
            held,
            shown: how.shown && pipeline.part(Role::Preview).is_some(),
            ..how
        };
        Ok(self.painter.room(shape, usize::try_from(bytes).unwrap_or(usize::MAX))?)
    }

    /// Lets go of what was kept for the next picture.
    pub fn rest(&mut self) {
        self.painter.rest();
    }

    /// Makes the pictures to come as `room` has it.
    pub fn settle(&mut self, room: Room) {
        self.painter.settle(room);
    }
}

/// Bytes that a picture of a size takes, with guidance or without, one prompt's chunk long.
///
/// # Errors
/// A part's weights do not fit its configuration.
pub fn needs(painter: &Painter, width: usize, height: usize, guided: bool) -> Result<u64> {
    let flux = painter.pipeline().family.is_flux();
    let text = painter.pipeline().text(Role::TextEncoder2).filter(|_| flux);
    let tokens = text.map_or(TOKENS, |t| t.max_tokens);
    let shape = Shape { width, height, guided, tokens, texts: 2, ..Shape::default() };
    Ok(painter.room(shape, usize::MAX)?.total() as u64)
}

/// What a person calls a part.
pub fn called(role: Role) -> &'static str {
    match role {
        Role::Denoiser | Role::ControlNet => "denoiser",
        Role::Vae => "VAE",
        Role::TextEncoder => "text encoder",
        Role::TextEncoder2 => "second text encoder",
        Role::Preview => "preview",
    }
}

/// That a picture is not made, since a part would need so many bytes.
pub fn short((width, height): (usize, usize), role: Role, least: u64) -> String {
    let (part, least) = (called(role), terminal::bytes(least));
    format!("for a picture of {width} × {height} the {part} needs {least} of memory at least")
}

/// What differs from having all in memory; `None` where nothing does.
pub fn said(room: &Room) -> Option<String> {
    let of = |p: &Phase| {
        let part = called(p.role);
        let tiles = (p.tiles > 1).then(|| format!("{part} in {} tiles", p.tiles));
        let streamed = (p.streamed > 0).then(|| {
            let bytes = terminal::bytes(p.streamed as u64);
            let when = if p.role == Role::Denoiser { "each step" } else { "after use" };
            format!("{bytes} of the {part}'s weights read again {when}")
        });
        [tiles, streamed].into_iter().flatten()
    };
    let split = room.split.then(|| "the prompt and the negative one in turn".to_string());
    let all: Vec<String> = split.into_iter().chain(room.phases.iter().flat_map(of)).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The phases, for `--json`.
pub fn told(room: &Room) -> Value {
    let of = |p: &Phase| {
        json!({
            "part": called(p.role), "weights_bytes": p.budget.weights, "copies_bytes": p.budget.copies,
            "work_bytes": p.budget.activations, "total_bytes": p.budget.total(), "streamed_bytes": p.streamed,
            "tiles": p.tiles,
        })
    };
    room.phases.iter().map(of).collect()
}
