use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::trial::LOOK;
use super::*;
use crate::tool::Invocation;

/// A script of bash that is to run behind the bars.
fn shut_in(cage: &Cage, scratch: &Path, needs: &Needs<'_>, script: &str) -> Command {
    let mut bars = cage.bars(Path::new("/bin/bash"), ToolUser::Own, Some(scratch), needs).unwrap();
    let mut command = Command::new("/bin/bash");
    command.args(["-c", script]).current_dir(scratch).stdin(Stdio::null());
    // SAFETY: as in `tool::confined`.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            bars.part()?;
            bars.close()
        });
    }
    command
}

/// Runs a script of bash behind the bars: what it says, and whether it ended well.
fn behind(cage: &Cage, scratch: &Path, needs: &Needs<'_>, script: &str) -> (String, bool) {
    let output = shut_in(cage, scratch, needs, script).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

fn open(mode: SandboxMode, tool: &str) -> Result<Cage, CageError> {
    let scratch = tempfile::tempdir().unwrap();
    Cage::open(mode, Path::new(tool), ToolUser::Own, &[], scratch.path())
}

fn cage() -> Cage {
    open(SandboxMode::Require, "/usr/bin/ffprobe").expect("a kernel with Landlock and seccomp")
}

/// Whether Landlock keeps signals inside here.
fn keeps_signals() -> bool {
    use nix::libc;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag it takes no attributes and answers with a version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, 1) };
    version >= 6
}

const NOTHING: Needs<'static> = Needs { reads: &[], network: None, devices: false };

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
    let reach = Reach::to([listener.local_addr().unwrap()]);
    let live = Needs { network: Some(&reach), ..NOTHING };
    assert!(behind(&cage, scratch.path(), &live, &dial).1, "a live job goes to the network");
    // Whatever other layers work here, each holds alone.
    for layer in [Layer::Files, Layer::Calls, Layer::Network] {
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
    let without_spaces = Cage { layers: vec![Layer::Files, Layer::Calls], ..cage.clone() };
    let is_kept = !behind(&without_spaces, scratch.path(), &NOTHING, &outside).1;
    assert_eq!(is_kept, keeps_signals());
    assert!(!behind(&cage, scratch.path(), &NOTHING, &outside).1);
}

#[test]
fn what_does_not_work_is_missing_or_refused() {
    let broken = open(SandboxMode::Require, "/bin/false").unwrap_err().to_string();
    assert!(broken.starts_with("landlock is required and does not work here: "), "{broken}");
    assert!(open(SandboxMode::Best, "/bin/false").unwrap().layers().is_empty());
    assert!(open(SandboxMode::Off, "/usr/bin/ffprobe").unwrap().layers().is_empty());
    let layers = Layer::ALL;
    let cage = Cage { layers: layers.to_vec(), ..cage() };
    assert_eq!(cage.around(false).collect::<Vec<_>>(), layers[..7]);
    let live: Vec<Layer> = layers.into_iter().filter(|layer| *layer != Layer::Network).collect();
    assert_eq!(cage.around(true).collect::<Vec<_>>(), live);
}

#[test]
fn a_scratch_that_the_tools_user_cannot_enter_is_told_with_its_cure_and_takes_what_it_would_break() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let [open, shut] = ["open", "shut"].map(|name| place.path().join(name));
    for (path, mode) in [(place.path(), 0o755), (&open, 0o755), (&shut, 0o700)] {
        std::fs::create_dir_all(path.join("scratch")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let nobody = ToolUser::Switch { uid: 65534, gid: 65534 };
    let told = trial::closed(&shut.join("scratch"), nobody);
    assert!(told.contains(&format!("chmod o+x {}`", shut.display())), "{told}");
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can run tools as somebody else.
        return;
    }
    // The worker makes the namespaces, or may not, as in a container.
    for may_part in [true, false] {
        let cage = Cage { layers: Vec::new(), user: nobody, may_part, ..cage() };
        let tool = Path::new("/usr/bin/ffprobe");
        let tried = |parent: &Path| {
            let trial = Trial::begin(&cage, tool, &parent.join("scratch")).unwrap();
            let spaces = trial.of(&cage, &[Layer::Mounts, Layer::Processes]);
            (trial.reaches, spaces.map_err(|why| why.kind()))
        };
        assert_eq!(tried(&open), (true, Ok(())), "{may_part}");
        let shut = tried(&shut);
        assert_eq!(shut, (false, if may_part { Ok(()) } else { Err(io::ErrorKind::PermissionDenied) }), "{may_part}");
    }
    let left = std::fs::read_dir(open.join("scratch")).unwrap().count();
    assert_eq!(left, 0, "trials leave nothing");
}

