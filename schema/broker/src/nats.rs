//! Signals over NATS: JSON, core NATS only, nothing durable depends on one arriving.
//!
//! Invariant: an undecodable signal is counted and skipped, never a panic and never an end of a subscription. Nothing
//! is sent while the connection is down: a signal delivered late says what is no longer so.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, RequestErrorKind, ServerAddr, Subscriber};
use ffpool_schema::percent;
use ffpool_schema::subjects::inbox;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use crate::error::BrokerError;

/// Notices a server that is gone after two of these.
const PING: Duration = Duration::from_secs(10);
/// A signal that cannot be handed to the client in this time is dropped.
const PUBLISH: Duration = Duration::from_secs(1);
/// For the start of one connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Added to what the client says of a link with TLS.
const TLS_HINT: &str = " (if the server runs: one side may not trust the other's certificate, or it has expired; the log of NATS \
    says which)";

/// What a server of NATS says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// Its version, such as `2.10.27`.
    pub version: String,
    /// Bytes of the largest message that it takes.
    pub max_payload: usize,
}

/// The NATS connection of a process. Clones share it.
#[derive(Clone)]
pub struct Signals {
    client: Client,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    undecodable: AtomicU64,
    dropped_slow: AtomicU64,
    /// Why there is no connection, as the client said it last.
    last_error: Mutex<Option<String>>,
    /// What else may be the matter: of what TLS did not like the client (async-nats 0.51) says only "IO error".
    hint: &'static str,
}

/// A signal that was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The value cannot be written as JSON.
    #[error("encode a signal for {subject}")]
    Encode {
        /// Where it should have gone.
        subject: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// There is no connection, or it takes nothing.
    #[error("no connection to NATS for {subject}: {reason}")]
    Link {
        /// Where it should have gone.
        subject: String,
        /// What the client says.
        reason: String,
    },
}

/// A question without an answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves the subject.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// The subject asked.
        subject: String,
    },
    /// Somebody serves the subject but did not answer in time.
    #[error("no answer on {subject} within {within:?}")]
    Timeout {
        /// The subject asked.
        subject: String,
        /// How long the answer was waited for.
        within: Duration,
    },
    /// The answer is not what was expected.
    #[error("the answer on {subject} cannot be read")]
    Decode {
        /// The subject asked.
        subject: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The question could not be sent.
    #[error("cannot ask on {subject}: {reason}")]
    Link {
        /// The subject asked.
        subject: String,
        /// What the client says.
        reason: String,
    },
}

impl Signals {
    /// Starts to connect and returns at once; reconnects for ever. `url` may list several servers, with commas. For TLS it is
    /// `tls://…`, and its query may name files (PEM), as for RabbitMQ: `cacertfile` with the only authorities to trust, and
    /// `certfile` and `keyfile` to show. A link with TLS goes to these servers only, not to others that they tell of.
    ///
    /// # Errors
    /// When the URL cannot be used, mixes servers with and without TLS, or names a file that cannot be read.
    pub async fn open(url: &str, name: &str) -> Result<Signals, BrokerError> {
        let Way { servers, options, is_secured } = way(url)?;
        let hint = if is_secured { TLS_HINT } else { "" };
        let counts = Arc::new(Counts { hint, ..Counts::default() });
        let for_events = counts.clone();
        let client = with_credentials(options, &servers)
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .event_callback(move |event| {
                let counts = for_events.clone();
                async move { report(&event, &counts) }
            })
            .connect(servers)
            .await
            .map_err(|error| BrokerError::Nats { source: error.into() })?;
        Ok(Signals { client, counts })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// What the server says of itself, once connected.
    #[must_use]
    pub fn server(&self) -> Option<NatsServer> {
        let info = self.client.try_server_info().filter(|info| !info.version.is_empty())?;
        Some(NatsServer { version: info.version, max_payload: info.max_payload })
    }

    /// Why there is no connection, as it was said last.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.counts.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were made so far: more than one is a server that was away.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How many signals could not be decoded so far.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.counts.undecodable.load(Ordering::Relaxed)
    }

    /// How many times the client dropped signals because a subscription was read too slowly.
    #[must_use]
    pub fn dropped_slow(&self) -> u64 {
        self.counts.dropped_slow.load(Ordering::Relaxed)
    }

