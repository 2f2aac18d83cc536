//! Fuzzes addresses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::places::location(data));
