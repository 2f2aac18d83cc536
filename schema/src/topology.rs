//! The RabbitMQ objects of ffpool as data: what exists, with which arguments, bound how.
//!
//! Invariant: arguments are structure and identical on every supported broker; tunables are policies, made for the
//! broker's version. An exchange never binds the tap with `#`, because the alternate exchange would then never fire
//! (measured on RabbitMQ 3.10, 4.0 and 4.3).

use serde::{Deserialize, Serialize};

use crate::job::{Pool, Priority, Queue};

/// Exchange that receives what the work queues dead-letter.
pub const DEAD_EXCHANGE: &str = "jobs.dead";
/// Queue behind [`DEAD_EXCHANGE`].
pub const DEAD_QUEUE: &str = "jobs.dead";
/// Alternate exchange of the job exchanges: a routing key nobody bound ends here.
pub const UNROUTABLE_EXCHANGE: &str = "jobs.unroutable";
/// Queue behind [`UNROUTABLE_EXCHANGE`].
pub const UNROUTABLE_QUEUE: &str = "jobs.unroutable";
/// Topic exchange on which workers report the ends of attempts.
pub const EVENTS_EXCHANGE: &str = "jobs.events";
/// Queue behind [`EVENTS_EXCHANGE`].
pub const EVENTS_QUEUE: &str = "jobs.events";
/// Last part of the name of a work queue's twin, see [`WorkQueue::returned_name`]. No pool may be called so.
pub const RETURNED: &str = "returned";
/// Queue that receives a copy of every job published to a job exchange.
pub const LEDGER_QUEUE: &str = "jobs.ledger";

/// Header that carries the attempt number a republished job will be claimed as.
pub const ATTEMPT_HEADER: &str = "x-ffpool-attempt";
/// W3C trace context header.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// Deliveries after which the broker dead-letters a message. High, because up to RabbitMQ 4.2 every harmless return
/// counts; the ledger counts real crashes itself. Never `-1`: RabbitMQ 3.10 then drops the message at its first return.
pub const DELIVERY_LIMIT: u32 = 1_000_000;
/// A week: longer than any attempt keeps a delivery unacknowledged.
pub const CONSUMER_TIMEOUT_MS: u64 = 604_800_000;

/// The exchange to which jobs of `queue` are published, such as `jobs.live`.
#[must_use]
pub fn exchange(queue: Queue) -> String {
    format!("jobs.{queue}")
}

/// The routing key for `priority` in `pool`: `high`, or `high.gpu` for a pool other than `cpu`.
#[must_use]
pub fn routing_key(priority: Priority, pool: &Pool) -> String {
    if pool.is_cpu() { priority.to_string() } else { format!("{priority}.{pool}") }
}

/// One work queue: where jobs of one queue, priority and pool wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkQueue {
    /// Which of the three queues.
    pub queue: Queue,
    /// Which priority inside it.
    pub priority: Priority,
    /// Which kind of worker serves it.
    pub pool: Pool,
}

impl WorkQueue {
    /// The broker's name for it, such as `jobs.default.medium` or `jobs.batch.low.gpu`.
    #[must_use]
    pub fn name(&self) -> String {
        let WorkQueue { queue, priority, pool } = self;
        if pool.is_cpu() { format!("jobs.{queue}.{priority}") } else { format!("jobs.{queue}.{priority}.{pool}") }
    }

    /// The broker's name for its twin, such as `jobs.default.medium.returned`. What a worker handed back, or lost, waits
    /// there for its next attempt: a queue takes in at its end only, and this twin is served before it. No exchange
    /// routes to it; the ledger alone publishes there.
    #[must_use]
    pub fn returned_name(&self) -> String {
        format!("{}.{RETURNED}", self.name())
    }

    /// A regular expression, without anchors, of the names of all work queues and their twins, whatever their pool.
    #[must_use]
    pub fn names_pattern() -> String {
        let (queues, priorities) =
            (Queue::ALL.map(Queue::as_str).join("|"), Priority::ALL.map(Priority::as_str).join("|"));
        format!(r"jobs\.({queues})\.({priorities})(\.[a-z0-9-]+)?(\.{RETURNED})?")
    }