#[test]
fn a_run_as_another_than_the_tools_user_has_its_namespaces_too() {
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can run tools as somebody else.
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for may_part in [true, false] {
        let cage = Cage { user: ToolUser::Switch { uid: 65534, gid: 65534 }, may_part, ..cage() };
        let user = ToolUser::Switch { uid: 1, gid: 1 };
        user.give(scratch.path()).unwrap();
        let invocation = Invocation {
            program: Path::new("/bin/bash"),
            arguments: &["-c".into(), "echo made > made && test $(id -u) -eq 1 && test $BASHPID -lt 9".into()],
            directory: scratch.path(),
            user,
            group: None,
            file_bytes: u64::MAX,
            open_files: 64,
            nice: 0,
            cage: &cage,
            needs: NOTHING,
        };
        let output = crate::tool::confined(&invocation).unwrap().into_std().output().unwrap();
        assert!(output.status.success(), "{may_part}: {output:?}");
    }
}

/// Runs a test of those that others run, where a machine has a device: a node that can be read and written, and asked anything.
fn with_a_device(test: &str) -> std::process::Output {
    let dev = tempfile::tempdir().unwrap();
    let script = "set -e; dev=$1; mount -t tmpfs none \"$dev\"; mkdir \"$dev/dri\"
        as() { : > \"$dev/$2\"; mount --bind \"/dev/$1\" \"$dev/$2\"; }
        for node in full null random urandom zero; do as $node $node; done; as full dri/renderD128
        mount --rbind \"$dev\" /dev; exec \"$0\" --ignored --exact \"$2\" --nocapture";
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "bash", "-c", script]).arg(std::env::current_exe().unwrap());
    command.arg(dev.path()).arg(test).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_device_is_opened_by_who_encodes_on_it_and_by_nobody_else() {
    let output = with_a_device("cage::tests::where_there_is_a_device");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("1 passed"));
}

#[test]
#[ignore = "another test runs it, in mounts with a device"]
fn where_there_is_a_device() {
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    assert!(Layer::SPACES.iter().all(|layer| cage.layers().contains(layer)), "{:?}", cage.layers());
    // The driver of this one knows no questions, and says so itself: 25 is `ENOTTY`.
    let opens = "perl -e 'open(D, q(+<), q(/dev/dri/renderD128)) or exit 1; ioctl(D, 0x6400, 0); exit($! != 25)'";
    let on_device = Needs { devices: true, ..NOTHING };
    for may_part in [cage.may_part, false] {
        let around = |layers: &[Layer]| Cage { layers: layers.to_vec(), may_part, ..cage.clone() };
        for layers in [cage.layers(), &Layer::SPACES, &[Layer::Files]] {
            let (said, is_done) = behind(&around(layers), scratch.path(), &on_device, opens);
            assert!(is_done, "behind {layers:?}, {may_part}: {said}");
        }
        for layers in [cage.layers(), &[Layer::Files]] {
            assert!(!behind(&around(layers), scratch.path(), &NOTHING, opens).1, "behind {layers:?}, {may_part}");
        }
    }
}

