//! Writing keys and certificates.
//!
//! Invariant: a reader finds the old file, the new one or none, never a part; what was written is on the disk when this returns.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::TlsError;

/// For everybody to read.
pub(super) const PUBLIC: u32 = 0o644;
/// For the owner alone.
pub(super) const PRIVATE: u32 = 0o600;

/// Longest wait for another process that holds a folder.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to hold it.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Writes a file that must not exist yet; `is_private` for its owner alone.
///
/// # Errors
/// When there is a file of this name, or it cannot be written.
pub fn write_new(path: &Path, content: &str, is_private: bool) -> Result<(), TlsError> {
    let written = prepare(path, content, if is_private { PRIVATE } else { PUBLIC })
        .and_then(|file| file.persist_noclobber(path).map_err(|error| error.error))
        .and_then(|_| sync_folder_of(path));
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// Writes a file in place of whatever has its name; `is_private` for its owner alone.
///
/// # Errors
/// When it cannot be written.
pub fn write_over(path: &Path, content: &str, is_private: bool) -> Result<(), TlsError> {
    let written = prepare(path, content, if is_private { PRIVATE } else { PUBLIC })
        .and_then(|file| file.persist(path).map_err(|error| error.error))
        .and_then(|_| sync_folder_of(path));
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

fn prepare(path: &Path, content: &str, mode: u32) -> io::Result<NamedTempFile> {
    // Made with 0600, and beside its place, so that it can be renamed there.
    let mut file = NamedTempFile::new_in(folder_of(path))?;
    file.write_all(content.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Makes a folder, readable by its owner alone, unless there is one. Folders above it are made as any others.
pub(super) fn make_folder(path: &Path) -> Result<(), TlsError> {
    let made =
        fs::create_dir_all(folder_of(path)).and_then(|()| match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        });
    made.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// Holds a folder for oneself until it is dropped: two processes that start at once must not both make an authority. Whoever
/// else holds it needs milliseconds; one that hangs is told of, and not waited for without end.
pub(super) fn lock(folder: &Path) -> Result<File, TlsError> {
    lock_within(folder, LOCK_WITHIN)
}

fn lock_within(folder: &Path, bound: Duration) -> Result<File, TlsError> {
    let path = folder.join(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| TlsError::Write { path: path.clone(), source })?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < bound => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(TlsError::Held { path, waited: bound }),
            Err(TryLockError::Error(source)) => return Err(TlsError::Write { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_keys_is_its_owners_alone_and_those_above_it_are_not() {
        let top = tempfile::tempdir().unwrap();
        let (above, folder) = (top.path().join("etc"), top.path().join("etc/certs"));
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::create_dir(top.path().join("any")).unwrap();
        assert_eq!((mode(&folder), mode(&above)), (0o700, mode(&top.path().join("any"))));
        fs::write(top.path().join("file"), "").unwrap();
        assert!(make_folder(&top.path().join("file")).is_err());
    }
    #[test]
    fn a_folder_that_somebody_holds_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let said = lock_within(folder.path(), Duration::from_millis(30)).unwrap_err();
        assert!(matches!(said, TlsError::Held { .. }) && said.to_string().contains("fuser"), "{said}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
