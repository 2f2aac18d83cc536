//! What workers ask: may I run this delivery, may I publish this output, will you answer for this job.
//!
//! Invariant: a worker is answered only what is committed. When the ledger is away there is no answer, and the worker
//! asks again.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ffpool_broker::{Request, Signals, Subscription};
use ffpool_runtime::traces::{self, Context};
use ffpool_schema::chunk::Piece;
use ffpool_schema::encode::{CodecChoice, Encode, Encoder, PixelFormat, VideoEncode};
use ffpool_schema::id::JobId;
use ffpool_schema::job::{HardwarePolicy, JobSpec};
use ffpool_schema::lifecycle::{Input, Step};
use ffpool_schema::message::{
    Ability, ClaimReply, ClaimRequest, CommitReply, CommitRequest, DropReason, Grant, HoldScope, MAX_BODY_BYTES,
    Sender, TakeRequest,
};
use ffpool_schema::metrics as names;
use ffpool_schema::parse::{self, Fault, Received};
use ffpool_schema::{scenario, subjects};
use metrics::{counter, histogram};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, error, field, info_span, warn};

use crate::control;
use crate::fleet::Fleet;
use crate::ledger::{
    AnonymousClaim, AnonymousVerdict, ApplyError, Decided, Evidence, Happening, Ledger, Lessons, NewJob, OnlyIf,
    Origin, Verdict, Via,
};
use crate::settings::Unfit;

/// Questions in hand at a time; the rest waits in the subscription.
const IN_HAND: usize = 2_000;
/// Nobody waits for an answer longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the proof that NATS knows our subscriptions.
const PROOF: Duration = Duration::from_secs(2);
/// Before it is asked for again.
const PROVE_AGAIN: Duration = Duration::from_millis(100);
/// For the questions that are on their way when it stops.
const LAST_QUESTIONS: Duration = Duration::from_secs(1);
/// Pause of a worker whose delivery cannot be decided.
const HOLD_MS: u64 = 5_000;
/// Why a delivery waits whose job only the tap can record.
const UNTOLD: &str = "it is not recorded yet, and this worker is too old to say who published it";
/// Why a delivery waits of whose job the ledger keeps the id alone.
const FORGOTTEN: &str = "its job is forgotten; if it was handed in again, it is on record when this comes back";
/// Pause of a worker whose queue somebody has paused.
const PAUSED_MS: u64 = 2_000;

/// Answers workers.
pub(crate) struct Desk {
    pub(crate) ledger: Ledger,
    pub(crate) signals: Signals,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) unfit: Unfit,
    /// Set once claims come here.
    pub(crate) serves: watch::Sender<bool>,
}

impl Desk {
    /// Answers claims, commits and custody requests until `stop`; then finishes what is in hand.
    pub(crate) async fn serve(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let claims = self.signals.serve(subjects::CLAIM, subjects::DISPATCHERS).await?;
        let commits = self.signals.serve(subjects::COMMIT, subjects::DISPATCHERS).await?;
        let custody = self.signals.serve(subjects::CUSTODY, subjects::DISPATCHERS).await?;
        let takes = self.signals.serve(subjects::TAKE, subjects::DISPATCHERS).await?;
        let (a, b, c, d) = (self.clone(), self.clone(), self.clone(), self.clone());
        tokio::join!(
            self.prove_served(&stop),
            each(takes, &stop, move |request| {
                let desk = d.clone();
                async move { desk.answer_take(&request).await }
            }),
            each(claims, &stop, move |request| {
                let desk = a.clone();
                async move { desk.answer_claim(&request).await }
            }),
            each(commits, &stop, move |request| {
                let desk = b.clone();
                async move {
                    desk.answer_owner(&request, |ask| Input::Commit { from: ask.from, attempt: ask.attempt }).await
                }
            }),
            each(custody, &stop, move |request| {
                let desk = c.clone();
                async move {
                    desk.answer_owner(&request, |ask| Input::TakeCustody { from: ask.from, attempt: ask.attempt })
                        .await;
                }
            }),
        );
        Ok(())
    }

