//! A long encode in chunks beside the same encode whole, from every kind of file, and again while its workers are killed.
//!
//! Invariant: what is compared is what the finished files decode to, and the attempts that the ledger counted. A verdict
//! names every promise that does not hold.

mod likeness;
mod source;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool::JobFilter;
use ffpool_schema::api::JobDetail;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Checkpoint, JobSpec};
use ffpool_schema::lifecycle::State;
use ffpool_stack::Stack;

use crate::pool::{Pool, PoolSettings};
pub use likeness::Likeness;
use likeness::compare;

/// How long one job may take.
const WITHIN: Duration = Duration::from_secs(3600);
/// Between two looks at a job.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// More chunks than a page of the API holds are not made here.
const PARTS: u32 = 500;
/// Fewer chunks than this prove nothing about sound that drifts.
const CHUNKS_MIN: usize = 20;
/// How much larger or smaller than the whole encode the one in chunks may be.
const SIZE_SHARE: f64 = 0.02;
/// Lossless, so that the pictures themselves can be compared.
const LOSSLESS: Quality<'static> = Quality { preset: "ultrafast", crf: 0 };

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct ChunksArgs {
    /// Length of the generated sources in seconds.
    #[arg(long, default_value_t = 96)]
    pub seconds: u32,
    /// Length of a chunk in seconds, roughly.
    #[arg(long, default_value_t = 4)]
    pub target_secs: u32,
    /// Workers that share the encodes, with one slot each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Seconds between two kills. Each worker lives this long times their number.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub kill_every_secs: u64,
    /// The x264 preset of the encodes whose size and time are measured.
    #[arg(long, default_value = "medium")]
    pub preset: String,
    /// Their quality.
    #[arg(long, default_value_t = 23)]
    pub crf: u32,
    /// A source instead of the generated ones, with picture and sound.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The ffmpeg program; ffprobe lies beside it or on the path.
    #[arg(long, env = "FFPOOL_FFMPEG", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Quality<'a> {
    preset: &'a str,
    crf: u32,
}

/// The figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Lossless encodes, one for each kind of source.
    pub exact: Vec<Pair>,
    /// The encode at the quality that was asked for.
    pub lossy: Pair,
    /// The same while workers were killed.
    pub killed: Killed,
}

/// One encode whole and in chunks.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pair {
    /// The source's file.
    pub source: String,
    /// Chunks of the encode.
    pub chunks: usize,
    /// From publish to completed, encoded whole.
    pub whole_secs: f64,
    /// The same in chunks.
    pub chunked_secs: f64,
    /// What the chunked output is beside the whole one.
    pub likeness: Likeness,
}

/// What kills cost.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Killed {
    /// From publish to completed.
    pub secs: f64,
    /// Workers that were killed meanwhile.
    pub kills: usize,
    /// Attempts at the job and its chunks.
    pub attempts: usize,
    /// Those that would not have been without kills: each cost a chunk at most, or putting the chunks together.
    pub repeated: usize,
    /// Seconds that attempts ran which were lost, until that was noticed.
    pub lost_secs: f64,
    /// Seconds that attempts ran which made chunks: the median.
    pub chunk_secs: f64,
    /// What the output is beside the one in chunks without kills.
    pub likeness: Likeness,
}

impl Report {
    /// The promises that do not hold.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for pair in &self.exact {
            let like = &pair.likeness;
            broken.extend(like.differences().into_iter().map(|what| format!("{}: {what}", pair.source)));
            if like.same_pictures != like.frames[0] {
                let others = like.frames[0] - like.same_pictures;
                broken.push(format!("{}: {others} frames decode to other pictures", pair.source));
            }
            if pair.chunks < CHUNKS_MIN {
                broken.push(format!("{}: {} chunks are fewer than {CHUNKS_MIN}", pair.source, pair.chunks));
            }
        }
        broken.extend(self.lossy.likeness.differences().into_iter().map(|what| format!("lossy: {what}")));
        if self.lossy.likeness.size.abs() > SIZE_SHARE {
            broken.push(format!("lossy: the size differs by {:+.2} %", self.lossy.likeness.size * 100.0));
        }
        broken.extend(self.killed.likeness.differences().into_iter().map(|what| format!("with kills: {what}")));
        if self.killed.kills == 0 {
            broken.push("with kills: the job was done before the first".to_owned());
        }
        if self.killed.repeated > self.killed.kills {
            let Killed { kills, repeated, .. } = self.killed;
            broken.push(format!("with kills: {repeated} attempts were made again for {kills} kills"));
        }
        broken
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14} {:>6} {:>9} {:>9} {:>12} {:>7} {:>10} {:>9} {:>8}",
            "source", "chunks", "whole", "chunked", "frames", "times", "pictures", "drift", "size"
        )?;
        for (pair, name) in self.exact.iter().map(|pair| (pair, pair.source.as_str())).chain([(&self.lossy, "lossy")]) {
            write!(f, "{name:<14} {:>6} {:>7.1} s {:>7.1} s ", pair.chunks, pair.whole_secs, pair.chunked_secs)?;
            writeln!(f, "{}", pair.likeness)?;
        }
        let Killed { secs, kills, attempts, repeated, lost_secs, chunk_secs, likeness } = &self.killed;
        writeln!(f, "{:<14} {:>6} {:>9} {secs:>7.1} s {likeness}", "with kills", "", "")?;
        writeln!(
            f,
            "{kills} workers killed: {repeated} of {attempts} attempts repeated, {lost_secs:.1} s of work lost; a chunk takes {chunk_secs:.1} s"
        )?;
        let broken = self.broken();
        for what in &broken {
            writeln!(f, "BROKEN {what}")?;
        }
        writeln!(f, "{}", if broken.is_empty() { "every promise holds" } else { "not every promise holds" })
    }
}

