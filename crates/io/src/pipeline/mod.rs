//! Picture models on disk, whatever their form: a diffusers folder, one safetensors file in the names of the code that it
//! was trained with, or a GGUF (city96's, stable-diffusion.cpp's), with the parts that it lacks in files beside it.
//!
//! All forms give the same parts: configurations with the fields of diffusers' and transformers' `config.json`, and tensors
//! under the names of `UNet2DConditionModel`, `FluxTransformer2DModel`, `AutoencoderKL`, `CLIPTextModel` (with its prefix
//! `text_model.`) and `T5EncoderModel`. What a file is, its header tells, never its name; but for Flux.1 Kontext, whose header
//! may be that of dev.

mod family;
mod file;
mod folder;
mod found;
mod infer;
mod missing;
mod names;
mod part;
mod prediction;
mod scale;

use crate::{
    Error, Gguf, Result, Safetensors,
    map::{parse_json, read_small},
    weights::Weights,
};
pub use family::{Family, Purpose, TextUse};
use file::{MAX_CONFIG, Opened, candidates, folders, kind_name, merge};
use found::{Found, Kind, Naming};
use missing::Missing;
pub use part::Part;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The network that takes noise away: `UNet2DConditionModel` or `FluxTransformer2DModel`.
    Denoiser,
    /// Between pictures and latents: `AutoencoderKL`.
    Vae,
    /// CLIP-L, or SD 2's ViT-H.
    TextEncoder,
    /// SDXL's bigG, or Flux's T5.
    TextEncoder2,
    /// Between latents and pictures, quickly: `AutoencoderTiny`, for previews.
    Preview,
    /// What holds a denoiser to a picture: `ControlNetModel` or `FluxControlNetModel`.
    ControlNet,
}

impl Role {
    /// The name of its folder in diffusers' layout; a Flux's denoiser has `transformer`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Denoiser => "unet",
            Role::Vae => "vae",
            Role::TextEncoder => "text_encoder",
            Role::TextEncoder2 => "text_encoder_2",
            Role::Preview => "preview",
            Role::ControlNet => "controlnet",
        }
    }
}

/// An open picture model: the parts that were found, and the reasons why others were not.
///
/// Weights are mapped, not read; the files must not be truncated by another program meanwhile.
#[derive(Debug)]
pub struct Pipeline {
    /// As given to [`Pipeline::open`].
    pub path: PathBuf,
    /// Its family.
    pub family: Family,
    /// What its denoiser is given beside the noise.
    pub purpose: Purpose,
    /// `scheduler_config.json` of diffusers: how noise was added in training, and what the denoiser predicts.
    pub scheduler: Value,
    /// `model_index.json`; null where there is none.
    pub index: Value,
    /// The folder of a tokenizer, or the GGUF that holds one, by the text encoder that it is for.
    pub tokenizers: BTreeMap<Role, PathBuf>,
    parts: BTreeMap<Role, Part>,
    missing: BTreeMap<Role, Missing>,
}

impl Pipeline {
    /// Opens a picture model: a diffusers folder, or a file with at least a denoiser. Parts that are not in there are looked
    /// for beside it, and in ComfyUI's folders; whether all are there says [`Pipeline::check`].
    ///
    /// # Errors
    /// Nothing usable is there; a file cannot be read, is damaged, or is of a family that Hob does not know.
    pub fn open(path: &Path) -> Result<Pipeline> {
        Pipeline::open_with(path, &[])
    }

