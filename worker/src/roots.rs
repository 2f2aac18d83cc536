//! Which files a job may read and write: those under the media roots, and no others.
//!
//! Invariant: a path that is returned is absolute, free of symbolic links and `..`, and inside a root. What a job names is
//! checked as it lies on disk, after every link is followed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use ffpool_schema::encode::Container;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::Outcome;
use ffpool_schema::parse::Fault;
use ffpool_schema::scenario::path_of;

/// The longest output name, in bytes: the manifest's name is a little longer, and file systems take 255.
const NAME_BYTES: usize = 200;

/// Why the roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum RootsError {
    #[error("none is set: a worker needs at least one directory for inputs and outputs")]
    None,
    #[error("{} cannot be used: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("{} is no directory", path.display())]
    NoDirectory { path: PathBuf },
}

/// The directories under which inputs and outputs lie.
#[derive(Debug)]
pub struct Roots {
    /// Free of symbolic links; not empty.
    roots: Vec<PathBuf>,
}

/// What is wrong with a path: a fault of the job, or a failure of this attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum PathProblem {
    /// It can never be right.
    Fault(Box<Fault>),
    /// It is not right now.
    Failure(Box<Failure>),
}

impl PathProblem {
    fn fault(field: &str, code: &str, message: impl Into<String>) -> PathProblem {
        PathProblem::Fault(Box::new(Fault::new(field, code, message)))
    }

    fn failure(cause: Cause, message: impl Into<String>) -> PathProblem {
        PathProblem::Failure(Box::new(Failure::new(cause, message)))
    }
}

impl From<PathProblem> for Outcome {
    fn from(problem: PathProblem) -> Outcome {
        match problem {
            PathProblem::Fault(fault) => Outcome::Rejected { faults: vec![*fault] },
            PathProblem::Failure(failure) => Outcome::Failed { failure: *failure },
        }
    }
}

impl Roots {
    /// Checks that every root is a directory.
    ///
    /// # Errors
    /// Which is not.
    pub fn open(roots: &[PathBuf]) -> Result<Roots, RootsError> {
        if roots.is_empty() {
            return Err(RootsError::None);
        }
        let open = |path: &PathBuf| {
            let real = fs::canonicalize(path).map_err(|source| RootsError::Unusable { path: path.clone(), source })?;
            if real.is_dir() { Ok(real) } else { Err(RootsError::NoDirectory { path: path.clone() }) }
        };
        Ok(Roots { roots: roots.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The file that an input names.
    ///
    /// # Errors
    /// A fault when it lies outside, a failure when it is not there.
    pub fn input(&self, address: &str) -> Result<PathBuf, PathProblem> {
        let path = plain_path("input", address)?;
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) => return Err(self.unresolved(&path, &error)),
        };
        if !self.contains(&real) {
            return Err(outside("input", &path));
        }
        let metadata = fs::metadata(&real).map_err(|error| self.unresolved(&path, &error))?;
        if !metadata.is_file() {
            return Err(PathProblem::fault("input", "no_file", format!("{} is no regular file", path.display())));
        }
        Ok(real)
    }

    /// Where an output goes, its directory made if need be. Without an address it is `<first root>/ffpool/<unnamed>.<container>`.
    ///
    /// # Errors
    /// A fault when it lies outside or names no file, a failure when its directory cannot be made.
    pub fn output(&self, address: Option<&str>, unnamed: &str, container: Container) -> Result<PathBuf, PathProblem> {
        let path = match address {
            Some(address) => plain_path("output", address)?,
            None => self.roots[0].join("ffpool").join(format!("{unnamed}.{}", container.extension())),
        };
        let fault = |code, message: String| Err(PathProblem::fault("output", code, message));
        let shown = path.display();
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return fault("no_file", format!("{shown} names a directory"));
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return fault("no_file", format!("{shown} names no file"));
        };
        if name.len() > NAME_BYTES {
            return fault("name_too_long", format!("the name of {shown} has more than {NAME_BYTES} bytes"));
        }
        if path.extension().is_none() {
            return fault(
                "unknown_container",
                format!("{shown} has no extension: mp4, mov, mkv, webm or ts is expected"),
            );
        }
        let output = self.directory(directory, &path)?.join(name);
        if output.is_dir() {
            return fault("no_file", format!("{shown} is a directory"));
        }
        Ok(output)
    }

