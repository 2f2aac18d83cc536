//! Proves from outside that nothing was lost and nothing doubled: the publisher's own record against the ledger, the
//! files and the machine.
//!
//! Invariant: it only reads. It believes neither the API nor the pool's metrics: the ledger's rows, the bytes of the files
//! and the kernel's lists are its evidence.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Manifest, hex};
use ffpool_schema::scenario::path_of;
use postgres::fallible_iterator::FallibleIterator as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::processes;

/// How often is looked again while a run settles.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What follows an output's name in that of its manifest.
const MANIFEST_SUFFIX: &str = ".ffpool.json";
/// The directory beside outputs in which chunks wait for their whole.
const CHUNK_STORE: &str = ".ffpool-chunks";

/// What to audit.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    /// The publisher's record: one JSON object a line with `id`, `confirmed` and, for an encode, `output`. Of several lines
    /// of one id the last counts.
    #[arg(long, value_name = "FILE")]
    pub record: PathBuf,
    /// The ledger. It is only read.
    #[arg(long, env = "FFPOOL_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// Media roots, separated by colons.
    #[arg(long, env = "FFPOOL_MEDIA_ROOTS", value_name = "DIRS", value_delimiter = ':')]
    pub media_roots: Vec<PathBuf>,
    /// Scratch directories of the workers on this machine, separated by colons.
    #[arg(long, env = "FFPOOL_SCRATCH", value_name = "DIRS", value_delimiter = ':')]
    pub scratch: Vec<PathBuf>,
    /// Nothing but this record's jobs may stand in the ledger, and nothing but their outputs below the media roots.
    #[arg(long)]
    pub exclusive: bool,
    /// How long to wait for every job to end and every finding to vanish.
    #[arg(long, value_name = "SECS", default_value_t = 0)]
    pub settle_secs: u64,
}

/// One line of a publisher's record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Published {
    /// The job.
    pub id: JobId,
    /// Whether the broker or the API has confirmed it.
    pub confirmed: bool,
    /// The file that it is to make, one of them where it makes several; absent for a job that makes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// A confirmed job is not in the ledger, or a completed one has no output.
    Lost,
    /// A job was done twice, or has two outputs.
    Doubled,
    /// A job or an attempt has not ended.
    Stuck,
    /// An output is not what its manifest says.
    Unproven,
    /// An attempt published or finished without the right to.
    Unfenced,
    /// A file, process or cgroup of an attempt is still there.
    Left,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Wrong::Lost => "lost",
            Wrong::Doubled => "doubled",
            Wrong::Stuck => "stuck",
            Wrong::Unproven => "unproven",
            Wrong::Unfenced => "unfenced",
            Wrong::Left => "left",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Which kind.
    pub wrong: Wrong,
    /// The job that it is about.
    pub job: Option<JobId>,
    /// In words.
    pub what: String,
}

/// What the audit saw.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Jobs on the publisher's record.
    pub published: usize,
    /// Those of them that were confirmed.
    pub confirmed: usize,
    /// Jobs in the ledger, by state.
    pub states: BTreeMap<String, usize>,
    /// Attempts in the ledger.
    pub attempts: usize,
    /// Outputs whose bytes were compared with their manifests.
    pub artifacts: usize,
    /// Everything that is wrong, lost first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are of one kind.
    #[must_use]
    pub fn count(&self, wrong: Wrong) -> usize {
        self.findings.iter().filter(|finding| finding.wrong == wrong).count()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, wrong: Wrong, job: impl Into<Option<Uuid>>, what: impl Into<String>) {
        self.findings.push(Finding { wrong, job: job.into().map(JobId), what: what.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states: Vec<String> = self.states.iter().map(|(state, count)| format!("{state} {count}")).collect();
        writeln!(f, "published {}, confirmed {}", self.published, self.confirmed)?;
        writeln!(f, "ledger: {} ({} attempts)", states.join(", "), self.attempts)?;
        writeln!(f, "outputs compared with their manifests: {}", self.artifacts)?;
        let count = |wrong| self.count(wrong);
        writeln!(f, "lost {}, doubled {}, stuck {}", count(Wrong::Lost), count(Wrong::Doubled), count(Wrong::Stuck))?;
        writeln!(
            f,
            "unproven {}, unfenced {}, left {}",
            count(Wrong::Unproven),
            count(Wrong::Unfenced),
            count(Wrong::Left)
        )?;
        for finding in &self.findings {
            match finding.job {
                Some(job) => writeln!(f, "{:9} {job}: {}", finding.wrong, finding.what)?,
                None => writeln!(f, "{:9} {}", finding.wrong, finding.what)?,
            }
        }
        Ok(())
    }
}

/// Reads a publisher's record. Of several lines of one id the last counts.
///
/// # Errors
/// When it cannot be read, or a line is no such object. A last line that was cut off in the middle is left out: its writer
/// died, and what it has not written it has not promised.
pub fn read_record(path: &Path) -> anyhow::Result<Vec<Published>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut jobs = BTreeMap::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str::<Published>(line) {
            Ok(published) => drop(jobs.insert(published.id, published)),
            Err(_) if !line.ends_with('\n') || line.trim().is_empty() => {}
            Err(error) => return Err(error).with_context(|| format!("{} line {}", path.display(), number + 1)),
        }
    }
    Ok(jobs.into_values().collect())
}

