//! A clock that jumps: time is measured by another one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ffpool_schema::message::{JobAnswer, JobCommand};
use ffpool_schema::subjects;
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pool::{Pool, until};
use crate::service::{ENDLESS, KilledOnDrop, NOOP, until_running};

/// The library that shows a process another time of day. It reads the time to show from a file, again and again.
fn faketime() -> PathBuf {
    let found = Path::new("/usr/lib").read_dir().unwrap().flatten();
    let mut found = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("this test needs the Debian package faketime")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_forward_and_two_hours_back_end_nothing_and_double_nothing() {
    let pool = Pool::new("clock").await;
    let shown = pool.media().join("clock");
    let show = |offset_secs: i64| {
        std::fs::write(shown.with_extension("new"), format!("{offset_secs:+}")).unwrap();
        std::fs::rename(shown.with_extension("new"), &shown).unwrap();
    };
    show(0);
    let child = Command::new(env!("CARGO_BIN_EXE_ffpool-worker"))
        .args(&pool.flags(&["--slots=2"])[1..])
        .envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("DONT_FAKE_MONOTONIC", "1")])
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME_TIMESTAMP_FILE", &shown)
        .stderr(Stdio::null())
        .spawn();
    let mut child = KilledOnDrop(child.expect("cargo built the program"));
    let endless = pool.publish(ENDLESS).await;
    until_running(&pool, endless).await;

    let mut ends = Vec::new();
    for offset_secs in [3600, -3600] {
        show(offset_secs);
        let jumped = until("a heartbeat with the shifted time", async || {
            let beat = pool.dispatcher.heartbeats().pop().unwrap();
            let off = beat.at.as_second() - Timestamp::now().as_second() - offset_secs;
            if off.abs() < 300 { Ok(pool.dispatcher.heartbeats().len()) } else { Err((off, beat.at)) }
        })
        .await;
        let short = pool.publish(NOOP).await;
        ends.push((short, 1, "finished"));
        pool.until_ends(&ends).await;
        until("three heartbeats more", async || {
            let now = pool.dispatcher.heartbeats().len();
            if now >= jumped + 3 { Ok(()) } else { Err(now) }
        })
        .await;
    }
    let beats = pool.dispatcher.heartbeats();
    assert!(beats.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let named = beats.iter().skip_while(|beat| beat.running.is_empty());
    let progress: Vec<_> = named
        .map(|beat| beat.running.iter().find(|running| running.job == endless).expect("its lease is always renewed"))
        .filter_map(|running| running.progress.clone())
        .collect();
    let speeds: Vec<f64> = progress.iter().filter_map(|progress| progress.speed).collect();
    // It begins at 0.
    assert!(!speeds.is_empty() && speeds.iter().all(|speed| (0.0..1000.0).contains(speed)), "{speeds:?}");

    let (subject, cancel) = (subjects::control_job(endless), JobCommand::Cancel { attempt: 1 });
    until("an answer to the cancel", async || {
        pool.signals.request::<_, JobAnswer>(&subject, &cancel, Duration::from_secs(5)).await
    })
    .await;
    ends.push((endless, 1, "cancelled"));
    pool.until_ends(&ends).await;
    let event = pool.events().into_iter().find(|event| event.job == endless).unwrap();
    assert!(event.usage.unwrap().wall_ms < 600_000, "it was measured by the clock that jumped");
    assert_eq!(pool.dispatcher.claims().len(), 3, "each job was claimed once");

    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = until("the exit", async || child.0.try_wait().unwrap().ok_or("still running")).await;
    assert!(status.success(), "{status}");
    assert_eq!(pool.ready().await, 0);
}
