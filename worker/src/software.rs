//! FFmpeg and its software encoders on this worker: tried when it starts, and again and again, because what they are made of
//! may be replaced or go away under a worker that runs for months.
//!
//! Invariant: an encoder that is offered has encoded a frame at the last look; what two looks in a row find amiss is offered no
//! more until a look finds it well. A look beside running attempts takes nothing away because it was slow.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ffpool_schema::encode::Encoder;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::LostEncoder;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::encoders::{self, EncodersError, Listed, Verdict};
use crate::quarters::Quarters;

/// How often it is looked whether the tools are to be tried again.
const LOOK: Duration = Duration::from_secs(1);
/// What does not work is tried again after so long, for it may have been mended: nothing waits beside it.
const AGAIN: Duration = Duration::from_secs(30);
/// Before what was found amiss is believed: a package may be just being replaced.
const CONFIRM: Duration = Duration::from_secs(1);
/// A failed attempt asks for no look so soon after another did: jobs that fail by themselves would have the tools tried without end.
const APART: Duration = Duration::from_secs(10);
/// How long the report of a failed attempt waits for a look.
const JUDGE: Duration = Duration::from_secs(30);
/// What a shell says, and a loader that misses a library, of a program that cannot be run.
const NOT_RUN: [i32; 2] = [126, 127];

/// What the tools are and can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// The first line that FFmpeg says of its version.
    pub version: String,
    /// The same of FFprobe.
    pub prober: String,
    /// Software encoders that encoded a frame, in the schema's order.
    pub encoders: Vec<Encoder>,
    /// What else can be done.
    pub features: Vec<String>,
    /// What FFmpeg was built with.
    pub listed: Listed,
}

/// Where the tools are and how they are tried.
#[derive(Debug, Clone)]
pub struct Trials {
    /// FFmpeg.
    pub ffmpeg: PathBuf,
    /// FFprobe.
    pub ffprobe: PathBuf,
    /// As whom they run.
    pub quarters: Quarters,
    /// Time between two looks while all is well.
    pub every: Duration,
}

/// The software encoders of one worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Software {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trials: Trials,
    /// What other tools add to the features.
    more: Vec<String>,
    /// When was last looked. Held for the time of a look: there is one at a time.
    looked: Mutex<Instant>,
    /// When an attempt last asked for a look. Never held across an await.
    judged: std::sync::Mutex<Option<Instant>>,
    /// Written by who looks only.
    standing: watch::Sender<Standing>,
}

/// How the tools are.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// What they can do.
    pub tools: Arc<Tools>,
    /// Encoders that have worked and do not now.
    pub lost: Vec<LostEncoder>,
    /// Why nothing can be run at all.
    pub trouble: Option<String>,
}

impl Standing {
    /// Whether something is amiss here that is well there.
    fn is_worse_than(&self, other: &Standing) -> bool {
        let is_known = |lost: &LostEncoder| other.lost.iter().any(|known| known.encoder == lost.encoder);
        (self.trouble.is_some() && other.trouble.is_none()) || self.lost.iter().any(|lost| !is_known(lost))
    }

    /// What is amiss here and was well there, in words.
    fn news_since(&self, before: &Standing) -> Option<String> {
        if self.trouble.is_some() && before.trouble.is_none() {
            return self.trouble.clone();
        }
        let is_known = |lost: &&LostEncoder| before.lost.iter().any(|known| known.encoder == lost.encoder);
        let new = self.lost.iter().filter(|lost| !is_known(lost));
        let new: Vec<String> = new.map(|LostEncoder { encoder, why }| format!("{encoder}: {why}")).collect();
        (!new.is_empty()).then(|| new.join("; "))
    }

    /// The same tools when nothing can be run with them.
    fn broken(&self, why: &str) -> Standing {
        let mut lost = self.lost.clone();
        let now = self.tools.encoders.iter();
        lost.extend(now.map(|encoder| LostEncoder { encoder: encoder.as_str().to_owned(), why: why.to_owned() }));
        let tools = Tools { encoders: Vec::new(), ..(*self.tools).clone() };
        Standing { tools: Arc::new(tools), lost, trouble: Some(why.to_owned()) }
    }
}

