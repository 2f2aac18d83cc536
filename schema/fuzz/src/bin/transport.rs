//! Fuzzes transport streams.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::live::transport(data));
