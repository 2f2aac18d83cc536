//! How a dispatcher does, for `/health`, `/ready` and the service manager.
//!
//! Invariant: ready means that NATS brings claims here, not that we have asked it to; alive means that the task that hears
//! heartbeats goes round, be the servers there or not.

use std::time::Duration;

use ffpool_runtime::notify::{self, Notifier};
use ffpool_schema::api::Readiness;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::App;
use crate::heartbeats::Hearing;

/// A task that has not gone round for so long is stuck; its questions to Postgres have a shorter deadline.
const STUCK: Duration = Duration::from_secs(30);
/// Readiness that is not known within this time is none.
const ASK: Duration = Duration::from_secs(5);

/// What is known of the dispatcher itself. Clones share it.
#[derive(Clone)]
pub(crate) struct Vitals {
    hearing: Hearing,
    /// Whether claims come here.
    claims: watch::Receiver<bool>,
}

impl Vitals {
    pub(crate) fn new(hearing: Hearing, claims: watch::Receiver<bool>) -> Vitals {
        Vitals { hearing, claims }
    }

    /// What is wrong that only a new start would cure.
    pub(crate) fn stuck(&self) -> Option<String> {
        let stuck_for = self.hearing.last_turn()?.elapsed();
        (stuck_for > STUCK).then(|| format!("heartbeats have not been looked at for {} s", stuck_for.as_secs()))
    }

    /// Whether claims come here.
    pub(crate) fn hears_claims(&self) -> bool {
        *self.claims.borrow()
    }
}

/// Tells the service manager how the dispatcher does, until `work` ends; `intake` ends when the dispatcher stops.
pub(crate) async fn keep_told(app: App, vitals: Vitals, intake: CancellationToken, work: CancellationToken) {
    let mut notifier = Notifier::from_env();
    while notifier.is_wanted() {
        let readiness = tokio::select! {
            biased;
            () = intake.cancelled() => None,
            known = timeout(ASK, app.readiness()) => known.ok(),
        };
        // The stop is told however short it is.
        let is_last = work.is_cancelled();
        let state = told(readiness.as_ref(), vitals.stuck(), is_last || intake.is_cancelled());
        notifier.tell(&state);
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(notifier.pause()) => {}
            () = intake.cancelled(), if !intake.is_cancelled() => {}
            () = work.cancelled() => {}
        }
    }
    work.cancelled().await;
}

fn told(readiness: Option<&Readiness>, stuck: Option<String>, is_stopping: bool) -> notify::State {
    let is_alive = stuck.is_none();
    let is_ready = readiness.is_some_and(|readiness| readiness.ready);
    let status = match (stuck, readiness) {
        (Some(stuck), _) => stuck,
        (None, _) if is_stopping => "stops".to_owned(),
        (None, Some(readiness)) if readiness.ready => "works".to_owned(),
        (None, Some(readiness)) => {
            let not_ok = readiness.parts.iter().filter(|(_, says)| *says != "ok");
            let says: Vec<String> = not_ok.map(|(part, says)| format!("{part}: {says}")).collect();
            format!("not ready: {}", says.join("; "))
        }
        (None, None) => format!("not ready: nothing is known within {ASK:?}"),
    };
    notify::State { is_ready, is_alive, is_stopping, status }
}