    /// Says that claims come here when NATS has dealt with the subscriptions.
    async fn prove_served(&self, stop: &CancellationToken) {
        let proven = async {
            while let Err(error) = self.signals.round_trip(PROOF).await {
                debug!(%error, "claims may not come here yet");
                tokio::time::sleep(PROVE_AGAIN).await;
            }
        };
        tokio::select! {
            () = proven => { self.serves.send_replace(true); }
            () = stop.cancelled() => {}
        }
    }

    async fn answer_claim(&self, request: &Request<ClaimRequest>) {
        let began = Instant::now();
        let claim = &request.value;
        let trace = claim.delivery.traceparent.as_deref().and_then(Context::parse).map(|context| context.trace_id());
        let (worker, queue) = (&claim.from.worker, claim.delivery.work.name());
        let span = info_span!("claim", %worker, queue, trace_id = field::Empty);
        if let Some(trace) = trace {
            span.record("trace_id", trace);
        }
        let reply = self.claim(claim).instrument(span).await;
        histogram!(names::CLAIM_SECONDS).record(began.elapsed().as_secs_f64());
        let verdict = match &reply {
            Some(ClaimReply::Run(_)) => "run",
            Some(ClaimReply::Drop { .. }) => "drop",
            Some(ClaimReply::Hold { .. }) => "hold",
            None => "none",
        };
        counter!(names::CLAIMS, "verdict" => verdict).increment(1);
        if let Some(reply) = reply {
            answer(request, &reply).await;
        }
    }

    /// A worker has room now for a job that it was offered.
    async fn answer_take(&self, request: &Request<TakeRequest>) {
        let TakeRequest { from, job, queue, ability, idle } = &request.value;
        let reply = match self.ledger.queue_is_paused(*queue) {
            Some(reason) => Some(ClaimReply::Hold { retry_after_ms: PAUSED_MS, scope: HoldScope::Queue, reason }),
            None => {
                let evidence = Evidence { busy: !idle, ..Evidence::default() };
                let (expires, via) = (Some(Instant::now() + PATIENCE), Via::Claim(SystemTime::now()));
                let take = Happening::new(*job, Input::Take { from: from.clone() });
                let taken = Happening { evidence, expires, via, ..take };
                match self.ledger.apply(taken).await {
                    Ok(Verdict::Decided(decided)) => Some(self.reply(from, Some(ability), *decided).await),
                    Ok(Verdict::Unknown | Verdict::Skipped) => {
                        Some(ClaimReply::Drop { job: Some(*job), reason: DropReason::Finished })
                    }
                    Err(ApplyError::Expired | ApplyError::Closed) => None,
                    Err(ApplyError::Refused(reason)) => Some(hold(reason)),
                }
            }
        };
        if let Some(reply) = reply {
            answer(request, &reply).await;
        }
    }

