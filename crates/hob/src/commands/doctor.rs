//! `hob doctor`: what this machine has, how fast it is, and what Hob will use of it.

use std::time::{Duration, Instant};

use clap::Args;
use hob_engine::{Cpu, DType, Precision, Rates as Kernels};
use serde_json::{Value, json};

use super::Global;
use crate::error::Result;
use crate::machine::gpu::Gpu;
use crate::machine::processor::{Cores, Kind};
use crate::machine::rates::{DiskRate, How};
use crate::machine::{Disk, Machine, Processor, Rates, advice, kernels};
use crate::terminal::{self, bytes, clean};

const EXAMPLES: &str = "Examples:
  hob doctor                     look and measure, in about ten seconds
  hob doctor --quick             look only; speeds are those measured last
  hob doctor --json | jq .rates

What is measured is kept in a file of the user's caches (HOB_HOME names another place), so that
other commands can say how fast a model will be. Where no model lies on a disk, its speed is
measured with a temporary file of at most 256 MB.";

/// About how long measuring takes.
const ABOUT: Duration = Duration::from_millis(3000);

/// Arguments of `hob doctor`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Measure nothing; tell what was measured last
    #[arg(long)]
    quick: bool,
    /// Print a JSON object: sizes in bytes, speeds in 10⁹ bytes or operations a second
    #[arg(long)]
    json: bool,
}

/// Looks, measures, keeps and prints.
pub fn run(args: DoctorArgs, _: &Global) -> Result<()> {
    let start = Instant::now();
    let machine = Machine::look();
    let cpu = Cpu::new(machine.processor.threads_available, Precision::Fast);
    let (mut notes, mut kernels) = (Vec::new(), kernels::known(&machine, &cpu));
    let rates = match args.quick {
        true => Rates::known(&machine),
        false => {
            let spinner = terminal::timed("measuring this machine", ABOUT);
            let measured = Rates::measure(&machine, &mut |step| spinner.set_message(step.to_string()));
            spinner.finish_and_clear();
            let (rates, left_out) = measured?;
            notes = left_out;
            kernels = Some(kernels::measure(&cpu, &kernels::COMMON, None)?);
            let kept = rates.save().and_then(|()| match &kernels {
                Some(kernels) => kernels::save(&machine, &cpu, kernels.clone()),
                None => Ok(()),
            });
            if let Err(e) = kept {
                notes.push(format!("the speeds are not kept: {e}"));
            }
            Some(rates)
        }
    };
    let took = start.elapsed();
    match args.json {
        true => println!("{:#}", as_json(&machine, rates.as_ref(), kernels.as_ref(), took)),
        false => print!("{}", as_text(&machine, rates.as_ref(), kernels.as_ref(), took)),
    }
    notes.iter().for_each(|n| terminal::note(n));
    Ok(())
}

/// Lines under a heading.
struct Section(String);

impl Section {
    fn new(heading: &str) -> Section {
        Section(format!("{}\n", terminal::bold(heading)))
    }

    /// A fact under its name.
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        for (at, line) in wrapped(value.as_ref(), 80).iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            self.0.push_str(&format!("  {}  {line}\n", terminal::dim(&format!("{name:<14}"))));
        }
    }

    /// A sentence after a dot.
    fn sentence(&mut self, text: &str, style: fn(&str) -> String) {
        for (at, line) in wrapped(text, 94).iter().enumerate() {
            self.0.push_str(&format!("  {} {line}\n", if at == 0 { style("•") } else { " ".into() }));
        }
    }
}

/// The words of a text in lines of at most `width` characters; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if last.chars().count() + 1 + word.chars().count() <= width => {
                *last += &format!(" {word}")
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

fn as_text(machine: &Machine, rates: Option<&Rates>, kernels: Option<&Kernels>, took: Duration) -> String {
    let mut parts = vec![
        processor(&machine.processor, rates, kernels),
        memory(machine, rates),
        gpus(&machine.gpus),
        disks(&machine.disks, rates),
        speeds(rates, took),
    ];
    let mut uses = Section::new("What Hob will use");
    advice::uses(machine, rates).iter().for_each(|u| uses.sentence(u, terminal::bold));
    parts.push(uses);
    let warnings = advice::warnings(machine);
    if !warnings.is_empty() {
        let mut section = Section::new("Worth knowing");
        warnings.iter().for_each(|w| section.sentence(w, terminal::yellow));
        parts.push(section);
    }
    parts.into_iter().map(|s| s.0).collect::<Vec<_>>().join("\n")
}

