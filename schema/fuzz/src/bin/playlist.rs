//! Fuzzes playlists of HLS and presentations of DASH.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ffpool_fuzz::live::playlist(data));