    /// The same with some parts from files (or folders) of their own, in the place of the model's.
    ///
    /// # Errors
    /// As [`Pipeline::open`] and [`Pipeline::with_part`].
    pub fn open_with(path: &Path, given: &[(Role, PathBuf)]) -> Result<Pipeline> {
        let mut pipeline = match path.is_dir() {
            false => Pipeline::of_file(Opened::open(path)?)?,
            true => match folder::index(path)? {
                Some(index) => Pipeline::of_folder(path, index, given)?,
                None => Pipeline::of_file(Opened::open(&folder::weights_in(path)?)?)?,
            },
        };
        for (role, file) in given {
            pipeline = pipeline.with_part(*role, file)?;
        }
        pipeline.look_around(path);
        if let Some(gguf) = pipeline.parts.get(&Role::TextEncoder2).and_then(Part::gguf)
            && gguf.get("tokenizer.ggml.tokens").is_some()
        {
            pipeline.tokenizers.entry(Role::TextEncoder2).or_insert(gguf.path().into());
        }
        Ok(Pipeline { path: path.into(), ..pipeline })
    }

    /// What the header of a safetensors model at `path` says, with nothing beside it.
    pub fn from_safetensors(weights: Safetensors, path: &Path) -> Result<Pipeline> {
        Pipeline::of_file(Opened::of(Weights::Safetensors(weights), path)?)
    }

    /// What the header of a GGUF model says, with nothing beside it.
    pub fn from_gguf(gguf: Gguf) -> Result<Pipeline> {
        let path = gguf.path().to_owned();
        Pipeline::of_file(Opened::of(Weights::Gguf(gguf), &path)?)
    }

    fn of_file(file: Opened) -> Result<Pipeline> {
        let Some(found) = file.denoiser() else {
            let has = file.networks.iter().map(|n| kind_name(n.kind)).collect::<Vec<_>>().join(" and a ");
            let what = format!(
                "it holds a {has} but no denoiser; give the file of a whole model, or of its UNet or Flux transformer"
            );
            return Err(Error::unsupported(&file.path, what));
        };
        let denoiser = file.part(found, Role::Denoiser, None)?;
        let refiner = file.networks.iter().any(|n| n.prefix == "conditioner.embedders.0.model.");
        let family = Family::of(&denoiser, refiner);
        let scheduler = prediction::scheduler(&file, &denoiser, family)?;
        let mut pipeline = Pipeline::of_denoiser(denoiser, family, scheduler)?;
        for found in &file.networks {
            if let Some(role) = pipeline.role_of(found)
                && !pipeline.parts.contains_key(&role)
            {
                let part = file.part(found, role, Some(family))?;
                pipeline.parts.insert(role, part);
            }
        }
        pipeline.settle();
        Ok(pipeline)
    }

    fn of_folder(path: &Path, index: Value, given: &[(Role, PathBuf)]) -> Result<Pipeline> {
        let (mut files, missing) = folder::parts(path, &index, given)?;
        let Some(file) = files.remove(&Role::Denoiser) else {
            let what = "its model_index.json lists no UNet or Flux transformer that is there; Hob makes pictures with Stable \
                        Diffusion 1, 2 and XL and Flux.1";
            return Err(Error::unsupported(path, what));
        };
        let file = Opened::open(&file)?;
        let Some(found) = file.denoiser() else {
            return Err(Error::unsupported(&file.path, "there is no denoiser in it that Hob knows"));
        };
        let mut denoiser = file.part(found, Role::Denoiser, None)?;
        if index["_class_name"].as_str().is_some_and(|class| class.starts_with("FluxKontext")) {
            merge(&mut denoiser.config, &serde_json::json!({ "kontext": true }));
        }
        let family = Family::of(&denoiser, index["requires_aesthetics_score"] == true);
        let stated = path.join("scheduler").join("scheduler_config.json");
        let scheduler = match read_small(&stated, MAX_CONFIG)? {
            Some(text) => parse_json(&text, &stated)?,
            None => prediction::scheduler(&file, &denoiser, family)?,
        };
        let mut pipeline = Pipeline::of_denoiser(denoiser, family, scheduler)?;
        for (role, path) in files {
            let part = pipeline.part_of(&path, role)?;
            pipeline.parts.insert(role, part);
        }
        pipeline.missing.extend(missing);
        pipeline.tokenizers = folder::tokenizers(path);
        pipeline.index = index;
        pipeline.settle();
        Ok(pipeline)
    }