    /// `None` when the ledger is away: an answer that is not durable is no answer.
    async fn claim(&self, claim: &ClaimRequest) -> Option<ClaimReply> {
        let delivery = &claim.delivery;
        let received = Received {
            body: &delivery.body,
            content_type: delivery.content_type.as_deref(),
            message_id: delivery.message_id.as_deref(),
            work: Some(&delivery.work),
            catalog: None,
        };
        let mut record =
            NewJob::read(&self.ledger, Origin::Claim, &received, delivery.work.clone(), delivery.traceparent.clone());
        if delivery.body_len > MAX_BODY_BYTES {
            record.spec = Err(vec![parse::oversize(delivery.body_len)]);
        }
        let id = match &record.spec {
            Ok(spec) => spec.id,
            Err(_) => parse::claimed_id(&received),
        };
        if let Some(reason) = self.ledger.queue_is_paused(delivery.work.queue)
            && !self.has_begun(claim, id).await
        {
            return Some(ClaimReply::Hold { retry_after_ms: PAUSED_MS, scope: HoldScope::Queue, reason });
        }
        // A chunk's job is on record already; its message says what it needs, and records nothing.
        let piece = parse::piece(&received);
        let (input, evidence) = self.place(claim, piece.as_ref().or(record.spec.as_deref().ok()));
        let evidence = Evidence { busy: !claim.idle, ..evidence };
        // A worker that does not say who published it cannot record it where that matters: its copy at the tap does.
        let may_record = delivery.user_id.is_some() || record.claims_to_be_part || !self.ledger.minds_publishers();
        if let Some(user) = &delivery.user_id {
            // Not before it was placed: what the ledger published again has no user, and is on record.
            record = record.published_by(&self.ledger, Some(user.as_str()).filter(|user| !user.is_empty()));
        }
        let decided = match id {
            Some(id) => {
                let record = Some(Box::new(record)).filter(|_| may_record);
                self.claim_by_id(claim, id, input, evidence, record).await
            }
            None => {
                record.fingerprint = Some(delivery.fingerprint.clone());
                self.claim_anonymous(claim, input, evidence, record, may_record).await.map(Some)
            }
        };
        match decided {
            Ok(Some(decided)) => Some(self.reply(&claim.from, claim.ability.as_ref(), *decided).await),
            Ok(None) => Some(ClaimReply::Drop { job: id, reason: DropReason::Finished }),
            Err(ApplyError::Expired | ApplyError::Closed) => None,
            Err(ApplyError::Refused(reason)) => Some(hold(reason)),
        }
    }

    /// Whether the claimer runs the job already, or has been granted it and did not get the answer: a pause of its queue
    /// comes too late then.
    async fn has_begun(&self, claim: &ClaimRequest, id: Option<JobId>) -> bool {
        let Some(job) = id.filter(|_| claim.running_unanswered.is_none()) else {
            return claim.running_unanswered.is_some();
        };
        matches!(self.ledger.owner_of(job).await, Ok(Some(owned)) if owned.owner == claim.from)
    }

    /// A claim, or that the job does not fit this worker, or none.
    fn place(&self, claim: &ClaimRequest, spec: Option<&JobSpec>) -> (Input, Evidence) {
        let run =
            Input::Claim { from: claim.from.clone(), owner_dead: false, running_unanswered: claim.running_unanswered };
        let ability = claim.ability.clone().or_else(|| self.fleet.ability(&claim.from));
        let (Some(spec), Some(ability), None) = (spec, ability, claim.running_unanswered) else {
            return (run, Evidence::default());
        };
        let Ok(encode) = scenario::resolve(spec) else { return (run, Evidence::default()) };
        let Err(lacks) = scenario::fits(spec, encode.as_ref(), &ability) else { return (run, Evidence::default()) };
        let rests = scenario::fits(spec, encode.as_ref(), &ability.rested()).is_ok();
        self.misplaced(claim, spec, encode.as_ref(), lacks, rests)
    }

    /// A job that does not fit its claimer; `rests`: it would, if none of the claimer's encoders rested or were lost.
    fn misplaced(
        &self,
        claim: &ClaimRequest,
        spec: &JobSpec,
        encode: Option<&Encode>,
        lacks: Vec<Fault>,
        rests: bool,
    ) -> (Input, Evidence) {
        let worker = &claim.from.worker;
        let needs = lacks.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ");
        let rests = rests || self.fleet.fits_rested(spec, encode);
        match (self.fleet.fits_another(worker, spec, encode), self.unfit) {
            (Some(false), _) if rests => {
                let reason = Some(format!("waits for an encoder that failed and is tried again: {needs}"));
                (Input::Unfit, Evidence { reason, ..Evidence::default() })
            }
            // A worker that knew how to make it has split the job: it comes back, or the job is split anew.
            (Some(false), Unfit::Reject) if spec.piece.is_none() => {
                let reason = Some(format!("no worker fits: {needs}"));
                (Input::NeverFits, Evidence { reason, faults: lacks, ..Evidence::default() })
            }
            (Some(false), Unfit::Reject | Unfit::Wait) => {
                let reason = Some(format!("waits for a worker that fits: {needs}"));
                (Input::Unfit, Evidence { reason, ..Evidence::default() })
            }
            (Some(true) | None, _) => {
                let reason = Some(format!("does not fit worker {worker}, waits for another: {needs}"));
                (Input::Unfit, Evidence { reason, ..Evidence::default() })
            }
        }
    }

