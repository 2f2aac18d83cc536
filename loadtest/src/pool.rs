//! A whole pool as child processes: private servers, dispatchers and workers, all gone when it is dropped.
//!
//! Invariant: nothing here outlives the [`Pool`]; the parts get SIGKILL when the thread that started them dies, and the
//! servers have a watchdog of their own.

#![expect(
    unsafe_code,
    reason = "parts die with the thread that started them, which they ask for between fork and exec"
)]

mod accounts;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ffpool::{Client, ClientConfig};
use ffpool_runtime::tls::Authority;
use ffpool_schema::api::{JobDetail, JobView};
use ffpool_schema::id::JobId;
use ffpool_stack::Stack;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use accounts::Accounts;
pub use accounts::PASSWORD;

/// How long a part may take to become ready on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_secs(90);

/// A part of the pool as a process.
pub struct Part {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where its `/metrics` and `/ready` are.
    pub metrics: SocketAddr,
}

impl Part {
    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("an unreaped child can be signalled");
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `bound`.
    pub fn wait(&mut self, bound: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} has not ended within {bound:?}; its log ends:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a pool is made of.
#[derive(Debug, Clone, Default)]
pub struct PoolSettings {
    /// Variables for the dispatcher, besides those that make it part of the pool.
    pub dispatcher: BTreeMap<String, String>,
    /// Variables for each worker, besides those that make it part of the pool. One entry, one worker.
    pub workers: Vec<BTreeMap<String, String>>,
    /// Whether each part has an account of its own on each server, with the least rights.
    pub least_rights: bool,
    /// Whether the API speaks TLS, with an authority of the pool's own.
    pub tls: bool,
    /// The ledger, where it is not to be a new one.
    pub database: Option<String>,
}

impl PoolSettings {
    /// One dispatcher, and one worker with these variables.
    #[must_use]
    pub fn one_worker(variables: &[(&str, &str)]) -> PoolSettings {
        PoolSettings::default().worker(variables)
    }

