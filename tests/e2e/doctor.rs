//! `hob doctor`: what it tells is true of this machine, and what it measures is kept.

use crate::common::{World, files};
use crate::models::model;
use crate::spent::spent;
use serde_json::Value;
use std::time::Duration;

fn look(world: &World, args: &[&str]) -> Value {
    let run = world.run(&[&["doctor", "--json"], args].concat());
    serde_json::from_str(run.ok()).unwrap_or_else(|e| panic!("{e}: {run:?}"))
}

#[test]
fn the_machine_is_told_truly_and_its_speeds_are_kept() {
    let world = World::new();
    let before = look(&world, &["--quick"]);
    assert!(before["rates"].is_null(), "nothing was measured yet: {before}");
    assert_eq!(files(&world.path("hob")), [""; 0], "looking leaves nothing behind");

    let told = look(&world, &[]);
    let threads = std::thread::available_parallelism().unwrap().get();
    assert_eq!(told["processor"]["threads_available"], threads);
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = told["processor"]["isas"].as_array().unwrap().contains(&"avx2".into());
        assert_eq!(avx2, std::arch::is_x86_feature_detected!("avx2"), "{told}");
    }
    let rates = &told["rates"];
    for rate in ["read_gbps", "int8_gops", "f32_gflops"] {
        assert!(rates[rate].as_f64().unwrap() > 0.1, "{rate} in {rates}");
    }
    assert_eq!((&rates["isa"], &rates["threads"]), (&told["processor"]["isa"], &threads.into()));
    let disks = told["disks"].as_array().unwrap();
    assert!(!disks.is_empty() && disks.iter().all(|d| d["free_bytes"].as_u64() <= d["total_bytes"].as_u64()));
    assert!(told["uses"].as_array().unwrap().len() >= 5, "{told}");

    assert_eq!(files(&world.path("hob")), ["cache/kernels.json", "cache/machine.json"]);
    let again = look(&world, &["--quick"]);
    for rate in ["read_gbps", "read_bytes", "int8_gops", "f32_gflops", "when"] {
        assert_eq!(again["rates"][rate], rates[rate], "{rate}");
    }
    let read = |t: &Value| t["disks"][0]["read_gbps"].clone();
    assert_eq!(read(&again), read(&told));

    // Of another instruction set nothing is known.
    let world = world.env("HOB_ISA", "portable");
    let other = look(&world, &["--quick"]);
    assert_eq!(other["processor"]["isa"], "portable");
    assert!(other["rates"].is_null(), "{other}");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_and_processor_are_those_of_the_kernel() {
    let told = look(&World::new(), &["--quick"]);
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let of = |name: &str| -> u64 {
        let line = info.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let memory = &told["memory"];
    assert_eq!(
        (&memory["total_bytes"], &memory["swap_total_bytes"]),
        (&of("MemTotal:").into(), &of("SwapTotal:").into())
    );
    let free = memory["free_bytes"].as_u64().unwrap();
    assert!(free > 0 && free <= of("MemTotal:"), "{memory}");
    if memory["limit_bytes"].is_null() {
        assert!(free.abs_diff(of("MemAvailable:")) < of("MemTotal:") / 8, "{memory}");
    }
    let count = |f: &str| -> u64 {
        told["processor"]["cores"].as_array().unwrap().iter().map(|c| c[f].as_u64().unwrap()).sum()
    };
    // SAFETY: a question for a number.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } as u64;
    assert!(count("threads") == online && count("cores") <= online && count("cores") > 0, "{told}");
}

#[test]
fn a_person_reads_short_lines_in_sections() {
    let world = World::new();
    let quick = spent(&mut world.command(&["doctor", "--quick"]));
    let text = quick.run.ok();
    for heading in ["Processor", "Memory", "GPUs", "Disks with models", "Measured", "What Hob will use"] {
        assert!(text.lines().any(|l| l == heading), "no {heading} in {text}");
    }
    let sizes = |l: &&str| l.chars().count() > 100 && !l.contains('/');
    assert_eq!(text.lines().filter(sizes).collect::<Vec<_>>(), [""; 0]);
    assert!(text.contains("not yet") && text.contains("hob doctor measures this machine"));
    assert!(quick.run.stderr.is_empty(), "{quick:?}");
    assert!(quick.time < Duration::from_secs(5) && quick.peak < 100 << 20, "{quick:?}");
    let help = world.run(&["doctor", "--help"]);
    assert!(help.ok().contains("Examples:") && help.stdout.contains("--quick"));
}

#[test]
fn a_model_that_lies_there_is_what_is_read() {
    let world = World::new();
    let folder = world.path("hob/models");
    std::fs::create_dir_all(&folder).unwrap();
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let lies = folder.join(name);
    std::fs::hard_link(model(name), &lies)
        .or_else(|_| std::fs::copy(model(name), &lies).map(|_| ()))
        .unwrap();
    let run = world.run(&["doctor"]);
    let text = run.ok();
    let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A folder in memory is not measured.
    assert!(told.contains("reading a model") || told.contains("in memory"), "{text}");
    let left = ["cache/kernels.json".to_string(), "cache/machine.json".to_string(), format!("models/{name}")];
    assert_eq!(files(&world.path("hob")), left);
}

#[test]
fn where_nothing_can_be_kept_it_still_measures() {
    let world = World::new();
    std::fs::write(world.path("hob"), "a file, not a folder").unwrap();
    let run = world.run(&["doctor", "--json"]);
    let told: Value = serde_json::from_str(run.ok()).unwrap();
    assert!(told["rates"]["read_gbps"].as_f64().unwrap() > 0.0);
    assert!(run.stderr.contains("hob: the speeds are not kept: cannot create"), "{run:?}");
    // What somebody else left there is not believed.
    let world = World::new();
    std::fs::create_dir_all(world.path("hob/cache")).unwrap();
    std::fs::write(world.path("hob/cache/machine.json"), r#"{"version": 1, "read_gbps": 1e308}"#).unwrap();
    assert!(look(&world, &["--quick"])["rates"].is_null());
}

/// NVIDIA's library as a driver would bring it: a card, and a GPU in one memory with the processor. Functions that it
/// lacks are those that Hob does not ask.
#[cfg(target_os = "linux")]
const NVML: &str = r#"
typedef unsigned long long u64;
static char gpus[2];
static void copy(char *to, const char *from) { while ((*to++ = *from++)); }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { copy(text, "580.95.05"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { *device = gpus + i; return i < 2 ? 0 : 15; }
int nvmlDeviceGetName(char *d, char *text, unsigned n) {
    copy(text, d == gpus ? "NVIDIA GeForce RTX 4060" : "NVIDIA GB10");
    return 0;
}
struct memory { unsigned version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(char *d, struct memory *m) {
    if (d != gpus) return 3;
    if (m->version != (2 << 24 | sizeof *m)) return 25;
    m->total = 8585740288; m->reserved = 300000000; m->free = 7000000000; m->used = 1285740288;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(char *d, int *major, int *minor) {
    *major = d == gpus ? 8 : 12; *minor = d == gpus ? 9 : 1;
    return 0;
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(char *d, struct pci *p) {
    copy(p->legacy, "0000:01:00.0"); copy(p->bus_id, d == gpus ? "00000000:01:00.0" : "0000000F:01:00.0");
    return 0;
}
int nvmlDeviceGetMemoryBusWidth(char *d, unsigned *bits) { *bits = 128; return d == gpus ? 0 : 3; }
int nvmlDeviceGetMaxClockInfo(char *d, unsigned kind, unsigned *mhz) { *mhz = 8501; return d == gpus && kind == 2 ? 0 : 3; }
"#;

#[test]
#[cfg(target_os = "linux")]
fn nvidias_gpus_are_told_by_the_drivers_library() {
    let world = World::new();
    let source = world.path("nvml.c");
    std::fs::write(&source, NVML).unwrap();
    let mut cc = std::process::Command::new("cc"); // Rust links with it, so it is there
    let built =
        cc.args(["-shared", "-fPIC", "-o"]).arg(world.path("libnvidia-ml.so.1")).arg(&source).status();
    assert!(built.unwrap().success());
    let here = world.dir.path().to_str().unwrap().to_string();
    let world = world.env("LD_LIBRARY_PATH", &here);
    let told = look(&world, &["--quick"]);
    let gpus = told["gpus"].as_array().unwrap();
    let nvidia: Vec<&Value> = gpus.iter().filter(|g| g["vendor"] == "NVIDIA").collect();
    assert_eq!(nvidia.len(), 2, "the one that has fallen off the bus is left out: {told}");
    let card = serde_json::json!({
        "name": "NVIDIA GeForce RTX 4060",
        "vendor": "NVIDIA",
        "index": 0,
        "total_bytes": 8_585_740_288u64,
        "free_bytes": 7_000_000_000u64,
        "used_by_others_bytes": 1_285_740_288u64,
        "unified": false,
        "driver": "580.95.05",
        "compute_capability": "8.9",
        "pci": "0000:01:00.0",
        "bandwidth_gbps": 272.032,
        "note": null,
    });
    assert_eq!(nvidia[0], &card);
    let shared = nvidia[1];
    assert_eq!((&shared["name"], &shared["unified"]), (&"NVIDIA GB10".into(), &true.into()));
    let most = match &told["memory"]["limit_bytes"] {
        Value::Null => &told["memory"]["total_bytes"],
        limit => limit,
    };
    assert_eq!((&shared["total_bytes"], &shared["free_bytes"]), (most, &told["memory"]["free_bytes"]));
    assert_eq!((&shared["bandwidth_gbps"], &shared["pci"]), (&Value::Null, &"000f:01:00.0".into()));
    // Plans name the GPU that is there, and tell what it would do.
    let fit = world.run(&["fit", "llama-3.2-1b", "--json"]);
    let plan: Value = serde_json::from_str(fit.ok()).unwrap();
    assert_eq!(
        (&plan["gpu"]["name"], &plan["gpu"]["verdict"]),
        (&"NVIDIA GB10".into(), &"gpu".into()),
        "{plan}"
    );
    assert!((50.0..400.0).contains(&plan["gpu"]["tps"].as_f64().unwrap()), "{plan}");
    let fit = world.run(&["fit", "llama-3.2-1b"]);
    assert!(fit.ok().contains("On the GPU here (NVIDIA GB10): fits: "), "{fit:?}");
    let text = world.run(&["doctor", "--quick"]);
    assert!(
        text.ok().contains("one memory with the processor") && text.stdout.contains("None of the 2 GPUs"),
        "{text:?}"
    );
}
