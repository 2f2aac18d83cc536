//! Fuzzes lists of jobs: JSON, lines of JSON, tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::lists::list(data));
