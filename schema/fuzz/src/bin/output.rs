//! Fuzzes lines of tools: progress, packets, measurements.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::tools::output(data));
