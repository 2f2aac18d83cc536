//! `watch`: the files of a folder become jobs.
//!
//! Invariant: a file's job has an id that is derived from its address, its size and its time of change, and nothing else is
//! remembered: a watcher that starts again finds every job there, and makes none twice.

mod files;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffpool::{ApiError, Client};
use ffpool_schema::api::Submitted;
use ffpool_schema::catalog::{self, Catalog};
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::location::redact;
use ffpool_schema::parse::Fault;
use notify::Watcher as _;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::args::Folder;
use super::exit::{Exit, Trouble};
use super::output::{self, Format};
use super::{Context, wanted, watch};
use files::{Identity, Search, Settling};

/// After a change is told, others follow: they are looked at together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How often files are looked at that have not settled, or whose jobs have not ended.
const WHILE_OPEN: Duration = Duration::from_millis(500);

/// One file that has become a job.
#[derive(Debug, Serialize)]
struct Taken {
    file: PathBuf,
    #[serde(flatten)]
    job: Submitted,
    /// It was there before.
    already: bool,
}

pub(crate) async fn folder(context: &Context, args: Folder) -> Result<Exit, Trouble> {
    let mut watcher = Watching::prepare(context, args).await?;
    let (wake, mut woken) = mpsc::channel(1);
    // Lives as long as the watching: dropping it ends the notices.
    let _notices = watcher.notices(wake);
    let mut interrupts = watch::interrupts()?;
    let mut failing = false;
    loop {
        match watcher.pass(context).await {
            Ok(()) => failing = false,
            Err(Pause::Away(why)) => {
                if !failing {
                    eprintln!("{why}; trying again every {} s", watcher.args.rescan.as_secs_f64());
                }
                failing = true;
            }
            Err(Pause::End(trouble)) => return Err(trouble),
        }
        if watcher.args.once && !failing && watcher.is_done() {
            return Ok(watcher.exit());
        }
        let wait =
            if watcher.is_busy() && !failing { WHILE_OPEN.min(watcher.args.rescan) } else { watcher.args.rescan };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Some(()) = woken.recv() => tokio::time::sleep(TOGETHER).await,
            _ = interrupts.recv() => {
                return Err(Trouble::new(Exit::Interrupted, "watching was interrupted; the jobs go on")
                    .next("Start it again with the same flags: no job is made twice."));
            }
        }
    }
}

/// Why a pass over the folder did not come to its end.
enum Pause {
    /// Something is away and may come back.
    Away(String),
    /// It is of no use to go on.
    End(Trouble),
}

impl From<ApiError> for Pause {
    fn from(error: ApiError) -> Pause {
        if error.is_transient() { Pause::Away(error.to_string()) } else { Pause::End(error.into()) }
    }
}

struct Watching {
    args: Folder,
    client: Client,
    catalog: Catalog,
    /// How workers reach the folder, without a slash at its end.
    address: String,
    search: Search,
    settling: Settling,
    /// What became of each file as it is, so that it is not submitted at every pass.
    done: HashMap<(PathBuf, Identity), Option<JobId>>,
    /// Files whose jobs have not ended; only with a folder for those that have.
    open: HashMap<PathBuf, (Identity, JobId)>,
    /// Whether every file of the last pass has been dealt with.
    all_settled: bool,
    refused: bool,
}

