//! One supervised AMQP connection: a task of its own connects, watches and reconnects for ever.
//!
//! lapin's automatic recovery stays off: it hung for ever in 5 of 25 broker exits (measured, lapin 4.12.3). Here a
//! connection that fails is dropped whole, and whoever used it asks the link for a channel on the next one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{Fuse, FusedFuture};
use futures_util::{FutureExt, StreamExt};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::channels::AmqpChannel;
use crate::deadline::{ANSWER, CLOSE, CONNECT, within};
use crate::error::BrokerError;
use crate::{probe, transport};

/// First pause after a failed connection attempt; it doubles up to [`BACKOFF_MAX`], with jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next pause starts at the minimum again.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// How often the supervisor looks at the connection's status; its event may never come.
const LOOK: Duration = Duration::from_secs(1);
/// How often a round trip proves that the connection's I/O loop is alive.
const PULSE: Duration = Duration::from_secs(5);
/// So many pulses in a row must fail before the connection is given up.
const PULSES_FAILED_MAX: u32 = 2;
/// A new channel takes the number of one that has ended. When the broker's word on that one is handled late it ends the new
/// channel's opening (seen with lapin 4.12 under load, as a 404 that named a queue); another number is free of it.
const OPEN_TRIES: u32 = 3;

/// Where and as whom to connect.
#[derive(Clone)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost` or `amqps://…`. For TLS the query may name files as RabbitMQ's own
    /// clients do: `cacertfile`, `certfile`, `keyfile` (PEM), and `auth_mechanism=external` for login by certificate.
    pub url: String,
    /// The connection's name in `rabbitmqctl list_connections`.
    pub name: String,
    /// Heartbeat interval; a dead peer is noticed after twice this time. In whole seconds on the wire.
    pub heartbeat: Duration,
}

impl AmqpConfig {
    /// The usual configuration: a heartbeat every 10 s.
    #[must_use]
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> AmqpConfig {
        AmqpConfig { url: url.into(), name: name.into(), heartbeat: Duration::from_secs(10) }
    }

    /// The user as whom the URL logs in, which the broker wants to see in `user_id`. A login by certificate does not say.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        let uri: AMQPUri = self.url.parse().ok()?;
        let by_certificate = uri.query.auth_mechanism.is_some_and(|mechanism| mechanism == SASLMechanism::External);
        (!by_certificate).then_some(uri.authority.userinfo.username)
    }
}

impl std::fmt::Debug for AmqpConfig {
    /// Without the URL's password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, place)| place);
        f.debug_struct("AmqpConfig").field("place", &place).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is known of a link at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Counts the connections of this link: 0 before the first one.
    pub generation: u64,
    /// Whether the connection stands.
    pub up: bool,
    /// Whether the broker holds back publishers on it (memory or disk alarm).
    pub blocked: bool,
    /// Version of the broker last connected to.
    pub server_version: Option<String>,
    /// Why the last connection, or the last attempt, ended.
    pub last_error: Option<String>,
}

/// A connection that stands, or stood.
pub(crate) struct Live {
    connection: Connection,
    pub(crate) generation: u64,
    /// Cancelled by the supervisor when the connection is gone.
    pub(crate) dead: CancellationToken,
    /// Notified when any channel of the connection failed.
    pub(crate) trouble: Notify,
}

impl Live {
    pub(crate) fn is_up(&self) -> bool {
        !self.dead.is_cancelled() && self.connection.status().connected()
    }
}

struct Shared {
    config: AmqpConfig,
    /// Written by the supervisor only.
    state: watch::Sender<LinkState>,
    /// Written by the supervisor only.
    live: Mutex<Option<Arc<Live>>>,
    stop: CancellationToken,
}