impl Software {
    /// The tools as a start has found them. `more`: features that others than FFmpeg give.
    #[must_use]
    pub fn open(trials: Trials, found: Tools, more: Vec<String>) -> Software {
        let mut tools = found;
        tools.features.extend(more.iter().cloned());
        let standing = Standing { tools: Arc::new(tools), lost: Vec::new(), trouble: None };
        // Whoever works already waits for no trial.
        let trials = Trials { quarters: trials.quarters.in_the_background(), ..trials };
        let (looked, standing) = (Mutex::new(Instant::now()), watch::Sender::new(standing));
        Software { shared: Arc::new(Shared { trials, more, looked, judged: Default::default(), standing }) }
    }

    /// How they are.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.standing.borrow().clone()
    }

    /// What they are and can do.
    #[must_use]
    pub fn tools(&self) -> Arc<Tools> {
        self.shared.standing.borrow().tools.clone()
    }

    /// Why nothing can be run, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let why = self.shared.standing.borrow().trouble.clone()?;
        Some(format!("{why}: no work is taken until it does"))
    }

    /// Resolves when nothing can be run, or something can again. Cancel-safe.
    pub async fn becomes(&self, broken: bool) {
        let mut standing = self.shared.standing.subscribe();
        let changed = standing.wait_for(|now| now.trouble.is_some() == broken).await;
        changed.expect("the sender lives as long as self");
    }

    /// Resolves when something has changed since `seen`. Cancel-safe.
    pub async fn differs_from(&self, seen: &Standing) {
        let mut standing = self.shared.standing.subscribe();
        standing.wait_for(|now| now != seen).await.expect("the sender lives as long as self");
    }

    /// Looks again what is due, until it is dropped: once in a while, and soon where something is amiss. While the worker is full
    /// it waits. `load`: whether every slot is in use, and whether none is.
    pub async fn tend(&self, load: impl Fn() -> (bool, bool)) {
        loop {
            sleep(LOOK).await;
            let (is_full, is_idle) = load();
            let since = match self.shared.looked.try_lock() {
                Ok(looked) => looked.elapsed(),
                Err(_) => continue,
            };
            let every = self.shared.trials.every;
            let is_sick = !self.shared.standing.borrow().lost.is_empty();
            if !is_full && since >= if is_sick { AGAIN.min(every) } else { every } {
                self.look(is_idle).await;
            }
        }
    }

    /// Whose failure it is that an attempt ended with, which began while the tools stood like `before`: where it may be theirs they
    /// are tried at once. What would be held against the job, and is the worker's, is the worker's then.
    pub async fn judge(&self, failure: Failure, before: &Standing) -> Failure {
        if may_be_the_tools(&failure) && self.may_judge() {
            // A task of its own, for the compiler's sake: it cannot tell that all of this may move between threads. Without an
            // answer the failure stays as it is.
            let (software, mut looking) = (self.clone(), JoinSet::new());
            looking.spawn(async move { software.look(false).await });
            let _ = timeout(JUDGE, looking.join_next()).await;
        }
        match self.standing().news_since(before) {
            None => failure,
            Some(why) => {
                let message = format!("{}; the tools of this worker do not work any more: {why}", failure.message);
                Failure { cause: Cause::Platform, message, ..failure }
            }
        }
    }

    fn may_judge(&self) -> bool {
        let mut judged = self.shared.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let may = judged.is_none_or(|at| at.elapsed() >= APART);
        if may {
            *judged = Some(Instant::now());
        }
        may
    }

    async fn look(&self, is_idle: bool) {
        let mut looked = self.shared.looked.lock().await;
        let before = self.standing();
        let mut found = self.found(&before, is_idle).await;
        if found.is_worse_than(&before) {
            sleep(CONFIRM).await;
            found = self.found(&before, is_idle).await;
        }
        *looked = Instant::now();
        tell(&before, &found);
        self.shared.standing.send_if_modified(|now| {
            let is_news = *now != found;
            *now = found;
            is_news
        });
    }

    async fn found(&self, before: &Standing, is_idle: bool) -> Standing {
        let Trials { ffmpeg, ffprobe, quarters, .. } = &self.shared.trials;
        let asked = async {
            let version = encoders::version(ffmpeg).await.map_err(|source| (ffmpeg.clone(), source))?;
            let prober = encoders::version(ffprobe).await.map_err(|source| (ffprobe.clone(), source))?;
            let listed = encoders::listed(ffmpeg).await.map_err(|error| (ffmpeg.clone(), io_error(error)))?;
            let was = &before.tools;
            let features = if (&version, &listed) == (&was.version, &was.listed) {
                was.features.clone()
            } else {
                let new =
                    encoders::features(ffmpeg, &listed).await.map_err(|error| (ffmpeg.clone(), io_error(error)))?;
                new.into_iter().chain(self.shared.more.iter().cloned()).collect()
            };
            Ok::<_, (PathBuf, io::Error)>(Tools { version, prober, encoders: Vec::new(), features, listed })
        };
        let tools = match asked.await {
            Ok(tools) => tools,
            Err((_, error)) if !is_idle && is_of_the_moment(&error) => return before.clone(),
            Err((program, error)) => {
                return before.broken(&format!("{} does not run here: {error}", program.display()));
            }
        };
        let verdicts = encoders::software(ffmpeg, quarters, &tools.listed.video).await;
        settled(before, tools, &verdicts, is_idle)
    }
}

