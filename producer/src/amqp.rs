//! Publishes jobs straight to RabbitMQ.
//!
//! Invariant: a job is published under its own id as `message_id`, so that sending it again after a doubtful answer makes
//! no second job.

use std::collections::BTreeMap;
use std::time::Duration;

use ffpool_broker::{AmqpConfig, BrokerError, Outgoing, PublishError, PublishPool, Publisher};
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::MAX_BODY_BYTES;
use ffpool_schema::parse::Encoding;
use ffpool_schema::topology;
use uuid::Uuid;

/// A job that was not published for certain.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The job cannot be written.
    #[error("job {job} cannot be written: {reason}")]
    Encode {
        /// The job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// The body is larger than a dispatcher reads.
    #[error("job {job} is {bytes} bytes long, {MAX_BODY_BYTES} are the limit")]
    TooLarge {
        /// The job.
        job: JobId,
        /// Its length.
        bytes: usize,
    },
    /// The broker cannot be reached.
    #[error("{}", chain(source))]
    Connect {
        /// Why.
        #[source]
        source: BrokerError,
    },
    /// The broker did not confirm it.
    #[error("job {job} was not published: {}", chain(source))]
    Publish {
        /// The job.
        job: JobId,
        /// Why.
        #[source]
        source: PublishError,
    },
}

impl ProduceError {
    /// What to do about it, in one sentence.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            ProduceError::Encode { .. } | ProduceError::TooLarge { .. } => "Make the job smaller or simpler.",
            ProduceError::Connect { .. } => {
                "Start RabbitMQ, or say where it is with --amqp-url (FFPOOL_AMQP_URL); `ffpool doctor` looks closer."
            }
            ProduceError::Publish { source, .. } => match source {
                PublishError::Unroutable { .. } => {
                    "Name the job's pool in the dispatcher's FFPOOL_POOLS, so that it declares its queues, or choose another pool."
                }
                PublishError::Rejected { reply, .. } if reply.contains("user_id") => {
                    "RabbitMQ knows you by another name than the URL's: say it with --publish-as (FFPOOL_PUBLISH_AS); an empty one says none."
                }
                PublishError::Rejected { .. } => {
                    "Start a dispatcher, which declares the exchanges, and check the account's write permission."
                }
                PublishError::Refused { .. } | PublishError::Unconfirmed { .. } => {
                    "Publish it again with the same id: no second job comes of that."
                }
                PublishError::Blocked { .. } => {
                    "Free memory or disk on the RabbitMQ machine, then publish it again with the same id."
                }
                PublishError::NotSent { .. } => {
                    "Start RabbitMQ, or say where it is with --amqp-url (FFPOOL_AMQP_URL); `ffpool doctor` looks closer."
                }
            },
        }
    }
}

/// An error with everything behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(source) = inner {
        text.push_str(": ");
        text.push_str(&source.to_string());
        inner = source.source();
    }
    text
}

/// The connection's name in `rabbitmqctl list_connections`.
const NAME: &str = "ffpool producer";

/// Publishes jobs with confirms: over one supervised connection of its own ([`AmqpProducer::open`]), or over a pool of
/// connections that are made when they are needed ([`AmqpProducer::pooled`]).
pub struct AmqpProducer {
    route: Route,
    /// Said with each job.
    user: Option<String>,
}

enum Route {
    Link(Box<Publisher>),
    Pool(PublishPool),
}

impl AmqpProducer {
    /// Starts to connect in the background. Must be called inside a Tokio runtime. The way to publish much, or for long:
    /// the connection is kept, and rebuilt when it is lost.
    #[must_use]
    pub fn open(url: impl Into<String>) -> AmqpProducer {
        install_crypto();
        let config = AmqpConfig::new(url, NAME);
        let user = config.user();
        AmqpProducer { route: Route::Link(Box::new(Publisher::open(config))), user }
    }

    /// Connects when a job is published, at most `size` times at once, and keeps the connections for the next job. The
    /// way for a program of many short-lived tasks that now and then publish: nothing runs between two jobs. Each
    /// connection carries one publish at a time, so `size` is also how many are in flight.
    ///
    /// # Errors
    /// [`ProduceError::Connect`] when the URL cannot be used; certificate files in it are for [`AmqpProducer::open`].
    pub fn pooled(url: impl Into<String>, size: u16) -> Result<AmqpProducer, ProduceError> {
        install_crypto();
        let config = AmqpConfig::new(url, NAME);
        let user = config.user();
        let pool = PublishPool::open(config, size);
        Ok(AmqpProducer { route: Route::Pool(pool.map_err(|source| ProduceError::Connect { source })?), user })
    }

    /// Says with each job that this RabbitMQ user publishes it (`user_id`): by it the pool tells which tenant's the job is. It is
    /// the URL's user if this is not called, and must be the connection's, or the broker refuses the job. For a login by
    /// certificate, and for brokers that call a user otherwise than the URL; `None` says nothing.
    #[must_use]
    pub fn published_by(self, user: Option<String>) -> AmqpProducer {
        AmqpProducer { user, ..self }
    }

