//! Whether the loop that takes work goes round: what the service manager's watchdog and `/health` ask.
//!
//! Invariant: only a worker that a new start would help is called stuck. A server that is away, a full worker or a full
//! disk is a matter of readiness: an end would throw away what runs.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How often the loop says that it goes round.
pub(crate) const TURN: Duration = Duration::from_secs(1);
/// A loop that has not gone round for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// A free slot that has not seen the work queues for so long, the broker being there, will not see them any more.
const BLIND: Duration = Duration::from_secs(300);

/// When the loop last went round. Clones share it.
#[derive(Clone)]
pub(crate) struct Liveness {
    /// Written by the loop alone; `None` before it begins and after it has ended.
    turned: watch::Sender<Option<Instant>>,
    /// Since when a free slot could look for work, as far as was asked.
    looks_since: watch::Sender<Option<Instant>>,
}

impl Liveness {
    pub(crate) fn new() -> Liveness {
        Liveness { turned: watch::Sender::new(None), looks_since: watch::Sender::new(None) }
    }

    /// The loop has gone round.
    pub(crate) fn turn(&self) {
        self.turned.send_replace(Some(Instant::now()));
    }

    /// The loop has ended as it should: nothing is expected of it any more.
    pub(crate) fn end(&self) {
        self.turned.send_replace(None);
    }

    /// What is stuck, for people. `seen`: when a free slot last saw the work queues, `Some` while it could look for them.
    pub(crate) fn trouble(&self, now: Instant, seen: Option<Option<Instant>>) -> Option<String> {
        let stuck_for = self.turned.borrow().map(|turned| now - turned).filter(|elapsed| *elapsed > STUCK);
        if let Some(stuck_for) = stuck_for {
            return Some(format!("the loop that takes work has been stuck for {} s", stuck_for.as_secs()));
        }
        // Before it could look, it did not have to see anything.
        let mut since = None;
        self.looks_since.send_if_modified(|looks_since| {
            *looks_since = seen.map(|_| looks_since.unwrap_or(now));
            since = *looks_since;
            false
        });
        let since = since?;
        let blind_for = now.duration_since(seen?.map_or(since, |seen| seen.max(since)));
        if blind_for <= BLIND {
            return None;
        }
        Some(format!("the work queues have not been seen for {} s, and the broker is there", blind_for.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_go_round_is_stuck_until_it_does() {
        let liveness = Liveness::new();
        let later = || Instant::now() + STUCK + TURN;
        assert_eq!(liveness.trouble(later(), None), None, "it has not begun");
        liveness.turn();
        assert_eq!(liveness.trouble(Instant::now(), None), None);
        let trouble = liveness.trouble(later(), None).unwrap();
        assert_eq!(trouble, "the loop that takes work has been stuck for 31 s");
        liveness.end();
        assert_eq!(liveness.trouble(later(), None), None, "it has ended");
    }

    #[test]
    fn a_free_slot_that_sees_no_queues_for_long_is_blind() {
        let liveness = Liveness::new();
        liveness.turn();
        let start = Instant::now();
        let at = |after: Duration| {
            liveness.turned.send_replace(Some(start + after));
            liveness.trouble(start + after, Some(Some(start)))
        };
        assert_eq!(at(Duration::ZERO), None);
        assert_eq!(at(BLIND), None);
        let trouble = at(BLIND + TURN).unwrap();
        assert!(trouble.starts_with("the work queues have not been seen for 301 s"), "{trouble}");
    }

    #[test]
    fn what_was_not_seen_while_nobody_could_look_is_no_blindness() {
        let liveness = Liveness::new();
        let start = Instant::now();
        assert_eq!(liveness.trouble(start, Some(Some(start))), None);
        assert_eq!(liveness.trouble(start + BLIND + TURN, None), None, "the broker is away");
        let back = start + BLIND + TURN + TURN;
        assert_eq!(liveness.trouble(back, Some(Some(start))), None, "it has come back this moment");
        assert!(liveness.trouble(back + BLIND + TURN, Some(Some(start))).is_some());
    }
}
