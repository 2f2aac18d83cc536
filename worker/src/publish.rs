//! How a proven file becomes the job's output: staged beside it, renamed into place, and its manifest after it.
//!
//! Invariant: under the output's name there is never a part of a file, and a later attempt's output is never replaced by an
//! earlier one's. Whatever is on disk is on disk for good before it is reported: file, directory, manifest.
//!
//! Everything here blocks: call it from a thread that may.

mod parts;
mod replace;
mod tree;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ffpool_schema::id::JobId;
use ffpool_schema::message::{ArtifactFile, Manifest, hex};
use sha2::{Digest, Sha256};

use parts::{DATA, Note, PROOF};
pub use parts::{Notes, Whose};
use replace::Put;
use tree::Tree;
pub use tree::{Contents, directory_name};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Rights of a published file.
const MODE: u32 = 0o644;
/// The largest manifest that is read.
const MANIFEST_BYTES: u64 = 16 << 20;

/// Why a file could not be published.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum PublishError {
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not the plain file that the tool was to write", path.display())]
    NoPlainFile { path: PathBuf },
    #[error("stopped while staging")]
    Stopped,
}

/// A whole file beside its destination, on disk, not yet under its name. Dropping it deletes it.
#[derive(Debug)]
pub struct Staged {
    part: Part,
    tree: Option<Tree>,
    whose: Whose,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
    /// Keeps it locked while it is in use.
    _file: File,
    /// Dropped after the part is deleted.
    _note: Note,
}

/// How publishing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Published {
    /// The output is in place.
    Done,
    /// A later attempt of the job has published already: ours is gone.
    Lost,
}

/// The manifest's path.
#[must_use]
pub fn manifest_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".ffpool.json");
    name.into()
}