impl Watching {
    async fn prepare(context: &Context, args: Folder) -> Result<Watching, Trouble> {
        if args.wanted.input.is_some() {
            return Err(Trouble::usage("--input is the watched file: leave it out"));
        }
        let unusable = |what: &str, path: &Path, error: std::io::Error| {
            Trouble::usage(format!("{what} {} cannot be used: {error}", path.display()))
                .next("Name a folder that is there, and in which you may read and write.")
        };
        let root = args.dir.canonicalize().map_err(|error| unusable("the folder", &args.dir, error))?;
        if !root.is_dir() {
            return Err(Trouble::usage(format!("{} is no folder", args.dir.display())));
        }
        let done_dir = match &args.done_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|error| unusable("--done-dir", dir, error))?;
                Some(dir.canonicalize().map_err(|error| unusable("--done-dir", dir, error))?)
            }
            None => None,
        };
        if done_dir.as_ref() == Some(&root) {
            return Err(Trouble::usage("--done-dir is the watched folder itself: files would be taken again"));
        }
        let own = root.to_str().ok_or_else(|| Trouble::usage("the folder's path is not written in UTF-8"))?;
        let address = args.reached_as.as_deref().unwrap_or(own).trim_end_matches('/').to_owned();
        let glob = |patterns: &[String]| files::globs(patterns).map_err(Trouble::usage);
        let search = Search {
            recursive: args.recursive,
            except: done_dir.clone(),
            only: glob(&args.only)?,
            ignore: glob(&args.ignore)?,
            root,
        };
        let body = args.wanted.overlay(json!({}));
        let catalog = wanted::catalog_for(context, std::slice::from_ref(&body)).await?;
        let args = Folder { done_dir, ..args };
        let (settling, done, open) = (Settling::default(), HashMap::new(), HashMap::new());
        let client = context.client()?;
        let watching = Watching {
            args,
            client,
            catalog,
            address,
            search,
            settling,
            done,
            open,
            all_settled: false,
            refused: false,
        };
        watching.try_one()?;
        Ok(watching)
    }

    /// What is wrong with every job of the folder is told before the first file comes.
    fn try_one(&self) -> Result<(), Trouble> {
        let example = self.search.root.join("example.mov");
        let output = |faults: &[Fault]| Trouble::rejected("the job of a file", faults);
        let job = self.job(&example, Identity { size: 1, mtime_ns: 0 }).map_err(|faults| output(&faults))?;
        let inside = format!("{}/", self.address);
        let outputs = job.output.iter().chain(job.outputs.iter().map(|output| &output.url));
        if let Some(url) = outputs.into_iter().find(|url| url.trim_start_matches("file://").starts_with(&inside)) {
            return Err(Trouble::usage(format!(
                "{} is in the watched folder: what is made would be taken again",
                redact(url)
            ))
            .next("Choose a destination outside of it with --to."));
        }
        Ok(())
    }

    /// The job of a file.
    fn job(&self, file: &Path, identity: Identity) -> Result<JobSpec, Vec<Fault>> {
        let below = file.strip_prefix(&self.search.root).unwrap_or(file);
        let Some(below) = below.to_str() else {
            return Err(vec![Fault::new("input", "bad_value", "the file's name is not written in UTF-8")]);
        };
        let address = format!("{}/{below}", self.address);
        let part = |part: Option<&std::ffi::OsStr>| part.and_then(|text| text.to_str()).unwrap_or_default().to_owned();
        let values: BTreeMap<String, String> = [
            ("name", part(file.file_name())),
            ("stem", part(file.file_stem())),
            ("ext", part(file.extension())),
            ("path", Path::new(below).with_extension("").to_string_lossy().into_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let wanted = self.args.wanted.overlay(json!({}));
        let wanted = wanted.as_object().expect("flags over an object are an object");
        let mut fields = catalog::filled(wanted, &values)?;
        fields.insert("input".to_owned(), json!(address));
        let id = JobId::derived(
            "watch",
            &[
                self.args.run.as_bytes(),
                address.as_bytes(),
                &identity.size.to_be_bytes(),
                &identity.mtime_ns.to_be_bytes(),
            ],
        );
        fields.insert("id".to_owned(), json!(id));
        Ok(wanted::checked(&Value::Object(fields), &self.catalog)?.asked)
    }

    /// Starts to be told of changes. Without that, the folder is looked at now and then all the same.
    fn notices(&self, wake: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let tell = move |_: notify::Result<notify::Event>| {
            // One notice that waits is enough for all.
            let _ = wake.try_send(());
        };
        let mode =
            if self.args.recursive { notify::RecursiveMode::Recursive } else { notify::RecursiveMode::NonRecursive };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.search.root, mode)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                let every = self.args.rescan.as_secs_f64();
                eprintln!(
                    "the system does not tell of changes in the folder ({error}): it is looked at every {every} s"
                );
                None
            }
        }
    }

    /// Looks at the folder once, and submits what is ready.
    async fn pass(&mut self, context: &Context) -> Result<(), Pause> {
        let seen = self
            .search
            .files()
            .map_err(|error| Pause::Away(format!("{} cannot be looked at: {error}", self.search.root.display())))?;
        let settled = self.settling.see(&seen, Instant::now(), self.args.settle);
        let there: HashSet<&(PathBuf, Identity)> = seen.iter().collect();
        self.done.retain(|file, _| there.contains(file));
        self.all_settled = settled.len() == seen.len();
        for (file, identity) in settled {
            if self.done.contains_key(&(file.clone(), identity)) {
                continue;
            }
            if files::has_writer(&file) {
                self.all_settled = false;
                continue;
            }
            let job = self.take(context, &file, identity).await?;
            self.done.insert((file, identity), job);
        }
        self.follow().await
    }

    /// Submits the job of a file. `None` when there is none to be.
    async fn take(&mut self, context: &Context, file: &Path, identity: Identity) -> Result<Option<JobId>, Pause> {
        let refuse = |faults: &[Fault]| eprintln!("{}", Trouble::rejected(&file.display().to_string(), faults));
        let job = match self.job(file, identity) {
            Ok(job) => job,
            Err(faults) => {
                refuse(&faults);
                self.refused = true;
                return Ok(None);
            }
        };
        match self.client.submit_once(&job).await {
            Ok((submitted, is_new)) => {
                let id = submitted.id;
                told(context.format, Taken { file: file.to_owned(), job: submitted, already: !is_new });
                if self.args.done_dir.is_some() {
                    self.open.insert(file.to_owned(), (identity, id));
                }
                Ok(Some(id))
            }
            Err(ApiError::Problem(problem)) if !problem.faults.is_empty() => {
                refuse(&problem.faults);
                self.refused = true;
                Ok(None)
            }
            Err(error) if error.status() == Some(409) => {
                eprintln!(
                    "{}: it was submitted before with other flags and is left; --run NAME makes it anew",
                    file.display()
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at the jobs that have not ended, and moves the files of those that completed.
    async fn follow(&mut self) -> Result<(), Pause> {
        let Some(done_dir) = self.args.done_dir.clone() else { return Ok(()) };
        for (file, (identity, id)) in self.open.clone() {
            let state = self.client.job(id).await?.job.state;
            if !state.is_end() {
                continue;
            }
            self.open.remove(&file);
            let is_same = std::fs::metadata(&file).is_ok_and(|metadata| files::identity(&metadata) == identity);
            match (state, is_same) {
                (State::Completed, true) => self.move_away(&file, &done_dir),
                (State::Completed, false) => {
                    eprintln!("{}: its job {id} completed, but it has changed since and is left", file.display());
                }
                _ => eprintln!("{}: its job {id} is {state}; the file is left", file.display()),
            }
        }
        Ok(())
    }

    fn move_away(&self, file: &Path, done_dir: &Path) {
        let below = file.strip_prefix(&self.search.root).unwrap_or(file);
        match moved(file, &done_dir.join(below)) {
            Ok(to) => eprintln!("{}: done, moved to {}", file.display(), to.display()),
            Err(error) => eprintln!("{}: done, but it cannot be moved: {error}", file.display()),
        }
    }

    fn is_busy(&self) -> bool {
        !self.all_settled || !self.open.is_empty()
    }

    fn is_done(&self) -> bool {
        !self.is_busy()
    }

    fn exit(&self) -> Exit {
        if self.refused { Exit::JobRejected } else { Exit::Success }
    }
}

/// Moves a file to a name that is free. To another file system it is an error: a copy could be cut short.
fn moved(from: &Path, wanted: &Path) -> std::io::Result<PathBuf> {
    if let Some(parent) = wanted.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut to = wanted.to_owned();
    for number in 2.. {
        // A link fails where the name is taken, which a rename would replace.
        match std::fs::hard_link(from, &to) {
            Ok(()) => break,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let name = wanted.file_name().unwrap_or_default().to_string_lossy();
                to = wanted.with_file_name(format!("{number}-{name}"));
            }
            // A file system without links: what is there is looked for first.
            Err(_) if !to.exists() => {
                std::fs::rename(from, &to)?;
                return Ok(to);
            }
            Err(error) => return Err(error),
        }
    }
    std::fs::remove_file(from)?;
    Ok(to)
}

fn told(format: Format, taken: Taken) {
    match format {
        Format::Json => output::line(&serde_json::to_string(&taken).expect("it is plain data")),
        Format::Table => {
            let again = if taken.already { " (there already)" } else { "" };
            output::line(&format!("{}: job #{} {}{again}", taken.file.display(), taken.job.number, taken.job.id));
        }
    }
}
