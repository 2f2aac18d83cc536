//! `workers` and `queues`: look at the pool, drain its workers, pause its queues.

use ffpool::Client;
use ffpool_schema::api::{Accepted, PauseRequest, QueueView, WorkerView};
use ffpool_schema::device::DeviceState;
use ffpool_schema::gstreamer::Installation;
use ffpool_schema::id::WorkerId;
use ffpool_schema::message::{LostEncoder, WorkerState};
use jiff::Timestamp;
use serde::Serialize;

use super::exit::{Exit, Trouble};
use super::output::{fields, table};
use super::{Context, format};

/// Why parsing an option's value cannot fail.
const KNOWN: &str = "clap accepts known names only";

pub(crate) async fn workers(context: &Context, all: bool) -> Result<Exit, Trouble> {
    let mut workers = context.client()?.workers().await?;
    let known = workers.len();
    if !all {
        workers.retain(|worker| worker.state != WorkerState::Stopped);
    }
    let hidden = known - workers.len();
    context.format.print(&workers, |workers| workers_text(workers, hidden, Timestamp::now()));
    Ok(Exit::Success)
}

fn workers_text(workers: &[WorkerView], hidden: usize, now: Timestamp) -> String {
    let text = if workers.is_empty() {
        "No worker is there. Start one: `ffpool-worker`.".to_owned()
    } else {
        worker_table(workers, now)
    };
    if hidden > 0 { format!("{text}\n{hidden} stopped, see --all.") } else { text }
}

fn worker_table(workers: &[WorkerView], now: Timestamp) -> String {
    let rows = workers.iter().map(|worker| {
        [
            worker.id.to_string(),
            worker.state.as_str().to_owned(),
            worker.host.clone(),
            worker.pools.join(","),
            format!("{}/{}", worker.capacity.used, worker.capacity.slots),
            format!("{:.1} cores", f64::from(worker.capacity.cpu_percent) / 100.0),
            format::bytes(worker.capacity.memory_mb.saturating_mul(1024 * 1024)),
            format::ago(worker.last_seen, now),
            worker.version.clone(),
        ]
    });
    table(["worker", "state", "host", "pools", "slots", "cpu", "memory", "heard", "version"], rows)
}

pub(crate) async fn worker(context: &Context, id: &WorkerId) -> Result<Exit, Trouble> {
    let worker = find(context, id).await?;
    context.format.print(&worker, |worker| worker_fields(worker, Timestamp::now()));
    Ok(Exit::Success)
}

/// The worker of this name.
pub(super) async fn find(context: &Context, id: &WorkerId) -> Result<WorkerView, Trouble> {
    let client = context.client()?;
    let found = match client.worker(id).await {
        Ok(worker) => Some(worker),
        // A dispatcher of before has no route for one worker.
        Err(error) if error.status() == Some(404) => {
            client.workers().await?.into_iter().find(|worker| worker.id == *id)
        }
        Err(error) => return Err(error.into()),
    };
    found.ok_or_else(|| {
        Trouble::new(Exit::NotPossible, format!("there is no worker {id}"))
            .next("`ffpool workers list --all` shows those there are.")
    })
}

fn worker_fields(worker: &WorkerView, now: Timestamp) -> String {
    let running: Vec<String> = worker.running.iter().map(ToString::to_string).collect();
    let yes_no = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    let (capacity, ability) = (&worker.capacity, &worker.ability);
    let mib = |count: u64| format::bytes(count.saturating_mul(1024 * 1024));
    fields(&[
        ("worker", worker.id.to_string()),
        ("state", worker.state.as_str().to_owned()),
        ("host", worker.host.clone()),
        ("version", worker.version.clone()),
        ("pools", worker.pools.join(", ")),
        ("slots", format!("{} of {} in use", capacity.used, capacity.slots)),
        (
            "capacity",
            format!(
                "{} % of a core, {} memory, {} disk",
                capacity.cpu_percent,
                mib(capacity.memory_mb),
                mib(capacity.disk_mb)
            ),
        ),
        (
            "largest job",
            format!(
                "{} % of a core, {} memory, {} disk",
                ability.cpu_percent,
                mib(ability.memory_mb),
                mib(ability.disk_mb)
            ),
        ),
        ("encoders", ability.encoders.join(" ")),
        ("lost encoders", ability.lost.iter().map(lost).collect::<Vec<_>>().join("; ")),
        ("gstreamer", ability.gstreamer.as_ref().map(|there| gstreamer(there, &ability.features)).unwrap_or_default()),
        ("devices", ability.devices.iter().map(device).collect::<Vec<_>>().join("; ")),
        ("stores", ability.stores.join(" ")),
        (
            "limits hold",
            if ability.cgroups {
                yes_no(true)
            } else {
                "no: it may make no cgroups, and runs one job at a time".into()
            },
        ),
        ("sandbox", if ability.sandbox.is_empty() { "none told".into() } else { ability.sandbox.join(" ") }),
        ("noop engine", yes_no(ability.noop)),
        ("running", running.join(" ")),
        ("first heard", format!("{} ({})", format::clock(worker.first_seen), format::ago(worker.first_seen, now))),
        ("last heard", format!("{} ({})", format::clock(worker.last_seen), format::ago(worker.last_seen, now))),
    ])
}