    /// The real form of an output's directory, made below the deepest part that exists.
    fn directory(&self, directory: &Path, output: &Path) -> Result<PathBuf, PathProblem> {
        let existing = directory.ancestors().find(|part| part.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
        let real = fs::canonicalize(existing).map_err(|error| {
            PathProblem::fault(
                "output",
                "no_file",
                format!("{}: {} cannot be used: {error}", output.display(), existing.display()),
            )
        })?;
        if !self.contains(&real) {
            return Err(outside("output", output));
        }
        let missing = directory.strip_prefix(existing).unwrap_or(Path::new(""));
        let wanted = if missing.as_os_str().is_empty() { real } else { real.join(missing) };
        match fs::create_dir_all(&wanted) {
            Ok(()) => Ok(wanted),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) => {
                Err(PathProblem::fault(
                    "output",
                    "no_file",
                    format!("{}: {} is no directory", output.display(), existing.display()),
                ))
            }
            Err(error) => Err(PathProblem::failure(
                io_cause(&error),
                format!("the directory {} cannot be made: {error}", wanted.display()),
            )),
        }
    }

    fn contains(&self, real: &Path) -> bool {
        self.roots.iter().any(|root| real.starts_with(root))
    }

    /// Why a path does not resolve. Whether something exists outside the roots is not told.
    fn unresolved(&self, path: &Path, error: &io::Error) -> PathProblem {
        let existing = path.ancestors().find_map(|part| fs::canonicalize(part).ok());
        if !existing.is_some_and(|real| self.contains(&real)) {
            return outside("input", path);
        }
        let cause = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Cause::InputMissing,
            io::ErrorKind::PermissionDenied => Cause::Policy,
            _ => Cause::IoTransient,
        };
        PathProblem::failure(cause, format!("the input {} cannot be opened: {error}", path.display()))
    }
}

/// Refuses an output that is the input, under whatever name.
///
/// # Errors
/// The fault.
pub fn distinct(input: &Path, output: &Path) -> Result<(), PathProblem> {
    let same_file = || {
        let (input, output) = (fs::metadata(input).ok()?, fs::metadata(output).ok()?);
        Some((input.dev(), input.ino()) == (output.dev(), output.ino()))
    };
    if input == output || same_file() == Some(true) {
        return Err(PathProblem::fault("output", "same_as_input", format!("{} is the input", output.display())));
    }
    Ok(())
}

/// Which cause a failure to read or write has.
#[must_use]
pub fn io_cause(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Cause::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Cause::Platform,
        _ => Cause::IoTransient,
    }
}

/// The right to read a file, among three mode bits.
const READ: u32 = 4;
/// The right to enter a directory.
const SEARCH: u32 = 1;

/// Whether a user can read a file: the rights of the file and of every directory above it, by their mode bits.
#[must_use]
pub fn is_readable_by(path: &Path, uid: u32, gid: u32) -> bool {
    allows(path, READ, uid, gid) && path.ancestors().skip(1).all(|directory| allows(directory, SEARCH, uid, gid))
}

/// The first directory on the way to this one that a user may not enter, by their mode bits.
#[must_use]
pub fn first_closed(directory: &Path, uid: u32, gid: u32) -> Option<&Path> {
    directory.ancestors().filter(|part| !allows(part, SEARCH, uid, gid)).last()
}

fn allows(path: &Path, right: u32, uid: u32, gid: u32) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        let mode = metadata.mode();
        let granted = if metadata.uid() == uid {
            mode >> 6
        } else if metadata.gid() == gid {
            mode >> 3
        } else {
            mode
        };
        granted & right != 0
    })
}

fn outside(field: &str, path: &Path) -> PathProblem {
    PathProblem::fault(field, "outside_roots", format!("{} lies outside this worker's media roots", path.display()))
}