/// How the tools stand after these trials.
fn settled(before: &Standing, tools: Tools, verdicts: &[(Encoder, Verdict)], is_idle: bool) -> Standing {
    let of = |encoder: Encoder| verdicts.iter().find(|(tried, _)| *tried == encoder).map(|(_, verdict)| verdict);
    let is_well = |encoder: Encoder| match of(encoder) {
        Some(Verdict::Works) => true,
        Some(Verdict::Undecided(_)) => !is_idle && before.tools.encoders.contains(&encoder),
        Some(Verdict::Fails(_)) | None => false,
    };
    let encoders: Vec<Encoder> = verdicts.iter().map(|(encoder, _)| *encoder).filter(|one| is_well(*one)).collect();
    let worked = |encoder: Encoder| {
        let is_lost = before.lost.iter().any(|lost| lost.encoder == encoder.as_str());
        is_lost || before.tools.encoders.contains(&encoder)
    };
    let lost = Encoder::ALL.iter().copied().filter(|encoder| worked(*encoder) && !encoders.contains(encoder));
    let lost = lost.map(|encoder| {
        let why = match of(encoder) {
            Some(Verdict::Fails(why) | Verdict::Undecided(why)) => why.clone(),
            Some(Verdict::Works) | None => "FFmpeg here was built without it".to_owned(),
        };
        LostEncoder { encoder: encoder.as_str().to_owned(), why }
    });
    let lost: Vec<LostEncoder> = lost.collect();
    let why = || lost.first().map_or_else(String::new, |LostEncoder { encoder, why }| format!(" ({encoder}: {why})"));
    let trouble = encoders.is_empty().then(|| format!("no software encoder of FFmpeg works here{}", why()));
    Standing { tools: Arc::new(Tools { encoders, ..tools }), lost, trouble }
}