    /// One worker more.
    #[must_use]
    pub fn worker(mut self, variables: &[(&str, &str)]) -> PoolSettings {
        self.workers.push(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        self
    }

    /// On a ledger that is there already.
    #[must_use]
    pub fn on(mut self, database: &str) -> PoolSettings {
        self.database = Some(database.to_owned());
        self
    }

    /// An account for each part on each server, with the least rights. The pool's own URLs are then those of who submits and
    /// looks on.
    #[must_use]
    pub fn with_least_rights(mut self) -> PoolSettings {
        self.least_rights = true;
        self
    }

    /// The API over TLS, with an authority of the pool's own: [`Pool::api_ca`].
    #[must_use]
    pub fn with_tls(mut self) -> PoolSettings {
        self.tls = true;
        self
    }

    /// One variable more for the dispatchers.
    #[must_use]
    pub fn dispatcher(mut self, name: &str, value: &str) -> PoolSettings {
        self.dispatcher.insert(name.into(), value.into());
        self
    }
}

/// A running pool.
pub struct Pool {
    /// The workers, in the order of the settings. Dropped before the servers.
    pub workers: Vec<Part>,
    /// The dispatchers.
    pub dispatchers: Vec<Part>,
    /// The API of the first dispatcher.
    pub client: Client,
    /// The API's address.
    pub api_url: String,
    /// The authority to trust, where the API speaks TLS.
    pub api_ca: Option<PathBuf>,
    /// An admin key.
    pub key: String,
    /// The broker.
    pub amqp_url: String,
    /// NATS.
    pub nats_url: String,
    /// The ledger.
    pub database_url: String,
    /// The media root of all workers.
    pub media: PathBuf,
    settings: PoolSettings,
    accounts: Accounts,
    /// Where the APIs of the dispatchers are, in their order.
    apis: Vec<SocketAddr>,
    directory: tempfile::TempDir,
    /// NATS of this pool alone: its subjects are fixed.
    nats: Stack,
}

impl Pool {
    /// Starts a pool on `stack`, with a virtual host, a database and a NATS of its own.
    ///
    /// # Errors
    /// When a part does not become ready; the error has the end of its log.
    pub async fn start(stack: &'static Stack, settings: PoolSettings) -> anyhow::Result<Pool> {
        let (least_rights, database) = (settings.least_rights, settings.database.clone());
        let (nats, accounts) = tokio::task::spawn_blocking(move || -> anyhow::Result<(Stack, Accounts)> {
            let builder = Stack::builder().rabbit(false).postgres(false);
            let builder = if least_rights { builder.nats_settings(accounts::nats_settings()) } else { builder };
            let nats = builder.start().context("start NATS")?;
            let amqp = stack.rabbit.new_vhost();
            let database = database.unwrap_or_else(|| stack.postgres.new_database());
            let accounts = if least_rights {
                Accounts::least(stack, &nats, &amqp, &database)?
            } else {
                Accounts::one(&amqp, &nats.nats.url(), &database)
            };
            Ok((nats, accounts))
        })
        .await??;
        let directory = tempfile::Builder::new().prefix("ffpool-pool-").tempdir()?;
        // The tool runs as an unprivileged user and must reach its input below this directory.
        set_mode(directory.path(), 0o755)?;
        let media = directory.path().join("media");
        std::fs::create_dir(&media)?;
        set_mode(&media, 0o777)?;
        let key = format!("test-key-{}", uuid::Uuid::new_v4().as_simple());
        let api = free_address();
        let api_ca = settings.tls.then(|| make_authority(directory.path())).transpose()?;
        let api_url = api_url(api, api_ca.as_deref());
        let client = Client::open(client_config(&api_url, api_ca.as_deref()).key(key.clone()))?;
        let mut pool = Pool {
            workers: Vec::new(),
            dispatchers: Vec::new(),
            client,
            api_url,
            api_ca,
            key,
            amqp_url: accounts.client.amqp.clone(),
            nats_url: accounts.client.nats.clone(),
            database_url: accounts.client.database.clone().unwrap_or_default(),
            accounts,
            media,
            settings,
            apis: vec![api],
            directory,
            nats,
        };
        pool.migrate()?;
        let dispatcher = pool.spawn_dispatcher(0, api)?;
        pool.dispatchers.push(dispatcher);
        pool.until_ready(&pool.dispatchers[0], &pool.api_url).await?;
        for number in 0..pool.settings.workers.len() {
            let worker = pool.spawn_worker(number)?;
            pool.workers.push(worker);
        }
        for worker in &pool.workers {
            pool.until_ready(worker, &format!("http://{}", worker.metrics)).await?;
        }
        Ok(pool)
    }

    /// NATS of this pool.
    #[must_use]
    pub fn nats(&self) -> &ffpool_stack::Nats {
        &self.nats.nats
    }

    /// One more dispatcher; gives the address of its API.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_dispatcher(&mut self) -> anyhow::Result<String> {
        let api = free_address();
        let dispatcher = self.spawn_dispatcher(self.dispatchers.len(), api)?;
        let url = api_url(api, self.api_ca.as_deref());
        self.until_ready(&dispatcher, &url).await?;
        self.dispatchers.push(dispatcher);
        self.apis.push(api);
        Ok(url)
    }

    /// Starts the worker `number` again, in the place of the one that was.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart_worker(&mut self, number: usize) -> anyhow::Result<()> {
        self.respawn_worker(number)?;
        let worker = &self.workers[number];
        self.until_ready(worker, &format!("http://{}", worker.metrics)).await
    }

