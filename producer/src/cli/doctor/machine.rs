//! This machine as a home for a worker: the tools, the cgroups, the scratch space.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ffpool_schema::encode::VideoCodec;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::cli::args::Doctor;
use crate::cli::format;

const TOOL: Duration = Duration::from_secs(20);
/// The oldest FFmpeg that was tried.
const OLDEST_FFMPEG: u32 = 5;
/// What limits an attempt.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// A job that does not say may use so much scratch space.
const UNIT_DISK_MIB: u64 = ffpool_schema::job::ResourceLimits::DISK_MB;
const MIB: u64 = 1024 * 1024;

pub(super) async fn check(args: &Doctor) -> Vec<Check> {
    let worker = args.worker;
    let mut checks = vec![ffmpeg(worker, &args.ffmpeg).await];
    checks.extend(encoders(worker, &args.ffmpeg).await);
    checks.push(ffprobe(worker, &args.ffprobe).await);
    checks.push(cgroups(worker));
    checks.push(scratch(worker, &args.scratch));
    checks.extend(args.media_roots.iter().map(|root| media_root(worker, root)));
    checks
}

async fn ffmpeg(worker: bool, program: &str) -> Check {
    let remedy = "Install FFmpeg (Debian's package: ffmpeg), or name it with FFPOOL_FFMPEG.";
    match run(program, &["-hide_banner", "-version"]).await {
        Err(error) => Check::lacking(worker, "ffmpeg", error, remedy),
        Ok(text) => {
            let line = first_line(&text);
            match major(line) {
                Some(found) if found < OLDEST_FFMPEG => Check::lacking(
                    worker,
                    "ffmpeg",
                    format!("{line} is older than {OLDEST_FFMPEG}"),
                    "Upgrade FFmpeg to 5.1 or newer.",
                ),
                // A build from FFmpeg's main branch has no number.
                Some(_) | None => Check::ok("ffmpeg", line),
            }
        }
    }
}

async fn encoders(worker: bool, program: &str) -> Option<Check> {
    // Without FFmpeg the check before this one has said what to do.
    let text = run(program, &["-hide_banner", "-encoders"]).await.ok()?;
    Some(judge_encoders(worker, &text))
}

/// Judges `ffmpeg -encoders`: lines such as ` V....D libx264   libx264 H.264 …`.
fn judge_encoders(worker: bool, text: &str) -> Check {
    let there: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for codec in VideoCodec::ALL {
        match codec.encoders().iter().find(|encoder| there.contains(&encoder.as_str())) {
            Some(encoder) => found.push(encoder.as_str()),
            None => missing.push(codec.as_str()),
        }
    }
    let said = format!("software encoders: {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") });
    if missing.is_empty() {
        Check::ok("encoders", said)
    } else if missing.contains(&VideoCodec::H264.as_str()) {
        Check::lacking(
            worker,
            "encoders",
            format!("{said}; none for {}", missing.join(", ")),
            "Install an FFmpeg built with libx264, as Debian's is.",
        )
    } else {
        Check::warn(
            "encoders",
            format!("{said}; none for {}", missing.join(", ")),
            "Jobs for those codecs wait for another worker; install an FFmpeg that has them if you want them here.",
        )
    }
}

async fn ffprobe(worker: bool, program: &str) -> Check {
    match run(program, &["-hide_banner", "-version"]).await {
        Ok(text) => Check::ok("ffprobe", first_line(&text)),
        Err(error) => Check::lacking(
            worker,
            "ffprobe",
            error,
            "Install FFmpeg (Debian's package: ffmpeg), or name it with FFPOOL_FFPROBE.",
        ),
    }
}

async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TOOL, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => Err(format!("`{program}` ended with {}", output.status)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("`{program}` is not installed")),
        Ok(Err(error)) => Err(format!("`{program}` cannot be started: {error}")),
        Err(_) => Err(format!("`{program}` did not end within {} s", TOOL.as_secs())),
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(" Copyright").map_or(line, |(version, _)| version)
}

