//! Parts that lie beside outputs: whose they are, and how those are found whose attempt is over.
//!
//! A worker notes in its scratch what it is about to put beside an output, and its next life deletes what the notes of the
//! life before name: nobody else has the same attempt. What a worker left that never comes back is deleted by whoever
//! publishes into the same directory, once it is old.
//!
//! Invariant: no part of a living attempt is deleted. One of another worker is kept while it is young or locked; the lock
//! ends with the process that holds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ffpool_schema::id::JobId;

use super::tree;

/// How the name of a file ends that is to be the output.
pub(super) const DATA: &str = "part";
/// The same of its manifest.
pub(super) const PROOF: &str = "json.part";
/// The same of a directory of segments.
pub(super) const TREE: &str = "tree";
/// How the name of a note ends.
const NOTE: &str = "staged";
/// A part of another job that has not been touched for so long is old.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Whose a part is: an output of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Which of the job's outputs, from 0: several may lie in one directory.
    pub number: u32,
}

impl Whose {
    /// How names begin that are its own. The first output's have no number, as they had before there were more.
    pub(super) fn stem(self) -> String {
        let Whose { job, attempt, number } = self;
        if number == 0 { format!("{job}.{attempt}") } else { format!("{job}.{attempt}.{number}") }
    }

    /// Whose such a name is.
    pub(super) fn of_stem(stem: &str) -> Option<Whose> {
        parse(&format!(".ffpool-{stem}.{TREE}")).map(|name| name.whose)
    }
}

/// Where an attempt puts a part of its output.
pub(super) fn path(output: &Path, whose: Whose, suffix: &str) -> PathBuf {
    output.with_file_name(format!(".ffpool-{}.{suffix}", whose.stem()))
}

/// What the name of a part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) whose: Whose,
    pub(super) suffix: &'static str,
}

/// The parts where an output goes, of any job.
pub(super) fn beside(output: &Path) -> impl Iterator<Item = (PathBuf, Name)> {
    let entries = output.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), parse(entry.file_name().to_str()?)?)))
}

fn parse(name: &str) -> Option<Name> {
    let mut fields = name.strip_prefix(".ffpool-")?.splitn(3, '.');
    let (job, attempt, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let (number, rest) = match rest.split_once('.') {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => (number.parse().ok()?, rest),
        Some(_) | None => (0, rest),
    };
    let suffix = [DATA, PROOF, TREE].into_iter().find(|suffix| *suffix == rest)?;
    Some(Name { whose: Whose { job: job.parse().ok()?, attempt: attempt.parse().ok()?, number }, suffix })
}

/// Deletes, where an output goes, the parts of the job's earlier attempts, what an earlier life left of this one, and old
/// ones of jobs whose worker is gone.
pub(super) fn clear_beside(output: &Path, ours: Whose) {
    for (path, Name { whose, .. }) in beside(output) {
        let is_over = if whose.job == ours.job {
            whose.attempt < ours.attempt || whose == ours
        } else {
            is_old(&path) && is_unlocked(&path)
        };
        if is_over {
            let _ = tree::remove(&path);
        }
    }
}

fn is_old(part: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(part) else { return false };
    let touched = u64::try_from(metadata.mtime().max(metadata.ctime())).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    !metadata.is_symlink() && now.saturating_sub(Duration::from_secs(touched)) > OLD
}

fn is_unlocked(part: &Path) -> bool {
    File::open(part).is_ok_and(|file| file.try_lock().is_ok())
}

/// Says to every other worker that the part is in use, until the file is closed. Best effort: not every file system has
/// locks, and there the age alone protects it.
pub(super) fn claim(part: &File) {
    let _ = part.try_lock();
}

/// The notes of one worker. Only the holder of its scratch's lock may open them.
#[derive(Debug)]
pub struct Notes {
    scratch: PathBuf,
    /// Of an earlier life, still to be followed.
    left: Mutex<Vec<PathBuf>>,
}

impl Notes {
    /// The notes in `scratch`. What is there already was left by an earlier life.
    ///
    /// # Errors
    /// When the scratch cannot be read.
    pub fn open(scratch: &Path) -> io::Result<Notes> {
        let paths = fs::read_dir(scratch)?.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<io::Result<Vec<_>>>()?;
        let left = paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == NOTE)).collect();
        Ok(Notes { scratch: scratch.to_owned(), left: Mutex::new(left) })
    }

    /// Deletes what the earlier life left beside outputs. What cannot be reached now is tried again at the next call.
    pub fn follow(&self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).retain(|note| match follow(note) {
            Ok(()) => false,
            Err(error) => {
                tracing::debug!(note = %note.display(), %error, "a part of an earlier life cannot be deleted yet");
                true
            }
        });
    }

    /// Notes that parts of an attempt are going to lie beside `output`. Best effort: without a note, as on a full disk, they
    /// are found by their age.
    pub(super) fn write(&self, output: &Path, whose: Whose) -> Note {
        let note = Note { path: self.scratch.join(format!("{}.{NOTE}", whose.stem())) };
        if let Err(error) = fs::write(&note.path, output.as_os_str().as_bytes()) {
            tracing::debug!(job = %whose.job, attempt = whose.attempt, %error, "what lies beside the output is not noted");
        }
        note
    }
}

