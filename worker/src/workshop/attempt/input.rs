//! An input that is read in place, held against what the job says that it is.
//!
//! Invariant: what the job says of the size is settled before a byte is read, and what it says of the checksum before a tool
//! runs. Whether the file was changed after that is looked up when an encode ends, see [`unchanged`](super::unchanged).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ffpool_schema::failure::Cause;
use ffpool_schema::message::{Phase, Progress, SourceIdentity, hex};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::ends::REPORT;
use super::{Attempt, End, blocking};
use crate::roots::io_cause;
use crate::store::stated::Stated;

/// Bytes that are read before somebody looks up whether the attempt is to stand still or to end.
const STEP: u64 = 32 << 20;
/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

impl Attempt<'_> {
    /// Reads a file to its end where the job says what its sha256 is, and notes it as what the source is.
    pub(super) async fn check_in_place(&mut self, path: &Path, identity: &mut SourceIdentity) -> Result<(), End> {
        let stated = Stated::of(&self.grant.spec);
        stated.check_size(identity.size_bytes)?;
        // A chunk is named by the path, the size and the date of the file that the attempt before it has read: with any other it
        // is not made. So the file is not read once for each chunk.
        if stated.sha256.is_none() || self.grant.spec.piece.is_some() {
            return Ok(());
        }
        let started = Instant::now();
        let sha256 = self.hash_in_place(path).await?;
        let secs = started.elapsed().as_secs_f64();
        self.reporter.log(&format!("[ffpool] read the input in {secs:.1} s, sha256 {sha256}"));
        stated.check_sha256(&sha256, "the file's sha256")?;
        identity.sha256 = Some(sha256);
        Ok(())
    }

    async fn hash_in_place(&mut self, path: &Path) -> Result<String, End> {
        let unread = |error: io::Error| {
            End::failure(io_cause(&error), format!("{} cannot be read for its sha256: {error}", path.display()))
        };
        let mut reading = Reading::open(path).map_err(unread)?;
        let mut reported = Instant::now();
        while !reading.is_done {
            self.stand_still().await;
            if let Some(stop) = self.orders.stop.borrow().clone() {
                return Err(stop.into());
            }
            if Instant::now() >= self.deadline() {
                return Err(End::failure(
                    Cause::Timeout,
                    "the attempt's time was over before its input was read for its sha256",
                ));
            }
            reading = blocking(move || reading.go_on()).await?.map_err(unread)?;
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                let size_bytes = Some(reading.length);
                self.reporter.send(Progress { size_bytes, ..self.reporter.blank(Phase::Prepare) });
            }
        }
        Ok(hex(&reading.hash.finalize()))
    }
}

/// A file as far as it has been read.
struct Reading {
    file: File,
    hash: Sha256,
    length: u64,
    buffer: Vec<u8>,
    is_done: bool,
}

impl Reading {
    fn open(path: &Path) -> io::Result<Reading> {
        let file = File::open(path)?;
        Ok(Reading { file, hash: Sha256::new(), length: 0, buffer: vec![0; BUFFER], is_done: false })
    }

    /// Reads on for one step.
    fn go_on(mut self) -> io::Result<Reading> {
        let until = self.length + STEP;
        while self.length < until && !self.is_done {
            match self.file.read(&mut self.buffer) {
                Ok(0) => self.is_done = true,
                Ok(read) => {
                    self.hash.update(&self.buffer[..read]);
                    self.length += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_steps_to_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(STEP + 1).unwrap();
        let first = Reading::open(file.path()).unwrap().go_on().unwrap();
        assert_eq!((first.length, first.is_done), (STEP, false));
        let second = first.go_on().unwrap();
        assert_eq!((second.length, second.is_done), (STEP + 1, true));
        let zeros = vec![0; BUFFER];
        let mut whole = Sha256::new();
        (0..STEP / BUFFER as u64).for_each(|_| whole.update(&zeros));
        whole.update([0]);
        assert_eq!(hex(&second.hash.finalize()), hex(&whole.finalize()));
    }
}
