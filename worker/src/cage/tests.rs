use std::net::SocketAddr;

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

fn open(mode: SandboxMode, tool: &str) -> Result<Cage, CageError> {
    Cage::open(mode, Path::new(tool), ToolUser::Own, &[])
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
    for layer in cage.layers().iter().copied().filter(|layer| *layer != Layer::Egress) {
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
    let broken = open(SandboxMode::Require, "/bin/false").unwrap_err().to_string();
    assert!(broken.starts_with("landlock is required and does not work here: "), "{broken}");
    assert!(open(SandboxMode::Best, "/bin/false").unwrap().layers().is_empty());
    assert!(open(SandboxMode::Off, "/usr/bin/ffprobe").unwrap().layers().is_empty());
    let layers = Layer::ALL;
    let cage = Cage { layers: layers.to_vec(), ..cage() };
    assert_eq!(cage.around(false).collect::<Vec<_>>(), layers[..3]);
    assert_eq!(cage.around(true).collect::<Vec<_>>(), [Layer::Files, Layer::Calls, Layer::Egress]);
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
    // On its own, and behind all the others.
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
