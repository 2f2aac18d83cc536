//! What can go wrong with the AMQP broker, in the words of whoever has to repair it.

use std::time::Duration;

/// A failed operation on the AMQP broker other than a publish.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL cannot be used. It is not repeated here, because it may hold a password.
    #[error("the AMQP URL cannot be used: {reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The link is not up.
    #[error("no connection to the AMQP broker{}", last_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Down {
        /// Why the last connection or attempt ended, if there was one.
        last_error: Option<String>,
    },
    /// The broker did not answer in time.
    #[error("{doing}: no answer from the AMQP broker within {within:?}")]
    Deadline {
        /// What was asked.
        doing: String,
        /// How long the answer was waited for.
        within: Duration,
    },
    /// A queue or exchange exists with other properties.
    #[error(
        "{object} exists on the broker with other properties ({reply}). Drain it, delete it \
         (`rabbitmqctl delete_queue <name>` for a queue) and let ffpool declare it again, or use another vhost"
    )]
    Inequivalent {
        /// Which object, such as "queue jobs.live.high".
        object: String,
        /// The broker's own words.
        reply: String,
    },
    /// The account may not do this.
    #[error("{doing}: the broker's account lacks the permission ({reply})")]
    Forbidden {
        /// What was asked.
        doing: String,
        /// The broker's own words.
        reply: String,
    },
    /// A queue or exchange does not exist.
    #[error("{doing}: it does not exist on the broker ({reply})")]
    Missing {
        /// What was asked.
        doing: String,
        /// The broker's own words.
        reply: String,
    },
    /// Anything else the client or the broker says.
    #[error("{doing}")]
    Amqp {
        /// What was asked.
        doing: String,
        /// What came back.
        #[source]
        source: lapin::Error,
    },
    /// The NATS side could not be opened.
    #[error("connect to NATS")]
    Nats {
        /// What came back.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BrokerError {
    /// Sorts a client error by the AMQP reply code it carries.
    pub(crate) fn amqp(doing: impl Into<String>, source: lapin::Error) -> BrokerError {
        let doing = doing.into();
        match reply(&source) {
            Some((ACCESS_REFUSED, reply)) => BrokerError::Forbidden { doing, reply },
            Some((NOT_FOUND, reply)) => BrokerError::Missing { doing, reply },
            Some(_) | None => BrokerError::Amqp { doing, source },
        }
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, BrokerError::Missing { .. })
    }

    /// Whether the broker itself said no, with a reply code.
    pub(crate) fn is_a_reply(&self) -> bool {
        match self {
            BrokerError::Missing { .. } | BrokerError::Forbidden { .. } => true,
            BrokerError::Amqp { source, .. } => reply(source).is_some(),
            BrokerError::Url { .. }
            | BrokerError::Down { .. }
            | BrokerError::Deadline { .. }
            | BrokerError::Inequivalent { .. }
            | BrokerError::Nats { .. } => false,
        }
    }
}

/// AMQP 0-9-1 reply codes that decide something here.
pub(crate) const ACCESS_REFUSED: u16 = 403;
pub(crate) const NOT_FOUND: u16 = 404;
pub(crate) const PRECONDITION_FAILED: u16 = 406;

/// The reply code and text of an error with which the broker closed a channel or connection.
pub(crate) fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) => Some((amqp.get_id(), amqp.get_message().to_string())),
        _ => None,
    }
}

/// A publish that was not confirmed. Only [`PublishError::Unconfirmed`], [`PublishError::Refused`] and
/// [`PublishError::Blocked`] leave open whether the message is stored; send it again under the same `message_id`.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for the key and the exchange has no alternate: the message is not stored.
    #[error("exchange {exchange} has no queue for the routing key {key:?}: is the topology declared?")]
    Unroutable {
        /// Exchange of the message.
        exchange: String,
        /// Its routing key.
        key: String,
    },
    /// A queue refused the message (it is full, or its leader is away). Another queue bound to the key may have it.
    #[error("a queue behind exchange {exchange}, key {key:?}, refused the message: it is full or has no leader")]
    Refused {
        /// Exchange of the message.
        exchange: String,
        /// Its routing key.
        key: String,
    },
    /// The broker closed the channel over this message: it is not stored, and sending it again will not help.
    #[error("the broker does not take the message for exchange {exchange}: {reply}")]
    Rejected {
        /// Exchange of the message.
        exchange: String,
        /// The broker's own words, such as "NOT_FOUND - no exchange 'jobs.live' in vhost '/'".
        reply: String,
    },
    /// No answer. It is unknown whether the message is stored: send it again under the same `message_id`.
    #[error("exchange {exchange} did not confirm the message ({reason}): unknown whether it is stored")]
    Unconfirmed {
        /// Exchange of the message.
        exchange: String,
        /// How the wait ended.
        reason: String,
    },
    /// The broker has a memory or disk alarm and holds publishers back. It may take the message when the alarm ends.
    #[error("the broker holds publishers back (memory or disk alarm), exchange {exchange}")]
    Blocked {
        /// Exchange of the message.
        exchange: String,
    },
    /// There was no connection or no room before the deadline: the message was never sent.
    #[error("the message for exchange {exchange} was not sent")]
    NotSent {
        /// Exchange of the message.
        exchange: String,
        /// Why not.
        #[source]
        source: Box<BrokerError>,
    },
}

impl PublishError {
    /// Whether the same message may succeed later. False when the message or the topology has to change first.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            PublishError::Refused { .. }
            | PublishError::Unconfirmed { .. }
            | PublishError::Blocked { .. }
            | PublishError::NotSent { .. } => true,
            PublishError::Unroutable { .. } | PublishError::Rejected { .. } => false,
        }
    }
}
