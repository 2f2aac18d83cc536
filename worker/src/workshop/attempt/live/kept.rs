//! What a live attempt records, on its way out of the scratch while it runs, and what earlier attempts have left of it.
//!
//! Invariant: what is carried is whole, and nothing is carried twice; what counts of earlier attempts is fixed when this one
//! begins, unless they were handed over to it. Runs are numbered through: those of earlier attempts come first.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ffpool_schema::failure::Cause;
use tokio::sync::OwnedMutexGuard;

use super::record::piece_name;
use crate::live::timeline::Span;
use crate::live::transport;
use crate::pieces::{Index, Pieces, Run};
use crate::publish::open_if_made;
use crate::tool::bytes_in;

/// After so long without anything new the index is written again, so that the pieces do not look forgotten while their job
/// waits for its source or is paused. A quarter of the shortest time after which any worker deletes them.
pub(super) const REFRESH: Duration = Duration::from_secs(15 * 60);

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// The recording of one attempt, shared with the thread that carries it out. One thread at a time: whoever comes later waits
/// without one, so a store that hangs holds up no more of them.
#[derive(Debug)]
pub(super) struct Shared {
    kept: Arc<tokio::sync::Mutex<Kept>>,
    /// What is to be taken with the next carrying. Held for moments only.
    waiting: Mutex<Waiting>,
    /// Whether it went wrong the last time.
    is_in_trouble: AtomicBool,
    pub(super) room: Room,
    /// Whether there is no more of it.
    is_full: AtomicBool,
}

/// Steps that nobody has taken yet, and what was known with the last of them.
#[derive(Debug, Default)]
struct Waiting {
    steps: Vec<Step>,
    account: Account,
}

impl Shared {
    pub(super) fn new(kept: Kept, room: Room) -> Shared {
        let kept = Arc::new(tokio::sync::Mutex::new(kept));
        let (is_in_trouble, is_full) = (AtomicBool::new(false), AtomicBool::new(false));
        Shared { kept, waiting: Mutex::default(), is_in_trouble, room, is_full }
    }

    /// Has a step taken by whoever carries next: it is not lost when that is somebody else.
    pub(super) fn note(&self, step: Step, account: Account) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.steps.push(step);
        waiting.account = account;
    }

    /// The recording, once no other thread has it.
    pub(super) async fn own(&self) -> OwnedMutexGuard<Kept> {
        self.kept.clone().lock_owned().await
    }

    /// The same with the steps that wait taken, and what is known.
    pub(super) async fn own_with_steps(&self) -> (OwnedMutexGuard<Kept>, Account) {
        let mut kept = self.own().await;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for step in waiting.steps.drain(..) {
            kept.take(step);
        }
        (kept, waiting.account.clone())
    }

    /// Notes whether it went wrong. Answers whether it had before.
    pub(super) fn note_trouble(&self, is_in_trouble: bool) -> bool {
        self.is_in_trouble.swap(is_in_trouble, Ordering::Relaxed)
    }

    /// Notes that there is no more room. Answers whether that was known.
    pub(super) fn note_full(&self) -> bool {
        self.is_full.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

/// The room in the scratch for the recording of all attempts, which is there twice at the end: as pieces, and joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) bytes: u64,
    /// Bytes that earlier attempts have recorded.
    pub(super) earlier: u64,
}

impl Room {
    /// What is left over when a recording ends for want of room: this part of it.
    const RESERVE: u64 = 20;

    /// Bytes that are needed once this attempt has recorded so many.
    pub(super) fn needed(self, own: u64) -> u64 {
        own.saturating_add(self.earlier).saturating_mul(2)
    }

    /// Whether a recording has to end now so that it can still be joined, by its bytes at this look and the one before: until
    /// it has ended, twice as much may come.
    pub(super) fn is_full(self, before: u64, own: u64) -> bool {
        let coming = own.saturating_sub(before).saturating_mul(2);
        self.needed(own.saturating_add(coming)) > self.bytes - self.bytes / Self::RESERVE
    }
}

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
    /// How many bytes that was when it was taken up.
    earlier_bytes: u64,
    /// How the first run was made.
    arguments: Vec<String>,
    /// Runs of which something is left to carry.
    left: VecDeque<Left>,
    is_handed_over: bool,
    /// What the index has; `None`: there is none of this attempt.
    said: Option<Said>,
}

