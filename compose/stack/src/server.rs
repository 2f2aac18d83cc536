//! One server of a stack as a set of processes: started, asked until it answers, signalled, ended.
//!
//! Invariant: every process of the server runs in one of its `directories`; that is how they are found again.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{StackError, home::Home};

const POLL: Duration = Duration::from_millis(25);
/// RabbitMQ takes one second, the others less; then it is killed.
const STOP_BOUND: Duration = Duration::from_secs(30);
/// Erlang says why it gives up well before its last line.
const LOG_TAIL_LINES: usize = 150;

/// The processes of one server.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    home: Arc<Home>,
    directories: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    /// Owned by `launch`, `stop` and `kill`, which hold the lock for as long as they work.
    children: Mutex<Vec<Child>>,
}

impl Server {
    pub(crate) fn new(name: &'static str, home: Arc<Home>, directories: Vec<PathBuf>, logs: Vec<PathBuf>) -> Server {
        Server { name, home, directories, logs, children: Mutex::default() }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The same, for a further server of the stack.
    pub(crate) fn shared_home(&self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    /// Starts one process of the server; what it prints is added to the first log.
    pub(crate) fn launch(&self, mut command: Command) -> Result<(), StackError> {
        let log = self.open_log()?;
        let errors = log.try_clone().map_err(StackError::system("share a log"))?;
        let child = command
            .current_dir(&self.directories[0])
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(StackError::system(format!("start {}", self.name)))?;
        self.children().push(child);
        Ok(())
    }

    /// Runs a tool of the server to its end, and gives what it printed.
    pub(crate) fn run(&self, mut command: Command) -> Result<String, StackError> {
        let line = format!("{command:?}");
        let output = command
            .current_dir(&self.directories[0])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(StackError::system(format!("run {line}")))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let output_text = printed + &String::from_utf8_lossy(&output.stderr);
        Err(StackError::Command { command: line, status: output.status.to_string(), output: output_text })
    }

    /// Asks until the server answers; ends with its log when it dies or the bound passes.
    pub(crate) fn ask_until_ready<T>(
        &self,
        bound: Duration,
        mut ask: impl FnMut() -> Result<T, String>,
    ) -> Result<T, StackError> {
        let deadline = Instant::now() + bound;
        loop {
            let last = match ask() {
                Ok(answer) => return Ok(answer),
                Err(last) => last,
            };
            if let Some(status) = self.ended() {
                return Err(StackError::Ended { server: self.name, status, log: self.log_tail() });
            }
            if Instant::now() > deadline {
                return Err(StackError::NotReady { server: self.name, bound, last, log: self.log_tail() });
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal to all its processes.
    pub(crate) fn signal(&self, signal: Signal) {
        let name = signal.as_str().trim_start_matches("SIG");
        self.home.signal(name, &self.directories);
    }

    /// Kills all its processes with SIGKILL and returns when they are gone.
    pub(crate) fn kill(&self) {
        let mut children = self.children();
        self.home.sweep_away(&self.directories);
        for mut child in children.drain(..) {
            reap(self.name, &mut child);
        }
    }

    /// Asks its main process, the one launched last, to end, then kills what is left.
    pub(crate) fn stop(&self, signal: Signal) {
        {
            let mut children = self.children();
            if let Some(main) = children.last_mut() {
                let process = Pid::from_raw(main.id().cast_signed());
                // A process that was stopped by a test must run to see the request. It may also have ended already.
                let _ = kill(process, signal);
                self.home.signal("CONT", &self.directories);
                let deadline = Instant::now() + STOP_BOUND;
                while matches!(main.try_wait(), Ok(None)) && Instant::now() < deadline {
                    thread::sleep(POLL);
                }
            }
        }
        self.kill();
    }

    /// Whether it was launched and not ended by us since.
    pub(crate) fn is_launched(&self) -> bool {
        !self.children().is_empty()
    }

    fn children(&self) -> MutexGuard<'_, Vec<Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> Option<String> {
        self.children().iter_mut().find_map(|child| child.try_wait().ok().flatten()).map(|status| status.to_string())
    }

    fn open_log(&self) -> Result<File, StackError> {
        let path = &self.logs[0];
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(StackError::system(format!("open {}", path.display())))
    }

    /// All that the server wrote about itself.
    pub(crate) fn log(&self) -> String {
        let texts = self.logs.iter().filter_map(|path| fs::read(path).ok());
        texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    fn log_tail(&self) -> String {
        self.logs
            .iter()
            .filter_map(|path| Some((path, fs::read(path).ok()?)))
            .map(|(path, bytes)| {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
                format!("--- {}\n{}", path.display(), tail.join("\n"))
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_launched() {
            self.kill();
        }
    }
}

fn reap(server: &str, child: &mut Child) {
    if let Err(error) = child.wait() {
        eprintln!("ffpool-stack: reap {server}: {error}");
    }
}
