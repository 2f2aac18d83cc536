//! What the process says to the service manager that started it, and to whoever asks whether it is ready.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use super::*;

/// Ended with the test, however that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Adds what was said since the last call.
fn listen(socket: &UnixDatagram, words: &mut Vec<String>) {
    let mut packet = [0; 4096];
    while let Ok(size) = socket.recv(&mut packet) {
        words.extend(String::from_utf8_lossy(&packet[..size]).lines().map(str::to_owned));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_means_that_a_claim_is_answered_and_the_service_manager_hears_of_it_and_of_the_stop() {
    let scene = Scene::new().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_ffpool-dispatcher"))
        .args(["--amqp-url", &scene.amqp_url, "--nats-url", &scene.nats.nats.url()])
        .args(["--database-url", &scene.database_url, "--bootstrap-key", "a-key-for-tests-only"])
        .args(["--api-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "3000000")
        .stderr(Stdio::null())
        .spawn();
    let mut process = Process(child.expect("cargo built the program"));
    let words = Mutex::new(Vec::new());
    let hear = async |word: &str, times: usize| {
        until(&format!("{times} times {word}"), async || {
            let mut words = words.lock().unwrap();
            listen(&manager, &mut words);
            let heard = words.iter().filter(|heard| heard.starts_with(word)).count();
            if heard >= times { Ok(()) } else { Err(format!("{words:?}")) }
        })
        .await;
    };
    hear("READY=1", 1).await;
    // Ready at last: NATS must not say that nobody serves claims.
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    let request = ClaimRequest {
        idle: true,
        from: worker.sender.clone(),
        delivery: delivery(Some(id), &body),
        ability: Some(ability()),
        running_unanswered: None,
    };
    let reply: ClaimReply = scene.signals.request(subjects::CLAIM, &request, BOUND).await.unwrap();
    assert!(matches!(reply, ClaimReply::Run(_)), "{reply:?}");
    hear("STATUS=works", 1).await;
    hear("WATCHDOG=1", 3).await;

    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let exit = Mutex::new(&mut process.0);
    let status = until("the exit", async || {
        // A socket that nobody reads would hold it up.
        listen(&manager, &mut words.lock().unwrap());
        exit.lock().unwrap().try_wait().unwrap().ok_or("still runs".to_owned())
    })
    .await;
    assert_eq!(status.code(), Some(0));
    hear("STOPPING=1", 1).await;
    let words = words.into_inner().unwrap();
    let at = |word: &str| words.iter().position(|heard| heard.starts_with(word));
    assert!([at("READY=1"), at("STATUS=works"), at("STOPPING=1"), at("STATUS=stops")].is_sorted(), "{words:?}");
}
