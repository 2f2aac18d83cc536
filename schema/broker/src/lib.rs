//! Links to RabbitMQ and NATS: the only crate that names their clients.
//!
//! Invariant: every await on a broker has a deadline, every link is rebuilt by its own supervisor for ever, and no
//! type of a client library is part of what callers must name.
//!
//! * [`AmqpLink`] is one supervised connection; [`Publisher`], [`Intake`] and [`BatchConsumer`] work on links.
//! * [`PublishPool`] publishes over connections that are made when needed: for programs that embed the producer library.
//! * [`declare_topology`], [`queue_depth`] and [`definitions()`] look after the broker's objects.
//! * [`Signals`] is the NATS side.

mod arms;
mod batch;
mod channels;
mod deadline;
mod definitions;
mod delivery;
mod envelope;
mod error;
mod intake;
mod ladder;
mod link;
mod message;
mod nats;
mod presence;
mod probe;
mod publish_pool;
mod publisher;
mod shallow;
mod topology;
mod transport;

pub use batch::{Batch, BatchConsumer};
pub use channels::AmqpChannel;
pub use definitions::{definitions, definitions_in};
pub use delivery::{Delivery, Settled};
pub use error::{BrokerError, PublishError};
pub use intake::Intake;
pub use link::{AmqpConfig, AmqpLink, LinkState};
pub use message::{Death, Incoming, Outgoing};
pub use nats::{NatsServer, Request, RequestError, SignalError, Signals, Subscription};
pub use presence::{Presence, presence};
pub use publish_pool::PublishPool;
pub use publisher::Publisher;
pub use topology::{QueueDepth, declare_topology, queue_depth};
