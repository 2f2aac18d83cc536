//! Disks that fill up: the attempt says so, leaves nothing behind, and the worker takes no more until there is room.
//!
//! These mount small file systems in memory, for which they need to be root.

use std::path::PathBuf;

use ffpool_schema::failure::{Blame, Cause};
use ffpool_schema::message::Outcome;
use ffpool_stack::SmallDisk;
use ffpool_worker::drain::Stage;
use ffpool_worker::service::Finish;

use crate::pool::{Pool, until};
use crate::service::{NOOP, get};
use crate::tool::bench::{Bench, failure};

/// More than 100 MB.
const LARGE: &str = r#"{"scenario": "720p30-h264", "parameters": {"duration": 600, "preset": "ultrafast", "crf": 0},
    "resource_limits": {"max_disk_mb": 4000, "max_memory_mb": 512}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_scratch_fails_the_attempt_by_name_and_no_work_is_taken_until_there_is_room() {
    let pool = Pool::new("full").await;
    let _scratch = SmallDisk::mount(&pool.scratch(), "size=48m,mode=755");
    let worker = pool.start(&["--slots=1", "--min-disk-mb=24"]).await;
    let large = pool.publish(LARGE).await;
    pool.until_ends(&[(large, 1, "failed")]).await;
    let Outcome::Failed { failure } = &pool.events()[0].outcome else { unreachable!("it ended so") };
    assert_eq!((failure.cause, failure.cause.blame()), (Cause::DiskFull, Blame::Operator), "{failure:?}");
    assert!(failure.evidence.as_ref().is_some_and(|line| line.contains("No space left")), "{failure:?}");
    let names =
        |dir: PathBuf| -> Vec<_> { dir.read_dir().into_iter().flatten().flatten().map(|e| e.file_name()).collect() };
    assert_eq!(names(pool.scratch().join(worker.me.worker.as_str())), ["lock"]);
    assert!(names(pool.media().join("ffpool")).is_empty());

    let filler = pool.scratch().join("filler");
    std::fs::write(&filler, vec![1; 40 << 20]).unwrap();
    until("readiness that tells of the disk", async || {
        let answer = get(worker.http_addr, "/ready");
        let told = answer.starts_with("HTTP/1.1 503") && answer.contains(r#""scratch":"8 MiB are free"#);
        if told { Ok(()) } else { Err(answer) }
    })
    .await;
    let beats = async |more: usize| {
        let before = pool.dispatcher.heartbeats().len();
        until("heartbeats that go on", async || {
            let now = pool.dispatcher.heartbeats().len();
            if now >= before + more { Ok(()) } else { Err(now) }
        })
        .await;
    };
    beats(1).await;
    let small = pool.publish(NOOP).await;
    beats(3).await;
    assert_eq!(
        (pool.dispatcher.claims().len(), pool.ready().await),
        (1, 1),
        "the second job waits for a better worker"
    );

    std::fs::remove_file(&filler).unwrap();
    pool.until_ends(&[(large, 1, "failed"), (small, 1, "finished")]).await;
    worker.drain.advance(Stage::FinishingInTime, "the test is over");
    assert_eq!(worker.finished().await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_media_root_fails_the_attempt_by_name_and_keeps_no_part_of_its_output() {
    // Room for a part of the output; room for the output and none for its manifest.
    for (options, at_the_manifest) in [("size=64k,mode=755", false), ("size=64m,nr_inodes=2,mode=755", true)] {
        let mut media = None;
        let bench = Bench::with(|settings, _| media = Some(SmallDisk::mount(&settings.media_roots[0], options))).await;
        let mut spec = bench.spec("240p25-h264");
        spec.parameters.duration = Some(5.0);
        spec.parameters.crf = Some(10);
        spec.output = Some(format!("file://{}", bench.media("out.mp4").display()));
        let ended = bench.run_spec(&spec).await;
        let failure = failure(&ended);
        assert_eq!(failure.cause, Cause::DiskFull, "{failure:?}");
        assert_eq!(failure.message.contains("manifest"), at_the_manifest, "{failure:?}");
        assert_eq!(bench.media_names(), Vec::<String>::new());
        bench.assert_clean();
    }
}