    /// Sends a signal. `Ok` means that it was handed to the connection, not that anybody heard it.
    ///
    /// # Errors
    /// [`SignalError::Link`] at once when there is no connection.
    pub async fn publish<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> Result<(), SignalError> {
        let payload =
            serde_json::to_vec(value).map_err(|source| SignalError::Encode { subject: subject.to_owned(), source })?;
        self.send(subject, payload).await
    }

    async fn send(&self, subject: &str, payload: Vec<u8>) -> Result<(), SignalError> {
        let link = |reason: String| SignalError::Link { subject: subject.to_owned(), reason };
        if !self.is_up() {
            return Err(link("the connection is down".into()));
        }
        match tokio::time::timeout(PUBLISH, self.client.publish(subject.to_owned(), payload.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(link(error.to_string())),
            Err(_) => Err(link(format!("the connection took nothing within {PUBLISH:?}"))),
        }
    }

    /// Waits until what was published has been written to the connection, as before the process ends.
    ///
    /// # Errors
    /// [`SignalError::Link`] when that takes longer than `within`.
    pub async fn flush(&self, within: Duration) -> Result<(), SignalError> {
        let link = |reason: String| SignalError::Link { subject: "(flush)".into(), reason };
        match tokio::time::timeout(within, self.client.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(link(error.to_string())),
            Err(_) => Err(link(format!("not written within {within:?}"))),
        }
    }

    /// Waits until the server has dealt with all that was sent to it before, subscriptions among it: it deals with the
    /// commands of a connection in their order, and the last of them comes back.
    ///
    /// # Errors
    /// [`SignalError::Link`] when there is no connection, or that takes longer than `within`.
    pub async fn round_trip(&self, within: Duration) -> Result<(), SignalError> {
        let subject = self.client.new_inbox();
        let mut echo = self.subscribe::<()>(&subject).await?;
        self.publish(&subject, &()).await?;
        match tokio::time::timeout(within, echo.next()).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(SignalError::Link { subject, reason: "the connection is closed".into() }),
            Err(_) => Err(SignalError::Link { subject, reason: format!("nothing came back within {within:?}") }),
        }
    }

    /// Asks a question and waits for one answer.
    ///
    /// # Errors
    /// See [`RequestError`]; [`RequestError::NoResponders`] comes back at once.
    pub async fn request<Q, A>(&self, subject: &str, question: &Q, within: Duration) -> Result<A, RequestError>
    where
        Q: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        let link = |reason: String| RequestError::Link { subject: subject.to_owned(), reason };
        let late = || RequestError::Timeout { subject: subject.to_owned(), within };
        if !self.is_up() {
            return Err(link("the connection is down".into()));
        }
        let payload = serde_json::to_vec(question).map_err(|error| link(error.to_string()))?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(within));
        // The client's own time-out does not cover a connection that takes nothing.
        let answer = tokio::time::timeout(within, self.client.send_request(subject.to_owned(), request));
        let answer = answer.await.map_err(|_| late())?.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => RequestError::NoResponders { subject: subject.to_owned() },
            RequestErrorKind::TimedOut => late(),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                link(error.to_string())
            }
        })?;
        serde_json::from_slice(&answer.payload)
            .map_err(|source| RequestError::Decode { subject: subject.to_owned(), source })
    }

    /// Hears every signal on `subject`.
    ///
    /// # Errors
    /// When the subject is not one.
    pub async fn subscribe<T: DeserializeOwned>(&self, subject: &str) -> Result<Subscription<T>, SignalError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await;
        self.subscription(subject, subscriber)
    }

    /// Shares the signals on `subject` among all subscribers of the same `group`.
    ///
    /// # Errors
    /// When the subject is not one.
    pub async fn queue_subscribe<T: DeserializeOwned>(
        &self,
        subject: &str,
        group: &str,
    ) -> Result<Subscription<T>, SignalError> {
        let subscriber = self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await;
        self.subscription(subject, subscriber)
    }

    /// Answers questions on `subject`, shared among all that serve it in the same `group`.
    ///
    /// # Errors
    /// When the subject is not one.
    pub async fn serve<T: DeserializeOwned>(
        &self,
        subject: &str,
        group: &str,
    ) -> Result<Subscription<Request<T>>, SignalError> {
        let subscriber = self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await;
        let inner = self.subscription::<T, _>(subject, subscriber)?;
        Ok(Subscription { subscriber: inner.subscriber, signals: inner.signals, kind: PhantomData })
    }

    fn subscription<T, E: std::fmt::Display>(
        &self,
        subject: &str,
        subscriber: Result<Subscriber, E>,
    ) -> Result<Subscription<T>, SignalError> {
        let subscriber =
            subscriber.map_err(|error| SignalError::Link { subject: subject.to_owned(), reason: error.to_string() })?;
        Ok(Subscription { subscriber, signals: self.clone(), kind: PhantomData })
    }

    /// Reads a signal; an unreadable one is counted.
    fn decode<T: DeserializeOwned>(&self, message: &async_nats::Message) -> Option<T> {
        match serde_json::from_slice(&message.payload) {
            Ok(value) => Some(value),
            Err(error) => {
                self.counts.undecodable.fetch_add(1, Ordering::Relaxed);
                debug!(subject = %message.subject, %error, "an undecodable signal was skipped");
                None
            }
        }
    }
}

