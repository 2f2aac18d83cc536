//! Fuzzes scenario files, and jobs that name what is in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::job::catalog(data));
