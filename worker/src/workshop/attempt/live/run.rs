//! One run of the tool within a live attempt: dialled where it may go, listened to, and ended when its time is over.
//!
//! Invariant: a host's address is judged anew before every run. A run is ended for one reason, and what the attempt
//! makes of it depends on that reason alone: our orders and limits end the attempt, the source's doings end the run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::live::{Live, LiveAddress, Protocol};
use ffpool_schema::message::{LiveProgress, Phase, Progress};
use ffpool_schema::metrics as names;
use ffpool_schema::plan::live::{LiveRequest, LiveSource, silence_secs};
use tokio::sync::watch;

use super::super::{Attempt, End, blocking};
use super::egress::Egress;
use super::growing::Growing;
use super::handover::{self, Handing, Succession};
use super::kept::RunFile;
use super::pipeline::{Reading, Tool};
use super::record::piece_name;
use super::recording::Keeping;
use super::{Broadcast, Media, RunEnd, is_of_sinks, ungrown};
use crate::cage::egress::Reach;
use crate::classify::{self, Exit};
use crate::live::pace::Pace;
use crate::live::sinks::Sinks;
use crate::live::timeline::Timeline;
use crate::progress::Block;
use crate::store::trouble::Trouble;
use crate::tool::{self, EndedBy, Finished, Listener};
use crate::workshop::Stop;

/// How often it is looked at whether a run's time is over.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked at what grows.
const CARRY: Duration = Duration::from_millis(200);
/// Percent shown of an encode that is not proven yet.
const PERCENT_CAP: f64 = 99.9;

/// Sinks, each at the address that was judged.
type Dialled = Vec<(LiveAddress, Option<IpAddr>)>;

/// Why we end a run ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The job's time is over, or its room.
    Time,
    /// Somebody wants it to end with what it has.
    Wish,
    /// Nothing comes from the source.
    NoSource,
    /// No sink takes what is sent to it.
    NoSink,
}

/// What a run has told, for whoever decides when it is over.
pub(super) struct Heard<'h> {
    timeline: &'h mut Timeline,
    fare: &'h mut Sinks,
    pace: Pace,
    run: u32,
    /// Whether it is the attempt's first.
    is_first: bool,
    succession: watch::Receiver<Succession>,
}

impl Heard<'_> {
    pub(super) fn timeline(&self) -> &Timeline {
        self.timeline
    }

    /// Whether the run has carried media.
    pub(super) fn has_media(&self) -> bool {
        self.timeline.of_run(self.run).is_some()
    }

    /// Whether there is nothing to send yet, and may be soon.
    pub(super) fn is_preparing(&self) -> bool {
        self.is_first && !self.has_media()
    }
}

