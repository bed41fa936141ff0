//! Pictures from words: what a person asks for, in the model's own terms, and the model that makes them.

mod given;
pub mod room;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hob_engine::diffuse::{
    Ays, Event, Guidance, How, PaintError, Painter, Preview, Request, Room, Sampler, Schedule, Script, Shape,
    Source, Steps, Tokens, Turns, Words,
};
use hob_engine::lora::Updates;
use hob_engine::{Cpu, Precision};
use hob_io::lora::Role as LoraRole;
use hob_io::picture::{Lora as Added, Recipe};
use hob_io::pipeline::{Family, Purpose, Role};
use hob_io::prompt::{Chunk, Embedding, Embeddings, Frame, Prompt, TOKENS, schedule, together};
use hob_io::{Lora, Picture, Pipeline, Tokenizer};

use crate::error::{Error, Result};
use crate::hashes::{self, Of, On};
use given::hold;
pub use given::{Begin, Held};

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

/// Chunks of 77 tokens of all texts that a prompt may change into: 2048 of SDXL are 1.3 GB.
const MOST_CHUNKS: usize = 2048;

/// The files that a recipe names by their hashes.
#[derive(Default)]
struct Files {
    /// the denoiser's, which is the whole model's where it is one file
    model: Vec<PathBuf>,
    /// another autoencoder's
    vae: Option<PathBuf>,
    /// LoRAs
    loras: Vec<PathBuf>,
    /// vectors, by the name that stands for them
    embeddings: Vec<(String, PathBuf)>,
    /// the model's hash and the VAE's, once they are known
    hashes: [Option<String>; 2],
}

