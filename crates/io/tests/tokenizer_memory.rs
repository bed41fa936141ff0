//! A tokenizer's word on its memory holds: the planner counts it. A file of its own, for its allocator counts.

#[path = "../../../tests/common/models.rs"]
mod models;

use hob_io::{Gguf, Tokenizer};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; `pointer` came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn heap_bytes_are_those_allocated() {
    for name in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let gguf = Gguf::open(&models::model(name)).unwrap();
        let before = LIVE.load(Relaxed);
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let ids = tokenizer.encode("The first text brings the tables of characters.", false);
        let taken = LIVE.load(Relaxed) - before - ids.capacity() * size_of::<u32>();
        let told = tokenizer.heap_bytes();
        assert!(taken.abs_diff(told) * 50 < taken, "{name}: {told} bytes told, {taken} taken");
    }
}