/// The absolute path that an address names, without `..`.
fn plain_path(field: &str, address: &str) -> Result<PathBuf, PathProblem> {
    let Some(path) = path_of(address).filter(|path| !path.contains('\0')) else {
        return Err(PathProblem::fault(
            field,
            "bad_value",
            format!("`{address}` is no file:// address and no absolute path"),
        ));
    };
    let path = PathBuf::from(path);
    // Refused rather than resolved: behind a symbolic link `..` means something else than it seems to.
    if path.components().any(|part| part == Component::ParentDir) || path.file_name() == Some(OsStr::new("..")) {
        return Err(PathProblem::fault(field, "outside_roots", format!("{} goes up with `..`", path.display())));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Place {
        dir: tempfile::TempDir,
        roots: Roots,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            for name in ["media/in", "other"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            fs::write(dir.path().join("media/in/a b.mp4"), "x").unwrap();
            fs::write(dir.path().join("other/secret.mp4"), "x").unwrap();
            symlink(dir.path().join("other"), dir.path().join("media/leak")).unwrap();
            symlink(dir.path().join("other/secret.mp4"), dir.path().join("media/leak.mp4")).unwrap();
            let roots = Roots::open(&[dir.path().join("media")]).unwrap();
            Place { dir, roots }
        }

        fn at(&self, path: &str) -> String {
            self.dir.path().join(path).display().to_string()
        }

        fn output(&self, path: &str) -> Result<PathBuf, PathProblem> {
            self.roots.output(Some(&self.at(path)), "unnamed", Container::Mp4)
        }
    }

    fn code(problem: PathProblem) -> String {
        match problem {
            PathProblem::Fault(fault) => fault.code,
            PathProblem::Failure(failure) => failure.cause.to_string(),
        }
    }

    #[test]
    fn inputs_are_found_by_path_and_by_address() {
        let place = Place::new();
        let real = fs::canonicalize(place.at("media/in/a b.mp4")).unwrap();
        assert_eq!(place.roots.input(&place.at("media/in/a b.mp4")).unwrap(), real);
        let address = format!("file://{}", place.at("media/in/a%20b.mp4"));
        assert_eq!(place.roots.input(&address).unwrap(), real);
    }

    #[test]
    fn no_way_leads_out_of_the_roots() {
        let place = Place::new();
        for path in [
            "other/secret.mp4",
            "media/../other/secret.mp4",
            "media/leak/secret.mp4",
            "media/leak.mp4",
            "other/absent.mp4",
        ] {
            assert_eq!(code(place.roots.input(&place.at(path)).unwrap_err()), "outside_roots", "input {path}");
        }
        for path in [
            "other/new.mp4",
            "media/../other/new.mp4",
            "media/leak/new.mp4",
            "media/leak/deep/new.mp4",
            "mediation/new.mp4",
        ] {
            assert_eq!(code(place.output(path).unwrap_err()), "outside_roots", "output {path}");
        }
        let encoded = format!("file://{}", place.at("media/%2e%2e/other/secret.mp4"));
        assert_eq!(code(place.roots.input(&encoded).unwrap_err()), "outside_roots");
        assert_eq!(code(place.roots.input("in/a.mp4").unwrap_err()), "bad_value");
        assert_eq!(code(place.roots.input("http://host/a.mp4").unwrap_err()), "bad_value");
        assert!(!Path::new(&place.at("other/deep")).exists());
    }

    #[test]
    fn an_absent_input_is_missing_and_a_directory_is_no_file() {
        let place = Place::new();
        assert_eq!(code(place.roots.input(&place.at("media/in/gone.mp4")).unwrap_err()), "input_missing");
        assert_eq!(code(place.roots.input(&place.at("media/gone/gone.mp4")).unwrap_err()), "input_missing");
        assert_eq!(code(place.roots.input(&place.at("media/in")).unwrap_err()), "no_file");
    }

    #[test]
    fn an_output_s_directory_is_made_and_its_name_must_be_a_file_s() {
        let place = Place::new();
        let output = place.output("media/new/deep/-y.mp4").unwrap();
        assert!(output.ends_with("new/deep/-y.mp4") && output.parent().unwrap().is_dir());
        assert_eq!(code(place.output("media/in/").unwrap_err()), "no_file");
        assert_eq!(code(place.output("media/in").unwrap_err()), "unknown_container");
        fs::create_dir(place.at("media/dir.mp4")).unwrap();
        assert_eq!(code(place.output("media/dir.mp4").unwrap_err()), "no_file");
        assert_eq!(code(place.output("media/in/a b.mp4/x.mp4").unwrap_err()), "no_file");
        let default = place.roots.output(None, "the-job", Container::Webm).unwrap();
        assert!(default.ends_with("media/ffpool/the-job.webm"));
    }

    #[test]
    fn an_output_may_not_be_the_input() {
        let place = Place::new();
        let input = place.roots.input(&place.at("media/in/a b.mp4")).unwrap();
        symlink(&input, place.at("media/alias.mp4")).unwrap();
        for path in ["media/in/a b.mp4", "media/alias.mp4"] {
            let output = place.output(path).unwrap();
            assert_eq!(code(distinct(&input, &output).unwrap_err()), "same_as_input", "{path}");
        }
        assert_eq!(distinct(&input, &place.output("media/in/b.mp4").unwrap()), Ok(()));
    }

    #[test]
    fn rights_are_read_along_the_whole_path() {
        let place = Place::new();
        let file = PathBuf::from(place.at("media/in/a b.mp4"));
        let set = |path: &str, mode| fs::set_permissions(place.at(path), fs::Permissions::from_mode(mode)).unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        set("media/in/a b.mp4", 0o644);
        set("", 0o755);
        assert!(is_readable_by(&file, 65534, 65534));
        set("media/in/a b.mp4", 0o600);
        assert!(!is_readable_by(&file, 65534, 65534) && is_readable_by(&file, owner, 65534));
        set("media/in/a b.mp4", 0o644);
        let directory = file.parent().unwrap();
        assert_eq!(first_closed(directory, 65534, 65534), None);
        set("media", 0o700);
        assert!(!is_readable_by(&file, 65534, 65534));
        assert_eq!(first_closed(directory, 65534, 65534), directory.parent());
        set("", 0o700);
        assert_eq!(first_closed(directory, 65534, 65534), directory.parent().unwrap().parent());
    }
}
