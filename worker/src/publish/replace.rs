//! Puts a file under a name that may be taken, without replacing what is newer: the two are exchanged, and exchanged back
//! when what came out turns out to be newer.
//!
//! Invariant: under the name there is always a whole file, and in the end the newest. To look first and to rename then
//! would replace what came in between. Source: renameat2(2), whose flags not every file system has; on one without them
//! looking and renaming are two steps.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Others that may come between two exchanges of ours, each with a newer file.
const TURNS: usize = 16;

/// Where the file went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Put {
    /// Under the name, which was free.
    Fresh,
    /// Under the name; what was there stands under the name of the part.
    Exchanged,
    /// Under the name; what was there is gone.
    Overwritten,
    /// Not under the name: what is there is newer.
    Superseded,
}

/// Puts `part` under the name `target`, unless `is_newer` says of the file that it is given, which is or was under that
/// name, that ours is not to replace it.
pub(super) fn put(part: &Path, target: &Path, is_newer: &dyn Fn(&Path) -> bool) -> io::Result<Put> {
    for _ in 0..TURNS {
        match rename(part, target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => return Ok(Put::Fresh),
            Err(nix::Error::EEXIST) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => return overwrite(part, target, is_newer),
            Err(error) => return Err(error.into()),
        }
        // A look before the exchange, so that a newer file is not away even for a moment, unless it came just now.
        if is_newer(target) {
            return Ok(Put::Superseded);
        }
        let ours = identity(part)?;
        match rename(part, target, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => return settle(part, target, ours, is_newer),
            // Deleted since: the name is free.
            Err(nix::Error::ENOENT) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => return overwrite(part, target, is_newer),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("others take and leave the name all the time"))
}

/// Takes a file out again that [`put`] has put under the name, where it is still there.
pub(super) fn take_back(put: Put, part: &Path, target: &Path, ours: Identity) -> io::Result<()> {
    match put {
        Put::Exchanged => restore(part, target, ours),
        Put::Fresh | Put::Overwritten if identity(target).is_ok_and(|there| there == ours) => fs::remove_file(target),
        Put::Fresh | Put::Overwritten | Put::Superseded => Ok(()),
    }
}

/// Which file it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
}

/// Looks at what the exchange brought out, and puts it back where it must stay.
fn settle(part: &Path, target: &Path, ours: Identity, is_newer: &dyn Fn(&Path) -> bool) -> io::Result<Put> {
    if fs::symlink_metadata(part)?.is_dir() {
        restore(part, target, ours)?;
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if is_newer(part) {
        restore(part, target, ours)?;
        return Ok(Put::Superseded);
    }
    Ok(Put::Exchanged)
}

/// Exchanges back. Whoever came in between has put something newer there, which is then brought back in its turn.
fn restore(part: &Path, target: &Path, ours: Identity) -> io::Result<()> {
    let mut placed = ours;
    for _ in 0..TURNS {
        let held = identity(part)?;
        rename(part, target, RenameFlags::RENAME_EXCHANGE)?;
        if identity(part)? == placed {
            return Ok(());
        }
        placed = held;
    }
    Err(io::Error::other("others replace the file all the time"))
}

/// The way for file systems that cannot exchange.
fn overwrite(part: &Path, target: &Path, is_newer: &dyn Fn(&Path) -> bool) -> io::Result<Put> {
    if target.exists() && is_newer(target) {
        return Ok(Put::Superseded);
    }
    fs::rename(part, target)?;
    Ok(Put::Overwritten)
}

fn rename(from: &Path, to: &Path, how: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, how)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(part: &str, target: Option<&str>) -> Bench {
            let bench = Bench { dir: tempfile::tempdir().unwrap() };
            fs::write(bench.part(), part).unwrap();
            if let Some(text) = target {
                fs::write(bench.target(), text).unwrap();
            }
            bench
        }

        fn part(&self) -> PathBuf {
            self.dir.path().join("part")
        }

        fn target(&self) -> PathBuf {
            self.dir.path().join("target")
        }

        fn put(&self, is_newer: &dyn Fn(&Path) -> bool) -> Put {
            put(&self.part(), &self.target(), is_newer).unwrap()
        }

        /// What stands under both names.
        fn texts(&self) -> (Option<String>, String) {
            (fs::read_to_string(self.part()).ok(), fs::read_to_string(self.target()).unwrap())
        }
    }

    #[test]
    fn a_free_name_is_taken_and_an_older_file_is_exchanged() {
        let bench = Bench::new("ours", None);
        assert_eq!(bench.put(&|_| panic!("nothing is there to look at")), Put::Fresh);
        assert_eq!(bench.texts(), (None, "ours".to_owned()));
        let bench = Bench::new("ours", Some("old"));
        assert_eq!(bench.put(&|_| false), Put::Exchanged);
        assert_eq!(bench.texts(), (Some("old".to_owned()), "ours".to_owned()));
    }

    #[test]
    fn what_is_newer_stays_even_when_it_comes_after_the_look() {
        let bench = Bench::new("ours", Some("old"));
        // Frozen between the look and the exchange: a newer file comes meanwhile.
        let target = bench.target();
        let is_newer = |path: &Path| {
            let newer = fs::read_to_string(path).unwrap() == "newer";
            if path == target {
                fs::write(target.with_file_name("other"), "newer").unwrap();
                fs::rename(target.with_file_name("other"), &target).unwrap();
            }
            newer
        };
        assert_eq!(bench.put(&is_newer), Put::Superseded);
        assert_eq!(bench.texts(), (Some("ours".to_owned()), "newer".to_owned()));
    }

    #[test]
    fn whoever_comes_between_the_exchange_and_the_return_is_brought_back() {
        let bench = Bench::new("ours", Some("newer"));
        let looks = Cell::new(0);
        let is_newer = |_: &Path| {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                // Exchanged, not yet returned: the newest comes and finds ours.
                fs::write(bench.dir.path().join("other"), "newest").unwrap();
                fs::rename(bench.dir.path().join("other"), bench.target()).unwrap();
            }
            looks.get() == 2
        };
        assert_eq!(bench.put(&is_newer), Put::Superseded);
        assert_eq!(bench.texts(), (Some("newer".to_owned()), "newest".to_owned()));
    }

    #[test]
    fn a_directory_is_never_exchanged_away() {
        let bench = Bench::new("ours", None);
        fs::create_dir(bench.target()).unwrap();
        assert_eq!(put(&bench.part(), &bench.target(), &|_| false).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(bench.target().is_dir() && bench.part().is_file());
    }

    #[test]
    fn what_was_put_can_be_taken_back() {
        for there in [None, Some("old")] {
            let bench = Bench::new("ours", there);
            let ours = identity(&bench.part()).unwrap();
            let put = bench.put(&|_| false);
            take_back(put, &bench.part(), &bench.target(), ours).unwrap();
            assert_eq!(fs::read_to_string(bench.target()).ok().as_deref(), there);
        }
    }

    #[test]
    fn without_exchanges_a_look_comes_before_the_rename() {
        let bench = Bench::new("ours", Some("there"));
        assert_eq!(overwrite(&bench.part(), &bench.target(), &|_| true).unwrap(), Put::Superseded);
        assert_eq!(overwrite(&bench.part(), &bench.target(), &|_| false).unwrap(), Put::Overwritten);
        assert_eq!(bench.texts(), (None, "ours".to_owned()));
    }
}
