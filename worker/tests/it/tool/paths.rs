//! Which files a job may name.

use std::os::unix::fs::{PermissionsExt, symlink};

use ffpool_schema::failure::Cause;

use super::bench::{Bench, failure, fault, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn paths_out_of_the_roots_are_refused_before_anything_runs() {
    let bench = Bench::open().await;
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("a.mp4"), "x").unwrap();
    symlink(&outside, bench.media("link")).unwrap();
    let good = bench.clip("good.mp4", &[]);
    let at = |path: &str| bench.media(path).display().to_string();
    for (input, output, expected) in [
        (at("../outside/a.mp4"), at("o.mp4"), "input outside_roots"),
        (at("link/a.mp4"), at("o.mp4"), "input outside_roots"),
        ("/etc/passwd".to_owned(), at("o.mp4"), "input outside_roots"),
        (format!("file://{}", at("%2E%2E/outside/a.mp4")), at("o.mp4"), "input outside_roots"),
        (good.clone(), at("../outside/o.mp4"), "output outside_roots"),
        (good.clone(), at("link/o.mp4"), "output outside_roots"),
        (good.clone(), good.clone(), "output same_as_input"),
    ] {
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(input.clone());
        spec.output = Some(output.clone());
        assert_eq!(fault(&bench.run_spec(&spec).await), expected, "{input} to {output}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_like_options_are_only_names() {
    let bench = Bench::open().await;
    for (input, output) in [("-y.mp4", "-f null.mp4"), ("a:b%d?*'\".mp4", "pipe:1.mp4")] {
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(bench.clip(input, &[]));
        spec.output = Some(bench.media(output).display().to_string());
        manifest(&bench.run_spec(&spec).await);
        assert!(bench.media(output).is_file());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_there_is_missing() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(bench.clip("soon-gone.mp4", &[]));
    let grant = bench.grant(&spec);
    std::fs::remove_file(bench.media("soon-gone.mp4")).unwrap();
    let ended = bench.run(&grant).await;
    assert_eq!(failure(&ended).cause, Cause::InputMissing);
    assert!(failure(&ended).message.contains("soon-gone.mp4"), "{:?}", failure(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_only_its_owner_may_read_is_encoded_all_the_same() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    let input = bench.clip("private.mp4", &[]);
    std::fs::set_permissions(&input, std::fs::Permissions::from_mode(0o600)).unwrap();
    spec.input = Some(input);
    spec.output = Some(bench.media("out.mp4").display().to_string());
    manifest(&bench.run_spec(&spec).await);
    assert_eq!(std::fs::metadata(bench.media("out.mp4")).unwrap().permissions().mode() & 0o777, 0o644);
}
