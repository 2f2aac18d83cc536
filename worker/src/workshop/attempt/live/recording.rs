//! Keeps what a live attempt records for the attempts after it, and goes on with what those before it have left.
//!
//! Invariant: keeping is an advantage, never a need: where it fails, or hangs, the job goes on, and says so once. Nothing is
//! deleted before the recording is published, or its job cancelled.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::job::Checkpoint;
use ffpool_schema::live::{Live, hide};
use ffpool_schema::message::Outcome;
use tokio::time::Instant;

use super::super::ends::{Destination, Place};
use super::super::{Attempt, End, blocking, words};
use super::handover::Succession;
use super::kept::{Account, Kept, REFRESH, Room, RunFile, Shared, Step, now};
use super::run::Heard;
use super::{Broadcast, Media};
use crate::pieces::Pieces;
use crate::roots;
use crate::store::fetch::stopped;
use crate::tool::bytes_in;

/// How long a piece is waited for where something else has to go on: a store that hangs must not hold up the job.
const CARRY_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at how much room a recording has left.
const LOOK: Duration = Duration::from_secs(1);
/// How long is read what earlier attempts have left: a hundred thousand names, over a network.
const TAKE_UP_WITHIN: Duration = Duration::from_secs(60);

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

    /// Whether there is no room for more of the recording, and something to end with.
    pub(super) fn is_full(&self) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.kept.is_some_and(Shared::is_full) && heard.timeline().began().is_some()
    }

    fn account(&self) -> Account {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Account { spans: heard.timeline().spans().to_vec(), causes: self.causes.to_vec() }
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
                     has no `chunk_store`: set FFPOOL_CHUNK_STORE to a directory that all workers share",
                );
            }
            return Ok(());
        };
        let (attempt, zero) = (self.grant.attempt, now() - self.clock());
        let keep = Duration::from_secs(self.shop.settings.chunks.chunk_keep_hours * 3600);
        let mut kept = Kept::new(pieces, self.scratch_path().to_owned(), attempt, zero, keep);
        let taken_up = within(TAKE_UP_WITHIN, blocking(move || kept.take_up().map(|()| kept)));
        let mut stop = self.orders.stop.clone();
        let taken_up = tokio::select! {
            biased;
            order = stopped(&mut stop) => return Err(order.into()),
            taken_up = taken_up => taken_up?,
        };
        let kept = taken_up.map_err(|error| {
            End::failure(roots::io_cause(&error), format!("what earlier attempts recorded cannot be read: {error}"))
        })?;
        let room = Room { bytes: self.recording_bytes(), earlier: kept.earlier_bytes() };
        if room.needed(0) > room.bytes {
            return Err(self.too_large(room.needed(0)));
        }
        broadcast.before = kept.before();
        broadcast.run = broadcast.before;
        for (number, begins, secs, cause) in kept.runs_before() {
            broadcast.timeline.observe(number, begins + secs, secs);
            broadcast.causes.push((number, cause.unwrap_or(Cause::WorkerLost)));
        }
        if broadcast.before > 0 {
            let (runs, secs) = (broadcast.before, broadcast.timeline.secs());
            self.reporter.log(&format!("[ffpool] goes on with a recording of {secs:.1} s, of {runs} runs before"));
        }
        broadcast.arguments = kept.arguments().iter().map(OsString::from).collect();
        if self.grant.attempt > 1 {
            // The attempt before may record until this one does.
            broadcast.succession = Succession::Waits;
        }
        let kept = broadcast.kept.insert(Shared::new(kept, room));
        self.look_at_room(kept, 0, 0);
        self.keep_causes(broadcast).await;
        Ok(())
    }

    /// Keeps a run that begins.
    pub(super) async fn keep_run(&self, broadcast: &Broadcast<'_>, arguments: &[OsString]) {
        if let Some(kept) = &broadcast.kept {
            let shown = words(arguments).iter().map(|word| hide(word, &self.reporter.secrets)).collect();
            self.carry_recording(kept, broadcast.account(), Step::Begins(broadcast.run, shown)).await;
        }
    }

    /// Carries the recording out for as long as a run lasts, and looks whether there is room for it.
    pub(super) async fn keep(&self, keeping: Keeping<'_, '_>) -> Infallible {
        let Some(kept) = keeping.kept else { pending().await };
        tokio::select! {
            never = self.carry_on(kept, keeping) => never,
            never = self.mind_room(kept) => never,
        }
    }

    async fn mind_room(&self, kept: &Shared) -> Infallible {
        let mut before = None;
        loop {
            let scratch = self.scratch_path().to_owned();
            if let Ok(own) = blocking(move || bytes_in(&scratch)).await {
                self.look_at_room(kept, before.unwrap_or(own), own);
                before = Some(own);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look_at_room(&self, kept: &Shared, before: u64, own: u64) {
        if kept.room.is_full(before, own) && !kept.note_full() {
            let (_, setting) = self.recording_bound();
            self.reporter
                .log(&format!("[ffpool] `{setting}` allows no more than this: the recording ends with what it has"));
        }
    }

    /// Bytes that a recording may have in the scratch, where it is twice at the end: as pieces, and joined into one file.
    fn recording_bytes(&self) -> u64 {
        self.disk_bytes().min(self.shop.settings.bounds.output_bytes().saturating_mul(2))
    }

    /// What bounds [`Self::recording_bytes`].
    fn recording_bound(&self) -> (Cause, &'static str) {
        let (bounds, wished) = (&self.shop.settings.bounds, self.grant.spec.resource_limits.disk_mb());
        if self.recording_bytes() < self.disk_bytes() {
            (Cause::OutputTooLarge, "FFPOOL_MAX_OUTPUT_MB")
        } else if bounds.max_scratch_mb.is_some_and(|most| most < wished) {
            (Cause::ScratchLimit, "FFPOOL_MAX_SCRATCH_MB")
        } else {
            (Cause::ScratchLimit, "max_disk_mb")
        }
    }

    /// The end of an attempt that could not join what all have recorded.
    fn too_large(&self, needed: u64) -> End {
        let (needed, room) = (needed.div_ceil(1 << 20), self.recording_bytes() >> 20);
        let (cause, setting) = self.recording_bound();
        let message = format!(
            "the recording of all attempts needs {needed} MiB, as pieces and joined, and has {room}: raise `{setting}`"
        );
        End::failure(cause, message)
    }

    async fn carry_on(&self, kept: &Shared, keeping: Keeping<'_, '_>) -> Infallible {
        loop {
            tokio::time::sleep(self.shop.settings.live_piece.min(REFRESH)).await;
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

    /// Keeps what is known of the runs by now, and that they are not forgotten.
    pub(super) async fn keep_causes(&self, broadcast: &Broadcast<'_>) {
        if let Some(kept) = &broadcast.kept {
            self.carry_recording(kept, broadcast.account(), Step::GoesOn).await;
        }
    }

    /// Stands still while the job is paused, and has its recording not look forgotten meanwhile.
    pub(super) async fn stand_still_keeping(&mut self, broadcast: &Broadcast<'_>) {
        loop {
            let since = Instant::now();
            if tokio::time::timeout(REFRESH, self.stand_still()).await.is_ok() {
                return;
            }
            self.keep_causes(broadcast).await;
            self.frozen_for += since.elapsed();
        }
    }

    async fn carry_recording(&self, kept: &Shared, account: Account, step: Step) {
        kept.note(step, account);
        let carried = async {
            let (mut kept, account) = kept.own_with_steps().await;
            blocking(move || kept.carry(&account)).await
        };
        if let Ok(went) = within(CARRY_WITHIN, carried).await {
            self.note_trouble(kept, went);
        }
    }

    /// Says that keeping has become impossible, or possible again.
    fn note_trouble(&self, kept: &Shared, went: io::Result<()>) {
        let was_in_trouble = kept.note_trouble(went.is_err());
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
        let forgotten = async {
            let kept = kept.own().await;
            blocking(move || kept.forget()).await
        };
        self.note_forgotten(within(CARRY_WITHIN, forgotten).await);
    }

    /// The same of a job that an earlier attempt has published.
    pub(super) async fn forget_recording_of(&self, live: &Live, outputs: &[Destination]) {
        if let Some(pieces) = self.pieces(live, true, outputs) {
            self.note_forgotten(within(CARRY_WITHIN, blocking(move || pieces.forget())).await);
        }
    }

    fn note_forgotten(&self, went: Result<io::Result<()>, End>) {
        if let Ok(Err(error)) = went {
            tracing::warn!(job = %self.grant.job, %error, "the pieces of a recording stay until they are old");
        }
    }

    /// Has the runs of earlier attempts in the scratch, as if they were this one's, and none of them beyond the beginning of
    /// the attempt after it.
    pub(super) async fn lay_out_earlier(&self, broadcast: &mut Broadcast<'_>) -> Result<(), End> {
        let Some(kept) = broadcast.kept.as_ref().filter(|_| broadcast.before > 0) else { return Ok(()) };
        let (spans, stop) = (broadcast.timeline.spans().to_vec(), self.orders.stop.clone());
        let (room, mut told) = (self.recording_bytes(), stop.clone());
        let Ok(kept) = tokio::time::timeout(CARRY_WITHIN, kept.own()).await else {
            return Err(End::failure(Cause::IoTransient, "what keeps the recordings of earlier attempts hangs"));
        };
        let laid_out = blocking(move || kept.lay_out_earlier(&spans, room, &|| stop.borrow().is_some()));
        let mut laid_out = std::pin::pin!(laid_out);
        let laid_out = tokio::select! {
            laid_out = &mut laid_out => laid_out?,
            // It sees so itself between two pieces, unless it hangs.
            order = stopped(&mut told) => match tokio::time::timeout(CARRY_WITHIN, laid_out).await {
                Ok(laid_out) => laid_out?,
                Err(_) => return Err(order.into()),
            },
        };
        match laid_out {
            Ok(Ok(until)) => {
                for (run, clock) in until {
                    broadcast.timeline.was_there(run, clock);
                }
                Ok(())
            }
            Ok(Err(needed)) => Err(self.too_large(needed)),
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

/// Waits so long for what blocks; what takes longer is given up, and goes on by itself.
async fn within<T>(
    bound: Duration,
    work: impl Future<Output = Result<io::Result<T>, End>>,
) -> Result<io::Result<T>, End> {
    tokio::time::timeout(bound, work).await.unwrap_or_else(|_| Ok(Err(io::ErrorKind::TimedOut.into())))
}
