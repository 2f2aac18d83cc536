//! RabbitMQ, NATS and Postgres as private child processes, for tests and for `compose/dev`; [`Rtmp`], a server of live
//! media, and [`Browser`], a Chromium, for whoever tests with one.
//!
//! ```no_run
//! let stack = ffpool_stack::Stack::shared();
//! let amqp = stack.rabbit.new_vhost();
//! let database = stack.postgres.new_database();
//! let nats = stack.nats.url();
//! ```
//!
//! A test takes a vhost and a database of its own from the shared stack; a test that kills or restarts a server takes a
//! private stack (`Stack::builder()`), or the whole binary shares the outage. Everything blocks, so from async code
//! call what takes time (`start`, `restart`, `ctl`, `new_vhost`, `new_database`) where blocking is allowed. The browser alone is
//! async.
//!
//! Invariant: when the process that started a stack is gone, exited, crashed or killed with SIGKILL, its servers and its
//! temporary directory are gone soon after. See `home.rs`.

mod browser;
mod disk;
mod error;
mod home;
mod manual;
mod nats;
mod old_tls;
mod ports;
mod postgres;
mod programs;
mod rabbit;
mod rtmp;
mod server;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

pub use browser::Browser;
pub use disk::SmallDisk;
pub use error::StackError;
pub use manual::manual_page;
pub use nats::Nats;
pub use old_tls::{hello_of_tls_1_1, refuses_the_version};
pub use ports::free_port;
pub use postgres::Postgres;
pub use rabbit::Rabbit;
pub use rtmp::Rtmp;

use home::Home;
use programs::Programs;

/// The directories in which processes of the servers run; the watchdog finds them by these.
const MARKED: [&str; 7] = [
    rabbit::RUN,
    nats::RUN,
    postgres::RUN,
    postgres::DATA,
    postgres::UNFINISHED_DATA,
    postgres::STANDBY_RUN,
    postgres::STANDBY_DATA,
];

/// A private RabbitMQ, NATS and Postgres. Dropping it ends them.
#[derive(Debug)]
pub struct Stack {
    /// Carries the work.
    pub rabbit: Rabbit,
    /// Carries the signals.
    pub nats: Nats,
    /// Keeps the ledger.
    pub postgres: Postgres,
    // The last field, so that it is dropped after the servers.
    home: Arc<Home>,
}

impl Stack {
    /// Chooses which servers and how.
    pub fn builder() -> StackBuilder {
        StackBuilder {
            rabbit: true,
            nats: true,
            postgres: true,
            root: None,
            programs: None,
            rabbit_settings: rabbit::Settings::default(),
            tls: None,
            nats_settings: String::new(),
        }
    }

    /// Starts all three servers in a temporary directory.
    pub fn start() -> Result<Stack, StackError> {
        Stack::builder().start()
    }

    /// The stack that all tests of one binary share, started at the first call.
    ///
    /// # Panics
    /// With the reason and the server's log when it cannot be started.
    pub fn shared() -> &'static Stack {
        static SHARED: OnceLock<Result<Stack, StackError>> = OnceLock::new();
        match SHARED.get_or_init(Stack::start) {
            Ok(stack) => stack,
            Err(error) => panic!("the servers for the tests could not be started: {}", error.report()),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        thread::scope(|scope| {
            // Postgres gives back its shared memory only when it is stopped; RabbitMQ's good order takes a second and
            // matters only to data that stays.
            scope.spawn(|| self.postgres.stop());
            scope.spawn(|| self.nats.stop());
            scope.spawn(|| if self.home.is_kept() { self.rabbit.stop() } else { self.rabbit.kill() });
        });
    }
}

/// Which servers, and how. A server that is left out is prepared but not started: its `restart` starts it.
#[derive(Clone, Debug)]
pub struct StackBuilder {
    rabbit: bool,
    nats: bool,
    postgres: bool,
    root: Option<PathBuf>,
    programs: Option<Vec<PathBuf>>,
    rabbit_settings: rabbit::Settings,
    nats_settings: String,
    tls: Option<Tls>,
}

/// What servers with TLS show, and whose clients they let in.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The authority of the clients' certificates, PEM.
    pub authority: String,
    /// The servers' certificate for `127.0.0.1`, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
}

/// Where the servers find it.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    fn write(&self, home: &Home) -> Result<TlsFiles, StackError> {
        home.directory("tls")?;
        let key = home.write("tls/key.pem", &self.key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).map_err(StackError::system("close the key"))?;
        Ok(TlsFiles {
            authority: home.write("tls/ca.pem", &self.authority)?,
            certificate: home.write("tls/server.pem", &self.certificate)?,
            key,
        })
    }
}

impl StackBuilder {
    /// Whether RabbitMQ is started.
    pub fn rabbit(mut self, start: bool) -> StackBuilder {
        self.rabbit = start;
        self
    }

    /// Whether NATS is started.
    pub fn nats(mut self, start: bool) -> StackBuilder {
        self.nats = start;
        self
    }

    /// Whether Postgres is started.
    pub fn postgres(mut self, start: bool) -> StackBuilder {
        self.postgres = start;
        self
    }

    /// Keeps the data in this directory, also between stacks, instead of a temporary one.
    pub fn root(mut self, directory: PathBuf) -> StackBuilder {
        self.root = Some(directory);
        self
    }

    /// Looks for the servers' programs in these directories only.
    pub fn programs(mut self, directories: Vec<PathBuf>) -> StackBuilder {
        self.programs = Some(directories);
        self
    }

    /// RabbitMQ's acknowledgement timeout; a week by default. RabbitMQ looks for late consumers once a minute.
    pub fn consumer_timeout(mut self, timeout: Duration) -> StackBuilder {
        self.rabbit_settings.consumer_timeout = timeout;
        self
    }

    /// Adds a line to `rabbitmq.conf`.
    pub fn rabbit_setting(mut self, line: impl Into<String>) -> StackBuilder {
        self.rabbit_settings.lines.push(line.into());
        self
    }

    /// Gives the servers TLS and asks every client for a certificate: RabbitMQ beside its plain listener, NATS and Postgres
    /// instead. Of Postgres the database `postgres` stays open without, because the stack itself asks there.
    pub fn tls(mut self, tls: Tls) -> StackBuilder {
        self.tls = Some(tls);
        self
    }

    /// Adds to `nats.conf`, such as the logins of the server.
    pub fn nats_settings(mut self, text: impl Into<String>) -> StackBuilder {
        self.nats_settings = text.into();
        self
    }

    /// Starts the servers at the same time and returns when all answer.
    pub fn start(self) -> Result<Stack, StackError> {
        let programs = self.programs.map_or_else(Programs::installed, Programs::only);
        let home = Arc::new(Home::open(self.root, &MARKED)?);
        let tls = self.tls.map(|tls| tls.write(&home)).transpose()?;
        let rabbit = Rabbit::prepare(&home, &programs, self.rabbit_settings, tls.clone())?;
        let nats = Nats::prepare(&home, &programs, tls.as_ref(), &self.nats_settings)?;
        let postgres = Postgres::prepare(&home, &programs, tls)?;
        let stack = Stack { rabbit, nats, postgres, home };
        thread::scope(|scope| {
            let starts = [
                self.rabbit.then(|| scope.spawn(|| stack.rabbit.start())),
                self.nats.then(|| scope.spawn(|| stack.nats.start())),
                self.postgres.then(|| scope.spawn(|| stack.postgres.start())),
            ];
            starts.into_iter().flatten().try_for_each(|start| start.join().expect("a start does not panic"))
        })?;
        Ok(stack)
    }
}