/// The major version in `ffmpeg version 5.1.6-0+deb12u1`.
fn major(line: &str) -> Option<u32> {
    let version = line.split_whitespace().nth(2)?;
    version.trim_start_matches('n').split(['.', '-']).next()?.parse().ok()
}

fn cgroups(worker: bool) -> Check {
    let remedy = "Run the worker as root with a cgroup of its own to write to: `Delegate=yes` in its systemd unit, a \
                  private writable cgroup in a container. Without, it runs one job at a time and no limit holds.";
    let own = std::fs::read_to_string("/proc/self/cgroup");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo");
    let (Ok(own), Ok(mounts)) = (own, mounts) else {
        return Check::lacking(worker, "cgroups", "there are none on this system", "Run the worker on Linux.");
    };
    let place = find(&own, &mounts);
    let (version, directories) = match &place {
        Place::None => {
            return Check::lacking(
                worker,
                "cgroups",
                "the controllers cpu, memory and pids are not all mounted",
                remedy,
            );
        }
        Place::V2(directory) => ("version 2", std::slice::from_ref(directory)),
        Place::V1(directories) => ("version 1", directories.as_slice()),
    };
    if let Place::V2(directory) = &place {
        let offered = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        let lacking: Vec<&str> =
            CONTROLLERS.into_iter().filter(|wanted| !offered.split_whitespace().any(|name| name == *wanted)).collect();
        if !lacking.is_empty() {
            let found =
                format!("version 2 at {}, but without the controllers {}", directory.display(), lacking.join(", "));
            return Check::lacking(worker, "cgroups", found, remedy);
        }
    }
    for directory in directories {
        let trial = directory.join(format!("ffpool-doctor-{}", std::process::id()));
        let tried = std::fs::create_dir(&trial).and_then(|()| std::fs::remove_dir(&trial));
        if let Err(error) = tried {
            let found = format!("{version}, but none can be made in {}: {error}", directory.display());
            return Check::lacking(worker, "cgroups", found, remedy);
        }
    }
    Check::ok("cgroups", format!("{version}, can be made in {}", directories[0].display()))
}

/// Where this process may make cgroups.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    None,
    V2(PathBuf),
    V1(Vec<PathBuf>),
}

/// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`. Version 1 counts when it has the controllers, because then
/// version 2 does not have them.
fn find(own: &str, mounts: &str) -> Place {
    let v1: Vec<PathBuf> = CONTROLLERS.iter().filter_map(|name| v1_directory(own, mounts, name)).collect();
    if v1.len() == CONTROLLERS.len() {
        return Place::V1(v1);
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let mount = mounts.lines().find_map(|line| mount_of(line, "cgroup2", None));
    match (path, mount) {
        (Some(path), Some(mount)) => Place::V2(below(&mount, path)),
        (Some(_) | None, _) => Place::None,
    }
}

fn v1_directory(own: &str, mounts: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has = fields.next()?.split(',').any(|name| name == controller);
        fields.next().filter(|_| has)
    })?;
    let mount = mounts.lines().find_map(|line| mount_of(line, "cgroup", Some(controller)))?;
    Some(below(&mount, path))
}

/// One line of mountinfo: `36 35 98:0 /root /mount/point rw,… - type source superoptions`.
fn mount_of(line: &str, kind: &str, controller: Option<&str>) -> Option<(String, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let is_kind = right.next()? == kind;
    let options = right.nth(1).unwrap_or_default();
    let has = controller.is_none_or(|wanted| options.split(',').any(|name| name == wanted));
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    (is_kind && has).then(|| (root.to_owned(), PathBuf::from(point)))
}

/// The directory of the cgroup `path` under a mount that shows the part of the hierarchy below `root`.
fn below((root, point): &(String, PathBuf), path: &str) -> PathBuf {
    let inner = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
    let directory = point.join(inner.trim_start_matches('/'));
    // A path from outside our namespace does not exist in it: then the top of what is visible is ours.
    if !inner.trim_start_matches('/').is_empty() && directory.is_dir() { directory } else { point.clone() }
}

