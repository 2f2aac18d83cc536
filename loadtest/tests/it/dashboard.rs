//! The dashboard of a pool that really encodes, as somebody uses it: a Chromium that reads pages, points and writes.
//!
//! Everything that is asked of the pool is asked through the page; what comes of it is read there, and compared with what lies
//! on the disk.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool_loadtest::pool::{Pool, PoolSettings, binary_path};
use ffpool_schema::message::hex;
use ffpool_stack::Browser;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::support::{BOUND, pool, probe, program, run};

/// One job at a time.
const ALONE: &[(&str, &str)] = &[("FFPOOL_SLOTS", "1")];

/// An encode on one core that takes several seconds for ten of 720p: its progress is seen before its end.
const SLOW: &str = r#"{"parameters": {"preset": "medium"}, "resource_limits": {"max_cpu_percent": 100}}"#;
/// Without an input, and on half a core: there is time to press buttons meanwhile.
const SLOW_PICTURE: &str =
    r#"{"parameters": {"preset": "fast", "duration": 10}, "resource_limits": {"max_cpu_percent": 50}}"#;
const QUICK: &str = r#"{"parameters": {"preset": "ultrafast"}}"#;
/// A link that was pressed has led to its page within this time.
const LED_WITHIN: Duration = Duration::from_secs(15);

/// Notes everything that the page of a job shows of how far it is, for as long as no page is loaded anew.
const WITNESS: &str = "window.seen = []; new MutationObserver(() => {
    const text = selector => document.querySelector(selector)?.textContent ?? null;
    const fact = term => [...document.querySelectorAll('dl.facts > div')].find(one => one.firstChild.textContent === term)?.lastChild.textContent ?? null;
    const now = {page: text('h1'), state: text('.page-head .badge'), phase: fact('Phase'), far: text('.bigshare strong')};
    if (JSON.stringify(now) !== JSON.stringify(window.seen.at(-1))) window.seen.push(now);
}).observe(document.body, {subtree: true, childList: true, characterData: true})";

/// Somebody at a browser.
struct Visitor {
    browser: Browser,
}

