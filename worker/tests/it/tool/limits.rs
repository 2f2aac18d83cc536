//! Limits of a job hold, and their breach has a name. These need the right to make cgroups: root, or a delegated one.

use ffpool_schema::failure::Cause;
use ffpool_worker::workshop::CgroupMode;

use super::bench::{Bench, failure, stand_in};

async fn with_cgroups() -> Bench {
    Bench::with(|settings, _| settings.cgroups = CgroupMode::Require).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_needs_more_memory_than_it_may_have_ends_with_cause_oom() {
    let bench = with_cgroups().await;
    let mut spec = bench.spec("1080p30-h264");
    spec.parameters.preset = Some("slow".to_owned());
    spec.resource_limits.max_memory_mb = Some(64);
    let ended = bench.run_spec(&spec).await;
    let failure = failure(&ended);
    assert_eq!((failure.cause, failure.signal), (Cause::Oom, Some(9)), "{failure:?}");
    assert!(failure.message.contains("memory limit"), "{failure:?}");
    let peak = ended.usage.peak_memory_bytes.unwrap();
    assert!(peak <= 64 << 20, "{peak}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_core_is_half_a_core() {
    let bench = with_cgroups().await;
    let mut spec = bench.spec("720p30-h264");
    spec.parameters.preset = Some("medium".to_owned());
    spec.parameters.duration = Some(80_000.0);
    spec.resource_limits.max_cpu_percent = Some(50);
    spec.resource_limits.timeout_sec = Some(9);
    let idle_before = idle_secs();
    let ended = bench.run_spec(&spec).await;
    let idle = idle_secs() - idle_before;
    assert_eq!(failure(&ended).cause, Cause::Timeout);
    let share = ended.usage.cpu_ms as f64 / ended.usage.wall_ms as f64;
    println!("{share:.3} of a core");
    assert!(share <= 0.575, "{share} of a core: {:?}", ended.usage);
    // A busy machine gives less than is allowed, and nothing can be said.
    if idle * 1000.0 >= ended.usage.wall_ms as f64 / 2.0 {
        assert!(share >= 0.425, "{share} of a core: {:?}", ended.usage);
    }
}

/// For how long the machine's processors have been idle, all of them added up.
fn idle_secs() -> f64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    uptime.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_over_the_disk_limit_is_stopped() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("720p30-h264");
    spec.parameters.crf = Some(0);
    spec.parameters.duration = Some(600.0);
    spec.resource_limits.max_disk_mb = Some(2);
    let ended = bench.run_spec(&spec).await;
    assert_eq!(failure(&ended).cause, Cause::ScratchLimit, "{:?}", failure(&ended));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_cannot_fill_the_machine_with_processes() {
    let bomb = "i=0; while [ $i -lt 600 ]; do sleep 600 & i=$((i+1)); done; wait";
    let bench = Bench::with(|settings, dir| {
        settings.cgroups = CgroupMode::Require;
        settings.ffmpeg = stand_in(dir, bomb);
    })
    .await;
    let ended = bench.run_spec(&bench.spec("240p25-h264")).await;
    let failure = failure(&ended);
    assert_eq!(failure.cause, Cause::Processes, "{failure:?}");
    assert!(failure.evidence.as_ref().is_some_and(|line| line.contains("fork")), "{failure:?}");
    bench.assert_clean();
}
