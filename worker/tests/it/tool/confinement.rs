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
    assert_eq!(session[1], session[3], "the tool leads no session of its own");
    assert_eq!(says("stdin")[1], "/dev/null");
    let group = format!("ffpool/{}/{}.1", bench.settings.worker, grant.job);
    assert!(lines.iter().any(|line| line.ends_with(&group)), "not in {group}: {lines:#?}");
    for line in &lines {
        assert!(!line.starts_with("CARGO"), "the worker's environment leaks: {line}");
    }
    bench.assert_clean();
}

/// Tries what a tool that was turned against us would, and tells what it could do.
fn burglar(neighbour: &str, media: &str, port: u16, worker: u32) -> String {
    let tries = [
        ("reads its neighbour", format!("read -r x < {neighbour}")),
        ("reads the users", "read -r x < /etc/passwd".to_owned()),
        ("reads the worker", format!("read -r x < /proc/{worker}/status")),
        ("lists the media", format!("test -n \"$(ls {media})\"")),
        ("writes beside its output", format!("echo x > {media}/planted")),
        ("calls out", format!("bash -c ': <>/dev/tcp/127.0.0.1/{port}'")),
        ("writes its scratch", "echo x > own && rm own".to_owned()),
    ];
    let mut script = "exec 1>&2\n".to_owned();
    for (name, attempt) in tries {
        script += &format!("if ({attempt}) 2>/dev/null; then echo \"it {name}\"; else echo \"never {name}\"; fi\n");
    }
    script + "exit 1"
}

/// What a burglar could do.
async fn what_a_burglar_does(mode: SandboxMode) -> Vec<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bench = Bench::with(|settings, dir| {
        settings.sandbox = mode;
        let media = &settings.media_roots[0];
        let neighbour = media.join("neighbour.mp4");
        std::fs::write(&neighbour, "another's film\n").unwrap();
        // What keeps the tool out is the cage, and not its user.
        std::fs::set_permissions(media, std::fs::Permissions::from_mode(0o777)).unwrap();
        let [neighbour, media] = [&neighbour, media].map(|path| path.display().to_string());
        settings.ffmpeg = stand_in(dir, &burglar(&neighbour, &media, port, std::process::id()));
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
    assert_eq!(said.len(), 7, "{said:?}");
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
    assert_eq!(all.len(), 7, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_says_what_stood_around_the_tools() {
    let bench = Bench::open().await;
    let ended = bench.run_spec(&bench.spec("240p25-h264")).await;
    let layers: Vec<&str> = bench.workshop.sandbox().iter().map(|layer| layer.as_str()).collect();
    assert!(layers.starts_with(&["landlock", "seccomp"]), "{layers:?}");
    assert_eq!(manifest(&ended).sandbox, layers);
    assert_eq!(bench.workshop.ability().sandbox, layers);

    let bare = Bench::with(|settings, _| settings.sandbox = SandboxMode::Off).await;
    let ended = bare.run_spec(&bare.spec("240p25-h264")).await;
    assert!(manifest(&ended).sandbox.is_empty());
}
