//! What a worker says to the service manager that started it.

#![expect(unsafe_code, reason = "a thread is stopped with ptrace")]

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pool::{Pool, until};
use crate::service::{ENDLESS, KilledOnDrop, until_running};

/// The service manager, as far as it is listened to.
struct Manager {
    words: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(socket: &UnixDatagram) -> Manager {
        let words = Arc::new(Mutex::new(Vec::new()));
        let (heard, socket) = (words.clone(), socket.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok(size) = socket.recv(&mut packet) {
                let text = String::from_utf8_lossy(&packet[..size]).into_owned();
                heard.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Manager { words }
    }

    fn words(&self) -> Vec<String> {
        self.words.lock().unwrap().clone()
    }

    fn count(&self, word: &str) -> usize {
        self.words().iter().filter(|heard| *heard == word).count()
    }

    async fn until_heard(&self, word: &str) {
        until("a word to the service manager", async || {
            let words = self.words();
            if words.iter().any(|heard| heard.starts_with(word)) { Ok(()) } else { Err(words) }
        })
        .await;
    }
}

fn start(pool: &Pool, flags: &[&str]) -> (KilledOnDrop, Manager) {
    let path = pool.media().with_file_name("manager");
    let manager = Manager::listen(&UnixDatagram::bind(&path).unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_ffpool-worker"))
        .args(&pool.flags(flags)[1..])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1500000")
        // One thread for all but the heartbeats, so that a test can stop it.
        .env("TOKIO_WORKER_THREADS", "1")
        .stderr(Stdio::null())
        .spawn();
    (KilledOnDrop(child.expect("cargo built the program")), manager)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_the_start_the_work_the_drain_and_its_end() {
    let pool = Pool::new("manager").await;
    let (mut child, manager) = start(&pool, &["--slots=2"]);
    manager.until_heard("READY=1").await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;
    manager.until_heard("STATUS=works, 1 of 2 slots in use").await;
    let fed = manager.count("WATCHDOG=1");
    until("the watchdog to be fed on and on", async || {
        let now = manager.count("WATCHDOG=1");
        if now >= fed + 3 { Ok(()) } else { Err(now) }
    })
    .await;

    kill(pid(&child.0), Signal::SIGTERM).unwrap();
    let status = until("the exit", async || child.0.try_wait().unwrap().ok_or("still running")).await;
    assert_eq!(status.code(), Some(0));
    pool.until_ends(&[(job, 1, "released")]).await;
    manager.until_heard("STOPPING=1").await;
    // The socket is read by a thread: it may be behind.
    manager.until_heard("EXTEND_TIMEOUT_USEC=").await;
    manager.until_heard("STATUS=drains").await;
    let words = manager.words();
    let at = |word: &str| words.iter().position(|heard| heard.starts_with(word)).unwrap_or_else(|| panic!("{words:?}"));
    let order = [at("READY=1"), at("STATUS=works"), at("STOPPING=1"), at("EXTEND_TIMEOUT_USEC=")];
    assert!(order.is_sorted(), "{words:?}");
    assert!(words.iter().any(|heard| heard.starts_with("STATUS=drains")), "{words:?}");
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1), "{words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stuck_keeps_its_leases_and_no_longer_feeds_the_watchdog() {
    let pool = Pool::new("stuck").await;
    let (child, manager) = start(&pool, &["--slots=1"]);
    manager.until_heard("READY=1").await;
    manager.until_heard("WATCHDOG=1").await;

    let stopped = StoppedThread::stop(pid(&child.0), "tokio");
    let beats = pool.dispatcher.heartbeats().len();
    let fed = manager.count("WATCHDOG=1");
    until("heartbeats, which have a thread of their own", async || {
        let now = pool.dispatcher.heartbeats().len();
        if now >= beats + 4 { Ok(()) } else { Err(now) }
    })
    .await;
    // One may have been on its way.
    assert!(manager.count("WATCHDOG=1") <= fed + 1, "{:?}", manager.words());

    let fed = manager.count("WATCHDOG=1");
    stopped.go_on();
    until("the watchdog to be fed again", async || {
        let now = manager.count("WATCHDOG=1");
        if now > fed { Ok(()) } else { Err(now) }
    })
    .await;
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// One thread of another process, stopped as a debugger stops it.
struct StoppedThread {
    go_on: Sender<()>,
    gone_on: Receiver<()>,
}

impl StoppedThread {
    fn stop(process: Pid, name: &str) -> StoppedThread {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
        let mut named = tasks
            .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name)));
        let thread: i32 =
            named.next().expect("the runtime has a thread").file_name().to_str().unwrap().parse().unwrap();
        let ((go_on, until), (done, gone_on), (stopped, is_stopped)) = (channel(), channel(), channel());
        // All requests about a thread must come from the thread that seized it.
        std::thread::spawn(move || {
            let request = |what, data: usize| {
                // SAFETY: the request takes no address of ours.
                unsafe { libc::ptrace(what, thread, std::ptr::null_mut::<libc::c_void>(), data) }
            };
            assert_eq!(request(libc::PTRACE_SEIZE, 0), 0, "ptrace: {}", std::io::Error::last_os_error());
            assert_eq!(request(libc::PTRACE_INTERRUPT, 0), 0, "ptrace: {}", std::io::Error::last_os_error());
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            assert_eq!(unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) }, thread);
            stopped.send(()).unwrap();
            let _ = until.recv();
            request(libc::PTRACE_DETACH, 0);
            let _ = done.send(());
        });
        is_stopped.recv_timeout(Duration::from_secs(60)).expect("the thread stops");
        StoppedThread { go_on, gone_on }
    }

    fn go_on(self) {
        self.go_on.send(()).unwrap();
        self.gone_on.recv().unwrap();
    }
}