    /// Waits until a connection stands. Not needed before [`AmqpProducer::publish`], which waits longer: for those who
    /// want to know soon.
    ///
    /// # Errors
    /// [`ProduceError::Connect`] with the reason of the last attempt.
    pub async fn connected(&self, within: Duration) -> Result<(), ProduceError> {
        let connected = match &self.route {
            Route::Link(publisher) => publisher.link().connected(within).await,
            Route::Pool(pool) => pool.connected(within).await,
        };
        connected.map_err(|source| ProduceError::Connect { source })
    }

    /// Publishes a job and waits for the broker's confirm. A job without an id is given one.
    ///
    /// # Errors
    /// When it is not certain that the job is stored. [`ProduceError::next_step`] says what to do.
    pub async fn publish(
        &self,
        spec: &JobSpec,
        encoding: Encoding,
        traceparent: Option<&str>,
    ) -> Result<JobId, ProduceError> {
        let job = spec.id.unwrap_or_else(|| JobId(Uuid::now_v7()));
        let message = outgoing(&JobSpec { id: Some(job), ..spec.clone() }, job, encoding, traceparent)?;
        let message = Outgoing { user_id: self.user.clone(), ..message };
        let published = match &self.route {
            Route::Link(publisher) => publisher.publish(message).await,
            Route::Pool(pool) => pool.publish(message).await,
        };
        published.map_err(|source| ProduceError::Publish { job, source })?;
        Ok(job)
    }

    /// Ends the connections in good order.
    pub async fn close(&self) {
        match &self.route {
            Route::Link(publisher) => publisher.close().await,
            Route::Pool(pool) => pool.close().await,
        }
    }
}

fn install_crypto() {
    // A second installation is refused and does no harm: TLS needs one provider for the whole process.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn outgoing(
    spec: &JobSpec,
    job: JobId,
    encoding: Encoding,
    traceparent: Option<&str>,
) -> Result<Outgoing, ProduceError> {
    let failed = |reason: String| ProduceError::Encode { job, reason };
    let body = match encoding {
        Encoding::Json => serde_json::to_vec(spec).map_err(|error| failed(error.to_string()))?,
        Encoding::MessagePack => rmp_serde::to_vec_named(spec).map_err(|error| failed(error.to_string()))?,
    };
    if body.len() > MAX_BODY_BYTES {
        return Err(ProduceError::TooLarge { job, bytes: body.len() });
    }
    let traceparent = traceparent.map(|value| (topology::TRACEPARENT_HEADER.to_owned(), value.to_owned()));
    Ok(Outgoing {
        exchange: topology::exchange(spec.queue),
        routing_key: topology::routing_key(spec.priority, &spec.pool),
        body,
        content_type: encoding.content_type().to_owned(),
        message_id: Some(job.to_string()),
        headers: traceparent.into_iter().collect::<BTreeMap<_, _>>(),
        message_type: None,
        user_id: None,
    })
}

/// A W3C `traceparent` that begins a new, sampled trace.
#[must_use]
pub fn fresh_traceparent() -> String {
    let trace = Uuid::new_v4().as_simple().to_string();
    let span = Uuid::new_v4().as_simple().to_string();
    format!("00-{trace}-{}-01", &span[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::job::{Pool, Priority, Queue};

    fn spec() -> JobSpec {
        JobSpec {
            id: Some(JobId(Uuid::from_u128(7))),
            queue: Queue::Live,
            priority: Priority::High,
            pool: "gpu".parse::<Pool>().unwrap(),
            ..JobSpec::new("720p30-h264")
        }
    }

    #[test]
    fn a_user_that_the_broker_does_not_know_by_this_name_is_told_how_to_say_it() {
        let refused = |reply: &str| {
            let source = PublishError::Rejected { exchange: "jobs.live".into(), reply: reply.into() };
            ProduceError::Publish { job: spec().id.unwrap(), source }.next_step()
        };
        let reply = "PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'b'";
        assert!(refused(reply).contains("--publish-as"), "{}", refused(reply));
        assert!(refused("ACCESS_REFUSED").contains("write permission"));
    }

    #[test]
    fn a_job_goes_to_its_exchange_under_its_key_and_its_own_id() {
        let job = spec().id.unwrap();
        let message = outgoing(&spec(), job, Encoding::Json, Some("00-a-b-01")).unwrap();
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("jobs.live", "high.gpu"));
        assert_eq!(message.message_id.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
        assert_eq!(message.headers.get("traceparent").map(String::as_str), Some("00-a-b-01"));
        assert_eq!(serde_json::from_slice::<JobSpec>(&message.body).unwrap(), spec());
    }

    #[test]
    fn messagepack_carries_the_same_fields_by_name() {
        let message = outgoing(&spec(), spec().id.unwrap(), Encoding::MessagePack, None).unwrap();
        assert_eq!(message.content_type, "application/msgpack");
        let fields: serde_json::Value = rmp_serde::from_slice(&message.body).unwrap();
        assert_eq!(fields, serde_json::to_value(spec()).unwrap());
    }

    #[test]
    fn a_body_over_the_limit_is_not_sent() {
        let huge = JobSpec { input: Some("x".repeat(MAX_BODY_BYTES)), ..spec() };
        let error = outgoing(&huge, spec().id.unwrap(), Encoding::Json, None).unwrap_err();
        assert!(matches!(error, ProduceError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_fresh_trace_has_the_standards_form() {
        let parts: Vec<usize> = fresh_traceparent().split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
    }
}
