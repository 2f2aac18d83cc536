//! Where chunks lie: one directory for each source, beside the output or where the settings say; and when they are
//! forgotten.
//!
//! Invariant: a chunk is there when its file and its manifest are, as one says of the other; both appear under their names
//! whole, as every output does. What is lost here is made again, never missed.
//!
//! Everything here blocks: call it from a thread that may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use ffpool_schema::chunk::Cuts;
use ffpool_schema::message::{Artifact, Manifest};
use uuid::Uuid;

use crate::publish::{self, manifest_path};

/// The directory beside outputs.
const BESIDE: &str = ".ffpool-chunks";
const CUTS: &str = "cuts.json";
const USELESS: &str = "useless";
/// Seconds of source above which an encode is made in chunks.
const ABOVE_SECS: u64 = 600;
/// Seconds of source in a chunk.
const TARGET_SECS: u64 = 30;
/// Hours for which chunks are kept: a week.
const KEEP_HOURS: u64 = 168;
/// The largest list of cuts that is read.
const CUTS_BYTES: u64 = 16 << 20;

/// Long encodes in chunks.
#[derive(Debug, Clone, Args)]
pub struct ChunkArgs {
    /// Seconds of source above which an encode is made in chunks, unless its job says otherwise. 0: only where a job insists.
    #[arg(long, env = "FFPOOL_CHUNK_ABOVE_SECS", value_name = "SECONDS", default_value_t = ABOVE_SECS)]
    pub chunk_above_secs: u64,
    /// Seconds of source in a chunk, roughly: it is cut at a key frame nearby.
    #[arg(long, env = "FFPOOL_CHUNK_TARGET_SECS", value_name = "SECONDS", default_value_t = TARGET_SECS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub chunk_target_secs: u64,
    /// Directory for chunks, the same for all workers. Default: a hidden directory beside each output.
    #[arg(long, env = "FFPOOL_CHUNK_STORE", value_name = "DIR")]
    pub chunk_store: Option<PathBuf>,
    /// Hours after which chunks that nobody has added to are deleted.
    #[arg(long, env = "FFPOOL_CHUNK_KEEP_HOURS", value_name = "HOURS", default_value_t = KEEP_HOURS, value_parser = clap::value_parser!(u64).range(1..))]
    pub chunk_keep_hours: u64,
}

impl Default for ChunkArgs {
    fn default() -> ChunkArgs {
        ChunkArgs {
            chunk_above_secs: ABOVE_SECS,
            chunk_target_secs: TARGET_SECS,
            chunk_store: None,
            chunk_keep_hours: KEEP_HOURS,
        }
    }
}

/// The chunks of one source.
#[derive(Debug, Clone)]
pub struct Chunks {
    directory: PathBuf,
}

impl Chunks {
    /// Those in `store`, or beside an output file; made if need be. `source` names the source, see
    /// [`ffpool_schema::chunk::directory`].
    ///
    /// # Errors
    /// When the directory cannot be made, or is none of ours.
    pub fn open(store: Option<&Path>, output: &Path, source: &str) -> io::Result<Chunks> {
        let directory = place(store, output, source);
        make(&directory)?;
        Ok(Chunks { directory })
    }

    /// Where a chunk is, or is to be: its file for the job's output of this place.
    #[must_use]
    pub fn path(&self, key: &str, output: usize) -> PathBuf {
        self.directory.join(if output == 0 { format!("{key}.mp4") } else { format!("{key}.{output}.mp4") })
    }

    /// The manifest of a chunk that is there with a file for each of so many outputs; `may_be_sound`: it need not have frames.
    #[must_use]
    pub fn find(&self, key: &str, outputs: usize, may_be_sound: bool) -> Option<Manifest> {
        let manifest = publish::read_manifest(&self.path(key, 0))?;
        let is_there = |(output, artifact): (usize, &Artifact)| {
            let size =
                self.path(key, output).symlink_metadata().ok().filter(fs::Metadata::is_file).map(|file| file.len());
            size == Some(artifact.size_bytes) && (may_be_sound || frames(&manifest, output).is_some())
        };
        let are_there = manifest.artifacts.len() == outputs && manifest.artifacts.iter().enumerate().all(is_there);
        are_there.then_some(manifest)
    }

