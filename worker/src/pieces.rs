//! Where the pieces of a live recording lie from one attempt to the next: a directory for each job, where chunks are kept
//! too, and the index that says which of them count.
//!
//! Invariant: a piece appears under its name whole, and its run is in the index of its attempt before it. Names bear the
//! attempt, so no two attempts write to one. The newest index fixes what counts of the attempts before it: an attempt that
//! lost its lease may go on writing, and nobody counts it. Only one that was handed over may add to what it had.
//!
//! Everything here blocks: call it from a thread that may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use serde::{Deserialize, Serialize};

use crate::chunks;
use crate::publish::{delete_if_there, open_if_made};

/// The largest index that is read: a hundred bytes for each of 100 000 runs, and room for arguments.
const INDEX_BYTES: u64 = 16 << 20;
/// Tries to delete a directory into which an attempt that does not know yet may still write.
const DELETE_TRIES: u32 = 3;

/// A run of the tool, as the index of its recording tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The attempt that recorded it.
    pub attempt: u32,
    /// Its number in that attempt.
    pub run: u32,
    /// When its media began, in seconds since 1970 by that worker's clock.
    pub begins: f64,
    /// Seconds of media, as far as was known when the index was written.
    pub secs: f64,
    /// When the index was written: what its pieces hold was there by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// By what it ended, where that is known; a cause that only a newer worker knows is `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// How many of its pieces count.
    pub pieces: u32,
}

/// What an attempt says of the recording: its own runs, and those before it that count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// All runs in order.
    pub runs: Vec<Run>,
    /// How the first of them was made, secrets taken out.
    pub arguments: Vec<String>,
    /// Whether the attempt was handed over, so that what it recorded after that counts as well.
    #[serde(default)]
    pub is_handed_over: bool,
}

/// The pieces of one job's recording, for one attempt at it.
#[derive(Debug)]
pub struct Pieces {
    directory: PathBuf,
    attempt: u32,
    /// Made once: what was forgotten is not made again by an attempt that does not know.
    is_made: bool,
}

impl Pieces {
    /// Those in `store`, or beside an output file. Nothing is made yet.
    #[must_use]
    pub fn at(store: Option<&Path>, output: &Path, job: JobId, attempt: u32) -> Pieces {
        let directory = chunks::place(store, output, &job.0.simple().to_string());
        Pieces { directory, attempt, is_made: false }
    }

    /// What counts of the attempts before this one; nothing where there is nothing.
    ///
    /// # Errors
    /// When it cannot be read, or a piece of it is gone: what is recorded besides could never be joined with it.
    pub fn earlier(&self) -> io::Result<Index> {
        // The first needs no directory that can be read.
        if self.attempt <= 1 {
            return Ok(Index::default());
        }
        chunks::refuse_links(&self.directory)?;
        let there = self.there()?;
        for attempt in there.indexes.iter().rev().filter(|attempt| **attempt < self.attempt) {
            let Some(mut index) = self.index(*attempt)? else { continue };
            for run in &mut index.runs {
                let count = there.count(run);
                if run.attempt == *attempt {
                    run.pieces = count;
                } else if count < run.pieces {
                    return Err(self.missing(run, count));
                }
            }
            // At the end they will be needed.
            self.handed_over(&index.runs)?;
            index.runs.retain(|run| run.pieces > 0);
            return Ok(index);
        }
        Ok(Index::default())
    }