/// What an index says, and since when.
#[derive(Debug)]
struct Said {
    causes: usize,
    is_handed_over: bool,
    at: Instant,
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
#[derive(Debug)]
pub(super) enum Step {
    /// A run begins; how it is made.
    Begins(u32, Vec<String>),
    GoesOn,
    /// A run has ended.
    Ends(u32, RunFile),
    /// The attempt is handed over.
    HandedOver,
}

impl Kept {
    /// Nothing is carried yet, and nothing is known of earlier attempts. `zero`: when the attempt's clock was at 0.
    pub(super) fn new(pieces: Pieces, scratch: PathBuf, attempt: u32, zero: f64, keep: Duration) -> Kept {
        let (earlier, arguments, left) = (Vec::new(), Vec::new(), VecDeque::new());
        let (earlier_bytes, is_handed_over, said) = (0, false, None);
        Kept { pieces, scratch, attempt, zero, keep, earlier, earlier_bytes, arguments, left, is_handed_over, said }
    }

    /// Takes up what earlier attempts have left. With the first index it is fixed: from then on nobody counts what an
    /// attempt adds that does not know of this one.
    pub(super) fn take_up(&mut self) -> io::Result<()> {
        let Index { runs, arguments, .. } = self.pieces.earlier()?;
        self.earlier_bytes = self.pieces.bytes(&runs, &|| false)?;
        (self.earlier, self.arguments) = (runs, arguments);
        Ok(())
    }

    /// Bytes of what was taken up.
    pub(super) fn earlier_bytes(&self) -> u64 {
        self.earlier_bytes
    }

    /// The runs of earlier attempts as this one numbers them: number, seconds of this attempt's clock at the beginning,
    /// length, and by what it ended.
    pub(super) fn runs_before(&self) -> impl Iterator<Item = (u32, f64, f64, Option<Cause>)> {
        (1..).zip(&self.earlier).map(|(number, run)| (number, run.begins - self.zero, run.secs, run.cause))
    }

    /// How the first of all runs was made.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Deletes all pieces of the job.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.pieces.forget()
    }

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

    /// How many runs came before this attempt.
    pub(super) fn before(&self) -> u32 {
        u32::try_from(self.earlier.len()).unwrap_or(u32::MAX)
    }

