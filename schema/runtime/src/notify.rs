//! Tells the service manager how the process does, in the words of sd_notify(3), which systemd and podman understand.
//!
//! Invariant: without `NOTIFY_SOCKET` nothing is told. The watchdog is fed only by [`Notifier::tell`], so by whoever has
//! just looked whether the work goes round.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// Between two words at most: so old may be what the service manager shows.
const PAUSE: Duration = Duration::from_secs(1);
/// The watchdog is fed so many times within its time.
const FEEDS: u32 = 3;
/// A stop that goes on asks for so much more time, again and again.
const MORE_TIME: Duration = Duration::from_secs(30);

/// How the process does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// It does what it is for.
    pub is_ready: bool,
    /// Its work goes round, be it in vain; a process of which that is not true is of no use until it is started again.
    pub is_alive: bool,
    /// It takes no more work and is on its way to the end.
    pub is_stopping: bool,
    /// In a few words, for people.
    pub status: String,
}

/// Speaks to the service manager.
#[derive(Debug)]
pub struct Notifier {
    is_wanted: bool,
    watchdog: Option<Duration>,
    told: Told,
}

/// What the service manager knows already.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    stopping: bool,
    status: String,
}

impl Notifier {
    /// One that says what the environment asks for (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    #[must_use]
    pub fn from_env() -> Notifier {
        let is_wanted = std::env::var_os("NOTIFY_SOCKET").is_some();
        Notifier { is_wanted, watchdog: sd_notify::watchdog_enabled(), told: Told::default() }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// How long to wait before the next word.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.watchdog.map_or(PAUSE, |period| (period / FEEDS).min(PAUSE))
    }

    /// Tells how the process does now.
    pub fn tell(&mut self, state: &State) {
        if !self.is_wanted {
            return;
        }
        let words = self.told.words(state, self.watchdog.is_some());
        if !words.is_empty()
            && let Err(error) = sd_notify::notify(&words)
        {
            debug!(%error, "the service manager was not told");
        }
    }
}

impl Told {
    /// What is new, and what must be said again and again.
    fn words<'s>(&mut self, state: &'s State, has_watchdog: bool) -> Vec<NotifyState<'s>> {
        let mut words = Vec::new();
        // Once is enough: there is no word for a service that is not ready any more.
        if state.is_ready && !std::mem::replace(&mut self.ready, true) {
            words.push(NotifyState::Ready);
        }
        if state.is_stopping && !std::mem::replace(&mut self.stopping, true) {
            words.push(NotifyState::Stopping);
        }
        if state.status != self.status {
            self.status.clone_from(&state.status);
            words.push(NotifyState::Status(&state.status));
        }
        if state.is_alive {
            if has_watchdog {
                words.push(NotifyState::Watchdog);
            }
            if state.is_stopping {
                words.push(NotifyState::ExtendTimeoutUsec(
                    u32::try_from(MORE_TIME.as_micros()).expect("half a minute is few microseconds"),
                ));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(told: &mut Told, state: &State) -> Vec<String> {
        told.words(state, true).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_new_is_told_once_and_the_watchdog_is_fed_while_the_work_goes_round() {
        let mut told = Told::default();
        let state = State { is_alive: true, status: "waits".into(), ..State::default() };
        assert_eq!(said(&mut told, &state), ["STATUS=waits", "WATCHDOG=1"]);
        let state = State { is_ready: true, status: "works".into(), ..state };
        assert_eq!(said(&mut told, &state), ["READY=1", "STATUS=works", "WATCHDOG=1"]);
        assert_eq!(said(&mut told, &state), ["WATCHDOG=1"]);
        let stuck = State { is_alive: false, ..state.clone() };
        assert_eq!(said(&mut told, &stuck), [] as [&str; 0]);
        let stopping = State { is_stopping: true, is_ready: false, ..state };
        assert_eq!(said(&mut told, &stopping), ["STOPPING=1", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"]);
        assert_eq!(said(&mut told, &stopping), ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"]);
        assert!(
            told.words(&State { is_alive: false, ..stopping }, true).is_empty(),
            "a stuck stop asks for no more time"
        );
    }

    #[test]
    fn a_short_watchdog_is_fed_more_often() {
        let notifier = |watchdog| Notifier { is_wanted: true, watchdog, told: Told::default() };
        assert_eq!(notifier(None).pause(), PAUSE);
        assert_eq!(notifier(Some(Duration::from_secs(60))).pause(), PAUSE);
        assert_eq!(notifier(Some(Duration::from_millis(900))).pause(), Duration::from_millis(300));
    }
}
