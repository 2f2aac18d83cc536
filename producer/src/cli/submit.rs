//! `submit`: a file and flags become jobs, and jobs go to the pool.
//!
//! Invariant: every job of a call is checked before the first is sent.

use std::borrow::Cow;
use std::io::Read;
use std::time::Duration;

use ffpool::AmqpProducer;
use ffpool_runtime::traces::{self, Context as Trace, Kind, Span};
use ffpool_schema::api::Submitted;
use ffpool_schema::catalog::Catalog;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::{Encoding, Parsed};
use ffpool_schema::topology::exchange;
use serde_json::{Value, json};
use uuid::Uuid;

use super::args::Submit;
use super::exit::{Exit, Trouble};
use super::output::Format;
use super::progress::Progress;
use super::{Context, wanted, watch};

/// Somebody waits at the terminal for the connection to RabbitMQ.
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) async fn submit(context: &Context, args: Submit) -> Result<Exit, Trouble> {
    let bodies = match &args.source {
        None => vec![json!({})],
        Some(source) => jobs_in(source, &read(source)?)?,
    };
    let bodies: Vec<Value> = bodies.into_iter().map(|body| args.wanted.overlay(body)).collect();
    let catalog = wanted::catalog_for(context, &bodies).await?;
    let jobs = checked(bodies, args.id, &catalog)?;
    if args.dry_run {
        for job in &jobs {
            Format::Json.print(&job.spec, |_| String::new());
        }
        return Ok(Exit::Success);
    }
    let specs: Vec<JobSpec> = jobs.into_iter().map(|job| job.asked).collect();
    if args.watch && specs.len() != 1 {
        return Err(Trouble::usage(format!("--watch follows one job, and {} were given", specs.len())));
    }

    let submitted = if args.amqp { publish(context, &specs, &args).await? } else { post(context, &specs).await? };
    if !args.watch {
        context.format.print(&submitted, |list| list.iter().map(line).collect());
        return Ok(Exit::Success);
    }
    let id = submitted[0].id;
    eprintln!("submitted {id}");
    watch::until_known(context, id).await?;
    watch::watch(context, id).await
}

/// The one job that a file holds, as it runs.
pub(super) async fn one_job(context: &Context, source: &str) -> Result<JobSpec, Trouble> {
    let bodies = jobs_in(source, &read(source)?)?;
    if bodies.len() != 1 {
        return Err(Trouble::usage(format!("one job is expected, and {source} holds {}", bodies.len())));
    }
    let catalog = wanted::catalog_for(context, &bodies).await?;
    Ok(checked(bodies, None, &catalog)?.remove(0).spec)
}

pub(super) fn line(job: &Submitted) -> String {
    let follow = format!("follow it with `ffpool jobs watch {}`", job.id);
    if job.number > 0 {
        format!("job #{} {} ({}): {follow}\n", job.number, job.id, job.state)
    } else {
        format!("job {} published: {follow}\n", job.id)
    }
}

async fn post(context: &Context, specs: &[JobSpec]) -> Result<Vec<Submitted>, Trouble> {
    let client = context.client()?;
    let mut submitted = Vec::with_capacity(specs.len());
    let progress = Progress::of(specs.len(), "jobs submitted");
    for spec in specs {
        let handing = Handing::to_api(spec);
        match progress.step(client.submit_within(spec, handing.traceparent.as_deref())).await {
            Ok((job, _)) => submitted.push(job),
            Err(error) => return Err(partly(error.into(), &submitted)),
        }
    }
    Ok(submitted)
}

async fn publish(context: &Context, specs: &[JobSpec], args: &Submit) -> Result<Vec<Submitted>, Trouble> {
    let encoding = if args.msgpack { Encoding::MessagePack } else { Encoding::Json };
    let producer = producer(context).await?;
    let mut submitted = Vec::with_capacity(specs.len());
    let progress = Progress::of(specs.len(), "jobs published");
    for spec in specs {
        let spec = named(spec);
        let handing = Handing::to_broker(&spec);
        match progress.step(producer.publish(&spec, encoding, handing.traceparent.as_deref())).await {
            // The ledger gives the number when the job's copy reaches it.
            Ok(id) => submitted.push(Submitted { id, number: 0, state: State::Queued }),
            Err(error) => return Err(partly(error.into(), &submitted)),
        }
    }
    producer.close().await;
    Ok(submitted)
}

