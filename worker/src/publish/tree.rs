//! The many files of a presentation: brought beside its top file under a name that no other attempt has, and put in place by
//! one rename before the top file names them.
//!
//! Invariant: a directory of segments belongs to one attempt for good, so that nothing of another can stand in it; it is
//! deleted with the top file that named it. What is in it was written by a tool and is taken file by file, never through a link.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ffpool_schema::message::{ArtifactFile, Manifest};
use ffpool_schema::scenario::path_of;

use super::parts::{self, TREE, Whose};
use super::{PublishError, bring, failed, hash_of};

/// Rights of such a directory.
const MODE: u32 = 0o755;

/// What lies in such a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Segments of a presentation.
    Segments,
    /// Pictures.
    Pictures,
}

impl Contents {
    const ALL: [Contents; 2] = [Contents::Segments, Contents::Pictures];

    /// How the name of the directory begins.
    fn prefix(self) -> &'static str {
        match self {
            Contents::Segments => "segments-",
            Contents::Pictures => "pictures-",
        }
    }
}

/// The name of an output's directory.
#[must_use]
pub fn directory_name(contents: Contents, whose: Whose) -> String {
    format!("{}{}", contents.prefix(), whose.stem())
}

/// Whose a directory of this name is.
fn owner(name: &str) -> Option<Whose> {
    let stem = Contents::ALL.into_iter().find_map(|contents| name.strip_prefix(contents.prefix()))?;
    Whose::of_stem(stem)
}

/// Files that are on disk beside their place. Dropping it deletes them, unless they are in place.
#[derive(Debug)]
pub(super) struct Tree {
    hidden: PathBuf,
    pub(super) target: PathBuf,
    pub(super) files: Vec<ArtifactFile>,
}

impl Tree {
    /// Brings `names`, paths in `scratch` that begin with the directory's own name, beside `output`.
    pub(super) fn bring(
        scratch: &Path,
        names: &[PathBuf],
        output: &Path,
        whose: Whose,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Tree, PublishError> {
        let hidden = parts::path(output, whose, TREE);
        remove(&hidden).map_err(failed("clear", &hidden))?;
        let directory = names.first().and_then(|name| name.components().next());
        let directory = directory.map(|first| PathBuf::from(first.as_os_str()));
        let directory = directory.filter(|name| name.to_str().and_then(owner) == Some(whose));
        let not_ours = || io::Error::other("its other files are not in a directory of this attempt");
        let directory = directory.ok_or_else(|| failed("bring", output)(not_ours()))?;
        let target = output.with_file_name(&directory);
        let mut tree = Tree { hidden, target, files: Vec::new() };
        make(&tree.hidden)?;
        let mut directories = vec![tree.hidden.clone()];
        for name in names {
            let inner = name.strip_prefix(&directory).unwrap_or(name);
            let to = tree.hidden.join(inner);
            if let Some(parent) = to.parent().filter(|parent| !directories.iter().any(|known| known == parent)) {
                make(parent)?;
                directories.push(parent.to_owned());
            }
            let (_, size_bytes, sha256) = bring(&scratch.join(name), &to, is_stopped)?;
            tree.files.push(ArtifactFile { path: name.to_string_lossy().into_owned(), size_bytes, sha256 });
        }
        for directory in directories.iter().rev() {
            File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync", directory))?;
        }
        Ok(tree)
    }

    /// Puts it in place. A later call that takes the output back deletes it.
    pub(super) fn place(&self) -> io::Result<()> {
        // Only an earlier life of this very attempt can have left it.
        remove(&self.target)?;
        fs::rename(&self.hidden, &self.target)
    }

    /// Takes it back.
    pub(super) fn take_back(&self) {
        if let Err(error) = remove(&self.target) {
            tracing::warn!(path = %self.target.display(), %error, "segments that nothing names stay");
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // In place, it is not there any more.
        let _ = remove(&self.hidden);
    }
}

fn make(directory: &Path) -> Result<(), PublishError> {
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(MODE)))
        .map_err(failed("make", directory))
}

/// Deletes a directory, or whatever else has its name.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The directories that a replaced output named, and those of the job's earlier attempts.
pub(super) fn superseded(output: &Path, before: Option<&Manifest>, ours: Whose) -> Vec<PathBuf> {
    let is_here = |url: &str| path_of(url).is_some_and(|path| Path::new(&path).file_name() == output.file_name());
    let here = before.iter().flat_map(|manifest| &manifest.artifacts).filter(|artifact| is_here(&artifact.url));
    let named = here.flat_map(|artifact| &artifact.files);
    let mut names: Vec<String> = named.filter_map(|file| Some(file.path.split_once('/')?.0.to_owned())).collect();
    let entries = output.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    names.extend(entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let whose = owner(&name)?;
        (whose.job == ours.job && whose.number == ours.number && whose.attempt < ours.attempt).then_some(name)
    }));
    names.retain(|name| owner(name).is_some_and(|whose| whose != ours));
    names.sort();
    names.dedup();
    names.into_iter().map(|name| output.with_file_name(name)).collect()
}

/// Whether every file of an artifact is beside its output, unchanged.
pub(super) fn is_whole(output: &Path, files: &[ArtifactFile], is_stopped: &dyn Fn() -> bool) -> bool {
    let beside = |path: &str| output.parent().unwrap_or(Path::new("/")).join(path);
    files.iter().all(|file| hash_of(&beside(&file.path), file.size_bytes, is_stopped).as_ref() == Some(&file.sha256))
}