    async fn claim_by_id(
        &self,
        claim: &ClaimRequest,
        job: JobId,
        input: Input,
        evidence: Evidence,
        record: Option<Box<NewJob>>,
    ) -> Result<Option<Box<Decided>>, ApplyError> {
        let (expires, via) = (Instant::now() + PATIENCE, Via::Claim(SystemTime::now()));
        let only_if = if claim.delivery.redelivered { self.ask_owner(claim, job).await } else { OnlyIf::Always };
        let may_record = record.is_some();
        let is_part = record.as_ref().is_some_and(|record| record.claims_to_be_part);
        let happening =
            Happening { only_if, evidence, record, expires: Some(expires), via, ..Happening::new(job, input) };
        match self.ledger.apply(happening).await? {
            Verdict::Decided(decided) => Ok(Some(decided)),
            Verdict::Unknown if !may_record => Err(ApplyError::Refused(UNTOLD.to_owned())),
            // A chunk of a job that is gone with all its chunks: nobody wants it any more.
            Verdict::Unknown if is_part => Ok(None),
            // An old message of a forgotten job. If it was one of a job handed in again, its copy at the tap had all the pause below
            // to be recorded; where even that was too short, the message counts as missing later and is published again.
            Verdict::Unknown if claim.delivery.redelivered => Ok(None),
            Verdict::Unknown => Err(ApplyError::Refused(FORGOTTEN.to_owned())),
            Verdict::Skipped => Err(ApplyError::Refused("the job was not recorded by its own claim".to_owned())),
        }
    }

    /// A redelivery of a running job means that somebody's link was lost: is the owner dead?
    async fn ask_owner(&self, claim: &ClaimRequest, job: JobId) -> OnlyIf {
        match self.ledger.owner_of(job).await {
            Ok(Some(owned)) if owned.owner != claim.from && control::is_dead(&self.signals, &owned).await => {
                OnlyIf::OwnerDead { owner: owned.owner, attempt: owned.attempt }
            }
            Ok(_) => OnlyIf::Always,
            Err(error) => {
                debug!(%job, %error, "the owner of a redelivered job is not known");
                OnlyIf::Always
            }
        }
    }

    async fn claim_anonymous(
        &self,
        claim: &ClaimRequest,
        input: Input,
        evidence: Evidence,
        record: NewJob,
        may_record: bool,
    ) -> Result<Box<Decided>, ApplyError> {
        let mut anonymous = AnonymousClaim {
            input,
            evidence,
            redelivered: claim.delivery.redelivered,
            record: Box::new(record),
            may_record,
            asked: SystemTime::now(),
            owners: None,
            expires: Instant::now() + PATIENCE,
        };
        match self.ledger.claim_anonymous(&anonymous).await? {
            AnonymousVerdict::Decided(decided) => return Ok(decided),
            AnonymousVerdict::Unrecorded => return Err(ApplyError::Refused(UNTOLD.to_owned())),
            AnonymousVerdict::AskOwners(owners) => {
                anonymous.owners = Some(control::ask_all(&self.signals, owners).await);
            }
        }
        match self.ledger.claim_anonymous(&anonymous).await? {
            AnonymousVerdict::Decided(decided) => Ok(decided),
            AnonymousVerdict::Unrecorded => Err(ApplyError::Refused(UNTOLD.to_owned())),
            AnonymousVerdict::AskOwners(_) => Err(ApplyError::Refused("its owners were asked already".to_owned())),
        }
    }

