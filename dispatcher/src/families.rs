//! Follows families of jobs: children go on when their parents have completed, and end with a parent that has not.
//!
//! Invariant: everything is decided under the lock of the child's row, from ends that are committed, so doing it twice
//! does no harm.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::ledger::{Leadership, Ledger};
use crate::settings::ParentFailure;

/// Ends looked at together at most.
const BATCH: usize = 500;
/// How often the leader looks for what was left out.
const SWEEP: Duration = Duration::from_secs(2);

/// Follows what this dispatcher decides, and as the leader what is left of those that are gone, until `stop`.
pub(crate) async fn follow(
    ledger: Ledger,
    leadership: Leadership,
    parent_failure: ParentFailure,
    stop: CancellationToken,
) {
    let skip = parent_failure == ParentFailure::Skip;
    let mut relatives = ledger.take_relatives();
    let mut batch = Vec::with_capacity(BATCH);
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let settled = tokio::select! {
            count = relatives.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                ledger.settle_families(&batch, skip).await
            }
            _ = tick.tick() => {
                if !leadership.is_held() {
                    continue;
                }
                ledger.settle_waiting(skip).await
            }
            () = stop.cancelled() => return,
        };
        batch.clear();
        if let Err(error) = settled {
            debug!(%error, "children are left to the sweep");
        }
    }
}
