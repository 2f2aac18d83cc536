//! Fuzzes jobs as JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::job::json(data));
