//! A private Postgres server that trusts everybody on the loopback.
//!
//! It syncs as in production (`fsync` on, `synchronous_commit` at its default), because what survives a kill is a thing
//! that tests ask about; only `initdb` does not sync.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use ::postgres::{Client, Config, NoTls};
use nix::sys::signal::Signal;

use crate::{StackError, TlsFiles, home::Home, ports::free_port, programs::Programs, server::Server};

pub(crate) const RUN: &str = "postgres/run";
pub(crate) const DATA: &str = "postgres/data";
/// `initdb` works here; the directory gets its name when it is complete.
pub(crate) const UNFINISHED_DATA: &str = "postgres/data.unfinished";
pub(crate) const STANDBY_RUN: &str = "postgres/standby-run";
pub(crate) const STANDBY_DATA: &str = "postgres/standby-data";
const PACKAGE: &str = "postgresql";
/// Brings `pg_basebackup`, beside the programs of the server.
const CLIENT_PACKAGE: &str = "postgresql-client";
const USER: &str = "ffpool";
const DATABASE: &str = "ffpool";
/// It starts in about 0.1 s; after a kill under load it replays its log first.
const READY_BOUND: Duration = Duration::from_secs(60);
const CONNECT_BOUND: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u16 = 200;
/// Who may connect where the server has TLS: with it and a certificate everywhere, without only where the stack asks.
const TLS_RULES: &str =
    "host postgres all 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
/// For a standby to become a primary; it takes well under a second.
const PROMOTE_SECS: i32 = 60;

/// A private Postgres server.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    data: PathBuf,
    port: u16,
    tls: Option<TlsFiles>,
    initdb: PathBuf,
    postgres: PathBuf,
    version: OnceLock<String>,
    databases: AtomicU32,
}

impl Postgres {
    pub(crate) fn prepare(
        home: &Arc<Home>,
        programs: &Programs,
        tls: Option<TlsFiles>,
    ) -> Result<Postgres, StackError> {
        let initdb = programs.find("initdb", PACKAGE)?;
        let postgres = programs.find("postgres", PACKAGE)?;
        let directories = vec![home.directory(RUN)?, home.path(DATA), home.path(UNFINISHED_DATA)];
        let log = home.directory("postgres/log")?.join("postgres.log");
        Ok(Postgres {
            server: Server::new("Postgres", Arc::clone(home), directories, vec![log]),
            data: home.path(DATA),
            port: free_port(),
            tls,
            initdb,
            postgres,
            version: OnceLock::new(),
            databases: AtomicU32::new(0),
        })
    }

