//! Whether a picture model runs here: by the plan that `hob image` makes.

use std::path::Path;

use hob_engine::diffuse::{Room, Shape};
use serde_json::json;

use crate::error::Result;
use crate::picture::{Extras, Studio, room};
use crate::{fit::verdict::Verdict, terminal};

/// Prints the plan of one picture in `bytes`, of a process of `process` bytes.
///
/// # Errors
/// The model cannot be opened.
pub fn run(
    name: &str,
    path: &Path,
    size: Option<(usize, usize)>,
    bytes: u64,
    process: usize,
    json: bool,
) -> Result<()> {
    let studio = Studio::open(path, &Extras::default(), 1)?;
    let mut recipe = studio.defaults();
    (recipe.width, recipe.height) = size.unwrap_or((recipe.width, recipe.height));
    let plan = |bytes| studio.room(&recipe, None, Shape::default(), bytes);
    let (whole, fit) = (plan(u64::MAX)?, plan(bytes.saturating_sub(process as u64))?);
    let total = |room: &Room| (process + room.total()) as u64;
    let (said, short) = (room::said(&fit), fit.short());
    let verdict = match (&said, short) {
        (_, Some(_)) => Verdict::No,
        _ if fit.phases.iter().any(|p| p.streamed > 0) => Verdict::Disk,
        _ => Verdict::Ram,
    };
    let planned = short.map_or(total(&fit), |(_, least)| (process + least) as u64);
    if json {
        let out = json!({
            "name": name, "kind": "image", "width": recipe.width, "height": recipe.height, "planned_bytes": planned,
            "whole_bytes": total(&whole), "free_bytes": bytes, "verdict": verdict.name(),
            "memory": { "process_bytes": process, "said": said, "phases": room::told(&fit) },
        });
        println!("{out}");
        return Ok(());
    }
    let family = studio.painter().pipeline().family;
    let about = format!("{family}, {} × {}", recipe.width, recipe.height);
    println!("{}  {}\n", terminal::bold(&terminal::clean(name)), terminal::dim(&about));
    for phase in &whole.phases {
        let held = process + whole.beside + phase.budget.total();
        let (weights, work) = (phase.budget.weights as u64, phase.work() as u64);
        println!(
            "  {:<22}{:>10}   weights {}, to work in {}",
            room::called(phase.role),
            terminal::bytes(held as u64),
            terminal::bytes(weights),
            terminal::bytes(work)
        );
    }
    let (size, free) = (terminal::bytes(planned), terminal::bytes(bytes));
    println!();
    match (short, said) {
        (Some((role, least)), _) => {
            let size = (recipe.width, recipe.height);
            let short = room::short(size, role, (process + least) as u64);
            println!("  Does not run: {short}, and {free} are free.");
        }
        (None, Some(said)) => println!("  Runs in {size} of {free} free: {said}."),
        (None, None) => println!("  Runs on the processor, part by part: {size} of {free} free at most."),
    }
    Ok(())
}