/// A connection to RabbitMQ that stands.
pub(super) async fn producer(context: &Context) -> Result<AmqpProducer, Trouble> {
    let url = context.connection.amqp_url.clone().filter(|url| !url.is_empty()).ok_or_else(|| {
        Trouble::usage("--amqp needs RabbitMQ's address").next("Give it with --amqp-url or FFPOOL_AMQP_URL.")
    })?;
    let producer = AmqpProducer::open(url);
    let producer = match &context.connection.publish_as {
        Some(user) => producer.published_by(Some(user.clone()).filter(|user| !user.is_empty())),
        None => producer,
    };
    producer.connected(CONNECT).await?;
    Ok(producer)
}

/// The job with an id.
pub(super) fn named(spec: &JobSpec) -> JobSpec {
    JobSpec { id: Some(spec.id.unwrap_or_else(|| JobId(Uuid::now_v7()))), ..spec.clone() }
}

/// The handing in of one job: its span, which ends with it, and what goes with the job.
pub(super) struct Handing {
    /// The span's, where traces are exported; else the caller's (`TRACEPARENT`). Without either the ledger makes one.
    pub(super) traceparent: Option<String>,
    _span: Span,
}

impl Handing {
    pub(super) fn to_broker(spec: &JobSpec) -> Handing {
        let to = exchange(spec.queue);
        let name = format!("publish {to}");
        Handing::of(spec, name, |span| {
            span.kind(Kind::Producer)
                .with("messaging.system", "rabbitmq")
                .with("messaging.operation.type", "send")
                .with("messaging.operation.name", "publish")
                .with("messaging.destination.name", to)
        })
    }

    fn to_api(spec: &JobSpec) -> Handing {
        Handing::of(spec, "POST /v1/jobs", |span| span.kind(Kind::Client).with("http.request.method", "POST"))
    }

    fn of(spec: &JobSpec, name: impl Into<Cow<'static, str>>, describe: impl FnOnce(Span) -> Span) -> Handing {
        let received = std::env::var("TRACEPARENT").ok().filter(|text| Trace::parse(text).is_some());
        let span = match received.as_deref().and_then(Trace::parse) {
            Some(caller) => Span::below(caller, name),
            None => Span::first(spec.id, name),
        };
        let traceparent = if traces::are_on() { Some(span.context().to_string()) } else { received };
        Handing { traceparent, _span: describe(span) }
    }
}

/// Says which jobs of a list are in the pool already, so that nobody submits those again.
fn partly(mut trouble: Trouble, submitted: &[Submitted]) -> Trouble {
    if !submitted.is_empty() {
        let ids: Vec<String> = submitted.iter().map(|job| job.id.to_string()).collect();
        trouble.what = format!("{}\n  submitted before it: {}", trouble.what, ids.join(" "));
    }
    trouble
}

pub(super) fn read(source: &str) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    if source == "-" {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Trouble::usage(format!("read standard input: {error}")))?;
    } else {
        bytes = std::fs::read(source).map_err(|error| Trouble::unreadable(source, &error))?;
    }
    Ok(bytes)
}

pub(super) fn jobs_in(source: &str, bytes: &[u8]) -> Result<Vec<Value>, Trouble> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| {
            Trouble::usage(format!("{source} is no JSON: {error}"))
                .next("A job or a list of jobs is expected; `ffpool schema` prints every field, `ffpool batch` reads CSV and NDJSON.")
        })?;
    match value {
        Value::Array(jobs) if jobs.is_empty() => Err(Trouble::usage(format!("{source} holds an empty list"))),
        Value::Array(jobs) => Ok(jobs),
        job => Ok(vec![job]),
    }
}