/// A note, taken back on drop.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Deletes the parts that a note names, then the note.
fn follow(note: &Path) -> io::Result<()> {
    let output = PathBuf::from(std::ffi::OsString::from_vec(fs::read(note)?));
    let name = note.file_stem().and_then(|stem| parse(&format!(".ffpool-{}.{DATA}", stem.to_str()?)));
    if let Some(Name { whose, .. }) = name {
        let Whose { job, attempt, .. } = whose;
        // A root that is not mounted is not there, and what is in it not gone.
        output.parent().map_or(Ok(()), |directory| directory.metadata().map(drop))?;
        for suffix in [DATA, PROOF, TREE] {
            let part = path(&output, whose, suffix);
            if part.symlink_metadata().is_ok() {
                tree::remove(&part)?;
                tracing::info!(%job, attempt, output = %output.display(), "deleted what an earlier life left");
            }
        }
    }
    fs::remove_file(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    fn whose(number: u128, attempt: u32) -> Whose {
        Whose { job: job(number), attempt, number: 0 }
    }

    /// Makes a part seem `days` old.
    fn age(part: &Path, days: u64) -> bool {
        File::options()
            .write(true)
            .open(part)
            .unwrap()
            .set_modified(SystemTime::now() - OLD * u32::try_from(days).unwrap())
            .unwrap();
        // Its last change is now, whatever we set: the age is judged by both.
        is_old(part)
    }

    #[test]
    fn what_an_earlier_life_noted_is_deleted_and_what_this_one_notes_stays() {
        let place = tempfile::tempdir().unwrap();
        let (scratch, media) = (place.path().join("scratch"), place.path().join("media"));
        fs::create_dir(&scratch).unwrap();
        fs::create_dir(&media).unwrap();
        let output = media.join("out.mp4");
        let part = |attempt| path(&output, whose(1, attempt), DATA);
        let earlier = Notes::open(&scratch).unwrap();
        std::mem::forget(earlier.write(&output, whose(1, 1)));
        fs::write(part(1), "half").unwrap();
        fs::write(path(&output, whose(1, 1), PROOF), "{}").unwrap();

        let notes = Notes::open(&scratch).unwrap();
        let _living = notes.write(&output, whose(1, 2));
        fs::write(part(2), "ours").unwrap();
        // The root is away for a while.
        fs::rename(&media, place.path().join("away")).unwrap();
        notes.follow();
        fs::rename(place.path().join("away"), &media).unwrap();
        assert!(part(1).exists());
        notes.follow();
        let names: Vec<PathBuf> = beside(&output).map(|(path, _)| path).collect();
        assert_eq!(names, [part(2)]);
        let left: Vec<_> = fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("{}.2.staged", job(1)).as_str()]);
    }

    #[test]
    fn a_part_of_another_job_is_kept_while_it_is_young_or_locked() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("out.mp4");
        let (ours, foreign) = (path(&output, whose(1, 1), DATA), path(&output, whose(2, 9), DATA));
        let sibling = path(&output, Whose { number: 1, ..whose(1, 2) }, DATA);
        fs::write(&ours, "ours").unwrap();
        fs::write(&foreign, "foreign").unwrap();
        fs::write(&sibling, "the attempt's other output").unwrap();
        clear_beside(&output, whose(1, 2));
        assert!(!ours.exists() && foreign.exists() && sibling.exists());
        assert!(!age(&foreign, 3), "touched just now");
        let holder = File::open(&foreign).unwrap();
        claim(&holder);
        assert!(!is_unlocked(&foreign));
        drop(holder);
        assert!(is_unlocked(&foreign));
    }

    #[test]
    fn names_that_are_no_parts_are_left_alone() {
        let id = job(7);
        let name = |text: &str| parse(text).map(|Name { whose, suffix }| (whose.attempt, whose.number, suffix));
        assert_eq!(name(&format!(".ffpool-{id}.3.json.part")), Some((3, 0, PROOF)));
        assert_eq!(name(&format!(".ffpool-{id}.3.part")), Some((3, 0, DATA)));
        for (number, suffix) in [(2, DATA), (11, PROOF)] {
            let output = path(Path::new("/m/out.mp4"), Whose { job: id, attempt: 3, number }, suffix);
            assert_eq!(name(output.file_name().unwrap().to_str().unwrap()), Some((3, number, suffix)));
        }
        for other in [
            "out.mp4",
            ".ffpool-x.1.part",
            &format!(".ffpool-{id}.1.mp4"),
            &format!(".ffpool-{id}.1.x.part"),
            &format!("ffpool-{id}.1.part"),
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