    fn of_denoiser(denoiser: Part, family: Family, scheduler: Value) -> Result<Pipeline> {
        let purpose = family.purpose(&denoiser).map_err(|what| Error::unsupported(denoiser.path(), what))?;
        Ok(Pipeline {
            path: denoiser.path().into(),
            family,
            purpose,
            scheduler,
            index: Value::Null,
            tokenizers: BTreeMap::new(),
            parts: BTreeMap::from([(Role::Denoiser, denoiser)]),
            missing: BTreeMap::new(),
        })
    }

    /// What a network in a file would do here; `None` for those that this family does not have.
    fn role_of(&self, found: &Found) -> Option<Role> {
        let role = match found.kind {
            Kind::Unet | Kind::Flux => Role::Denoiser,
            Kind::Vae => Role::Vae,
            Kind::TinyVae => return Some(Role::Preview),
            Kind::ControlNet | Kind::FluxControlNet => return None,
            Kind::T5 => self.family.is_flux().then_some(Role::TextEncoder2)?,
            Kind::Clip if self.family == Family::SdxlRefiner => Role::TextEncoder2,
            Kind::Clip if self.family == Family::Sdxl => {
                let width =
                    ["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"];
                let width = width.iter().find_map(|name| found.shape(name)?.get(1).copied());
                match found.prefix {
                    "conditioner.embedders.0.transformer."
                    | "text_encoders.clip_l.transformer."
                    | "text_encoders.clip_l." => Role::TextEncoder,
                    _ if found.naming == Naming::Original || width == Some(1280) => Role::TextEncoder2,
                    "" if width != Some(768) && found.shape("text_projection.weight").is_some() => {
                        Role::TextEncoder2
                    }
                    "" | "cond_stage_model.transformer." => Role::TextEncoder,
                    _ => Role::TextEncoder2,
                }
            }
            Kind::Clip => Role::TextEncoder,
        };
        self.family.roles().contains(&role).then_some(role)
    }

    /// Facts that follow from several parts.
    fn settle(&mut self) {
        let pooled = self.parts.get(&Role::TextEncoder2).and_then(|p| p.size("projection_dim"));
        let Some(denoiser) = self.parts.get_mut(&Role::Denoiser) else { return };
        // Sizes and crops: six numbers, or five with the refiner's score, beside the pooled text.
        let numbers = match self.family {
            Family::Sdxl => 6,
            Family::SdxlRefiner => 5,
            _ => return,
        };
        let input = denoiser.size("projection_class_embeddings_input_dim");
        if let (Some(input), Some(pooled), true) = (input, pooled, denoiser.inferred)
            && let Some(rest) = input.checked_sub(pooled)
            && rest.is_multiple_of(numbers)
            && rest > 0
        {
            merge(&mut denoiser.config, &serde_json::json!({ "addition_time_embed_dim": rest / numbers }));
        }
    }

