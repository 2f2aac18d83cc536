//! The values that labels of counters can have, where there are few and all are known: a process shows each from its start with
//! 0, because what appears with its first happening hides that one from `rate` and `increase`.
//!
//! Invariant: a set names every value that the code counts by; whoever counts by another one extends it here. The whole pool's
//! metrics are held against it by `loadtest/tests/it/metrics.rs`.

use crate::failure::Cause;
use crate::job::Queue;
use crate::lifecycle::State;

/// Values of one label.
pub type Set = fn() -> Vec<&'static str>;

pub(super) fn queues() -> Vec<&'static str> {
    Queue::ALL.map(Queue::as_str).to_vec()
}

/// States of jobs that have ended.
pub(super) fn ends() -> Vec<&'static str> {
    State::ALL.into_iter().filter(|state| state.is_end()).map(State::as_str).collect()
}

pub(super) fn causes() -> Vec<&'static str> {
    Cause::ALL.map(Cause::as_str).to_vec()
}

/// How attempts end, for the ledger.
pub(super) fn attempt_ends() -> Vec<&'static str> {
    vec!["finished", "failed", "rejected", "released", "cancelled", "split", "lapsed"]
}

/// How attempts end, for their worker.
pub(super) fn worker_ends() -> Vec<&'static str> {
    vec!["finished", "failed", "rejected", "released", "cancelled", "split", "abandoned"]
}

/// What comes late: inputs of the life cycle, and messages that nobody understands. The offers are the ledger's own.
pub(super) fn stale_inputs() -> Vec<&'static str> {
    vec![
        "arrive",
        "claim",
        "take",
        "take_custody",
        "commit",
        "finished",
        "failed",
        "rejected",
        "released",
        "cancel_done",
        "split",
        "lapse",
        "due",
        "parents_done",
        "parent_failed",
        "deadline_passed",
        "pause",
        "resume",
        "cancel",
        "finish",
        "redrive",
        "hold_back",
        "let_go",
        "unfit",
        "never_fits",
        "delivery_limit",
        "offer",
        "offer_accepted",
        "offer_declined",
        "stray",
    ]
}

pub(super) fn held() -> Vec<&'static str> {
    vec!["running", "queued", "rate", "storage"]
}

pub(super) fn verdicts() -> Vec<&'static str> {
    vec!["run", "drop", "hold", "none"]
}

pub(super) fn publishings() -> Vec<&'static str> {
    vec!["confirmed", "failed"]
}

pub(super) fn callbacks() -> Vec<&'static str> {
    vec!["delivered", "failed", "given_up"]
}

pub(super) fn reloads() -> Vec<&'static str> {
    vec!["taken", "refused"]
}

/// Why a connection to the API is ended.
pub(super) fn cuts() -> Vec<&'static str> {
    vec!["full", "share", "handshake", "handshake_rate", "handshakes", "plain", "slow", "idle"]
}

pub(super) fn handshakes() -> Vec<&'static str> {
    vec!["done", "failed", "refused"]
}

/// What was used up when the API answers with 429.
pub(super) fn limits() -> Vec<&'static str> {
    vec!["address", "probe", "key", "tenant", "failed_key", "key_streams", "tenant_streams", "all_streams"]
}

/// Why a worker hands an attempt back.
pub(super) fn releases() -> Vec<&'static str> {
    vec!["drain", "eviction", "lease"]
}

pub(super) fn clouds() -> Vec<&'static str> {
    vec!["aws", "gcp", "azure"]
}

pub(super) fn heartbeats() -> Vec<&'static str> {
    vec!["sent", "failed"]
}
