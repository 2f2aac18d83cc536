use std::net::TcpListener;

use super::*;

/// Runs a script of bash behind the bars: what it says, and whether it ended well.
fn behind(cage: &Cage, scratch: &Path, needs: &Needs<'_>, script: &str) -> (String, bool) {
    let mut bars = cage.bars(Path::new("/bin/bash"), Some(scratch), needs).unwrap();
    let mut command = Command::new("/bin/bash");
    command.args(["-c", script]).current_dir(scratch).stdin(Stdio::null());
    // SAFETY: as in `tool::confined`.
    unsafe {
        command.pre_exec(move || {
            bars.leave_network()?;
            bars.close()
        });
    }
    let output = command.output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

fn cage() -> Cage {
    Cage::open(SandboxMode::Require, Path::new("/usr/bin/ffprobe"), &[]).expect("a kernel with Landlock and seccomp")
}

/// Whether Landlock keeps signals inside here.
fn keeps_signals() -> bool {
    use nix::libc;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag it takes no attributes and answers with a version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, 1) };
    version >= 6
}

const NOTHING: Needs<'static> = Needs { reads: &[], network: false, devices: false };

#[test]
fn a_tool_reads_what_its_attempt_reads_and_writes_its_scratch_alone() {
    let (cage, scratch, beside) = (cage(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [input, other] = ["input", "other"].map(|name| beside.path().join(name));
    std::fs::write(&input, "picture").unwrap();
    std::fs::write(&other, "secret").unwrap();
    std::os::unix::fs::symlink(&other, scratch.path().join("link")).unwrap();
    let reads = [input.clone()];
    let needs = Needs { reads: &reads, ..NOTHING };
    let [input, other, beside] = [&input, &other, &beside.path().to_owned()].map(|path| path.display().to_string());
    for (script, is_allowed) in [
        (format!("cat {input}"), true),
        ("echo made > made && cat made && mkdir a && mv made a/made && ls a && rm -r a".to_owned(), true),
        (
            "read -r own < /proc/self/status && cat /proc/cpuinfo /etc/ld.so.cache > /dev/null && (sleep 0 & wait)"
                .to_owned(),
            true,
        ),
        (format!("cat {other}"), false),
        ("cat link".to_owned(), false),
        (format!("echo spoilt > {input}"), false),
        (format!("echo made > {beside}/made"), false),
        (format!("ls {beside}"), false),
        ("cat /etc/passwd".to_owned(), false),
        ("cat /proc/1/environ".to_owned(), false),
        ("cat /proc/1/status".to_owned(), false),
        (format!("cat /proc/{}/cmdline", std::process::id()), false),
        ("echo made > /dev/shm/made".to_owned(), false),
        ("mknod pipe c 1 3".to_owned(), false),
        ("cp /bin/true own && chmod +x own && ./own".to_owned(), false),
        (format!("prlimit --pid {} --nofile=1:1", std::process::id()), false),
        ("prlimit --nofile=64:64".to_owned(), true),
    ] {
        let (said, is_done) = behind(&cage, scratch.path(), &needs, &script);
        assert_eq!(is_done, is_allowed, "{script}: {said}");
        assert!(!said.contains("secret"), "{script}");
    }
}

#[test]
fn a_tool_reaches_nobody_unless_its_job_is_live() {
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dial = format!(": <>/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    let live = Needs { network: true, ..NOTHING };
    assert!(behind(&cage, scratch.path(), &live, &dial).1, "a live job goes to the network");
    // Whatever other layers work here, each holds alone.
    for layer in cage.layers().iter().copied() {
        let cage = Cage { layers: vec![layer], ..cage.clone() };
        let (said, is_done) = behind(&cage, scratch.path(), &NOTHING, &dial);
        assert!(!is_done, "{layer}: {said}");
    }
    for script in ["unshare --user true", "unshare --net true", "nsenter -t 1 -n true"] {
        for needs in [NOTHING, live] {
            assert!(!behind(&cage, scratch.path(), &needs, script).1, "{script}");
        }
    }
    assert!(behind(&cage, scratch.path(), &NOTHING, "echo a | cat | grep -q a && kill -0 $$").1);
    let outside = format!("kill -0 {}", std::process::id());
    let is_kept = !behind(&cage, scratch.path(), &NOTHING, &outside).1;
    assert_eq!(is_kept, keeps_signals());
}

#[test]
fn what_does_not_work_is_missing_or_refused() {
    let broken = Cage::open(SandboxMode::Require, Path::new("/bin/false"), &[]).unwrap_err().to_string();
    assert!(broken.starts_with("landlock is required and does not work here: "), "{broken}");
    assert!(Cage::open(SandboxMode::Best, Path::new("/bin/false"), &[]).unwrap().layers().is_empty());
    assert!(Cage::open(SandboxMode::Off, Path::new("/usr/bin/ffprobe"), &[]).unwrap().layers().is_empty());
    let layers = [Layer::Files, Layer::Calls, Layer::Network];
    let cage = Cage { layers: layers.to_vec(), ..cage() };
    assert_eq!(cage.around(false).collect::<Vec<_>>(), layers);
    assert_eq!(cage.around(true).collect::<Vec<_>>(), layers[..2]);
}
