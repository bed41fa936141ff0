//! Where a model's bytes lie, and how fast it is there: the plan of a run, for this machine or another.

use hob_engine::{Budget, CHUNK, Cpu, Footprint, Options, Rates};

use super::gpus;
use super::subject::Subject;
use super::verdict::Verdict;
use crate::error::Result;

/// What it is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// tokens of context; of each model's own, at most what a run takes, where `None`
    pub ctx: Option<usize>,
    /// sequences at a time
    pub sequences: usize,
    /// tokens of the prompt whose reading is timed
    pub prompt: usize,
}

/// A GPU to plan for.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// what to call it
    pub name: String,
    /// bytes of its memory that may be taken
    pub free: u64,
    /// bytes read in a second, in 10⁹
    pub bandwidth_gbps: f64,
    /// multiplications and additions in a second in 16 bits, in 10¹²; reading a prompt is not timed without
    pub tflops: Option<f64>,
    /// whether its memory is the processor's too
    pub unified: bool,
}

impl Card {
    /// A GPU of the table.
    pub fn of(gpu: &gpus::Gpu) -> Card {
        Card {
            name: gpu.name.to_string(),
            free: gpu.free_bytes(),
            bandwidth_gbps: gpu.bandwidth_gbps,
            tflops: Some(gpu.tflops),
            unified: gpu.unified(),
        }
    }

    /// One of which nothing but its memory matters.
    pub fn any() -> Card {
        Card { name: "a GPU".into(), free: 0, bandwidth_gbps: 1.0, tflops: None, unified: false }
    }
}

/// The machine to plan for.
#[derive(Clone, Debug)]
pub struct Target {
    /// bytes of working memory that may be taken
    pub ram: u64,
    /// the GPU, where one is to be used
    pub card: Option<Card>,
    /// what the processor's kernels reach
    pub rates: Option<Rates>,
    /// bytes read from disk in a second, in 10⁹
    pub disk_gbps: Option<f64>,
    /// bytes of this program and its libraries
    pub process: usize,
}

/// How many layers lie where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// in the GPU's memory
    pub gpu: usize,
    /// in working memory
    pub ram: usize,
    /// read from disk for each token
    pub streamed: usize,
}

/// The speeds of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// tokens generated in a second, all sequences together, after the prompt
    pub tps: f64,
    /// the same at the end of the context
    pub tps_full: f64,
    /// seconds until the first token, the model being open
    pub first: Option<f64>,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Fit {
    /// tokens of context
    pub ctx: usize,
    /// whether that is less than it would be with more memory, nobody having asked for so many
    pub cut: bool,
    /// tokens of the prompt that is timed
    pub prompt: usize,
    /// the bytes, by kind
    pub budget: Budget,
    /// bytes that the driver and kernels of a GPU take
    pub driver: u64,
    /// bytes that may be taken: of the GPU where all lies there, else of working memory
    pub free: u64,
    /// the longest context that fits as this one does, up to what the model was trained for
    pub max_ctx: Option<usize>,
    /// where layers lie
    pub layers: Layers,
    /// bytes read from disk for each token
    pub streamed: u64,
    /// the least it is held in on the processor, weights being read from disk for each token
    pub least: u64,
    /// how fast; `None` where nothing was measured
    pub speed: Option<Speed>,
    /// the verdict
    pub verdict: Verdict,
}

/// Seconds of a step after the prompt, of the last of the context, and of the prompt.
struct Times {
    step: f64,
    last: f64,
    prompt: f64,
}

/// What a driver and the kernels take of a GPU's memory: CUDA's context is 300 to 500 MB on recent drivers.
const DRIVER: u64 = 450 << 20;

/// The share of a GPU's bandwidth that generation reaches, and of its arithmetic that reading a prompt does, with the
/// better runtimes on consumer cards.
const OF_BANDWIDTH: f64 = 0.75;
const OF_TFLOPS: f64 = 0.4;

impl Fit {
    /// All bytes.
    pub fn total(&self) -> u64 {
        (self.budget.total() as u64).saturating_add(self.driver)
    }
}

/// Plans `subject` for `target`.
pub fn plan(subject: &Subject, target: &Target, ask: &Ask, cpu: &Cpu, options: &Options) -> Result<Fit> {
    let trained = subject.outline.context();
    let ctx = ask.ctx.unwrap_or(crate::model::DEFAULT_CONTEXT.min(trained));
    let footprint = subject.outline.footprint(cpu, options, ctx.min(CHUNK), ask.sequences)?;
    let footprint = footprint.beside(target.process, subject.tokenizer);
    let prompt = ask.prompt.min(ctx.saturating_sub(1)).max(1);
    let case = Case { subject, target, ask, options, ctx, asked: ctx, prompt, footprint };
    match &target.card {
        Some(card) => case.on_gpu(card),
        None => case.on_processor(),
    }
}

