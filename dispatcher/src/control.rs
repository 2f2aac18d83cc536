//! Words to workers: is the owner of an attempt alive, end this attempt, forget that one.

use std::time::Duration;

use ffpool_broker::{RequestError, Signals};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::lifecycle::Tell;
use ffpool_schema::message::{JobCommand, WorkerAnswer, WorkerCommand};
use ffpool_schema::subjects;
use futures_util::future::join_all;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::ledger::{OwnedAttempt, TellOwner};

/// For one answer of an owner.
const ANSWER: Duration = Duration::from_millis(200);
/// Between the two questions: a worker that is just connecting again is not dead.
const BETWEEN: Duration = Duration::from_millis(200);

/// Asks whether the owner of an attempt is dead. Only what is certain counts: nobody answers for the worker twice in a
/// row, or another life of it answers. Silence is not death.
pub(crate) async fn is_dead(signals: &Signals, owned: &OwnedAttempt) -> bool {
    match ask(signals, owned).await {
        Life::Reborn => true,
        Life::Present => false,
        Life::Absent => {
            tokio::time::sleep(BETWEEN).await;
            let dead = ask(signals, owned).await != Life::Present;
            if dead {
                info!(job = %owned.job, attempt = owned.attempt, worker = %owned.owner.worker, "the owner is dead");
            }
            dead
        }
    }
}

/// Asks the owners of several attempts at the same time.
pub(crate) async fn ask_all(signals: &Signals, owned: Vec<OwnedAttempt>) -> Vec<OwnedAttempt> {
    join_all(owned.into_iter().map(|owned| async {
        let is_dead = is_dead(signals, &owned).await;
        OwnedAttempt { is_dead, ..owned }
    }))
    .await
}

#[derive(Debug, PartialEq, Eq)]
enum Life {
    Present,
    Reborn,
    Absent,
}

async fn ask(signals: &Signals, owned: &OwnedAttempt) -> Life {
    let subject = subjects::control_worker(&owned.owner.worker);
    let question = WorkerCommand::Ping { job: owned.job, attempt: owned.attempt };
    match signals.request::<_, WorkerAnswer>(&subject, &question, ANSWER).await {
        Ok(answer) if answer.from == owned.owner => Life::Present,
        Ok(_) => Life::Reborn,
        Err(RequestError::NoResponders { .. }) => Life::Absent,
        Err(RequestError::Timeout { .. } | RequestError::Decode { .. } | RequestError::Link { .. }) => Life::Present,
    }
}

/// Passes on commands to owners until `stop`.
pub(crate) async fn pass_on(signals: Signals, mut tells: Receiver<TellOwner>, stop: CancellationToken) {
    loop {
        let tell = tokio::select! {
            biased;
            // What was said before the stop is passed on: the next leader would come to it late, if there is one.
            tell = tells.recv() => tell,
            () = stop.cancelled() => return,
        };
        match tell {
            Ok(tell) => send(&signals, &tell).await,
            // The leader repeats what was missed.
            Err(RecvError::Lagged(missed)) => debug!(missed, "commands to owners were skipped"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Sends one command. It may be lost: whoever sends it repeats it while it matters.
pub(crate) async fn send(signals: &Signals, tell: &TellOwner) {
    let command = match tell.tell {
        Tell::Cancel => JobCommand::Cancel { attempt: tell.attempt },
        Tell::Finish => JobCommand::Finish { attempt: tell.attempt },
        Tell::Abandon => JobCommand::Abandon { attempt: tell.attempt },
        Tell::Pause => JobCommand::Pause { attempt: tell.attempt },
        Tell::Resume => JobCommand::Resume { attempt: tell.attempt },
    };
    if let Err(error) = signals.publish(&subjects::control_job(tell.job), &command).await {
        debug!(job = %tell.job, attempt = tell.attempt, %error, "a command to an owner was not sent");
    }
}

/// Tells a worker to keep no room for a job. It may be lost: the next heartbeat that names the job brings another.
pub(crate) async fn withdraw(signals: &Signals, job: JobId, worker: &WorkerId) {
    if let Err(error) = signals.publish(&subjects::control_worker(worker), &WorkerCommand::Withdraw { job }).await {
        debug!(%job, %worker, %error, "an offer was not withdrawn");
    }
}
