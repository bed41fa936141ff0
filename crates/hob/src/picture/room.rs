//! Words for how a picture is made within the memory there is.

use hob_engine::diffuse::{Phase, Room};
use hob_io::pipeline::Role;
use serde_json::{Value, json};

use crate::terminal;

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