/// The jobs in canonical form, each with an id: a repeat after a doubtful answer then makes no second job.
fn checked(bodies: Vec<Value>, id: Option<JobId>, catalog: &Catalog) -> Result<Vec<Parsed>, Trouble> {
    if id.is_some() && bodies.len() > 1 {
        return Err(Trouble::usage("--id names one job, and the file holds several"));
    }
    let many = bodies.len() > 1;
    let mut jobs = Vec::with_capacity(bodies.len());
    for (index, mut body) in bodies.into_iter().enumerate() {
        let name = if many { format!("job {}", index + 1) } else { "the job".to_owned() };
        if let (Some(id), Value::Object(fields)) = (id, &mut body) {
            fields.insert("id".to_owned(), json!(id));
        }
        let mut job = wanted::checked(&body, catalog).map_err(|faults| Trouble::rejected(&name, &faults))?;
        let id = job.asked.id.unwrap_or_else(|| JobId(Uuid::now_v7()));
        (job.asked.id, job.spec.id) = (Some(id), Some(id));
        jobs.push(job);
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(bodies: Vec<Value>, args: &Submit) -> Result<Vec<JobSpec>, Trouble> {
        let bodies = bodies.into_iter().map(|body| args.wanted.overlay(body)).collect();
        Ok(checked(bodies, args.id, &Catalog::default())?.into_iter().map(|job| job.spec).collect())
    }

    use crate::cli::args::{Cli, Command};
    use clap::Parser;
    use ffpool_schema::job::{Priority, Queue};

    fn args(line: &[&str]) -> Submit {
        let line = ["ffpool", "submit"].iter().chain(line);
        match Cli::try_parse_from(line).unwrap().command {
            Some(Command::Submit(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_alone_make_a_job() {
        let args = args(&[
            "-s",
            "1080p30-h264",
            "-i",
            "/media/in.mov",
            "-o",
            "/media/out.mp4",
            "-q",
            "live",
            "-p",
            "high",
            "--param",
            "bitrate=6M",
            "--param",
            "duration=2.5",
            "-l",
            "show=x",
            "--max-cpu-percent",
            "150",
            "--timeout-sec",
            "60",
        ]);
        let spec = specs(vec![json!({})], &args).unwrap().remove(0);
        assert_eq!((spec.queue, spec.priority), (Queue::Live, Priority::High));
        assert_eq!(spec.output.as_deref(), Some("/media/out.mp4"));
        assert_eq!(spec.parameters.bitrate.unwrap().0, 6_000_000);
        assert_eq!(spec.parameters.duration, Some(2.5));
        assert_eq!(spec.labels["show"], "x");
        assert_eq!((spec.resource_limits.max_cpu_percent, spec.resource_limits.timeout_sec), (Some(150), Some(60)));
        assert!(spec.id.is_some(), "a job gets its id before it is sent");
    }

    #[test]
    fn flags_overrule_the_file_and_keep_the_rest_of_it() {
        let file = json!({"scenario": "480p30-h264", "queue": "batch", "parameters": {"crf": 20, "preset": "slow"}, "labels": {"a": "1"}});
        let args = args(&["job.json", "--queue", "live", "--param", "preset=fast", "-l", "b=2"]);
        let spec = specs(vec![file], &args).unwrap().remove(0);
        assert_eq!(spec.queue, Queue::Live);
        assert_eq!((spec.parameters.crf, spec.parameters.preset.as_deref()), (Some(20), Some("fast")));
        assert_eq!(spec.labels.len(), 2);
    }

    #[test]
    fn every_fault_is_told_at_once_and_ends_with_the_code_for_rejected() {
        let file = json!({"scenario": "no-such", "colour": "red", "parameters": {"duration": -1}});
        let trouble = specs(vec![file], &Submit::default()).unwrap_err();
        assert_eq!(trouble.exit, Exit::JobRejected);
        for word in ["scenario", "colour", "duration"] {
            assert!(trouble.what.contains(word), "{word} is missing in: {}", trouble.what);
        }
    }

    #[test]
    fn a_file_may_hold_one_job_or_several() {
        assert_eq!(jobs_in("f", b"{}").unwrap().len(), 1);
        assert_eq!(jobs_in("f", b"[{}, {}]").unwrap().len(), 2);
        for wrong in [b"[]".as_slice(), b"{", b""] {
            assert_eq!(jobs_in("f", wrong).unwrap_err().exit, Exit::Usage);
        }
        let trouble = specs(vec![json!({"scenario": "480p30-h264"}), json!([])], &Submit::default()).unwrap_err();
        assert!(trouble.what.starts_with("job 2 "), "{}", trouble.what);
    }
}