/// Audits, again and again until nothing is wrong or the time to settle is over. Blocks.
///
/// # Errors
/// When the record, the ledger or a directory cannot be read.
pub fn run(args: &AuditArgs) -> anyhow::Result<Report> {
    let record = read_record(&args.record)?;
    let end = Instant::now() + Duration::from_secs(args.settle_secs);
    let mut client = postgres::Client::connect(&args.database_url, postgres::NoTls).context("open the ledger")?;
    while Instant::now() < end && !is_settled(&mut client, &record)? {
        std::thread::sleep(LOOK_AGAIN);
    }
    loop {
        let report = look(args, &record, &mut client)?;
        if report.is_clean() || Instant::now() >= end {
            return Ok(report);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether every job has ended and as many are there as were confirmed: cheap, and asked often.
fn is_settled(client: &mut postgres::Client, record: &[Published]) -> anyhow::Result<bool> {
    let query = "SELECT count(*), count(*) FILTER (WHERE state NOT IN ('completed', 'failed', 'cancelled', 'rejected')) FROM job";
    let row = client.query_one(query, &[])?;
    let (all, open): (i64, i64) = (row.get(0), row.get(1));
    let confirmed = record.iter().filter(|published| published.confirmed).count();
    Ok(open == 0 && usize::try_from(all)? >= confirmed)
}

fn look(args: &AuditArgs, record: &[Published], client: &mut postgres::Client) -> anyhow::Result<Report> {
    let mut report = Report {
        published: record.len(),
        confirmed: record.iter().filter(|published| published.confirmed).count(),
        ..Report::default()
    };
    // One picture of the ledger for all questions.
    let mut ledger =
        client.build_transaction().read_only(true).isolation_level(postgres::IsolationLevel::RepeatableRead).start()?;
    let jobs = jobs(&mut ledger)?;
    let workers: Vec<String> = ledger.query("SELECT id FROM worker", &[])?.iter().map(|row| row.get(0)).collect();
    for job in jobs.values() {
        *report.states.entry(job.state.clone()).or_default() += 1;
    }
    check_record(args, record, &jobs, &mut report);
    let finished = check_attempts(&mut ledger, &jobs, &mut report)?;
    let consents = check_history(&mut ledger, &mut report)?;
    ledger.commit()?;
    check_artifacts(args, record, &jobs, &finished, &consents, &mut report)?;
    check_remains(args, &workers, &mut report);
    report.findings.sort();
    report.findings.dedup();
    Ok(report)
}

struct JobRow {
    id: Uuid,
    state: String,
    is_end: bool,
    is_encode: bool,
    manifest: Option<Manifest>,
    /// The job whose chunk it makes.
    part_of: Option<Uuid>,
}

fn jobs(ledger: &mut postgres::Transaction<'_>) -> anyhow::Result<HashMap<Uuid, JobRow>> {
    let query = "SELECT id, state, coalesce(spec ->> 'engine', '') <> 'noop', manifest, part_of FROM job";
    let mut jobs = HashMap::new();
    let mut rows = ledger.query_raw(query, std::iter::empty::<&str>())?;
    while let Some(row) = rows.next()? {
        let (id, state): (Uuid, String) = (row.get(0), row.get(1));
        let manifest: Option<serde_json::Value> = row.get(3);
        let manifest = manifest.map(serde_json::from_value).transpose().with_context(|| format!("manifest of {id}"))?;
        let ends = State::ALL.into_iter().filter(|state| state.is_end());
        let is_end = ends.map(|end| end.to_string()).any(|end| end == state);
        let job = JobRow { id, state, is_end, is_encode: row.get(2), manifest, part_of: row.get(4) };
        jobs.insert(id, job);
    }
    Ok(jobs)
}

/// Every confirmed job is there, and every job that is there has ended. A primary key keeps a job to one state.
fn check_record(args: &AuditArgs, record: &[Published], jobs: &HashMap<Uuid, JobRow>, report: &mut Report) {
    for published in record.iter().filter(|published| published.confirmed) {
        if !jobs.contains_key(&published.id.0) {
            report.find(Wrong::Lost, published.id.0, "was confirmed and is not in the ledger");
        }
    }
    let known: HashSet<Uuid> = record.iter().map(|published| published.id.0).collect();
    for job in jobs.values() {
        // The ledger itself makes the jobs that make chunks.
        let is_known = known.contains(&job.part_of.unwrap_or(job.id));
        if args.exclusive && !is_known {
            report.find(Wrong::Doubled, job.id, "is in the ledger, and its publisher never sent it");
        }
        if !job.is_end && (is_known || args.exclusive) {
            report.find(Wrong::Stuck, job.id, format!("is still {}", job.state));
        }
    }
}

/// The attempts that finished. One at most of each job, and no attempt is open when its job has ended.
fn check_attempts(
    ledger: &mut postgres::Transaction<'_>,
    jobs: &HashMap<Uuid, JobRow>,
    report: &mut Report,
) -> anyhow::Result<HashMap<Uuid, u32>> {
    let mut finished = HashMap::new();
    let query = "SELECT job, attempt, outcome FROM attempt ORDER BY job, attempt";
    let mut rows = ledger.query_raw(query, std::iter::empty::<&str>())?;
    while let Some(row) = rows.next()? {
        let (job, outcome): (Uuid, Option<String>) = (row.get(0), row.get(2));
        let attempt = u32::try_from(row.get::<_, i32>(1))?;
        report.attempts += 1;
        match outcome.as_deref() {
            None if jobs.get(&job).is_none_or(|job| job.is_end) => {
                report.find(Wrong::Stuck, job, format!("attempt {attempt} has no end, and the job has"));
            }
            Some("finished") => {
                if let Some(earlier) = finished.insert(job, attempt) {
                    report.find(Wrong::Doubled, job, format!("attempts {earlier} and {attempt} have both finished"));
                }
            }
            Some(_) | None => {}
        }
    }
    for job in jobs.values().filter(|job| job.state == "completed" && !finished.contains_key(&job.id)) {
        report.find(Wrong::Unproven, job.id, "is completed, and none of its attempts has finished");
    }
    Ok(finished)
}

/// What has happened to one job so far.
#[derive(Default)]
struct History {
    /// The attempt that may ask for consent.
    current: u32,
    lapsed: BTreeSet<u32>,
    consent: Option<u32>,
    finished: Option<u32>,
}

/// Goes through everything that happened to each job: consent was only ever given to the current attempt, and only its
/// last holder finished, once. Gives the attempts that ever had consent.
fn check_history(
    ledger: &mut postgres::Transaction<'_>,
    report: &mut Report,
) -> anyhow::Result<HashMap<Uuid, BTreeSet<u32>>> {
    let mut consents: HashMap<Uuid, BTreeSet<u32>> = HashMap::new();
    let query = "SELECT job, kind, attempt FROM event WHERE kind IN ('claim', 'take', 'commit', 'lapse', 'finished') ORDER BY job, seq";
    let mut about = None;
    let mut history = History::default();
    let mut rows = ledger.query_raw(query, std::iter::empty::<&str>())?;
    while let Some(row) = rows.next()? {
        let (job, kind): (Uuid, String) = (row.get(0), row.get(1));
        let attempt = u32::try_from(row.get::<_, i32>(2))?;
        if about.replace(job) != Some(job) {
            history = History::default();
        }
        match kind.as_str() {
            // A job that was offered is taken, not claimed.
            "claim" | "take" => history.current = history.current.max(attempt),
            "lapse" => drop(history.lapsed.insert(attempt)),
            "commit" => {
                if attempt != history.current || history.lapsed.contains(&attempt) {
                    let what = format!("attempt {attempt} got consent after it had lost its lease");
                    report.find(Wrong::Unfenced, job, what);
                }
                history.consent = Some(attempt);
                consents.entry(job).or_default().insert(attempt);
            }
            "finished" => {
                if history.consent != Some(attempt) {
                    report.find(Wrong::Unfenced, job, format!("attempt {attempt} finished and had no consent"));
                }
                if let Some(earlier) = history.finished.replace(attempt) {
                    report.find(
                        Wrong::Doubled,
                        job,
                        format!("attempts {earlier} and {attempt} completed it one after the other"),
                    );
                }
            }
            _ => {}
        }
    }
    Ok(consents)
}

/// Every completed encode has its outputs, and they are what its manifest says, in the ledger as beside the file.
fn check_artifacts(
    args: &AuditArgs,
    record: &[Published],
    jobs: &HashMap<Uuid, JobRow>,
    finished: &HashMap<Uuid, u32>,
    consents: &HashMap<Uuid, BTreeSet<u32>>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let outputs: HashMap<Uuid, &Path> =
        record.iter().filter_map(|published| Some((published.id.0, published.output.as_deref()?))).collect();
    let mut owners = Owners::default();
    for job in jobs.values().filter(|job| job.state == "completed" && job.is_encode) {
        let Some(manifest) = &job.manifest else {
            // A chunk that is not needed as it was asked for is done without one.
            if job.part_of.is_none() {
                report.find(Wrong::Lost, job.id, "is completed, and has no manifest");
            }
            continue;
        };
        check_maker(job.id, manifest, finished.get(&job.id), consents.get(&job.id), report);
        let made = files_below(&args.media_roots, manifest);
        if let Some(whole) = job.part_of {
            let is_published = jobs.get(&whole).is_some_and(|whole| whole.state == "completed");
            owners.chunks.extend(made.into_iter().map(|file| (file.path, (whole, is_published))));
            continue;
        }
        let heads: Vec<&PathBuf> = made.iter().filter(|file| file.is_head).map(|file| &file.path).collect();
        if let (Some(wanted), [first, ..]) = (outputs.get(&job.id), heads.as_slice())
            && !heads.iter().any(|head| head.as_path() == *wanted)
        {
            report.find(Wrong::Unproven, job.id, format!("made {} and not {}", first.display(), wanted.display()));
        }
        for file in made {
            check_file(job.id, &file.path, file.size_bytes, file.sha256, report);
            if file.is_head && read_manifest(&file.path).as_ref() != Some(manifest) {
                let what = format!("the manifest beside {} is not the ledger's", file.path.display());
                report.find(Wrong::Unproven, job.id, what);
            }
            if let Some(other) = owners.outputs.insert(file.path.clone(), job.id) {
                let what = format!("{} is an output of job {other} too", file.path.display());
                report.find(Wrong::Doubled, job.id, what);
            }
        }
    }
    check_strangers(args, &owners, report)
}

/// Whose the files below the media roots are.
#[derive(Default)]
struct Owners {
    outputs: HashMap<PathBuf, Uuid>,
    /// Chunks with the job that they are for, and whether it has been published, after which they are deleted.
    chunks: HashMap<PathBuf, (Uuid, bool)>,
}

/// A file of which a manifest tells.
struct MadeFile<'a> {
    path: PathBuf,
    size_bytes: u64,
    sha256: &'a str,
    /// Whether a manifest lies beside it: it is an output, or the file by which a presentation is played.
    is_head: bool,
}

/// The files below these directories of which a manifest tells.
fn files_below<'a>(roots: &[PathBuf], manifest: &'a Manifest) -> Vec<MadeFile<'a>> {
    let mut made = Vec::new();
    for artifact in &manifest.artifacts {
        let Some(path) = path_of(&artifact.url).map(PathBuf::from) else { continue };
        made.extend(artifact.files.iter().map(|file| MadeFile {
            path: path.with_file_name(&file.path),
            size_bytes: file.size_bytes,
            sha256: &file.sha256,
            is_head: false,
        }));
        made.push(MadeFile { path, size_bytes: artifact.size_bytes, sha256: &artifact.sha256, is_head: true });
    }
    made.retain(|file| roots.iter().any(|root| file.path.starts_with(root)));
    made
}

