//! One machine, real or named, and what it does with each model that is asked about.

use hob_engine::{Cpu, DType, KvTypes, Options, isa};

use super::gpus;
use super::plan::{Ask, Card, Fit, Target, plan};
use super::quants::Mix;
use super::subject::Subject;
use super::verdict::Verdict;
use crate::error::Result;
use crate::machine::{self, Machine, kernels};
use crate::{room, terminal};

/// All that plans of one call share.
pub struct Planner {
    /// the machine to plan for
    pub target: Target,
    /// how it is called
    pub place: String,
    /// what models are asked to do
    pub ask: Ask,
    /// how they are run
    pub options: Options,
    /// whether what is not known of this machine is measured; else speeds are left out
    pub measures: bool,
    machine: Machine,
    cpu: Cpu,
}

impl Planner {
    /// A planner for this machine; with `memory`, for one that has so much to give, and with `card`, for that GPU.
    /// `process` is what this process holds.
    pub fn new(
        card: Option<Card>,
        memory: Option<u64>,
        ask: Ask,
        options: Options,
        process: usize,
    ) -> Planner {
        let machine = Machine::look();
        let ram = memory.unwrap_or_else(|| room::free(process));
        let place = match (&card, memory) {
            (Some(card), _) => card.name.clone(),
            (None, Some(n)) => format!("a machine with {} to give", terminal::bytes(n)),
            (None, None) => "this machine".into(),
        };
        let disk_gbps = machine::Rates::known(&machine).and_then(|k| k.disk_gbps());
        let cpu = Cpu::new(options.threads, options.precision);
        let target = Target { ram, card, rates: None, disk_gbps, process };
        Planner { target, place, ask, options, measures: true, machine, cpu }
    }

    /// The GPU of this machine with the most memory free, to plan for beside the processor; `None` where there is none of
    /// whose memory the driver tells.
    pub fn own_card(&self) -> Option<Card> {
        let told = self.machine.gpus.iter().filter_map(|g| Some((g, g.free?)));
        let (gpu, free) = told.max_by_key(|(_, free)| *free)?;
        let known = gpus::find(&gpu.name).ok();
        Some(Card {
            name: gpu.name.clone(),
            free,
            bandwidth_gbps: gpu.bandwidth_gbps.or(known.map(|k| k.bandwidth_gbps))?,
            tflops: known.map(|k| k.tflops),
            unified: gpu.unified,
        })
    }

    /// The plan of one model for another GPU.
    pub fn plan_for(&mut self, subject: &Subject, card: Card) -> Result<Fit> {
        let own = self.target.card.replace(card);
        let fit = self.plan(subject);
        self.target.card = own;
        fit
    }

    /// Plans one model.
    pub fn plan(&mut self, subject: &Subject) -> Result<Fit> {
        self.know(&subject.outline.formats()?)?;
        plan(subject, &self.target, &self.ask, &self.cpu, &self.options)
    }

    /// Bytes of a GPU's memory with which one model lies fully there.
    pub fn on_gpu(&self, subject: &Subject) -> Result<u64> {
        let card = Card { free: u64::MAX, ..Card::any() };
        let target = Target { card: Some(card), rates: None, ram: u64::MAX, ..self.target.clone() };
        let fit = plan(subject, &target, &self.ask, &self.cpu, &self.options)?;
        Ok(fit.total() - (fit.budget.process + fit.budget.model) as u64)
    }

    /// Finds out what these formats run at; those that are not known are measured, once a machine.
    fn know(&mut self, formats: &[DType]) -> Result<()> {
        if self.target.rates.as_ref().is_none_or(|r| !r.know(formats)) {
            self.target.rates = match self.measures {
                true => Some(kernels::know(&self.machine, &self.cpu, formats)?),
                false => kernels::known(&self.machine, &self.cpu).filter(|k| k.know(formats)),
            };
        }
        Ok(())
    }

    /// Where the speeds come from.
    pub fn basis(&self, fit: &Fit) -> String {
        let kernels = || {
            let (threads, isa) = (self.options.threads, isa::isa().name());
            format!("kernels measured on this machine ({threads} threads, {isa})")
        };
        let disk = match (fit.streamed, self.target.disk_gbps) {
            (0, _) | (_, None) => String::new(),
            (_, Some(gbps)) => format!(", its disk read at {gbps:.1} GB/s"),
        };
        match (&self.target.card, fit.layers.gpu, fit.layers.ram + fit.layers.streamed) {
            (Some(card), 1.., 0) => by_bandwidth(card),
            (Some(card), 1.., _) => format!("{}; the processor's by {}{disk}", by_bandwidth(card), kernels()),
            _ => kernels() + &disk,
        }
    }
}

fn by_bandwidth(card: &Card) -> String {
    format!("three quarters of the GPU's {:.0} GB/s", card.bandwidth_gbps)
}

/// Other ways to run the model that fit better, the gentlest first: keys and values in fewer bits, fewer bits a weight.
pub fn better(subject: &Subject, fit: &Fit, planner: &mut Planner) -> Result<Vec<String>> {
    let mut ways = Vec::new();
    let whole = |v: Verdict| matches!(v, Verdict::Gpu | Verdict::Ram);
    if whole(fit.verdict) {
        return Ok(ways);
    }
    // Compared with the same context.
    let (asked, ctx) = (planner.options.kv, planner.ask.ctx.replace(fit.ctx));
    for kv in [DType::Q8_0, DType::Q4_0].map(KvTypes::both).into_iter().filter(|kv| *kv != asked) {
        planner.options.kv = kv;
        let other = planner.plan(subject);
        planner.options.kv = asked;
        if whole(other?.verdict) {
            ways.push(format!("keys and values in fewer bits (--kv {kv})"));
            break;
        }
    }
    for mix in [Mix::Q8_0, Mix::Q6_K, Mix::Q5_K_M, Mix::Q4_K_M, Mix::Q3_K_M, Mix::Q2_K] {
        let Ok(other) = subject.stored_as(mix) else { continue };
        if other.file_bytes < subject.file_bytes * 9 / 10 && whole(planner.plan(&other)?.verdict) {
            ways.push(format!("{mix} weights ({})", terminal::bytes(other.file_bytes)));
            break;
        }
    }
    planner.ask.ctx = ctx;
    Ok(ways)
}