impl Attempt<'_> {
    pub(super) async fn live_run(&mut self, broadcast: &mut Broadcast<'_>) -> Result<RunEnd, End> {
        let frozen_for = self.frozen_for;
        self.stand_still_keeping(broadcast).await;
        broadcast.stood_still(self.frozen_for - frozen_for);
        let left = self.generated_left(broadcast);
        if left.is_some_and(|secs| secs <= 0.0) {
            return Ok(RunEnd::Done);
        }
        let dialled = match self.dial(broadcast).await {
            Ok(dialled) => dialled,
            Err(trouble) if trouble.cause == Cause::Policy => return Err(trouble.into()),
            Err(trouble) => return Ok(RunEnd::Lost(trouble.into())),
        };
        let (sinks, unreachable) = self.dial_sinks(broadcast).await?;
        self.note_unreachable(broadcast, &unreachable);
        if sinks.is_empty() && broadcast.live.needs_sink() {
            let mut failure = Failure::new(Cause::SinkRefused, "no sink can be reached");
            failure.evidence = unreachable.first().map(|(index, why)| format!("{}: {why}", broadcast.sinks[*index]));
            return Ok(RunEnd::Lost(failure));
        }
        self.take_sinks_first(broadcast).await?;
        // What was said of an earlier run is over.
        if let Some(egress) = &broadcast.egress {
            egress.begin();
        }
        let growing = broadcast.growing.clone();
        let run = broadcast.run;
        let begun = blocking(move || growing.lock().unwrap_or_else(PoisonError::into_inner).begin(run)).await?;
        begun.map_err(|error| ungrown(&error))?;
        let arguments = self.live_run_arguments(broadcast, dialled, &sinks)?;
        self.keep_run(broadcast, &arguments).await;
        let is_live = matches!(broadcast.media, Media::Live(_));
        self.reach = Some(self.reach_of(broadcast, dialled, &sinks).await);
        let (order, stop) = watch::channel(None);
        let mut watch = self.watch(Some(self.stall_after(is_live)));
        watch.stop = stop;
        let reason = OnceLock::new();
        let succession = watch::Sender::new(broadcast.succession);
        let is_first = run == broadcast.before + 1;
        let (finished, was_slow, coming) = {
            let Broadcast {
                consent, timeline, fare, encode, live, user, lost, growing, media, tool, kept, causes, ..
            } = &mut *broadcast;
            let secs = encode.duration_secs;
            let is_possible = handover::is_possible(live, media);
            let handing = Handing { consent: *consent, growing, is_possible, succession: succession.subscribe() };
            let heard = Mutex::new(Heard {
                timeline,
                fare,
                pace: Pace::default(),
                run,
                is_first,
                succession: succession.subscribe(),
            });
            let keeping = Keeping { kept: kept.as_ref(), heard: &heard, causes };
            let mut ear = Ear { attempt: self, heard: &heard, reading: tool.reading(), secs };
            let program = match tool {
                Tool::Ffmpeg => &self.shop.ffmpeg,
                Tool::Gstreamer(there) => &there.program,
            };
            let invocation = self.invocation(program, &arguments, *user);
            let limits = Limits {
                secs: secs.filter(|_| is_live),
                patience: Duration::from_secs(live.reconnect_secs),
                stall: self.stall_after(is_live),
                lost: lost.as_ref().filter(|(_, failure)| is_live && !is_of_sinks(failure)).map(|(since, _)| *since),
                record: live.record,
                needs_sink: live.needs_sink(),
            };
            let steering = self.steer(keeping, &limits, order, &reason, &handing);
            let carrying = self.carry(growing);
            let taking = self.take_over(*consent, &heard, &succession);
            let finished = tokio::select! {
                finished = tool::run(&self.shop.quarters.launcher, invocation, watch, &mut ear) => Ok(finished),
                never = steering => match never {},
                never = taking => match never {},
                never = self.keep(keeping) => match never {},
                end = carrying => Err(end),
            };
            let was_slow = heard.lock().unwrap_or_else(PoisonError::into_inner).pace.is_slow();
            (finished, was_slow, ear.reading.coming())
        };
        self.reach = None;
        let finished = finished?;
        broadcast.succession = *succession.borrow();
        if broadcast.timeline.of_run(run).is_some() && broadcast.arguments.is_empty() {
            broadcast.arguments = arguments;
        }
        let finished = finished.map_err(|error| match self.orders.stop.borrow().clone() {
            Some(order) => order.into(),
            None => End::failure(Cause::Platform, format!("{} cannot be run: {error}", broadcast.tool.name())),
        })?;
        self.count(&finished);
        broadcast.put_off_loss(finished.frozen_for);
        let is_lost = matches!(*self.orders.stop.borrow(), Some(Stop::Abandon | Stop::Cancel));
        if !is_lost {
            let file = if finished.signal().is_none() { RunFile::Closed } else { RunFile::Torn };
            self.keep_rest(broadcast, file).await;
        }
        if finished.ended_by == EndedBy::Stall
            && let Some(end) = self.held_up(broadcast, coming)
        {
            return end;
        }
        self.judge(broadcast, &finished, reason.get().copied(), was_slow)
    }

    /// The source at an address that was judged. `None`: it is no live one, or goes through the proxy, which judges.
    async fn dial(&self, broadcast: &Broadcast<'_>) -> Result<Option<IpAddr>, Trouble> {
        match &broadcast.media {
            Media::Live(source) => self.judged(source).await.map(Some),
            Media::File(..) | Media::Generated => Ok(None),
        }
    }

    /// Where the run's tool may go: to the worker's proxy, to what was judged and is dialled, and where its tool looks a name up
    /// itself, to all that this name stands for, also when that changes while it runs.
    async fn reach_of(&self, broadcast: &Broadcast<'_>, ip: Option<IpAddr>, sinks: &Dialled) -> Reach {
        let source = match &broadcast.media {
            Media::Live(address) => Some((address, ip)),
            Media::File(..) | Media::Generated => None,
        };
        let mut to = Vec::new();
        if let Some(egress) = &broadcast.egress {
            to.push(SocketAddr::from((Ipv4Addr::LOCALHOST, egress.port)));
        }
        let mut names = Vec::new();
        for (address, ip) in source.into_iter().chain(sinks.iter().map(|(address, ip)| (address, *ip))) {
            if address.protocol.is_web() {
                continue;
            }
            to.extend(ip.map(|ip| SocketAddr::new(ip, address.port)));
            if address.protocol == Protocol::Rtmps {
                names.push((address.host.clone(), address.port));
                to.extend(self.shop.stores.reach(&address.host, address.port).await.unwrap_or_default());
            }
        }
        let reach = Reach::to(to);
        if names.is_empty() {
            return reach;
        }
        let (shop, names) = (self.shop.clone(), Arc::new(names));
        reach.and_names().and_where_names_move(move || {
            let (shop, names) = (shop.clone(), names.clone());
            async move {
                let mut found = Vec::new();
                for (host, port) in names.iter() {
                    found.extend(shop.stores.reach(host, *port).await.unwrap_or_default());
                }
                found
            }
        })
    }

    async fn judged(&self, address: &LiveAddress) -> Result<IpAddr, Trouble> {
        let found = self.shop.stores.reach(&address.host, address.port).await?;
        // Most servers of live media listen there, whatever their names say besides.
        let found = found.iter().find(|address| address.is_ipv4()).or(found.first()).map(std::net::SocketAddr::ip);
        found.ok_or_else(|| Trouble::passing(Cause::Dns, format!("the name `{}` does not resolve", address.host)))
    }

    /// Every sink that can be dialled now, at an address that was judged, and why which others cannot.
    async fn dial_sinks(&self, broadcast: &mut Broadcast<'_>) -> Result<(Dialled, Vec<(usize, String)>), End> {
        let mut sinks = Vec::new();
        let mut dialled = Vec::new();
        let mut unreachable = Vec::new();
        for (index, sink) in broadcast.sinks.iter().enumerate() {
            match self.judged(sink).await {
                Ok(ip) => {
                    dialled.push(Some(sink.dialled(Some(ip))));
                    sinks.push((sink.clone(), Some(ip)));
                }
                Err(trouble) if trouble.cause == Cause::Policy => return Err(trouble.into()),
                Err(trouble) => {
                    dialled.push(None);
                    unreachable.push((index, trouble.message));
                }
            }
        }
        // A pipeline's sink is up when it has taken something.
        if broadcast.tool.is_gstreamer() {
            broadcast.fare.renew(self.started.elapsed());
        } else {
            broadcast.fare.begin(&dialled);
        }
        Ok((sinks, unreachable))
    }

    /// Counts sinks that cannot be dialled as down. A pipeline that has not taken its sink yet leaves it to who feeds it.
    fn note_unreachable(&self, broadcast: &mut Broadcast<'_>, unreachable: &[(usize, String)]) {
        if broadcast.tool.is_gstreamer() && broadcast.succession != Succession::Owns {
            return;
        }
        for (index, why) in unreachable {
            if let Some(news) = broadcast.fare.unreachable(*index, why, self.started.elapsed()) {
                self.say(&news);
            }
        }
    }

    fn live_run_arguments(
        &self,
        broadcast: &Broadcast<'_>,
        ip: Option<IpAddr>,
        sinks: &[(LiveAddress, Option<IpAddr>)],
    ) -> Result<Vec<std::ffi::OsString>, End> {
        let record = piece_name(broadcast.run);
        let segments = format!("{}-{}-{}-%06d.ts", self.grant.job.0.simple(), self.grant.attempt, broadcast.run);
        let (is_continued, stem) = {
            let growing = broadcast.growing.lock().unwrap_or_else(PoisonError::into_inner);
            let is_continued = growing.playlist.as_ref().is_some_and(super::Playlist::is_begun);
            (is_continued, growing.presentation.as_ref().map(|presentation| presentation.stem(broadcast.run)))
        };
        let presentation = super::presentation::name(broadcast.run);
        let is_live = matches!(broadcast.media, Media::Live(_));
        let secs = match &broadcast.media {
            // Later runs have an end on the clock.
            Media::Live(_) if broadcast.timeline.began().is_some() => None,
            Media::Generated => self.generated_left(broadcast).or(broadcast.encode.duration_secs),
            Media::Live(_) | Media::File(..) => broadcast.encode.duration_secs,
        };
        let request = LiveRequest {
            encode: broadcast.encode,
            encoder: broadcast.encoder,
            device: broadcast.encoder.and_then(|encoder| broadcast.session.device(encoder)),
            threads: self.shop.threads(&self.grant.spec),
            source: match &broadcast.media {
                Media::Live(address) => {
                    LiveSource::Live(address, ip, broadcast.egress.as_ref().map(|egress| egress.port))
                }
                Media::File(path, _) => LiveSource::File(path),
                Media::Generated => LiveSource::Generated,
            },
            sinks,
            recording: broadcast.live.record.then_some(Path::new(&record)),
            playlist: broadcast.live.playlist.as_ref().map(|_| (Path::new(super::playlist::NAME), segments.as_str())),
            presentation: stem.as_deref().map(|stem| (Path::new(&presentation), stem)),
            is_continued,
            is_later: broadcast.run > 1,
            is_heir: broadcast.succession != Succession::Owns,
            ca_file: self.shop.stores.live_ca().map(|_| Path::new(super::CERTIFICATES)),
            silence_secs: silence_secs(self.stall_after(is_live).as_secs()),
            secs,
        };
        let arguments = self.tool_arguments(broadcast, &request)?;
        // A pipeline has no such options.
        let is_bounded = !broadcast.tool.is_gstreamer();
        Ok(if is_bounded { self.shop.settings.bounds.applied(arguments) } else { arguments })
    }

    pub(super) fn stall_after(&self, is_live: bool) -> Duration {
        let fed = self.shop.settings.live_stall_after.as_secs();
        Duration::from_secs(Live::stall_sec(self.grant.spec.resource_limits.stall_sec, is_live, fed))
    }

    /// Passes on what the attempt is told, and ends the run when its time is over or nothing comes of it.
    async fn steer(
        &self,
        keeping: Keeping<'_, '_>,
        limits: &Limits,
        order: watch::Sender<Option<Stop>>,
        reason: &OnceLock<Over>,
        handing: &Handing<'_>,
    ) -> std::convert::Infallible {
        let mut stop = self.orders.stop.clone();
        let mut look = tokio::time::interval(LOOK);
        let mut still = Still::default();
        loop {
            tokio::select! {
                told = crate::store::fetch::stopped(&mut stop) => {
                    self.hand_over(handing, keeping, &told).await;
                    // Something stronger may have come meanwhile.
                    let told = self.orders.stop.borrow().clone().unwrap_or(told);
                    order.send_replace(Some(told));
                    std::future::pending::<()>().await;
                }
                _ = look.tick() => {}
            }
            let frozen = still.look(self.orders.freeze.borrow().holds(), self.started.elapsed());
            let why = {
                let mut heard = keeping.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.fare.stood_still(frozen);
                self.why_over(&heard, limits, still.whole)
            };
            if let Some(why) = why.or_else(|| keeping.is_full().then_some(Over::Time))
                && order.borrow().is_none()
            {
                // Once: the run ends by it.
                let _ = reason.set(why);
                order.send_replace(Some(Stop::Release("the run is over".to_owned())));
            }
        }
    }

    /// Whether a run is over, of which the tool stood still for so long.
    fn why_over(&self, heard: &Heard<'_>, limits: &Limits, still: Duration) -> Option<Over> {
        // What has nothing yet cannot end with what it has: an attempt that follows another is told at once.
        // A frozen tool could not end in good order.
        let is_frozen = self.orders.freeze.borrow().holds();
        if *self.orders.finish.borrow() && !is_frozen && (!limits.record || heard.timeline.began().is_some()) {
            return Some(Over::Wish);
        }
        let has_media = heard.has_media();
        let secs = heard.timeline.secs();
        if let Some(began) = heard.timeline.began() {
            let since = (self.clock() - began).max(0.0);
            // The media, or the clock where they come no more.
            let is_long = |wish: f64| (has_media && secs >= wish) || since >= wish + limits.stall.as_secs_f64();
            let deadline = self.grant.spec.deadline.map(|deadline| {
                let left = deadline.duration_since(jiff::Timestamp::now()).as_secs_f64();
                left <= super::margin(limits.record, since)
            });
            if limits.secs.is_some_and(is_long) || deadline == Some(true) {
                return Some(Over::Time);
            }
        }
        let away = limits.lost.map(|since| since.elapsed().saturating_sub(still));
        let is_gone = away.is_some_and(|away| away > limits.patience.max(limits.stall));
        if !has_media && is_gone {
            return Some(Over::NoSource);
        }
        let down = heard.fare.all_down_since().map(|since| self.started.elapsed().saturating_sub(since));
        if limits.needs_sink && down.is_some_and(|down| down >= limits.patience) {
            return Some(Over::NoSink);
        }
        None
    }

    /// Carries out what grows for as long as the run lasts.
    async fn carry(&self, growing: &std::sync::Arc<Mutex<Growing>>) -> End {
        loop {
            tokio::time::sleep(CARRY).await;
            let growing = growing.clone();
            match blocking(move || growing.lock().unwrap_or_else(PoisonError::into_inner).carry()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return ungrown(&error),
                Err(end) => return end,
            }
        }
    }

    /// What the end of a run means.
    fn judge(
        &self,
        broadcast: &mut Broadcast<'_>,
        finished: &Finished,
        over: Option<Over>,
        was_slow: bool,
    ) -> Result<RunEnd, End> {
        let had_media = broadcast.timeline.of_run(broadcast.run).is_some();
        let is_live = matches!(broadcast.media, Media::Live(_));
        // What the proxy was told the tool heard only as a refusal, or as silence.
        let refused = broadcast.egress.as_ref().and_then(Egress::trouble);
        // Of a run with media only what ends it for sure.
        let refused = refused.filter(|trouble| !had_media || trouble.cause == Cause::InputPlaylists);
        match over {
            Some(Over::Time | Over::Wish) => return Ok(RunEnd::Done),
            Some(Over::NoSource) => {
                let silence = || Failure::new(Cause::SourceGone, "nothing came from the source");
                return Ok(RunEnd::Lost(refused.map_or_else(silence, Failure::from)));
            }
            Some(Over::NoSink) => {
                let mut failure = Failure::new(Cause::SinkRefused, "no sink takes what is sent to it");
                failure.evidence = broadcast.fare.evidence();
                return Err(End::failed(failure));
            }
            None => {}
        }
        if finished.ended_by == EndedBy::Stall && is_live {
            let failure = if had_media {
                Failure::new(Cause::Stall, "the source fell silent")
            } else {
                Failure::new(Cause::SourceGone, "nothing came from the source")
            };
            return Ok(RunEnd::Lost(refused.map_or(failure, Failure::from)));
        }
        self.ended_outside(finished, broadcast.tool.name())?;
        let is_done = finished.is_success() && broadcast.is_whole();
        if let Some(trouble) = refused.filter(|_| !is_done) {
            // What this attempt recorded before is kept; what others did is kept for the next.
            let is_final = matches!(trouble.cause, Cause::Policy | Cause::InputPlaylists) && !broadcast.has_begun();
            return if is_final { Err(trouble.into()) } else { Ok(RunEnd::Lost(trouble.into())) };
        }
        let oom_kills = self.group.as_ref().map_or(0, |group| group.usage().oom_kills);
        let exit = Exit { code: finished.status.code(), signal: finished.signal(), oom_kills };
        if finished.is_success() && oom_kills == 0 {
            return Ok(self.well_ended(broadcast, was_slow, &finished.log));
        }
        if broadcast.tool.is_gstreamer() {
            return self.pipeline_fell(broadcast, finished, exit, was_slow);
        }
        let is_rtmps = matches!(&broadcast.media, Media::Live(source) if source.protocol == Protocol::Rtmps);
        // No sink is dialled before the source is open.
        if let Some(line) = finished.log.iter().find(|line| is_rtmps && !had_media && is_of_a_certificate(line)) {
            let mut failure = Failure::new(Cause::Tls, "the source's TLS is not accepted");
            failure.evidence = Some(self.reporter.clean(line));
            return Ok(RunEnd::Lost(failure));
        }
        let log: Vec<String> = finished.log.iter().filter(|line| !is_of_a_sink(line)).cloned().collect();
        let mut failure = self.of_bounds(classify::classify("ffmpeg", exit, &log), finished.refused_forks);
        failure.evidence = failure.evidence.map(|line| self.reporter.clean(&line));
        // One damaged header of a source that was read may claim as much.
        let is_damage = matches!(failure.cause, Cause::InputPixels | Cause::InputStreams) && broadcast.has_begun();
        if !is_live || (is_ours(failure.cause) && !is_damage) {
            return Err(End::failed(failure));
        }
        let (cause, message) = match failure.cause {
            Cause::InputAuth => (Cause::InputAuth, "the source's server refuses the worker"),
            Cause::Dns => (Cause::Dns, "the source's name does not resolve"),
            Cause::Tls => (Cause::Tls, "the source's TLS is not accepted"),
            _ if was_slow => (Cause::EncoderSlow, "the encoder fell behind the source, which did not wait"),
            _ if had_media => (Cause::SourceGone, "the source went away"),
            _ => (Cause::SourceGone, "the source is not there"),
        };
        Ok(RunEnd::Lost(Failure { cause, message: message.to_owned(), ..failure }))
    }

    /// A run that ended with a good word: of a file that is its end, of a live source it is its absence.
    fn well_ended(&self, broadcast: &Broadcast<'_>, was_slow: bool, log: &[String]) -> RunEnd {
        let is_live = matches!(broadcast.media, Media::Live(_));
        if !is_live || broadcast.is_whole() {
            return RunEnd::Done;
        }
        let (cause, message) = if was_slow {
            (Cause::EncoderSlow, "the encoder fell behind the source, which did not wait")
        } else {
            (Cause::SourceGone, "the source went away")
        };
        let mut failure = Failure::new(cause, message);
        let errors = log.iter().rev().find(|line| line.contains("[error]") && !is_of_a_sink(line));
        failure.evidence = errors.map(|line| self.reporter.clean(line));
        RunEnd::Lost(failure)
    }
}

