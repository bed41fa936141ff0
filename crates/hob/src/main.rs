//! Local AI in one native binary.

fn main() {}