    /// Starts the worker `number` again and does not wait for it. Like every start it belongs to the thread that calls.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn respawn_worker(&mut self, number: usize) -> anyhow::Result<()> {
        self.workers[number].kill();
        self.workers[number] = self.spawn_worker(number)?;
        Ok(())
    }

    /// Starts the dispatcher `number` again, with its old address, and does not wait for it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn respawn_dispatcher(&mut self, number: usize) -> anyhow::Result<()> {
        self.dispatchers[number].kill();
        self.dispatchers[number] = self.spawn_dispatcher(number, self.apis[number])?;
        Ok(())
    }

    /// The name by which the ledger knows the worker `number`.
    #[must_use]
    pub fn worker_id(&self, number: usize) -> String {
        let unique = self.directory.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "");
        format!("{unique}-{number}")
    }

    /// The scratch directory of the worker `number`.
    #[must_use]
    pub fn scratch(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("worker-{number}"))
    }

    /// The directory of everything that the pool writes: logs, scratch, media.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the tables with the account that owns them, where that is not the one that runs.
    fn migrate(&self) -> anyhow::Result<()> {
        let Some(owner) = &self.accounts.owner else { return Ok(()) };
        migrate(self.accounts.dispatcher.database.as_deref().unwrap_or_default(), owner)
    }

    fn spawn_dispatcher(&self, number: usize, api: SocketAddr) -> anyhow::Result<Part> {
        let metrics = free_address();
        let mut variables = self.settings.dispatcher.clone();
        let own = [
            ("FFPOOL_AMQP_URL", self.accounts.dispatcher.amqp.clone()),
            ("FFPOOL_NATS_URL", self.accounts.dispatcher.nats.clone()),
            ("FFPOOL_DATABASE_URL", self.accounts.dispatcher.database.clone().unwrap_or_default()),
            ("FFPOOL_API_ADDR", api.to_string()),
            // On loopback, and what TLS costs is not what is measured, unless somebody asks for it.
            ("FFPOOL_API_TLS", if self.api_ca.is_some() { "auto" } else { "off" }.to_owned()),
            ("FFPOOL_STATE_DIR", state_directory(self.directory.path()).display().to_string()),
            ("FFPOOL_METRICS_ADDR", metrics.to_string()),
            ("FFPOOL_BOOTSTRAP_KEY", self.key.clone()),
        ];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
        self.spawn("ffpool-dispatcher", &format!("dispatcher-{number}"), metrics, &variables)
    }

    fn spawn_worker(&self, number: usize) -> anyhow::Result<Part> {
        let metrics = free_address();
        let name = format!("worker-{number}");
        let scratch = self.scratch(number);
        std::fs::create_dir_all(&scratch)?;
        set_mode(&scratch, 0o755)?;
        let mut variables = BTreeMap::from([
            ("FFPOOL_AMQP_URL".to_owned(), self.accounts.worker.amqp.clone()),
            ("FFPOOL_NATS_URL".to_owned(), self.accounts.worker.nats.clone()),
            ("FFPOOL_MEDIA_ROOTS".to_owned(), self.media.display().to_string()),
            ("FFPOOL_SCRATCH".to_owned(), scratch.display().to_string()),
            ("FFPOOL_METRICS_ADDR".to_owned(), metrics.to_string()),
            ("FFPOOL_WORKER_ID".to_owned(), self.worker_id(number)),
            // Nothing here asks for it, and each start would look through its plugins.
            ("FFPOOL_GSTREAMER".to_owned(), "off".to_owned()),
        ]);
        variables.extend(self.settings.workers[number].clone());
        self.spawn("ffpool-worker", &name, metrics, &variables)
    }

    fn spawn(
        &self,
        binary: &str,
        name: &str,
        metrics: SocketAddr,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<Part> {
        let log = self.directory.path().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(binary_path(binary)?);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("FFPOOL_LOG", std::env::var("FFPOOL_LOG").unwrap_or_else(|_| "info".into()))
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        // SAFETY: prctl is async-signal-safe, and nothing else is called between fork and exec.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
        }
        let child = command.spawn().with_context(|| format!("start {binary}"))?;
        Ok(Part { name: name.into(), child, log, metrics })
    }

    async fn until_ready(&self, part: &Part, url: &str) -> anyhow::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        let ca = self.api_ca.as_deref().filter(|_| url.starts_with("https://"));
        let probe = Client::open(client_config(url, ca))?;
        let mut last = String::from("no answer yet");
        while Instant::now() < end {
            match probe.ready().await {
                Ok(readiness) if readiness.ready => return Ok(()),
                Ok(readiness) => last = format!("{:?}", readiness.parts),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} is not ready within {READY_WITHIN:?}: {last}; its log ends:\n{}", part.name, part.log_tail());
    }

    /// Waits until the job is as `wanted` says.
    ///
    /// # Errors
    /// When it is not within `bound`: tells how the job stands and what the parts logged.
    pub async fn until(
        &self,
        job: JobId,
        bound: Duration,
        wanted: impl FnMut(&JobView) -> bool,
    ) -> anyhow::Result<JobDetail> {
        self.until_every(Duration::from_millis(20), job, bound, wanted).await
    }

    /// The same, looked at after each of these pauses: questions take time from what is measured.
    ///
    /// # Errors
    /// As [`Pool::until`].
    pub async fn until_every(
        &self,
        pause: Duration,
        job: JobId,
        bound: Duration,
        mut wanted: impl FnMut(&JobView) -> bool,
    ) -> anyhow::Result<JobDetail> {
        let end = Instant::now() + bound;
        let mut last = String::from("never seen");
        while Instant::now() < end {
            match self.client.job(job).await {
                Ok(detail) if wanted(&detail.job) => return Ok(detail),
                Ok(detail) => last = format!("{:#?}", (&detail.job, &detail.attempts)),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(pause).await;
        }
        bail!("job {job} did not get there within {bound:?}; at last: {last}\n{}", self.logs());
    }

    /// Waits until the job has ended, however it ended.
    ///
    /// # Errors
    /// When it has not within `bound`.
    pub async fn until_ended(&self, job: JobId, bound: Duration) -> anyhow::Result<JobDetail> {
        self.until(job, bound, |view| view.state.is_end()).await
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let parts = self.dispatchers.iter().chain(&self.workers);
        parts.map(|part| format!("--- {}\n{}\n", part.name, part.log_tail())).collect()
    }
}