fn scratch(worker: bool, directory: &Path) -> Check {
    let place = existing(directory);
    let remedy = "Name another directory with FFPOOL_SCRATCH, or give the worker the right to write there.";
    if let Err(error) = access(place, AccessFlags::W_OK) {
        return Check::lacking(
            worker,
            "scratch",
            format!("{} cannot be written: {}", place.display(), error.desc()),
            remedy,
        );
    }
    let free = match statvfs(place) {
        Ok(found) => found.blocks_available().saturating_mul(found.fragment_size()),
        Err(error) => {
            return Check::lacking(worker, "scratch", format!("{}: {}", place.display(), error.desc()), remedy);
        }
    };
    let found = format!("{} free in {}", format::bytes(free), directory.display());
    if free < UNIT_DISK_MIB * MIB {
        Check::lacking(
            worker,
            "scratch",
            format!("{found}; one ordinary job may use {}", format::bytes(UNIT_DISK_MIB * MIB)),
            "Free space there, or name a larger place with FFPOOL_SCRATCH.",
        )
    } else {
        Check::ok("scratch", found)
    }
}

/// The directory, or what exists above it: the worker makes the rest.
fn existing(directory: &Path) -> &Path {
    directory.ancestors().find(|path| path.exists()).unwrap_or(directory)
}

fn media_root(worker: bool, root: &Path) -> Check {
    let remedy =
        "Make or mount it, and give the worker the right to read and write there; FFPOOL_MEDIA_ROOTS names the roots.";
    match access(root, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if root.is_dir() => Check::ok("media root", root.display().to_string()),
        Ok(()) => Check::lacking(worker, "media root", format!("{} is no directory", root.display()), remedy),
        Err(error) => Check::lacking(worker, "media root", format!("{}: {}", root.display(), error.desc()), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn versions_of_every_build_are_read() {
        assert_eq!(major("ffmpeg version 5.1.6-0+deb12u1"), Some(5));
        assert_eq!(major("ffmpeg version n7.1"), Some(7));
        assert_eq!(major("ffmpeg version N-109542-g5a3e1b8"), None);
        assert_eq!(first_line("ffmpeg version 5.1 Copyright (c) 2000\nbuilt"), "ffmpeg version 5.1");
    }

    #[test]
    fn a_missing_encoder_is_named_and_only_h264_is_needed() {
        let all = " V....D libx264 a\n V....D libx265 a\n V....D libvpx a\n V....D libvpx-vp9 a\n V....D libsvtav1 a\n";
        assert_eq!(judge_encoders(true, all).status, Status::Ok);
        let without_av1 = judge_encoders(true, &all.replace("libsvtav1", "other"));
        assert_eq!(without_av1.status, Status::Warn);
        assert!(without_av1.found.ends_with("none for av1"), "{}", without_av1.found);
        assert_eq!(judge_encoders(true, "").status, Status::Fail);
        assert_eq!(judge_encoders(false, "").status, Status::Warn);
    }

    #[test]
    fn cgroups_are_found_on_both_versions() {
        let top = tempfile::tempdir().unwrap();
        let point = top.path().display();
        std::fs::create_dir_all(top.path().join("system.slice/w")).unwrap();

        let v2 = format!("31 24 0:26 / {point} rw shared:9 - cgroup2 cgroup2 rw\n");
        assert_eq!(find("0::/system.slice/w\n", &v2), Place::V2(top.path().join("system.slice/w")));
        assert_eq!(find("0::/elsewhere\n", &v2), Place::V2(top.path().to_owned()), "outside our namespace");

        let names = ["cpu,cpuacct", "memory", "pids"];
        let own: String = names.iter().map(|name| format!("3:{name}:/docker/abc\n")).collect();
        let mounts: String =
            names.iter().map(|name| format!("1 2 0:3 /docker/abc {point} rw - cgroup cgroup rw,{name}\n")).collect();
        assert_eq!(find(&own, &mounts), Place::V1(vec![top.path().to_owned(); 3]));
        assert_eq!(find(&own, ""), Place::None);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_measured_where_it_will_be_made() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(existing(&top.path().join("a/b")), top.path());
        assert_eq!(media_root(true, &top.path().join("a")).status, Status::Fail);
        assert_eq!(media_root(true, top.path()).status, Status::Ok);
    }
}
