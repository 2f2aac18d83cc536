//! A live recording whose worker is killed, and whose next worker is drained: it is whole in the end.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::JobView;
use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{JobSpec, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_stack::Rtmp;
use nix::sys::signal::Signal;

use crate::support::{BOUND, files, pool, program, run};

/// Workers that may go to this machine, and keep what they record every second.
const RECORDERS: &[(&str, &str)] =
    &[("FFPOOL_SLOTS", "1"), ("FFPOOL_FETCH_ALLOW", "127.0.0.0/8"), ("FFPOOL_LIVE_PIECE_SECS", "1")];

/// Publishes a test picture and a tone for as long as it lives.
pub struct Publisher(Child);

impl Publisher {
    pub fn to(url: &str) -> anyhow::Result<Publisher> {
        let child = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"])
            .args(["-re", "-f", "lavfi", "-i", "sine=frequency=300", "-c:v", "libx264", "-preset", "ultrafast"])
            .args(["-tune", "zerolatency", "-g", "13", "-pix_fmt", "yuv420p", "-c:a", "aac", "-f", "flv", url])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("publish by the Debian package ffmpeg")?;
        Ok(Publisher(child))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When each frame is shown, in order.
pub fn times(file: &str) -> Vec<f64> {
    let arguments =
        ["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "csv=p=0", file];
    let output = program("ffprobe", "ffmpeg", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut times: Vec<f64> = text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// What the first attempt has kept.
fn pieces(pool: &Pool) -> Vec<PathBuf> {
    let is_piece = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("000001-") && name.ends_with(".ts")
    };
    files(&pool.media).into_iter().filter(is_piece).collect()
}

async fn until_recording(pool: &Pool, job: JobId, attempt: u32) -> anyhow::Result<()> {
    let is_recording = |view: &JobView| {
        let live = view.progress.as_ref().and_then(|progress| progress.live.as_ref());
        view.attempt == attempt && live.is_some_and(|live| live.run == attempt && live.is_up)
    };
    pool.until(job, BOUND, is_recording).await.map(drop)
}

#[test]
fn a_recording_survives_the_worker_that_is_killed_and_the_one_that_is_drained_and_holds_what_all_recorded() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(RECORDERS).worker(RECORDERS)).await?;
        let server = tokio::task::spawn_blocking(Rtmp::start).await?.context("start the RTMP server")?;
        let _publisher = Publisher::to(&server.url("show"))?;
        let mut spec = JobSpec::new("copy");
        spec.queue = Queue::Live;
        spec.input = Some(server.url("show"));
        let file = pool.media.join("recording.mp4");
        spec.output = Some(file.display().to_string());
        let id = pool.client.submit(&spec).await?.id;
        let end = Instant::now() + BOUND;
        while pieces(&pool).is_empty() {
            ensure!(Instant::now() < end, "nothing is kept: {:?}\n{}", files(&pool.media), pool.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let running = pool.until(id, BOUND, |view| view.worker.is_some()).await?;
        let owner = running.job.worker.expect("a running job has a worker");
        let victim = usize::from(owner.as_str().ends_with("-1"));
        pool.workers[victim].kill();
        let whole = pool.directory().join("kept.ts");
        std::fs::write(&whole, pieces(&pool).iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?.concat())?;
        let before = times(&whole.display().to_string()).len();

        until_recording(&pool, id, 2).await?;
        pool.restart_worker(victim).await?;
        pool.workers[1 - victim].signal(Signal::SIGTERM);
        until_recording(&pool, id, 3).await?;
        pool.workers[1 - victim].wait(BOUND)?;
        pool.client.finish(id).await?;
        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
        assert_eq!(detail.job.failures, 0, "{detail:#?}");
        let live = detail.manifest.and_then(|manifest| manifest.live).expect("it was live");
        let first_gap = live.gaps.first().map(|gap| gap.cause);
        assert_eq!((live.runs, first_gap), (3, Some(Cause::WorkerLost)), "{live:?}");
        let times = times(&file.display().to_string());
        let apart = times.windows(2).map(|pair| pair[1] - pair[0]).enumerate();
        let jumps: Vec<_> = apart.filter(|(_, secs)| *secs <= 0.0 || *secs > 0.1).collect();
        // Everything that was kept when the worker died, then nothing, then what the others recorded.
        assert_eq!((jumps.len(), jumps[0].0 + 1), (live.gaps.len(), before), "{jumps:?} {live:?}");
        assert!((jumps[0].1 - live.gaps[0].secs).abs() < 0.15, "{jumps:?} {live:?}");
        // The one that was drained recorded until the next one did: hardly anything is missing.
        let missing: f64 = jumps[1..].iter().map(|(_, secs)| secs).sum();
        assert!(missing < 1.0, "{jumps:?} {live:?}");
        assert!(times.len() > before, "{} frames, {before} before the kill", times.len());
        assert_eq!(files(&pool.media).len(), 2, "the recording and its manifest: {:?}", files(&pool.media));
        Ok(())
    });
}
