//! Fuzzes probes, and plans that are made of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::tools::probe(data));
