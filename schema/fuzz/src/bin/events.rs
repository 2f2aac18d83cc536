//! Fuzzes server-sent events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::lists::events(data));
