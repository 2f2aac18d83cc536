//! Whether this worker can take work at all: its scratch has room, and its tools work.
//!
//! Invariant: while there is trouble no work is taken; what runs goes on.

use crate::software::Software;
use crate::space::Space;

/// What taking work depends on, besides slots. Clones share it.
#[derive(Clone)]
pub(crate) struct Fitness {
    pub(crate) space: Space,
    pub(crate) software: Software,
}

impl Fitness {
    /// What is wrong, for people.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.space.trouble().or_else(|| self.software.trouble())
    }

    /// Resolves when something is wrong. Cancel-safe.
    pub(crate) async fn fails(&self) {
        tokio::select! {
            () = self.space.becomes(true) => {}
            () = self.software.becomes(true) => {}
        }
    }

    /// Resolves when nothing is. Cancel-safe.
    pub(crate) async fn holds(&self) {
        while self.trouble().is_some() {
            self.space.becomes(false).await;
            self.software.becomes(false).await;
        }
    }
}