/// Brings the tool's file to where it can be renamed into place, reads it once for its hash, and has it on disk. Parts
/// that earlier attempts of the job left are deleted, and old ones of other jobs.
///
/// # Errors
/// When it cannot be read or written, is no plain file, or `is_stopped` says so on the way.
pub fn stage(
    made: &Path,
    output: &Path,
    whose: Whose,
    notes: &Notes,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Staged, PublishError> {
    parts::clear_beside(output, whose);
    // Before anything lies there.
    let note = notes.write(output, whose);
    let part = Part { path: parts::path(output, whose, DATA) };
    let (file, size_bytes, sha256) = bring(made, &part.path, is_stopped)?;
    Ok(Staged { part, tree: None, whose, size_bytes, sha256, _file: file, _note: note })
}

/// Brings the files of a presentation where they can be put in place, and its top file with them. `names`: the others' paths
/// in the scratch, where the top file lies too.
///
/// # Errors
/// As [`stage`].
pub fn stage_tree(
    top: &Path,
    names: &[PathBuf],
    output: &Path,
    whose: Whose,
    notes: &Notes,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Staged, PublishError> {
    let staged = stage(top, output, whose, notes, is_stopped)?;
    let tree = Tree::bring(top.parent().unwrap_or(Path::new(".")), names, output, whose, is_stopped)?;
    Ok(Staged { tree: Some(tree), ..staged })
}

impl Staged {
    /// The files beside its top file, where it is a presentation.
    #[must_use]
    pub fn files(&self) -> &[ArtifactFile] {
        self.tree.as_ref().map_or(&[], |tree| &tree.files)
    }
}

/// Has the tool's file at `path`, ours and on disk: itself, its size and its hex sha256.
fn bring(made: &Path, path: &Path, is_stopped: &dyn Fn() -> bool) -> Result<(File, u64, String), PublishError> {
    let (file, size_bytes) = open_made(made)?;
    match fs::rename(made, path) {
        Ok(()) => {
            parts::claim(&file);
            own(&file).map_err(failed("take over", path))?;
            let sha256 = copy_hashing(file.try_clone().map_err(failed("read", path))?, None, is_stopped, path)?;
            file.sync_all().map_err(failed("sync", path))?;
            Ok((file, size_bytes, sha256))
        }
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let copy = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(MODE)
                .open(path)
                .map_err(failed("create", path))?;
            parts::claim(&copy);
            own(&copy).map_err(failed("take over", path))?;
            let sha256 = copy_hashing(file, Some(&copy), is_stopped, path)?;
            copy.sync_all().map_err(failed("sync", path))?;
            Ok((copy, size_bytes, sha256))
        }
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// Takes over the tool's file where it is, for one that goes elsewhere than to a disk: its size and hex sha256.
///
/// # Errors
/// When it cannot be read, is no plain file, or `is_stopped` says so on the way.
pub fn measure(made: &Path, is_stopped: &dyn Fn() -> bool) -> Result<(u64, String), PublishError> {
    let (file, size_bytes) = open_made(made)?;
    own(&file).map_err(|source| PublishError::Io { what: "take over", path: made.to_owned(), source })?;
    Ok((size_bytes, copy_hashing(file, None, is_stopped, made)?))
}

/// The hex sha256 of a file.
///
/// # Errors
/// When it cannot be read, or `is_stopped` says so on the way.
pub fn hash(file: &Path, is_stopped: &dyn Fn() -> bool) -> Result<String, PublishError> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(file);
    let opened = opened.map_err(|source| PublishError::Io { what: "open", path: file.to_owned(), source })?;
    copy_hashing(opened, None, is_stopped, file)
}

/// Opens what the tool made. It may have been turned against us, and have left a link to something that only we can read.
pub(crate) fn open_made(made: &Path) -> Result<(File, u64), PublishError> {
    let fail = |what| move |source| PublishError::Io { what, path: made.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(made)
        .map_err(fail("open"))?;
    let metadata = file.metadata().map_err(fail("read"))?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(PublishError::NoPlainFile { path: made.to_owned() });
    }
    Ok((file, metadata.len()))
}

/// The same of what need not be there.
pub(crate) fn open_if_made(made: &Path) -> io::Result<Option<(File, u64)>> {
    match open_made(made) {
        Ok(made) => Ok(Some(made)),
        Err(PublishError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(PublishError::Io { source, .. }) => Err(source),
        Err(error @ (PublishError::NoPlainFile { .. } | PublishError::Stopped)) => Err(io::Error::other(error)),
    }
}

/// Deletes a file, if it is there.
pub(crate) fn delete_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the file ours, with the usual rights.
fn own(file: &File) -> io::Result<()> {
    if nix::unistd::Uid::effective().is_root() {
        nix::unistd::fchown(file.as_fd(), Some(nix::unistd::geteuid()), Some(nix::unistd::getegid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(MODE))
}

fn copy_hashing(
    mut from: File,
    mut to: Option<&File>,
    is_stopped: &dyn Fn() -> bool,
    path: &Path,
) -> Result<String, PublishError> {
    let fail = |what| move |source| PublishError::Io { what, path: path.to_owned(), source };
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        if is_stopped() {
            return Err(PublishError::Stopped);
        }
        let read = from.read(&mut chunk).map_err(fail("read"))?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&chunk[..read]);
        if let Some(to) = to.as_mut() {
            to.write_all(&chunk[..read]).map_err(fail("write"))?;
        }
    }
}

/// A staged file on its way under its name, with its manifest.
struct Pair {
    staged: Staged,
    proof: Part,
    output: PathBuf,
}

/// What was put under a name, to be taken back if what follows fails.
struct Placed<'a> {
    put: Put,
    part: &'a Path,
    target: PathBuf,
    ours: replace::Identity,
}

/// Puts staged files under their names and the manifest beside each, all on disk before it returns. What is there already
/// is replaced, unless a later attempt of the same job made it. Whatever fails, no output is left without a manifest, and
/// what was put before is taken back.
///
/// A crash on the way leaves some of them with a manifest and others without: the next attempt finds that not all are
/// there and makes them all anew.
///
/// # Errors
/// When one cannot be written or renamed, or a directory cannot be brought to disk.
pub fn publish(staged: Vec<(Staged, PathBuf)>, manifest: &Manifest) -> Result<Published, PublishError> {
    // Written before any output is in place: they want room on the disk, and they say to every earlier attempt that there
    // is a later one. Both names of an output stand in one directory, so what is left to do are renames.
    let pairs = staged.into_iter().map(|(staged, output)| {
        let proof = write_part(&output, staged.whose, manifest)?;
        Ok(Pair { staged, proof, output })
    });
    let pairs = pairs.collect::<Result<Vec<_>, PublishError>>()?;
    let before: Vec<Option<Manifest>> = pairs.iter().map(|pair| read_manifest(&pair.output)).collect();
    let mut placed = Vec::new();
    let published = place(&pairs, manifest, &mut placed);
    if published.is_err() {
        // The top files before what they name.
        for Placed { put, part, target, ours } in placed.into_iter().rev() {
            if let Err(error) = replace::take_back(put, part, &target, ours) {
                tracing::warn!(path = %target.display(), %error, "what was published in part stays");
            }
        }
    }
    match published {
        Ok(Published::Done) => {
            for (pair, before) in pairs.iter().zip(&before) {
                for old in tree::superseded(&pair.output, before.as_ref(), pair.staged.whose) {
                    if let Err(error) = tree::remove(&old) {
                        tracing::warn!(path = %old.display(), %error, "files of a replaced output stay");
                    }
                }
            }
        }
        // Nothing names them any more: what a later attempt has put has its own.
        Ok(Published::Lost) | Err(_) => {
            pairs.iter().filter_map(|pair| pair.staged.tree.as_ref()).for_each(Tree::take_back)
        }
    }
    published
}

/// First every output, then every manifest.
fn place<'a>(pairs: &'a [Pair], manifest: &Manifest, placed: &mut Vec<Placed<'a>>) -> Result<Published, PublishError> {
    let (job, attempt) = (manifest.job, manifest.attempt);
    let sync = || pairs.iter().try_for_each(|pair| sync_directory(&pair.output).map_err(failed("sync", &pair.output)));
    // What a top file names must be there before it is.
    for Pair { staged, output, .. } in pairs {
        if let Some(tree) = &staged.tree {
            tree.place().and_then(|()| sync_directory(output)).map_err(failed("publish", &tree.target))?;
        }
    }
    for Pair { staged, output, .. } in pairs {
        let is_newer = |_: &Path| is_superseded(output, job, attempt);
        if put(&staged.part.path, output.clone(), &is_newer, placed).map_err(failed("publish", output))? {
            return Ok(Published::Lost);
        }
    }
    sync()?;
    for Pair { proof, output, .. } in pairs {
        let is_newer = |path: &Path| is_later(path, job, attempt);
        let put = put(&proof.path, manifest_path(output), &is_newer, placed);
        if put.map_err(failed("write the manifest of", output))? {
            // Then a later attempt's output has replaced ours too, or is about to.
            return Ok(Published::Lost);
        }
    }
    sync()?;
    Ok(Published::Done)
}

/// Puts one file under a name. Answers whether what is there is newer.
fn put<'a>(
    part: &'a Path,
    target: PathBuf,
    is_newer: &dyn Fn(&Path) -> bool,
    placed: &mut Vec<Placed<'a>>,
) -> io::Result<bool> {
    let ours = replace::identity(part)?;
    let put = replace::put(part, &target, is_newer)?;
    if put == Put::Superseded {
        return Ok(true);
    }
    placed.push(Placed { put, part, target, ours });
    Ok(false)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { what, path, source }
}

