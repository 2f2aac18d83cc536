//! However an attempt ends, it says the right thing and leaves nothing behind.

use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Engine, JobSpec, Queue};
use ffpool_schema::message::{Manifest, Outcome, Phase};
use ffpool_worker::workshop::{CgroupMode, OpenError, Stop, Workshop};

use super::bench::{Bench, Ledger, Running, failure, fault, manifest, stand_in, until};

/// A generated encode that takes for ever.
pub(super) fn endless(bench: &Bench) -> JobSpec {
    let mut spec = bench.spec("720p30-h264");
    spec.parameters.duration = Some(80_000.0);
    spec.parameters.preset = Some("slow".to_owned());
    spec
}

pub(super) async fn until_it_encodes(running: &Running) {
    until("the encode to get on", || match &*running.progress.borrow() {
        Some(progress) if progress.phase == Phase::Encode && progress.size_bytes.is_some() => Ok(()),
        other => Err(format!("{other:?}; ended: {}", running.ended.is_finished())),
    })
    .await;
}

/// Two children, one in a session of its own, and deaf to polite requests.
const STUBBORN_FAMILY: &str = "trap '' INT TERM\nsleep 600 &\nsetsid sleep 600 &\n\
    while :; do echo total_size=$((n+=1)); echo progress=continue; sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_whole_tree_of_a_stubborn_tool() {
    for cgroups in [CgroupMode::Auto, CgroupMode::Off] {
        let bench = Bench::with(|settings, dir| {
            settings.ffmpeg = stand_in(dir, STUBBORN_FAMILY);
            settings.cgroups = cgroups;
        })
        .await;
        let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
        until("the tool and its two children", || {
            let processes = bench.processes();
            let children = processes.iter().filter(|line| line.starts_with("sleep 600")).count();
            if children == 2 { Ok(()) } else { Err(format!("{processes:?}")) }
        })
        .await;
        running.stop.send_replace(Some(Stop::Cancel));
        let ended = running.ended.await.unwrap();
        assert_eq!(ended.outcome, Some(Outcome::Cancelled));
        bench.assert_clean();
    }
}

