//! What the end-to-end tests share.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::JobView;
use ffpool_schema::job::JobSpec;
use ffpool_stack::Stack;

/// Long enough for any step on a busy machine; a step that works takes a small part of it.
pub const BOUND: Duration = Duration::from_secs(120);

/// Runs a test on a runtime of its own, whose threads end with it.
pub fn run<T>(test: impl Future<Output = anyhow::Result<T>>) -> T {
    ffpool_runtime::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test).unwrap_or_else(|error| panic!("{error:?}"))
}

/// A pool on the servers that all tests of this binary share.
pub async fn pool(settings: PoolSettings) -> anyhow::Result<Pool> {
    let stack = tokio::task::spawn_blocking(Stack::shared).await?;
    Pool::start(stack, settings).await
}

/// A worker with two slots that runs no-op jobs too.
pub const SMALL: &[(&str, &str)] = &[("FFPOOL_SLOTS", "2"), ("FFPOOL_ALLOW_NOOP", "true")];

/// An encode that takes a fraction of a second.
pub fn quick(output: &str) -> JobSpec {
    let mut spec = JobSpec::new("240p15-h264");
    spec.output = Some(output.into());
    spec.parameters.duration = Some(1.0);
    spec.parameters.preset = Some("ultrafast".into());
    spec
}

/// An encode that would take minutes: for everything that happens meanwhile.
pub fn long(output: &str) -> JobSpec {
    let mut spec = JobSpec::new("720p60-h264");
    spec.output = Some(output.into());
    spec.parameters.duration = Some(3600.0);
    spec.parameters.preset = Some("veryslow".into());
    spec
}

/// An encode of several seconds, long enough to be interrupted and short enough to be run again.
pub fn medium(output: &str) -> JobSpec {
    let mut spec = JobSpec::new("360p30-h264");
    spec.output = Some(output.into());
    spec.parameters.duration = Some(60.0);
    spec.parameters.preset = Some("fast".into());
    spec.resource_limits.max_cpu_percent = Some(50);
    spec
}

/// Whether the tool of a job has written something.
pub fn encoding(view: &JobView) -> bool {
    view.progress.as_ref().is_some_and(|progress| progress.out_time_us.is_some_and(|time| time > 0))
}

/// Runs a program to its end.
///
/// # Panics
/// When it is not installed, with the name of its package.
pub fn program(name: &str, package: &str, arguments: &[&str]) -> Output {
    Command::new(name)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{name} cannot be run ({error}): apt-get install {package}"))
}

/// What ffprobe says of the first video stream: codec, width, height, average frame rate.
pub fn probe(path: &std::path::Path) -> String {
    let path = path.display().to_string();
    let entries = "stream=codec_name,width,height,avg_frame_rate";
    let arguments = ["-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "csv=p=0", &path];
    let output = program("ffprobe", "ffmpeg", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Everything below a directory that is a file; links are not followed.
pub fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
