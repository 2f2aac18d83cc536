//! A small disk for a test that fills one: a file system in memory, mounted where it is wanted.
//!
//! Invariant: it is gone when it is dropped, and its files with it.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small disk. Dropping it takes it away.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts it at a directory, which is made if need be. `options` are those of tmpfs, such as `size=48m,mode=755`.
    ///
    /// # Panics
    /// When it cannot be mounted: that takes root.
    #[must_use]
    pub fn mount(at: &Path, options: &str) -> SmallDisk {
        std::fs::create_dir_all(at).unwrap_or_else(|error| panic!("make {}: {error}", at.display()));
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap_or_else(|error| {
            panic!("this test mounts a file system, {error}: run it as root (it needs CAP_SYS_ADMIN)")
        });
        SmallDisk { at: at.to_owned() }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever is still open in it keeps it alive unseen, and not longer.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}