/// What a live pipeline needs to complete its last piece: to be asked, once, and to be given time.
const POLITE: &str = "trap 'n=$((n+1)); echo asked $n >&2; sleep 0.5; exit 1' INT\n\
    while :; do echo total_size=$((s+=1)); echo progress=continue; sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_asked_to_stop_once_before_it_is_killed_whoever_its_user_is() {
    for cgroups in [CgroupMode::Auto, CgroupMode::Off] {
        let bench = Bench::with(|settings, dir| {
            settings.ffmpeg = stand_in(dir, POLITE);
            settings.cgroups = cgroups;
        })
        .await;
        let mut running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
        until_it_encodes(&running).await;
        running.stop.send_replace(Some(Stop::Cancel));
        let ended = (&mut running.ended).await.unwrap();
        assert_eq!(ended.outcome, Some(Outcome::Cancelled));
        let mut said = Vec::new();
        while let Ok(line) = running.log.try_recv() {
            said.push(line);
        }
        let asked = said.iter().filter(|said| said.line.contains("asked ")).count();
        assert_eq!(asked, 1, "{said:?}");
        bench.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_stop_has_its_own_ending_and_publishes_nothing() {
    let bench = Bench::open().await;
    let released = Outcome::Released { reason: "drain".to_owned() };
    for (stop, outcome) in [
        (Stop::Cancel, Some(Outcome::Cancelled)),
        (Stop::Abandon, None),
        (Stop::Release("drain".to_owned()), Some(released)),
    ] {
        let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
        until_it_encodes(&running).await;
        running.stop.send_replace(Some(stop));
        let ended = running.ended.await.unwrap();
        assert_eq!(ended.outcome, outcome);
        assert!(ended.usage.cpu_ms > 0, "{:?}", ended.usage);
        bench.assert_clean();
    }
    assert_eq!(std::fs::read_dir(bench.media("ffpool")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_task_is_aborted_leaves_nothing() {
    let bench = Bench::open().await;
    let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
    until_it_encodes(&running).await;
    running.ended.abort();
    until("all to be gone", || {
        let (processes, left) = (bench.processes(), bench.leftovers());
        // An empty cgroup may outlive its processes by a moment; the next start takes it away.
        let scratch = left.iter().filter(|path| path.starts_with(bench.dir.path())).count();
        if processes.is_empty() && scratch == 0 { Ok(()) } else { Err(format!("{processes:?} {left:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_commit_publishes_nothing_and_reports_nothing() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.parameters.duration = Some(1.0);
    let ended = bench.start(&bench.grant(&spec), Ledger::Refuses).ended.await.unwrap();
    assert_eq!(ended.outcome, None);
    assert_eq!(std::fs::read_dir(bench.media("ffpool")).unwrap().count(), 0);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_published_is_adopted() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.parameters.duration = Some(1.0);
    let mut grant = bench.grant(&spec);
    let first = bench.run(&grant).await;
    let output = bench.media(&format!("ffpool/{}.mp4", grant.job));
    let modified = std::fs::metadata(&output).unwrap().modified().unwrap();

    grant.attempt = 2;
    let second = bench.run(&grant).await;
    assert_eq!(manifest(&second), manifest(&first));
    assert_eq!(std::fs::metadata(&output).unwrap().modified().unwrap(), modified);

    // Changed since, it is no proof of anything.
    std::fs::write(&output, "x").unwrap();
    grant.attempt = 3;
    let third = bench.run(&grant).await;
    assert_eq!(manifest(&third).attempt, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_never_replaces_a_newer_one_s_output() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.parameters.duration = Some(1.0);
    spec.output = Some(bench.media("out.mp4").display().to_string());
    let mut grant = bench.grant(&spec);
    let first = bench.run(&grant).await;
    // As if attempt 9 had been here and its file had not been hashed yet.
    let newer = Manifest { attempt: 9, artifacts: Vec::new(), ..manifest(&first).clone() };
    std::fs::write(bench.media("out.mp4"), "the newer one").unwrap();
    std::fs::write(bench.media("out.mp4.ffpool.json"), serde_json::to_vec(&newer).unwrap()).unwrap();
    grant.attempt = 2;
    let late = bench.run(&grant).await;
    assert_eq!(late.outcome, None);
    assert_eq!(std::fs::read_to_string(bench.media("out.mp4")).unwrap(), "the newer one");
    assert_eq!(bench.media_names(), ["out.mp4", "out.mp4.ffpool.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tool_has_stalled_and_a_slow_one_runs_out_of_time() {
    let bench = Bench::with(|settings, dir| {
        settings.ffmpeg = stand_in(dir, "while :; do echo total_size=1; echo progress=continue; sleep 0.1; done");
        settings.stall_after = Duration::from_secs(1);
    })
    .await;
    let mut spec = endless(&bench);
    let stalled = bench.run_spec(&spec).await;
    assert_eq!(failure(&stalled).cause, Cause::Stall);

    // A live job has a bound of its own, and any job may name one.
    spec.queue = Queue::Live;
    spec.resource_limits.timeout_sec = Some(3);
    assert_eq!(failure(&bench.run_spec(&spec).await).cause, Cause::Timeout);
    spec.resource_limits.stall_sec = Some(1);
    assert_eq!(failure(&bench.run_spec(&spec).await).cause, Cause::Stall);
    drop(bench);
    spec.resource_limits.stall_sec = None;

    let bench = Bench::open().await;
    spec.resource_limits.timeout_sec = Some(1);
    let late = bench.run_spec(&spec).await;
    assert_eq!(failure(&late).cause, Cause::Timeout);
    assert!(failure(&late).message.contains("1 s"), "{:?}", failure(&late));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_lies_about_its_success_is_found_out() {
    let copy = "for last; do :; done; exec ffmpeg -nostdin -v error -f lavfi -i testsrc2=s=64x64:d=1 -y \"$last\"";
    let bench = Bench::with(|settings, dir| settings.ffmpeg = stand_in(dir, copy)).await;
    let mut spec = bench.spec("240p25-h264");
    spec.parameters.duration = Some(1.0);
    let ended = bench.run_spec(&spec).await;
    let failure = failure(&ended);
    assert_eq!(failure.cause, Cause::VerifyFailed);
    assert!(failure.evidence.as_ref().unwrap().contains("the size is 64x64 instead of 426x240"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_that_runs_nothing_needs_leave_and_consent() {
    let mut spec = JobSpec::new("");
    spec.engine = Engine::Noop;
    let strict = Bench::open().await;
    assert_eq!(fault(&strict.run_spec(&spec).await), "engine unsupported");

    let bench = Bench::with(|settings, _| settings.allow_noop = true).await;
    assert!(bench.workshop.ability().noop);
    assert_eq!(bench.run_spec(&spec).await.outcome, Some(Outcome::Finished { manifest: None }));
    let refused = bench.start(&bench.grant(&spec), Ledger::Refuses).ended.await.unwrap();
    assert_eq!(refused.outcome, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_clears_away_what_its_earlier_life_left() {
    let bench = Bench::open().await;
    let (settings, dir) = (bench.settings.clone(), &bench.dir);
    let orphan = settings.scratch.join(settings.worker.as_str()).join(format!("{}.1", JobId(uuid::Uuid::new_v4())));
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("encode.mp4"), "half").unwrap();
    let mut child = std::process::Command::new("sleep").arg("600").current_dir(&orphan).spawn().unwrap();

    // While the earlier life holds on, there is no second one.
    let second = Workshop::open(settings.clone()).await.unwrap_err();
    assert!(matches!(second, OpenError::ScratchInUse { .. }), "{second}");
    drop(bench.workshop);
    let reopened = Workshop::open(settings).await.unwrap();
    assert!(!orphan.exists() && dir.path().exists());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    drop(reopened);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cgroups_everything_works_but_the_limits() {
    let bench = Bench::with(|settings, _| settings.cgroups = CgroupMode::Off).await;
    assert_eq!(bench.workshop.without_limits().as_deref(), Some("cgroups are switched off"));
    assert!(!bench.workshop.ability().cgroups);
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(bench.clip("source.mp4", &[]));
    spec.output = Some(bench.media("out.mp4").display().to_string());
    manifest(&bench.run_spec(&spec).await);

    let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
    until_it_encodes(&running).await;
    running.stop.send_replace(Some(Stop::Cancel));
    let ended = running.ended.await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    bench.assert_clean();
}
