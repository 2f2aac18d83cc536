//! `submit`: a file and flags become jobs, and jobs go to the pool.
//!
//! Invariant: every job of a call is checked before the first is sent.

use std::io::Read;
use std::time::Duration;

use ffpool::{AmqpProducer, fresh_traceparent};
use ffpool_runtime::telemetry;
use ffpool_schema::api::Submitted;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::{self, Encoding, Received};
use serde_json::{Map, Value, json};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::args::Submit;
use super::exit::{Exit, Trouble};
use super::output::Format;
use super::{Context, watch};

/// Somebody waits at the terminal for the connection to RabbitMQ.
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) async fn submit(context: &Context, args: Submit) -> Result<Exit, Trouble> {
    let bodies = match &args.source {
        None => vec![json!({})],
        Some(source) => jobs_in(source, &read(source)?)?,
    };
    let specs = specs(bodies, &args)?;
    if args.dry_run {
        for spec in &specs {
            Format::Json.print(spec, |_| String::new());
        }
        return Ok(Exit::Success);
    }
    if args.watch && specs.len() != 1 {
        return Err(Trouble::usage(format!("--watch follows one job, and {} were given", specs.len())));
    }

    let span = info_span!("submit", jobs = specs.len());
    let submitted = if args.amqp {
        publish(context, &specs, &args).instrument(span).await?
    } else {
        post(context, &specs).instrument(span).await?
    };
    if !args.watch {
        context.format.print(&submitted, |list| list.iter().map(line).collect());
        return Ok(Exit::Success);
    }
    let id = submitted[0].id;
    eprintln!("submitted {id}");
    watch::until_known(context, id).await?;
    watch::watch(context, id).await
}

/// The one job that a file holds.
pub(super) fn one_job(source: &str) -> Result<JobSpec, Trouble> {
    let bodies = jobs_in(source, &read(source)?)?;
    if bodies.len() != 1 {
        return Err(Trouble::usage(format!("one job is expected, and {source} holds {}", bodies.len())));
    }
    Ok(specs(bodies, &Submit::default())?.remove(0))
}

fn line(job: &Submitted) -> String {
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
    for spec in specs {
        match client.submit(spec).await {
            Ok(job) => submitted.push(job),
            Err(error) => return Err(partly(error.into(), &submitted)),
        }
    }
    Ok(submitted)
}

async fn publish(context: &Context, specs: &[JobSpec], args: &Submit) -> Result<Vec<Submitted>, Trouble> {
    let url = context.connection.amqp_url.clone().filter(|url| !url.is_empty()).ok_or_else(|| {
        Trouble::usage("--amqp needs RabbitMQ's address").next("Give it with --amqp-url or FFPOOL_AMQP_URL.")
    })?;
    let encoding = if args.msgpack { Encoding::MessagePack } else { Encoding::Json };
    let received = std::env::var("TRACEPARENT").ok();
    let producer = AmqpProducer::open(url);
    producer.connected(CONNECT).await?;
    let mut submitted = Vec::with_capacity(specs.len());
    for spec in specs {
        let traceparent = telemetry::traceparent(&tracing::Span::current(), received.as_deref());
        let traceparent = traceparent.unwrap_or_else(fresh_traceparent);
        match producer.publish(spec, encoding, Some(&traceparent)).await {
            // The ledger gives the number when the job's copy reaches it.
            Ok(id) => submitted.push(Submitted { id, number: 0, state: State::Queued }),
            Err(error) => return Err(partly(error.into(), &submitted)),
        }
    }
    producer.close().await;
    Ok(submitted)
}

/// Says which jobs of a list are in the pool already, so that nobody submits those again.
fn partly(mut trouble: Trouble, submitted: &[Submitted]) -> Trouble {
    if !submitted.is_empty() {
        let ids: Vec<String> = submitted.iter().map(|job| job.id.to_string()).collect();
        trouble.what = format!("{}\n  submitted before it: {}", trouble.what, ids.join(" "));
    }
    trouble
}

fn read(source: &str) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    if source == "-" {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Trouble::usage(format!("read standard input: {error}")))?;
    } else {
        bytes = std::fs::read(source).map_err(|error| Trouble::usage(format!("read {source}: {error}")))?;
    }
    Ok(bytes)
}