    /// Looks for parts that are missing in the folders around a file.
    fn look_around(&mut self, path: &Path) {
        let mut wanted: Vec<Role> = self.family.roles().to_vec();
        wanted.push(Role::Preview);
        wanted.retain(|role| !self.parts.contains_key(role));
        if wanted.is_empty() {
            return;
        }
        let around = if path.is_dir() { path.join("model_index.json") } else { path.to_owned() };
        let folders = folders(&around);
        let mut fit: BTreeMap<Role, Vec<(PathBuf, Part)>> = BTreeMap::new();
        let mut unfit: BTreeMap<Role, Vec<String>> = BTreeMap::new();
        let mut unread = None;
        for folder in &folders {
            // The nearest folder that has one decides.
            wanted.retain(|role| !fit.contains_key(role));
            for file in candidates(folder) {
                // What cannot be read here was not asked for, but may be what is missed. Other models keep their own parts.
                let weights = match Weights::open(&file) {
                    Ok(weights) => weights,
                    Err(e) => {
                        unread.get_or_insert(e.to_string());
                        continue;
                    }
                };
                let Ok(opened) = Opened::of(weights, &file) else { continue };
                if opened.denoiser().is_some() {
                    continue;
                }
                for found in &opened.networks {
                    let Some(role) = self.role_of(found).filter(|role| wanted.contains(role)) else {
                        continue;
                    };
                    let Ok(part) = opened.part(found, role, Some(self.family)) else { continue };
                    match self.fits(&part) {
                        Ok(()) => fit.entry(role).or_default().push((file.clone(), part)),
                        Err(why) => {
                            unfit.entry(role).or_default().push(format!("{}: {why}", file.display()));
                        }
                    }
                }
            }
        }
        for role in self.family.roles().iter().copied().chain([Role::Preview]) {
            if self.parts.contains_key(&role) {
                continue;
            }
            let mut found = fit.remove(&role).unwrap_or_default();
            if found.len() == 1
                && let Some((_, part)) = found.pop()
            {
                self.missing.remove(&role);
                self.parts.insert(role, part);
            } else if found.len() > 1 {
                self.missing
                    .insert(role, Missing::Several(found.into_iter().map(|(file, _)| file).collect()));
            } else {
                let unfit = unfit.remove(&role).unwrap_or_default().into_iter().chain(unread.clone()).next();
                self.missing.entry(role).or_insert(Missing::Nowhere { looked: folders.clone(), unfit });
            }
        }
        self.settle();
    }

    /// The same with a part from another file or folder, in the place of its own: a VAE, a text encoder, a ControlNet.
    ///
    /// # Errors
    /// The file holds no such part, is damaged, or its part is of another family.
    pub fn with_part(mut self, role: Role, path: &Path) -> Result<Pipeline> {
        let part = self.part_of(path, role)?;
        if role == Role::Denoiser {
            let family = Family::of(&part, self.family == Family::SdxlRefiner);
            if family.roles() != self.family.roles() || family.is_flux() != self.family.is_flux() {
                let what = format!("it is the denoiser of a {family}, and the model is a {}", self.family);
                return Err(Error::unsupported(path, what));
            }
            self.family = family;
            let purpose = family.purpose(&part).map_err(|what| Error::unsupported(path, what))?;
            // A folder for edits is one whichever file its denoiser comes from.
            if (self.purpose, purpose) != (Purpose::Reference, Purpose::Create) {
                self.purpose = purpose;
            }
        }
        self.fits(&part).map_err(|what| Error::unsupported(path, what))?;
        self.missing.remove(&role);
        self.parts.insert(role, part);
        self.settle();
        Ok(self)
    }

    /// The same as a model that edits the picture it is given, where its file does not say so: Flux.1 Kontext.
    ///
    /// # Errors
    /// It is no Flux, or one that does something else.
    pub fn editing(mut self) -> Result<Pipeline> {
        match self.purpose {
            Purpose::Create if self.family.is_flux() => self.purpose = Purpose::Reference,
            Purpose::Reference => {}
            _ => {
                let what = "it is none that could be Flux.1 Kontext, whose files look like Flux.1 dev's";
                return Err(Error::unsupported(&self.path, what));
            }
        }
        Ok(self)
    }

    /// The part of a file or folder that would take a role here.
    fn part_of(&self, path: &Path, role: Role) -> Result<Part> {
        let file = if path.is_dir() { folder::weights_in(path)? } else { path.to_owned() };
        let opened = Opened::open(&file)?;
        let kind = match role {
            Role::Denoiser if self.family.is_flux() => Kind::Flux,
            Role::Denoiser => Kind::Unet,
            Role::Vae => Kind::Vae,
            Role::TextEncoder2 if self.family.is_flux() => Kind::T5,
            Role::TextEncoder | Role::TextEncoder2 => Kind::Clip,
            Role::Preview => Kind::TinyVae,
            Role::ControlNet if self.family.is_flux() => Kind::FluxControlNet,
            Role::ControlNet => Kind::ControlNet,
        };
        let those: Vec<&Found> = opened.networks.iter().filter(|n| n.kind == kind).collect();
        let found = match those.as_slice() {
            [only] => Some(*only),
            several => several.iter().find(|n| self.role_of(n) == Some(role)).copied(),
        };
        let Some(found) = found else {
            let has: Vec<&str> = opened.networks.iter().map(|n| kind_name(n.kind)).collect();
            let what = format!("it holds no {}, but a {}", kind_name(kind), has.join(" and a "));
            return Err(Error::unsupported(path, what));
        };
        opened.part(found, role, Some(self.family))
    }