struct Case<'a> {
    subject: &'a Subject,
    target: &'a Target,
    ask: &'a Ask,
    options: &'a Options,
    ctx: usize,
    /// what `ctx` was before memory cut it
    asked: usize,
    prompt: usize,
    footprint: Footprint,
}

impl Case<'_> {
    fn fit(&self, verdict: Verdict, budget: Budget) -> Fit {
        Fit {
            ctx: self.ctx,
            cut: self.ctx < self.asked,
            prompt: self.prompt,
            budget,
            driver: 0,
            free: self.target.ram,
            max_ctx: None,
            layers: Layers::default(),
            streamed: 0,
            least: self.footprint.least(self.ctx) as u64,
            speed: None,
            verdict,
        }
    }

    /// As `hob run` would do it, which cuts a context that nobody asked for before it streams weights.
    fn on_processor(mut self) -> Result<Fit> {
        let ram = usize::try_from(self.target.ram).unwrap_or(usize::MAX);
        let trained = self.subject.outline.context().max(self.ctx);
        let Some(room) = self.footprint.room(ram, self.ctx, self.ask.ctx.is_none()) else {
            let max_ctx = self.footprint.longest_streamed(ram, trained);
            return Ok(Fit { max_ctx, ..self.fit(Verdict::No, self.footprint.at(self.ctx)) });
        };
        self.ctx = room.context;
        self.prompt = self.prompt.min(self.ctx.saturating_sub(1)).max(1);
        let all = self.footprint.by_layer(self.ctx).0.len();
        let Some(residency) = room.residency else {
            let speed = self.on_processor_speed(0)?;
            let max_ctx = self.footprint.longest(ram, trained);
            let layers = Layers { ram: all, ..Layers::default() };
            return Ok(Fit { max_ctx, layers, speed, ..self.fit(Verdict::Ram, room.budget) });
        };
        let streamed = residency.streamed_bytes as u64;
        let mut touched: Vec<usize> =
            residency.streamed.iter().filter_map(|name| hob_engine::layer_of(name)).collect();
        touched.dedup();
        let layers = Layers { gpu: 0, ram: all.saturating_sub(touched.len()), streamed: touched.len() };
        let max_ctx = self.footprint.longest_streamed(ram, trained);
        let speed = self.on_processor_speed(streamed)?;
        Ok(Fit { max_ctx, layers, streamed, speed, ..self.fit(Verdict::Disk, room.budget) })
    }

    /// The speeds on the processor, `streamed` bytes being read from disk for each step.
    fn on_processor_speed(&self, streamed: u64) -> Result<Option<Speed>> {
        let Some(times) = self.times(streamed)? else { return Ok(None) };
        let n = self.ask.sequences as f64;
        Ok(Some(Speed { tps: n / times.step, tps_full: n / times.last, first: Some(times.prompt) }))
    }

    /// The times of the processor, which waits for `streamed` bytes of the disk in each step and chunk; `None` where a rate
    /// is not known.
    fn times(&self, streamed: u64) -> Result<Option<Times>> {
        let Some(rates) = &self.target.rates else { return Ok(None) };
        let Some(disk) = self.disk(streamed) else { return Ok(None) };
        let n = self.ask.sequences;
        let step = self.subject.outline.graph(n, n)?;
        let seconds = |reached| rates.seconds(&step, reached, n, self.options) + disk;
        let mut prompt = 0.0;
        for from in (0..self.prompt).step_by(CHUNK) {
            let tokens = CHUNK.min(self.prompt - from);
            let graph = self.subject.outline.graph(tokens, 1)?;
            prompt += rates.seconds(&graph, from + tokens, 1, self.options) + disk;
        }
        Ok(Some(Times { step: seconds(self.prompt + 1), last: seconds(self.ctx), prompt }))
    }

    /// Seconds that the disk takes for so many bytes; `None` where its speed is not known.
    fn disk(&self, bytes: u64) -> Option<f64> {
        match bytes {
            0 => Some(0.0),
            n => Some(n as f64 / (self.target.disk_gbps? * 1e9)),
        }
    }

    fn on_gpu(self, card: &Card) -> Result<Fit> {
        let budget = self.footprint.at(self.ctx);
        // The program and its tokenizer stay in working memory; of a weight read by rows, so does all but the rows.
        let beside = (budget.process + budget.model) as u64;
        let (per_layer, others) = self.footprint.by_layer(self.ctx);
        let count = per_layer.len();
        let fixed = DRIVER + (budget.activations + budget.copies) as u64;
        let layers = per_layer.iter().fold(0u64, |sum, n| sum.saturating_add(*n as u64));
        let needed = layers.saturating_add(fixed + others as u64);
        let trained = self.subject.outline.context().max(self.ctx);
        // What a context adds lies where its layers do, so it is the plan of the processor with another limit.
        let longest = |free: u64| {
            let bytes = free.saturating_add(beside).saturating_sub(DRIVER);
            self.footprint.longest(usize::try_from(bytes).unwrap_or(usize::MAX), trained)
        };
        let free = card.free;
        if needed <= free && (card.unified || beside <= self.target.ram) {
            let layers = Layers { gpu: count, ..Layers::default() };
            let speed = self.on_gpu_speed(card, 1.0, 0)?;
            let max_ctx = longest(free);
            return Ok(Fit {
                driver: DRIVER,
                free,
                max_ctx,
                layers,
                speed,
                ..self.fit(Verdict::Gpu, budget)
            });
        }
        if card.unified {
            // One memory: what does not fit there fits nowhere else.
            return self.on_processor();
        }
        let mut room = free.saturating_sub(fixed);
        let mut on_gpu = 0;
        for bytes in &per_layer {
            if (*bytes as u64) > room {
                break;
            }
            room -= *bytes as u64;
            on_gpu += 1;
        }
        let on_gpu_bytes: u64 = per_layer[..on_gpu].iter().map(|n| *n as u64).sum();
        let rest = (layers - on_gpu_bytes).saturating_add(others as u64);
        if on_gpu == 0 {
            return self.on_processor();
        }
        let ram = self.target.ram.saturating_sub(beside);
        let share = on_gpu_bytes as f64 / layers.saturating_add(others as u64).max(1) as f64;
        let streamed = rest.saturating_sub(ram);
        let slow = (per_layer[on_gpu..].iter())
            .scan(streamed, |left, n| (*left > 0).then(|| *left = left.saturating_sub(*n as u64)));
        let slow = slow.count();
        let layers = Layers { gpu: on_gpu, ram: count - on_gpu - slow, streamed: slow };
        let speed = self.on_gpu_speed(card, share, streamed)?;
        let verdict = if streamed > 0 { Verdict::Disk } else { Verdict::Split };
        let max_ctx = longest(free.saturating_add(self.target.ram));
        Ok(Fit { driver: DRIVER, free, max_ctx, layers, streamed, speed, ..self.fit(verdict, budget) })
    }

    /// The speeds where a share of the work is the GPU's, the processor has the rest, and the disk `streamed` bytes.
    fn on_gpu_speed(&self, card: &Card, share: f64, streamed: u64) -> Result<Option<Speed>> {
        let none = Times { step: 0.0, last: 0.0, prompt: 0.0 };
        let whole = share >= 1.0;
        let Some(rest) = (if whole { Some(none) } else { self.times(0)? }) else { return Ok(None) };
        let Some(disk) = self.disk(streamed) else { return Ok(None) };
        let bytes = |reached| self.footprint.read_bytes() as f64 + self.footprint.at(reached).state as f64;
        let read = |reached| share * bytes(reached) / (card.bandwidth_gbps * 1e9 * OF_BANDWIDTH);
        let tps = |reached, rest| {
            self.ask.sequences as f64 / (read(reached) + (1.0 - share.min(1.0)) * rest + disk)
        };
        let products = self.products()? * self.prompt as f64;
        let chunks = self.prompt.div_ceil(CHUNK) as f64;
        let first = card.tflops.map(|t| {
            let multiplied = share * products / (t * 1e12 * OF_TFLOPS);
            multiplied.max(read(self.prompt)) + (1.0 - share.min(1.0)) * rest.prompt + chunks * disk
        });
        Ok(Some(Speed { tps: tps(self.prompt + 1, rest.step), tps_full: tps(self.ctx, rest.last), first }))
    }

    /// Multiplications and additions that a token takes, without its attention.
    fn products(&self) -> Result<f64> {
        let work = hob_engine::work(&self.subject.outline.graph(1, 1)?, 0, self.options);
        Ok(work.int8 + work.float)
    }
}