impl Visitor {
    /// Opens the dashboard and logs in, on a screen of usual size.
    async fn at(pool: &Pool) -> Visitor {
        let browser = Browser::start().await;
        let size = json!({"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", size).await;
        browser.open(&pool.api_url).await;
        let visitor = Visitor { browser };
        visitor.browser.write("document.querySelector('#key')", &pool.key).await;
        visitor.click_button("Log in").await;
        visitor.until_at("Overview").await;
        visitor.browser.value(WITNESS).await;
        visitor
    }

    /// Presses the last button with these words: a dialog's comes after those of the page.
    async fn click_button(&self, words: &str) {
        let find =
            format!("[...document.querySelectorAll('button')].findLast(one => one.textContent === {})", json!(words));
        self.browser.click(&find).await;
    }

    async fn click(&self, selector: &str) {
        self.browser.click(&format!("document.querySelector({})", json!(selector))).await;
    }

    async fn write(&self, selector: &str, text: &str) {
        self.browser.write(&format!("document.querySelector({})", json!(selector)), text).await;
    }

    /// The text of the first element, as it can be read on the page.
    async fn text(&self, selector: &str) -> String {
        let text = self.browser.value(&format!("document.querySelector({})?.innerText", json!(selector))).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The part of the page below one of its headings.
    async fn part(&self, heading: &str) -> String {
        self.text(&format!("section[aria-labelledby=h-{heading}]")).await
    }

    /// What stands beside a term.
    async fn fact(&self, term: &str) -> String {
        let find = format!(
            "[...document.querySelectorAll('dl.facts > div')].find(one => one.firstChild.textContent === {})?.lastChild.innerText",
            json!(term)
        );
        self.browser.value(&find).await.as_str().unwrap_or_default().to_owned()
    }

    async fn until_at(&self, heading: &str) {
        let is_there = format!("document.querySelector('h1')?.textContent === {}", json!(heading));
        self.browser.until(&format!("the page `{heading}` is there"), &is_there).await;
    }

    /// Opens what is folded away below a heading under these words, and reads it. It stays open where the page draws that part anew.
    async fn unfold(&self, heading: &str, words: &str) -> anyhow::Result<Value> {
        let summary =
            format!("[...document.querySelectorAll('summary')].find(one => one.textContent === {})", json!(words));
        let is_open = format!("{summary}?.parentElement.open === true");
        let end = Instant::now() + BOUND;
        // A click is lost where the part is drawn anew amid it.
        while self.browser.value(&is_open).await != true {
            ensure!(Instant::now() < end, "`{words}` cannot be unfolded: {}", self.part(heading).await);
            self.browser.click(&summary).await;
        }
        let text = self.text(&format!("section[aria-labelledby=h-{heading}] details[open] pre")).await;
        Ok(serde_json::from_str(&text)?)
    }

    /// Presses a link until it leads to its page: where a part above it comes in amid the click, something else is pressed.
    async fn follow(&self, selector: &str, heading: &str) {
        let end = Instant::now() + BOUND;
        loop {
            self.click(selector).await;
            if timeout(LED_WITHIN, self.until_at(heading)).await.is_ok() {
                return;
            }
            assert!(Instant::now() < end, "{selector} leads to no page `{heading}`");
        }
    }

    /// Goes to a page of the menu.
    async fn go(&self, path: &str, heading: &str) {
        self.click(&format!("#nav a[href={}]", json!(path))).await;
        self.until_at(heading).await;
    }

    /// Goes to a job by the list of all.
    async fn go_to_job(&self, number: u32) {
        self.go("/jobs", "Jobs").await;
        let row =
            format!("[...document.querySelectorAll('tbody th a')].find(link => link.textContent === '#{number}')");
        self.browser.click(&row).await;
        self.until_at(&format!("Job {number}")).await;
    }

    /// Waits until the page that is shown says that its job or worker has this state.
    async fn until_state(&self, state: &str) {
        let is_so = format!("document.querySelector('.page-head .badge').textContent === {}", json!(state));
        self.browser.until_within(BOUND, &format!("its state is {state}"), &is_so).await;
    }

    /// Waits until a part of the page has these words.
    async fn until_told(&self, heading: &str, words: &str) {
        let told = format!(
            "document.querySelector('section[aria-labelledby=h-{heading}]').innerText.includes({})",
            json!(words)
        );
        self.browser.until(&format!("`{words}` stands below {heading}"), &told).await;
    }

    /// Fills in the form and hands the job in, which becomes the one with this number.
    async fn submit(&self, fields: &[(&str, &str)], number: u32) {
        self.go("/submit", "Submit a job").await;
        for (field, text) in fields {
            self.write(&format!("#f-{field}"), text).await;
        }
        self.browser.until_shown("This job is valid.").await;
        self.click_button("Submit").await;
        self.until_at(&format!("Job {number}")).await;
    }

    /// Writes into the dialog that has come, and agrees.
    async fn answer(&self, text: Option<&str>, yes: &str) {
        if let Some(text) = text {
            self.write("dialog[open] input", text).await;
        }
        self.click("dialog[open] button[type=submit]").await;
        self.browser.until(&format!("the dialog is closed by {yes}"), "!document.querySelector('dialog')").await;
    }

    /// What the page of a job showed until now: states, each once in its turn, and percents that stood there while it encoded.
    async fn seen(&self, number: u32) -> anyhow::Result<(Vec<String>, Vec<f64>)> {
        let seen = self.browser.value("window.seen").await;
        let seen = seen.as_array().context("a page was loaded anew")?;
        let page = format!("Job {number}");
        let (mut states, mut percents) = (Vec::new(), Vec::new());
        for one in seen.iter().filter(|one| one["page"] == *page) {
            states.extend(one["state"].as_str().map(str::to_owned));
            if one["phase"] == "encode" {
                percents.extend(one["far"].as_str().and_then(|far| far.strip_suffix(" %")?.parse::<f64>().ok()));
            }
        }
        states.dedup();
        Ok((states, percents))
    }

    /// Leaves. The browser has nothing to complain about but answers that are meant to be: no session before the login, and a
    /// job that is not valid yet while it is written.
    async fn leave(self) -> anyhow::Result<()> {
        let is_meant = |complaint: &String| {
            complaint.contains("status of 401") && complaint.contains("/v1/session")
                || complaint.contains("status of 422") && complaint.contains("/v1/jobs/check")
        };
        let complaints: Vec<String> = self.browser.complaints().into_iter().filter(|one| !is_meant(one)).collect();
        self.browser.close().await;
        ensure!(complaints.is_empty(), "{complaints:#?}");
        Ok(())
    }
}

/// Ten seconds of a test picture.
fn make_clip(file: &Path) {
    let file = file.display().to_string();
    let picture = "testsrc2=duration=10:size=1280x720:rate=30";
    let arguments = ["-v", "error", "-f", "lavfi", "-i", picture, "-preset", "ultrafast", "-pix_fmt", "yuv420p", &file];
    let made = program("ffmpeg", "ffmpeg", &arguments);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn sha256_of(file: &Path) -> anyhow::Result<String> {
    Ok(hex(&Sha256::digest(std::fs::read(file)?)))
}

#[test]
fn chromium_submits_watches_to_the_end_sees_the_proof_breaks_one_reads_why_and_sends_it_round_again() {
    run(async {
        let pool = pool(PoolSettings::one_worker(ALONE).with_tls()).await?;
        let media = |name: &str| pool.media.join(name);
        let shown = |name: &str| media(name).display().to_string();
        make_clip(&media("clip.mp4"));
        let visitor = Visitor::at(&pool).await;

        // It is watched from its submission to its end, without a page being loaded.
        let fields = [
            ("scenario", "720p30-h264"),
            ("input", &*shown("clip.mp4")),
            ("output", &shown("made.mp4")),
            ("more", SLOW),
        ];
        visitor.submit(&fields, 1).await;
        visitor.until_state("completed").await;
        let (states, percents) = visitor.seen(1).await?;
        ensure!(states.ends_with(&["running".into(), "completed".into()]), "{states:?}");
        let between: Vec<&f64> = percents.iter().filter(|percent| **percent > 0.0 && **percent < 100.0).collect();
        ensure!(between.len() >= 2, "its progress was not seen: {percents:?}\n{}", pool.logs());

        // Its proof is true of the file that lies there.
        let hash = sha256_of(&media("made.mp4"))?;
        visitor.until_told("proof", &hash).await;
        let proof = visitor.part("proof").await;
        ensure!(proof.contains(&shown("made.mp4")), "{proof}");
        ensure!(visitor.fact("By").await == pool.worker_id(0), "{proof}");
        visitor
            .browser
            .until("a frame of it is shown", "document.querySelector('.thumbnail img').naturalWidth === 320")
            .await;
        let manifest = visitor.unfold("proof", "The whole manifest").await?;
        let artifact = &manifest["artifacts"][0];
        let video = &artifact["proof"]["streams"][0];
        ensure!(artifact["sha256"] == *hash, "{manifest:#}");
        ensure!((&video["codec"], &artifact["proof"]["frames"]) == (&json!("h264"), &json!(300)), "{manifest:#}");
        ensure!(probe(&media("made.mp4")) == "h264,1280,720,30/1", "{}", probe(&media("made.mp4")));

        // Half a file is no input, and the page says why, and who has to act.
        let whole = std::fs::read(media("clip.mp4"))?;
        std::fs::write(media("broken.mp4"), &whole[..whole.len() / 2])?;
        let fields = [
            ("scenario", "720p30-h264"),
            ("input", &*shown("broken.mp4")),
            ("output", &shown("mended.mp4")),
            ("more", QUICK),
        ];
        visitor.submit(&fields, 2).await;
        visitor.until_state("failed").await;
        visitor.until_told("why", "(input_bad)").await;
        let why = visitor.part("why").await;
        for words in [
            "moov atom not found",
            "Replace the input: it is damaged, cut short or not a media file. The owner of the input has to act; then retry the job.",
        ] {
            ensure!(why.contains(words), "{why}");
        }
        let failure = visitor.fact("Failure").await;
        ensure!(failure.starts_with("input bad: "), "{failure}");
        ensure!(!media("mended.mp4").exists(), "a failed job made a file");

        // The file is mended, and the dead letter goes round again.
        std::fs::write(media("broken.mp4"), &whole)?;
        visitor.go("/dead-letters", "Dead letters").await;
        visitor.until_told("kinds", "input bad").await;
        visitor.click("section[aria-labelledby=h-kinds] tbody button[aria-label^='Redrive all']").await;
        visitor.answer(Some("the file is whole now"), "Redrive").await;
        visitor.browser.until_shown("1 job goes round again.").await;
        visitor.until_told("kinds", "No job waits for a decision.").await;
        visitor.go_to_job(2).await;
        visitor.until_state("completed").await;
        visitor.until_told("proof", &sha256_of(&media("mended.mp4"))?).await;
        visitor.until_told("what-happened", "the file is whole now").await;
        let outcomes = "[...document.querySelectorAll('section[aria-labelledby=h-what-happened] tbody .badge')].map(one => one.textContent)";
        visitor.browser.until("both attempts are told", &format!("String({outcomes}) === 'failed,finished'")).await;
        visitor.seen(2).await?;
        visitor.leave().await
    });
}

/// Runs what the page gave as a command, as somebody who pastes it into a terminal.
fn paste(pool: &Pool, command: &str) -> anyhow::Result<String> {
    let mut folders = vec![binary_path("ffpool")?.parent().context("a program lies in a folder")?.to_owned()];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let output = Command::new("sh")
        .args(["-c", command])
        .env_clear()
        .env("PATH", std::env::join_paths(folders)?)
        .env("HOME", pool.directory())
        .env("FFPOOL_API_URL", &pool.api_url)
        .env("FFPOOL_API_KEY", &pool.key)
        .env("FFPOOL_API_CA_FILE", pool.api_ca.as_deref().context("the API speaks TLS")?)
        .output()?;
    ensure!(output.status.success(), "{command}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The job as it was asked for, read from its page.
async fn asked_for(visitor: &Visitor) -> anyhow::Result<Value> {
    let mut job = visitor.unfold("definition", "The job as it was asked for").await?;
    job.as_object_mut().context("a job is an object")?.remove("id");
    Ok(job)
}

#[test]
fn chromium_pauses_a_queue_and_a_job_copies_a_command_that_works_and_drains_a_worker_that_ends_its_job_first() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(ALONE).with_tls()).await?;
        let visitor = Visitor::at(&pool).await;

        // Of a queue that is paused nothing starts, and whoever asks is told who did it and why.
        visitor.click("button[aria-label='Pause the queue default']").await;
        visitor.answer(Some("the archive is full"), "Pause").await;
        let resume = "button[aria-label='Resume the queue default']";
        visitor.browser.until("it can be resumed", &format!("document.querySelector({})", json!(resume))).await;
        visitor.until_told("queues", "paused").await;
        visitor.submit(&[("scenario", "720p30-h264"), ("more", SLOW_PICTURE)], 1).await;
        visitor.until_state("queued").await;
        visitor.until_told("why", "The queue `default` is paused").await;
        let why = visitor.part("why").await;
        ensure!(why.contains("the archive is full"), "{why}");

        // What is copied is a command that hands the same job in again.
        let first = asked_for(&visitor).await?;
        let rights = json!({"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
        visitor.browser.call("Browser.grantPermissions", rights).await;
        visitor.click_button("Copy as command").await;
        visitor.browser.until_shown("Copied.").await;
        let command = visitor.browser.value("navigator.clipboard.readText()").await;
        let command = command.as_str().context("the clipboard holds text")?.to_owned();
        ensure!(command.starts_with("ffpool submit - <<'JOB'\n{"), "{command}");
        let said = tokio::task::block_in_place(|| paste(&pool, &command))?;
        ensure!(said.starts_with("job #2 "), "{said}");
        visitor.go_to_job(2).await;
        ensure!(asked_for(&visitor).await? == first, "{command}");
        visitor.until_state("queued").await;

        // Resumed, the queue goes on; a job that runs is frozen where it is.
        visitor.go("/", "Overview").await;
        visitor.click(resume).await;
        visitor.go_to_job(1).await;
        visitor.until_state("running").await;
        visitor.until_told("progress", "encode").await;
        visitor.click_button("Pause").await;
        visitor.until_told("why", "It is frozen for").await;
        visitor
            .browser
            .until(
                "it says that it is paused",
                "document.querySelector('.page-head .badge + .badge').textContent === 'paused'",
            )
            .await;

        // The worker shows what it has, what it can and what it runs. Drained, it takes no more.
        let worker = pool.client.workers().await?.remove(0);
        let (layers, encoders) = (worker.ability.sandbox.join(", "), worker.ability.encoders.join(", "));
        ensure!(!layers.is_empty() && encoders.contains("libx264"), "{worker:?}");
        visitor.go("/workers", "Workers").await;
        visitor.browser.until_shown(&layers).await;
        let row = format!(
            "[...document.querySelectorAll('tbody th a')].find(link => link.textContent === {})",
            json!(worker.id)
        );
        visitor.browser.click(&row).await;
        visitor.until_at(worker.id.as_str()).await;
        let abilities = visitor.part("abilities").await;
        ensure!(visitor.fact("Sandbox").await == layers, "{layers}: {abilities}");
        ensure!(visitor.fact("Encoders").await == encoders, "{encoders}: {abilities}");
        visitor.until_told("runs", "#1").await;
        visitor.click_button("Drain").await;
        visitor.answer(None, "Drain").await;
        visitor.until_state("draining").await;

        // Resumed, the job goes on to its end, and the worker that waited for it stops.
        visitor.go_to_job(1).await;
        visitor.click_button("Resume").await;
        visitor.until_state("completed").await;
        let (states, _) = visitor.seen(1).await?;
        ensure!(states == ["queued", "running", "completed"], "{states:?}");
        visitor.follow("section[aria-labelledby=h-progress] a[href^='/workers/']", worker.id.as_str()).await;
        visitor.until_state("stopped").await;
        let part = &mut pool.workers[0];
        let status = tokio::task::block_in_place(|| part.wait(BOUND))?;
        ensure!(status.code() == Some(0), "{status}\n{}", pool.logs());

        // The other one was not begun, and is cancelled.
        visitor.go_to_job(2).await;
        visitor.click_button("Cancel").await;
        visitor.answer(None, "Cancel").await;
        visitor.until_state("cancelled").await;
        let (states, _) = visitor.seen(2).await?;
        ensure!(states == ["queued", "cancelled"], "{states:?}");
        visitor.leave().await
    });
}
