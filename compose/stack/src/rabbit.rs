//! A private RabbitMQ node with its own epmd, and a fresh vhost for every test.
//!
//! The node is told everything by environment and files of its own, so that it neither reads nor disturbs what the
//! machine's own RabbitMQ has. Its epmd runs in the foreground as a child of ours: the one that Erlang would start
//! daemonises itself and outlives the node. The vhosts are made many at a time by a definitions file, the first ones as the
//! node starts, because a `rabbitmqctl` call costs one to two seconds.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{StackError, TlsFiles, home::Home, ports::free_port, programs::Programs, server::Server};

pub(crate) const RUN: &str = "rabbit/run";
const PACKAGE: &str = "rabbitmq-server";
const NODE: &str = "ff@localhost";
/// It starts in 4 to 7 s when it has a processor to itself.
const READY_BOUND: Duration = Duration::from_secs(60);
const EPMD_BOUND: Duration = Duration::from_secs(30);
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// Vhosts made at a time in a stack that is thrown away: in advance, and again when all are given.
const VHOSTS_AT_A_TIME: usize = 32;

/// What a test may change of the node's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) consumer_timeout: Duration,
    pub(crate) lines: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        // A week: jobs run for hours, and the 30 minutes that RabbitMQ gives would end them.
        Settings { consumer_timeout: Duration::from_secs(7 * 24 * 3600), lines: Vec::new() }
    }
}

/// How many vhosts there are for tests, and how many of them were given.
#[derive(Debug, Default)]
struct Vhosts {
    made: usize,
    given: usize,
}

/// A private RabbitMQ node.
#[derive(Debug)]
pub struct Rabbit {
    server: Server,
    port: u16,
    tls_port: u16,
    tls: Option<TlsFiles>,
    distribution_port: u16,
    epmd_port: u16,
    rabbitmq_server: PathBuf,
    rabbitmqctl: PathBuf,
    epmd: PathBuf,
    settings: Settings,
    version: OnceLock<String>,
    vhosts_at_a_time: usize,
    vhosts: Mutex<Vhosts>,
    imports: AtomicUsize,
}

impl Rabbit {
    pub(crate) fn prepare(
        home: &Arc<Home>,
        programs: &Programs,
        settings: Settings,
        tls: Option<TlsFiles>,
    ) -> Result<Rabbit, StackError> {
        let rabbitmq_server = programs.find("rabbitmq-server", PACKAGE)?;
        let rabbitmqctl = programs.find("rabbitmqctl", PACKAGE)?;
        let epmd = programs.find("epmd", PACKAGE)?;
        let run = home.directory(RUN)?;
        for name in ["home", "mnesia", "conf"] {
            home.directory(&format!("rabbit/{name}"))?;
        }
        let log = home.directory("rabbit/log")?;
        let logs = vec![log.join("console.log"), log.join(format!("{NODE}.log"))];
        Ok(Rabbit {
            server: Server::new("RabbitMQ", Arc::clone(home), vec![run], logs),
            port: free_port(),
            tls_port: free_port(),
            tls,
            distribution_port: free_port(),
            epmd_port: free_port(),
            rabbitmq_server,
            rabbitmqctl,
            epmd,
            settings,
            version: OnceLock::new(),
            // Data that is kept would collect those that nobody was given.
            vhosts_at_a_time: if home.is_kept() { 1 } else { VHOSTS_AT_A_TIME },
            vhosts: Mutex::default(),
            imports: AtomicUsize::new(0),
        })
    }