    /// What runs of earlier attempts have gained since they were counted: only those of attempts that were handed over.
    /// Answers which these are.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recount(&self, runs: &mut [Run]) -> io::Result<BTreeSet<u32>> {
        let (there, handed_over) = (self.there()?, self.handed_over(runs)?);
        for run in runs {
            let Some(index) = handed_over.get(&run.attempt) else { continue };
            run.pieces = run.pieces.max(there.count(run));
            let said = index.runs.iter().find(|said| (said.attempt, said.run) == (run.attempt, run.run));
            run.until = said.map_or(run.until, |said| said.until);
        }
        Ok(handed_over.into_keys().collect())
    }

    /// The indexes of those attempts that recorded these runs and were handed over, each read once.
    fn handed_over(&self, runs: &[Run]) -> io::Result<BTreeMap<u32, Index>> {
        let attempts: BTreeSet<u32> = runs.iter().map(|run| run.attempt).collect();
        let mut handed_over = BTreeMap::new();
        for attempt in attempts {
            if let Some(index) = self.index(attempt)?.filter(|index| index.is_handed_over) {
                handed_over.insert(attempt, index);
            }
        }
        Ok(handed_over)
    }

    fn index(&self, attempt: u32) -> io::Result<Option<Index>> {
        let mut text = Vec::new();
        let Some((file, _)) = open_if_made(&self.directory.join(index_name(attempt)))? else { return Ok(None) };
        file.take(INDEX_BYTES).read_to_end(&mut text)?;
        // It appears whole, so this is no accident of ours: what it counts must not be taken for nothing, and deleted.
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let all = self.directory.display();
            let message = format!(
                "the index of attempt {attempt} in {all}: {error}; bring it back, or delete {all} to record anew"
            );
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    fn there(&self) -> io::Result<There> {
        let mut there = There::default();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(there),
            entries => entries?,
        };
        for entry in entries {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            there.take(&name);
        }
        there.indexes.sort_unstable();
        Ok(there)
    }

    /// Says which runs there are. To be said before their pieces are put.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_index(&mut self, index: &Index, keep: Duration) -> io::Result<()> {
        if !self.is_made {
            chunks::make(&self.directory)?;
            chunks::sweep_beside(&self.directory, keep);
            self.is_made = true;
        }
        let text = serde_json::to_vec(index).map_err(io::Error::other)?;
        self.put(&index_name(self.attempt), &mut text.as_slice())
    }

    /// Puts a piece of a run of this attempt into its place, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_piece(&self, run: u32, number: u32, from: &mut impl Read) -> io::Result<()> {
        self.put(&piece_name(self.attempt, run, number), from)
    }

    fn put(&self, name: &str, from: &mut impl Read) -> io::Result<()> {
        let part = self.directory.join(format!(".{name}.part"));
        let mut write = || {
            delete_if_there(&part)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part)?;
            io::copy(from, &mut file)?;
            file.sync_all()?;
            fs::rename(&part, self.directory.join(name))?;
            File::open(&self.directory)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Bytes of all pieces of these runs, unless `is_stopped` says so on the way.
    ///
    /// # Errors
    /// When one is not there; of the kind `Interrupted` when it was stopped.
    pub fn bytes<'r>(&self, runs: impl IntoIterator<Item = &'r Run>, is_stopped: &dyn Fn() -> bool) -> io::Result<u64> {
        let mut sum = 0;
        for run in runs {
            if is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            for number in 0..run.pieces {
                sum += self.open(run, number)?.1;
            }
        }
        Ok(sum)
    }

    /// Puts the pieces of a run together, unless `is_stopped` says so on the way.
    ///
    /// # Errors
    /// When one is not there, or the whole cannot be written; of the kind `Interrupted` when it was stopped.
    pub fn copy(&self, run: &Run, to: &mut File, is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
        for number in 0..run.pieces {
            if is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            io::copy(&mut self.open(run, number)?.0, to)?;
        }
        Ok(())
    }

    fn open(&self, run: &Run, number: u32) -> io::Result<(File, u64)> {
        open_if_made(&self.path(run, number))?.ok_or_else(|| self.missing(run, number))
    }

    fn path(&self, run: &Run, number: u32) -> PathBuf {
        self.directory.join(piece_name(run.attempt, run.run, number))
    }

    fn missing(&self, run: &Run, number: u32) -> io::Error {
        let (piece, all) = (self.path(run, number), self.directory.display());
        let message = format!("the piece {} is gone: bring it back, or delete {all} to record anew", piece.display());
        io::Error::new(io::ErrorKind::NotFound, message)
    }

    /// Deletes all pieces of the job, and its directory.
    ///
    /// # Errors
    /// When they cannot be deleted.
    pub fn forget(&self) -> io::Result<()> {
        chunks::refuse_links(&self.directory)?;
        let mut tries = 1;
        loop {
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < DELETE_TRIES => tries += 1,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => break,
            }
        }
        chunks::unmake(&self.directory);
        Ok(())
    }
}

/// What lies in the directory.
#[derive(Debug, Default)]
struct There {
    /// Attempts that have an index.
    indexes: Vec<u32>,
    /// Numbers of the pieces of each attempt's runs.
    pieces: BTreeMap<(u32, u32), Vec<u32>>,
}