/// What GStreamer encodes and speaks, and what it lacks.
fn gstreamer(there: &Installation, features: &[String]) -> String {
    let encodes: Vec<&str> = features.iter().filter_map(|feature| feature.strip_prefix("gstreamer-")).collect();
    let lacks = if there.missing.is_empty() { String::new() } else { format!("; lacks {}", there.missing.join(" ")) };
    format!("{}: {}{lacks}", there.version, encodes.join(" "))
}

/// An encoder that does not work any more, and why.
fn lost(LostEncoder { encoder, why }: &LostEncoder) -> String {
    format!("{encoder} ({why})")
}

/// A device, what it runs, and what rests on it.
fn device(state: &DeviceState) -> String {
    let DeviceState { device, sessions, used, encoders, resting } = state;
    let rest =
        if resting.is_empty() { String::new() } else { format!(", rests after failures: {}", resting.join(" ")) };
    format!("{device} runs {used} of {sessions}: {}{rest}", encoders.join(" "))
}

/// Drains every worker that can be drained; ends with the code of the last that could not.
pub(crate) async fn drain(context: &Context, workers: &[WorkerId]) -> Result<Exit, Trouble> {
    #[derive(Serialize)]
    struct Drained {
        worker: WorkerId,
        state: Option<String>,
        message: String,
    }
    let client: Client = context.client()?;
    let mut exit = Exit::Success;
    let mut results = Vec::with_capacity(workers.len());
    for worker in workers {
        match client.drain(worker).await {
            Ok(accepted) => {
                results.push(Drained { worker: worker.clone(), state: Some(accepted.state), message: accepted.message })
            }
            // With one worker the error is the result.
            Err(error) if workers.len() == 1 => return Err(error.into()),
            Err(error) => {
                let trouble = Trouble::from(error);
                exit = trouble.exit;
                results.push(Drained { worker: worker.clone(), state: None, message: trouble.what });
            }
        }
    }
    context.format.print(&results, |results| {
        results
            .iter()
            .map(|drained| match &drained.state {
                Some(state) => format!("worker {}: {state}. {}\n", drained.worker, drained.message),
                None => format!("worker {}: {}\n", drained.worker, drained.message),
            })
            .collect()
    });
    Ok(exit)
}

pub(crate) async fn queues(context: &Context, all: bool) -> Result<Exit, Trouble> {
    let mut queues = context.client()?.queues().await?;
    let every = queues.len();
    if !all {
        queues.retain(|queue| !is_idle(queue));
    }
    context.format.print(&queues, |queues| {
        if queues.is_empty() {
            return format!("Nothing waits or runs in any of the {every} work queues.");
        }
        queue_table(queues, Timestamp::now())
    });
    Ok(Exit::Success)
}

fn is_idle(queue: &QueueView) -> bool {
    !queue.paused && queue.ready.unwrap_or(0) == 0 && queue.queued == 0 && queue.running == 0 && queue.delayed == 0
}

fn queue_table(queues: &[QueueView], now: Timestamp) -> String {
    let rows = queues.iter().map(|queue| {
        [
            queue.name.clone(),
            queue.ready.map_or_else(|| "?".to_owned(), |ready| ready.to_string()),
            queue.queued.to_string(),
            queue.running.to_string(),
            queue.delayed.to_string(),
            queue.oldest.map(|oldest| format::ago(oldest, now)).unwrap_or_default(),
            if queue.paused { "paused" } else { "" }.to_owned(),
        ]
    });
    table(["queue", "in broker", "queued", "running", "delayed", "oldest", "more"], rows)
}

