//! Submit and follow ffpool jobs.
//!
//! * [`Client`] speaks the HTTP API: submit, look, cancel, retry, drain, redrive; [`JobEvents`] follows one job live.
//! * [`AmqpProducer`] publishes a job straight to RabbitMQ, durable and confirmed, without the API.
//!
//! ```no_run
//! # async fn example() -> Result<(), ffpool::ApiError> {
//! use ffpool::{Client, ClientConfig, Heard};
//! use ffpool_schema::api::StreamEvent;
//! use ffpool_schema::job::JobSpec;
//!
//! let client = Client::open(ClientConfig::new("https://127.0.0.1:8080").ca_file("ca.pem").key("…"))?;
//! let submitted = client.submit(&JobSpec::new("720p30-h264")).await?;
//! let mut events = client.events(submitted.id);
//! loop {
//!     if let Heard::Event(StreamEvent::Job(job)) = events.next().await?
//!         && job.state.is_end()
//!     {
//!         println!("{}", job.state);
//!         return Ok(());
//!     }
//! }
//! # }
//! ```
//!
//! Invariant: every error says in plain words what was tried, and knows the next step for whoever has to repair it.

mod amqp;
mod client;
mod events;
pub mod sse;

pub use amqp::{AmqpProducer, ProduceError, fresh_traceparent};
pub use client::{ApiError, Client, ClientConfig, JobFilter, JobName, JobNameError, ScaleWishes, WorkerFilter};
pub use events::{Heard, JobEvents};