/// The attempt that a manifest names finished, or had consent and was adopted by the one that did.
fn check_maker(
    job: Uuid,
    manifest: &Manifest,
    finished: Option<&u32>,
    consents: Option<&BTreeSet<u32>>,
    report: &mut Report,
) {
    let maker = manifest.attempt;
    if manifest.job.0 != job {
        report.find(Wrong::Unproven, job, format!("has the manifest of job {}", manifest.job));
    }
    let is_adopted = finished.is_some_and(|finished| *finished > maker)
        && consents.is_some_and(|consents| consents.contains(&maker));
    if finished != Some(&maker) && !is_adopted {
        let what = format!("its output was made by attempt {maker}, and attempt {finished:?} finished");
        report.find(Wrong::Unproven, job, what);
    }
}

fn check_file(job: Uuid, path: &Path, size_bytes: u64, sha256: &str, report: &mut Report) {
    match hash(path) {
        Err(error) => report.find(Wrong::Lost, job, format!("{}: {error}", path.display())),
        Ok((size, hash)) if size != size_bytes || hash != sha256 => {
            let what =
                format!("{} has {size} bytes, sha256 {hash}; its manifest says {size_bytes}, {sha256}", path.display());
            report.find(Wrong::Unproven, job, what);
        }
        Ok(_) => report.artifacts += 1,
    }
}