    /// Carries out what is new and whole, and says first what counts of earlier attempts.
    pub(super) fn carry(&mut self, account: &Account) -> io::Result<()> {
        let mut is_said = false;
        if self.is_to_say(account) {
            self.say(account)?;
            is_said = true;
        }
        while let Some(left) = self.left.front() {
            let (run, carried, end) = (left.run, left.carried, left.end);
            if let Some((mut file, length)) = open_if_made(&self.scratch.join(piece_name(run)))? {
                let whole = match end {
                    Some(RunFile::Closed) => length - length % transport::PACKET,
                    Some(RunFile::Torn) | None => match transport::whole(&mut file, carried, length) {
                        // It will be no stream later either, and must not hold up the runs after it.
                        Err(error) if end.is_some() && error.kind() == io::ErrorKind::InvalidData => {
                            tracing::warn!(run, %error, "what is left of a run is not kept");
                            carried
                        }
                        whole => whole?,
                    },
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

    /// Whether the index is to be written even where there is no new piece.
    fn is_to_say(&self, account: &Account) -> bool {
        match &self.said {
            Some(said) => {
                (said.causes, said.is_handed_over) != (account.causes.len(), self.is_handed_over)
                    || said.at.elapsed() >= REFRESH.min(self.keep / 4)
            }
            None => !self.earlier.is_empty(),
        }
    }

    /// Writes the index.
    fn say(&mut self, account: &Account) -> io::Result<()> {
        let (before, now) = (self.before(), now());
        let own = account.spans.iter().filter(|span| span.run > before).map(|span| Run {
            attempt: self.attempt,
            run: span.run - before,
            begins: self.zero + span.offset,
            secs: span.secs,
            until: Some(now),
            cause: account.causes.iter().find(|(run, _)| *run == span.run).map(|(_, cause)| *cause),
            // Counted when it is read.
            pieces: 0,
        });
        let runs = self.earlier.iter().cloned().chain(own).collect();
        let index = Index { runs, arguments: self.arguments.clone(), is_handed_over: self.is_handed_over };
        self.pieces.put_index(&index, self.keep)?;
        let (causes, at) = (account.causes.len(), Instant::now());
        self.said = Some(Said { causes, is_handed_over: self.is_handed_over, at });
        Ok(())
    }

    /// Runs of earlier attempts with all that counts by now, and which attempts were handed over.
    fn recounted(&self) -> io::Result<(Vec<Run>, BTreeSet<u32>)> {
        let mut runs = self.earlier.clone();
        let handed_over = self.pieces.recount(&mut runs)?;
        Ok((runs, handed_over))
    }

    /// Has the runs of earlier attempts in the scratch, as if they were this one's, and none of them beyond the beginning of
    /// the attempt after it. Answers by when, of this attempt's clock, what each holds was there; or with the bytes that are
    /// needed where there is not so much room.
    pub(super) fn lay_out_earlier(
        &self,
        spans: &[Span],
        room: u64,
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Result<Vec<(u32, f64)>, u64>> {
        let (runs, handed_over) = self.recounted()?;
        let earlier = self.pieces.bytes(&runs, is_stopped)?;
        let needed = Room { bytes: room, earlier }.needed(bytes_in(&self.scratch));
        if needed > room {
            return Ok(Err(needed));
        }
        for (number, run) in (1..).zip(&runs) {
            let mut file = self.lay_out(number, run, is_stopped)?;
            // Only one that was handed over has recorded beside the next.
            if handed_over.contains(&run.attempt) {
                self.cut(number, run, spans, &mut file)?;
            }
        }
        let until = (1..).zip(&runs).filter_map(|(number, run)| Some((number, run.until? - self.zero)));
        Ok(Ok(until.collect()))
    }

    fn lay_out(&self, number: u32, run: &Run, is_stopped: &dyn Fn() -> bool) -> io::Result<File> {
        let path = self.scratch.join(piece_name(number));
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path)?;
        self.pieces.copy(run, &mut file, is_stopped)?;
        Ok(file)
    }

    /// Takes from the end of a run what the attempt after it has recorded as well.
    fn cut(&self, number: u32, run: &Run, spans: &[Span], file: &mut File) -> io::Result<()> {
        let of = |number: u32| {
            let earlier = number.checked_sub(1).and_then(|index| self.earlier.get(index as usize));
            earlier.map_or(self.attempt, |run| run.attempt)
        };
        let own = spans.iter().find(|span| span.run == number);
        let next = spans.iter().find(|span| span.run > number && of(span.run) != run.attempt);
        if let (Some(own), Some(next)) = (own, next) {
            let length = file.metadata()?.len();
            // Its progress may have told too little of where it began.
            let by_end = run.until.zip(transport::secs(file, length, run.secs)?);
            let latest = by_end.map_or(own.offset, |(until, secs)| until - self.zero - secs);
            // What was there before the next attempt began is no overlap, whatever the clocks say.
            let secs = (next.offset - own.offset.min(latest)).max(run.secs);
            if let Some(end) = transport::cut(file, length, secs)? {
                file.set_len(end)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::id::JobId;
    use futures_util::FutureExt as _;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    /// Packets of a transport stream, in each of which a frame begins.
    fn frames(count: usize) -> Vec<u8> {
        let mut packet = vec![0x47, 0x41, 0x00, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x00, 0];
        packet.resize(transport::PACKET as usize, 0xff);
        packet.repeat(count)
    }

    fn account(runs: &[u32]) -> Account {
        let mut timeline = crate::live::timeline::Timeline::default();
        for run in runs {
            timeline.observe(*run, f64::from(*run) * 10.0, 5.0);
        }
        Account { spans: timeline.spans().to_vec(), causes: Vec::new() }
    }

    struct Place {
        scratch: tempfile::TempDir,
        media: tempfile::TempDir,
        job: JobId,
    }

    impl Place {
        fn new() -> Place {
            let directory = || tempfile::tempdir().unwrap();
            Place { scratch: directory(), media: directory(), job: JobId(uuid::Uuid::new_v4()) }
        }

        fn kept(&self, attempt: u32, earlier: Vec<Run>) -> Kept {
            let pieces = Pieces::at(None, &self.media.path().join("out.mp4"), self.job, attempt);
            let scratch = self.scratch.path().to_owned();
            Kept { earlier, ..Kept::new(pieces, scratch, attempt, 1e9, Duration::from_secs(3600)) }
        }

        /// Where its pieces lie.
        fn directory(&self) -> PathBuf {
            self.media.path().join(".ffpool-chunks").join(self.job.0.simple().to_string())
        }

        fn record(&self, run: u32, bytes: &[u8]) {
            fs::write(self.scratch.path().join(piece_name(run)), bytes).unwrap();
        }

        /// What the next attempt finds: of each run, which it is and its bytes.
        fn found(&self) -> Vec<(u32, u32, u64)> {
            let next = self.kept(9, Vec::new());
            let runs = next.pieces.earlier().unwrap().runs;
            let bytes = |run: &Run| next.pieces.bytes([run], &|| false).unwrap() / transport::PACKET;
            runs.iter().map(|run| (run.attempt, run.run, bytes(run))).collect()
        }
    }

    #[test]
    fn a_recording_ends_while_it_can_still_be_joined() {
        let room = Room { bytes: 1000, earlier: 100 };
        assert!(!room.is_full(0, 100) && !room.is_full(300, 310));
        assert!(room.is_full(200, 300), "as much again comes before it has ended");
        assert!(room.is_full(376, 376) && room.needed(400) <= 1000);
        assert!(Room { bytes: 1000, earlier: 480 }.is_full(0, 0));
    }

    #[test]
    fn what_could_not_be_kept_for_a_while_is_kept_later_and_nothing_twice() {
        let place = Place::new();
        let mut kept = place.kept(1, Vec::new());
        kept.take(Step::Begins(1, vec!["-i".to_owned()]));
        kept.carry(&account(&[])).unwrap();
        place.record(1, &frames(3));
        // Nobody has heard of its media yet.
        kept.carry(&account(&[])).unwrap();
        assert!(!place.media.path().join(".ffpool-chunks").exists());
        // The last frame may not be whole.
        kept.carry(&account(&[1])).unwrap();
        assert_eq!(place.found(), [(1, 1, 2)]);
        let directory = place.directory();
        let away = place.media.path().join("away");
        fs::rename(&directory, &away).unwrap();
        place.record(1, &frames(6));
        kept.carry(&account(&[1])).unwrap_err();
        kept.take(Step::Ends(1, RunFile::Closed));
        kept.take(Step::Begins(2, Vec::new()));
        place.record(2, &frames(2));
        kept.carry(&account(&[1, 2])).unwrap_err();
        fs::rename(&away, &directory).unwrap();
        kept.take(Step::Ends(2, RunFile::Torn));
        kept.carry(&account(&[1, 2])).unwrap();
        kept.carry(&account(&[1, 2])).unwrap();
        assert_eq!(place.found(), [(1, 1, 6), (1, 2, 1)]);
    }

    #[test]
    fn the_index_is_written_again_before_the_pieces_look_forgotten() {
        let place = Place::new();
        let mut kept = place.kept(1, Vec::new());
        kept.take(Step::Begins(1, Vec::new()));
        place.record(1, &frames(3));
        kept.carry(&account(&[1])).unwrap();
        let index = || fs::metadata(place.directory().join("000001.json")).unwrap().ino();
        let before = index();
        kept.carry(&account(&[1])).unwrap();
        assert_eq!(index(), before);
        kept.keep = Duration::ZERO;
        kept.carry(&account(&[1])).unwrap();
        assert_ne!(index(), before);
    }

    #[test]
    fn a_run_that_left_no_stream_does_not_hold_up_the_runs_after_it() {
        let place = Place::new();
        let mut kept = place.kept(1, Vec::new());
        kept.take(Step::Begins(1, Vec::new()));
        place.record(1, &vec![0; 3 * transport::PACKET as usize]);
        kept.carry(&account(&[1])).unwrap_err();
        kept.take(Step::Ends(1, RunFile::Torn));
        kept.take(Step::Begins(2, Vec::new()));
        place.record(2, &frames(3));
        kept.carry(&account(&[1, 2])).unwrap();
        assert_eq!(place.found(), [(1, 2, 2)]);
    }

    #[tokio::test]
    async fn no_step_is_lost_while_another_thread_carries_and_none_is_taken_with_what_was_known_before_it() {
        let place = Place::new();
        let shared = Shared::new(place.kept(1, Vec::new()), Room { bytes: 1, earlier: 0 });
        shared.note(Step::Begins(1, Vec::new()), account(&[]));
        let (hangs, _) = shared.own_with_steps().await;
        place.record(1, &frames(3));
        shared.note(Step::Ends(1, RunFile::Closed), account(&[1]));
        assert!(shared.own_with_steps().now_or_never().is_none());
        assert!(!shared.note_trouble(true) && shared.note_trouble(true), "it is said once");
        drop(hangs);
        let (mut kept, known) = shared.own_with_steps().await;
        kept.carry(&known).unwrap();
        assert_eq!(place.found(), [(1, 1, 3)]);
    }

    #[test]
    fn runs_are_numbered_through_and_a_hand_over_is_said_without_anything_new() {
        let place = Place::new();
        let mut first = place.kept(1, Vec::new());
        first.take(Step::Begins(1, Vec::new()));
        place.record(1, &frames(3));
        first.carry(&account(&[1])).unwrap();
        let before = place.kept(2, Vec::new()).pieces.earlier().unwrap();
        let mut second = place.kept(2, before.runs);
        second.say(&Account::default()).unwrap();
        second.take(Step::Begins(2, Vec::new()));
        place.record(2, &frames(2));
        second.carry(&account(&[1, 2])).unwrap();
        assert_eq!(place.found(), [(1, 1, 2), (2, 1, 1)]);
        let (runs, handed_over) = second.recounted().unwrap();
        assert_eq!((runs.len(), handed_over.len()), (1, 0));
        first.take(Step::HandedOver);
        first.carry(&account(&[1])).unwrap();
        assert_eq!(second.recounted().unwrap().1, BTreeSet::from([1]));
    }
}
