//! What a live attempt records, on its way out of the scratch while it runs, and what earlier attempts have left of it.
//!
//! Invariant: keeping is an advantage, never a need: where it fails the job goes on, and says so once. What is carried is
//! whole; what counts of earlier attempts is fixed when this one begins, unless they were handed over to it. Runs are
//! numbered through: those of earlier attempts come first.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::job::Checkpoint;
use ffpool_schema::live::{Live, hide};
use ffpool_schema::message::Outcome;

use super::super::ends::{Destination, Place};
use super::super::{Attempt, End, blocking, words};
use super::handover::Succession;
use super::record::piece_name;
use super::run::Heard;
use super::{Broadcast, Media};
use crate::live::timeline::Span;
use crate::live::transport;
use crate::pieces::{Index, Pieces, Run};
use crate::publish::{PublishError, open_made};
use crate::roots;
use crate::tool::bytes_in;

/// How long a piece is waited for where something else has to go on: a store that hangs must not hold up the job.
const CARRY_WITHIN: Duration = Duration::from_secs(10);

/// The recording of one attempt, shared with the threads that carry it out.
pub(super) type Shared = Arc<Mutex<Kept>>;

/// What is known of the runs: their media, and by what they ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) spans: Vec<Span>,
    pub(super) causes: Vec<(u32, Cause)>,
}

/// A recording on its way out.
#[derive(Debug)]
pub(super) struct Kept {
    pieces: Pieces,
    scratch: PathBuf,
    attempt: u32,
    /// When the attempt's clock was at 0, in seconds since 1970.
    zero: f64,
    /// For how long the pieces of other jobs are kept.
    keep: Duration,
    /// What counts of earlier attempts: run 1 and those after it.
    earlier: Vec<Run>,
    /// How the first run was made.
    arguments: Vec<String>,
    /// Runs of which something is left to carry.
    left: VecDeque<Left>,
    is_handed_over: bool,
    /// How many causes the index has, and whether it says that the attempt is handed over; `None`: there is none of this
    /// attempt.
    said: Option<(usize, bool)>,
    /// Whether it went wrong the last time.
    is_in_trouble: bool,
}

/// What is left to carry of a run.
#[derive(Debug)]
struct Left {
    run: u32,
    /// Bytes that are carried.
    carried: u64,
    /// The number of the next piece.
    next: u32,
    end: Option<RunFile>,
}

/// What the file of a run is once nobody writes to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunFile {
    /// The tool has closed it.
    Closed,
    /// The tool was killed, or has crashed.
    Torn,
}

/// What happens to a recording besides being carried on.
enum Step {
    /// A run begins; how it is made.
    Begins(u32, Vec<String>),
    GoesOn,
    /// A run has ended.
    Ends(u32, RunFile),
    /// The attempt is handed over.
    HandedOver,
}

/// What a run needs to be kept while it goes on.
#[derive(Clone, Copy)]
pub(super) struct Keeping<'k, 'h> {
    pub(super) kept: Option<&'k Shared>,
    pub(super) heard: &'k Mutex<Heard<'h>>,
    pub(super) causes: &'k [(u32, Cause)],
}

impl Keeping<'_, '_> {
    /// Whether something is recorded now that the next attempt can go on with.
    pub(super) fn is_recording(&self) -> bool {
        self.kept.is_some() && self.heard.lock().unwrap_or_else(PoisonError::into_inner).has_media()
    }

    fn account(&self) -> Account {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Account { spans: heard.timeline().spans().to_vec(), causes: self.causes.to_vec() }
    }
}

impl Kept {
    fn take(&mut self, step: Step) {
        match step {
            Step::Begins(run, arguments) => {
                if self.arguments.is_empty() {
                    self.arguments = arguments;
                }
                self.left.push_back(Left { run, carried: 0, next: 0, end: None });
            }
            Step::GoesOn => {}
            Step::Ends(run, file) => {
                if let Some(left) = self.left.iter_mut().find(|left| left.run == run) {
                    left.end.get_or_insert(file);
                }
            }
            Step::HandedOver => self.is_handed_over = true,
        }
    }

    fn before(&self) -> u32 {
        u32::try_from(self.earlier.len()).unwrap_or(u32::MAX)
    }