/// Stops the supervisor when the last clone of the link is dropped.
struct Owner {
    stop: CancellationToken,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One supervised connection to RabbitMQ. Clones share it; dropping the last clone closes it.
#[derive(Clone)]
pub struct AmqpLink {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

impl AmqpLink {
    /// Starts the supervisor and returns at once. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn open(config: AmqpConfig) -> AmqpLink {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            config,
            state: watch::Sender::new(LinkState::default()),
            live: Mutex::new(None),
            stop: stop.clone(),
        });
        let supervisor = tokio::spawn(supervise(shared.clone()));
        AmqpLink { shared, owner: Arc::new(Owner { stop, supervisor: Mutex::new(Some(supervisor)) }) }
    }

    /// Waits until the connection stands.
    ///
    /// # Errors
    /// [`BrokerError::Down`] with the reason of the last failed attempt.
    pub async fn connected(&self, bound: Duration) -> Result<(), BrokerError> {
        let mut state = self.watch();
        let up = tokio::time::timeout(bound, state.wait_for(|s| s.up)).await;
        match up {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.down()),
        }
    }

    /// Whether the connection stands now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live().is_some_and(|live| live.is_up())
    }

    /// Whether the broker holds back publishers on this connection.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.live().is_some_and(|live| live.connection.status().blocked())
    }

    /// Counts the connections so far.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.state.borrow().generation
    }

    /// Follows the link's state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// The version of the broker last connected to, such as `4.0.5`.
    #[must_use]
    pub fn server_version(&self) -> Option<String> {
        self.shared.state.borrow().server_version.clone()
    }

    /// The name under which the broker lists the connection.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Opens a channel on the present connection.
    ///
    /// # Errors
    /// [`BrokerError::Down`] when there is none: this never waits for a reconnect.
    pub async fn channel(&self) -> Result<AmqpChannel, BrokerError> {
        let mut tries = 0;
        loop {
            let live = self.live().filter(|live| live.is_up()).ok_or_else(|| self.down())?;
            tries += 1;
            match within(ANSWER, || "open a channel".into(), live.connection.create_channel()).await {
                Ok(channel) => return Ok(AmqpChannel::new(channel, live)),
                Err(error) if error.is_a_reply() && tries < OPEN_TRIES => {
                    debug!(%error, "the end of an earlier channel was taken for this one's");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes the connection for good and waits for it. Clones of the link are down from now on.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let supervisor = self.owner.supervisor.lock().expect("no holder panics").take();
        if let Some(supervisor) = supervisor {
            // The supervisor's own good-byes are bounded.
            let _ = supervisor.await;
        }
    }

    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.shared.live.lock().expect("no holder panics").clone()
    }

    fn down(&self) -> BrokerError {
        BrokerError::Down { last_error: self.shared.state.borrow().last_error.clone() }
    }
}

/// Connects, watches, reconnects, until told to stop.
async fn supervise(shared: Arc<Shared>) {
    let mut backoff = BACKOFF_MIN;
    // The broker logs a warning for each probe, and its version changes only while it is away.
    let mut ask_version = true;
    while !shared.stop.is_cancelled() {
        let attempt = tokio::select! {
            () = shared.stop.cancelled() => break,
            attempt = connect(&shared, ask_version) => attempt,
        };
        match attempt {
            Ok(live) => {
                ask_version = false;
                let since = Instant::now();
                let reason = attend(&shared, &live).await;
                let stopped = shared.stop.is_cancelled();
                retire(&shared, &live, reason).await;
                if stopped {
                    break;
                }
                if since.elapsed() >= LIVED_WELL {
                    backoff = BACKOFF_MIN;
                }
            }
            Err(error) => {
                ask_version = true;
                report_failure(&shared, &error);
            }
        }
        let pause = backoff.mul_f64(rand::random_range(0.5..1.0));
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    shared.state.send_modify(|state| {
        state.up = false;
        state.last_error = Some("the link was closed".into());
    });
}

/// Connects once and publishes the new connection.
async fn connect(shared: &Shared, ask_version: bool) -> Result<Arc<Live>, BrokerError> {
    let name = &shared.config.name;
    let (uri, tls) = place(&shared.config)?;
    let properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
    let (probe_uri, probe_tls) = place(&shared.config)?;
    let connecting = transport::connect(uri, properties, tls);
    let (connection, version) =
        tokio::join!(within(CONNECT, || "connect to the AMQP broker".into(), connecting), async {
            if ask_version { probe::server_version(&probe_uri, &probe_tls).await } else { None }
        },);
    let connection = connection?;

    let generation = shared.state.borrow().generation + 1;
    let live = Arc::new(Live { connection, generation, dead: CancellationToken::new(), trouble: Notify::new() });
    *shared.live.lock().expect("no holder panics") = Some(live.clone());
    shared.state.send_modify(|state| {
        state.generation = generation;
        state.up = true;
        state.blocked = false;
        // Not asked, or no answer: nothing new.
        state.server_version = version.or(state.server_version.take());
    });
    info!(link = %name, generation, version = shared.state.borrow().server_version, "connected to the AMQP broker");
    Ok(live)
}

/// Watches a connection until it is gone or the link is told to stop. Answers why it ended.
async fn attend(shared: &Shared, live: &Live) -> String {
    let mut events = Box::pin(live.connection.events_listener());
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulses = tokio::time::interval(PULSE);
    pulses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = std::pin::pin!(Fuse::terminated());
    let mut pulses_failed = 0;
    let mut reason = String::from("the connection was lost");
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return "the link was closed".into(),
            event = events.next() => match event {
                Some(lapin::Event::Error(error)) => {
                    live.trouble.notify_waiters();
                    reason = error.to_string();
                }
                Some(lapin::Event::ConnectionBlocked(why)) => {
                    warn!(link = %shared.config.name, %why, "the broker holds publishers back");
                    shared.state.send_modify(|state| state.blocked = true);
                }
                Some(lapin::Event::ConnectionUnblocked) => {
                    info!(link = %shared.config.name, "the broker takes messages again");
                    shared.state.send_modify(|state| state.blocked = false);
                }
                // An event of a later lapin, or connected, or flow: nothing follows from it here.
                Some(_) => {}
                None => return reason,
            },
            _ = looks.tick() => {}
            // A blocked connection writes nothing at all, so no answer would come.
            _ = pulses.tick() => if answer.is_terminated() && !live.connection.status().blocked() {
                answer.set(pulse(live).fuse());
            },
            answered = &mut answer => pulses_failed = if answered { 0 } else { pulses_failed + 1 },
        }
        if !live.connection.status().connected() {
            return reason;
        }
        if pulses_failed >= PULSES_FAILED_MAX {
            return "the connection stopped answering".into();
        }
    }
}

