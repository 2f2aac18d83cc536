//! What a tool finds itself in.

use std::os::unix::fs::PermissionsExt as _;

use ffpool_schema::failure::Cause;
use ffpool_worker::workshop::{CgroupMode, SandboxMode};

use super::bench::{Bench, Ledger, failure, manifest, stand_in};

/// Tells everything about itself on its log, then fails.
const CONFESSION: &str = "exec 1>&2\nwhile read -r line; do echo \"$line\"; done < /proc/self/status\n\
    while read -r line; do echo \"$line\"; done < /proc/self/cgroup\necho files $(ulimit -n) core $(ulimit -c)\n\
    echo session $(ps -o sid= -p $$ 2>/dev/null || cut -d' ' -f6 /proc/$$/stat) pid $$\nenv\necho stdin $(readlink /proc/self/fd/0)\nexit 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_has_no_rights_no_way_back_and_no_secrets() {
    let bench = Bench::with(|settings, dir| {
        settings.cgroups = CgroupMode::Require;
        settings.ffmpeg = stand_in(dir, CONFESSION);
    })
    .await;
    let grant = bench.grant(&bench.spec("240p25-h264"));
    let mut running = bench.start(&grant, Ledger::Grants);
    let ended = running.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::Unknown, "{:?}", failure(&ended));
    let mut lines = Vec::new();
    while let Ok(line) = running.log.try_recv() {
        lines.push(line.line);
    }
    let says = |start: &str| {
        let found = lines.iter().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("no {start} in {lines:#?}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if nix::unistd::geteuid().is_root() {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        assert_eq!(says("Uid:")[1..], vec![nobody.uid.to_string(); 4]);
        assert_eq!(says("Gid:")[1..], vec![nobody.gid.to_string(); 4]);
        assert_eq!(says("Groups:").len(), 1);
        assert_eq!(says("CapBnd:")[1], "0000000000000000");
    }
    assert_eq!(says("CapPrm:")[1], "0000000000000000");
    assert_eq!(says("CapEff:")[1], "0000000000000000");
    assert_eq!(says("NoNewPrivs:")[1], "1");
    assert_eq!(says("files"), ["files", "1024", "core", "0"]);
    let session = says("session");
    assert_eq!(session[1], session[3], "the tool is in somebody else's session");
    assert_eq!(says("stdin")[1], "/dev/null");
    let group = format!("ffpool/{}/{}.1", bench.settings.worker, grant.job);
    assert!(lines.iter().any(|line| line.ends_with(&group)), "not in {group}: {lines:#?}");
    for line in &lines {
        assert!(!line.starts_with("CARGO"), "the worker's environment leaks: {line}");
    }
    bench.assert_clean();
}

/// A call that an ordinary program never makes, by its number here: where it is made, perl says so.
fn call(number: nix::libc::c_long, arguments: &str) -> String {
    format!("perl -e 'exit(syscall({number}, {arguments}) < 0)'")
}

/// Tries what a tool that was turned against us would, and tells what it could do. [`OF_ITS_USER`] is what its user may.
fn burglar(dir: &str, media: &str, port: u16, worker: u32) -> String {
    use nix::libc::{AF_ALG, AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SYS_mount, SYS_ptrace, SYS_socket};
    let neighbour = format!("{media}/neighbour.mp4");
    let tries = [
        ("reads its neighbour", format!("read -r x < {neighbour}")),
        ("reads the users", "read -r x < /etc/passwd".to_owned()),
        ("reads the worker", format!("read -r x < /proc/{worker}/status")),
        ("lists the media", format!("test -n \"$(ls {media})\"")),
        ("writes beside its output", format!("echo x > {media}/planted")),
        ("calls out", format!("bash -c ': <>/dev/tcp/127.0.0.1/{port}'")),
        ("reads its neighbour's scratch", format!("read -r x < {dir}/scratch/other/1.1/output.mp4")),
        ("makes a socket of the network", call(SYS_socket, &format!("{AF_INET}, {SOCK_DGRAM}, 0"))),
        ("makes a socket of the machine", call(SYS_socket, &format!("{AF_UNIX}, {SOCK_DGRAM}, 0"))),
        ("makes a socket of the kernel's ciphers", call(SYS_socket, &format!("{AF_ALG}, {SOCK_SEQPACKET}, 0"))),
        ("has itself traced", call(SYS_ptrace, "0, 0, 0, 0")),
        ("writes its scratch", "echo x > own && rm own".to_owned()),
        ("reads the worker's keys", format!("read -r x < {dir}/keys")),
        ("reads the environment of the first process", "test -n \"$(cat /proc/1/environ)\"".to_owned()),
        ("traces the worker", call(SYS_ptrace, &format!("16, {worker}, 0, 0"))),
        ("runs what it wrote", "cp /bin/true own && ./own".to_owned()),
        ("signals the worker", format!("kill -0 {worker}")),
        ("signals the first process", "kill -0 1".to_owned()),
        ("lists the machine's processes", "test -n \"$(ls /proc | grep '^[0-9]')\"".to_owned()),
        ("leaves something in shared memory", "echo x > /dev/shm/planted && rm /dev/shm/planted".to_owned()),
        ("mounts something", call(SYS_mount, "q(none), q(/mnt), q(tmpfs), 0, q()")),
    ];
    let mut script = "exec 1>&2\n".to_owned();
    for (name, attempt) in tries {
        script += &format!("if ({attempt}) 2>/dev/null; then echo \"it {name}\"; else echo \"never {name}\"; fi\n");
    }
    script + "exit 1"
}