/// What conditions depend on: prompt, negative prompt, clip skip, whether guidance is on, calls of the denoiser.
pub type Asked = (String, String, Option<usize>, bool, usize);

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

    /// How a picture is made in so many bytes beside the process. `begin`: with which picture; `again`: others follow, for
    /// which the denoiser stays in memory where there is room.
    ///
    /// # Errors
    /// A part's weights do not fit its configuration.
    pub fn room(&self, recipe: &Recipe, begin: Option<&Begin>, again: bool, bytes: u64) -> Result<Room> {
        let pipeline = self.painter.pipeline();
        let tokens = match pipeline.text(Role::TextEncoder2).filter(|_| pipeline.family.is_flux()) {
            Some(text) => text.max_tokens,
            None => {
                let mut most = 1;
                let parts = together(&recipe.prompt).into_iter().map(|(text, _)| text);
                for text in parts.chain([recipe.negative.clone()]) {
                    for (_, text) in schedule(&text, recipe.steps as usize) {
                        most = self.tokens(&text)?.values().map(length).fold(most, usize::max);
                    }
                }
                most * TOKENS
            }
        };
        let held = self.held.is_some() || self.is_held_by(begin);
        let begin = begin.filter(|_| !self.is_held_by(begin));
        let shape = Shape {
            width: recipe.width,
            height: recipe.height,
            guided: recipe.cfg > 1.0 || together(&recipe.prompt).len() > 1,
            tokens,
            begins: begin.is_some(),
            seen: begin.and_then(|begin| self.seen(begin, (recipe.width, recipe.height))),
            held,
            again,
        };
        Ok(self.painter.room(shape, usize::try_from(bytes).unwrap_or(usize::MAX))?)
    }

    /// Makes the pictures to come as `room` has it.
    pub fn settle(&mut self, room: Room) {
        self.painter.settle(room);
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
        let skip = recipe.clip_skip.map(|n| n as usize);
        // As A1111 counts them where prompts change.
        let calls = recipe.steps as usize * sampler.evaluations();
        let script =
            self.script((recipe.prompt.clone(), recipe.negative.clone(), skip, guidance.is_on(), calls))?;
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

    /// Writes into a recipe by which files it is made: their hashes, computed where they are not known yet. What cannot be
    /// read, or is not done when `on` says stop, is left out.
    pub fn sign(&mut self, recipe: &mut Recipe, on: On) {
        let Files { model, vae, loras, embeddings, hashes } = &mut self.files;
        let paths: [Vec<&Path>; 2] =
            [model.iter().map(|p| &**p).collect(), vae.iter().map(|p| &**p).collect()];
        for (hash, paths) in hashes.iter_mut().zip(paths).filter(|(h, p)| h.is_none() && !p.is_empty()) {
            *hash = hashes::know(&paths, Of::All, on).ok().flatten();
        }
        for (lora, path) in self.loras.iter_mut().zip(loras).filter(|(l, _)| l.hash.is_none()) {
            lora.hash = hashes::lora(path, on).ok().flatten();
        }
        [recipe.model_hash, recipe.vae_hash] = hashes.clone();
        recipe.loras.clone_from(&self.loras);
        // Of another program's text, what it said of these may be of other files.
        const VECTORS: &str = "TI hashes";
        recipe.more.retain(|key, _| ![VECTORS, "Hashes"].contains(&key.as_str()));
        let said = [&recipe.prompt, &recipe.negative].map(|text| text.to_lowercase());
        let named = |name: &str| said.iter().any(|text| text.contains(&name.to_lowercase()));
        let hash = |(name, path): &(String, PathBuf)| {
            let hash = hashes::know(&[path], Of::All, on).ok().flatten()?;
            Some(format!("{name}: {}", &hash[..12]))
        };
        let vectors: Vec<String> =
            embeddings.iter().filter(|(name, _)| named(name)).filter_map(hash).collect();
        if !vectors.is_empty() {
            recipe.more.insert(VECTORS.into(), vectors.join(", "));
        }
    }

    /// In what this model with its extras is not what made the picture of a recipe, in sentences; by hashes, which are
    /// computed where they are not known.
    pub fn differs(&mut self, like: &Recipe, on: On) -> Vec<String> {
        let mut own = self.defaults();
        self.sign(&mut own, on);
        let mut all = Vec::new();
        let short = |hash: &str| hash.chars().take(10).collect::<String>();
        if let (Some(theirs), Some(ours)) = (&like.model_hash, &own.model_hash) {
            let old = || self.files.model.first().and_then(|p| hashes::old(p));
            let is = match theirs.len() {
                8 => old().is_some_and(|old| old.eq_ignore_ascii_case(theirs)),
                _ => hashes::same(theirs, ours),
            };
            if !is {
                let (theirs, ours) = (short(theirs), short(ours));
                all.push(format!(
                    "it was made by {} ({theirs}), and {} is another model ({ours})",
                    like.model, own.model
                ));
            }
        }
        match (&like.vae_hash, &own.vae_hash) {
            (Some(theirs), Some(ours)) if !hashes::same(theirs, ours) => {
                all.push(format!(
                    "it was made with the VAE of the hash {}, and this one's is {}",
                    short(theirs),
                    short(ours)
                ));
            }
            (Some(theirs), None) if own.vae.is_none() => {
                let name = like.vae.clone().unwrap_or_else(|| short(theirs));
                all.push(format!("it was made with the VAE {name}: give it with --vae"));
            }
            _ => {}
        }
        for Added { name, scale, hash } in &like.loras {
            let is = |ours: &&Added| match (hash, &ours.hash) {
                (Some(a), Some(b)) => hashes::same(a, b),
                _ => *name == ours.name,
            };
            let whole = |path: &PathBuf| hashes::know(&[path], Of::All, on).ok().flatten();
            match own.loras.iter().find(is).or(own.loras.iter().find(|ours| ours.name == *name)) {
                None => {
                    all.push(format!("it was made with the LoRA {name}: give it with --lora FILE:{scale}"))
                }
                Some(ours) if is(&ours) => {}
                // Before it knew the hash of tensors, A1111 wrote that of the file.
                Some(ours) => {
                    let at = own.loras.iter().position(|l| l.name == ours.name);
                    let file = at.and_then(|i| self.files.loras.get(i)).and_then(whole);
                    if !file.zip(hash.as_ref()).is_some_and(|(a, b)| hashes::same(&a, b)) {
                        all.push(format!("the LoRA {name} that it was made with was another file"));
                    }
                }
            }
        }
        all
    }

    /// What prompt and negative prompt say, each distinct text read once.
    ///
    /// # Errors
    /// A prompt is too long for a text encoder, or changes into too many texts; memory.
    pub fn script(&mut self, asked: Asked) -> Result<Arc<Script>> {
        if let Some((last, script)) = &self.said
            && *last == asked
        {
            return Ok(script.clone());
        }
        let (prompt, negative, skip, guided, calls) = &asked;
        // A network that is told its guidance has nothing to weigh prompts against.
        let parts = match self.painter.pipeline().family.is_flux() {
            true => vec![(prompt.clone(), 1.0)],
            false => together(prompt),
        };
        let guided = *guided || parts.len() > 1;
        let mut texts: Vec<String> = Vec::new();
        let mut turns = |text: &str| -> Turns {
            let mut index = |text: String| {
                texts.iter().position(|t| *t == text).unwrap_or_else(|| {
                    texts.push(text);
                    texts.len() - 1
                })
            };
            schedule(text, *calls).into_iter().map(|(end, text)| (end, index(text))).collect()
        };
        let parts = parts.iter().map(|(text, weight)| (*weight, turns(text))).collect();
        let mut script = Script { parts, ..Script::default() };
        if guided {
            script.negative = turns(negative);
        }
        let mut all = Vec::new();
        for text in &texts {
            all.push(self.tokens(text)?);
            let chunks = |tokens: &Tokens| tokens.values().map(length).max().unwrap_or(0);
            if all.iter().map(chunks).max().unwrap_or(0) * texts.len() > MOST_CHUNKS {
                return Err(Error::new(format!(
                    "the prompt changes into {} texts, more than are kept; let fewer parts of it take turns",
                    texts.len()
                )));
            }
        }
        for (role, (_, frame)) in &self.tokenizers {
            let Some(frame) = frame else { continue };
            let most = all.iter().filter_map(|tokens| tokens.get(role)).map(length).max().unwrap_or(0);
            for tokens in &mut all {
                if let Some(Words::Chunks(chunks)) = tokens.get_mut(role) {
                    chunks.resize(most, Chunk::empty(frame));
                }
            }
        }
        script.said = self.painter.said(&all.iter().collect::<Vec<_>>(), *skip, &self.embeddings)?;
        if guided
            && negative.is_empty()
            && let Some(nothing) = script.said.first().and_then(|like| self.painter.nothing(like))
        {
            script.negative = vec![(usize::MAX, script.said.len())];
            script.said.push(nothing);
        }
        let script = Arc::new(script);
        self.said = Some((asked, script.clone()));
        Ok(script)
    }

    fn tokens(&self, text: &str) -> Result<Tokens> {
        let prompt = Prompt::parse(text);
        let none = Embeddings::default();
        let mut tokens = Tokens::new();
        for (role, (tokenizer, frame)) in &self.tokenizers {
            let words = match frame {
                Some(frame) => {
                    let embeddings = self.embeddings.get(role).unwrap_or(&none);
                    Words::Chunks(prompt.chunks(tokenizer, frame, embeddings))
                }
                None => {
                    let most = self.painter.pipeline().text(*role).map_or(512, |t| t.max_tokens);
                    let mut ids = tokenizer.encode_text(&prompt.text());
                    if ids.len() > most {
                        return Err(Error::new(format!(
                            "the prompt has {} tokens, {} more than this model reads; shorten it",
                            ids.len(),
                            ids.len() - most
                        )));
                    }
                    ids.resize(most, tokenizer.pad_id().unwrap_or(0));
                    Words::Ids(ids)
                }
            };
            tokens.insert(*role, words);
        }
        Ok(tokens)
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
    let shape = Shape { width, height, guided, tokens, ..Shape::default() };
    Ok(painter.room(shape, usize::MAX)?.total() as u64)
}

/// Chunks of a prompt; of an encoder that has none, one for as many tokens.
fn length(words: &Words) -> usize {
    match words {
        Words::Chunks(chunks) => chunks.len(),
        Words::Ids(ids) => ids.len().div_ceil(TOKENS),
    }
}

/// The tokenizer of a text encoder; with the frame of its chunks, where it is of CLIP's kind.
fn tokenizer(pipeline: &Pipeline, role: Role) -> Result<(Tokenizer, Option<Frame>)> {
    let is_t5 = pipeline.family.is_flux() && role == Role::TextEncoder2;
    let tokenizer = match pipeline.tokenizers.get(&role) {
        Some(folder) if folder.is_dir() => Tokenizer::from_dir(folder)?,
        Some(file) => Tokenizer::from_gguf(&hob_io::Gguf::open(file)?)?,
        None if is_t5 => Tokenizer::t5(),
        None => Tokenizer::clip(),
    };
    if is_t5 {
        return Ok((tokenizer, None));
    }
    // OpenCLIP's encoders fill up with zeros, which a folder's tokenizer says itself.
    let open = role == Role::TextEncoder2 || pipeline.family == Family::Sd2;
    let pad = (open && !pipeline.tokenizers.contains_key(&role)).then_some(0);
    let frame = Frame::new(&tokenizer, pad).map_err(Error::new)?;
    Ok((tokenizer, Some(frame)))
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