/// Where the dispatchers of a pool in `directory` keep what they make themselves.
fn state_directory(directory: &Path) -> PathBuf {
    directory.join("state")
}

/// Makes the authority before the first dispatcher finds that there is none, so that the client can trust it from the start.
fn make_authority(directory: &Path) -> anyhow::Result<PathBuf> {
    let folder = state_directory(directory).join("tls");
    let (authority, _) = Authority::open_or_create(&folder, "ffpool loadtest")?;
    Ok(authority.path().to_owned())
}

fn api_url(api: SocketAddr, ca: Option<&Path>) -> String {
    format!("{}://{api}", if ca.is_some() { "https" } else { "http" })
}

fn client_config(url: &str, ca: Option<&Path>) -> ClientConfig {
    let config = ClientConfig::new(url);
    match ca {
        Some(ca) => config.ca_file(ca),
        None => config,
    }
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// A loopback address on which nobody listens.
#[must_use]
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ffpool_stack::free_port()))
}

/// Makes the tables of this version in a ledger, which `owner` names with the account that owns them.
pub(crate) fn migrate(database: &str, owner: &str) -> anyhow::Result<()> {
    let done = Command::new(binary_path("ffpool-dispatcher")?)
        .arg("migrate")
        // Its settings name them, and a migration asks neither.
        .env("FFPOOL_AMQP_URL", "amqp://127.0.0.1:1")
        .env("FFPOOL_NATS_URL", "nats://127.0.0.1:1")
        .env("FFPOOL_DATABASE_URL", database)
        .env("FFPOOL_MIGRATION_DATABASE_URL", owner)
        .output()
        .context("run `ffpool-dispatcher migrate`")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "ffpool-dispatcher migrate: {said}");
    Ok(())
}

/// A binary of the workspace, beside the one that runs.
///
/// # Errors
/// When it has not been built.
pub fn binary_path(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test binary lies in `deps`, one level below the programs.
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace --bins` first"))
}
