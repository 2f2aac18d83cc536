//! Everything dies in turn, and the audit that says so would also say what is wrong.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ffpool_loadtest::audit::{self, AuditArgs, Finding, Published, Wrong};
use ffpool_loadtest::chaos::{self, ChaosArgs, Fault};
use ffpool_loadtest::pool::{Pool, PoolSettings, binary_path};
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::lifecycle::State;

use crate::support::{BOUND, SMALL, files, pool, program, quick, run};

/// A minute and a half of faults, each at least once. The bounds are for a machine that is busy with other things.
#[test]
fn nothing_is_lost_doubled_or_stuck_whatever_dies() {
    run(async {
        let report = chaos::run(&ChaosArgs {
            minutes: 1.0,
            seed: 3,
            jobs_per_second: 15.0,
            encodes_per_second: 0.4,
            interval: 4.0,
            settle_secs: 600,
            ..ChaosArgs::default()
        })
        .await?;
        println!("{report}");
        assert!(report.is_clean(), "{report}");
        let met: BTreeSet<Fault> = report.faults.iter().map(|figures| figures.fault).collect();
        assert_eq!(met, BTreeSet::from(Fault::ALL), "{report}");
        assert!(report.audit.confirmed > 100 && report.audit.artifacts > 5, "{report}");
        Ok(())
    });
}

/// A settled pool and everything that an audit looks at.
struct Scene {
    pool: Pool,
    args: AuditArgs,
    encode: JobId,
    output: PathBuf,
}