    /// Carries out what is new and whole.
    fn carry(&mut self, account: &Account) -> io::Result<()> {
        let mut is_said = false;
        if self.said.is_some_and(|said| said != (account.causes.len(), self.is_handed_over)) {
            self.say(account)?;
            is_said = true;
        }
        while let Some(left) = self.left.front() {
            let (run, carried, end) = (left.run, left.carried, left.end);
            if let Some((mut file, length)) = self.made(run)? {
                let whole = match end {
                    Some(RunFile::Closed) => length - length % transport::PACKET,
                    Some(RunFile::Torn) | None => transport::whole(&mut file, carried, length)?,
                };
                // A run that the account does not know has no place in time: it carried no media that anybody heard of.
                if whole > carried && account.spans.iter().any(|span| span.run == run) {
                    if !is_said {
                        self.say(account)?;
                        is_said = true;
                    }
                    file.seek(SeekFrom::Start(carried))?;
                    let own = run - self.before();
                    let Some(left) = self.left.front_mut() else { return Ok(()) };
                    self.pieces.put_piece(own, left.next, &mut file.take(whole - carried))?;
                    (left.carried, left.next) = (whole, left.next + 1);
                }
            }
            if end.is_none() {
                return Ok(());
            }
            self.left.pop_front();
        }
        Ok(())
    }

    /// Writes the index.
    fn say(&mut self, account: &Account) -> io::Result<()> {
        let before = self.before();
        let own = account.spans.iter().filter(|span| span.run > before).map(|span| Run {
            attempt: self.attempt,
            run: span.run - before,
            begins: self.zero + span.offset,
            secs: span.secs,
            cause: account.causes.iter().find(|(run, _)| *run == span.run).map(|(_, cause)| *cause),
            // Counted when it is read.
            pieces: 0,
        });
        let runs = self.earlier.iter().cloned().chain(own).collect();
        let index = Index { runs, arguments: self.arguments.clone(), is_handed_over: self.is_handed_over };
        self.pieces.put_index(&index, self.keep)?;
        self.said = Some((account.causes.len(), self.is_handed_over));
        Ok(())
    }

    fn made(&self, run: u32) -> io::Result<Option<(std::fs::File, u64)>> {
        match open_made(&self.scratch.join(piece_name(run))) {
            Ok(made) => Ok(Some(made)),
            Err(PublishError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(PublishError::Io { source, .. }) => Err(source),
            Err(error @ (PublishError::NoPlainFile { .. } | PublishError::Stopped)) => Err(io::Error::other(error)),
        }
    }

    /// Runs of earlier attempts as this one numbers them, with all that counts by now.
    fn recounted(&self) -> io::Result<Vec<(u32, Run)>> {
        let mut runs = self.earlier.clone();
        self.pieces.recount(&mut runs)?;
        Ok((1..).zip(runs).collect())
    }
}

impl Attempt<'_> {
    /// Where the recording of this job is kept; `None`: it is not.
    fn pieces(&self, live: &Live, is_live: bool, outputs: &[Destination]) -> Option<Pieces> {
        // A file, or a picture, begins anew with every attempt, and so does what is recorded of it.
        if !live.record || !is_live || self.grant.spec.checkpoint == Checkpoint::Off {
            return None;
        }
        let store = self.shop.settings.chunks.chunk_store.as_deref();
        let output = match &outputs.first()?.place {
            Place::File(path) => path.as_path(),
            Place::Object(_) if store.is_some() => Path::new(""),
            Place::Object(_) => return None,
        };
        Some(Pieces::at(store, output, self.grant.job, self.grant.attempt))
    }