    async fn reply(&self, from: &Sender, ability: Option<&Ability>, decided: Decided) -> ClaimReply {
        let job = Some(decided.job);
        match &decided.step {
            Step::Move(change) if change.begin || change.grant_again => self.grant(from, ability, decided).await,
            Step::Move(change) => {
                let otherwise = if decided.state.is_end() { DropReason::Finished } else { DropReason::Superseded };
                ClaimReply::Drop { job, reason: change.drop.unwrap_or(otherwise) }
            }
            Step::Stale(stale) => ClaimReply::Drop { job, reason: stale.drop_reason() },
            Step::Refuse(refusal) => hold(refusal.to_string()),
        }
    }

    async fn grant(&self, from: &Sender, ability: Option<&Ability>, decided: Decided) -> ClaimReply {
        let (job, attempt, lessons) = (decided.job, decided.attempt, decided.lessons);
        let ability = ability.cloned().or_else(|| self.fleet.ability(from));
        let readable = match decided.spec {
            Some(Ok(spec)) => scenario::resolve(&spec).map(|encode| tailor(spec, encode, lessons, ability.as_ref())),
            Some(Err(error)) => Err(vec![Fault::new("body", "unknown_form", error)]),
            None => Err(vec![Fault::new("body", "bad_value", "the ledger has no canonical form of the job")]),
        };
        match readable {
            Ok((spec, encode)) => ClaimReply::Run(Box::new(Grant {
                job,
                attempt,
                lease_ms: u64::try_from(self.ledger.policy().lease.as_millis()).unwrap_or(u64::MAX),
                spec: JobSpec { id: Some(job), ..spec },
                encode,
                alone: lessons.alone,
                traceparent: if traces::are_on() {
                    Some(traces::of_job(job, decided.traceparent.as_deref()).attempt(attempt).to_string())
                } else {
                    decided.traceparent
                },
                splits: Some(decided.splits),
                sound_apart: true,
                minds: Piece::FEATURES.map(str::to_owned).into(),
            })),
            // Recorded by another version of this program.
            Err(faults) => {
                error!(%job, attempt, worker = %from.worker, ?faults, "a recorded job cannot be read by this version");
                let (input, evidence, dropped) = if faults.iter().any(Fault::is_of_another_version) {
                    // Its next claim waits for one that knows what this one does not.
                    let reason = Some("this dispatcher cannot read the job: it is of an older version".to_owned());
                    let evidence = Evidence { reason, ..Evidence::default() };
                    (Input::Released { attempt }, evidence, DropReason::Superseded)
                } else {
                    let evidence = Evidence { faults, ..Evidence::default() };
                    (Input::Rejected { attempt }, evidence, DropReason::Rejected)
                };
                match self.ledger.apply(Happening { evidence, ..Happening::new(job, input) }).await {
                    Ok(_) => ClaimReply::Drop { job: Some(job), reason: dropped },
                    Err(error) => hold(error.to_string()),
                }
            }
        }
    }

    /// Answers a commit or a custody request.
    async fn answer_owner(&self, request: &Request<CommitRequest>, input: impl FnOnce(CommitRequest) -> Input) {
        let ask = request.value.clone();
        let (job, attempt) = (ask.job, ask.attempt);
        let expires = Some(Instant::now() + PATIENCE);
        let happening = Happening { expires, via: Via::Owner, ..Happening::new(job, input(ask)) };
        let refused = |reason: String| CommitReply::Refused { reason };
        let reply = match self.ledger.apply(happening).await {
            Ok(Verdict::Decided(decided)) => match decided.step {
                Step::Move(_) => CommitReply::Granted,
                Step::Stale(_) => refused("the attempt is not the current one".to_owned()),
                Step::Refuse(refusal) => refused(refusal.to_string()),
            },
            Ok(Verdict::Unknown | Verdict::Skipped) => refused("the ledger has no such job".to_owned()),
            Err(error) => {
                warn!(%job, attempt, %error, "a worker gets no answer");
                return;
            }
        };
        answer(request, &reply).await;
    }
}

