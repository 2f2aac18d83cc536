//! How a worker stops: first it takes no more, then it hands back what it has not finished.
//!
//! Invariant: the stage only rises, so whoever saw one may act on it for good.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

/// Where the worker is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Takes work.
    Serving,
    /// Takes no more and finishes what runs, however long it takes.
    Finishing,
    /// Takes no more and finishes what fits into the time given for it.
    FinishingInTime,
    /// Hands back what runs.
    Releasing,
}

/// The stop of one worker. Clones share it.
#[derive(Clone)]
pub struct Drain {
    stage: Arc<watch::Sender<Stage>>,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { stage: Arc::new(watch::Sender::new(Stage::Serving)) }
    }
}

impl Drain {
    /// Goes on to `stage`, because of `why`. An earlier stage changes nothing.
    pub fn advance(&self, stage: Stage, why: &str) {
        let risen = self.stage.send_if_modified(|now| {
            let rises = *now < stage;
            *now = stage.max(*now);
            rises
        });
        if risen {
            info!(?stage, why, "draining");
        }
    }

    /// The stage it is in.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Resolves when `stage` is reached or passed.
    pub async fn reached(&self, stage: Stage) {
        let mut changes = self.stage.subscribe();
        changes.wait_for(|now| *now >= stage).await.expect("the sender lives as long as self");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stage_only_rises() {
        let drain = Drain::default();
        drain.advance(Stage::FinishingInTime, "test");
        drain.advance(Stage::Finishing, "test");
        assert_eq!(drain.stage(), Stage::FinishingInTime);
        drain.reached(Stage::Finishing).await;
        drain.advance(Stage::Releasing, "test");
        drain.reached(Stage::Releasing).await;
    }
}
