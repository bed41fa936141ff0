#![no_main]
#[path = "../dialect.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::dialect(data));