/// Lines of what carries media, which sources and sinks have in common. What a source died of is said once more without them.
fn is_of_a_sink(line: &str) -> bool {
    ["[fifo @", "[tcp @", "[tls @", "[rtmp @", "[rtmps @", "[flv @", "[libsrt @", "[srt @"]
        .iter()
        .any(|context| line.starts_with(context))
}

/// Whether a line says that a certificate is not accepted. FFmpeg says it in other words with each library of TLS.
fn is_of_a_certificate(line: &str) -> bool {
    line.starts_with("[tls @") && line.to_ascii_lowercase().contains("certificate")
}

/// Whether a failure is none of the source's: the same would come again.
pub(super) fn is_ours(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Oom
            | Cause::Crash
            | Cause::Killed
            | Cause::Device
            | Cause::Resource
            | Cause::DiskFull
            | Cause::ScratchLimit
            | Cause::OutputTooLarge
            | Cause::OpenFiles
            | Cause::Processes
            | Cause::InputPixels
            | Cause::InputStreams
            | Cause::ConfigBad
    )
}

impl Broadcast<'_> {
    /// Whether this run has brought the job to the length it is to have.
    fn is_whole(&self) -> bool {
        let had_media = self.timeline.of_run(self.run).is_some();
        had_media && self.encode.duration_secs.is_some_and(|secs| self.timeline.secs() >= secs - 0.25)
    }

    /// The attempt stood still for so long: nobody could come back meanwhile.
    fn stood_still(&mut self, still: Duration) {
        self.fare.stood_still(still);
        self.put_off_loss(still);
    }

    /// The source's absence lasts so much less than the clock says.
    fn put_off_loss(&mut self, still: Duration) {
        if let Some((since, _)) = &mut self.lost {
            *since += still;
        }
    }
}