impl There {
    /// Takes a name into account, where it is exactly one that we give.
    fn take(&mut self, name: &str) {
        let attempt = name.strip_suffix(".json").and_then(|number| number.parse().ok());
        if let Some(attempt) = attempt.filter(|attempt| index_name(*attempt) == name) {
            self.indexes.push(attempt);
        }
        let mut numbers = name.strip_suffix(".ts").into_iter().flat_map(|name| name.split('-')).map(str::parse);
        if let (Some(Ok(attempt)), Some(Ok(run)), Some(Ok(number)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            && piece_name(attempt, run, number) == name
        {
            self.pieces.entry((attempt, run)).or_default().push(number);
        }
    }

    /// Pieces of a run that are there without one missing.
    fn count(&self, run: &Run) -> u32 {
        let mut numbers = self.pieces.get(&(run.attempt, run.run)).cloned().unwrap_or_default();
        numbers.sort_unstable();
        let there = (0..).zip(numbers).take_while(|(wanted, number)| wanted == number).count();
        u32::try_from(there).unwrap_or(u32::MAX)
    }
}

fn index_name(attempt: u32) -> String {
    format!("{attempt:06}.json")
}

fn piece_name(attempt: u32, run: u32, number: u32) -> String {
    format!("{attempt:06}-{run:06}-{number:08}.ts")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(3600);

    fn run(attempt: u32, run: u32, pieces: u32) -> Run {
        Run { attempt, run, begins: 1e9 + f64::from(attempt), secs: 10.0, until: None, cause: None, pieces }
    }

    fn index(runs: &[Run]) -> Index {
        Index { runs: runs.to_vec(), arguments: vec!["-i".to_owned()], is_handed_over: false }
    }

    struct Place {
        directory: tempfile::TempDir,
        job: JobId,
    }

    impl Place {
        fn new() -> Place {
            Place { directory: tempfile::tempdir().unwrap(), job: JobId(uuid::Uuid::new_v4()) }
        }

        fn attempt(&self, number: u32) -> Pieces {
            Pieces::at(None, &self.directory.path().join("out.mp4"), self.job, number)
        }
    }

    fn text(pieces: &Pieces, run: &Run) -> String {
        let path = pieces.directory.join("whole");
        pieces.copy(run, &mut File::create(&path).unwrap(), &|| false).unwrap();
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_next_attempt_finds_what_is_whole_and_in_order() {
        let place = Place::new();
        let mut first = place.attempt(1);
        assert_eq!(place.attempt(2).earlier().unwrap(), Index::default());
        first.put_index(&index(&[run(1, 1, 0), run(1, 2, 0), run(1, 3, 0)]), KEEP).unwrap();
        for (of, number, bytes) in [(1, 0, "ab"), (1, 1, "cd"), (2, 0, "ef"), (2, 2, "gone without the one before")] {
            first.put_piece(of, number, &mut bytes.as_bytes()).unwrap();
        }
        fs::write(first.directory.join(".000001-000001-00000002.ts.part"), "half").unwrap();
        let second = place.attempt(2);
        let found = second.earlier().unwrap();
        assert_eq!(found.runs, [run(1, 1, 2), run(1, 2, 1)]);
        assert_eq!(
            (text(&second, &found.runs[0]).as_str(), second.bytes(&found.runs, &|| false).unwrap()),
            ("abcd", 6)
        );
        assert_eq!(first.earlier().unwrap(), Index::default(), "an attempt is not its own past");
    }

    #[test]
    fn what_an_attempt_adds_after_it_was_followed_counts_only_where_it_was_handed_over() {
        let place = Place::new();
        let (mut first, mut second, third) = (place.attempt(1), place.attempt(2), place.attempt(3));
        let mut said = index(&[run(1, 1, 0)]);
        first.put_index(&said, KEEP).unwrap();
        first.put_piece(1, 0, &mut "ab".as_bytes()).unwrap();
        let mut earlier = second.earlier().unwrap();
        second.put_index(&earlier, KEEP).unwrap();
        // It has lost its lease, and does not know.
        first.put_piece(1, 1, &mut "late".as_bytes()).unwrap();
        second.recount(&mut earlier.runs).unwrap();
        assert_eq!(earlier.runs, [run(1, 1, 1)]);
        assert_eq!(third.earlier().unwrap().runs, [run(1, 1, 1)]);

        said.is_handed_over = true;
        said.runs[0].until = Some(1e9 + 20.0);
        first.put_index(&said, KEEP).unwrap();
        assert_eq!(second.recount(&mut earlier.runs).unwrap(), BTreeSet::from([1]));
        assert_eq!(earlier.runs[0].until, Some(1e9 + 20.0));
        assert_eq!((earlier.runs[0].pieces, text(&second, &earlier.runs[0]).as_str()), (2, "ablate"));
    }

    #[test]
    fn a_past_that_cannot_be_read_or_has_a_hole_is_never_taken_for_nothing() {
        let place = Place::new();
        let (mut first, mut second, third) = (place.attempt(1), place.attempt(2), place.attempt(3));
        first.put_index(&index(&[run(1, 1, 0)]), KEEP).unwrap();
        first.put_piece(1, 0, &mut "ab".as_bytes()).unwrap();
        for foreign in ["1.json", "+00003.json", "1-1-1.ts", "000001-+00001-00000001.ts"] {
            fs::write(first.directory.join(foreign), "").unwrap();
        }
        second.put_index(&second.earlier().unwrap(), KEEP).unwrap();
        let path = second.directory.join(index_name(2));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"pieces\"", "\"cause\":\"of_tomorrow\",\"pieces\"")).unwrap();
        assert_eq!(third.earlier().unwrap().runs, [Run { cause: Some(Cause::Unknown), ..run(1, 1, 1) }]);
        fs::remove_file(first.path(&run(1, 1, 0), 0)).unwrap();
        assert_eq!(third.earlier().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, &text[1..]).unwrap();
        assert_eq!(third.earlier().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_is_left_and_nothing_comes_back_once_it_is_forgotten() {
        let place = Place::new();
        let mut first = place.attempt(1);
        first.put_index(&index(&[run(1, 1, 0)]), KEEP).unwrap();
        first.put_piece(1, 0, &mut "ab".as_bytes()).unwrap();
        place.attempt(2).forget().unwrap();
        assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0);
        first.put_piece(1, 1, &mut "late".as_bytes()).unwrap_err();
        first.put_index(&index(&[run(1, 1, 0)]), KEEP).unwrap_err();
        place.attempt(3).forget().unwrap();
        assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0);
    }
}
