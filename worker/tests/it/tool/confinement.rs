//! What a tool finds itself in.

use ffpool_schema::failure::Cause;
use ffpool_worker::workshop::CgroupMode;

use super::bench::{Bench, Ledger, failure, stand_in};

/// Tells everything about itself on its log, then fails.
const CONFESSION: &str = "exec 1>&2\ncat /proc/self/status\ncat /proc/self/cgroup\necho files $(ulimit -n) core $(ulimit -c)\n\
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
