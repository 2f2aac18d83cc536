//! How busy this dispatcher's side of the ledger is: what waits for its writers, its connections, the database's size.
//!
//! Invariant: nothing here changes anything, and but for the size nothing asks Postgres.

use deadpool_postgres::Pool;

use super::{Ledger, Unavailable, writer};

/// Connections of one pool, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connections {
    /// In somebody's hands.
    pub(crate) used: usize,
    /// Open, and free for anybody.
    pub(crate) idle: usize,
    /// At most.
    pub(crate) max: usize,
    /// Tasks that wait for one.
    pub(crate) waiting: usize,
}

/// What waits, and what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Happenings that wait for a writer.
    pub(crate) waiting: usize,
    /// Writers whose batch has failed more than once.
    pub(crate) stuck: usize,
    /// Connections of the API and the timers.
    pub(crate) readers: Connections,
    /// Connections of writers and of the transactions beside them.
    pub(crate) writers: Connections,
}

impl Ledger {
    /// How busy it is, now.
    pub(crate) fn load(&self) -> Load {
        Load {
            waiting: self.inner.asks.iter().map(|ask| writer::MAX_WAITING - ask.capacity()).sum(),
            stuck: self.inner.troubles.iter().filter(|trouble| trouble.borrow().is_some()).count(),
            readers: connections(&self.inner.readers),
            writers: connections(&self.inner.writers),
        }
    }

    /// The size of the database.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub(crate) async fn database_bytes(&self) -> Result<i64, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached("SELECT pg_database_size(current_database())").await?;
            Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
        })
        .await
    }
}

fn connections(pool: &Pool) -> Connections {
    let status = pool.status();
    Connections {
        used: status.size.saturating_sub(status.available),
        idle: status.available,
        max: status.max_size,
        waiting: status.waiting,
    }
}
