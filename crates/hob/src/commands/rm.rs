//! `hob rm NAME…`: removes models from Hob's folder and the Hugging Face cache.

use clap::Args;

use super::Global;
use crate::error::{Error, Result};
use crate::store::{self, Place, Wanted};
use crate::{places, preset, terminal};

const EXAMPLES: &str = "Examples:
  hob rm starter
  hob rm --yes hf:owner/repo
  hob rm pirate                         a preset (hob create); its base stays

Models of Ollama, LM Studio and ComfyUI are theirs to remove.";

/// Arguments of `hob rm`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RmArgs {
    /// Names from hob list
    #[arg(required = true)]
    names: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Resolves every name before it removes the first model.
pub fn run(args: RmArgs, _: &Global) -> Result<()> {
    let found = store::discover();
    let (mut models, mut presets) = (Vec::new(), Vec::new());
    for name in &args.names {
        if let Some(kept) = found.preset(name) {
            presets.push(kept);
            continue;
        }
        match store::resolve(name, &found)? {
            Wanted::Here(model) => models.push(model),
            Wanted::Path(path) => {
                return Err(Error::new(format!(
                    "hob rm takes names from hob list; remove the file {} yourself",
                    places::short(&path)
                )));
            }
            Wanted::Catalogue(_) | Wanted::Hub(_) => {
                return Err(Error::new(format!("{} is not on this machine", terminal::clean(name))));
            }
        }
    }
    for kept in presets {
        let base = terminal::clean(&kept.preset.base);
        if args.yes
            || agreed(&format!("Remove {}, a preset of {base} (which stays)?", kept.name), &kept.name)?
        {
            preset::remove(kept)?;
            println!("removed {} ({base} stays)", kept.name);
        }
    }
    for model in models {
        let foreign = matches!(model.place, Place::Ollama | Place::LmStudio | Place::ComfyUi);
        let question = format!(
            "Remove {} ({}) from {}?",
            terminal::clean(&model.name),
            terminal::bytes(model.bytes),
            places::short(&model.path)
        );
        if !args.yes && !foreign && !agreed(&question, &model.name)? {
            continue;
        }
        let freed = store::remove(&model)?;
        println!("removed {} ({} freed)", terminal::clean(&model.name), terminal::bytes(freed));
    }
    Ok(())
}

/// Whether the person says that it may go.
fn agreed(question: &str, name: &str) -> Result<bool> {
    if !terminal::interactive() {
        let name = terminal::clean(name);
        return Err(Error::new(format!("nobody can be asked whether to remove {name}; add --yes")));
    }
    terminal::ask(question, false)
}