    /// Keeps the recording from now on, and goes on with what earlier attempts have left.
    pub(super) async fn keep_recording(
        &self,
        broadcast: &mut Broadcast<'_>,
        outputs: &[Destination],
    ) -> Result<(), End> {
        let is_live = matches!(broadcast.media, Media::Live(_));
        let Some(pieces) = self.pieces(broadcast.live, is_live, outputs) else {
            if broadcast.live.record && is_live && self.grant.spec.checkpoint != Checkpoint::Off {
                self.reporter.log(
                    "[ffpool] what is recorded would not survive this attempt: the output is an object, and this worker \
                     has no `chunk_store`",
                );
            }
            return Ok(());
        };
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        let mut kept = Kept {
            pieces,
            scratch: self.scratch_path().to_owned(),
            attempt: self.grant.attempt,
            zero: now - self.clock(),
            keep: Duration::from_secs(self.shop.settings.chunks.chunk_keep_hours * 3600),
            earlier: Vec::new(),
            arguments: Vec::new(),
            left: VecDeque::new(),
            is_handed_over: false,
            said: None,
            is_in_trouble: false,
        };
        let (kept, said) = blocking(move || {
            let Index { runs, arguments, .. } = kept.pieces.earlier()?;
            (kept.earlier, kept.arguments) = (runs, arguments);
            // From now on nobody counts what an attempt adds that does not know of this one.
            let said = if kept.earlier.is_empty() { Ok(()) } else { kept.say(&Account::default()) };
            kept.is_in_trouble = said.is_err();
            Ok((kept, said))
        })
        .await?
        .map_err(|error: io::Error| {
            End::failure(roots::io_cause(&error), format!("what earlier attempts recorded cannot be read: {error}"))
        })?;
        broadcast.before = kept.before();
        broadcast.run = broadcast.before;
        for (number, run) in (1..).zip(&kept.earlier) {
            broadcast.timeline.observe(number, run.begins - kept.zero + run.secs, run.secs);
            broadcast.causes.push((number, run.cause.unwrap_or(Cause::WorkerLost)));
        }
        if broadcast.before > 0 {
            let (runs, secs) = (broadcast.before, broadcast.timeline.secs());
            self.reporter.log(&format!("[ffpool] goes on with a recording of {secs:.1} s, of {runs} runs before"));
        }
        broadcast.arguments = kept.arguments.iter().map(OsString::from).collect();
        self.note_trouble(said, false);
        if self.grant.attempt > 1 {
            // The attempt before may record until this one does.
            broadcast.succession = Succession::Waits;
        }
        broadcast.kept = Some(Arc::new(Mutex::new(kept)));
        Ok(())
    }

    /// Keeps a run that begins.
    pub(super) async fn keep_run(&self, broadcast: &Broadcast<'_>, arguments: &[OsString]) {
        if let Some(kept) = &broadcast.kept {
            let shown = words(arguments).iter().map(|word| hide(word, &self.reporter.secrets)).collect();
            self.carry_recording(kept, broadcast.account(), Step::Begins(broadcast.run, shown)).await;
        }
    }

    /// Carries the recording out for as long as a run lasts.
    pub(super) async fn keep(&self, keeping: Keeping<'_, '_>) -> Infallible {
        loop {
            let Some(kept) = keeping.kept else { pending().await };
            tokio::time::sleep(self.shop.settings.live_piece).await;
            self.carry_recording(kept, keeping.account(), Step::GoesOn).await;
        }
    }

    /// Has all that is recorded where the next attempt finds it: this one was told to hand itself over, and goes on.
    pub(super) async fn keep_for_heir(&self, keeping: Keeping<'_, '_>) {
        if let Some(kept) = keeping.kept {
            self.carry_recording(kept, keeping.account(), Step::HandedOver).await;
        }
    }

    /// Carries out the rest of a run that has ended.
    pub(super) async fn keep_rest(&self, broadcast: &Broadcast<'_>, file: RunFile) {
        if let Some(kept) = &broadcast.kept {
            self.carry_recording(kept, broadcast.account(), Step::Ends(broadcast.run, file)).await;
        }
    }

    /// Keeps by what the runs ended.
    pub(super) async fn keep_causes(&self, broadcast: &Broadcast<'_>) {
        if let Some(kept) = &broadcast.kept {
            self.carry_recording(kept, broadcast.account(), Step::GoesOn).await;
        }
    }

    async fn carry_recording(&self, kept: &Shared, account: Account, step: Step) {
        let kept = kept.clone();
        let carried = blocking(move || {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.take(step);
            let went = kept.carry(&account);
            let was_in_trouble = std::mem::replace(&mut kept.is_in_trouble, went.is_err());
            (went, was_in_trouble)
        });
        match tokio::time::timeout(CARRY_WITHIN, carried).await {
            Ok(Ok((went, was_in_trouble))) => self.note_trouble(went, was_in_trouble),
            Ok(Err(_)) => {}
            Err(_) => self.note_trouble(Err(io::ErrorKind::TimedOut.into()), false),
        }
    }

