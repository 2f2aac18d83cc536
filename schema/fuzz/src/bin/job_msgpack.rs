//! Fuzzes jobs as MessagePack.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::job::message_pack(data));
