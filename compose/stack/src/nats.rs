//! A private NATS server with JetStream.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{StackError, TlsFiles, home::Home, ports::free_port, programs::Programs, server::Server};

pub(crate) const RUN: &str = "nats/run";
const PACKAGE: &str = "nats-server";
/// It starts in about 30 ms.
const READY_BOUND: Duration = Duration::from_secs(30);
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// A private NATS server.
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: u16,
    has_tls: bool,
    program: PathBuf,
    version: OnceLock<String>,
}

impl Nats {
    pub(crate) fn prepare(
        home: &Arc<Home>,
        programs: &Programs,
        tls: Option<&TlsFiles>,
        more: &str,
    ) -> Result<Nats, StackError> {
        let program = programs.find("nats-server", PACKAGE)?;
        let run = home.directory(RUN)?;
        let log = home.directory("nats/log")?.join("nats.log");
        let store = home.directory("nats/store")?;
        let port = free_port();
        let mut configuration = format!(
            "listen: \"127.0.0.1:{port}\"\n\
             jetstream {{ store_dir: \"{}\" }}\n\
             ping_interval: \"10s\"\n\
             write_deadline: \"5s\"\n\
             {more}",
            store.display()
        );
        if let Some(TlsFiles { authority, certificate, key }) = tls {
            configuration.push_str(&format!(
                "tls {{ ca_file: {authority:?}, cert_file: {certificate:?}, key_file: {key:?}, verify: true }}\n"
            ));
        }
        home.write("nats/nats.conf", &configuration)?;
        Ok(Nats {
            server: Server::new("NATS", Arc::clone(home), vec![run], vec![log]),
            port,
            has_tls: tls.is_some(),
            program,
            version: OnceLock::new(),
        })
    }

    pub(crate) fn start(&self) -> Result<(), StackError> {
        let home = self.server.home();
        let mut command = home.command(&self.program);
        command.arg("-c").arg(home.path("nats/nats.conf"));
        self.server.launch(command)?;
        let version = self
            .server
            .ask_until_ready(READY_BOUND, || ask(self.port, self.has_tls).map_err(|error| error.to_string()))?;
        self.version.get_or_init(|| version);
        Ok(())
    }

    /// `nats://127.0.0.1:PORT`, with TLS `tls://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.has_tls { "tls" } else { "nats" }, self.port)
    }

    /// The same with a login, which the server knows from [`nats_settings`](crate::StackBuilder::nats_settings).
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// All that the server wrote about itself, such as why it refused somebody.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The version of the server, such as `2.9.10`; empty while it has not been started.
    pub fn version(&self) -> &str {
        self.version.get().map_or("", String::as_str)
    }

    /// Kills the server with SIGKILL and returns when it is gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops the server in good order.
    pub fn stop(&self) {
        self.server.stop(Signal::SIGTERM);
    }

    /// Stops every process of the server in its tracks; its sockets stay open and silent.
    pub fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    /// Starts the server again, after stopping it if it runs, with the same port and data; returns when it answers.
    pub fn restart(&self) -> Result<(), StackError> {
        self.stop();
        self.start()
    }
}

/// A line of greeting and a PING that is answered, without TLS, or a refusal of one without a login; gives the version.
fn ask(port: u16, has_tls: bool) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut greeting = String::new();
    reader.read_line(&mut greeting)?;
    if !greeting.starts_with("INFO ") {
        return Err(std::io::Error::other(format!("not a greeting: {greeting:?}")));
    }
    if has_tls {
        return Ok(version_in(&greeting).unwrap_or_default().to_owned());
    }
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    if answer.trim_end() != "PONG" && !answer.starts_with("-ERR 'Authorization Violation'") {
        return Err(std::io::Error::other(format!("not a PONG: {answer:?}")));
    }
    Ok(version_in(&greeting).unwrap_or_default().to_owned())
}

fn version_in(greeting: &str) -> Option<&str> {
    let (_, rest) = greeting.split_once("\"version\":\"")?;
    rest.split_once('"').map(|(version, _)| version)
}
