//! A live attempt: run after run of the tool until its time is over, its source ended or nothing helps any more.
//!
//! Invariant: a source that goes away ends a run, never by itself the attempt; sinks fail each for itself. However the
//! attempt ends, what was recorded is either proven and published, or kept for the next attempt, as far as it can be. Whoever
//! cancels a live job discards its recording; whoever finishes it keeps it.

mod egress;
mod files;
mod growing;
mod handover;
mod kept;
mod pipeline;
mod playlist;
mod presentation;
mod record;
mod recording;
mod run;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::encode::{Encode, Encoder, Source};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::live::{Live, LiveAddress, Protocol, SourceEnd};
use ffpool_schema::location::Use;
use ffpool_schema::message::{Grant, LiveGap, LiveReport, Manifest, Phase, SourceIdentity};
use ffpool_schema::metrics as names;
use ffpool_schema::probe::Probed;
use tokio::time::Instant;

use super::device::judge;
use super::ends::{Destination, Ends, Input, discard, location};
use super::{Attempt, End, NEARLY, Probe, ask, blocking};
use crate::devices::Session;
use crate::live::sinks::{News, Sinks};
use crate::live::timeline::Timeline;
use crate::live::{HEALTHY, pause_after};
use crate::roots;
use crate::tool::ToolUser;
use egress::Egress;
use ffpool_schema::location::Location;
use growing::Growing;
use handover::Succession;
use pipeline::Tool;
use playlist::Playlist;
use presentation::Carried;

/// What the certificates are called in the scratch that live servers are held against.
const CERTIFICATES: &str = "certificates.pem";

/// Every text that an attempt's live addresses hide.
pub(super) fn secrets(grant: &Grant) -> Vec<String> {
    let Some(encode) = &grant.encode else { return Vec::new() };
    let source = match &encode.source {
        Source::Live { url } => Some(url),
        Source::File { .. } | Source::Remote { .. } | Source::Generated { .. } => None,
    };
    let addresses = source.into_iter().chain(encode.live.iter().flat_map(|live| &live.sinks));
    let mut secrets: Vec<String> =
        addresses.filter_map(|url| LiveAddress::parse(url).ok()).flat_map(|address| address.secrets()).collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// Where the media come from.
enum Media {
    Live(LiveAddress),
    File(PathBuf, Box<Probed>),
    Generated,
}

/// What one live attempt knows of itself. Written by its own steps only.
struct Broadcast<'a> {
    /// Who knows of the attempts before and after this one.
    consent: &'a dyn super::Consent,
    encode: &'a Encode,
    live: &'a Live,
    tool: Tool<'a>,
    /// FFmpeg's; absent where it does not encode.
    encoder: Option<Encoder>,
    /// Its room on a device.
    session: Session,
    media: Media,
    sinks: Vec<LiveAddress>,
    fare: Sinks,
    growing: Arc<Mutex<Growing>>,
    /// For web sources.
    egress: Option<Egress>,
    user: ToolUser,
    timeline: Timeline,
    /// Runs so far, those of earlier attempts with which this one goes on among them.
    run: u32,
    /// How many those of earlier attempts are.
    before: u32,
    /// The recording on its way to where the next attempt finds it.
    kept: Option<kept::Shared>,
    /// By which end of a run each gap came.
    causes: Vec<(u32, Cause)>,
    /// Since when the source is away, and by what; not before the first run has ended.
    lost: Option<(Instant, Failure)>,
    /// Of the first run that carried media, in whichever attempt.
    arguments: Vec<OsString>,
    succession: Succession,
}

/// How a run ended, where the attempt goes on from it.
enum RunEnd {
    /// Its time is over, or the source was a file and is at its end.
    Done,
    /// The source is gone, or the tool fell over it.
    Lost(Failure),
}

impl<'a> Attempt<'a> {
    pub(super) async fn carry_out_live(
        &mut self,
        encode: &Encode,
        live: &Live,
        consent: &dyn super::Consent,
    ) -> Result<Manifest, End> {
        let Ends { input, outputs } =
            if live.record { self.ends(encode)? } else { Ends { input: self.input(encode)?, outputs: Vec::new() } };
        if live.record
            && let Some(manifest) = self.published_before(&outputs).await
        {
            ask(&self.orders, consent).await?;
            self.forget_recording_of(live, &outputs).await;
            return Ok(manifest);
        }
        let prepared = self.prepare_live((encode, live), input, &outputs, consent).await;
        if let Err(end) = &prepared
            && end.is_cancelled()
        {
            self.forget_recording_of(live, &outputs).await;
        }
        let (mut broadcast, source) = prepared?;
        let went = self.go_on(&mut broadcast).await;
        judge(&broadcast.session, &went);
        let went = match went {
            Ok(()) => self.conclude_live(&mut broadcast, outputs, source, consent).await,
            Err(end) => Err(end),
        };
        self.settle_recording(&mut broadcast, &went).await;
        went
    }