/// Sends a datagram by the call that names an address in a header in memory, as libraries of SRT do.
fn by_message(port: u16, flags: nix::libc::c_int) -> String {
    use nix::libc::SYS_sendmsg;
    format!(
        "perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0) or exit 1; $to = pack_sockaddr_in({port}, inet_aton(q(127.0.0.1)));
        $bytes = q(hello); $part = pack(q(PQ), $bytes, 5); $head = pack(q(PLx4PQQQlx4), $to, length $to, $part, 1, 0, 0, 0);
        exit(syscall({SYS_sendmsg}, fileno(S), $head, {flags}) != 5)'"
    )
}

#[test]
fn a_live_job_s_tool_goes_where_it_was_told_and_nowhere_else() {
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    assert!(cage.layers().contains(&Layer::Egress), "the worker may look into its own tools: {:?}", cage.layers());
    let [good, bad] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [good_datagrams, bad_datagrams] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = |address: io::Result<SocketAddr>| address.unwrap().port();
    let (yes, no) = (port(good.local_addr()), port(bad.local_addr()));
    let (yes_datagrams, no_datagrams) = (port(good_datagrams.local_addr()), port(bad_datagrams.local_addr()));
    let reach = Reach::to([good.local_addr().unwrap(), good_datagrams.local_addr().unwrap()]);
    let live = Needs { network: Some(&reach), ..NOTHING };
    let dial = |kind: &str, host: &str, port: u16| format!("echo hello > /dev/{kind}/{host}/{port}");
    let send = |port: u16| {
        format!(
            "perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0) or exit 1; \
             exit(send(S, q(hello), 0, pack_sockaddr_in({port}, inet_aton(q(127.0.0.1)))) != 5)'"
        )
    };
    let family = |domain: &str| format!("perl -MSocket -e 'exit !socket(S, {domain}, SOCK_DGRAM, 0)'");
    let speaks = |what: &str| format!("perl -MSocket -e 'exit !socket(S, PF_INET, {what})'");
    let pair = |kind: &str| format!("perl -MSocket -e 'exit !socketpair(A, B, PF_UNIX, {kind}, 0)'");
    // By themselves, and behind all the others.
    for layers in [vec![Layer::Calls, Layer::Egress], cage.layers().to_vec()] {
        let cage = Cage { layers, ..cage.clone() };
        for (script, is_allowed) in [
            (dial("tcp", "127.0.0.1", yes), true),
            (dial("udp", "127.0.0.1", yes_datagrams), true),
            (send(yes_datagrams), true),
            (by_message(yes_datagrams, 0), true),
            (dial("tcp", "127.0.0.1", no), false),
            // The right port of another address.
            (dial("tcp", "127.0.0.2", yes), false),
            (dial("udp", "127.0.0.1", no_datagrams), false),
            (send(no_datagrams), false),
            (by_message(no_datagrams, 0), false),
            (by_message(no_datagrams, egress::HANDOVER), false),
            (family("PF_UNIX"), false),
            (speaks("SOCK_DGRAM, 17"), true),
            (speaks("SOCK_STREAM, 6"), true),
            // ICMP, and TCP of many paths.
            (speaks("SOCK_DGRAM, 1"), false),
            (speaks("SOCK_STREAM, 262"), false),
            (pair("SOCK_STREAM"), true),
            (pair("SOCK_SEQPACKET"), true),
            (pair("SOCK_DGRAM"), false),
            ("perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); exit !listen(S, 1)'".to_owned(), false),
        ] {
            let (said, is_done) = behind(&cage, scratch.path(), &live, &script);
            assert_eq!(is_done, is_allowed, "{script} behind {:?}: {said}", cage.layers());
        }
    }
    for (listener, visits) in [(&good, 2), (&bad, 0)] {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), visits);
    }
    for (socket, datagrams) in [(&good_datagrams, 6), (&bad_datagrams, 0)] {
        socket.set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| socket.recv(&mut [0; 16]).ok()).count();
        assert_eq!(received, datagrams);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_a_name_moves_to_its_tool_may_follow_and_nowhere_else() {
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let first = TcpListener::bind((hosts[0], 0)).unwrap();
    let port = first.local_addr().unwrap().port();
    let _others = [1, 2].map(|host| TcpListener::bind((hosts[host], port)).unwrap());
    let moved: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    let reach = Reach::to([first.local_addr().unwrap()]).and_where_names_move(move || std::future::ready(vec![moved]));
    let live = Needs { network: Some(&reach), ..NOTHING };
    for (host, is_allowed) in hosts.into_iter().zip([true, true, false]) {
        let (said, is_done) = behind(&cage, scratch.path(), &live, &format!(": <>/dev/tcp/{host}/{port}"));
        assert_eq!(is_done, is_allowed, "{host}: {said}");
    }
}