/// Whether a later attempt of the job has published here, or is about to.
fn is_superseded(output: &Path, job: JobId, attempt: u32) -> bool {
    let is_later_proof = |name: &parts::Name| {
        let parts::Name { whose, suffix } = *name;
        whose.job == job && whose.attempt > attempt && suffix == PROOF
    };
    is_later(&manifest_path(output), job, attempt) || parts::beside(output).any(|(_, name)| is_later_proof(&name))
}

/// Whether a manifest is of a later attempt of the job.
fn is_later(manifest: &Path, job: JobId, attempt: u32) -> bool {
    read(manifest).is_some_and(|found| found.job == job && found.attempt > attempt)
}

/// A file that is deleted on drop, unless it has another name by then.
#[derive(Debug)]
struct Part {
    path: PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed, it is not there any more; exchanged, it is what was replaced.
        let _ = fs::remove_file(&self.path);
    }
}

/// Has the manifest on disk beside the output, not yet under its name.
fn write_part(output: &Path, whose: Whose, manifest: &Manifest) -> Result<Part, PublishError> {
    let part = Part { path: parts::path(output, whose, PROOF) };
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        // Whatever is there is of an earlier life, or somebody's link.
        match fs::remove_file(&part.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&part.path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(|source| PublishError::Io { what: "write the manifest", path: manifest_path(output), source })?;
    Ok(part)
}

/// The manifest beside an output, if one can be read.
#[must_use]
pub fn read_manifest(output: &Path) -> Option<Manifest> {
    read(&manifest_path(output))
}

fn read(manifest: &Path) -> Option<Manifest> {
    let mut text = Vec::new();
    File::open(manifest).ok()?.take(MANIFEST_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The manifest of an output that an earlier attempt of the same job published before it could report: the output is one of
/// its artifacts by this name, and unchanged since.
#[must_use]
pub fn find_published(
    output: &Path,
    name: Option<&str>,
    job: JobId,
    is_stopped: &dyn Fn() -> bool,
) -> Option<Manifest> {
    let manifest = read_manifest(output).filter(|manifest| manifest.job == job)?;
    let artifact = manifest.artifacts.iter().find(|artifact| artifact.name.as_deref() == name)?;
    let is_there = hash_of(output, artifact.size_bytes, is_stopped).as_ref() == Some(&artifact.sha256)
        && tree::is_whole(output, &artifact.files, is_stopped);
    is_there.then_some(manifest)
}

/// The hex sha256 of a file, if it has this size.
fn hash_of(path: &Path, size_bytes: u64, is_stopped: &dyn Fn() -> bool) -> Option<String> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() != size_bytes {
        return None;
    }
    copy_hashing(file, None, is_stopped, path).ok()
}

/// Brings the entries of the output's directory to disk: a rename that is not may be lost with the power.
fn sync_directory(output: &Path) -> io::Result<()> {
    match output.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::id::WorkerId;
    use ffpool_schema::message::{Artifact, Probe, Usage};

    const GO_ON: &dyn Fn() -> bool = &|| false;

    fn manifest(job: JobId, attempt: u32, staged: &Staged) -> Manifest {
        Manifest {
            job,
            attempt,
            worker: WorkerId::try_from("w".to_owned()).unwrap(),
            at: jiff::Timestamp::UNIX_EPOCH,
            version: "0".to_owned(),
            tool: "none".to_owned(),
            arguments: Vec::new(),
            steps: Vec::new(),
            prober: None,
            sandbox: Vec::new(),
            device: None,
            fallback: None,
            engine: None,
            checker: None,
            source_probe: None,
            chunks: Vec::new(),
            artifacts: vec![Artifact {
                name: None,
                files: Vec::new(),
                renditions: Vec::new(),
                pictures: None,
                proof: None,
                quality: None,
                url: String::new(),
                size_bytes: staged.size_bytes,
                sha256: staged.sha256.clone(),
                probe: Probe::default(),
            }],
            source: None,
            usage: Usage::default(),
            live: None,
        }
    }

    struct Bench {
        dir: tempfile::TempDir,
        job: JobId,
        scratch: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                dir: tempfile::tempdir().unwrap(),
                job: JobId(uuid::Uuid::new_v4()),
                scratch: tempfile::tempdir().unwrap(),
            }
        }

        fn whose(&self, attempt: u32) -> Whose {
            Whose { job: self.job, attempt, number: 0 }
        }

        fn output(&self) -> PathBuf {
            self.dir.path().join("out.mp4")
        }

        fn staged(&self, attempt: u32, text: &str) -> Staged {
            let made = self.dir.path().join("made");
            fs::write(&made, text).unwrap();
            self.stage(&made, attempt, GO_ON).unwrap()
        }

        fn stage(&self, made: &Path, attempt: u32, is_stopped: &dyn Fn() -> bool) -> Result<Staged, PublishError> {
            let notes = Notes::open(self.scratch.path()).unwrap();
            stage(made, &self.output(), self.whose(attempt), &notes, is_stopped)
        }

        fn publish(&self, attempt: u32, text: &str) -> Published {
            let staged = self.staged(attempt, text);
            let manifest = manifest(self.job, attempt, &staged);
            publish(vec![(staged, self.output())], &manifest).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_published_file_is_whole_has_its_manifest_and_leaves_nothing_else() {
        let bench = Bench::new();
        assert_eq!(bench.publish(1, "abc"), Published::Done);
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "abc");
        assert_eq!(bench.names(), ["out.mp4", "out.mp4.ffpool.json"]);
        assert_eq!(fs::metadata(bench.output()).unwrap().mode() & 0o777, MODE);
        let found = find_published(&bench.output(), None, bench.job, GO_ON).unwrap();
        assert_eq!(found.artifacts[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_earlier_attempt_never_replaces_a_later_one() {
        let bench = Bench::new();
        assert_eq!(bench.publish(3, "third"), Published::Done);
        assert_eq!(bench.publish(2, "second"), Published::Lost);
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "third");
        assert_eq!(bench.publish(4, "fourth"), Published::Done);
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "fourth");
        assert_eq!(bench.names(), ["out.mp4", "out.mp4.ffpool.json"]);
    }

    #[test]
    fn an_attempt_that_sees_a_later_one_about_to_publish_leaves_the_name_to_it() {
        let bench = Bench::new();
        assert_eq!(bench.publish(1, "first"), Published::Done);
        let later = bench.staged(3, "third");
        // It has renamed its output, and is frozen before it renames its manifest.
        let _proof = write_part(&bench.output(), bench.whose(3), &manifest(bench.job, 3, &later)).unwrap();
        fs::rename(&later.part.path, bench.output()).unwrap();
        assert_eq!(bench.publish(2, "second"), Published::Lost);
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "third");
    }

    #[test]
    fn a_manifest_that_finds_no_place_takes_the_output_back() {
        for there in [None, Some("old")] {
            let bench = Bench::new();
            if let Some(text) = there {
                fs::write(bench.output(), text).unwrap();
            }
            fs::create_dir(manifest_path(&bench.output())).unwrap();
            let staged = bench.staged(1, "new");
            let manifest = manifest(bench.job, 1, &staged);
            let error = publish(vec![(staged, bench.output())], &manifest).unwrap_err();
            assert!(error.to_string().contains("manifest"), "{error}");
            assert_eq!(fs::read_to_string(bench.output()).ok().as_deref(), there);
            assert!(bench.names().iter().all(|name| !name.starts_with('.')), "{:?}", bench.names());
        }
    }

    #[test]
    fn several_outputs_are_published_together_or_not_at_all() {
        for blocked in [false, true] {
            let bench = Bench::new();
            let outputs = ["a.mp4", "b.mp4", "c.mp4"].map(|name| bench.dir.path().join(name));
            fs::write(&outputs[0], "old").unwrap();
            if blocked {
                fs::create_dir(manifest_path(&outputs[2])).unwrap();
            }
            let notes = Notes::open(bench.scratch.path()).unwrap();
            let staged: Vec<_> = (0u32..)
                .zip(&outputs)
                .map(|(number, output)| {
                    let made = bench.dir.path().join("made");
                    fs::write(&made, format!("new {number}")).unwrap();
                    let whose = Whose { number, ..bench.whose(1) };
                    (stage(&made, output, whose, &notes, GO_ON).unwrap(), output.clone())
                })
                .collect();
            let manifest = manifest(bench.job, 1, &staged[0].0);
            let published = publish(staged, &manifest);
            let texts = outputs.each_ref().map(|output| fs::read_to_string(output).ok());
            if blocked {
                published.unwrap_err();
                assert_eq!(texts, [Some("old".to_owned()), None, None]);
                assert_eq!(bench.names(), ["a.mp4", "c.mp4.ffpool.json"], "nothing else is left");
            } else {
                assert_eq!(published.unwrap(), Published::Done);
                assert_eq!(texts, [0, 1, 2].map(|number| Some(format!("new {number}"))));
                assert_eq!(bench.names().len(), 6, "{:?}", bench.names());
            }
        }
    }

    #[test]
    fn another_job_s_output_is_replaced() {
        let mut bench = Bench::new();
        assert_eq!(bench.publish(9, "old"), Published::Done);
        bench.job = JobId(uuid::Uuid::new_v4());
        assert_eq!(bench.publish(1, "new"), Published::Done);
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "new");
    }

    #[test]
    fn a_changed_or_foreign_file_is_not_taken_for_published() {
        let bench = Bench::new();
        assert_eq!(bench.publish(1, "abc"), Published::Done);
        assert!(find_published(&bench.output(), None, JobId(uuid::Uuid::new_v4()), GO_ON).is_none());
        fs::write(bench.output(), "abd").unwrap();
        assert!(find_published(&bench.output(), None, bench.job, GO_ON).is_none());
    }

    #[test]
    fn what_an_earlier_attempt_left_half_done_is_deleted() {
        let bench = Bench::new();
        std::mem::forget(bench.staged(1, "half"));
        assert_eq!(bench.names(), [format!(".ffpool-{}.1.part", bench.job)]);
        drop(bench.staged(2, "again"));
        assert_eq!(bench.names(), Vec::<String>::new());
    }

    #[test]
    fn a_file_made_on_another_file_system_is_copied() {
        let bench = Bench::new();
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let made = elsewhere.path().join("made");
        fs::write(&made, "x".repeat(3 * CHUNK / 2)).unwrap();
        let staged = bench.stage(&made, 1, GO_ON).unwrap();
        let manifest = manifest(bench.job, 1, &staged);
        assert_eq!(publish(vec![(staged, bench.output())], &manifest).unwrap(), Published::Done);
        assert_eq!(fs::read(bench.output()).unwrap(), fs::read(&made).unwrap());
        assert_eq!(bench.names(), ["out.mp4", "out.mp4.ffpool.json"]);
    }

    #[test]
    fn a_link_is_no_output_of_a_tool() {
        let bench = Bench::new();
        let secret = bench.dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let made = bench.dir.path().join("made");
        std::os::unix::fs::symlink(&secret, &made).unwrap();
        assert!(bench.stage(&made, 1, GO_ON).is_err());
        fs::remove_file(&made).unwrap();
        fs::hard_link(&secret, &made).unwrap();
        assert!(matches!(bench.stage(&made, 1, GO_ON), Err(PublishError::NoPlainFile { .. })));
    }

    #[test]
    fn a_stop_ends_the_staging() {
        let bench = Bench::new();
        let made = bench.dir.path().join("made");
        fs::write(&made, "x").unwrap();
        assert!(matches!(bench.stage(&made, 1, &|| true), Err(PublishError::Stopped)));
        assert_eq!(bench.names(), Vec::<String>::new());
    }
}
