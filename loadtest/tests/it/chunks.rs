//! A long encode in chunks, shared by workers that are killed meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool::JobFilter;
use ffpool_loadtest::audit::{self, AuditArgs, Published};
use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::{JobDetail, JobView};
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Checkpoint, JobSpec};
use ffpool_schema::lifecycle::State;

use crate::support::{BOUND, files, pool, program, run};

/// Two slots, and chunks of a second from two seconds on.
const CHUNKS: &[(&str, &str)] =
    &[("FFPOOL_SLOTS", "2"), ("FFPOOL_CHUNK_ABOVE_SECS", "2"), ("FFPOOL_CHUNK_TARGET_SECS", "1")];

/// Picture and sound of so many seconds, in a transport stream.
fn source(path: &Path, secs: u32) {
    let (picture, sound) = (
        format!("testsrc2=size=320x180:rate=25:duration={secs}"),
        format!("sine=frequency=300:sample_rate=48000:duration={secs}"),
    );
    let path = path.display().to_string();
    let arguments = ["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound];
    let encode = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac", &path];
    let output = program("ffmpeg", "ffmpeg", &[&arguments[..], &encode].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Slow enough that a kill meets chunks that are being made.
fn wish(pool: &Pool, input: &str, output: &str) -> JobSpec {
    let mut spec = JobSpec::new("720p-h264");
    spec.input = Some(pool.media.join(input).display().to_string());
    spec.output = Some(pool.media.join("made").join(output).display().to_string());
    spec.parameters.preset = Some("medium".to_owned());
    spec
}

async fn parts(pool: &Pool, whole: JobId) -> anyhow::Result<Vec<JobView>> {
    let filter = JobFilter { part_of: Some(whole), limit: Some(500), ..JobFilter::default() };
    Ok(pool.client.jobs(&filter).await?.items)
}

/// Waits until so many chunks are made and others are being made.
async fn until_made(pool: &Pool, whole: JobId, least: u32) -> anyhow::Result<()> {
    let seen = pool.until(whole, BOUND, |job| {
        let chunks = job.chunks.filter(|_| job.state == State::Blocked);
        job.state.is_end() || chunks.is_some_and(|chunks| chunks.done >= least && chunks.running > 0)
    });
    let seen = seen.await?;
    ensure!(!seen.job.state.is_end(), "it ended before {least} chunks were seen: {:#?}\n{}", seen.job, pool.logs());
    Ok(())
}

/// Waits until a chunk is made and a worker has another in its hands: which worker.
async fn until_held(pool: &Pool, whole: JobId) -> anyhow::Result<usize> {
    until_made(pool, whole, 1).await?;
    let end = Instant::now() + BOUND;
    loop {
        let parts = parts(pool, whole).await?;
        let owner = |part: &JobView| part.worker.clone().filter(|_| part.state == State::Running);
        if let Some(owner) = parts.iter().find_map(owner) {
            return Ok(usize::from(owner.as_str().ends_with("-1")));
        }
        ensure!(Instant::now() < end, "no chunk is being made: {parts:#?}\n{}", pool.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn assert_whole(detail: &JobDetail, frames: u64, pool: &Pool) {
    assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
    assert_eq!(detail.job.failures, 0, "{detail:#?}");
    let manifest = detail.manifest.as_ref().expect("a completed job has a manifest");
    assert_eq!(manifest.artifacts[0].proof.as_ref().and_then(|proof| proof.frames), Some(frames));
    assert_eq!(manifest.chunks.iter().map(|chunk| chunk.frames).sum::<u64>(), frames);
}

/// Nothing was lost or doubled, and of the chunks nothing is left.
fn audited(pool: &Pool, jobs: [(JobId, &str); 2]) -> anyhow::Result<()> {
    let made = pool.media.join("made");
    let lines = jobs
        .map(|(id, output)| serde_json::to_string(&Published { id, confirmed: true, output: Some(made.join(output)) }));
    let record = pool.directory().join("record.jsonl");
    std::fs::write(&record, lines.into_iter().collect::<Result<Vec<_>, _>>()?.join("\n"))?;
    let args = AuditArgs {
        record,
        database_url: pool.database_url.clone(),
        media_roots: vec![made],
        scratch: vec![pool.scratch(0), pool.scratch(1)],
        exclusive: true,
        settle_secs: 30,
    };
    let report = tokio::task::block_in_place(|| audit::run(&args))?;
    ensure!(report.is_clean(), "{report}");
    Ok(())
}

#[test]
fn a_worker_that_is_killed_costs_the_chunks_in_its_hands_and_another_goes_on() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(CHUNKS).worker(CHUNKS)).await?;
        source(&pool.media.join("source.ts"), 8);
        std::fs::create_dir(pool.media.join("made"))?;
        let first = pool.client.submit(&wish(&pool, "source.ts", "out.mp4")).await?.id;
        let victim = until_held(&pool, first).await?;
        pool.workers[victim].kill();

        let detail = pool.until_ended(first, BOUND).await?;
        assert_whole(&detail, 200, &pool);
        let outcomes: Vec<_> = detail.attempts.iter().map(|attempt| attempt.outcome.clone()).collect();
        assert_eq!(outcomes.first().and_then(Option::as_deref), Some("split"), "{outcomes:?}");
        let made = parts(&pool, first).await?;
        let attempts: u32 = made.iter().map(|part| part.attempt).sum();
        let (chunks, most) = (made.len(), made.len() as u32 + 2);
        assert!(
            chunks >= 5 && attempts <= most,
            "{attempts} attempts at {chunks} chunks: two were in its hands at most"
        );
        let listed = pool.client.jobs(&JobFilter::default()).await?.items;
        assert_eq!(
            listed.iter().map(|job| job.id).collect::<Vec<_>>(),
            [first],
            "the jobs that make chunks are not listed"
        );
        let left = files(&pool.media);
        assert_eq!(left.len(), 3, "the source, the output and its manifest: {left:?}");

        // In its next life a worker clears away what the one that was killed left.
        pool.restart_worker(victim).await?;

        // Whoever cancels it cancels its chunks, and a redrive uses what was made.
        let mut again = wish(&pool, "source.ts", "again.mp4");
        again.parameters.crf = Some(22);
        again.checkpoint = Checkpoint::Require;
        let id = pool.client.submit(&again).await?.id;
        until_made(&pool, id, 2).await?;
        pool.client.cancel(id).await?;
        let end = Instant::now() + BOUND;
        loop {
            let open = parts(&pool, id).await?.into_iter().filter(|part| !part.state.is_end()).count();
            if open == 0 {
                break;
            }
            ensure!(Instant::now() < end, "{open} chunks go on after the cancel\n{}", pool.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let made = parts(&pool, id).await?.iter().filter(|part| part.state == State::Completed).count();
        pool.client.retry(id).await.context("send it round again")?;
        let detail = pool.until_ended(id, BOUND).await?;
        assert_whole(&detail, 200, &pool);
        let total = detail.manifest.as_ref().map_or(0, |manifest| manifest.chunks.len());
        let jobs = parts(&pool, id).await?.len();
        assert_eq!(jobs, 2 * total - made, "only what was missing was made again: {made} of {total} were there");
        audited(&pool, [(first, "out.mp4"), (id, "again.mp4")])?;
        Ok(())
    });
}