/// Files below the media roots that no completed job made, and chunks whose whole was published without them being
/// deleted.
fn check_strangers(args: &AuditArgs, owners: &Owners, report: &mut Report) -> anyhow::Result<()> {
    for root in &args.media_roots {
        for (path, is_directory) in everything_below(root)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_directory || owners.outputs.contains_key(&path) {
                continue;
            }
            if let Some((whole, is_published)) = owners.chunks.get(&path) {
                if *is_published {
                    report.find(Wrong::Left, *whole, format!("chunk {}", path.display()));
                }
            } else if name.starts_with(".ffpool-") && name.ends_with(".part") {
                report.find(Wrong::Left, None, format!("{}", path.display()));
            } else if let Some(output) = name.strip_suffix(MANIFEST_SUFFIX).map(|output| path.with_file_name(output)) {
                if !owners.outputs.contains_key(&output)
                    && !owners.chunks.contains_key(&output)
                    && let Some(manifest) = read_manifest(&output)
                {
                    let what = format!("{} says that it is an output too", path.display());
                    report.find(Wrong::Doubled, manifest.job.0, what);
                }
            } else if args.exclusive && !is_in_chunk_store(&path) {
                report.find(Wrong::Doubled, None, format!("{} was made by no completed job", path.display()));
            }
        }
    }
    Ok(())
}

