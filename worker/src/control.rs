//! Commands from the dispatchers: to the worker as a whole, and to each attempt it runs.
//!
//! Invariant: a command may repeat and may be for an attempt that is gone; it then changes nothing and is answered.

use std::time::Duration;

use ffpool_broker::{SignalError, Signals};
use ffpool_schema::id::JobId;
use ffpool_schema::message::{JobAnswer, JobCommand, Sender, WorkerAnswer, WorkerCommand};
use ffpool_schema::subjects;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::attempts::Attempts;
use crate::drain::{Drain, Stage};
use crate::offers::{Offer, Offers};
use crate::workshop::Stop;

/// An attempt listens for commands only when it has lasted so long. Commands repeat every second, and most of the
/// shortest jobs are over by then: a subscription costs the NATS server more than they do.
const LISTEN_AFTER: Duration = Duration::from_millis(100);
/// Before a subscription that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Whom commands to the worker concern.
pub struct Commanded<'a> {
    /// Who obeys.
    pub me: &'a Sender,
    /// What runs.
    pub attempts: &'a Attempts,
    /// Its stop.
    pub drain: &'a Drain,
    /// What it was offered.
    pub offers: &'a Offers,
}

/// Obeys commands to the worker, until the process ends. `consider` answers an offer with the slots that are kept for it,
/// or why none are.
pub async fn obey_worker(signals: &Signals, commanded: Commanded<'_>, consider: impl Fn(Offer) -> Result<u32, String>) {
    let Commanded { me, attempts, drain, offers } = commanded;
    let subject = subjects::control_worker(&me.worker);
    loop {
        let mut commands = match signals.serve::<WorkerCommand>(&subject, me.worker.as_str()).await {
            Ok(commands) => commands,
            Err(error) => {
                warn!(%error, "cannot listen for commands, trying again");
                sleep(PAUSE).await;
                continue;
            }
        };
        while let Some(request) = commands.next_request().await {
            let answer = |yes| WorkerAnswer::new(me.clone(), yes);
            let answer = match &request.value {
                WorkerCommand::Ping { job, attempt } => answer(attempts.runs(*job, *attempt)),
                WorkerCommand::Drain => {
                    drain.advance(Stage::Finishing, "asked to by a dispatcher");
                    answer(true)
                }
                WorkerCommand::Offer { job, alone, spec } => {
                    match consider(Offer { job: *job, alone: *alone, spec: (**spec).clone() }) {
                        Ok(slots) => WorkerAnswer { slots: Some(slots), ..answer(true) },
                        Err(reason) => WorkerAnswer { reason: Some(reason), ..answer(false) },
                    }
                }
                WorkerCommand::Withdraw { job } => answer(offers.withdraw(*job)),
            };
            answered(request.answer(&answer).await);
        }
        sleep(PAUSE).await;
    }
}

/// Obeys commands to `job`, as long as it is polled.
pub(crate) async fn obey_job(signals: &Signals, attempts: &Attempts, me: &Sender, job: JobId) {
    sleep(LISTEN_AFTER).await;
    let subject = subjects::control_job(job);
    loop {
        match signals.serve::<JobCommand>(&subject, me.worker.as_str()).await {
            Ok(mut commands) => {
                while let Some(request) = commands.next_request().await {
                    let reason = obey(&request.value, job, attempts).err();
                    let answer = JobAnswer { from: me.clone(), accepted: reason.is_none(), reason };
                    answered(request.answer(&answer).await);
                }
            }
            Err(error) => warn!(%error, "cannot listen for commands to the job, trying again"),
        }
        sleep(PAUSE).await;
    }
}

/// Any listener of a job may be asked for any of its attempts: two can be here for a moment, the older one on its way out.
fn obey(command: &JobCommand, job: JobId, attempts: &Attempts) -> Result<(), String> {
    let (attempt, runs) = match *command {
        JobCommand::Cancel { attempt } => (attempt, attempts.stop(job, attempt, Stop::Cancel)),
        JobCommand::Finish { attempt } => (attempt, attempts.finish(job, attempt)),
        JobCommand::Abandon { attempt } => (attempt, attempts.stop(job, attempt, Stop::Abandon)),
        JobCommand::Pause { attempt } => (attempt, attempts.pause(job, attempt, true)),
        JobCommand::Resume { attempt } => (attempt, attempts.pause(job, attempt, false)),
    };
    info!(%job, ?command, runs, "told about an attempt");
    if runs { Ok(()) } else { Err(format!("attempt {attempt} does not run here")) }
}

fn answered(sent: Result<(), SignalError>) {
    if let Err(error) = sent {
        debug!(%error, "an answer was not sent; the question will be asked again");
    }
}