    /// A part, if it is there.
    pub fn part(&self, role: Role) -> Option<&Part> {
        self.parts.get(&role)
    }

    /// All parts that are there.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.values()
    }

    /// A part that must be there.
    ///
    /// # Errors
    /// It is not: the sentence says which, and where it was looked for.
    pub fn need(&self, role: Role) -> Result<&Part> {
        self.parts.get(&role).ok_or_else(|| {
            let nowhere = Missing::Nowhere { looked: Vec::new(), unfit: None };
            let why = self.missing.get(&role).unwrap_or(&nowhere);
            let what = format!(
                "it lacks its {}: {why}; put it beside the model or give its file",
                self.family.part_name(role)
            );
            Error::unsupported(&self.path, what)
        })
    }

    /// Checks that all parts that the family needs are there and belong together.
    ///
    /// # Errors
    /// One is missing, or does not fit: the sentence says which.
    pub fn check(&self) -> Result<()> {
        for role in self.family.roles() {
            let part = self.need(*role)?;
            self.fits(part).map_err(|what| Error::unsupported(part.path(), what))?;
        }
        Ok(())
    }

    /// What the denoiser does with the output of a text encoder; `None` where the family has no such encoder.
    pub fn text(&self, role: Role) -> Option<TextUse> {
        self.family.text(role)
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> Option<usize> {
        self.family.latents(self.parts.get(&Role::Denoiser)?)
    }

    /// Why a part does not belong to this denoiser.
    fn fits(&self, part: &Part) -> Result<(), String> {
        let Some(denoiser) = self.parts.get(&Role::Denoiser) else { return Ok(()) };
        let name = self.family.part_name(part.role);
        let same = |what: &str, has: Option<usize>, wants: Option<usize>| match (has, wants) {
            (Some(has), Some(wants)) if has != wants => Err(format!(
                "it is the {name} of another family: it has {what} {has}, and this {} needs {wants}",
                self.family
            )),
            _ => Ok(()),
        };
        let context = denoiser.size("cross_attention_dim");
        let width = part.size("hidden_size");
        match part.role {
            Role::Denoiser => Ok(()),
            Role::Vae | Role::Preview => {
                same("latent channels:", part.size("latent_channels"), self.family.latents(denoiser))?;
                self.family.same_scale(part)
            }
            Role::ControlNet if self.family.is_flux() => {
                same("text of width", part.size("joint_attention_dim"), denoiser.size("joint_attention_dim"))
            }
            Role::ControlNet => same("text of width", part.size("cross_attention_dim"), context),
            Role::TextEncoder if self.family.is_flux() => {
                same("width", width, denoiser.size("pooled_projection_dim"))
            }
            Role::TextEncoder2 if self.family.is_flux() => {
                same("width", part.size("d_model"), denoiser.size("joint_attention_dim"))
            }
            Role::TextEncoder if self.family != Family::Sdxl => same("width", width, context),
            Role::TextEncoder2 if self.family == Family::SdxlRefiner => same("width", width, context),
            // Of SDXL the states of both lie side by side.
            role => {
                let other = if role == Role::TextEncoder { Role::TextEncoder2 } else { Role::TextEncoder };
                let other = self.parts.get(&other).and_then(|p| p.size("hidden_size"));
                match (context, width) {
                    (Some(context), Some(width)) if other.is_none() && width >= context => {
                        same("width", Some(width), Some(context - context.min(1)))
                    }
                    (Some(context), _) => same("width", width, other.map(|w| context.saturating_sub(w))),
                    _ => Ok(()),
                }
            }
        }
    }
}