    pub(crate) fn start(&self) -> Result<(), StackError> {
        self.configure()?;
        let mut epmd = self.server.home().command(&self.epmd);
        epmd.args(["-port", &self.epmd_port.to_string(), "-address", "127.0.0.1"]);
        self.server.launch(epmd)?;
        self.server.ask_until_ready(EPMD_BOUND, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.epmd_port)).map_err(|error| format!("epmd: {error}"))
        })?;
        // Told that it may read input, the launcher becomes the Erlang machine instead of waiting for it, which makes the
        // machine a child of ours to signal and to reap; `-noinput` then takes the permission back.
        let mut node = self.with_environment(&self.rabbitmq_server);
        node.env("RABBITMQ_ALLOW_INPUT", "yes").arg("-noinput");
        self.server.launch(node)?;
        let version = self.server.ask_until_ready(READY_BOUND, || ask(self.port).map_err(|error| error.to_string()))?;
        self.version.get_or_init(|| version);
        Ok(())
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`; `guest` is an administrator.
    pub fn url(&self) -> String {
        self.url_of("%2f")
    }

    /// `127.0.0.1:PORT` of the listener with TLS, where the stack has it. A client certificate with the common name of a
    /// user is that user's login (EXTERNAL).
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port)
    }

    /// Gives an empty vhost to one test, as its URL.
    ///
    /// # Panics
    /// When RabbitMQ does not answer: a test has nothing to go on with.
    pub fn new_vhost(&self) -> String {
        let mut vhosts = self.vhosts.lock().unwrap_or_else(PoisonError::into_inner);
        if vhosts.given == vhosts.made {
            let more = vhosts.made..vhosts.made + self.vhosts_at_a_time;
            self.import(&definitions(&self.vhosts_of_tests(more.clone())))
                .unwrap_or_else(|error| panic!("{}", error.report()));
            vhosts.made = more.end;
        }
        vhosts.given += 1;
        self.url_of(&self.vhost_of_test(vhosts.given - 1))
    }

    /// The process is named because kept data holds those of earlier ones.
    fn vhost_of_test(&self, number: usize) -> String {
        format!("test-{}-{number}", std::process::id())
    }

    fn vhosts_of_tests(&self, numbers: Range<usize>) -> Vec<String> {
        numbers.map(|number| self.vhost_of_test(number)).collect()
    }

    /// Runs `rabbitmqctl` on the node and gives what it printed. It takes one to two seconds.
    pub fn ctl<I>(&self, arguments: I) -> Result<String, StackError>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = self.with_environment(&self.rabbitmqctl);
        command.arg("--quiet").args(arguments);
        self.server.run(command)
    }

    /// Imports a definitions file: users, permissions, queues and whatever else it has.
    pub fn import(&self, definitions: &str) -> Result<(), StackError> {
        let number = self.imports.fetch_add(1, Ordering::Relaxed);
        let file = self.server.home().write(&format!("rabbit/conf/imported-{number}.json"), definitions)?;
        self.ctl(["import_definitions".as_ref(), file.as_os_str()]).map(drop)
    }

    /// All that the server wrote about itself, such as why it refused somebody.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The version of the server, such as `3.10.8`; empty while it has not been started.
    pub fn version(&self) -> &str {
        self.version.get().map_or("", String::as_str)
    }

    /// Kills the node with SIGKILL and returns when it is gone.
    ///
    /// RabbitMQ forgets a quorum queue that was declared less than half a second before.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops the node in good order, in about a second.
    pub fn stop(&self) {
        self.server.stop(Signal::SIGTERM);
    }

    /// Stops every process of the node in its tracks; its sockets stay open and silent.
    pub fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    /// Lets a paused node go on.
    pub fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    /// Starts the node again, after stopping it if it runs, with the same port and data; returns when it answers.
    pub fn restart(&self) -> Result<(), StackError> {
        self.stop();
        self.start()
    }

    fn url_of(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.port)
    }

    fn configure(&self) -> Result<(), StackError> {
        let home = self.server.home();
        let mut configuration = format!(
            "listeners.tcp.default = 127.0.0.1:{}\n\
             log.console = false\n\
             raft.wal_max_size_bytes = 33554432\n\
             disk_free_limit.absolute = 100MB\n\
             consumer_timeout = {}\n",
            self.port,
            self.settings.consumer_timeout.as_millis(),
        );
        if let Some(TlsFiles { authority, certificate, key }) = &self.tls {
            configuration.push_str(&format!(
                "listeners.ssl.default = 127.0.0.1:{}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = true\n\
                 ssl_options.versions.1 = tlsv1.3\n\
                 ssl_options.versions.2 = tlsv1.2\n\
                 auth_mechanisms.1 = PLAIN\n\
                 auth_mechanisms.2 = AMQPLAIN\n\
                 auth_mechanisms.3 = EXTERNAL\n\
                 ssl_cert_login_from = common_name\n",
                self.tls_port,
                authority.display(),
                certificate.display(),
                key.display(),
            ));
        }
        for line in &self.settings.lines {
            configuration.push_str(line);
            configuration.push('\n');
        }
        if self.is_blank() {
            let mut vhosts = self.vhosts.lock().unwrap_or_else(PoisonError::into_inner);
            vhosts.made = if home.is_kept() { 0 } else { self.vhosts_at_a_time };
            let mut all = self.vhosts_of_tests(0..vhosts.made);
            all.push("/".to_owned());
            let definitions = home.write("rabbit/conf/definitions.json", &definitions(&all))?;
            configuration.push_str(&format!("load_definitions = {}\n", definitions.display()));
        }
        home.write("rabbit/conf/rabbitmq.conf", &configuration)?;
        let plugins = if self.tls.is_some() { "[rabbitmq_auth_mechanism_ssl].\n" } else { "[].\n" };
        home.write("rabbit/conf/enabled_plugins", plugins)?;
        self.write_ctl()
    }

    /// Leaves a `rabbitmqctl` in the stack's directory that finds this node, for shells.
    fn write_ctl(&self) -> Result<(), StackError> {
        let command = self.with_environment(&self.rabbitmqctl);
        let quoted = |text: &OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
        let mut script = "#!/bin/sh\nexec env".to_owned();
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            script.push_str(&format!(" {}={}", name.display(), quoted(value)));
        }
        script.push_str(&format!(" {} \"$@\"\n", quoted(self.rabbitmqctl.as_os_str())));
        let file = self.server.home().write("rabbitmqctl", &script)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .map_err(StackError::system(format!("set the mode of {}", file.display())))
    }

    /// Whether the node has never been started with this data.
    fn is_blank(&self) -> bool {
        let data = self.server.home().path("rabbit/mnesia");
        fs::read_dir(data).map_or(true, |mut entries| entries.next().is_none())
    }

    fn with_environment(&self, program: &PathBuf) -> Command {
        let home = self.server.home();
        let mut command = home.command(program);
        command
            .env("HOME", home.path("rabbit/home"))
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", home.path("rabbit/mnesia"))
            .env("RABBITMQ_LOG_BASE", home.path("rabbit/log"))
            .env("RABBITMQ_CONFIG_FILE", home.path("rabbit/conf/rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.path("rabbit/conf/enabled_plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_PID_FILE", home.path("rabbit/pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }
}

/// The user `guest` and vhosts that are all its own, in the form that `rabbitmqctl export_definitions` writes.
fn definitions(vhosts: &[String]) -> String {
    let named: Vec<String> = vhosts.iter().map(|vhost| format!(r#"{{"name":"{vhost}"}}"#)).collect();
    let permitted: Vec<String> = vhosts
        .iter()
        .map(|vhost| format!(r#"{{"user":"guest","vhost":"{vhost}","configure":".*","write":".*","read":".*"}}"#))
        .collect();
    format!(
        r#"{{"users":[{{"name":"guest","password":"guest","tags":"administrator"}}],"vhosts":[{}],"permissions":[{}]}}"#,
        named.join(","),
        permitted.join(",")
    )
}

/// Sends the protocol's greeting and reads the first frame, which holds the server's properties; gives the version.
///
/// RabbitMQ opens its port slightly before it serves, and then closes the connection without an answer.
fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut header = [0; 7];
    stream.read_exact(&mut header)?;
    const METHOD_FRAME: u8 = 1;
    if header[0] != METHOD_FRAME {
        return Err(std::io::Error::other(format!("not a method frame: {header:?}")));
    }
    let length = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let mut payload = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut payload)?;
    Ok(version_in(&payload).unwrap_or_default())
}

/// The long string `version` of the table of server properties.
fn version_in(payload: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x07versionS";
    let value = payload.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let length = u32::from_be_bytes(payload.get(value..value + 4)?.try_into().ok()?);
    let text = payload.get(value + 4..value + 4 + usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}
