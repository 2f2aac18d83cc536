//! Fuzzes messages over NATS, durable reports, and what a store gives back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::messages::message(data));