/// One round trip: opens and closes a channel. Being out of channels is an answer too.
async fn pulse(live: &Live) -> bool {
    let round_trip = async {
        let channel = live.connection.create_channel().await?;
        channel.close(200, "pulse".into()).await
    };
    match tokio::time::timeout(ANSWER, round_trip).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached),
        Err(_) => false,
    }
}

/// Marks a connection as gone, so that everything on it counts as lost, and says good-bye.
async fn retire(shared: &Shared, live: &Live, reason: String) {
    *shared.live.lock().expect("no holder panics") = None;
    live.dead.cancel();
    live.trouble.notify_waiters();
    warn_or_note(shared, &reason);
    shared.state.send_modify(|state| {
        state.up = false;
        state.blocked = false;
        state.last_error = Some(reason);
    });
    if live.connection.status().connected() {
        let good_bye = async {
            // lapin closes a dropped channel some time later, and logs an error if the connection is closed by then.
            // The answer to a round trip comes after those to the channels dropped before it.
            if shared.stop.is_cancelled() {
                pulse(live).await;
            }
            live.connection.close(200, "closed".into()).await
        };
        let _ = tokio::time::timeout(CLOSE, good_bye).await;
    }
}

fn warn_or_note(shared: &Shared, reason: &str) {
    if shared.stop.is_cancelled() {
        debug!(link = %shared.config.name, "AMQP link closed");
    } else {
        warn!(link = %shared.config.name, %reason, "AMQP link lost, reconnecting");
    }
}

/// Says a failure once, not with every attempt.
fn report_failure(shared: &Shared, error: &BrokerError) {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let repeated = shared.state.borrow().last_error.as_deref() == Some(text.as_str());
    if repeated {
        debug!(link = %shared.config.name, error = %text, "still no connection to the AMQP broker");
    } else {
        warn!(link = %shared.config.name, error = %text, "no connection to the AMQP broker, trying again");
        shared.state.send_modify(|state| state.last_error = Some(text));
    }
}

/// Where to connect, read from the URL.
pub(crate) fn place(config: &AmqpConfig) -> Result<(AMQPUri, OwnedTLSConfig), BrokerError> {
    let mut uri: AMQPUri = config.url.parse().map_err(|reason| BrokerError::Url { reason })?;
    uri.query.heartbeat = Some(u16::try_from(config.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
    let certificate = file_of(&config.url, "certfile")?;
    let key = file_of(&config.url, "keyfile")?;
    let identity = match (certificate, key) {
        (Some(pem), Some(key)) => Some(OwnedIdentity::PKCS8 { pem: pem.into_bytes(), key: key.into_bytes() }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(BrokerError::Url { reason: "certfile and keyfile go together".into() });
        }
    };
    Ok((uri, OwnedTLSConfig { identity, cert_chain: file_of(&config.url, "cacertfile")? }))
}

/// Reads the file that the URL's query names under `key`.
fn file_of(url: &str, key: &str) -> Result<Option<String>, BrokerError> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let Some(path) =
        query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(k, v)| (k == key).then_some(v))
    else {
        return Ok(None);
    };
    let path = path.replace("%2F", "/").replace("%2f", "/");
    std::fs::read_to_string(&path)
        .map(Some)
        .map_err(|error| BrokerError::Url { reason: format!("{key}={path}: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_printed_without_its_password() {
        let shown = format!("{:?}", AmqpConfig::new("amqp://ff:s3cret@broker:5672/%2f", "worker"));
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("broker:5672"), "{shown}");
    }

    #[test]
    fn the_user_is_the_urls_unless_a_certificate_says_who_it_is() {
        let user = |url: &str| AmqpConfig::new(url, "x").user();
        assert_eq!(user("amqp://a%20b:s3cret@broker/%2f").as_deref(), Some("a b"));
        assert_eq!(user("amqp://broker/%2f").as_deref(), Some("guest"), "as the client logs in");
        assert_eq!(user("amqps://ff:x@broker/%2f?auth_mechanism=external"), None);
        assert_eq!(user("http://broker"), None);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let file = std::env::current_exe().unwrap();
        let url = format!("amqps://broker/%2f?certfile={}", file.parent().unwrap().join("absent.pem").display());
        let refused = place(&AmqpConfig::new(url, "worker")).unwrap_err().to_string();
        assert!(refused.contains("absent.pem"), "{refused}");
    }
}