/// Signals that arrive. Dropping it unsubscribes.
pub struct Subscription<T> {
    subscriber: Subscriber,
    signals: Signals,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    /// The next signal that can be decoded. `None` only when the connection was closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        self.next_on().await.map(|(_, value)| value)
    }

    /// The next signal with the subject it came on, for subscriptions with wildcards. Cancel-safe.
    pub async fn next_on(&mut self) -> Option<(String, T)> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(value) = self.signals.decode(&message) {
                return Some((message.subject.to_string(), value));
            }
        }
    }
}

impl<T: DeserializeOwned> Subscription<Request<T>> {
    /// Wants no more questions: others of its group get them. Those on their way still come, and then `None`; without a
    /// connection that `None` may not come.
    pub async fn drain(&mut self) {
        if let Err(error) = self.subscriber.drain().await {
            debug!(%error, "a subscription was not drained");
        }
    }

    /// The next question that can be decoded. `None` only when the connection was closed for good. Cancel-safe.
    pub async fn next_request(&mut self) -> Option<Request<T>> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(value) = self.signals.decode(&message) {
                let (subject, reply) = (message.subject.to_string(), message.reply.map(|reply| reply.to_string()));
                return Some(Request { value, subject, reply, signals: self.signals.clone() });
            }
        }
    }
}

/// A question that waits for an answer.
pub struct Request<T> {
    /// What is asked.
    pub value: T,
    /// The subject it came on.
    pub subject: String,
    reply: Option<String>,
    signals: Signals,
}

impl<T> Request<T> {
    /// Answers. A question nobody waits for (published, not requested) is answered by doing nothing.
    ///
    /// # Errors
    /// [`SignalError::Link`] when there is no connection; the asker runs into its time-out.
    pub async fn answer<A: Serialize + ?Sized>(&self, answer: &A) -> Result<(), SignalError> {
        match &self.reply {
            Some(reply) => self.signals.publish(reply, answer).await,
            None => Ok(()),
        }
    }
}

/// The servers of an address, and how to connect to them.
struct Way {
    servers: Vec<ServerAddr>,
    options: ConnectOptions,
    /// Whether nothing is said to a server before TLS stands.
    is_secured: bool,
}

/// Takes what concerns TLS out of an address. One file of each kind for all servers.
fn way(url: &str) -> Result<Way, BrokerError> {
    let file = |name: &str| file_in(url, name);
    let servers = url
        .split(',')
        .map(|server| server.split('?').next().unwrap_or(server).trim().parse::<ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| BrokerError::Nats { source: error.into() })?;
    let with_tls = servers.iter().filter(|server| server.tls_required()).count();
    if with_tls != 0 && with_tls != servers.len() {
        return Err(BrokerError::Url { reason: "tls:// is said of some servers only: say it of all of them".into() });
    }
    let mut is_secured = with_tls != 0;
    let mut options = ConnectOptions::new();
    if let Some(authority) = file("cacertfile")? {
        options = options.add_root_certificates(authority);
        is_secured = true;
    }
    match (file("certfile")?, file("keyfile")?) {
        (Some(certificate), Some(key)) => {
            options = options.add_client_certificate(certificate, key);
            is_secured = true;
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return Err(BrokerError::Url { reason: "certfile and keyfile go together".into() });
        }
    }
    if is_secured {
        // Of other servers the client (async-nats 0.51) learns before TLS stands, so anybody on the way may name some: it
        // would call them without TLS, and give them the password.
        options = options.require_tls(true).ignore_discovered_servers();
    }
    Ok(Way { servers, options, is_secured })
}