    /// All that comes before the first run: room, source, encoder, and what earlier attempts have recorded.
    async fn prepare_live<'b>(
        &mut self,
        (encode, live): (&'b Encode, &'b Live),
        input: Option<Input>,
        outputs: &[Destination],
        consent: &'b dyn super::Consent,
    ) -> Result<(Broadcast<'b>, Option<(SourceIdentity, Probe)>), End>
    where
        'a: 'b,
    {
        let user = self.user(input.as_ref().and_then(Input::file))?;
        self.make_room(user)?;
        let (source, media) = match input {
            None => (None, media(encode)?),
            Some(input) => {
                let (path, identity) = self.bring(input).await?;
                self.usage.input_bytes = Some(identity.size_bytes);
                let probed = self.probe_source(&path, user).await?;
                if probed.probe.video.is_none() {
                    return Err(End::failure(Cause::InputBad, "the input has no video stream"));
                }
                (Some((identity, probed.probe.clone())), Media::File(path, Box::new(probed)))
            }
        };
        let mut broadcast = self.broadcast(encode, live, media, user, consent).await?;
        self.keep_recording(&mut broadcast, outputs).await?;
        Ok((broadcast, source))
    }

    async fn broadcast<'b>(
        &mut self,
        encode: &'b Encode,
        live: &'b Live,
        media: Media,
        user: ToolUser,
        consent: &'b dyn super::Consent,
    ) -> Result<Broadcast<'b>, End>
    where
        'a: 'b,
    {
        let tool = self.live_tool(&media)?;
        let videos: &[_] = if tool.is_gstreamer() { &[] } else { &[&encode.video] };
        let (encoders, session) = self.encoders(videos).await?;
        let encoder = encoders.into_iter().next().flatten();
        let sinks: Result<Vec<LiveAddress>, End> = live.sinks.iter().map(|url| address("output", url)).collect();
        let sinks = sinks?;
        let growing = self.growing(live, encode, user)?;
        if let Some(pem) = self.shop.stores.live_ca() {
            let written = self.create_in_scratch(CERTIFICATES.as_ref()).and_then(|mut file| file.write_all(pem));
            written.map_err(|error| {
                End::failure(roots::io_cause(&error), format!("{CERTIFICATES} cannot be written: {error}"))
            })?;
        }
        let is_web = matches!(&media, Media::Live(source) if source.protocol.is_web());
        let egress = if is_web {
            let secure = match &media {
                Media::Live(source) if source.protocol == Protocol::HlsTls => Some((source.host.clone(), source.port)),
                Media::Live(_) | Media::File(..) | Media::Generated => None,
            };
            let open = Egress::open(self.shop.clone(), secure).await;
            Some(open.map_err(|error| End::failure(Cause::Platform, format!("no proxy can be made: {error}")))?)
        } else {
            None
        };
        Ok(Broadcast {
            consent,
            encode,
            live,
            tool,
            encoder,
            session,
            media,
            fare: Sinks::new(sinks.iter().map(ToString::to_string)),
            sinks,
            growing,
            egress,
            user,
            timeline: Timeline::default(),
            run: 0,
            before: 0,
            kept: None,
            causes: Vec::new(),
            lost: None,
            arguments: Vec::new(),
            succession: if self.grant.attempt > 1 && !live.sinks.is_empty() {
                Succession::Waits
            } else {
                Succession::Owns
            },
        })
    }

    fn growing(&self, live: &Live, encode: &Encode, user: ToolUser) -> Result<Arc<Mutex<Growing>>, End> {
        let job = self.grant.job;
        let place = |path: &str| self.shop.roots.output(Some(path), &job.to_string(), encode.container);
        let prefix = format!("{}-", job.0.simple());
        let (mut playlist, mut presentation) = (None, None);
        if let Some(path) = &live.playlist {
            let opened = Playlist::open(self.scratch_path(), place(path)?, prefix.clone())
                .and_then(|playlist| give_to_tool(&playlist, user).map(|()| playlist));
            playlist = Some(opened.map_err(|error| ungrown(&error))?);
        }
        if let Some(path) = &live.presentation {
            let opened = Carried::open(self.scratch_path(), place(path)?, prefix, self.grant.attempt);
            presentation = Some(opened.map_err(|error| ungrown(&error))?);
        }
        Ok(Arc::new(Mutex::new(Growing::new(playlist, presentation))))
    }

    /// Runs the tool again and again.
    async fn go_on(&mut self, broadcast: &mut Broadcast<'_>) -> Result<(), End> {
        let mut pause = None;
        if self.is_over(broadcast) {
            return self.end_before(broadcast);
        }
        loop {
            broadcast.run += 1;
            let began = Instant::now();
            let failure = match self.live_run(broadcast).await? {
                RunEnd::Done => return Ok(()),
                RunEnd::Lost(failure) => failure,
            };
            let carried = broadcast.timeline.of_run(broadcast.run);
            if carried.is_some_and(|secs| secs >= HEALTHY.as_secs_f64()) {
                pause = None;
            }
            self.note_loss(broadcast, failure, carried.is_some(), began);
            self.keep_causes(broadcast).await;
            let is_over = broadcast.run - broadcast.before > broadcast.live.restarts;
            let wait = pause_after(pause, rand::random());
            if is_over || broadcast.is_given_up(wait) {
                return broadcast.give_up(is_over);
            }
            pause = Some(wait);
            if self.wait_for_source(broadcast, wait).await? {
                return Ok(());
            }
        }
    }

    /// Whether there is nothing to wait for any more, with what earlier attempts have recorded.
    fn is_over(&self, broadcast: &Broadcast<'_>) -> bool {
        let is_wanted = *self.orders.finish.borrow() && !self.orders.freeze.borrow().holds();
        broadcast.before > 0
            && (is_wanted || broadcast.is_full() || self.left(broadcast).is_some_and(|left| left.is_zero()))
    }

    /// The end of an attempt that finds its job's time over. Where a source that stays away is to fail the job, it is a
    /// failure that the time went by without it; a wish is obeyed in any case, and so is a disk that holds no more.
    fn end_before(&self, broadcast: &Broadcast<'_>) -> Result<(), End> {
        let last = broadcast.causes.iter().max_by_key(|(run, _)| *run).map(|(_, cause)| *cause);
        let is_wanted =
            *self.orders.finish.borrow() || broadcast.is_full() || broadcast.live.source_end == SourceEnd::Finish;
        match last.filter(|cause| is_of_the_source(*cause) && !is_wanted) {
            Some(cause) => Err(End::failure(cause, "the source was away when the job's time was over")),
            None => Ok(()),
        }
    }

    /// Has all that the attempt before this one recorded: it may still do so, and says so when it has let go.
    async fn wait_for_the_one_before(&self, broadcast: &mut Broadcast<'_>) -> Result<(), End> {
        if broadcast.kept.is_none() || broadcast.succession != Succession::Waits {
            return Ok(());
        }
        self.wait_to_take_over(broadcast).await
    }

    /// Says that a run was lost, once for every time the source goes away.
    fn note_loss(&mut self, broadcast: &mut Broadcast<'_>, failure: Failure, had_media: bool, began: Instant) {
        let is_sink = is_of_sinks(&failure);
        let is_known = broadcast.lost.as_ref().is_some_and(|(_, before)| is_of_sinks(before) == is_sink);
        if !had_media && is_known {
            return;
        }
        // Of a sink it was said already.
        if !is_sink {
            let evidence = failure.evidence.as_ref().map(|line| format!(" ({line})")).unwrap_or_default();
            self.reporter.log(&format!("[ffpool] {}: {}{evidence}", failure.cause, failure.message));
            tracing::info!(cause = %failure.cause, run = broadcast.run, "a live source went away");
            metrics::counter!(names::WORKER_LIVE_LOSSES, "cause" => failure.cause.as_str()).increment(1);
        }
        broadcast.causes.push((broadcast.run, failure.cause));
        let since = if had_media { Instant::now() } else { began };
        broadcast.lost = Some((since, failure));
    }

    /// Waits before the next run. Answers whether the job's time is over meanwhile.
    async fn wait_for_source(&self, broadcast: &Broadcast<'_>, pause: Duration) -> Result<bool, End> {
        let (mut stop, mut finish) = (self.orders.stop.clone(), self.orders.finish.clone());
        let has_something = !broadcast.live.record || broadcast.timeline.began().is_some();
        let over = async {
            match self.left(broadcast) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = crate::store::fetch::stopped(&mut stop) => Err(order.into()),
            () = over => Ok(true),
            Ok(_) = finish.wait_for(|is_wanted| *is_wanted), if has_something => Ok(true),
            () = tokio::time::sleep(pause) => Ok(false),
        }
    }

    /// Seconds of the attempt's clock.
    fn clock(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// How much of the job's time is left; `None`: it has no end that is known. Before the first media it does not run.
    fn left(&self, broadcast: &Broadcast<'_>) -> Option<Duration> {
        let began = broadcast.timeline.began()?;
        let since = (self.clock() - began).max(0.0);
        let by_length = match &broadcast.media {
            Media::Live(_) => broadcast.encode.duration_secs.map(|secs| secs - since),
            Media::File(..) | Media::Generated => None,
        };
        let by_deadline = self.grant.spec.deadline.map(|deadline| {
            let left = deadline.duration_since(jiff::Timestamp::now()).as_secs_f64();
            left - margin(broadcast.live.record, since)
        });
        let left = [by_length, by_deadline].into_iter().flatten().reduce(f64::min)?;
        Some(Duration::from_secs_f64(left.max(0.0)))
    }

    /// Joins, proves and publishes what was recorded, and says how it went.
    async fn conclude_live(
        &mut self,
        broadcast: &mut Broadcast<'_>,
        outputs: Vec<Destination>,
        source: Option<(SourceIdentity, Probe)>,
        consent: &dyn super::Consent,
    ) -> Result<Manifest, End> {
        let (encode, user) = (broadcast.encode, broadcast.user);
        let first_run = std::mem::take(&mut broadcast.arguments);
        self.wait_for_the_one_before(broadcast).await?;
        self.lay_out_earlier(broadcast).await?;
        let made = if broadcast.live.record {
            let first_run = (first_run.clone(), broadcast.tool.version());
            let made = self.join(encode, &mut broadcast.timeline, first_run, user).await?;
            Some(made.ok_or_else(record::nothing)?)
        } else {
            None
        };
        let ready = match &made {
            Some(made) => {
                self.make_thumbnail(made.outputs.iter().map(|output| (output, encode.container)), user).await;
                self.stage_all(&made.outputs, outputs).await?
            }
            None => Vec::new(),
        };
        self.reporter.phase(Phase::Commit, Some(NEARLY));
        if let Err(end) = ask(&self.orders, consent).await {
            discard(ready).await;
            return Err(end);
        }
        let growing = broadcast.growing.clone();
        let ended = blocking(move || growing.lock().unwrap_or_else(PoisonError::into_inner).end()).await?;
        ended.map_err(|error| ungrown(&error))?;
        let live = Some(broadcast.report());
        match made {
            Some(made) => {
                let manifest = Manifest { live, ..self.manifest(&ready, made, source) };
                let manifest = self.make_visible(ready, manifest).await?;
                if let Some(kept) = &broadcast.kept {
                    self.forget_recording(kept).await;
                }
                Ok(manifest)
            }
            None => {
                let bare = self.bare_manifest(&first_run, &[], source);
                let (tool, checker) = match broadcast.tool.version() {
                    Some(tool) => (tool, Some(bare.tool)),
                    None => (bare.tool, None),
                };
                Ok(Manifest { live, tool, checker, ..bare })
            }
        }
    }

    /// Says what is new about a sink.
    fn say(&self, news: &News) {
        let said = match news {
            News::Down(sink) => {
                metrics::counter!(names::WORKER_SINK_LOSSES).increment(1);
                format!("[ffpool] {}: {sink} takes nothing", Cause::SinkRefused)
            }
            News::Up(sink) => format!("[ffpool] {sink} takes again what is sent to it"),
            News::Slow(sink) => format!("[ffpool] {sink} takes less than is sent to it and loses some"),
        };
        self.reporter.log(&said);
    }
}

