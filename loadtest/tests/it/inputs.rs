//! What jobs ask for: it runs as asked, or is refused with the reason, and the worker is unharmed.

use std::time::Duration;

use ffpool_broker::{AmqpConfig, Outgoing, Publisher};
use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::JobDetail;
use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use serde_json::{Value, json};

use crate::support::{BOUND, SMALL, files, pool, probe, program, quick, run};

/// Publishes a body as it is, as a strange client would, under a given id.
struct Stranger {
    publisher: Publisher,
}

impl Stranger {
    fn open(pool: &Pool) -> Stranger {
        Stranger { publisher: Publisher::open(AmqpConfig::new(pool.amqp_url.clone(), "stranger")) }
    }

    async fn publish(&self, exchange: &str, key: &str, content_type: &str, body: Vec<u8>) -> anyhow::Result<JobId> {
        let id = JobId(uuid::Uuid::now_v7());
        let message = Outgoing {
            exchange: exchange.into(),
            routing_key: key.into(),
            body,
            content_type: content_type.into(),
            message_id: Some(id.to_string()),
            headers: Default::default(),
            message_type: None,
            user_id: None,
        };
        self.publisher.publish_within(message, Duration::from_secs(60)).await?;
        Ok(id)
    }

    async fn json(&self, job: &Value) -> anyhow::Result<JobId> {
        let queue = job.get("queue").and_then(Value::as_str).unwrap_or("default");
        let priority = job.get("priority").and_then(Value::as_str).unwrap_or("medium");
        self.publish(&format!("jobs.{queue}"), priority, "application/json", job.to_string().into_bytes()).await
    }
}

fn faults(detail: &JobDetail) -> Vec<(&str, &str)> {
    detail.job.faults.iter().map(|fault| (fault.path.as_str(), fault.code.as_str())).collect()
}

/// The original's samples, the lengths cut to one second: what runs is proven by probing the output.
#[test]
fn the_samples_of_the_original_run_as_asked_or_are_refused_with_the_right_reason() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let stranger = Stranger::open(&pool);
        let runs = [
            (
                json!({"scenario":"1080p-h264","confidence":"auto","parameters":{"duration":1,"bitrate":"5M"}}),
                "h264,1920,1080,30/1",
            ),
            (
                json!({"scenario":"4K60-h264","confidence":"auto","engine":"auto","queue":"default","priority":"medium",
                       "parameters":{"duration":0.5,"bitrate":"10M","output_mode":"file"}}),
                "h264,3840,2160,60/1",
            ),
            (
                json!({"scenario":"test-1080p","parameters":{"resolution_width":1920,"resolution_height":1080,
                       "frame_rate":60,"duration_seconds":1,"bitrate":"5000k","codec":"h264"}}),
                "h264,1920,1080,60/1",
            ),
        ];
        let refused = [
            (
                json!({"scenario":"4k-h265","queue":"batch","priority":"medium",
                       "parameters":{"bitrate":"20M","duration":600,"preset":"slow"},
                       "resource_limits":{"max_cpu_percent":80000,"max_memory_mb":4096,"timeout_sec":7200}}),
                ("resource_limits.max_cpu_percent", "no_worker_fits"),
            ),
            (
                json!({"scenario":"720p30-h264","queue":"live","priority":"high",
                       "parameters":{"bitrate":"2M","output_mode":"rtmp"},
                       "resource_limits":{"max_cpu_percent":200,"max_memory_mb":1024,"timeout_sec":3600}}),
                ("parameters.output_mode", "unsupported"),
            ),
            (
                json!({"scenario":"custom-input","parameters":{"input":"/path/to/your/video.mp4","bitrate":"2000k","codec":"h264"}}),
                ("input", "outside_roots"),
            ),
            (
                json!({"scenario":"live-stream","parameters":{"encoder":"h264_nvenc","preset":"p4"},"classification":"production"}),
                ("parameters.codec", "no_worker_fits"),
            ),
        ];
        let mut ids = Vec::new();
        for job in runs.iter().map(|(job, _)| job).chain(refused.iter().map(|(job, _)| job)) {
            ids.push(stranger.json(job).await?);
        }
        for ((_, expected), id) in runs.iter().zip(&ids) {
            let detail = pool.until_ended(*id, 2 * BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
            let manifest = detail.manifest.expect("a completed encode has a manifest");
            let path = ffpool_schema::scenario::path_of(&manifest.artifacts[0].url).expect("outputs are files");
            assert_eq!(probe(path.as_ref()), *expected);
        }
        for ((job, expected), id) in refused.iter().zip(&ids[runs.len()..]) {
            let detail = pool.until_ended(*id, BOUND).await?;
            assert_eq!(detail.job.state, State::Rejected, "{job}: {detail:#?}");
            assert_eq!(faults(&detail), [*expected], "{job}");
        }
        Ok(())
    });
}