fn jobs_in(source: &str, bytes: &[u8]) -> Result<Vec<Value>, Trouble> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Trouble::usage(format!("{source} is no JSON: {error}")))?;
    match value {
        Value::Array(jobs) if jobs.is_empty() => Err(Trouble::usage(format!("{source} holds an empty list"))),
        Value::Array(jobs) => Ok(jobs),
        job => Ok(vec![job]),
    }
}

/// The jobs in canonical form, each with an id: a repeat after a doubtful answer then makes no second job.
fn specs(bodies: Vec<Value>, args: &Submit) -> Result<Vec<JobSpec>, Trouble> {
    if args.id.is_some() && bodies.len() > 1 {
        return Err(Trouble::usage("--id names one job, and the file holds several"));
    }
    let many = bodies.len() > 1;
    let mut specs = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        let name = if many { format!("job {}", index + 1) } else { "the job".to_owned() };
        let text = overlay(body, args).to_string();
        let received = Received {
            body: text.as_bytes(),
            content_type: Some(Encoding::Json.content_type()),
            ..Received::default()
        };
        let mut spec = parse::parse(&received).map_err(|faults| Trouble::rejected(&name, &faults))?;
        spec.id.get_or_insert_with(|| JobId(Uuid::now_v7()));
        specs.push(spec);
    }
    Ok(specs)
}

/// The job with every flag that was given in its place.
fn overlay(job: Value, args: &Submit) -> Value {
    // What is no object is left as it is: parsing says so better.
    let Value::Object(mut fields) = job else { return job };
    let plain: [(&str, Option<Value>); 14] = [
        ("id", args.id.map(|id| json!(id))),
        ("scenario", args.scenario.as_ref().map(|v| json!(v))),
        ("engine", args.engine.as_ref().map(|v| json!(v))),
        ("queue", args.queue.as_ref().map(|v| json!(v))),
        ("priority", args.priority.as_ref().map(|v| json!(v))),
        ("pool", args.pool.as_ref().map(|v| json!(v))),
        ("input", args.input.as_ref().map(|v| json!(v))),
        ("output", args.to.as_ref().map(|v| json!(v))),
        ("max_retries", args.max_retries.map(|v| json!(v))),
        ("not_before", args.not_before.map(|v| json!(v))),
        ("deadline", args.deadline.map(|v| json!(v))),
        ("tenant", args.tenant.as_ref().map(|v| json!(v))),
        ("callback_url", args.callback_url.as_ref().map(|v| json!(v))),
        ("depends_on", (!args.depends_on.is_empty()).then(|| json!(args.depends_on))),
    ];
    for (name, value) in plain {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    }
    merge(&mut fields, "parameters", args.param.iter().map(|(key, value)| (key.clone(), scalar(value))));
    merge(&mut fields, "labels", args.label.iter().map(|(key, value)| (key.clone(), json!(value))));
    let limits = [
        ("max_cpu_percent", args.max_cpu_percent.map(u64::from)),
        ("max_memory_mb", args.max_memory_mb),
        ("max_disk_mb", args.max_disk_mb),
        ("timeout_sec", args.timeout_sec),
    ];
    let given = limits.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    merge(&mut fields, "resource_limits", given);
    Value::Object(fields)
}

fn merge(fields: &mut Map<String, Value>, name: &str, given: impl Iterator<Item = (String, Value)>) {
    for (key, value) in given {
        let inner = fields.entry(name).or_insert_with(|| json!({}));
        if inner.is_null() {
            *inner = json!({});
        }
        // A file that has something else than an object here is told so by parsing.
        if let Value::Object(inner) = inner {
            inner.insert(key, value);
        }
    }
}

/// A parameter's text as the number or truth value it looks like.
fn scalar(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
        Ok(_) | Err(_) => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_parameter_is_a_number_only_when_all_of_it_is() {
        assert_eq!((scalar("5"), scalar("2.5"), scalar("true")), (json!(5), json!(2.5), json!(true)));
        assert_eq!(
            (scalar("6M"), scalar("30000/1001"), scalar("fast")),
            (json!("6M"), json!("30000/1001"), json!("fast"))
        );
        assert_eq!(scalar("[1]"), json!("[1]"));
    }
}