/// Handles each question in a task of its own until `stop`, then those that are on their way, and waits for all in hand.
async fn each<T, F>(mut questions: Subscription<Request<T>>, stop: &CancellationToken, handle: impl Fn(Request<T>) -> F)
where
    T: DeserializeOwned + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let in_hand = Arc::new(Semaphore::new(IN_HAND));
    let tasks = TaskTracker::new();
    let take = |request, permit| {
        let handled = handle(request);
        tasks.spawn(async move {
            handled.await;
            drop(permit);
        });
    };
    let room = || async { in_hand.clone().acquire_owned().await.expect("the semaphore is never closed") };
    loop {
        let permit = room().await;
        let request = tokio::select! {
            request = questions.next_request() => request,
            () = stop.cancelled() => None,
        };
        let Some(request) = request else { break };
        take(request, permit);
    }
    // Others of the group are asked from now on: whoever asked us would wait in vain.
    let rest = async {
        questions.drain().await;
        while let Some(request) = questions.next_request().await {
            take(request, room().await);
        }
    };
    let _ = tokio::time::timeout(LAST_QUESTIONS, rest).await;
    drop(questions);
    tasks.close();
    tasks.wait().await;
}

async fn answer<T, A: serde::Serialize>(request: &Request<T>, reply: &A) {
    if let Err(error) = request.answer(reply).await {
        debug!(%error, subject = %request.subject, "an answer was not sent; the question comes again");
    }
}

/// The job as the next attempt runs it on this worker: with what was learned from failures, and without a device that is
/// only preferred and is not there.
fn tailor(
    mut spec: JobSpec,
    mut encode: Option<Encode>,
    lessons: Lessons,
    ability: Option<&Ability>,
) -> (JobSpec, Option<Encode>) {
    if let Some(raised) = lessons.raised_memory_mb {
        let room = ability.map_or(u64::MAX, |ability| ability.memory_mb);
        spec.resource_limits.max_memory_mb = Some(raised.min(room));
    }
    let prefer = |video: &mut VideoEncode, policy| {
        if policy != Some(HardwarePolicy::Prefer) {
            return;
        }
        let has = |encoder: Encoder| {
            ability.is_none_or(|ability| ability.encoders.iter().any(|name| name == encoder.as_str()))
        };
        match video.encoder {
            Some(encoder) if encoder.is_hardware() && (lessons.fell_back || !has(encoder)) => soften(video),
            None if lessons.fell_back => video.hw = None,
            Some(_) | None => {}
        }
    };
    if let Some(encode) = &mut encode {
        prefer(&mut encode.video, spec.parameters.hw);
        for (other, output) in encode.others.iter_mut().zip(&spec.outputs) {
            prefer(&mut other.video, output.parameters.hw);
        }
    }
    (spec, encode)
}

/// Leaves the encoder to the worker, and takes back what only the device understands.
fn soften(video: &mut VideoEncode) {
    video.encoder = None;
    let software = scenario::presets(CodecChoice::Codec(video.codec));
    video.preset = video.preset.take().filter(|preset| software.contains(&preset.as_str()));
    video.tune = None;
    if video.pixel_format == PixelFormat::P010le {
        video.pixel_format = PixelFormat::Yuv420p10le;
    }
}

/// The answer for a delivery that nobody can decide about now.
fn hold(reason: String) -> ClaimReply {
    ClaimReply::Hold { retry_after_ms: HOLD_MS, scope: HoldScope::Delivery, reason }
}