fn processor(p: &Processor, rates: Option<&Rates>, kernels: Option<&Kernels>) -> Section {
    let mut s = Section::new("Processor");
    s.line("name", clean(&p.name));
    let cores: Vec<String> = p.cores.iter().map(cores).collect();
    s.line("cores", if cores.is_empty() { "not told".into() } else { cores.join(" + ") });
    s.line("instructions", if p.isas.is_empty() { "none that matter here".into() } else { p.isas.join(" ") });
    if let Some(r) = rates {
        s.line("8-bit products", format!("{:.0} GOP/s", r.int8_gops));
        s.line("f32 products", format!("{:.0} GFLOP/s", r.f32_gflops));
    }
    let shown = [DType::Q4_K, DType::Q8_0, DType::F16];
    if let Some(k) = kernels.filter(|k| k.know(&shown)) {
        let rates = shown.into_iter().filter_map(|d| k.of(d));
        let rates = rates
            .map(|l| format!("{} {:.1} GB/s, {:.0} GOP/s", l.dtype, l.packed.one_gbps, l.packed.many_gops));
        s.line("kernels reach", rates.collect::<Vec<_>>().join("; "));
    }
    s
}

/// `8 performance (16 threads, 5.0 GHz)`
fn cores(c: &Cores) -> String {
    let mut more = Vec::new();
    if c.threads > c.cores {
        more.push(format!("{} threads", c.threads));
    }
    more.extend(c.mhz.map(|mhz| format!("{:.1} GHz", mhz as f64 / 1000.0)));
    let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
    let kind = match c.kind {
        Kind::Alike if c.cores == 1 => "",
        kind => kind.name(),
    };
    format!("{} {kind}", c.cores).trim().to_string() + &more
}

fn memory(machine: &Machine, rates: Option<&Rates>) -> Section {
    let m = &machine.memory;
    let mut s = Section::new("Memory");
    match m.total {
        0 => s.line("size", "not told"),
        total => s.line("size", format!("{}, {} free", bytes(total), bytes(m.free))),
    }
    if let Some(limit) = m.limit {
        s.line("limit", format!("{}, by the container", bytes(limit)));
    }
    s.line(
        "swap",
        match m.swap_total {
            0 => "none".into(),
            total => format!("{}, {} in use", bytes(total), bytes(m.swap_used)),
        },
    );
    if let Some(huge) = &m.huge_pages {
        s.line("huge pages", clean(huge));
    }
    if let Some(r) = rates {
        s.line("read", format!("{:.1} GB/s (over {})", r.read_gbps, bytes(r.read_bytes)));
    }
    s
}

fn gpus(gpus: &[Gpu]) -> Section {
    let mut s = Section::new("GPUs");
    if gpus.is_empty() {
        s.line("none", "no driver and no bus tells of one");
    }
    for gpu in gpus {
        let mut facts = vec![clean(&gpu.name)];
        facts.push(match (gpu.total, gpu.free) {
            (Some(total), Some(free)) => format!("{}, {} free", bytes(total), bytes(free)),
            (Some(total), None) => bytes(total),
            _ => "memory not told".into(),
        });
        if gpu.unified {
            facts.push("one memory with the processor".into());
        }
        facts.extend(gpu.bandwidth_gbps.map(|b| format!("{b:.0} GB/s by its bus")));
        facts.extend(
            gpu.compute_capability.map(|(major, minor)| format!("compute capability {major}.{minor}")),
        );
        facts.push(gpu.driver.as_ref().map_or("no driver".into(), |d| format!("driver {}", clean(d))));
        s.line(&format!("{} {}", gpu.vendor, gpu.index), facts.join("; "));
    }
    s
}

fn disks(disks: &[Disk], rates: Option<&Rates>) -> Section {
    let mut s = Section::new("Disks with models");
    for disk in disks {
        let mut facts = Vec::new();
        if let (Some(free), Some(total)) = (disk.free, disk.total) {
            facts.push(format!("{} free of {}", bytes(free), bytes(total)));
        }
        let on = disk.model.as_ref().or(disk.device.as_ref());
        let on = on.map(|d| format!(" on {}", clean(d))).unwrap_or_default();
        facts.extend(disk.filesystem.as_ref().map(|f| clean(f) + &on));
        facts.extend(disk.kind.name().map(String::from));
        if let Some(rate) = rates.and_then(|r| of(disk, r)) {
            let past = match rate.how {
                How::Direct => "past the cache",
                How::Dropped => "after dropping the cache",
            };
            let what = if rate.of_model { "a model" } else { "a temporary file" };
            facts.push(format!("{:.2} GB/s reading {what} {past}", rate.read_gbps));
        }
        s.line(&clean(&disk.mount.display().to_string()), facts.join("; "));
        for folder in &disk.folders {
            s.line("", crate::places::short(folder));
        }
    }
    if disks.is_empty() {
        s.line("none", "the system does not tell where folders of models lie");
    }
    s
}

/// The rate of that disk itself, not of one around it.
fn of<'a>(disk: &Disk, rates: &'a Rates) -> Option<&'a DiskRate> {
    rates.disk(&disk.mount).filter(|r| r.mount == disk.mount)
}