/// What a burglar tries.
const TRIES: usize = 21;
/// What its user may of that, whatever the kernel.
const OF_ITS_USER: [&str; 13] = [
    "reads its neighbour",
    "reads the users",
    "reads the worker",
    "lists the media",
    "writes beside its output",
    "calls out",
    "reads its neighbour's scratch",
    "makes a socket of the network",
    "makes a socket of the machine",
    "has itself traced",
    "writes its scratch",
    "lists the machine's processes",
    "leaves something in shared memory",
];

/// What a burglar could do.
async fn what_a_burglar_does(mode: SandboxMode) -> Vec<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bench = Bench::with(|settings, dir| {
        settings.sandbox = mode;
        let media = &settings.media_roots[0];
        std::fs::write(media.join("neighbour.mp4"), "another's film\n").unwrap();
        let other = dir.join("scratch/other/1.1");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("output.mp4"), "another's work\n").unwrap();
        let keys = dir.join("keys");
        std::fs::write(&keys, "a key\n").unwrap();
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
        // What keeps the tool out is the cage, and not its user.
        std::fs::set_permissions(media, std::fs::Permissions::from_mode(0o777)).unwrap();
        let media = media.display().to_string();
        settings.ffmpeg = stand_in(dir, &burglar(&dir.display().to_string(), &media, port, std::process::id()));
    })
    .await;
    let grant = bench.grant(&bench.spec("240p25-h264"));
    let mut running = bench.start(&grant, Ledger::Grants);
    let ended = running.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::Unknown, "{:?}", failure(&ended));
    let mut said = Vec::new();
    while let Ok(line) = running.log.try_recv() {
        said.extend(Some(line.line).filter(|line| line.starts_with("it ") || line.starts_with("never ")));
    }
    assert_eq!(said.len(), TRIES, "{said:?}");
    bench.assert_clean();
    said.retain(|line| line.starts_with("it "));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_was_turned_against_us_finds_nothing() {
    assert_eq!(what_a_burglar_does(SandboxMode::Require).await, ["it writes its scratch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sandbox_the_same_tool_finds_all_that_its_user_may() {
    let all = what_a_burglar_does(SandboxMode::Off).await;
    // A kernel without its ciphers has no such sockets for anybody.
    let missing: Vec<&&str> = OF_ITS_USER.iter().filter(|what| !all.contains(&format!("it {what}"))).collect();
    assert!(missing.is_empty(), "{missing:?} of {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_says_what_stood_around_the_tools() {
    let bench = Bench::open().await;
    let ended = bench.run_spec(&bench.spec("240p25-h264")).await;
    let layers: Vec<&str> = bench.workshop.sandbox().iter().map(|layer| layer.as_str()).collect();
    assert!(layers.starts_with(&["landlock", "seccomp"]), "{layers:?}");
    // What stands around live jobs alone is not said of others.
    let around: Vec<&str> = layers.iter().copied().filter(|layer| *layer != "egress").collect();
    assert_eq!(manifest(&ended).sandbox, around);
    assert_eq!(bench.workshop.ability().sandbox, layers);

    let bare = Bench::with(|settings, _| settings.sandbox = SandboxMode::Off).await;
    let ended = bare.run_spec(&bare.spec("240p25-h264")).await;
    assert!(manifest(&ended).sandbox.is_empty());
}
