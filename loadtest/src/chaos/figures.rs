//! What the faults cost, by the ledger's own record of attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use uuid::Uuid;

use super::fault::{Fault, Injected};

/// How often the ledger is asked while it may be away.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const ASK_BOUND: Duration = Duration::from_secs(60);
/// A job that has lost so many workers runs alone from then on.
const ALONE_AFTER: i64 = 2;

/// An attempt of an encode that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) job: Uuid,
    pub(super) attempt: u32,
    pub(super) worker: String,
}

/// What one kind of fault cost.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FaultFigures {
    /// Which.
    pub fault: Fault,
    /// How often it was injected.
    pub injected: usize,
    /// Encodes that ran on the victim, or anywhere when a server was the victim.
    pub running: usize,
    /// Those that did not finish as they ran, and met no later fault.
    pub interrupted: usize,
    /// Those of them that counted as a failure of their job.
    pub failed: usize,
    /// Those of them with which their job lost its second worker or a later one. It runs alone then, and has to wait until
    /// a worker has made room: its restart is not counted below.
    pub alone: usize,
    /// From the fault to the next attempt's start, in milliseconds: half were faster.
    pub restart_p50_ms: Option<f64>,
    /// The same, 99 in 100 were faster.
    pub restart_p99_ms: Option<f64>,
    /// What the ledger tells of the job whose next attempt took longest, in seconds after the fault.
    pub slowest: Option<String>,
}

/// What attempts cost that did not finish.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Waste {
    /// Attempts of encodes that did not finish.
    pub attempts: usize,
    /// Their processor seconds, as far as they could still report them.
    pub cpu_seconds: f64,
    /// Those that could not: their worker died or was told to drop them.
    pub unreported: usize,
    /// Wall seconds of those, up to their end in the ledger.
    pub unreported_wall_seconds: f64,
}

/// What the ledger took over from the broker.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Custody {
    /// Wall seconds of the longest attempt that finished.
    pub longest_attempt_seconds: f64,
    /// Deliveries of running attempts that passed into the ledger's custody: held for long, lost with their channel, or
    /// delivered a second time.
    pub taken: usize,
}

/// A question to the ledger, asked again while it does not answer.
pub(super) async fn ask<T: Send + 'static>(
    url: &str,
    question: impl Fn(&mut postgres::Client) -> Result<T, postgres::Error> + Send + 'static,
) -> anyhow::Result<T> {
    let url = url.to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + ASK_BOUND;
        loop {
            let answer = postgres::Client::connect(&url, postgres::NoTls).and_then(|mut client| question(&mut client));
            match answer {
                Err(_) if std::time::Instant::now() < end => std::thread::sleep(ASK_AGAIN),
                answer => return answer,
            }
        }
    });
    answer.await?.context("ask the ledger")
}

/// The encodes that run.
pub(super) async fn running(url: &str) -> anyhow::Result<Vec<Running>> {
    let query = "SELECT id, attempt, owner_worker FROM job \
         WHERE state IN ('running', 'cancelling') AND spec ->> 'engine' IS DISTINCT FROM 'noop' AND owner_worker IS NOT NULL";
    let rows = ask(url, move |client| client.query(query, &[])).await?;
    let running = rows.iter().map(|row| Running {
        job: row.get(0),
        attempt: row.get::<_, i32>(1).cast_unsigned(),
        worker: row.get(2),
    });
    Ok(running.collect())
}

/// What each kind of fault cost.
pub(super) async fn faults(url: &str, injected: &[Injected]) -> anyhow::Result<Vec<FaultFigures>> {
    let mut kinds: BTreeMap<Fault, Vec<&Injected>> = BTreeMap::new();
    // An attempt that several faults met was interrupted by the last of them.
    let mut last: BTreeMap<(Uuid, u32), Timestamp> = BTreeMap::new();
    for one in injected {
        kinds.entry(one.fault).or_default().push(one);
        last.extend(one.hit.iter().map(|hit| ((hit.job, hit.attempt), one.at)));
    }
    let mut figures = Vec::new();
    for (fault, all) in kinds {
        let mut restarts = Histogram::<u64>::new(3)?;
        let (mut running, mut interrupted, mut failed, mut alone) = (0, 0, 0, 0);
        let mut slowest: Option<(i64, Uuid, Timestamp)> = None;
        for one in &all {
            for hit in &one.hit {
                let Fate { outcome, losses, next } = fate(url, hit).await?;
                let interrupts =
                    outcome.as_deref() != Some("finished") && last.get(&(hit.job, hit.attempt)) == Some(&one.at);
                running += 1;
                interrupted += usize::from(interrupts);
                failed += usize::from(interrupts && outcome.as_deref() == Some("failed"));
                let is_alone = interrupts && losses >= ALONE_AFTER;
                alone += usize::from(is_alone);
                if let (true, false, Some(next)) = (interrupts, is_alone, next) {
                    let millis = next.as_millisecond().saturating_sub(one.at.as_millisecond());
                    restarts.record(u64::try_from(millis.max(1))?)?;
                    slowest = slowest.max(Some((millis, hit.job, one.at)));
                }
            }
        }
        let slowest = match slowest {
            Some((_, job, at)) => Some(story(url, job, at).await?),
            None => None,
        };
        let quantile = |quantile| (!restarts.is_empty()).then(|| restarts.value_at_quantile(quantile) as f64);
        figures.push(FaultFigures {
            fault,
            injected: all.len(),
            running,
            interrupted,
            failed,
            alone,
            restart_p50_ms: quantile(0.5),
            restart_p99_ms: quantile(0.99),
            slowest,
        });
    }
    Ok(figures)
}