    /// Says that keeping has become impossible, or possible again.
    fn note_trouble(&self, went: io::Result<()>, was_in_trouble: bool) {
        match went {
            Err(error) if !was_in_trouble => {
                tracing::warn!(job = %self.grant.job, attempt = self.grant.attempt, %error, "a recording cannot be kept");
                self.reporter.log(&format!(
                    "[ffpool] what is recorded cannot be kept, and would not survive this attempt: {error}"
                ));
            }
            Ok(()) if was_in_trouble => self.reporter.log("[ffpool] what is recorded is kept again"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Makes of a recording what the end of its attempt wants: nothing is left of one that was cancelled, and all of one
    /// that others go on with.
    pub(super) async fn settle_recording<T>(&self, broadcast: &mut Broadcast<'_>, went: &Result<T, End>) {
        match went {
            Ok(_) | Err(End::Silent) => return,
            Err(End::Report(outcome)) => match &**outcome {
                Outcome::Cancelled => {
                    if let Some(kept) = &broadcast.kept {
                        self.forget_recording(kept).await;
                    }
                    return;
                }
                Outcome::Failed { failure } => {
                    let run = broadcast.run;
                    if broadcast.causes.iter().all(|(known, _)| *known != run) {
                        broadcast.causes.push((run, failure.cause));
                    }
                }
                Outcome::Released { .. }
                | Outcome::Rejected { .. }
                | Outcome::Finished { .. }
                | Outcome::Split { .. } => {}
            },
        }
        self.keep_rest(broadcast, RunFile::Torn).await;
    }

    /// Deletes what was kept.
    pub(super) async fn forget_recording(&self, kept: &Shared) {
        let kept = kept.clone();
        let forget = move || kept.lock().unwrap_or_else(PoisonError::into_inner).pieces.forget();
        if let Ok(Err(error)) = blocking(forget).await {
            tracing::warn!(job = %self.grant.job, %error, "the pieces of a recording stay until they are old");
        }
    }

    /// The same of a job that an earlier attempt has published.
    pub(super) async fn forget_recording_of(&self, live: &Live, outputs: &[Destination]) {
        if let Some(pieces) = self.pieces(live, true, outputs)
            && let Ok(Err(error)) = blocking(move || pieces.forget()).await
        {
            tracing::warn!(job = %self.grant.job, %error, "the pieces of a recording stay until they are old");
        }
    }

    /// Has the runs of earlier attempts in the scratch, as if they were this one's, and none of them beyond the beginning of
    /// the attempt after it.
    pub(super) async fn lay_out_earlier(&self, broadcast: &Broadcast<'_>) -> Result<(), End> {
        let Some(kept) = broadcast.kept.as_ref().filter(|_| broadcast.before > 0) else { return Ok(()) };
        let spans = broadcast.timeline.spans().to_vec();
        let scratch = self.scratch_path().to_owned();
        let stop = self.orders.stop.clone();
        let (room, kept) = (self.disk_bytes(), kept.clone());
        let laid_out: io::Result<Result<(), u64>> = blocking(move || {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let runs = kept.recounted()?;
            let bytes = kept.pieces.bytes(&runs.iter().map(|(_, run)| run.clone()).collect::<Vec<_>>())?;
            // Once as pieces, once joined.
            let needed = bytes_in(&scratch).saturating_add(bytes).saturating_mul(2);
            if needed > room {
                return Ok(Err(needed));
            }
            for (number, run) in &runs {
                lay_out(&kept, *number, run, &spans, &|| stop.borrow().is_some())?;
            }
            Ok(Ok(()))
        })
        .await?;
        match laid_out {
            Ok(Ok(())) => Ok(()),
            Ok(Err(needed)) => {
                let (needed, room) = (needed.div_ceil(1 << 20), room >> 20);
                let message = format!("the recording of all attempts needs {needed} MiB, `max_disk_mb` is {room}");
                Err(End::failure(Cause::DiskFull, message))
            }
            Err(error) => Err(match self.orders.stop.borrow().clone() {
                Some(order) if error.kind() == io::ErrorKind::Interrupted => order.into(),
                Some(_) | None => End::failure(
                    roots::io_cause(&error),
                    format!("what earlier attempts recorded cannot be laid out: {error}"),
                ),
            }),
        }
    }
}

fn lay_out(kept: &Kept, number: u32, run: &Run, spans: &[Span], is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = kept.scratch.join(piece_name(number));
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path)?;
    kept.pieces.copy(run, &mut file, is_stopped)?;
    // Only one that was handed over has recorded beside the next.
    if !kept.pieces.is_handed_over(run.attempt)? {
        return Ok(());
    }
    let of = |number: u32| {
        let earlier = number.checked_sub(1).and_then(|index| kept.earlier.get(index as usize));
        earlier.map_or(kept.attempt, |run| run.attempt)
    };
    let own = spans.iter().find(|span| span.run == number);
    let next = spans.iter().find(|span| span.run > number && of(span.run) != run.attempt);
    if let (Some(own), Some(next)) = (own, next) {
        // What was there before the next attempt began is no overlap, whatever the clocks say.
        let secs = (next.offset - own.offset).max(run.secs);
        let length = file.metadata()?.len();
        if let Some(end) = transport::cut(&mut file, length, secs)? {
            file.set_len(end)?;
        }
    }
    Ok(())
}
