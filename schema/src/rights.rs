//! The least that each part of the pool may do on RabbitMQ and NATS, as data made from the topology and the subjects.
//!
//! Invariant: what is not named here is forbidden. The files of `compose/rights` are printed from this; a test holds them
//! to it.

use crate::job::Queue;
use crate::subjects;
use crate::topology::{EVENTS_EXCHANGE, Topology, WorkQueue, exchange};

/// What RabbitMQ calls the default exchange, which has no name, where it asks for permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";
/// Nothing at all, as a pattern of RabbitMQ's.
const NOTHING: &str = "^$";

/// A login on the servers: one for each kind of part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Publishes jobs, and does nothing else.
    Producer,
    /// Looks on: the command line follows logs and progress with it.
    Client,
    /// Runs jobs.
    Worker,
    /// Keeps the ledger, and the objects on the broker.
    Dispatcher,
}

impl Account {
    /// Every account.
    pub const ALL: [Account; 4] = [Account::Producer, Account::Client, Account::Worker, Account::Dispatcher];

    /// The name it logs in with, on both servers.
    #[must_use]
    pub fn login(self) -> &'static str {
        match self {
            Account::Producer => "ffpool-producer",
            Account::Client => "ffpool-client",
            Account::Worker => "ffpool-worker",
            Account::Dispatcher => "ffpool-dispatcher",
        }
    }
}

/// Permissions of RabbitMQ in one vhost: regular expressions of the names of exchanges and queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpRights {
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to, and bound.
    pub write: String,
    /// What may be consumed, counted, purged, and bound to. RabbitMQ does not tell these apart.
    pub read: String,
}

/// What `account` may do on RabbitMQ; `None` for one that has no business there.
#[must_use]
pub fn amqp(account: Account) -> Option<AmqpRights> {
    match account {
        Account::Client => None,
        // Nothing to read: not even whether a queue exists.
        Account::Producer => {
            let write = anchored(Queue::ALL.map(|queue| literal(&exchange(queue))));
            Some(AmqpRights { configure: NOTHING.into(), write, read: NOTHING.into() })
        }
        // Of whatever pool: a pool that is added later needs no new rights.
        Account::Worker => Some(AmqpRights {
            configure: NOTHING.into(),
            write: anchored([literal(EVENTS_EXCHANGE)]),
            read: anchored([WorkQueue::names_pattern()]),
        }),
        Account::Dispatcher => {
            let Topology { exchanges, queues, .. } = Topology::for_pools(&[]);
            let services = queues.into_iter().filter(|queue| queue.dead_letter.is_none()).map(|queue| queue.name);
            let mut names: Vec<String> = exchanges.into_iter().map(|exchange| exchange.name).chain(services).collect();
            names.sort();
            names.dedup();
            let own = || names.iter().map(|name| literal(name)).chain([WorkQueue::names_pattern()]);
            // It publishes again straight into a work queue, over the default exchange.
            let write = anchored(own().chain([literal(DEFAULT_EXCHANGE)]));
            Some(AmqpRights { configure: anchored(own()), write, read: anchored(own()) })
        }
    }
}

/// Permissions of NATS: subjects, with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsRights {
    /// What may be published.
    pub publish: Vec<String>,
    /// What may be heard.
    pub subscribe: Vec<String>,
    /// Whether a question that was heard may be answered, wherever its asker waits for the answer.
    pub answers: bool,
}

/// What `account` may do on NATS; `None` for one that has no business there.
#[must_use]
pub fn nats(account: Account) -> Option<NatsRights> {
    let owned = |subjects: &[&str]| subjects.iter().map(|&subject| subject.to_owned()).collect::<Vec<_>>();
    let mut rights = match account {
        Account::Producer => return None,
        Account::Client => {
            let subscribe = owned(&[subjects::LOGS, subjects::PROGRESS]);
            return Some(NatsRights { publish: Vec::new(), subscribe, answers: false });
        }
        Account::Worker => NatsRights {
            publish: owned(&[
                subjects::CLAIM,
                subjects::TAKE,
                subjects::COMMIT,
                subjects::CUSTODY,
                subjects::HEARTBEATS,
                subjects::PROGRESS,
                subjects::LOGS,
                subjects::HAND_OVERS,
            ]),
            subscribe: owned(&[subjects::CONTROL_OF_WORKERS, subjects::CONTROL_OF_JOBS, subjects::HAND_OVERS]),
            answers: true,
        },
        Account::Dispatcher => NatsRights {
            publish: owned(&[subjects::CONTROL_OF_WORKERS, subjects::CONTROL_OF_JOBS, subjects::ECHOES]),
            subscribe: owned(&[
                subjects::CLAIM,
                subjects::TAKE,
                subjects::COMMIT,
                subjects::CUSTODY,
                subjects::HEARTBEATS,
                subjects::PROGRESS,
                subjects::LOGS,
                subjects::ECHOES,
            ]),
            answers: true,
        },
    };
    // Answers, and the proof of a connection that its subscriptions stand: see `subjects::inbox`.
    let inbox = format!("{}.>", subjects::inbox(Some(account.login())));
    rights.publish.push(inbox.clone());
    rights.subscribe.push(inbox);
    Some(rights)
}

/// A name as a pattern.
fn literal(name: &str) -> String {
    name.replace('.', r"\.")
}

/// RabbitMQ looks for a pattern anywhere in a name, unless it is anchored.
fn anchored(patterns: impl IntoIterator<Item = String>) -> String {
    let patterns: Vec<String> = patterns.into_iter().collect();
    format!("^({})$", patterns.join("|"))
}