/// Says what is new.
fn tell(before: &Standing, found: &Standing) {
    match (&before.trouble, &found.trouble) {
        (None, Some(why)) => error!(why, "the tools do not work here any more: no work is taken until they do"),
        (Some(_), None) => info!("the tools work again: work is taken"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    let is_lost = |standing: &Standing, encoder: &str| standing.lost.iter().any(|lost| lost.encoder == encoder);
    for LostEncoder { encoder, why } in found.lost.iter().filter(|lost| !is_lost(before, &lost.encoder)) {
        error!(encoder, why, "the encoder does not work here any more and is not offered");
    }
    for LostEncoder { encoder, .. } in before.lost.iter().filter(|lost| !is_lost(found, &lost.encoder)) {
        info!(encoder, "the encoder works again and is offered");
    }
    if found.trouble.is_none() && before.tools.version != found.tools.version {
        warn!(before = before.tools.version, now = found.tools.version, "FFmpeg was replaced by another version");
    }
}

/// Whether a failure may come of tools that do not work, whatever the job.
fn may_be_the_tools(failure: &Failure) -> bool {
    // A library that is missing is said to be no such file, by a program that never got so far as to read its input.
    let is_not_run = failure.exit_code.is_some_and(|code| NOT_RUN.contains(&code));
    is_not_run || matches!(failure.cause, Cause::ConfigBad | Cause::Crash | Cause::Platform)
}

/// Whether it says more about a machine that is busy than about the tool.
fn is_of_the_moment(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
}

fn io_error(error: EncodersError) -> io::Error {
    match error {
        EncodersError::Ask { source, .. } => source,
        none @ EncodersError::None { .. } => io::Error::other(none),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(encoders: &[Encoder]) -> Tools {
        Tools {
            version: "ffmpeg 5".to_owned(),
            prober: "ffprobe 5".to_owned(),
            encoders: encoders.to_vec(),
            features: Vec::new(),
            listed: Listed { video: encoders.to_vec(), has_webp: false },
        }
    }

    fn lost(standing: &Standing) -> Vec<String> {
        standing.lost.iter().map(|LostEncoder { encoder, why }| format!("{encoder}: {why}")).collect()
    }

    #[test]
    fn what_worked_before_and_fails_is_lost_and_nothing_else_is() {
        use Encoder::{LibaomAv1, Libx264, Libx265};
        let before = Standing { tools: Arc::new(tools(&[Libx264, Libx265])), lost: Vec::new(), trouble: None };
        let fails = || Verdict::Fails("gone".to_owned());
        let slow = || Verdict::Undecided("it hangs".to_owned());
        let after = |verdicts: &[(Encoder, Verdict)], is_idle| settled(&before, tools(&[]), verdicts, is_idle);
        let one = after(&[(Libx264, Verdict::Works), (Libx265, fails()), (LibaomAv1, fails())], true);
        assert_eq!((one.tools.encoders.as_slice(), lost(&one)), (&[Libx264][..], vec!["libx265: gone".to_owned()]));
        assert_eq!((one.trouble.as_deref(), one.is_worse_than(&before)), (None, true));
        assert_eq!(one.news_since(&before).as_deref(), Some("libx265: gone"));

        // Beside attempts a slow trial says nothing; of an encoder that was never offered neither.
        let busy = [(Libx264, Verdict::Works), (Libx265, slow()), (LibaomAv1, slow())];
        assert_eq!(after(&busy, false).tools.encoders, [Libx264, Libx265]);
        assert_eq!(lost(&after(&busy, true)), ["libx265: it hangs"]);

        // Another build of FFmpeg may have less, or more.
        let other = after(&[(Libx264, Verdict::Works), (LibaomAv1, Verdict::Works)], true);
        assert_eq!(other.tools.encoders, [Libx264, LibaomAv1]);
        assert_eq!(lost(&other), ["libx265: FFmpeg here was built without it"]);
        let none = after(&[(Libx264, fails()), (Libx265, fails())], true);
        assert_eq!(none.trouble.as_deref(), Some("no software encoder of FFmpeg works here (libx264: gone)"));

        // What is well again is offered, and news of old losses is none.
        let again = settled(&one, tools(&[]), &[(Libx264, Verdict::Works), (Libx265, Verdict::Works)], true);
        assert_eq!((again.lost.len(), again.is_worse_than(&one)), (0, false));
        assert_eq!(one.news_since(&one), None);
        let broken = one.broken("ffmpeg does not run here");
        assert_eq!((broken.tools.encoders.len(), broken.lost.len(), broken.is_worse_than(&one)), (0, 2, true));
    }
}