impl Broadcast<'_> {
    /// Whether there is no room for more of the recording.
    fn is_full(&self) -> bool {
        self.kept.as_ref().is_some_and(kept::Shared::is_full)
    }

    /// Whether this attempt itself has had media.
    fn has_begun(&self) -> bool {
        self.timeline.spans().iter().any(|span| span.run > self.before)
    }

    /// Whether the source is away for longer than it may be, by the end of the next pause.
    fn is_given_up(&self, pause: Duration) -> bool {
        self.lost.as_ref().is_some_and(|(since, _)| since.elapsed() + pause > self.patience())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.live.reconnect_secs)
    }

    /// The end of a job whose source stays away.
    fn give_up(&mut self, is_over: bool) -> Result<(), End> {
        // An attempt that never saw the source may be where it cannot be reached; the next may be elsewhere.
        let is_away = self.lost.as_ref().is_some_and(|(_, failure)| is_absence(failure.cause));
        let is_end = self.live.source_end == SourceEnd::Finish
            && self.timeline.began().is_some()
            && (self.has_begun() || is_away);
        let Some((_, failure)) = self.lost.take().filter(|(_, failure)| !is_end || is_of_sinks(failure)) else {
            return Ok(());
        };
        let why = if is_over {
            format!("the tool was started {} times", self.run - self.before)
        } else {
            format!("it stayed so for {} s", self.live.reconnect_secs)
        };
        Err(End::failed(Failure { message: format!("{}, and {why}", failure.message), ..failure }))
    }

    /// What is known of the runs.
    fn account(&self) -> kept::Account {
        kept::Account { spans: self.timeline.spans().to_vec(), causes: self.causes.clone() }
    }

    fn report(&self) -> LiveReport {
        let cause =
            |run: u32| self.causes.iter().find(|(at, _)| *at == run).map_or(Cause::SourceGone, |(_, cause)| *cause);
        let gaps = self.timeline.gaps();
        let gaps = gaps.into_iter().map(|(run, at_secs, secs)| LiveGap { at_secs, secs, cause: cause(run) });
        LiveReport {
            runs: u32::try_from(self.timeline.placed().len()).unwrap_or(u32::MAX),
            secs: self.timeline.secs(),
            gaps: gaps.collect(),
            sinks: self.fare.report(),
        }
    }
}

