//! Fuzzes values that a job writes as text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::places::value(data));