/// What the bars cost, for `docs/sandbox.md`: `cargo test -p ffpool-worker --lib what_the_bars_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, which nothing is judged by"]
fn what_the_bars_cost() {
    const STARTS: u32 = 200;
    const MESSAGES: u32 = 20_000;
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    let sink = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let reach = Reach::to([sink.local_addr().unwrap()]);
    let live = Needs { network: Some(&reach), ..NOTHING };
    let open = Cage { layers: Vec::new(), ..cage.clone() };
    for (what, cage, needs) in
        [("none", &open, &NOTHING), ("a file job", &cage, &NOTHING), ("a live job", &cage, &live)]
    {
        let began = Instant::now();
        for _ in 0..STARTS {
            assert!(behind(cage, scratch.path(), needs, ":").1);
        }
        println!("a start behind the bars of {what}: {:?}", began.elapsed() / STARTS);
    }
    let script = by_message(sink.local_addr().unwrap().port(), 0)
        .replace("exit(", &format!("for (1..{MESSAGES}) {{ "))
        .replace("!= 5)'", "== 5 or exit 1 }'");
    for (what, cage) in [("without", &open), ("behind", &cage)] {
        let began = Instant::now();
        assert!(behind(cage, scratch.path(), &live, &script).1, "{script}");
        println!("a message {what} the bars: {:?}", began.elapsed() / MESSAGES);
    }
}

/// A segment of System V memory of the machine's, while it lives.
struct Segment(nix::libc::c_int);