    /// The order of choice: queue weight (live 10, default 5, batch 1) times 10, plus priority (3, 2, 1). Higher is served first.
    #[must_use]
    pub fn score(&self) -> u32 {
        self.queue.weight() * 10 + self.priority.level()
    }

    /// The keys under which the exchange `jobs.<queue>` routes to this queue. The empty key means `medium` of pool `cpu`.
    #[must_use]
    pub fn routing_keys(&self) -> Vec<String> {
        let mut keys = vec![routing_key(self.priority, &self.pool)];
        if self.priority == Priority::Medium && self.pool.is_cpu() {
            keys.push(String::new());
        }
        keys
    }

    /// All nine work queues of `pool`, best score first.
    #[must_use]
    pub fn of_pool(pool: &Pool) -> Vec<WorkQueue> {
        let mut all: Vec<WorkQueue> = Queue::ALL
            .iter()
            .flat_map(|&queue| Priority::ALL.iter().map(move |&priority| (queue, priority)))
            .map(|(queue, priority)| WorkQueue { queue, priority, pool: pool.clone() })
            .collect();
        all.sort_by_key(|q| std::cmp::Reverse(q.score()));
        all
    }
}

/// Kind of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// Routes by equal key.
    Direct,
    /// Routes to every bound queue.
    Fanout,
    /// Routes by pattern.
    Topic,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ExchangeKind,
    /// Where it sends what it cannot route.
    pub alternate: Option<&'static str>,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDeclaration {
    /// Its name.
    pub name: String,
    /// Its dead-letter exchange. With it go at-least-once dead-lettering and `reject-publish`, which that needs.
    pub dead_letter: Option<&'static str>,
}

/// A binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// From this exchange
    pub exchange: String,
    /// under this key
    pub key: String,
    /// to this queue.
    pub queue: String,
}

/// Everything that must exist on the broker for a set of pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The exchanges, in the order in which they can be declared.
    pub exchanges: Vec<Exchange>,
    /// The queues.
    pub queues: Vec<QueueDeclaration>,
    /// The bindings.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// The topology that serves `pools`. The pool `cpu` is always part of it.
    #[must_use]
    pub fn for_pools(pools: &[Pool]) -> Topology {
        let mut pools: Vec<Pool> = pools.to_vec();
        pools.push(Pool::cpu());
        pools.sort();
        pools.dedup();

        let mut exchanges = vec![
            Exchange { name: UNROUTABLE_EXCHANGE.into(), kind: ExchangeKind::Fanout, alternate: None },
            Exchange { name: DEAD_EXCHANGE.into(), kind: ExchangeKind::Topic, alternate: None },
            Exchange { name: EVENTS_EXCHANGE.into(), kind: ExchangeKind::Topic, alternate: None },
        ];
        exchanges.extend(Queue::ALL.iter().map(|&queue| Exchange {
            name: exchange(queue),
            kind: ExchangeKind::Direct,
            alternate: Some(UNROUTABLE_EXCHANGE),
        }));

        let service = |name: &str| QueueDeclaration { name: name.into(), dead_letter: None };
        let mut queues =
            vec![service(UNROUTABLE_QUEUE), service(DEAD_QUEUE), service(EVENTS_QUEUE), service(LEDGER_QUEUE)];
        let bind = |exchange: &str, key: &str, queue: &str| Binding {
            exchange: exchange.into(),
            key: key.into(),
            queue: queue.into(),
        };
        let mut bindings = vec![
            bind(UNROUTABLE_EXCHANGE, "", UNROUTABLE_QUEUE),
            bind(DEAD_EXCHANGE, "#", DEAD_QUEUE),
            bind(EVENTS_EXCHANGE, "#", EVENTS_QUEUE),
        ];
        for work in pools.iter().flat_map(WorkQueue::of_pool) {
            let both = [work.name(), work.returned_name()];
            queues.extend(both.map(|name| QueueDeclaration { name, dead_letter: Some(DEAD_EXCHANGE) }));
            for key in work.routing_keys() {
                bindings.push(bind(&exchange(work.queue), &key, &work.name()));
                bindings.push(bind(&exchange(work.queue), &key, LEDGER_QUEUE));
            }
        }
        Topology { exchanges, queues, bindings }
    }
}
