//! What Hob will use of a machine and why, and what a person may want to change.

use std::path::Path;

use hob_engine::isa::{self, Isa};

use super::disk::Kind;
use super::gpu::Gpu;
use super::{Machine, Processor, Rates};
use crate::terminal::{bytes, clean};

/// What Hob will use, in sentences.
pub fn uses(machine: &Machine, rates: Option<&Rates>) -> Vec<String> {
    let mut out = vec![threads(&machine.processor), instructions(&machine.processor), memory(machine)];
    out.push(gpus(&machine.gpus));
    // A model as many have it: 8 billion parameters in 4 bits.
    const MODEL: u64 = 4_900_000_000;
    out.extend(rates.map(|r| {
        format!(
            "Speed: memory is read at {:.1} GB/s, and each token reads all weights of a dense model. So {} of weights (8B \
             in 4 bits) generate at most {:.1} tokens a second.",
            r.read_gbps,
            bytes(MODEL),
            r.read_gbps * 1e9 / MODEL as f64
        )
    }));
    out
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn threads(p: &Processor) -> String {
    let n = p.threads_available;
    let (cores, all) = (p.all_cores(), p.all_threads());
    match (cores, all) {
        (_, Some(all)) if n < all => format!(
            "{} of the processor's {all}: the process is bound to no more, or its container's share is no more.",
            plural(n, "thread")
        ),
        (Some(cores), Some(all)) if cores < all => format!(
            "{}: one for each that the {} at once. More would take turns.",
            plural(n, "thread"),
            if cores == 1 { "core runs".to_string() } else { format!("{cores} cores run") }
        ),
        _ => format!("{}: one for each core. More would take turns.", plural(n, "thread")),
    }
}

fn instructions(p: &Processor) -> String {
    let best = Isa::ALL.into_iter().rev().find(|i| i.available()).unwrap_or(Isa::Portable);
    let mut out = match p.isa {
        isa if isa != best => {
            format!(
                "Instruction set {}, as {} says; {} would be faster.",
                isa.name(),
                isa::LIMIT,
                best.name()
            )
        }
        Isa::Portable => {
            "Plain instructions: Hob has no kernels for this processor's vectors, so it is slow.".into()
        }
        isa => format!(
            "Instruction set {}: the fastest that Hob has kernels for and this processor has.",
            isa.name()
        ),
    };
    if p.isas.contains(&"amx_bf16") && best < Isa::Amx {
        out += " AMX is there, but the system does not let programs use it.";
    }
    out
}

fn memory(machine: &Machine) -> String {
    let m = &machine.memory;
    let least = if m.limit.is_some() { "the container's limit leaves" } else { "is free" };
    format!("Memory up to {}: what {least} now. A run names what it needs before it takes it.", bytes(m.free))
}

fn gpus(gpus: &[Gpu]) -> String {
    match gpus {
        [] => "No GPU: none was found, and this version of Hob computes on the processor anyway.".into(),
        [one] => format!(
            "Not the {}: this version of Hob computes on the processor. A GPU is reported and planned for, not used yet.",
            clean(&one.name)
        ),
        many => format!(
            "None of the {} GPUs: this version of Hob computes on the processor. GPUs are reported and planned for, not \
             used yet.",
            many.len()
        ),
    }
}

/// What slows this machine down or gets in the way, with what to do about it.
pub fn warnings(machine: &Machine) -> Vec<String> {
    let mut out = Vec::new();
    let m = &machine.memory;
    if machine.power.on_battery == Some(true) {
        out.push("The machine runs from its battery, which often means a lower clock.".into());
    }
    if let Some(by) = &machine.power.slowed_by {
        out.push(format!("The processor is held to a low clock by {}.", clean(by)));
    }
    let p = &machine.processor;
    if let Some(load) = p.load.filter(|_| p.busy()) {
        out.push(format!(
            "Other programs keep the processor busy ({load:.1} wanted to run, {} can): speeds are lower meanwhile, and \
             what is measured is too.",
            p.all_threads().unwrap_or(p.threads_available)
        ));
    }
    if m.huge_pages.as_deref() == Some("never") {
        out.push(
            "Transparent huge pages are off, which slows weights down; as root: echo madvise > \
             /sys/kernel/mm/transparent_hugepage/enabled"
                .into(),
        );
    }
    if let Some(limit) = m.limit {
        out.push(format!(
            "A container limits memory to {} of the machine's {}.",
            bytes(limit),
            bytes(m.total)
        ));
    }
    if m.total > 0 && (m.free < 1 << 30 || m.free < m.most() / 8) {
        out.push(format!(
            "Little memory is free: {} of {}; close what is not needed.",
            bytes(m.free),
            bytes(m.most())
        ));
    }
    if m.swap_used > m.total / 20 {
        out.push(format!(
            "{} lie in swap: memory has been short, and what returns from there slows answers down.",
            bytes(m.swap_used)
        ));
    }
    out.extend(
        machine.gpus.iter().filter_map(|g| Some(format!("{}: {}.", clean(&g.name), clean(g.note.as_ref()?)))),
    );
    for disk in &machine.disks {
        let at = |p: &Path| crate::places::short(p);
        let folders: Vec<String> = disk.folders.iter().map(|f| at(f)).collect();
        let folders = folders.join(", ");
        match disk.kind {
            Kind::Network => {
                out.push(format!("{folders} lies on another machine: models load as fast as the network."))
            }
            Kind::Rotating => out.push(format!("{folders} lies on a rotating disk: models load slowly.")),
            Kind::Memory => out.push(format!(
                "{folders} lies in memory: models there take it twice, and are lost at a restart."
            )),
            Kind::SolidState | Kind::Unknown => {}
        }
        if let (Some(free), Some(total)) = (disk.free, disk.total)
            && free < 5_000_000_000.min(total / 10)
        {
            out.push(format!("Where {folders} lies, only {} are free.", bytes(free)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::processor::{Cores, Kind as Core};
    use crate::machine::{Disk, Memory, Power};

    fn machine() -> Machine {
        Machine {
            processor: Processor {
                name: "X".into(),
                vendor: None,
                cores: vec![Cores { kind: Core::Alike, cores: 4, threads: 8, mhz: None }],
                threads_available: 8,
                isa: isa::isa(),
                isas: vec!["amx_bf16"],
                load: Some(1.0),
            },
            memory: Memory {
                total: 32 << 30,
                free: 20 << 30,
                limit: None,
                swap_total: 8 << 30,
                swap_used: 1 << 20,
                huge_pages: Some("madvise".into()),
            },
            gpus: Vec::new(),
            disks: vec![Disk {
                folders: vec!["/models".into()],
                mount: "/".into(),
                device: None,
                model: None,
                filesystem: None,
                kind: Kind::SolidState,
                total: Some(1 << 40),
                free: Some(1 << 39),
            }],
            power: Power { on_battery: Some(false), slowed_by: None },
        }
    }

    #[test]
    fn a_machine_in_order_has_no_warnings() {
        assert_eq!(warnings(&machine()), [""; 0]);
        let mut m = machine();
        (m.processor.threads_available, m.processor.load) = (1, Some(3.0));
        assert_eq!(warnings(&m), [""; 0], "a share of a machine that has threads left");
    }

    #[test]
    fn each_trouble_is_told() {
        type Change = fn(&mut Machine);
        let troubles: [(Change, &str); 12] = [
            (|m| m.power.on_battery = Some(true), "battery"),
            (|m| m.power.slowed_by = Some("the governor powersave".into()), "the governor powersave"),
            (|m| m.processor.load = Some(8.0), "busy (8.0 wanted to run, 8 can)"),
            (|m| m.memory.huge_pages = Some("never".into()), "huge pages are off"),
            (|m| m.memory.limit = Some(30 << 30), "limits memory to 32.2 GB of the machine's 34.4 GB"),
            (|m| m.memory.free = 2 << 30, "2.1 GB of 34.4 GB"),
            (|m| m.memory.swap_used = 4 << 30, "4.3 GB lie in swap"),
            (|m| m.disks[0].kind = Kind::Network, "/models lies on another machine"),
            (|m| m.disks[0].kind = Kind::Rotating, "/models lies on a rotating disk"),
            (|m| m.disks[0].kind = Kind::Memory, "lies in memory"),
            (|m| m.disks[0].free = Some(1 << 30), "only 1.1 GB are free"),
            (
                |m| {
                    m.gpus.push(Gpu {
                        name: "G".into(),
                        note: Some("it has no driver".into()),
                        ..Gpu::default()
                    })
                },
                "G: it has no driver.",
            ),
        ];
        for (change, what) in troubles {
            let mut m = machine();
            change(&mut m);
            let found = warnings(&m);
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert!(found[0].contains(what), "{what}: {found:?}");
        }
    }

    #[test]
    fn uses_say_why() {
        let mut m = machine();
        let said = uses(&m, None);
        assert_eq!(said[0], "8 threads: one for each that the 4 cores run at once. More would take turns.");
        assert!(
            said[1].contains(m.processor.isa.name())
                && said[1].contains("AMX is there, but") != Isa::Amx.available()
        );
        assert!(said[2].starts_with("Memory up to 21.5 GB: what is free now"), "{said:?}");
        assert!(said[3].starts_with("No GPU") && said.len() == 4);
        m.processor.threads_available = 3;
        m.memory.limit = Some(30 << 30);
        m.gpus = vec![Gpu { name: "NVIDIA GB10".into(), ..Gpu::default() }];
        let said = uses(&m, None);
        assert!(said[0].starts_with("3 threads of the processor's 8: "), "{said:?}");
        assert!(
            said[2].contains("the container's limit leaves") && said[3].starts_with("Not the NVIDIA GB10: ")
        );
        m.processor.cores.clear();
        m.processor.threads_available = 1;
        assert_eq!(uses(&m, None)[0], "1 thread: one for each core. More would take turns.");
        if m.processor.isa != Isa::Portable {
            m.processor.isa = Isa::Portable;
            assert!(uses(&m, None)[1].contains("as HOB_ISA says"));
        }
    }
}
