//! Presets on the server: a request for one is a request for its base, with what the preset says where the request does
//! not.

use std::path::Path;
use std::sync::Arc;

use hob_io::Adapter;
use hob_io::chat::{self, Chat, Dialect};

use super::generate::{Prompt, Request};
use super::known::Known;
use super::manager::Lease;
use crate::error::{Error, Result};
use crate::model::Load;
use crate::preset::{Kept, Settled, settle};
use crate::store::{self, Found, Wanted};
use crate::{naming, terminal};

/// A preset and the model it is made of.
#[derive(Debug)]
pub struct Made {
    /// what it says
    pub settled: Settled,
    /// its base
    pub base: Known,
}

impl Made {
    /// What it adds to the base's weights.
    fn adapter(&self) -> Option<&Path> {
        self.settled.preset.adapter.as_deref()
    }
}

impl Known {
    /// What `text` was found to stand for, if it is on this machine: nothing is fetched.
    pub fn here(wanted: Wanted, text: &str) -> Result<Known> {
        match wanted {
            Wanted::Here(model) => Ok(Known::of(&model)),
            Wanted::Path(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                Ok(Known::at(naming::stem(&name).to_string(), path))
            }
            Wanted::Catalogue(_) | Wanted::Hub(_) => {
                let name = terminal::clean(text);
                Err(Error::new(format!("{name} is not on this machine; fetch it with: hob pull {name}")))
            }
        }
    }

    /// A preset of this machine.
    ///
    /// # Errors
    /// Its base is not here.
    pub fn of_preset(kept: &Kept, found: &Found) -> Result<Known> {
        let settled = settle(&kept.name, &kept.preset, found)?;
        let base = Known::here(store::of_preset(&settled, found)?, &settled.preset.base)
            .map_err(|e| Error::new(format!("the preset {} has no base: {e}", settled.name)))?;
        let mut known = Known { name: kept.name.clone(), path: kept.path.clone(), ..base.clone() };
        (known.others, known.modified) = (Vec::new(), kept.modified);
        known.preset = Some(Arc::new(Made { settled, base }));
        Ok(known)
    }

    /// What is loaded for it: its base, which others share, unless an adapter makes another model of it.
    pub fn root(&self) -> Known {
        match &self.preset {
            None => self.clone(),
            Some(made) if made.adapter().is_none() => made.base.clone(),
            Some(made) => {
                // One that was trained anew is another, and what the last one read of conversations is not its.
                let written = made.adapter().and_then(Adapter::modified).unwrap_or(made.base.modified);
                let modified = written.max(made.base.modified);
                Known { path: made.base.path.clone(), modified, ..self.clone() }
            }
        }
    }

    /// The file of its weights: of a preset, its base's.
    pub fn weights(&self) -> &Path {
        self.preset.as_ref().map_or(&self.path, |made| &made.base.path)
    }

    /// The LoRA on its weights.
    pub fn adapter(&self) -> Option<&Path> {
        self.preset.as_ref().and_then(|made| made.adapter())
    }

    /// Whether both, as they are loaded ([`Known::root`]), have the same weights.
    pub fn same(&self, other: &Known) -> bool {
        let time = |known: &Known| known.adapter().map(|_| known.modified);
        self.path == other.path && self.adapter() == other.adapter() && time(self) == time(other)
    }

    /// How it is loaded, where all others are as `how` says.
    pub fn load(&self, how: &Load) -> Load {
        Load { adapter: self.adapter().map(Path::to_path_buf), ..how.clone() }
    }

    /// Tokens of context that it asks for.
    pub fn context(&self) -> Option<usize> {
        self.preset.as_ref()?.settled.preset.parameters.ctx.map(|n| n as usize)
    }
}

impl Lease {
    /// The request with what the preset says that it names, if it names one: in each field the request's own word holds.
    pub fn complete(&self, mut request: Request) -> Request {
        let Some(preset) = self.preset() else { return request };
        let parameters = &preset.parameters;
        request.knobs = request.knobs.or(parameters.knobs());
        request.most = request.most.or(parameters.max_tokens.map(|n| n as usize));
        if request.stop.is_empty() {
            request.stop = parameters.stop.clone().unwrap_or_default();
        }
        if let Prompt::Chat(messages) = request.prompt {
            let system = |m: &chat::Message| matches!(m.role.as_str(), "system" | "developer");
            request.prompt = Prompt::Chat(preset.begin(messages, system, chat::Message::new));
        }
        request.context = request.context.or(parameters.ctx.map(|n| n as usize));
        request
    }

    /// The chat by the preset's template, where it has one.
    pub fn own_chat(&self) -> Option<(Chat, Dialect)> {
        let template = self.preset()?.template.as_deref()?;
        let words = &self.opened.words;
        let chat = words.chat(Some(template));
        let dialect = chat.dialect(Some(&words.tokenizer));
        Some((chat, dialect))
    }
}