pub(crate) async fn pause_queue(context: &Context, queue: &str, reason: Option<String>) -> Result<Exit, Trouble> {
    let request = PauseRequest { reason };
    let accepted = context.client()?.pause_queue(queue.parse().expect(KNOWN), &request).await?;
    print_queue(context, queue, &accepted);
    Ok(Exit::Success)
}

pub(crate) async fn resume_queue(context: &Context, queue: &str) -> Result<Exit, Trouble> {
    let accepted = context.client()?.resume_queue(queue.parse().expect(KNOWN)).await?;
    print_queue(context, queue, &accepted);
    Ok(Exit::Success)
}

fn print_queue(context: &Context, queue: &str, accepted: &Accepted) {
    context.format.print(accepted, |accepted| format!("queue {queue}: {}. {}", accepted.state, accepted.message));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ffpool_schema::message::{Ability, Capacity};

    fn queue(name: &str, queued: i64) -> QueueView {
        let mut parts = name.split('.').skip(1);
        QueueView {
            paused: false,
            name: name.into(),
            queue: parts.next().unwrap().into(),
            priority: parts.next().unwrap().into(),
            pool: parts.next().unwrap_or("cpu").into(),
            ready: Some(queued as u64),
            queued,
            running: 0,
            delayed: 0,
            oldest: None,
        }
    }

    pub(crate) fn worker(id: &str, state: WorkerState, used: u32) -> WorkerView {
        WorkerView {
            id: id.parse().unwrap(),
            host: "host".into(),
            version: "0.1.0".into(),
            state,
            pools: vec!["cpu".into()],
            capacity: Capacity { slots: 2, used, cpu_percent: 200, memory_mb: 4096, disk_mb: 9000 },
            ability: Ability {
                cpu_percent: 200,
                memory_mb: 4096,
                disk_mb: 9000,
                encoders: vec!["libx264".into()],
                noop: false,
                cgroups: true,
                stores: Vec::new(),
                features: Vec::new(),
                devices: Vec::new(),
                sandbox: Vec::new(),
                gstreamer: None,
                lost: Vec::new(),
            },
            running: Vec::new(),
            first_seen: Timestamp::from_second(900).unwrap(),
            last_seen: Timestamp::from_second(999).unwrap(),
        }
    }

    #[test]
    fn a_worker_is_one_line() {
        let text = worker_table(&[worker("w1", WorkerState::Ready, 1)], Timestamp::from_second(1000).unwrap());
        assert!(text.ends_with("w1      ready  host  cpu    1/2    2.0 cores  4.0 GiB  1s ago  0.1.0"), "{text}");
    }

    /// The chart's `deletion-cost` reads this table; its test (`compose/kubernetes/test_deletion_cost.py`) plays what stands in the file.
    /// `FFPOOL_BLESS=1` writes it anew.
    #[test]
    fn the_table_of_workers_is_the_one_that_the_chart_reads() {
        let shown = |workers: &[(&str, u32, u32)], hidden| {
            let workers: Vec<WorkerView> = workers
                .iter()
                .map(|(id, used, slots)| {
                    let mut worker = worker(id, WorkerState::Ready, *used);
                    worker.capacity.slots = *slots;
                    worker
                })
                .collect();
            workers_text(&workers, hidden, Timestamp::from_second(1000).unwrap())
        };
        let tables = [
            shown(&[], 0),
            shown(&[("cpu-a", 0, 1), ("cpu-b", 1, 1), ("cpu-c", 3, 4)], 0),
            shown(&[("cpu-a", 1, 1), ("cpu-b", 1, 1), ("cpu-c", 3, 4)], 2),
            shown(&[("cpu-a", 1, 1), ("cpu-b", 0, 1)], 0),
        ];
        let written = tables.join("\n\n") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose/kubernetes/workers.txt");
        if std::env::var_os("FFPOOL_BLESS").is_some() {
            std::fs::write(path, &written).unwrap();
        }
        let frozen =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}; FFPOOL_BLESS=1 makes it"));
        assert_eq!(written, frozen, "{path} shows another table");
    }

    #[test]
    fn an_unknown_depth_is_not_shown_as_zero() {
        let mut asked = queue("jobs.live.high", 1);
        asked.ready = None;
        assert!(queue_table(&[asked], Timestamp::now()).contains(" ? "));
    }
}
