//! Pictures from words: what a person asks for, in the model's own terms, and the model that makes them.

mod files;
pub mod room;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hob_engine::diffuse::{
    Ays, Control, Event, Given, Guidance, How, PaintError, Painter, Preview, Request, Sampler, Schedule,
    Script, Source, Steps,
};
use hob_engine::lora::Updates;
use hob_engine::{Cpu, Precision};
use hob_io::lora::Role as LoraRole;
use hob_io::picture::{Filter, Init, Lora as Added, Recipe};
use hob_io::pipeline::{Family, Role};
use hob_io::prompt::{Embedding, Embeddings, Frame};
use hob_io::{Lora, Picture, Pipeline, Tokenizer};

use crate::error::{Error, Result};
use files::Files;
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

/// A picture that is given, with its mask.
pub struct Begin {
    /// the picture
    pub init: Picture,
    /// where it is painted anew
    pub mask: Option<Picture>,
    /// how much
    pub strength: f32,
    /// sha256 of the files of picture and mask
    pub hashes: [Option<String>; 2],
}

/// A picture that a new one is held to by a ControlNet.
pub struct Held {
    /// as the ControlNet wants it: edges, depths, poses
    pub image: Picture,
    /// how much
    pub strength: f32,
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
        let pipeline = Arc::new(Pipeline::open_with(path, &given)?);
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
            Family::FluxDev => (28, 1.0, Some(3.5)),
            Family::Sdxl | Family::SdxlRefiner => (30, 6.0, None),
            _ => (30, 7.5, None),
        };
        Recipe {
            steps,
            cfg,
            guidance,
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
        let given = begin.map(|s| s.fit(width, height)).transpose()?;
        let control = self.held.as_ref().map(|h| h.fit(width, height)).transpose()?;
        let guidance = Guidance { scale: recipe.cfg, rescale: 0.0 };
        let script = self.script(Studio::asked(recipe, sampler.evaluations()))?;
        let request = Request {
            width,
            height,
            script: &script,
            guidance,
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

impl Begin {
    /// Picture and mask in the size of the result.
    fn fit(&self, width: usize, height: usize) -> Result<Given> {
        let init = self.init.clone().opaque().resized(width, height, Filter::Lanczos).map_err(Error::new)?;
        let mask = match &self.mask {
            None => None,
            Some(mask) if (mask.width, mask.height) != (self.init.width, self.init.height) => {
                return Err(Error::new(format!(
                    "the mask is of {} × {} and the picture of {} × {}; they must be of one size",
                    mask.width, mask.height, self.init.width, self.init.height
                )));
            }
            Some(mask) => Some(mask.mask(width, height).map_err(Error::new)?),
        };
        Ok(Given { pixels: init.planes(), strength: self.strength.into(), mask })
    }

    /// Bytes of both as they lie in memory.
    pub fn bytes(&self) -> usize {
        let of = |p: &Picture| p.rgb.len() + p.alpha.as_ref().map_or(0, Vec::len);
        of(&self.init) + self.mask.as_ref().map_or(0, of)
    }

    /// What the recipe keeps of it.
    pub fn noted(&self) -> Init {
        let [hash, mask] = self.hashes.clone();
        Init { strength: self.strength, hash, mask }
    }
}

impl Held {
    /// The picture in the size of the result, as diffusers resizes it.
    fn fit(&self, width: usize, height: usize) -> Result<Control> {
        let image =
            self.image.clone().opaque().resized(width, height, Filter::Lanczos).map_err(Error::new)?;
        let image = image.planes().into_iter().map(|x| (x + 1.0) / 2.0).collect();
        Ok(Control { image, strength: self.strength })
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
