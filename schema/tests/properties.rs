//! Every fuzz target on its seeds, and on what small changes make of them: the properties hold without a fuzzer's toolchain.
//!
//! Invariant: changes come from a fixed sequence, so a failure comes again; the input is in its message.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod targets;
use targets::{job, lists, live, messages, places, tool, tools};

/// Changed inputs for each seed.
const CHANGES: u32 = 60;

/// Numbers that look random (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    /// What was there with up to four changes.
    fn changed(&mut self, seed: &[u8]) -> Vec<u8> {
        const WORDS: [&str; 12] =
            ["-1", "18446744073709551615", "1e308", "nan", "null", "[", "{\"", "%0a", "../", "\u{0}", "\r\n", "ü"];
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let to = (at + self.below(40)).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..to)),
                2 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].bytes())),
                3 => {
                    let again = bytes[at..to].repeat(1 + self.below(50));
                    bytes.splice(at..at, again);
                }
                4 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
                _ => drop(bytes.splice(at..to, WORDS[self.below(WORDS.len())].bytes())),
            }
        }
        bytes
    }
}

fn holds(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for path in seeds {
        let seed = fs::read(&path).unwrap();
        let changed = (0..CHANGES).map(|_| numbers.changed(&seed)).collect::<Vec<_>>();
        for input in std::iter::once(seed).chain(changed) {
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
            assert!(outcome.is_ok(), "{name}, from {}: {}", path.display(), input.escape_ascii());
        }
    }
}

#[test]
fn jobs_and_catalogs_are_read_with_bounds_and_come_back_as_they_were() {
    holds("job_json", job::json);
    holds("job_msgpack", job::message_pack);
    holds("catalog", job::catalog);
}

#[test]
fn messages_come_back_as_they_were() {
    holds("message", messages::message);
}

#[test]
fn addresses_values_and_due_times_keep_their_word() {
    holds("location", places::location);
    holds("value", places::value);
    holds("schedule", places::schedule);
}

#[test]
fn lists_and_events_are_read_to_their_end() {
    holds("list", lists::list);
    holds("events", lists::events);
}

#[test]
fn what_tools_print_becomes_numbers_that_can_be_counted_with() {
    holds("probe", tools::probe);
    holds("output", tools::output);
}

#[test]
fn playlists_and_transport_streams_lead_nowhere_else() {
    holds("playlist", live::playlist);
    holds("transport", live::transport);
}