/// Measures on a private pool.
///
/// # Errors
/// When the servers or the tools do not run, or a job does not complete.
pub async fn run(args: &ChunksArgs) -> anyhow::Result<Report> {
    let stack = tokio::task::spawn_blocking(Stack::start).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    let (ffmpeg, target) = (args.ffmpeg.display().to_string(), args.target_secs.to_string());
    let worker =
        [("FFPOOL_FFMPEG", ffmpeg.as_str()), ("FFPOOL_SLOTS", "1"), ("FFPOOL_CHUNK_TARGET_SECS", target.as_str())];
    let settings = (0..args.workers).fold(PoolSettings::default(), |settings, _| settings.worker(&worker));
    let mut pool = Pool::start(stack, settings).await?;
    let sources = source::make(args, &pool.media)?;
    let mut exact = Vec::new();
    for source in &sources {
        // Matroska shows a first picture that is late, as in transport streams, once; FFmpeg 5.1 doubles it in mp4.
        exact.push(pair(&pool, args, source, LOSSLESS, ("exact", "mkv")).await?);
    }
    let quality = Quality { preset: &args.preset, crf: args.crf };
    // The source whose key frames are the least help, into the container whose sound is made apart.
    let source = sources.get(1).or(sources.first()).context("there is a source")?;
    let lossy = pair(&pool, args, source, quality, ("lossy", "mp4")).await?;
    let killed = with_kills(&mut pool, args, source, quality).await?;
    Ok(Report { exact, lossy, killed })
}

async fn pair(
    pool: &Pool,
    args: &ChunksArgs,
    source: &str,
    quality: Quality<'_>,
    (what, container): (&str, &str),
) -> anyhow::Result<Pair> {
    let names = ["whole", "chunked"].map(|how| format!("{what}-{how}-{source}.{container}"));
    let mut took = [0.0; 2];
    let mut chunks = 0;
    for (number, checkpoint) in [Checkpoint::Off, Checkpoint::Require].into_iter().enumerate() {
        let (id, begin) = submit(pool, source, &names[number], quality, checkpoint).await?;
        let (detail, secs) = completed(pool, id, begin).await?;
        took[number] = secs;
        chunks = detail.manifest.map_or(0, |manifest| manifest.chunks.iter().filter(|chunk| chunk.frames > 0).count());
    }
    eprintln!("{source}, {what}: whole {:.1} s, in {chunks} chunks {:.1} s", took[0], took[1]);
    let [whole, chunked] = names.map(|name| pool.media.join(name));
    let likeness = compare(&args.ffmpeg, &whole, &chunked)?;
    Ok(Pair { source: source.to_owned(), chunks, whole_secs: took[0], chunked_secs: took[1], likeness })
}

async fn with_kills(pool: &mut Pool, args: &ChunksArgs, source: &str, quality: Quality<'_>) -> anyhow::Result<Killed> {
    let (id, begin) = submit(pool, source, "killed.mp4", quality, Checkpoint::Require).await?;
    let kills = kill_meanwhile(pool, id, Duration::from_secs(args.kill_every_secs)).await?;
    let (whole, secs) = completed(pool, id, begin).await?;
    let filter = JobFilter { part_of: Some(id), limit: Some(PARTS), ..JobFilter::default() };
    let mut ran = Vec::new();
    let mut lost_secs = 0.0;
    let parts = pool.client.jobs(&filter).await?.items;
    ensure!(parts.len() < PARTS as usize, "{PARTS} chunks or more: choose a longer --target-secs, or fewer --seconds");
    let mut details = vec![whole];
    for part in &parts {
        details.push(pool.client.job(part.id).await?);
    }
    for attempt in details.iter().flat_map(|detail| &detail.attempts) {
        let secs = attempt.ended_at.map_or(0.0, |end| end.duration_since(attempt.started_at).as_secs_f64());
        if attempt.outcome.as_deref() == Some("lapsed") {
            lost_secs += secs;
        }
    }
    for attempt in details[1..].iter().flat_map(|detail| &detail.attempts) {
        if let Some(end) = attempt.ended_at.filter(|_| attempt.outcome.as_deref() != Some("lapsed")) {
            ran.push(end.duration_since(attempt.started_at).as_secs_f64());
        }
    }
    ran.sort_by(f64::total_cmp);
    let attempts = details.iter().map(|detail| detail.attempts.len()).sum();
    let chunked = pool.media.join(format!("lossy-chunked-{source}.mp4"));
    let likeness = compare(&args.ffmpeg, &chunked, &pool.media.join("killed.mp4"))?;
    Ok(Killed {
        secs,
        kills,
        attempts,
        // Each chunk is made once, and the whole is split and put together.
        repeated: attempts.saturating_sub(parts.len() + 2),
        lost_secs,
        chunk_secs: ran.get(ran.len() / 2).copied().unwrap_or_default(),
        likeness,
    })
}