impl Segment {
    fn make() -> Segment {
        // SAFETY: it takes numbers.
        let id = unsafe { nix::libc::shmget(nix::libc::IPC_PRIVATE, 4096, 0o666) };
        assert!(id >= 0, "{}", io::Error::last_os_error());
        Segment(id)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: it is this test's own, and nobody has it in memory.
        unsafe { nix::libc::shmctl(self.0, nix::libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// Tries what each namespace is to keep a tool from, with the right to do it and without any other layer.
fn try_the_spaces(cage: &Cage) {
    let (scratch, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (worker, segment) = (std::process::id(), Segment::make());
    let outside = beside.path().join("outside");
    let made = outside.display();
    let signals = format!("kill -0 {worker}");
    let reads_memory = format!("perl -e 'exit !shmread({}, $x, 0, 1)'", segment.0);
    let writes = format!("echo made > {made}");
    let sees_others = "set -- /proc/[0-9]*; test $# -gt 3".to_owned();
    let mounts_of_the_worker = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts_of_the_worker();
    for (layers, script) in [
        (&[Layer::Processes][..], &signals),
        (&[Layer::Ipc], &reads_memory),
        (&[Layer::Mounts], &writes),
        (&[Layer::Processes, Layer::Mounts, Layer::Proc], &sees_others),
    ] {
        let around = |layers: &[Layer]| Cage { layers: layers.to_vec(), ..cage.clone() };
        assert!(behind(&around(&[]), scratch.path(), &NOTHING, script).1, "bare, the tool may: {script}");
        let (said, is_done) = behind(&around(layers), scratch.path(), &NOTHING, script);
        assert!(!is_done, "{script} behind {layers:?}: {said}");
        let works = "echo made > made && cat made && rm made && head -c 1 /dev/zero > /dev/null && cat /proc/self/stat";
        let (said, is_done) = behind(&around(layers), scratch.path(), &NOTHING, works);
        assert!(is_done, "behind {layers:?}: {said}");
        std::fs::remove_file(&outside).ok();
    }
    for script in ["mount -t tmpfs none /mnt", "mount --bind / /mnt", "umount -l /proc", "mount -o remount,rw /"] {
        assert!(!behind(cage, scratch.path(), &NOTHING, script).1, "{script}");
    }
    let own = Cage { layers: vec![Layer::Mounts], ..cage.clone() };
    behind(&own, scratch.path(), &NOTHING, "mount -t tmpfs none /mnt");
    assert_eq!(mounts_of_the_worker(), before, "what a tool mounts is its own");
}

#[test]
fn a_tool_sees_signals_and_changes_nobody_outside_its_namespaces() {
    let cage = cage();
    assert!(Layer::SPACES.iter().all(|layer| cage.layers().contains(layer)), "{:?}", cage.layers());
    try_the_spaces(&cage);
}

#[test]
fn a_tool_with_processes_of_its_own_ends_as_it_ended_and_nobody_outlives_it() {
    use std::os::unix::process::ExitStatusExt as _;
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    // As under a supervisor that has its children ignore it.
    // SAFETY: no handler is set.
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) }
        .unwrap();
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 77", Some(77), None),
        // Who leaves its children alone, or has them leave it.
        ("sleep 600 & exit 3", Some(3), None),
        ("(setsid sleep 600 &) ; exit 4", Some(4), None),
        // What the first process of a namespace would not notice.
        ("kill -ABRT $$", None, Some(6)),
        ("kill -TERM $$", None, Some(15)),
        ("kill -KILL $$", None, Some(9)),
        ("kill -XFSZ $$", None, Some(25)),
        ("kill -SEGV $$", None, Some(11)),
    ] {
        let status = shut_in(&cage, scratch.path(), &NOTHING, script).status().unwrap();
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
        assert_eq!(those_in(scratch.path()), Vec::<String>::new(), "{script}");
    }
    // A stop is heard by the tool, and by nobody who stands between.
    let script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.01; done";
    let mut child = shut_in(&cage, scratch.path(), &NOTHING, script).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    // What a tool sends to its whole group, its own end among it, changes nothing about how that is told.
    let script = "trap '' TERM; setsid sleep 600 & kill -TERM 0; perl -e 'kill KILL => 0'";
    let status = shut_in(&cage, scratch.path(), &NOTHING, script).status().unwrap();
    assert_eq!((status.signal(), those_in(scratch.path())), (Some(9), Vec::new()));
    // Whoever stands for it is killed, and everybody with it.
    let mut child = shut_in(&cage, scratch.path(), &NOTHING, "setsid sleep 600 & echo ready; exec sleep 600");
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert!(those_in(scratch.path()).len() >= 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !those_in(scratch.path()).is_empty() {
        assert!(Instant::now() < until, "{:?} live on", those_in(scratch.path()));
        std::thread::sleep(LOOK);
    }
}

/// The first child of a process.
fn child_of(pid: u32) -> u32 {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whether these bytes lie in a process's memory, where a heap would put them. An error: it may not be looked into.
fn remembers(pid: u32, bytes: &[u8; 16]) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let mut there = vec![0; (number(end) - number(start)) as usize];
        // What is mapped and lies nowhere is not read.
        let read = memory.read_at(&mut there, number(start)).unwrap_or(0);
        let pages = there[..read].chunks(4096).filter(|page| *page != &[0; 4096][..page.len()]);
        if pages.flat_map(|page| page.chunks_exact(16)).any(|part| part == bytes) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn who_stands_between_knows_nothing_of_the_worker_s_and_is_out_of_the_tool_s_reach() {
    let (cage, scratch) = (cage(), tempfile::tempdir().unwrap());
    assert!(cage.layers().contains(&Layer::Processes), "{:?}", cage.layers());
    // Where a worker has its secrets; the program itself does not hold it in one piece.
    let secret: Box<[u8]> = "terces s'rekrow ".bytes().rev().collect();
    let secret: Box<[u8; 16]> = secret.try_into().unwrap();
    let mut child = shut_in(&cage, scratch.path(), &NOTHING, "echo ready; exec sleep 600");
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let deputy = child.id();
    let keeper = child_of(deputy);
    let tool = child_of(keeper);
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        assert!(remembers(std::process::id(), &secret).unwrap(), "what is looked for is found where it is");
    }
    for (pid, name) in [(deputy, "ffpool-deputy"), (keeper, "ffpool-keeper")] {
        let told = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        assert_eq!(told("comm").trim(), name);
        match remembers(pid, &secret) {
            Ok(remembers) => assert!(is_root && !remembers, "{name} remembers: {}", told("maps")),
            Err(why) => assert!(!is_root, "{name} is closed to its own user alone: {why}"),
        }
        let status = told("status");
        let rights = |set: &str| status.lines().any(|line| line.split_whitespace().eq([set, "0000000000000000"]));
        assert!(rights("CapPrm:") && rights("CapEff:") && rights("CapInh:"), "{status}");
    }
    // Its group of processes is its own, and so is its session.
    let place = |pid: u32| {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        (nix::unistd::getpgid(Some(pid)).unwrap(), nix::unistd::getsid(Some(pid)).unwrap())
    };
    assert_eq!(place(keeper), place(deputy));
    let own = nix::unistd::Pid::from_raw(tool.cast_signed());
    assert_eq!(place(tool), (own, own));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Who works in a directory.
fn those_in(directory: &Path) -> Vec<String> {
    let works = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten().filter(works);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_worker_that_is_not_root_makes_the_same_namespaces_where_the_kernel_lets_it() {
    let plain = |command: &mut Command| {
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    let mut asked = Command::new("unshare");
    asked.args([
        "--user",
        "--map-current-user",
        "--mount",
        "--ipc",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "true",
    ]);
    let lets = if plain(&mut asked).status.success() { "yes" } else { "no" };
    // Its directory may be closed to that user; the file itself is not.
    let mut again = Command::new("/proc/self/exe");
    again.args(["--ignored", "--exact", "cage::tests::as_a_plain_user", "--nocapture"]).env("KERNEL_LETS", lets);
    let output = plain(again.env("TMPDIR", "/tmp").current_dir("/"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("1 passed"));
}

#[test]
#[ignore = "another test runs it, as a user without rights"]
fn as_a_plain_user() {
    // As the worker does, whose environment is not for others of its user.
    nix::sys::prctl::set_dumpable(false).unwrap();
    let cage = cage();
    assert!([Layer::Files, Layer::Calls].iter().all(|layer| cage.layers().contains(layer)), "{:?}", cage.layers());
    let lets = std::env::var("KERNEL_LETS").as_deref() == Ok("yes");
    assert!(Layer::SPACES.iter().all(|layer| cage.layers().contains(layer) == lets), "{:?}", cage.layers());
    if lets {
        try_the_spaces(&cage);
        let (heard, scratch) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
        let not_heard = TcpListener::bind("127.0.0.1:0").unwrap();
        let reach = Reach::to([heard.local_addr().unwrap()]);
        let live = Needs { network: Some(&reach), ..NOTHING };
        for (listener, is_allowed) in [(&heard, true), (&not_heard, false)] {
            let dial = format!(": <>/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
            let is_asked = cage.layers().contains(&Layer::Egress);
            assert!(is_asked, "in its namespace of users the worker may look into its tools: {:?}", cage.layers());
            assert_eq!(behind(&cage, scratch.path(), &live, &dial).1, is_allowed);
        }
    }
}
