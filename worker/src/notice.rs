//! Notices of the cloud that this machine is about to be taken away, and what the worker makes of them.
//!
//! Each provider is a `Source` that is asked again and again ([`Lookout`]); [`leave`] sorts what runs by what still
//! fits before the deadline ([`fit`]) and hands back the rest through the stages of [`crate::drain`].
//!
//! Invariant: nothing that a metadata service answers, or fails to answer, stops the worker, except a notice that is
//! understood from end to end.

mod ask;
mod aws;
mod azure;
mod find;
pub mod fit;
mod gcp;
pub mod leave;
mod settings;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ffpool_runtime::settings::chain;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

pub use self::ask::AskError;
use self::ask::Metadata;
use self::aws::Aws;
use self::azure::Azure;
use self::gcp::Gcp;
pub use self::settings::{Eviction, EvictionArgs, EvictionUrl};

/// Notices on their way to whoever heeds them. A source that finds no room waits: it has nothing newer to say.
const NOTICES: usize = 16;
/// For everything that is said to a provider when the worker has drained: the machine may go at any moment.
const FAREWELL: Duration = Duration::from_secs(3);

/// Whose machine this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Amazon EC2.
    Aws,
    /// Google Compute Engine.
    Gcp,
    /// Microsoft Azure.
    Azure,
}

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 3] = [Provider::Aws, Provider::Gcp, Provider::Azure];

    /// The name as it stands in settings and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Aws => "aws",
            Provider::Gcp => "gcp",
            Provider::Azure => "azure",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a provider announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who says so.
    pub provider: Provider,
    /// What is to happen.
    pub kind: Kind,
    /// What the provider said, in words. The same notice read again has the same words.
    pub evidence: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Evict { .. } => "eviction notice",
            Kind::Rebalance => "advice to rebalance",
        };
        write!(f, "{what} from {}: {}", self.provider, self.evidence)
    }
}

/// What is to happen to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is taken away.
    Evict {
        /// When, at the earliest.
        deadline: Timestamp,
    },
    /// It is more likely than others to be taken away: take no more work, keep what runs.
    Rebalance,
}

type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, AskError>> + Send + 'a>>;

/// One thing that announces evictions.
trait Source: Send {
    /// Who it is, in logs.
    fn name(&self) -> &'static str;
    /// Between two looks.
    fn pause(&self) -> Duration;
    /// Looks once, and answers what is announced now. May wait until there is news. A look may be abandoned half-way.
    fn look(&mut self) -> Asked<'_, Vec<Notice>>;
    /// Says to the provider that the machine may be taken now.
    fn let_go(&mut self) -> Asked<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// What those who watch for notices are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Look.
    Go,
    /// No more looks.
    End,
    /// No more looks, and the provider may take the machine.
    LetGo,
}

/// Watches for notices in the background, from its start until it is dropped or ended.
pub struct Lookout {
    notices: mpsc::Receiver<Notice>,
    watch: watch::Sender<Watch>,
    watchers: JoinSet<()>,
}

impl Lookout {
    /// Begins to watch. Nothing that the network does delays the caller.
    #[must_use]
    pub fn start(eviction: Eviction) -> Lookout {
        let (sender, notices) = mpsc::channel(NOTICES);
        let watch = watch::Sender::new(Watch::Go);
        let following = watch.subscribe();
        let mut watchers = JoinSet::new();
        watchers.spawn(async move {
            let mut ends = following.clone();
            let found = tokio::select! {
                found = sources_of(&eviction) => found,
                _ = ends.wait_for(|watch| *watch != Watch::Go) => return,
            };
            let mut sources = JoinSet::new();
            for source in found {
                sources.spawn(keep_looking(source, sender.clone(), following.clone()));
            }
            sources.join_all().await;
        });
        Lookout { notices, watch, watchers }
    }

    /// The next notice; the same one may come again. Waits for ever when nothing can be announced here.
    pub async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }

    /// Ends the watch. With `may_go`, tells the provider that it need not wait for this machine any longer.
    pub async fn end(mut self, may_go: bool) {
        self.watch.send_replace(if may_go { Watch::LetGo } else { Watch::End });
        // Nobody may wait for room any more.
        self.notices.close();
        let ended = async { while self.watchers.join_next().await.is_some() {} };
        if timeout(FAREWELL, ended).await.is_err() {
            info!("the metadata service does not answer in time, leaving without a farewell");
        }
    }
}

/// The sources to ask on this machine.
async fn sources_of(eviction: &Eviction) -> Vec<Box<dyn Source>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for provider in find::providers(eviction).await {
        let opened = Metadata::open(&eviction.url(provider)).map(|metadata| match provider {
            Provider::Aws => vec![Box::new(Aws::new(metadata, eviction.pause(provider))) as Box<dyn Source>],
            Provider::Gcp => {
                let boxed = |gcp: Gcp| Box::new(gcp) as Box<dyn Source>;
                let pause = eviction.pause(provider);
                vec![boxed(Gcp::preempted(metadata.clone(), pause)), boxed(Gcp::maintenance(metadata, pause))]
            }
            Provider::Azure => {
                vec![Box::new(Azure::new(metadata, eviction.pause(provider), eviction.acknowledge)) as Box<dyn Source>]
            }
        });
        match opened {
            Ok(opened) => sources.extend(opened),
            Err(error) => warn!(%provider, error = chain(&error), "eviction notices of this provider are not heard"),
        }
    }
    sources
}

/// Looks until the watch ends. The first failure in a row is told, and so is its end.
async fn keep_looking(mut source: Box<dyn Source>, notices: mpsc::Sender<Notice>, mut watch: watch::Receiver<Watch>) {
    let mut failing = false;
    let looking = async {
        loop {
            match source.look().await {
                Ok(found) => {
                    if std::mem::take(&mut failing) {
                        info!(source = source.name(), "eviction notices can be heard again");
                    }
                    for notice in found {
                        if notices.send(notice).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) if failing => debug!(source = source.name(), error = chain(&error), "still no answer"),
                Err(error) => {
                    failing = true;
                    warn!(
                        source = source.name(),
                        error = chain(&error),
                        "eviction notices cannot be heard, trying again"
                    );
                }
            }
            sleep(source.pause()).await;
        }
    };
    let end = tokio::select! {
        end = watch.wait_for(|watch| *watch != Watch::Go) => end.map_or(Watch::End, |watch| *watch),
        () = looking => Watch::End,
    };
    if end == Watch::LetGo
        && let Err(error) = source.let_go().await
    {
        info!(source = source.name(), error = chain(&error), "the provider was not told that the machine may go");
    }
}
