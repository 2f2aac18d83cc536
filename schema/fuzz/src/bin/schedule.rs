//! Fuzzes cron expressions and time zones.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::places::schedule(data));
