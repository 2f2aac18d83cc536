//! Live jobs end to end: how long after its publish a job publishes media, and what a recording holds when the server of
//! the media is killed twice.
//!
//! Invariant: both jobs go through the whole pool; the outages are made here, so their times are known without asking it.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ffpool::AmqpProducer;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{JobSpec, Queue};
use ffpool_schema::message::LiveReport;
use ffpool_schema::parse::Encoding;
use ffpool_stack::{Rtmp, Stack};

use crate::pool::{Pool, PoolSettings};

/// How long the server of the media is away each time, besides its own start.
const AWAY: Duration = Duration::from_millis(500);
/// How far a gap may begin or end from what is known of it: a key frame, a try of the publisher, the encoder's delay.
const TOLERANCE_SECS: f64 = 3.5;
/// For anything that does not depend on the length.
const BOUND: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct LiveArgs {
    /// Seconds that are published while the server is restarted twice.
    #[arg(long, default_value_t = 60)]
    pub secs: u32,
    /// Jobs whose start is measured, one at a time.
    #[arg(long, default_value_t = 10)]
    pub starts: usize,
}

/// The figures of one run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LiveFigures {
    /// Publish of a job to publish of its media, in milliseconds, sorted.
    pub start_ms: Vec<f64>,
    /// What was asked to be published, in seconds.
    pub secs: u32,
    /// Each time in which the server was away: seconds from the recording's first media, and length. The recording does not
    /// say when it began, so the first outage stands where its first gap does.
    pub outages: Vec<(f64, f64)>,
    /// What the recording says of itself.
    pub recording: LiveReport,
    /// Jumps of more than a tenth of a second between two frames of the file: where, and how long.
    pub jumps: Vec<(f64, f64)>,
    /// Frames of the file.
    pub frames: usize,
    /// What is not as it should be.
    pub faults: Vec<String>,
}

impl LiveFigures {
    /// Whether the recording has the gaps that it must have, and nothing else.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Holds the gaps against the outages. Where the first gap lies is what the others are counted from, and so is judged by
    /// its length alone.
    fn judge(&mut self) {
        let mut faults = Vec::new();
        if (self.recording.gaps.len(), self.jumps.len()) != (self.outages.len(), self.outages.len()) {
            faults.push(format!(
                "{} outages, {} gaps in the manifest, {} in the file",
                self.outages.len(),
                self.recording.gaps.len(),
                self.jumps.len()
            ));
        }
        for ((at, secs), (jump_at, jump)) in self.outages.iter().zip(&self.jumps) {
            let is_there = (jump_at - at).abs() < 1.0 && (*secs - 0.2..*secs + TOLERANCE_SECS).contains(jump);
            if !is_there {
                faults.push(format!("away {secs:.2} s at {at:.2} s, and a gap of {jump:.2} s at {jump_at:.2} s"));
            }
        }
        for (gap, (at, jump)) in self.recording.gaps.iter().zip(&self.jumps) {
            if (gap.at_secs - at).abs() > 0.2 || (gap.secs - jump).abs() > 0.2 {
                faults.push(format!("the manifest says {gap:?}, the file {jump:.3} s at {at:.3} s"));
            }
        }
        self.faults = faults;
    }
}

impl fmt::Display for LiveFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: f64| self.start_ms.get(((self.start_ms.len() as f64 - 1.0) * share).round() as usize);
        let ms = |share| at(share).copied().unwrap_or(f64::NAN);
        writeln!(f, "publish of a job to its media  {:6.0} ms p50  {:6.0} ms at most", ms(0.5), ms(1.0))?;
        writeln!(
            f,
            "recording of {} s               {:6.2} s in {} runs, {} frames",
            self.secs, self.recording.secs, self.recording.runs, self.frames
        )?;
        for ((at, secs), (jump_at, jump)) in self.outages.iter().zip(&self.jumps) {
            writeln!(f, "away {secs:.2} s at {at:.2} s            gap of {jump:.2} s at {jump_at:.2} s")?;
        }
        for fault in &self.faults {
            writeln!(f, "WRONG: {fault}")?;
        }
        Ok(())
    }
}

/// Measures on a private stack.
///
/// # Errors
/// When a part fails, or a job does not end as it should.
pub async fn run(args: &LiveArgs) -> anyhow::Result<LiveFigures> {
    let (stack, server) = tokio::task::spawn_blocking(|| (Stack::start(), Rtmp::start())).await?;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    let stack: &'static Stack = Box::leak(Box::new(stack.context("start the servers")?));
    let server = server.context("start the RTMP server")?;
    let settings = PoolSettings::one_worker(&[("FFPOOL_FETCH_ALLOW", "127.0.0.0/8"), ("FFPOOL_SLOTS", "2")]);
    let pool = Pool::start(stack, settings).await?;
    let producer = AmqpProducer::open(pool.amqp_url.clone());
    let start_ms = starts(&pool, &producer, &server, args.starts).await?;
    let mut figures = recorded(&pool, &producer, server, args.secs).await?;
    figures.start_ms = start_ms;
    figures.judge();
    Ok(figures)
}

/// A live job that publishes a generated picture.
fn publishing(server: &Rtmp, key: &str, secs: f64) -> JobSpec {
    let mut spec = JobSpec::new("360p25-h264");
    spec.queue = Queue::Live;
    spec.output = Some(server.url(key));
    spec.parameters.preset = Some("ultrafast".to_owned());
    spec.parameters.tune = Some("zerolatency".to_owned());
    spec.parameters.gop = Some(25);
    spec.parameters.duration = Some(secs);
    spec
}

