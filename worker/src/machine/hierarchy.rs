//! Where this process stands in the cgroup hierarchies: version 2, version 1, or both side by side.
//!
//! Invariant: a directory that is returned lies below a mounted hierarchy; a cgroup that is not visible from here (outside
//! our namespace) reads as the top of what is visible. Source: cgroups(7), `/proc/<pid>/cgroup` and mountinfo.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// One cgroup directory and the top of the hierarchy in which it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where the hierarchy is mounted.
    pub top: PathBuf,
    /// The process's cgroup in it.
    pub own: PathBuf,
}

impl Place {
    /// The cgroup and everything above it, up to the top: all their limits apply.
    pub fn lineage(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|dir| dir.starts_with(&self.top))
    }
}

/// This process's cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// Version 1, by controller.
    pub v1: BTreeMap<String, Place>,
    /// Version 2.
    pub v2: Option<Place>,
}

impl Hierarchy {
    /// Reads `/proc/self` below `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(root: &Path) -> io::Result<Hierarchy> {
        let cgroups = std::fs::read_to_string(root.join("proc/self/cgroup"))?;
        let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo"))?;
        Ok(Hierarchy::parse(root, &cgroups, &mounts))
    }

    fn parse(root: &Path, cgroups: &str, mounts: &str) -> Hierarchy {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
        let mut hierarchy = Hierarchy::default();
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                hierarchy.v2 = mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.place(root, path));
                continue;
            }
            for controller in controllers.split(',').filter(|name| !name.starts_with("name=")) {
                let mount = mounts.iter().find(|mount| {
                    mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller)
                });
                if let Some(mount) = mount {
                    hierarchy.v1.insert(controller.to_owned(), mount.place(root, path));
                }
            }
        }
        hierarchy
    }

    /// Whether version 2 has the controllers, rather than version 1 with an empty version 2 beside it.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        !["cpu", "memory", "pids"].iter().any(|controller| self.v1.contains_key(*controller)) && self.v2.is_some()
    }
}

struct Mount<'t> {
    /// Which directory of the hierarchy is mounted.
    part: &'t str,
    point: &'t str,
    kind: &'t str,
    options: &'t str,
}

impl<'t> Mount<'t> {
    /// `36 35 0:32 <part> <point> <options> <tags>* - <kind> <source> <super options>`
    fn parse(line: &'t str) -> Option<Mount<'t>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (part, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, _source, options) = (after.next()?, after.next()?, after.next().unwrap_or_default());
        matches!(kind, "cgroup" | "cgroup2").then_some(Mount { part, point, kind, options })
    }

    fn place(&self, root: &Path, path: &str) -> Place {
        let top = root.join(self.point.trim_start_matches('/'));
        let below = Path::new(path).strip_prefix(self.part).unwrap_or(Path::new(""));
        let visible = below.components().all(|part| matches!(part, Component::Normal(_)));
        let own = if visible { top.join(below) } else { top.clone() };
        // A path that was given from another namespace may name nothing here.
        let own = if own.is_dir() { own } else { top.clone() };
        Place { top, own }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes files below a fresh root.
    pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_unified_hierarchy_is_found_below_its_mount() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/system.slice/ffpool.service\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"),
            ("sys/fs/cgroup/system.slice/ffpool.service/cpu.max", "max 100000\n"),
        ]);
        let hierarchy = Hierarchy::read(root.path()).unwrap();
        assert!(hierarchy.is_v2());
        let place = hierarchy.v2.unwrap();
        assert_eq!(place.own, root.path().join("sys/fs/cgroup/system.slice/ffpool.service"));
        assert_eq!(place.lineage().count(), 3);
    }

    #[test]
    fn version_1_controllers_win_over_an_empty_version_2() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/a/b\n2:cpu,cpuacct:/\n7:pids:/a\n1:name=systemd:/\n0::/\n"),
            (
                "proc/self/mountinfo",
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                 39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1\n"),
            ("sys/fs/cgroup/pids/a/pids.max", "max\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.shares", "1024\n"),
        ]);
        let hierarchy = Hierarchy::read(root.path()).unwrap();
        assert!(!hierarchy.is_v2());
        assert_eq!(hierarchy.v1["memory"].own, root.path().join("sys/fs/cgroup/memory/a/b"));
        assert_eq!(hierarchy.v1["cpu"], hierarchy.v1["cpuacct"]);
    }

    #[test]
    fn a_container_without_its_own_namespace_reads_its_own_part() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/docker/abc/inner\n"),
            ("proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "1\n"),
        ]);
        let place = Hierarchy::read(root.path()).unwrap().v1["memory"].clone();
        assert_eq!(place.own, root.path().join("sys/fs/cgroup/memory/inner"));
    }

    #[test]
    fn a_cgroup_outside_our_namespace_reads_as_the_top() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/../../other\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/cgroup.procs", ""),
        ]);
        let place = Hierarchy::read(root.path()).unwrap().v2.unwrap();
        assert_eq!(place.own, place.top);
    }
}
