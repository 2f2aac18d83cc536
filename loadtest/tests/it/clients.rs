//! Any AMQP client publishes jobs; the command line follows them.

use ffpool::{AmqpProducer, JobFilter};
use ffpool_loadtest::pool::{Pool, PoolSettings, binary_path};
use ffpool_schema::job::Queue;
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::Encoding;
use serde_json::json;

use crate::support::{BOUND, SMALL, pool, probe, program, quick, run};

const PIKA: &str = r#"
import sys, pika
url, exchange, key, body = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
connection.close()
"#;

/// A job without an id, with an output that tells which client published it.
fn body(pool: &Pool, name: &str) -> String {
    let output = pool.media.join(name).display().to_string();
    let parameters = json!({"duration": 1, "preset": "ultrafast"});
    json!({"scenario": "240p15-h264", "output": output, "parameters": parameters, "labels": {"client": name}})
        .to_string()
}

#[test]
fn a_job_from_any_amqp_client_runs_and_is_listed() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let amqp_tools = body(&pool, "amqp-tools.mp4");
        let arguments = ["--url", &pool.amqp_url, "-e", "jobs.batch", "-r", "low", "-p", "-b", &amqp_tools];
        let output = program("amqp-publish", "amqp-tools", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let pika = body(&pool, "pika.mp4");
        let arguments = ["-c", PIKA, &pool.amqp_url, "jobs.batch", "low", &pika];
        // Debian's own interpreter: another python3 in the path does not see Debian's packages.
        let output = program("/usr/bin/python3", "python3-pika", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let mut spec = quick(&pool.media.join("rust.mp4").display().to_string());
        spec.queue = Queue::Batch;
        spec.labels.insert("client".into(), "rust.mp4".into());
        let producer = AmqpProducer::open(pool.amqp_url.clone());
        producer.publish(&spec, Encoding::MessagePack, None).await?;

        for name in ["amqp-tools.mp4", "pika.mp4", "rust.mp4"] {
            let view = listed(&pool, name).await?;
            let detail = pool.until_ended(view, BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{name}: {detail:#?}\n{}", pool.logs());
            assert_eq!(detail.attempts.len(), 1, "{detail:#?}");
            assert_eq!(probe(&pool.media.join(name)), "h264,426,240,15/1");
            assert!(detail.has_thumbnail, "{name}: a frame of it goes with its end");
            let shown = format!("{}/v1/jobs/{view}/thumbnail", pool.api_url);
            let jpeg = reqwest::Client::new().get(shown).bearer_auth(&pool.key).send().await?.bytes().await?;
            assert!(jpeg.starts_with(b"\xff\xd8\xff"), "{name}: {} bytes", jpeg.len());
            let manifest = detail.manifest.expect("a completed encode has a manifest");
            assert_eq!(manifest.artifacts[0].sha256.len(), 64);
        }
        let all = pool.client.jobs(&JobFilter::default()).await?;
        assert_eq!(all.items.len(), 3, "{all:#?}");
        Ok(())
    });
}

/// The id of the one job with this label, as soon as the ledger has it.
async fn listed(pool: &Pool, name: &str) -> anyhow::Result<ffpool_schema::id::JobId> {
    let end = std::time::Instant::now() + BOUND;
    let filter = JobFilter { label: Some(format!("client:{name}")), ..JobFilter::default() };
    loop {
        let page = pool.client.jobs(&filter).await?;
        assert!(page.items.len() <= 1, "{name} is recorded more than once: {page:#?}");
        if let Some(view) = page.items.first() {
            return Ok(view.id);
        }
        assert!(std::time::Instant::now() < end, "{name} is not recorded within {BOUND:?}\n{}", pool.logs());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn the_command_line_submits_follows_and_ends_with_the_jobs_outcome() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let ffpool = binary_path("ffpool")?.display().to_string();
        let output = pool.media.join("cli.mp4").display().to_string();
        let call = |arguments: &[&str]| {
            let all: Vec<&str> = ["--api-url", &pool.api_url, "--api-key", &pool.key]
                .into_iter()
                .chain(arguments.iter().copied())
                .collect();
            program(&ffpool, "ffpool", &all)
        };
        let good = call(&[
            "submit",
            "--watch",
            "--scenario",
            "240p15-h264",
            "--to",
            &output,
            "--param",
            "duration=1",
            "--param",
            "preset=ultrafast",
        ]);
        assert_eq!(good.status.code(), Some(0), "{good:?}");
        assert_eq!(probe(&pool.media.join("cli.mp4")), "h264,426,240,15/1");

        let refused = call(&["submit", "--scenario", "17p-h264"]);
        assert_ne!(refused.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("17p-h264"), "{refused:?}");

        let list = call(&["--output", "json", "jobs", "list"]);
        let jobs: serde_json::Value = serde_json::from_slice(&list.stdout)?;
        assert!(jobs.to_string().contains("completed"), "{jobs}");
        for command in [["workers", "list"], ["jobs", "list"]] {
            let shown = call(&command);
            assert_eq!(shown.status.code(), Some(0), "{shown:?}");
            assert!(!shown.stdout.is_empty());
        }
        assert_eq!(call(&["queues"]).status.code(), Some(0));
        let top = call(&["top", "--once"]);
        let picture = String::from_utf8_lossy(&top.stdout);
        assert!(top.status.success() && picture.contains("/2 slots") && picture.contains("Workers (1)"), "{top:?}");
        let advice = call(&["scale-advice", "--pool", "cpu", "--min", "1", "--output", "json"]);
        let advice: serde_json::Value = serde_json::from_slice(&advice.stdout)?;
        assert_eq!((&advice["ready_workers"], &advice["slots_per_worker"]), (&1.into(), &2.into()), "{advice:#}");
        assert_eq!(call(&["dead", "list"]).status.code(), Some(0));
        Ok(())
    });
}