    pub(crate) fn start(&self) -> Result<(), StackError> {
        self.initialise()?;
        let home = self.server.home();
        let mut command = home.command(&self.postgres);
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            // The path of a socket may not exceed 107 bytes, and a directory's path may.
            "unix_socket_directories=",
            // In the data directory, so that nothing stays in /dev/shm after a kill.
            "dynamic_shared_memory_type=mmap",
            "fsync=on",
            "shared_buffers=128MB",
            &format!("max_connections={MAX_CONNECTIONS}"),
        ] {
            command.args(["-c", setting]);
        }
        if let Some(TlsFiles { authority, certificate, key }) = &self.tls {
            let rules = home.write("tls/pg_hba.conf", TLS_RULES)?;
            for (setting, path) in [
                ("ssl_ca_file", authority),
                ("ssl_cert_file", certificate),
                ("ssl_key_file", key),
                ("hba_file", &rules),
            ] {
                command.arg("-c").arg(format!("{setting}={}", path.display()));
            }
            command.args(["-c", "ssl=on"]);
        }
        self.server.launch(command)?;
        let version = self.server.ask_until_ready(READY_BOUND, || {
            let version = self.ask("postgres", "ask for the version", |client| {
                client.query_one("SHOW server_version", &[]).map(|row| row.get::<_, String>(0))
            });
            version.map_err(|error| error.report())
        })?;
        self.version.get_or_init(|| version);
        self.ask("postgres", "make the database `ffpool`", |client| {
            let exists = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&DATABASE])?.is_some();
            if exists { Ok(()) } else { client.batch_execute(&format!("CREATE DATABASE {DATABASE}")) }
        })
    }

    /// `postgres://ffpool@127.0.0.1:PORT/ffpool`, an empty database at the first start.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// `127.0.0.1:PORT`, for URLs that name several servers.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts a standby of this server, at most one for a stack: a copy that answers questions and follows what is
    /// written here. When this returns, a commit here is confirmed only when it is on the standby's disk too; so while
    /// the standby is away, commits wait.
    pub fn standby(&self) -> Result<Postgres, StackError> {
        let home = self.server.shared_home();
        let data = home.path(STANDBY_DATA);
        let directories = vec![home.directory(STANDBY_RUN)?, data.clone()];
        let log = home.directory("postgres/log")?.join("standby.log");
        let standby = Postgres {
            server: Server::new("the standby of Postgres", home, directories, vec![log]),
            data,
            port: free_port(),
            tls: None,
            initdb: self.initdb.clone(),
            postgres: self.postgres.clone(),
            version: OnceLock::new(),
            databases: AtomicU32::new(0),
        };
        standby.copy_from(self)?;
        standby.start()?;
        self.ask("postgres", "make commits wait for the standby", |client| {
            client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
            client.batch_execute("SELECT pg_reload_conf()")
        })?;
        self.server.ask_until_ready(READY_BOUND, || self.has_synchronous_standby())?;
        Ok(standby)
    }

    /// Makes a standby a primary; returns when it takes writes. Its former primary must be gone.
    pub fn promote(&self) -> Result<(), StackError> {
        self.server.ask_until_ready(READY_BOUND, || {
            let promoted = self.ask("postgres", "promote the standby", |client| {
                client.query_one("SELECT pg_promote(true, $1)", &[&PROMOTE_SECS]).map(|row| row.get::<_, bool>(0))
            });
            match promoted {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("it was not promoted within {PROMOTE_SECS} s")),
                Err(error) => Err(error.report()),
            }
        })
    }

    /// Makes an empty database for one test and gives its URL.
    ///
    /// # Panics
    /// When Postgres does not answer: a test has nothing to go on with.
    pub fn new_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        self.ask("postgres", "make a database for a test", |client| {
            client.batch_execute(&statement)?;
            client.batch_execute(&format!("CREATE DATABASE {name}"))
        })
        .unwrap_or_else(|error| panic!("{}", error.report()));
        self.url_of(&name)
    }

    /// All that the server wrote about itself, such as why it refused somebody.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The version of the server, such as `15.18 (Debian 15.18-0+deb12u1)`; empty while it has not been started.
    pub fn version(&self) -> &str {
        self.version.get().map_or("", String::as_str)
    }

    /// Kills the server and its backends with SIGKILL and returns when they are gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops the server in good order; connections are ended.
    pub fn stop(&self) {
        self.server.stop(Signal::SIGINT);
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

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.address())
    }

    /// Copies a running server's data, with the note that makes this one its standby.
    fn copy_from(&self, primary: &Postgres) -> Result<(), StackError> {
        let program = self.postgres.with_file_name("pg_basebackup");
        if !program.is_file() {
            return Err(StackError::Missing { program: "pg_basebackup", package: CLIENT_PACKAGE });
        }
        let mut command = self.server.home().command(program);
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", USER])
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password"]);
        self.server.run(command).map(drop)
    }

    fn has_synchronous_standby(&self) -> Result<(), String> {
        let states = self.ask("postgres", "ask for the standby", |client| {
            let sql = "SELECT coalesce(string_agg(sync_state, ' '), 'none') FROM pg_stat_replication";
            client.query_one(sql, &[]).map(|row| row.get::<_, String>(0))
        });
        let states = states.map_err(|error| error.report())?;
        if states == "sync" { Ok(()) } else { Err(format!("standbys: {states}")) }
    }

    fn initialise(&self) -> Result<(), StackError> {
        let home = self.server.home();
        if self.data.exists() {
            return Ok(());
        }
        let unfinished = home.path(UNFINISHED_DATA);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(StackError::system(format!("remove {}", unfinished.display())))?;
        }
        let mut command = home.command(&self.initdb);
        command.arg("-D").arg(&unfinished).args([
            "--username",
            USER,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        self.server.run(command)?;
        fs::rename(&unfinished, &self.data).map_err(StackError::system(format!("make {}", self.data.display())))
    }

    /// Asks on a connection of its own, in a thread of its own: the blocking client panics inside an async runtime, and
    /// async tests call this too.
    fn ask<T: Send>(
        &self,
        database: &str,
        doing: &str,
        question: impl FnOnce(&mut Client) -> Result<T, ::postgres::Error> + Send,
    ) -> Result<T, StackError> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(USER).dbname(database).connect_timeout(CONNECT_BOUND);
        thread::scope(|scope| {
            scope
                .spawn(move || question(&mut config.connect(NoTls)?))
                .join()
                .expect("the question does not panic")
                .map_err(|source| StackError::Query { doing: doing.to_owned(), source })
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // In good order: only then it gives back its shared memory.
        if self.server.is_launched() {
            self.stop();
        }
    }
}