/// Whether it lies among chunks, where cut lists lie too.
fn is_in_chunk_store(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == CHUNK_STORE)
}

/// Scratch, processes and cgroups of attempts that are still there.
fn check_remains(args: &AuditArgs, workers: &[String], report: &mut Report) {
    for scratch in &args.scratch {
        for (path, is_directory) in everything_below(scratch).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let (true, Some((job, _))) = (is_directory, processes::attempt_name(&name)) {
                report.find(Wrong::Left, job.0, format!("scratch {}", path.display()));
            }
        }
        for tool in processes::tools_inside(scratch) {
            let job = processes::attempt_name(&tool.attempt).map(|(job, _)| job.0);
            report.find(
                Wrong::Left,
                job,
                format!("process {} ({}) of attempt {}", tool.pid, tool.program, tool.attempt),
            );
        }
    }
    for (path, is_directory) in everything_below(Path::new("/sys/fs/cgroup")).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let worker = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        if let (true, Some((job, _))) = (is_directory, processes::attempt_name(&name))
            && workers.iter().any(|known| *known == worker)
        {
            report.find(Wrong::Left, job.0, format!("cgroup {}", path.display()));
        }
    }
}

/// Everything below a directory and whether it is one; links are not followed, and what vanishes meanwhile is left out.
fn everything_below(root: &Path) -> std::io::Result<Vec<(PathBuf, bool)>> {
    let mut found = Vec::new();
    let mut entries: Vec<std::fs::DirEntry> = std::fs::read_dir(root)?.flatten().collect();
    while let Some(entry) = entries.pop() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory {
            entries.extend(std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
        }
        found.push((entry.path(), is_directory));
    }
    Ok(found)
}

fn read_manifest(output: &Path) -> Option<Manifest> {
    let mut name = output.as_os_str().to_owned();
    name.push(MANIFEST_SUFFIX);
    serde_json::from_slice(&std::fs::read(PathBuf::from(name)).ok()?).ok()
}

fn hash(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok((size, hex(&hash.finalize())));
        }
        hash.update(&chunk[..read]);
        size += read as u64;
    }
}