#[test]
fn every_kind_of_bad_input_is_rejected_with_its_reason_and_the_worker_is_unharmed() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let stranger = Stranger::open(&pool);
        let media = pool.media.display().to_string();
        std::os::unix::fs::symlink("/etc", pool.media.join("escape"))?;
        let scenario = "240p15-h264";
        let jobs = [
            (json!({"scenario": scenario, "prioritty": "high"}), "prioritty", "unknown_field"),
            (json!({"scenario": "17p-h264"}), "scenario", "unknown_scenario"),
            (json!({"scenario": scenario, "parameters": {"duration": -5}}), "parameters.duration", "out_of_range"),
            (json!({"scenario": scenario, "input": format!("{media}/../../etc/passwd")}), "input", "outside_roots"),
            (json!({"scenario": scenario, "input": format!("{media}/escape/passwd")}), "input", "outside_roots"),
            (json!({"scenario": scenario, "output": format!("{media}/escape/out.mp4")}), "output", "outside_roots"),
            (json!({"scenario": scenario, "output": "-y.mp4"}), "output", "bad_value"),
        ];
        let mut expected = Vec::new();
        for (job, path, code) in &jobs {
            expected.push((stranger.json(job).await?, *path, *code));
        }
        let large = vec![b' '; 10 * 1024 * 1024];
        expected.push((
            stranger.publish("jobs.default", "medium", "application/json", large).await?,
            "body",
            "too_large",
        ));
        let broken = b"\xc1\x00broken".to_vec();
        let broken = stranger.publish("jobs.default", "medium", "application/msgpack", broken).await?;
        expected.push((broken, "body", "not_msgpack"));
        let nowhere = json!({"scenario": scenario}).to_string().into_bytes();
        let nowhere = stranger.publish("jobs.default", "urgent", "application/json", nowhere).await?;
        expected.push((nowhere, "routing_key", "unroutable"));

        for (id, path, code) in expected {
            let detail = pool.until_ended(id, BOUND).await?;
            assert_eq!(detail.job.state, State::Rejected, "{path}: {detail:#?}");
            assert!(faults(&detail).contains(&(path, code)), "{path} {code}: {:#?}", detail.job.faults);
        }
        // The worker still works, also on a file whose name looks like an option.
        let output = pool.media.join("-y.mp4");
        let submitted = pool.client.submit(&quick(&output.display().to_string())).await?;
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        let mut spec = quick(&pool.media.join("again.mp4").display().to_string());
        spec.input = Some(output.display().to_string());
        let submitted = pool.client.submit(&spec).await?;
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        let left =
            files(&pool.media).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "part"));
        assert_eq!(left.count(), 0, "{:?}", files(&pool.media));
        Ok(())
    });
}

#[test]
fn a_job_that_needs_more_memory_than_it_may_have_ends_with_cause_oom() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let mut spec = quick(&pool.media.join("oom.mp4").display().to_string());
        spec.scenario = "4K30-h265".into();
        spec.parameters.preset = Some("slow".into());
        spec.resource_limits.max_memory_mb = Some(64);
        spec.max_retries = 0;
        let submitted = pool.client.submit(&spec).await?;
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!(detail.job.state, State::Failed, "{detail:#?}");
        assert_eq!(detail.job.failure.map(|failure| failure.cause), Some(Cause::Oom));
        assert!(!pool.media.join("oom.mp4").exists());
        Ok(())
    });
}

#[test]
fn a_damaged_input_is_a_dead_letter_that_can_be_sent_round_again() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let source = pool.media.join("source.mp4");
        std::fs::write(&source, b"this is no media file")?;
        let mut spec = quick(&pool.media.join("out.mp4").display().to_string());
        spec.input = Some(source.display().to_string());
        let id = pool.client.submit(&spec).await?.id;
        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, State::Failed, "{detail:#?}");
        assert_eq!(detail.attempts.len(), 1, "a damaged input is not tried again: {detail:#?}");
        assert_eq!(detail.job.failure.map(|failure| failure.cause), Some(Cause::InputBad));
        let dead = pool.client.dead_letters(&Default::default()).await?;
        assert_eq!(dead.items.iter().map(|view| view.id).collect::<Vec<_>>(), [id]);

        let path = source.display().to_string();
        let made = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=d=1:s=320x240:r=15", "-y", &path];
        assert!(program("ffmpeg", "ffmpeg", &made).status.success());
        let request = ffpool_schema::api::RedriveRequest {
            ids: vec![id],
            fingerprint: None,
            reason: Some("replaced the input".into()),
        };
        assert_eq!(pool.client.redrive(&request).await?.redriven, [id]);
        let detail = pool.until(id, BOUND, |view| view.state == State::Completed).await?;
        assert_eq!(detail.attempts.len(), 2, "{detail:#?}");
        Ok(())
    });
}
