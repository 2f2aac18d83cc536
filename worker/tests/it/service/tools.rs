//! What becomes of jobs when FFmpeg or an encoder of its goes away under a worker that runs, as a replaced package may have it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ffpool_schema::failure::Cause;
use ffpool_schema::message::Ability;
use ffpool_worker::encoders::find_program;
use tempfile::TempDir;

use super::*;

/// FFmpeg as the file `state` has it: `well`, `without` an encoder, or `gone`.
const SHAKY: &str = r#"#!/bin/bash
state=$(cat "$(dirname "$0")/state")
case "$state" in
    gone) echo "shaky: error while loading shared libraries: libx264.so.164: cannot open shared object file" >&2; exit 127 ;;
    "without "*) case " $* " in *" ${state#without } "*) echo "Unknown encoder '${state#without }'" >&2; exit 1 ;; esac ;;
esac
exec REAL "$@"
"#;

struct Shaky {
    dir: TempDir,
}

impl Shaky {
    fn new() -> Shaky {
        let real = find_program(Path::new("ffmpeg")).expect("these tests need the Debian package ffmpeg");
        let shaky = Shaky { dir: tempfile::tempdir().unwrap() };
        // The tools' user must be able to enter.
        std::fs::set_permissions(shaky.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(shaky.program(), SHAKY.replace("REAL", &real.display().to_string())).unwrap();
        std::fs::set_permissions(shaky.program(), std::fs::Permissions::from_mode(0o755)).unwrap();
        shaky.is("well");
        shaky
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("shaky")
    }

    fn is(&self, state: &str) {
        // Whole at any time: it is read meanwhile.
        let new = self.dir.path().join("new");
        std::fs::write(&new, state).unwrap();
        std::fs::rename(new, self.dir.path().join("state")).unwrap();
    }

    fn flags(&self) -> [String; 2] {
        [format!("--ffmpeg={}", self.program().display()), format!("--sandbox-read={}", self.dir.path().display())]
    }
}

async fn until_able(pool: &Pool, what: &str, is_so: impl Fn(&Ability) -> bool) {
    until(what, async || {
        let last = pool.dispatcher.heartbeats().pop().map(|beat| beat.ability);
        if last.as_ref().is_some_and(&is_so) { Ok(()) } else { Err(last) }
    })
    .await;
}

fn offers(ability: &Ability, encoder: &str) -> bool {
    ability.encoders.iter().any(|offered| offered == encoder)
}

/// Whether a heartbeat tells that an encoder is lost, with this in its reason.
fn has_lost(ability: &Ability, encoder: &str, why: &str) -> bool {
    let is_it = ability.lost.iter().any(|lost| lost.encoder == encoder && lost.why.contains(why));
    is_it && !offers(ability, encoder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_its_encoders_says_so_takes_no_work_without_any_and_takes_it_again_when_they_are_back() {
    let (pool, tool) = (Pool::new("tools").await, Shaky::new());
    let [ffmpeg, reads] = tool.flags();
    let worker = pool.start(&["--slots=1", "--encoder-check-secs=1", &ffmpeg, &reads]).await;
    until_able(&pool, "both encoders", |ability| offers(ability, "libx264") && offers(ability, "libx265")).await;

    tool.is("without libx265");
    until_able(&pool, "the loss of one", |ability| {
        has_lost(ability, "libx265", "Unknown encoder") && offers(ability, "libx264") && ability.lost.len() == 1
    })
    .await;
    assert!(get(worker.http_addr, "/ready").starts_with("HTTP/1.1 200"), "there is work for the others");
    let other = pool.publish(NOOP).await;
    pool.until_ends(&[(other, 1, "finished")]).await;

    tool.is("gone");
    until_able(&pool, "the loss of all", |ability| {
        ability.encoders.is_empty()
            && has_lost(ability, "libx264", "error while loading shared libraries")
            && has_lost(ability, "libx265", "")
    })
    .await;
    let answer = get(worker.http_addr, "/ready");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("libx264.so.164"), "{answer}");
    let waiting = pool.publish(NOOP).await;
    let beats = pool.dispatcher.heartbeats().len();
    until("heartbeats that go on", async || {
        let now = pool.dispatcher.heartbeats().len();
        if now >= beats + 2 { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!((pool.dispatcher.claims().len(), pool.ready().await), (1, 1), "it waits for a better worker");

    tool.is("well");
    pool.until_ends(&[(other, 1, "finished"), (waiting, 1, "finished")]).await;
    until_able(&pool, "both again", |ability| {
        ability.lost.is_empty() && offers(ability, "libx264") && offers(ability, "libx265")
    })
    .await;
    assert_eq!(stop(worker).await, Finish::Clean);
}

/// For what FFmpeg says then, a job would never be tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_the_first_to_miss_an_encoder_is_not_to_blame() {
    let (pool, tool) = (Pool::new("blame").await, Shaky::new());
    let [ffmpeg, reads] = tool.flags();
    // With the usual time between two trials: the failure itself has the tools tried.
    let worker = pool.start(&["--slots=1", &ffmpeg, &reads]).await;
    pool.dispatcher.on_claim(move |_| {
        tool.is("without libx264");
        Say::Run(1)
    });
    let job = pool.publish(r#"{"scenario": "240p15-h264", "parameters": {"duration": 1}}"#).await;
    pool.until_ends(&[(job, 1, "failed")]).await;
    let Outcome::Failed { failure } = &pool.events()[0].outcome else { unreachable!("it ended so") };
    let is_told = failure.message.contains("tools of this worker") && failure.message.contains("libx264: Unknown");
    assert!(failure.cause == Cause::Platform && is_told, "{failure:?}");
    until_able(&pool, "the loss", |ability| has_lost(ability, "libx264", "Unknown") && offers(ability, "libx265"))
        .await;
    assert_eq!(stop(worker).await, Finish::Clean);
}