fn speeds(rates: Option<&Rates>, took: Duration) -> Section {
    let mut s = Section::new("Measured");
    match rates {
        None => s.line("not yet", "hob doctor measures this machine in about ten seconds"),
        Some(r) => {
            let threads = if r.threads == 1 { "1 thread".into() } else { format!("{} threads", r.threads) };
            let busy = if r.busy { ", while other programs ran" } else { "" };
            s.line("when", format!("{}, with {threads} and {}{busy}", age(r.age()), clean(&r.isa)));
        }
    }
    s.line(
        "this took",
        match took.as_millis() {
            ms @ 0..100 => format!("{ms} ms"),
            _ => format!("{:.1} s", took.as_secs_f64()),
        },
    );
    s
}

/// `3 days ago`
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (n, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

fn as_json(machine: &Machine, rates: Option<&Rates>, kernels: Option<&Kernels>, took: Duration) -> Value {
    let Machine { processor: p, memory: m, gpus, disks, power } = machine;
    let core =
        |c: &Cores| json!({"kind": c.kind.name(), "cores": c.cores, "threads": c.threads, "mhz": c.mhz});
    let gpu = |g: &Gpu| {
        json!({
            "name": g.name,
            "vendor": g.vendor,
            "index": g.index,
            "total_bytes": g.total,
            "free_bytes": g.free,
            "used_by_others_bytes": g.used_by_others,
            "unified": g.unified,
            "driver": g.driver,
            "compute_capability": g.compute_capability.map(|(major, minor)| format!("{major}.{minor}")),
            "pci": g.pci,
            "bandwidth_gbps": g.bandwidth_gbps,
            "note": g.note,
        })
    };
    let disk = |d: &Disk| {
        let rate = rates.and_then(|r| of(d, r));
        json!({
            "mount": d.mount,
            "folders": d.folders,
            "device": d.device,
            "model": d.model,
            "filesystem": d.filesystem,
            "kind": d.kind.name(),
            "total_bytes": d.total,
            "free_bytes": d.free,
            "read_gbps": rate.map(|r| r.read_gbps),
            "read_how": rate.map(|r| r.how),
        })
    };
    json!({
        "hob": env!("CARGO_PKG_VERSION"),
        "processor": {
            "name": p.name,
            "vendor": p.vendor,
            "cores": p.cores.iter().map(core).collect::<Vec<_>>(),
            "threads_available": p.threads_available,
            "isa": p.isa.name(),
            "isas": p.isas,
            "load": p.load,
        },
        "memory": {
            "total_bytes": m.total,
            "free_bytes": m.free,
            "limit_bytes": m.limit,
            "swap_total_bytes": m.swap_total,
            "swap_used_bytes": m.swap_used,
            "huge_pages": m.huge_pages,
        },
        "gpus": gpus.iter().map(gpu).collect::<Vec<_>>(),
        "disks": disks.iter().map(disk).collect::<Vec<_>>(),
        "power": {"on_battery": power.on_battery, "slowed_by": power.slowed_by},
        "rates": rates.map(|r| json!({
            "isa": r.isa,
            "threads": r.threads,
            "read_gbps": r.read_gbps,
            "read_bytes": r.read_bytes,
            "int8_gops": r.int8_gops,
            "f32_gflops": r.f32_gflops,
            "when": r.when,
            "busy": r.busy,
            "age_seconds": r.age().as_secs(),
        })),
        "kernels": kernels,
        "uses": advice::uses(machine, rates),
        "warnings": advice::warnings(machine),
        "took_seconds": took.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_read_as_people_say_them() {
        let of = |kind, cores, threads, mhz| Cores { kind, cores, threads, mhz };
        assert_eq!(cores(&of(Kind::Alike, 2, 2, Some(2600))), "2 all alike (2.6 GHz)");
        assert_eq!(cores(&of(Kind::Alike, 1, 2, None)), "1 (2 threads)");
        assert_eq!(cores(&of(Kind::Performance, 8, 16, Some(4999))), "8 performance (16 threads, 5.0 GHz)");
    }

    #[test]
    fn ages_are_round() {
        let of = |s| age(Duration::from_secs(s));
        assert_eq!(
            [of(5), of(60), of(7300), of(86_400 * 9)],
            ["just now", "1 minute ago", "2 hours ago", "9 days ago"]
        );
    }

    #[test]
    fn lines_fit_a_terminal_and_lose_no_word() {
        let text = "word ".repeat(60) + &"x".repeat(120);
        let lines = wrapped(&text, 80);
        assert!(lines.iter().all(|l| l.chars().count() <= 80 || l.len() == 120), "{lines:?}");
        assert_eq!((lines.join(" "), lines.len()), (text, 5));
        assert_eq!(wrapped("", 80), [""]);
    }

    #[test]
    fn a_gpu_in_one_memory_is_told_as_such() {
        let gpu = Gpu {
            name: "NVIDIA GB10".into(),
            vendor: "NVIDIA".into(),
            total: Some(128 << 30),
            free: Some(1 << 30),
            unified: true,
            driver: Some("580.1".into()),
            compute_capability: Some((12, 1)),
            ..Gpu::default()
        };
        let text = gpus(&[gpu]).0;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = "NVIDIA GB10; 137.4 GB, 1.1 GB free; one memory with the processor; compute capability 12.1; driver 580.1";
        assert!(text.contains(expected), "{text}");
    }
}
