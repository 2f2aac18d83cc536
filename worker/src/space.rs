//! Whether the scratch has room for one more attempt.
//!
//! Invariant: below the floor no work is taken; what runs goes on, and ends by itself if it must.

use ffpool_schema::message::Capacity;
use tokio::sync::watch;

/// The free space without which a worker takes no work. Clones share it.
#[derive(Clone)]
pub(crate) struct Space {
    /// The room of the worker as last read.
    capacity: watch::Receiver<Capacity>,
    /// In MiB.
    floor_mb: u64,
}

impl Space {
    pub(crate) fn new(capacity: watch::Receiver<Capacity>, floor_mb: u64) -> Space {
        Space { capacity, floor_mb }
    }

    /// The free space without which no work is taken.
    pub(crate) fn floor_mb(&self) -> u64 {
        self.floor_mb
    }

    /// What is wrong, for people.
    pub(crate) fn trouble(&self) -> Option<String> {
        let free_mb = self.capacity.borrow().disk_mb;
        self.is_short(free_mb)
            .then(|| format!("{free_mb} MiB are free, less than {}: no work is taken until there are", self.floor_mb))
    }

    /// Resolves when there is too little, or enough. Cancel-safe.
    pub(crate) async fn becomes(&self, short: bool) {
        let mut capacity = self.capacity.clone();
        if capacity.wait_for(|now| self.is_short(now.disk_mb) == short).await.is_err() {
            // Nobody reads it any more: the worker is at its end.
            std::future::pending().await
        }
    }

    fn is_short(&self, free_mb: u64) -> bool {
        free_mb < self.floor_mb
    }
}
