//! A frozen attempt stands still and loses nothing; whatever ends it ends it frozen, too.

use std::path::Path;
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::message::Outcome;
use ffpool_worker::workshop::{CgroupMode, Ended, Freeze, Stop};

use super::bench::{Bench, Ledger, Running, failure, manifest, stand_in, until};
use super::endings::{endless, until_it_encodes};

/// A window in which a process that may run would be seen to.
const WINDOW: Duration = Duration::from_millis(1500);
/// A tool that is silent for so long has stalled; one that starts on a busy machine is not.
const STALL: Duration = Duration::from_secs(5);
const PAUSED: Freeze = Freeze { paused: true, preempted: false };

/// An encode beside a child that spins in a session of its own.
fn with_a_spinning_child(dir: &Path) -> std::path::PathBuf {
    stand_in(dir, "setsid sh -c 'while :; do :; done' &\nexec ffmpeg \"$@\"")
}

async fn until_cpu_stands_still(bench: &Bench) {
    let (mut last, mut since) = (bench.cpu_ticks(), std::time::Instant::now());
    until("a window without any use of the processors", || {
        let now = bench.cpu_ticks();
        if now != last {
            (last, since) = (now, std::time::Instant::now());
        }
        if since.elapsed() >= WINDOW { Ok(()) } else { Err(format!("{now} ticks")) }
    })
    .await;
}

async fn until_cpu_moves(bench: &Bench) {
    let before = bench.cpu_ticks();
    until("the processors to be used again", || {
        let now = bench.cpu_ticks();
        if now > before { Ok(()) } else { Err(format!("{now} ticks")) }
    })
    .await;
}

async fn end_of(running: Running) -> Ended {
    until("the end", || if running.ended.is_finished() { Ok(()) } else { Err("it runs".to_owned()) }).await;
    running.ended.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_tree_uses_no_processor_and_completes_when_it_is_thawed() {
    for cgroups in [CgroupMode::Auto, CgroupMode::Off] {
        let bench = Bench::with(|settings, dir| {
            settings.ffmpeg = with_a_spinning_child(dir);
            settings.cgroups = cgroups;
            settings.stall_after = STALL;
        })
        .await;
        let mut spec = bench.spec("480p30-h264");
        spec.parameters.duration = Some(60.0);
        let running = bench.start(&bench.grant(&spec), Ledger::Grants);
        until_it_encodes(&running).await;
        running.freeze.send_replace(PAUSED);
        until_cpu_stands_still(&bench).await;
        // A frozen tool is silent and has not stalled.
        tokio::time::sleep(STALL + Duration::from_secs(1)).await;
        assert!(!running.ended.is_finished(), "{cgroups:?}");
        running.freeze.send_replace(Freeze::default());
        until_cpu_moves(&bench).await;
        let ended = end_of(running).await;
        manifest(&ended);
        bench.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_frozen_attempt_at_once() {
    for cgroups in [CgroupMode::Auto, CgroupMode::Off] {
        let bench = Bench::with(|settings, dir| {
            settings.ffmpeg = with_a_spinning_child(dir);
            settings.cgroups = cgroups;
            // Longer than is waited: there are no manners towards the frozen.
            settings.stop_grace = Duration::from_secs(600);
        })
        .await;
        let released = Outcome::Released { reason: "drain".to_owned() };
        for (stop, outcome) in [
            (Stop::Cancel, Some(Outcome::Cancelled)),
            (Stop::Abandon, None),
            (Stop::Release("drain".to_owned()), Some(released)),
        ] {
            let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
            until_it_encodes(&running).await;
            running.freeze.send_replace(PAUSED);
            until_cpu_stands_still(&bench).await;
            let told = std::time::Instant::now();
            running.stop.send_replace(Some(stop));
            assert_eq!(end_of(running).await.outcome, outcome);
            println!("{cgroups:?}: {:?} from the stop to the end", told.elapsed());
            bench.assert_clean();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_attempt_does_not_run_while_it_is_frozen() {
    let bench = Bench::open().await;
    let mut spec = endless(&bench);
    spec.resource_limits.timeout_sec = Some(4);
    let running = bench.start(&bench.grant(&spec), Ledger::Grants);
    running.freeze.send_replace(PAUSED);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!running.ended.is_finished());
    running.freeze.send_replace(Freeze::default());
    let ended = end_of(running).await;
    assert_eq!(failure(&ended).cause, Cause::Timeout);
    // What went by before the freeze was seen counts once.
    assert!(ended.usage.wall_ms >= 7_000, "{:?}", ended.usage);
    bench.assert_clean();
}

/// What a worker that was killed left frozen cannot die before it is thawed, on version 1.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_left_frozen_is_ended_by_the_next() {
    let bench = Bench::with(|settings, dir| settings.ffmpeg = with_a_spinning_child(dir)).await;
    let settings = bench.settings.clone();
    let running = bench.start(&bench.grant(&endless(&bench)), Ledger::Grants);
    until_it_encodes(&running).await;
    // The kernel forgets a killed worker's orders no less than this does: nobody thaws, nobody waits.
    let frozen: Vec<_> =
        bench.leftovers().into_iter().map(|dir| dir.join("freezer.state")).filter(|state| state.exists()).collect();
    let orphan = settings.scratch.join(settings.worker.as_str()).join("orphan.1");
    std::fs::create_dir(&orphan).unwrap();
    let mut left = std::process::Command::new("sleep").arg("600").current_dir(&orphan).spawn().unwrap();
    let mut groups = Vec::new();
    for state in &frozen {
        let group = state.parent().unwrap().with_file_name("orphan.1");
        std::fs::create_dir(&group).unwrap();
        std::fs::write(group.join("cgroup.procs"), left.id().to_string()).unwrap();
        std::fs::write(group.join("freezer.state"), "FROZEN").unwrap();
        groups.push(group);
    }
    running.ended.abort();
    let _ = running.ended.await;
    drop(bench.workshop);
    let reopened = ffpool_worker::workshop::Workshop::open(settings).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&left.wait().unwrap()), Some(9));
    assert!(groups.iter().all(|group| !group.exists()) && !orphan.exists(), "{groups:?}");
    drop(reopened);
}
