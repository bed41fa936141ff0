//! Pictures from words: what a person asks for, in the model's own terms, and the model that makes them.

mod files;
mod given;
pub mod room;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hob_engine::diffuse::{
    Ays, Event, Guidance, How, PaintError, Painter, Preview, Request, Sampler, Schedule, Script, Source,
    Steps,
};
use hob_engine::lora::Updates;
use hob_engine::{Cpu, Precision};
use hob_io::lora::Role as LoraRole;
use hob_io::picture::{Lora as Added, Recipe};
use hob_io::pipeline::{Family, Purpose, Role};
use hob_io::prompt::{Embedding, Embeddings, Frame};
use hob_io::{Lora, Picture, Pipeline, Tokenizer};

use crate::error::{Error, Result};
use files::Files;
use given::hold;
pub use given::{Begin, Held};
use words::{Asked, tokenizer};

/// What a person adds to a model.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// LoRA files, each with how much of it
    pub loras: Vec<(PathBuf, f32)>,
    /// another autoencoder
    pub vae: Option<PathBuf>,
    /// vectors that stand for words
    pub embeddings: Vec<PathBuf>,
    /// a ControlNet
    pub control: Option<PathBuf>,
    /// the model edits the picture it is given, though its file does not say so (Flux.1 Kontext)
    pub edit: bool,
}

/// A picture model with its tokenizers, ready to be asked.
pub struct Studio {
    painter: Painter,
    tokenizers: BTreeMap<Role, (Tokenizer, Option<Frame>)>,
    embeddings: BTreeMap<Role, Embeddings>,
    loras: Vec<Added>,
    files: Files,
    held: Option<Held>,
    /// what was said last, so that pictures of one prompt read it once
    said: Option<(Asked, Arc<Script>)>,
}

impl Studio {
    /// Opens a model and what is added to it.
    ///
    /// # Errors
    /// A part is missing or cannot be run, a LoRA or an embedding does not fit.
    pub fn open(path: &Path, extras: &Extras, threads: usize) -> Result<Studio> {
        let given = [(Role::Vae, &extras.vae), (Role::ControlNet, &extras.control)];
        let given: Vec<(Role, PathBuf)> =
            given.into_iter().filter_map(|(role, path)| Some((role, path.clone()?))).collect();
        let pipeline = Pipeline::open_with(path, &given)?;
        let pipeline = Arc::new(if extras.edit { pipeline.editing()? } else { pipeline });
        pipeline.check()?;
        let mut tokenizers = BTreeMap::new();
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            if pipeline.text(role).is_some() {
                tokenizers.insert(role, tokenizer(&pipeline, role)?);
            }
        }
        let files = extras.embeddings.iter().map(|p| Embedding::open(p));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let mut embeddings = BTreeMap::new();
        for (role, (tokenizer, _)) in tokenizers.iter().filter(|(_, t)| t.1.is_some() && !files.is_empty()) {
            let channels = pipeline.need(*role)?.config["hidden_size"].as_u64().unwrap_or(0) as usize;
            embeddings.insert(*role, Embeddings::new(&files, tokenizer, channels).map_err(Error::new)?);
        }
        let (updates, loras) = updates(&pipeline, &extras.loras)?;
        let files = Files {
            model: pipeline.need(Role::Denoiser)?.files().into_iter().map(Path::to_path_buf).collect(),
            vae: extras.vae.as_ref().and_then(|_| Some(pipeline.part(Role::Vae)?.path().to_path_buf())),
            loras,
            embeddings: extras.embeddings.iter().map(|p| (stem(p), p.clone())).collect(),
            hashes: [None, None],
        };
        let loras = (extras.loras.iter())
            .map(|(path, scale)| Added { name: stem(path), scale: *scale, hash: None })
            .collect();
        let painter = Painter::new(pipeline, updates, Cpu::new(threads, Precision::Fast))?;
        Ok(Studio { painter, tokenizers, embeddings, loras, files, held: None, said: None })
    }

    /// The engine beneath.
    pub fn painter(&self) -> &Painter {
        &self.painter
    }

    /// Bytes of what stays with the model beside its weights: its tokenizers.
    pub fn heap_bytes(&self) -> usize {
        self.tokenizers.values().map(|(tokenizer, _)| tokenizer.heap_bytes()).sum()
    }

    /// What shows latents of pictures while they are made.
    pub fn preview(&self, threads: usize) -> Result<Preview> {
        Ok(Preview::new(&self.painter, threads)?)
    }

    /// Holds the pictures to come to another one, by the ControlNet among the extras.
    pub fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// What is not said of a picture, as its model wants it.
    pub fn defaults(&self) -> Recipe {
        let pipeline = self.painter.pipeline();
        let family = pipeline.family;
        let side = pipeline.part(Role::Denoiser).and_then(|p| p.config["sample_size"].as_u64());
        let side = match side {
            Some(side) if family.is_unet() => side as usize * self.painter.multiple(),
            _ if matches!(family, Family::Sd1 | Family::Sd2) => 512,
            _ => 1024,
        };
        let (steps, cfg, guidance) = match family {
            Family::FluxSchnell => (4, 1.0, None),
            // As their makers and diffusers' pipelines have them.
            Family::FluxDev => match pipeline.purpose {
                Purpose::Inpaint => (28, 1.0, Some(30.0)),
                Purpose::Control => (28, 1.0, Some(10.0)),
                Purpose::Reference => (28, 1.0, Some(2.5)),
                _ => (28, 1.0, Some(3.5)),
            },
            Family::Sdxl | Family::SdxlRefiner => (30, 6.0, None),
            _ => (30, 7.5, None),
        };
        Recipe {
            steps,
            cfg,
            guidance,
            image_cfg: (pipeline.purpose == Purpose::Edit).then_some(1.5),
            sampler: self.painter.scheduler.sampler().map_or("euler", Sampler::name).into(),
            width: side,
            height: side,
            count: 1,
            noise: Source::TorchCpu.name().into(),
            version: format!("hob {}", env!("CARGO_PKG_VERSION")),
            model: stem(&pipeline.path),
            vae: self
                .files
                .vae
                .as_deref()
                .and_then(Path::file_name)
                .map(|n| n.to_string_lossy().into_owned()),
            loras: self.loras.clone(),
            ..Recipe::default()
        }
    }

    /// Makes the picture of a recipe, with what it begins with. `on` hears of each phase and step, and stops by `false`.
    ///
    /// # Errors
    /// Something asked for does not exist or does not fit, the work was stopped, or the result is no picture.
    pub fn make(
        &mut self,
        recipe: &Recipe,
        begin: Option<&Begin>,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Option<Picture>> {
        let after = begin.filter(|_| self.is_held_by(begin));
        let begin = begin.filter(|_| after.is_none());
        self.painter.wants(begin.is_some(), self.held.is_some() || after.is_some())?;
        let sampler = Sampler::parse(&recipe.sampler).map_err(Error::new)?;
        let scheduler = &self.painter.scheduler;
        let (width, height) = (recipe.width, recipe.height);
        let (steps, how) = match recipe.schedule.as_str() {
            "" => {
                let tokens = self.painter.tokens(width, height);
                let steps = Steps::diffusers(scheduler, sampler, recipe.steps as usize, tokens);
                (steps.map_err(Error::new)?, scheduler.how(sampler))
            }
            name => {
                let schedule = Schedule::parse(name).map_err(Error::new)?;
                let ays = match self.painter.pipeline().family {
                    Family::Sdxl | Family::SdxlRefiner => Ays::Sdxl,
                    _ => Ays::Sd15,
                };
                let steps = Steps::comfy(scheduler, sampler, schedule, recipe.steps as usize, ays);
                (steps.map_err(Error::new)?, How::of(sampler))
            }
        };
        let noise = Source::parse(&recipe.noise).ok_or_else(|| {
            Error::new(format!("{} is no source of noise; there are torch-cpu and philox", recipe.noise))
        })?;
        let given =
            begin.map(|s| s.fit(self.seen(s, (width, height)).unwrap_or((width, height)))).transpose()?;
        let control = match (&self.held, after) {
            (Some(held), _) => Some(held.fit(width, height)?),
            (None, Some(begin)) => Some(hold(&begin.init, width, height, (1.0, None))?),
            (None, None) => None,
        };
        let guidance = Guidance { scale: recipe.cfg, rescale: 0.0 };
        let image_cfg = recipe.image_cfg.or(self.defaults().image_cfg).unwrap_or(1.0);
        let script = self.script(Studio::asked(recipe, sampler.evaluations()))?;
        let request = Request {
            width,
            height,
            script: &script,
            guidance,
            image_cfg,
            told: recipe.guidance.unwrap_or(3.5),
            sampler,
            how,
            steps,
            source: noise,
            seed: recipe.seed,
            given: given.as_ref(),
            control: control.as_ref(),
        };
        match self.painter.paint(&request, on) {
            Ok(pixels) => Ok(Some(Picture::from_planes(&pixels, width, height).map_err(Error::new)?)),
            Err(PaintError::Stopped) => Ok(None),
            Err(PaintError::Failed(e)) => Err(e.into()),
            Err(PaintError::NotFinite(what)) => Err(Error::new(what)),
        }
    }
}