/// The file that an address names under `name`; it must be readable now.
fn file_in(url: &str, name: &str) -> Result<Option<PathBuf>, BrokerError> {
    let pairs = url.split(',').filter_map(|server| server.split_once('?')).flat_map(|(_, query)| query.split('&'));
    let Some(path) =
        pairs.filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| (key == name).then_some(value))
    else {
        return Ok(None);
    };
    let path = PathBuf::from(percent::decoded(path));
    match std::fs::File::open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(BrokerError::Url { reason: format!("{name}={}: {error}", path.display()) }),
    }
}

/// Takes the credentials out of the first address that has some: the client itself (async-nats 0.51) ignores them there.
/// A name without a password is a token, as in every NATS client.
fn with_credentials(options: ConnectOptions, servers: &[ServerAddr]) -> ConnectOptions {
    let Some((user, server)) = servers.iter().find_map(|server| Some((server.username()?, server))) else {
        return options;
    };
    match server.password() {
        Some(password) => {
            let user = percent::decoded(user);
            // The server may let this login hear its own answers only.
            let options = options.custom_inbox_prefix(inbox(Some(&user)));
            options.user_and_password(user, percent::decoded(password))
        }
        None => options.token(percent::decoded(user)),
    }
}

fn report(event: &Event, counts: &Counts) {
    match event {
        Event::Connected => {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            counts.last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
            info!("connected to NATS");
        }
        Event::Disconnected => warn!("NATS connection lost, reconnecting"),
        Event::SlowConsumer(subscription) => {
            counts.dropped_slow.fetch_add(1, Ordering::Relaxed);
            warn!(subscription, "signals were dropped: a subscription is read too slowly");
        }
        Event::ServerError(error) => warn!(%error, "NATS server error"),
        // Once, not with every attempt: a server that is away, a certificate that is not trusted.
        Event::ClientError(error) => {
            let text = format!("{error}{}", counts.hint);
            let mut last = counts.last_error.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_deref() == Some(text.as_str()) {
                debug!(%error, "still no connection to NATS");
            } else {
                warn!(error = text, "no connection to NATS, trying again");
                *last = Some(text);
            }
        }
        Event::LameDuckMode => info!("the NATS server is shutting down"),
        Event::Draining | Event::Closed => debug!(%event, "NATS connection closing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_an_address_names_has_to_be_there() {
        let said = |url: &str| way(url).err().unwrap().to_string();
        assert!(said("tls://h?cacertfile=%2Fno%20such.pem").contains("/no such.pem"));
        let own = std::env::current_exe().unwrap();
        assert!(said(&format!("tls://a,tls://b?certfile={}", own.display())).contains("go together"));
    }

    #[test]
    fn all_servers_of_an_address_have_tls_or_none() {
        for (url, is_secured) in [("nats://u:p@a:1,b", false), ("tls://a, tls://b?x=y", true), ("TLS://a", true)] {
            assert_eq!(way(url).unwrap().is_secured, is_secured, "{url}");
        }
        for mixed in ["tls://u:p@a,nats://b", "tls://a,b"] {
            assert!(way(mixed).err().unwrap().to_string().contains("all of them"), "{mixed}");
        }
    }

    /// Asks a listener what a client says to a server that wants credentials.
    #[tokio::test]
    async fn credentials_of_an_address_reach_the_server() {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://pool:p%40ss@{}", listener.local_addr().unwrap());
        let _signals = Signals::open(&url, "test").await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let info = r#"INFO {"server_id":"x","version":"2.10.0","host":"h","port":1,"max_payload":1024,"proto":1,"auth_required":true}"#;
        socket.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        let mut connect = String::new();
        BufReader::new(socket).read_line(&mut connect).await.unwrap();
        assert!(connect.contains(r#""user":"pool","pass":"p@ss""#), "{connect}");
    }
}
