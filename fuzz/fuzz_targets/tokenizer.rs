#![no_main]
#[path = "../tokenizer.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::tokenizer(data));