    /// Whether a chunk is what its manifest says, byte by byte. One that is not is deleted.
    ///
    /// # Errors
    /// When it cannot be read, or `is_stopped` says so on the way.
    pub fn is_sound(
        &self,
        key: &str,
        manifest: &Manifest,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool, publish::PublishError> {
        for (output, artifact) in manifest.artifacts.iter().enumerate() {
            let path = self.path(key, output);
            let sha256 = match publish::hash(&path, is_stopped) {
                Err(publish::PublishError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
                hashed => Some(hashed?),
            };
            if sha256.as_ref() != Some(&artifact.sha256) {
                tracing::warn!(path = %path.display(), "a chunk is not what its manifest says: it is made again");
                self.delete(key);
                return Ok(false);
            }
        }
        Ok(!manifest.artifacts.is_empty())
    }

    /// Where the source is cut, once somebody has decided it.
    #[must_use]
    pub fn cuts(&self) -> Option<Cuts> {
        let mut text = Vec::new();
        let (file, _) = publish::open_made(&self.directory.join(CUTS)).ok()?;
        file.take(CUTS_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok().filter(Cuts::are_sound)
    }

    /// Settles where the source is cut, for every attempt at every encode of it. Answers what holds: whoever is first decides.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settle_cuts(&self, cuts: Cuts) -> io::Result<Cuts> {
        let text = serde_json::to_vec(&cuts).map_err(io::Error::other)?;
        match self.write(CUTS, &text) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(self.cuts().unwrap_or(cuts)),
            written => written.map(|()| cuts),
        }
    }

    /// Why the source's chunks are of no use: something that only making them could show.
    #[must_use]
    pub fn useless(&self) -> Option<String> {
        let mut text = String::new();
        File::open(self.directory.join(USELESS)).ok()?.take(CUTS_BYTES).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    }

    /// Has the source encoded whole from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_useless(&self, why: &str) -> io::Result<()> {
        match self.write(USELESS, format!("{why}\n").as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            written => written,
        }
    }

    /// Puts a whole file under a name that is free.
    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let part = self.directory.join(format!(".{name}.{}.part", Uuid::new_v4().as_simple()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&part)?;
            file.write_all(text)?;
            file.sync_all()?;
            // A link fails where the name is taken; a rename would take it away from whoever relies on it.
            fs::hard_link(&part, self.directory.join(name))?;
            File::open(&self.directory)?.sync_all()
        };
        let written = write();
        let _ = fs::remove_file(&part);
        written
    }

    /// Deletes chunks that are part of a published output by now, and the directory with the last of them.
    pub fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        for key in keys {
            self.delete(key);
        }
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        // Chunks of another encode of the source rely on its cuts.
        if entries.into_iter().all(|entry| entry.file_name() == CUTS) {
            let _ = fs::remove_file(self.directory.join(CUTS));
            unmake(&self.directory);
        }
    }

    fn delete(&self, key: &str) {
        for output in 0.. {
            let path = self.path(key, output);
            let mut is_there = false;
            for path in [manifest_path(&path), path] {
                match fs::remove_file(&path) {
                    Ok(()) => is_there = true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::warn!(path = %path.display(), %error, "cannot delete a chunk"),
                }
            }
            // The first may be gone before the others are.
            if output > 0 && !is_there {
                break;
            }
        }
    }

    /// Deletes what other sources left beside these, once nothing was added to it for `keep`.
    pub fn sweep_beside(&self, keep: Duration) {
        sweep_beside(&self.directory, keep);
    }
}

/// Where something that is kept for later attempts has its directory: in a store, or in the hidden one beside an output.
pub(crate) fn place(store: Option<&Path>, output: &Path, name: &str) -> PathBuf {
    match store {
        Some(store) => store.join(name),
        None => output.parent().unwrap_or(Path::new("/")).join(BESIDE).join(name),
    }
}

/// Makes such a directory.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    let root = directory.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(root)?;
    refuse_links(directory)?;
    fs::create_dir_all(directory)
}

/// Whoever may write beside outputs could lead us elsewhere. A store that the settings name may well be a link.
pub(crate) fn refuse_links(directory: &Path) -> io::Result<()> {
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let root = directory.parent().unwrap_or(Path::new("/"));
    let is_ours = |path: &&Path| *path == directory || path.ends_with(BESIDE);
    match [root, directory].into_iter().filter(is_ours).find(|path| is_link(path)) {
        Some(link) => {
            let link = link.display();
            let message = format!("{link} is a link: chunks and recordings are kept in plain directories; remove it");
            Err(io::Error::other(message))
        }
        None => Ok(()),
    }
}

/// Deletes such a directory when it is empty, and the hidden one with the last of them.
pub(crate) fn unmake(directory: &Path) {
    let _ = fs::remove_dir(directory);
    if let Some(root) = directory.parent().filter(|root| root.ends_with(BESIDE)) {
        let _ = fs::remove_dir(root);
    }
}

/// Deletes what lies beside such a directory, once nothing was added to it for `keep`.
pub(crate) fn sweep_beside(directory: &Path, keep: Duration) {
    let entries = directory.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path != directory) {
        let is_ours = path.file_name().is_some_and(|name| {
            let name = name.as_encoded_bytes();
            name.len() == 32 && name.iter().all(u8::is_ascii_hexdigit)
        });
        if is_ours && is_untouched(&path, keep) {
            tracing::info!(path = %path.display(), "deleting what nobody has added to for long");
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete what is kept for later attempts");
            }
        }
    }
}

/// Whether this is a plain directory in which nothing has appeared for so long.
fn is_untouched(directory: &Path, keep: Duration) -> bool {
    let Ok(metadata) = directory.symlink_metadata() else { return false };
    let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    metadata.is_dir() && age.is_some_and(|age| age >= keep)
}

