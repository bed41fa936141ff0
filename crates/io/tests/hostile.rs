//! Random damage and the fuzzers' seeds: readers never panic, nor allocate more than the file can justify.

mod common;
#[path = "../../../fuzz/targets.rs"]
mod targets;

use common::{tiny_llama, tiny_safetensors};
use proptest::prelude::*;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    path::Path,
};

/// Counts the bytes that each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all work is the system allocator's; the counter is const-initialised and needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ASKED.try_with(|asked| asked.set(asked.get().saturating_add(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a reader over bytes; all that it ever asked for must stay in proportion to them.
fn read(reader: fn(&[u8]), bytes: &[u8]) {
    let before = ASKED.get();
    reader(bytes);
    let asked = ASKED.get() - before;
    assert!(asked <= 64 * bytes.len() + (1 << 20), "{asked} bytes asked for to read {}", bytes.len());
}

/// A file with some of its bytes replaced, and perhaps cut.
fn damaged(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = file.len();
    let interesting = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff)];
    // Damage to the header is what matters; it takes up the beginning.
    let place = prop_oneof![3 => 0..len.min(1400), 1 => 0..len];
    (prop::collection::vec((place, interesting, 1usize..9), 0..6), prop::option::of(0..=len)).prop_map(
        move |(changes, cut)| {
            let mut file = file.clone();
            for (at, byte, run) in changes {
                file[at..].iter_mut().take(run).for_each(|b| *b = byte);
            }
            file.truncate(cut.unwrap_or(len));
            file
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_files_never_panic(file in damaged(tiny_llama())) {
        read(targets::gguf, &file);
    }

    #[test]
    fn damaged_safetensors_files_never_panic(file in damaged(tiny_safetensors())) {
        read(targets::safetensors, &file);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let with = |prefix: &[u8]| [prefix, &noise].concat();
        read(targets::gguf, &noise);
        read(targets::gguf, &with(b"GGUF\x03\0\0\0"));
        read(targets::safetensors, &noise);
        read(targets::safetensors, &[&(noise.len() as u64).to_le_bytes()[..], &noise].concat());
    }
}

/// Every seed of a target, and every input that once crashed its fuzzer.
fn survive(target: &str, reader: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        read(reader, &std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 4, "{count} seeds of {target}");
}

#[test]
fn the_fuzzers_seeds_are_survived() {
    survive("gguf", targets::gguf);
    survive("safetensors", targets::safetensors);
}