async fn submit(
    pool: &Pool,
    source: &str,
    name: &str,
    quality: Quality<'_>,
    checkpoint: Checkpoint,
) -> anyhow::Result<(JobId, jiff::Timestamp)> {
    let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
        "scenario": "custom-input",
        "input": pool.media.join(source),
        "output": pool.media.join(name),
        "parameters": {"codec": "h264", "preset": quality.preset, "crf": quality.crf},
        "resource_limits": {"timeout_sec": WITHIN.as_secs()},
    }))?;
    spec.checkpoint = checkpoint;
    let begin = jiff::Timestamp::now();
    Ok((pool.client.submit(&spec).await?.id, begin))
}

/// Waits for a good end: how the job stands then, and how long it took.
async fn completed(pool: &Pool, id: JobId, begin: jiff::Timestamp) -> anyhow::Result<(JobDetail, f64)> {
    let detail = pool.until_ended(id, WITHIN).await?;
    ensure!(detail.job.state == State::Completed, "job {id} has not completed: {:#?}", detail.job);
    let ended = detail.job.ended_at.context("a job that has ended has an end")?;
    Ok((detail, ended.duration_since(begin).as_secs_f64()))
}

/// Kills the workers in turn, each of which comes back at once, until the job has ended.
async fn kill_meanwhile(pool: &mut Pool, id: JobId, every: Duration) -> anyhow::Result<usize> {
    let mut kills = 0;
    let begin = Instant::now();
    let mut next = begin + every;
    loop {
        let job = pool.client.job(id).await?.job;
        if job.state.is_end() {
            return Ok(kills);
        }
        ensure!(begin.elapsed() < WITHIN, "not done after {kills} kills: {job:#?}\n{}", pool.logs());
        if Instant::now() >= next {
            pool.respawn_worker(kills % pool.workers.len())?;
            kills += 1;
            next += every;
            let chunks = job.chunks.map_or((0, 0), |chunks| (chunks.done, chunks.total));
            eprintln!(
                "kill {kills} at {:.0} s: {}, {} of {} chunks",
                begin.elapsed().as_secs_f64(),
                job.state,
                chunks.0,
                chunks.1
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Report);

    fn like() -> Likeness {
        Likeness {
            frames: [100, 100],
            are_times_equal: true,
            same_pictures: 100,
            is_sound_equal: true,
            drift_ms: 0.0,
            size: 0.01,
        }
    }

    fn report() -> Report {
        let pair = |source: &str| Pair {
            source: source.to_owned(),
            chunks: 20,
            whole_secs: 1.0,
            chunked_secs: 2.0,
            likeness: like(),
        };
        let killed = Killed {
            secs: 3.0,
            kills: 4,
            attempts: 26,
            repeated: 4,
            lost_secs: 5.0,
            chunk_secs: 1.5,
            likeness: like(),
        };
        Report { exact: vec![pair("a.ts")], lossy: pair("a.ts"), killed }
    }

    #[test]
    fn every_promise_that_does_not_hold_is_named() {
        assert_eq!(report().broken(), Vec::<String>::new());
        let broken_by = |change: Change| {
            let mut report = report();
            change(&mut report);
            report.broken().join("; ")
        };
        let cases: [(Change, &str); 9] = [
            (|report| report.exact[0].likeness.frames[1] = 99, "a.ts: 99 frames instead of 100"),
            (|report| report.exact[0].likeness.same_pictures = 98, "a.ts: 2 frames decode to other pictures"),
            (|report| report.exact[0].likeness.are_times_equal = false, "a.ts: frames are shown at other times"),
            (|report| report.exact[0].likeness.drift_ms = 21.3, "a.ts: the sound is 21.3 ms off"),
            (|report| report.exact[0].chunks = 19, "a.ts: 19 chunks are fewer than 20"),
            (|report| report.lossy.likeness.size = -0.03, "lossy: the size differs by -3.00 %"),
            (|report| report.killed.likeness.is_sound_equal = false, "with kills: the sound has other samples"),
            (|report| report.killed.repeated = 5, "with kills: 5 attempts were made again for 4 kills"),
            (
                |report| (report.killed.kills, report.killed.repeated) = (0, 0),
                "with kills: the job was done before the first",
            ),
        ];
        for (change, told) in cases {
            assert_eq!(broken_by(change), told);
        }
    }
}