/// How long the tool stands still within a run, by looks at whether it does.
#[derive(Debug, Default)]
struct Still {
    /// When it was last seen standing.
    at: Option<Duration>,
    whole: Duration,
}

impl Still {
    /// How much longer it stood since the look before.
    fn look(&mut self, is_frozen: bool, now: Duration) -> Duration {
        let more = self.at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        self.at = is_frozen.then_some(now);
        self.whole += more;
        more
    }
}

/// When a run is over.
struct Limits {
    /// Length of the whole, of a live source.
    secs: Option<f64>,
    patience: Duration,
    stall: Duration,
    lost: Option<tokio::time::Instant>,
    record: bool,
    needs_sink: bool,
}

/// Listens to a run.
struct Ear<'e, 'a, 'h> {
    attempt: &'e Attempt<'a>,
    heard: &'e Mutex<Heard<'h>>,
    reading: Reading,
    secs: Option<f64>,
}

impl Listener for Ear<'_, '_, '_> {
    fn output(&mut self, line: &str) -> bool {
        let clock = self.attempt.started.elapsed();
        let Some(block) = self.reading.line(line, clock) else {
            if line.starts_with("WARNING") {
                self.attempt.reporter.log(line);
            }
            return false;
        };
        let media = block.out_time_us.filter(|us| *us > 0).map(|us| us as f64 / 1e6);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let run = heard.run;
        let before = heard.timeline.of_run(run).unwrap_or(0.0);
        let has_advanced = media.is_some_and(|media| media > before);
        if let Some(media) = media.filter(|_| has_advanced) {
            heard.timeline.observe(run, clock.as_secs_f64(), media);
            if heard.pace.observe(clock, media) {
                self.attempt.reporter.log("[ffpool] encoder_slow: the encode falls behind its source");
                metrics::counter!(names::WORKER_LIVE_SLOW).increment(1);
            }
        }
        let news = if has_advanced && self.reading.proves_sink() { heard.fare.taken(0) } else { None };
        if let Some(news) = news {
            self.attempt.say(&news);
        }
        if self.reading.is_due(has_advanced) {
            let progress = self.progress(&block, &heard, has_advanced);
            self.attempt.reporter.send(progress);
        }
        drop(heard);
        has_advanced
    }

    fn log(&mut self, line: &str) {
        // What is said as information is for us.
        if !line.contains("[info]") {
            self.attempt.reporter.log(line);
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A sink that another attempt feeds refuses this one.
        if *heard.succession.borrow() != Succession::Owns {
            return;
        }
        if let Some(news) = heard.fare.line(line, self.attempt.started.elapsed()) {
            self.attempt.say(&news);
        }
    }
}