async fn starts(pool: &Pool, producer: &AmqpProducer, server: &Rtmp, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut all = Vec::new();
    for number in 0..count {
        let key = format!("start-{number}");
        let begin = Instant::now();
        let job = producer.publish(&publishing(server, &key, 1.0), Encoding::Json, None).await?;
        while !server.has_published(&key) {
            ensure!(begin.elapsed() < BOUND, "job {job} published nothing within {BOUND:?}\n{}", pool.logs());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        all.push(begin.elapsed().as_secs_f64() * 1e3);
        completed(pool, job, BOUND).await?;
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

async fn completed(pool: &Pool, job: JobId, bound: Duration) -> anyhow::Result<Option<LiveReport>> {
    let detail = pool.until_ended(job, bound).await?;
    ensure!(
        detail.job.state == ffpool_schema::lifecycle::State::Completed,
        "job {job} ended {}: {:?}\n{}",
        detail.job.state,
        detail.attempts,
        pool.logs()
    );
    Ok(detail.manifest.and_then(|manifest| manifest.live))
}

/// Publishes and records at once, and kills the server twice meanwhile.
async fn recorded(pool: &Pool, producer: &AmqpProducer, server: Rtmp, secs: u32) -> anyhow::Result<LiveFigures> {
    let published = producer.publish(&publishing(&server, "show", f64::from(secs)), Encoding::Json, None).await?;
    let mut recording = JobSpec::new("copy");
    recording.queue = Queue::Live;
    recording.input = Some(server.url("show"));
    let file = pool.media.join("recording.mp4");
    recording.output = Some(file.display().to_string());
    recording.parameters.reconnect_sec = Some(10);
    let recorder = producer.publish(&recording, Encoding::Json, None).await?;
    let (server, outages) = tokio::task::spawn_blocking(move || {
        let mut outages = Vec::new();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs_f64(f64::from(secs) / 3.0));
            server.kill();
            let away = jiff::Timestamp::now();
            std::thread::sleep(AWAY);
            server.restart()?;
            outages.push((away, jiff::Timestamp::now()));
        }
        Ok::<_, ffpool_stack::StackError>((server, outages))
    })
    .await??;
    let bound = BOUND + Duration::from_secs(u64::from(secs));
    completed(pool, published, bound).await?;
    let report = completed(pool, recorder, bound).await?.context("the recording says nothing of itself")?;
    drop(server);
    let times = frame_times(&file)?;
    let jumps: Vec<(f64, f64)> =
        times.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).filter(|(_, secs)| *secs > 0.1).collect();
    // The first gap is the recording's own account of when it began: all other times are counted from it.
    let first = outages.first().map(|(away, _)| *away).context("there was no outage")?;
    let began = report.gaps.first().map_or(0.0, |gap| gap.at_secs);
    let since = |at: jiff::Timestamp| at.duration_since(first).as_secs_f64() + began;
    let outages = outages.iter().map(|(away, back)| (since(*away), back.duration_since(*away).as_secs_f64()));
    Ok(LiveFigures {
        start_ms: Vec::new(),
        secs,
        outages: outages.collect(),
        recording: report,
        jumps,
        frames: times.len(),
        faults: Vec::new(),
    })
}

/// When each frame of a file's video is shown, in order.
fn frame_times(file: &Path) -> anyhow::Result<Vec<f64>> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .context("run ffprobe, of the Debian package ffmpeg")?;
    if !output.status.success() {
        bail!("{} cannot be probed: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let mut times: Vec<f64> = text
        .lines()
        .map(|line| line.trim_end_matches(',').parse())
        .collect::<Result<_, std::num::ParseFloatError>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

#[cfg(test)]
mod tests {
    use ffpool_schema::failure::Cause;
    use ffpool_schema::message::LiveGap;

    use super::*;

    fn faults(outages: &[(f64, f64)], gaps: &[(f64, f64)]) -> Vec<String> {
        let gap = |&(at_secs, secs): &(f64, f64)| LiveGap { at_secs, secs, cause: Cause::SourceGone };
        let recording = LiveReport { runs: 3, secs: 60.0, gaps: gaps.iter().map(gap).collect(), sinks: Vec::new() };
        let (outages, jumps) = (outages.to_vec(), gaps.to_vec());
        let (start_ms, faults) = (Vec::new(), Vec::new());
        let mut figures = LiveFigures { start_ms, secs: 60, outages, recording, jumps, frames: 1, faults };
        figures.judge();
        figures.faults
    }

    #[test]
    fn a_gap_is_judged_by_its_length_and_by_its_distance_from_the_first() {
        let outages = [(20.0, 0.5), (40.0, 0.5)];
        assert_eq!(faults(&outages, &[(20.0, 2.0), (40.3, 2.5)]), Vec::<String>::new());
        assert_eq!(faults(&outages, &[(20.0, 2.0), (42.0, 2.0)]).len(), 1, "at another time");
        assert_eq!(faults(&outages, &[(20.0, 9.0), (40.0, 2.0)]).len(), 1, "too long");
        assert_eq!(faults(&outages, &[(20.0, 0.1), (40.0, 2.0)]).len(), 1, "shorter than the outage");
        assert_eq!(faults(&outages, &[(20.0, 2.0)]).len(), 1, "one is missing");
    }
}