/// What became of an attempt.
struct Fate {
    outcome: Option<String>,
    /// How many workers its job had lost when it had ended.
    losses: i64,
    /// When the attempt after it began.
    next: Option<Timestamp>,
}

async fn fate(url: &str, hit: &Running) -> anyhow::Result<Fate> {
    let (job, attempt) = (hit.job, hit.attempt.cast_signed());
    let query = "SELECT a.outcome, n.started_at, \
            (SELECT count(*) FROM attempt l WHERE l.job = a.job AND l.attempt <= a.attempt AND l.outcome = 'lapsed') \
         FROM attempt a LEFT JOIN attempt n ON n.job = a.job AND n.attempt = a.attempt + 1 \
         WHERE a.job = $1 AND a.attempt = $2";
    let row = ask(url, move |client| client.query_opt(query, &[&job, &attempt])).await?;
    Ok(row.map_or(Fate { outcome: None, losses: 0, next: None }, |row| Fate {
        outcome: row.get(0),
        losses: row.get(2),
        next: row.get(1),
    }))
}

/// What happened to a job from two seconds before the fault, each with its second after the fault.
async fn story(url: &str, job: Uuid, at: Timestamp) -> anyhow::Result<String> {
    let query =
        "SELECT at, kind, attempt, state, coalesce(detail ->> 'worker', '') FROM event WHERE job = $1 ORDER BY seq";
    let rows = ask(url, move |client| client.query(query, &[&job])).await?;
    let told = rows.iter().filter_map(|row| {
        let after = row.get::<_, Timestamp>(0).duration_since(at).as_secs_f64();
        let (kind, attempt, state, worker): (String, i32, String, String) =
            (row.get(1), row.get(2), row.get(3), row.get(4));
        (after > -2.0).then(|| format!("{after:+.2} {kind} {worker} -> {state} {attempt}"))
    });
    Ok(format!("{job}: {}", told.collect::<Vec<_>>().join(", ")))
}

/// What all attempts cost that did not finish.
pub(super) async fn waste(url: &str) -> anyhow::Result<Waste> {
    let query = "SELECT count(*), coalesce(sum((a.usage ->> 'cpu_ms')::bigint), 0)::bigint, \
            count(*) FILTER (WHERE a.usage IS NULL), \
            coalesce(sum(extract(epoch FROM a.ended_at - a.started_at)) FILTER (WHERE a.usage IS NULL), 0)::double precision \
         FROM attempt a JOIN job j ON j.id = a.job \
         WHERE a.outcome <> 'finished' AND j.spec ->> 'engine' IS DISTINCT FROM 'noop'";
    let row = ask(url, move |client| client.query_one(query, &[])).await?;
    Ok(Waste {
        attempts: usize::try_from(row.get::<_, i64>(0))?,
        cpu_seconds: row.get::<_, i64>(1) as f64 / 1e3,
        unreported: usize::try_from(row.get::<_, i64>(2))?,
        unreported_wall_seconds: row.get(3),
    })
}

/// What passed from the broker to the ledger.
pub(super) async fn custody(url: &str) -> anyhow::Result<Custody> {
    let query = "SELECT coalesce((SELECT max(extract(epoch FROM ended_at - started_at)) FROM attempt \
                                  WHERE outcome = 'finished'), 0)::double precision, \
                        (SELECT count(*) FROM event WHERE kind = 'take_custody')";
    let row = ask(url, move |client| client.query_one(query, &[])).await?;
    Ok(Custody { longest_attempt_seconds: row.get(0), taken: usize::try_from(row.get::<_, i64>(1))? })
}

/// Jobs that ended otherwise than completed, with their reasons: every job of the load is good.
pub(super) async fn unhappy(url: &str) -> anyhow::Result<Vec<String>> {
    let query = "SELECT id, state, coalesce(reason, ''), coalesce(failure::text, faults::text, '') FROM job \
         WHERE state IN ('failed', 'cancelled', 'rejected') ORDER BY number LIMIT 100";
    let rows = ask(url, move |client| client.query(query, &[])).await?;
    let line = |row: &postgres::Row| {
        let (id, state, reason, failure): (Uuid, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("job {id} is {state}: {reason} {failure}")
    };
    Ok(rows.iter().map(line).collect())
}