/// What LoRA files change, by part; and the files themselves, where folders were given.
fn updates(pipeline: &Pipeline, files: &[(PathBuf, f32)]) -> Result<(BTreeMap<Role, Updates>, Vec<PathBuf>)> {
    let roles = [
        (Role::Denoiser, LoraRole::Denoiser),
        (Role::TextEncoder, LoraRole::Text),
        (Role::TextEncoder2, LoraRole::Text2),
    ];
    let mut weights = Vec::new();
    for (role, as_lora) in roles {
        if let Some(part) = pipeline.part(role) {
            let shapes: BTreeMap<String, Vec<usize>> =
                part.tensors.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
            weights.push((role, as_lora, shapes));
        }
    }
    let parts: Vec<hob_io::lora::Part> = (weights.iter())
        .map(|(_, role, weights)| hob_io::lora::Part { role: *role, weights, shift_first: false })
        .collect();
    let loras = files.iter().map(|(path, _)| Lora::open(path, &parts)).collect::<Result<Vec<_>, _>>()?;
    let mut all = BTreeMap::new();
    for (i, (role, ..)) in weights.iter().enumerate() {
        let mine: Vec<_> =
            loras.iter().zip(files).map(|(lora, (_, scale))| (&lora.parts[i], *scale)).collect();
        all.insert(*role, Updates::sum(&mine));
    }
    Ok((all, loras.into_iter().map(|lora| lora.path).collect()))
}

/// A file's name without its ending.
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Checks that the folder of a picture to be written is there, before the work for it is done.
pub fn writable(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Error::new(format!("there is no folder {} to write the picture to", folder.display())))
        }
        _ if path.is_dir() => {
            Err(Error::new(format!("{} is a folder; name the PNG to write in it", path.display())))
        }
        _ => Ok(()),
    }
}