impl Ear<'_, '_, '_> {
    fn progress(&self, block: &Block, heard: &Heard<'_>, is_up: bool) -> Progress {
        let secs = heard.timeline.secs();
        Progress {
            percent: self.secs.map(|wish| (secs / wish * 100.0).clamp(0.0, PERCENT_CAP)),
            frame: block.frame,
            fps: block.fps,
            speed: block.speed,
            out_time_us: Some((secs * 1e6) as i64),
            size_bytes: block.total_size,
            // It plays as fast as it comes.
            eta_secs: self.secs.map(|wish| (wish - secs).max(0.0)),
            live: Some(LiveProgress {
                run: heard.run,
                is_up,
                dropped: block.dropped.unwrap_or(0),
                duplicated: block.duplicated.unwrap_or(0),
                sinks_down: u32::try_from(heard.fare.down_count()).unwrap_or(u32::MAX),
            }),
            ..self.attempt.reporter.blank(Phase::Encode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_stands_still_from_the_look_that_sees_it_to_the_look_that_does_not() {
        let (mut still, at) = (Still::default(), Duration::from_secs);
        let looks =
            [(false, 1, 0), (true, 2, 0), (true, 5, 3), (false, 9, 4), (false, 12, 0), (true, 13, 0), (false, 14, 1)];
        for (is_frozen, now, more) in looks {
            assert_eq!(still.look(is_frozen, at(now)), at(more), "at {now}");
        }
        assert_eq!(still.whole, at(8));
    }
}