impl Scene {
    async fn set() -> anyhow::Result<Scene> {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let mut noop = JobSpec::new("custom-input");
        noop.engine = Engine::Noop;
        let outputs = ["first.mp4", "second.mp4"].map(|name| pool.media.join(name));
        let mut lines = String::new();
        let mut ids = Vec::new();
        let mut encodes = outputs.each_ref().map(|output| quick(&output.display().to_string()));
        // One job of two outputs, one of which is many files.
        let stream = pool.media.join("stream.m3u8").display().to_string();
        encodes[1].outputs =
            vec![serde_json::from_value(serde_json::json!({"url": stream, "scenario": "240p15-h264"}))?];
        for spec in encodes.into_iter().chain([noop.clone(), noop]) {
            let id = pool.client.submit(&spec).await?.id;
            let published = Published { id, confirmed: true, output: spec.output.map(PathBuf::from) };
            lines += &serde_json::to_string(&published)?;
            lines.push('\n');
            ids.push(id);
        }
        for id in &ids {
            let detail = pool.until_ended(*id, BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
        }
        let record = pool.directory().join("record.jsonl");
        std::fs::write(&record, lines)?;
        let args = AuditArgs {
            record,
            database_url: pool.database_url.clone(),
            media_roots: vec![pool.media.clone()],
            scratch: vec![pool.scratch(0)],
            exclusive: true,
            settle_secs: 0,
        };
        let [output, _] = outputs;
        Ok(Scene { pool, args, encode: ids[0], output })
    }

    fn findings(&self) -> Vec<Finding> {
        tokio::task::block_in_place(|| audit::run(&self.args)).expect("the audit can look").findings
    }

    /// Changes the ledger by hand.
    fn ledger(&self, statement: &str) {
        let statement = statement.replace("$JOB", &format!("'{}'", self.encode));
        let url = &self.pool.database_url;
        let changed = std::thread::scope(|scope| {
            let change = || postgres::Client::connect(url, postgres::NoTls)?.batch_execute(&statement);
            scope.spawn(change).join().expect("the change does not panic")
        });
        changed.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    #[track_caller]
    fn must_find(&self, wrong: Wrong, what: &str) {
        let findings = self.findings();
        let is_it = |finding: &Finding| finding.wrong == wrong && finding.what.contains(what);
        assert!(findings.iter().any(is_it), "{wrong} `{what}` is not among {findings:#?}");
    }

    #[track_caller]
    fn must_be_clean(&self) {
        assert_eq!(self.findings(), []);
    }

    /// What the program says: its exit code.
    fn exit_code(&self) -> anyhow::Result<Option<i32>> {
        let show = |path: &Path| path.display().to_string();
        let arguments = [
            "audit".to_owned(),
            format!("--record={}", show(&self.args.record)),
            format!("--database-url={}", self.args.database_url),
            format!("--media-roots={}", show(&self.args.media_roots[0])),
            format!("--scratch={}", show(&self.args.scratch[0])),
            "--exclusive".to_owned(),
        ];
        let loadtest = show(&binary_path("ffpool-loadtest")?);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(program(&loadtest, "ffpool", &arguments).status.code())
    }
}

#[test]
fn an_audit_finds_every_planted_fault_and_nothing_else() {
    run(async {
        let scene = Scene::set().await?;
        scene.must_be_clean();
        assert_eq!(scene.exit_code()?, Some(0));
        planted_files(&scene)?;
        planted_remains(&scene)?;
        planted_rows(&scene);
        scene.ledger("DELETE FROM job WHERE id = $JOB");
        scene.must_find(Wrong::Lost, "is not in the ledger");
        assert_eq!(scene.exit_code()?, Some(1));
        Ok(())
    });
}

fn planted_files(scene: &Scene) -> anyhow::Result<()> {
    let whole = std::fs::read(&scene.output)?;
    let mut altered = whole.clone();
    altered[100] ^= 1;
    std::fs::write(&scene.output, altered)?;
    scene.must_find(Wrong::Unproven, "sha256");
    std::fs::remove_file(&scene.output)?;
    scene.must_find(Wrong::Lost, "first.mp4");
    std::fs::write(&scene.output, &whole)?;
    scene.must_be_clean();

    let made = files(&scene.pool.media);
    let is_segment = |path: &&PathBuf| path.to_string_lossy().contains("segments-");
    let segment = made.iter().find(is_segment).expect("a presentation has segments");
    let bytes = std::fs::read(segment)?;
    std::fs::write(segment, "cut off")?;
    scene.must_find(Wrong::Unproven, "segments-");
    std::fs::write(segment, bytes)?;
    scene.must_be_clean();

    let copy = scene.output.with_file_name("copy.mp4");
    std::fs::write(&copy, &whole)?;
    scene.must_find(Wrong::Doubled, "copy.mp4");
    let (manifest, second) =
        (scene.output.with_file_name("first.mp4.ffpool.json"), copy.with_file_name("copy.mp4.ffpool.json"));
    std::fs::copy(&manifest, &second)?;
    scene.must_find(Wrong::Doubled, "says that it is an output too");
    std::fs::remove_file(copy)?;
    std::fs::remove_file(second)?;

    let part = scene.output.with_file_name(format!(".ffpool-{}.1.part", scene.encode));
    std::fs::write(&part, "half")?;
    scene.must_find(Wrong::Left, ".part");
    std::fs::remove_file(part)?;
    scene.must_be_clean();
    Ok(())
}

fn planted_remains(scene: &Scene) -> anyhow::Result<()> {
    let scratch = scene.args.scratch[0].join(scene.pool.worker_id(0)).join(format!("{}.7", scene.encode));
    std::fs::create_dir(&scratch)?;
    scene.must_find(Wrong::Left, "scratch");
    let mut tool = Command::new("sleep").arg("600").current_dir(&scratch).stdin(Stdio::null()).spawn()?;
    scene.must_find(Wrong::Left, "process");
    tool.kill()?;
    tool.wait()?;
    std::fs::remove_dir(&scratch)?;
    scene.must_be_clean();
    Ok(())
}

fn planted_rows(scene: &Scene) {
    scene.ledger("UPDATE job SET state = 'running' WHERE id = $JOB");
    scene.must_find(Wrong::Stuck, "is still running");
    scene.ledger("UPDATE job SET state = 'completed' WHERE id = $JOB");
    scene.must_be_clean();

    let attempt = "INSERT INTO attempt (job, attempt, worker, incarnation, outcome) \
        SELECT job, 2, worker, incarnation, ";
    scene.ledger(&format!("{attempt} NULL FROM attempt WHERE job = $JOB"));
    scene.must_find(Wrong::Stuck, "attempt 2 has no end");
    scene.ledger("UPDATE attempt SET outcome = 'finished' WHERE job = $JOB AND attempt = 2");
    scene.must_find(Wrong::Doubled, "attempts 1 and 2 have both finished");
    scene.ledger("DELETE FROM attempt WHERE job = $JOB AND attempt = 2");
    scene.must_be_clean();

    let event = |kind: &str, attempt: u32| {
        scene.ledger(&format!(
            "INSERT INTO event (job, kind, state, attempt) VALUES ($JOB, '{kind}', 'completed', {attempt})"
        ));
    };
    // A second attempt finishes after the first, and never had consent.
    event("finished", 2);
    scene.must_find(Wrong::Doubled, "attempts 1 and 2 completed it");
    scene.must_find(Wrong::Unfenced, "attempt 2 finished and had no consent");
    scene.ledger("DELETE FROM event WHERE job = $JOB AND attempt = 2");
    // A zombie asks for consent after the lease was lost, and gets it.
    event("lapse", 1);
    event("commit", 1);
    scene.must_find(Wrong::Unfenced, "attempt 1 got consent after it had lost its lease");
    scene.ledger("DELETE FROM event WHERE job = $JOB AND kind = 'lapse'");
    scene.must_be_clean();
    scene.ledger("UPDATE job SET manifest = jsonb_set(manifest, '{attempt}', '3') WHERE id = $JOB");
    scene.must_find(Wrong::Unproven, "was made by attempt 3");
    scene.ledger("UPDATE job SET manifest = jsonb_set(manifest, '{attempt}', '1') WHERE id = $JOB");
    scene.must_be_clean();
}