/// Whether a run was lost by its sinks, not by its source.
fn is_of_sinks(failure: &Failure) -> bool {
    failure.cause == Cause::SinkRefused
}

/// Whether a cause says that the source itself was not there.
fn is_absence(cause: Cause) -> bool {
    matches!(cause, Cause::SourceGone | Cause::Stall | Cause::EncoderSlow)
}

/// Whether a cause is the source's, or of the way to it.
fn is_of_the_source(cause: Cause) -> bool {
    is_absence(cause) || matches!(cause, Cause::Dns | Cause::Tls | Cause::InputAuth)
}

/// What has to be left before a deadline so that a recording can be joined and proven.
fn margin(record: bool, recorded_secs: f64) -> f64 {
    if record { 10.0 + recorded_secs / 10.0 } else { 5.0 }
}

fn media(encode: &Encode) -> Result<Media, End> {
    match &encode.source {
        Source::Live { url } => address("input", url).map(Media::Live),
        Source::Generated { .. } => Ok(Media::Generated),
        Source::File { .. } | Source::Remote { .. } => Err(End::failure(Cause::Platform, "a file was not brought")),
    }
}

fn address(field: &str, url: &str) -> Result<LiveAddress, End> {
    let purpose = if field == "input" { Use::Input } else { Use::Output };
    match location(field, url, purpose)? {
        Location::Live(address) => Ok(address),
        Location::File(_) | Location::Web(_) | Location::Object(_) => {
            Err(End::rejected(field, "bad_value", "a live address is expected"))
        }
    }
}

/// Why a playlist or presentation cannot grow.
fn ungrown(error: &std::io::Error) -> End {
    End::failure(roots::io_cause(error), format!("the live playlist or presentation: {error}"))
}

/// A playlist that goes on is replaced by the tool, and read by it first.
fn give_to_tool(playlist: &Playlist, user: ToolUser) -> std::io::Result<()> {
    match user {
        ToolUser::Switch { uid, gid } if playlist.is_begun() => {
            std::os::unix::fs::lchown(playlist.in_scratch(), Some(uid), Some(gid))
        }
        ToolUser::Own | ToolUser::Switch { .. } => Ok(()),
    }
}