/// Frames of a chunk for the job's output of this place, counted when it was made.
#[must_use]
pub fn frames(manifest: &Manifest, output: usize) -> Option<u64> {
    manifest.artifacts.get(output)?.proof.as_ref()?.frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::chunk::Micros;
    use ffpool_schema::id::{JobId, WorkerId};
    use ffpool_schema::message::{Probe, Proof, Usage};

    fn cuts(frames: u64) -> Cuts {
        let (begin, end, left) = (None, None, 0);
        Cuts { start: Micros(0), first: Micros(0), frames, fps: Some(25.0), seams: Vec::new(), begin, end, left }
    }

    fn put(chunks: &Chunks, key: &str, text: &str, sha256: &str) {
        let path = chunks.path(key, 0);
        fs::write(&path, text).unwrap();
        let manifest = Manifest {
            job: JobId(Uuid::nil()),
            attempt: 1,
            worker: WorkerId::try_from("w".to_owned()).unwrap(),
            at: jiff::Timestamp::UNIX_EPOCH,
            version: "0".to_owned(),
            tool: "ffmpeg".to_owned(),
            arguments: Vec::new(),
            steps: Vec::new(),
            prober: None,
            artifacts: vec![Artifact {
                name: None,
                files: Vec::new(),
                renditions: Vec::new(),
                pictures: None,
                url: "file:///x".to_owned(),
                size_bytes: text.len() as u64,
                sha256: sha256.to_owned(),
                probe: Probe::default(),
                proof: Some(Proof { frames: Some(7), ..Proof::default() }),
                quality: None,
            }],
            source: None,
            source_probe: None,
            chunks: Vec::new(),
            live: None,
            sandbox: Vec::new(),
            device: None,
            fallback: None,
            engine: None,
            checker: None,
            usage: Usage::default(),
        };
        fs::write(manifest_path(&path), serde_json::to_vec(&manifest).unwrap()).unwrap();
    }

    #[test]
    fn a_chunk_is_there_with_its_manifest_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("out.mp4");
        let chunks = Chunks::open(None, &output, &"ab".repeat(16)).unwrap();
        // printf abc | sha256sum
        put(&chunks, "a", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        put(&chunks, "b", "abd", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        fs::write(chunks.path("c", 0), "half").unwrap();
        assert!(chunks.find("c", 1, false).is_none() && chunks.find("d", 1, false).is_none());
        let [a, b] = ["a", "b"].map(|key| chunks.find(key, 1, false).unwrap());
        assert!(chunks.is_sound("a", &a, &|| false).unwrap());
        assert!(!chunks.is_sound("b", &b, &|| false).unwrap());
        assert!(chunks.find("b", 1, false).is_none() && !chunks.path("b", 0).exists(), "it is to be made again");
        fs::write(chunks.path("a", 0), "abcd").unwrap();
        assert!(chunks.find("a", 1, false).is_none());
    }

    #[test]
    fn whoever_is_first_decides_where_a_source_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("out.mp4");
        let chunks = Chunks::open(None, &output, &"ab".repeat(16)).unwrap();
        assert_eq!(chunks.cuts(), None);
        assert_eq!(chunks.settle_cuts(cuts(5)).unwrap().frames, 5);
        assert_eq!(chunks.settle_cuts(cuts(6)).unwrap().frames, 5);
        assert_eq!(chunks.cuts().unwrap().frames, 5);
        assert_eq!(chunks.useless(), None);
        chunks.mark_useless("its frames do not decode").unwrap();
        chunks.mark_useless("something else").unwrap();
        assert_eq!(chunks.useless().as_deref(), Some("its frames do not decode"));
    }

    #[test]
    fn nothing_is_left_after_the_last_chunk_and_what_is_forgotten_goes_with_time() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("out.mp4");
        let chunks = Chunks::open(None, &output, &"ab".repeat(16)).unwrap();
        chunks.settle_cuts(cuts(5)).unwrap();
        for key in ["a", "b"] {
            put(&chunks, key, "abc", "");
        }
        chunks.forget(["a"]);
        assert!(
            chunks.find("b", 1, false).is_some() && chunks.cuts().is_some(),
            "another encode of the source goes on"
        );
        let other = Chunks::open(None, &output, &"cd".repeat(16)).unwrap();
        other.sweep_beside(Duration::from_secs(3600));
        assert!(chunks.find("b", 1, false).is_some());
        fs::create_dir(directory.path().join(BESIDE).join("mine")).unwrap();
        other.sweep_beside(Duration::ZERO);
        assert!(chunks.find("b", 1, false).is_none() && other.directory.exists());
        fs::remove_dir(directory.path().join(BESIDE).join("mine")).unwrap();
        other.forget([]);
        assert!(!directory.path().join(BESIDE).exists());
    }

    #[test]
    fn a_link_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), directory.path().join(BESIDE)).unwrap();
        assert!(Chunks::open(None, &directory.path().join("out.mp4"), &"ab".repeat(16)).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
