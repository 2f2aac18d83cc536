//! The dashboard in a real Chromium, and its session without one.

use ffpool_runtime::tls::{Automatic, ServerTls, Source};
use ffpool_schema::id::JobId;
use ffpool_schema::message::{LogLine, Phase, Progress};
use ffpool_schema::subjects;
use ffpool_stack::Browser;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, Door, answer};

const AXE: &str = include_str!("../../axe/axe.min.js");

/// Every page, with a heading by which it is known, and words that it shows once what it asked for has come.
const PAGES: [(&str, &str, &str); 14] = [
    ("/", "Overview", "oldest for"),
    ("/jobs?search=IN.mov&status=running", "Jobs", "All jobs were searched."),
    ("/jobs", "Jobs", "#2"),
    ("/jobs/2", "Job 2", "Why"),
    ("/workers", "Workers", "w-1"),
    ("/workers/w-1", "w-1", "slots in use"),
    ("/dead-letters?cause=oom", "Dead letters", "#1"),
    ("/dead-letters", "Dead letters", "kind-of-test"),
    ("/submit?scenario=720p30-h264", "Submit a job", "This job is valid."),
    ("/scenarios", "Scenarios", "custom-input"),
    ("/cost?by=queue", "Cost and energy", "Core hours"),
    ("/keys", "Keys", "test-admin"),
    ("/tenants", "Tenants", "acme"),
    ("/audit", "Audit", "log in"),
];

/// What is there to be seen: a job of most states, attempts, a log, a worker, a tenant.
async fn furnish(api: &Api) -> Uuid {
    api.insert_worker("w-1").await;
    answer(api.post("/v1/tenants").json(&json!({"name": "acme"})), 201).await;
    let failed = api.insert_job("failed").await;
    api.update_job(
        failed,
        "failure = '{\"cause\": \"oom\", \"message\": \"it ran out of memory\", \"evidence\": \"Killed\", \"exit_code\": null, \
         \"signal\": 9}', dead_fingerprint = 'kind-of-test', last_cause = 'oom', attempt = 1, failures = 1, \
         started_at = now() - interval '3 minutes', ended_at = now() - interval '1 minute'",
    )
    .await;
    api.insert_failure(failed, Some(1), "oom", "dead", 0).await;
    let completed = api.insert_job("completed").await;
    api.update_job(
        completed,
        "attempt = 1, owner_worker = 'w-1', started_at = now() - interval '9 minutes', ended_at = now() - interval '5 minutes'",
    )
    .await;
    api.insert_thumbnail(completed, include_bytes!("thumbnail.jpg")).await;
    let usage = json!({"wall_ms": 240_000, "cpu_ms": 480_000, "peak_memory_bytes": 734_003_200, "energy_joules": 5400.0,
                       "input_bytes": 104_857_600, "output_bytes": 20_971_520});
    for (job, outcome) in [(failed, "failed"), (completed, "finished")] {
        let sql = "INSERT INTO attempt (job, attempt, worker, incarnation, started_at, ended_at, outcome, usage) \
                   VALUES ($1, 1, 'w-1', $1, now() - interval '9 minutes', now() - interval '5 minutes', $2, $3)";
        api.sql.execute(sql, &[&job, &outcome, &usage]).await.unwrap();
        let sql = "INSERT INTO event (job, kind, state, attempt) VALUES ($1, 'recorded', 'queued', 0), ($1, 'claim', 'running', 1)";
        api.sql.execute(sql, &[&job]).await.unwrap();
        let sql =
            "INSERT INTO log_line (job, attempt, seq, line) VALUES ($1, 1, 1, 'Input #0, mov, from ''clip.mov'':')";
        api.sql.execute(sql, &[&job]).await.unwrap();
    }
    for _ in 0..3 {
        api.insert_job("queued").await;
    }
    let running = api.insert_job("running").await;
    let owned = "attempt = 1, owner_worker = 'w-1', custody = 'ledger', started_at = now(), lease_until = now() + interval '1 hour', \
                 owner_incarnation = id, spec = '{\"scenario\": \"720p-h264\", \"input\": \"/media/in.mov\"}'";
    api.update_job(running, owned).await;
    let sql = "INSERT INTO attempt (job, attempt, worker, incarnation, started_at) VALUES ($1, 1, 'w-1', $1, now() - interval '40 seconds')";
    api.sql.execute(sql, &[&running]).await.unwrap();
    let sql = "INSERT INTO job_text (number, text) SELECT number, '/media/in.mov' FROM job WHERE id = $1";
    api.sql.execute(sql, &[&running]).await.unwrap();
    let sql = "INSERT INTO progress_curve VALUES ($1, 1, 10, '{10,20,30}', '{7.5,20,30.5}', '{80,NULL,85}')";
    api.sql.execute(sql, &[&running]).await.unwrap();
    running
}

fn progress(job: Uuid, seq: u64) -> Progress {
    Progress {
        job: JobId(job),
        attempt: 1,
        worker: "w-1".parse().unwrap(),
        seq,
        phase: Phase::Encode,
        percent: Some(41.5),
        frame: Some(seq),
        fps: Some(87.0),
        speed: Some(2.9),
        out_time_us: None,
        size_bytes: Some(7_340_032),
        eta_secs: Some(75.0),
        live: None,
    }
}

/// Says over and over how far a job is and what its tool writes, until the page shows it: signals may be lost.
async fn say_until_shown(api: &Api, browser: &Browser, job: Uuid) {
    let saying = async {
        for seq in 1.. {
            api.signals.publish(&subjects::progress(JobId(job)), &progress(job, seq)).await.unwrap();
            let line = LogLine { job: JobId(job), attempt: 1, seq, line: format!("frame <b>{seq}</b> is written") };
            api.signals.publish(&subjects::log(JobId(job)), &line).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let shown = async {
        browser.until_shown("41.5 %").await;
        // What a tool writes is text, whatever it looks like.
        browser.until_shown("</b> is written").await;
        // What was before the page was opened, and what has come since, on one curve.
        let told = "document.querySelector('svg.curve')?.getAttribute('aria-label')";
        browser.until("the curve begins where the attempt did", &format!("{told}.includes(': 7.5 %,')")).await;
        browser.until("and ends where it is", &format!("{told}.endsWith('at last 41.5 %')")).await;
    };
    tokio::select! {
        () = saying => {}
        () = shown => {}
    }
}

async fn log_in(browser: &Browser, key: &str) {
    browser.until("the key can be written", "document.querySelector('#key')").await;
    browser.value(&format!("document.querySelector('#key').value = {}", json!(key))).await;
    browser.press("Log in").await;
}

/// Whatever of a page keeps people out and is serious, by axe's rules with these tags.
async fn barriers(browser: &Browser, tags: &str) -> Vec<Value> {
    let options = format!("{{runOnly: {tags}, resultTypes: ['violations'], iframes: false, preload: false}}");
    let run = format!(
        "axe.run(document, {options}).then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))\
         .map(one => ({{rule: one.id, nodes: one.nodes.map(node => node.html + ' ' + node.failureSummary)}})))"
    );
    browser.value(&run).await.as_array().unwrap().clone()
}

async fn scheme(browser: &Browser, scheme: &str, width: u32) {
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    browser.call("Emulation.setEmulatedMedia", media).await;
    let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", size).await;
}

/// Goes to a page without loading anything again.
fn go(page: &str) -> String {
    format!("history.pushState(null, '', {}); dispatchEvent(new PopStateEvent('popstate'))", json!(page))
}

/// Keeps a picture for people to look at, where somebody asks for it.
async fn keep_picture(browser: &Browser, page: &str, scheme: &str, width: u32) {
    let Some(folder) = std::env::var_os("FFPOOL_SCREENSHOTS") else { return };
    let name = page.split('?').next().unwrap().trim_matches('/').replace('/', "-");
    let name = if name.is_empty() { "overview" } else { &name };
    let file = std::path::Path::new(&folder).join(format!("{name}-{scheme}-{width}.webp"));
    std::fs::write(file, browser.picture().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_logs_in_follows_a_job_cancels_it_and_finds_no_barrier_on_any_page() {
    let api = Api::start().await;
    let job = furnish(&api).await;
    let folder = tempfile::tempdir().unwrap();
    let names = vec!["localhost".to_owned()];
    let source = Source::Automatic(Automatic { folder: folder.path().to_owned(), server: "api", names });
    let door = Door { tls: Some(ServerTls::open(source, None).unwrap()), ..Door::plain() };
    let base = format!("https://localhost:{}", api.open_door(door).await.port());
    let browser = Browser::start().await;
    scheme(&browser, "light", 1280).await;

    // Whoever is not logged in logs in first, and gets where they wanted to go.
    browser.open(&format!("{base}/jobs?status=running")).await;
    log_in(&browser, "ffp_0123456789_wrong").await;
    browser.until_shown("not known here").await;
    keep_picture(&browser, "login", "light", 1280).await;
    log_in(&browser, &api.admin).await;
    browser
        .until("the list of running jobs is there", "location.pathname + location.search === '/jobs?status=running'")
        .await;
    let cookies = browser.call("Network.getCookies", json!({})).await;
    let cookie = &cookies["cookies"][0];
    assert_eq!((&cookie["name"], &cookie["sameSite"]), (&json!("__Host-ffpool"), &json!("Strict")), "{cookies}");
    assert_eq!((&cookie["httpOnly"], &cookie["secure"]), (&json!(true), &json!(true)), "{cookies}");

    // A job is followed without loading anything again, and cancelled.
    let link = "[...document.querySelectorAll('tbody th a')].find(link => link.textContent === '#6')";
    browser.until("the running job is in the list", link).await;
    browser.value(&format!("window.mark = 1; {link}.click()")).await;
    browser.until_shown("Job 6").await;
    say_until_shown(&api, &browser, job).await;
    let trace = super::TRACE_URL.replace("{trace_id}", &job.simple().to_string());
    browser
        .until(
            "its trace is one step away",
            &format!("document.querySelector('a[rel~=external]').href === {}", json!(trace)),
        )
        .await;
    keep_picture(&browser, "jobs/running", "light", 1280).await;
    let definition =
        "[...document.querySelectorAll('summary')].find(one => one.textContent === 'The job as it was asked for')";
    browser.value(&format!("{definition}.click(); {definition}.focus()")).await;
    // A pause is told when it is asked for, and again when the tool stands still.
    api.update_job(job, "paused = true").await;
    browser.until_shown("its worker is told to freeze it and has not reported that yet").await;
    api.update_job(job, "frozen_since = now()").await;
    browser.until_shown("It is frozen for").await;
    api.update_job(job, "paused = false, frozen_since = NULL").await;
    browser.until("the page shows that it goes on", "!document.querySelector('.page-head .badge + .badge')").await;
    let is_kept = format!("{definition}.parentElement.open && document.activeElement === {definition}");
    assert_eq!(browser.value(&is_kept).await, true, "what was unfolded stays so, and the focus stays on it");
    browser.press("Cancel").await;
    browser.until("it is asked whether", "document.querySelector('dialog[open]')").await;
    browser.press("Cancel").await;
    browser
        .until(
            "the page shows that it is being cancelled",
            "document.querySelector('.page-head .badge').textContent === 'cancelling'",
        )
        .await;
    let state = async || {
        let row = api.sql.query_one("SELECT state FROM job WHERE id = $1", &[&job]).await.unwrap();
        row.get::<_, String>(0)
    };
    assert_eq!(state().await, "cancelling");
    api.update_job(job, "state = 'cancelled', ended_at = now(), lease_until = NULL").await;
    browser
        .until("the page shows its end", "document.querySelector('.page-head .badge').textContent === 'cancelled'")
        .await;
    browser.press("Retry").await;
    browser
        .until(
            "it is sent round again",
            "['queued', 'delayed'].includes(document.querySelector('.page-head .badge').textContent)",
        )
        .await;
    assert_eq!(browser.value("window.mark").await, 1, "no page was loaded again");
    browser.value("document.querySelector('nav a[href=\"/jobs\"]').click()").await;
    browser.until("it is in the list of all jobs", link).await;
    browser.value("history.back()").await;
    browser
        .until(
            "the way back leads to the job",
            "location.pathname === '/jobs/6' && document.querySelector('h1').textContent === 'Job 6'",
        )
        .await;

    // Nothing on any page keeps anybody out.
    browser.value("window.scrollTo(0, 0)").await;
    browser.open(&format!("{base}/audit")).await;
    browser.until_shown("log in").await;
    browser.value(AXE).await;
    for (page, heading, words) in PAGES {
        scheme(&browser, "light", 1280).await;
        browser.value(&go(page)).await;
        let has_heading = format!("document.querySelector('h1')?.textContent === {}", json!(heading));
        browser.until(&format!("{page} has its heading"), &has_heading).await;
        browser.until_shown(words).await;
        browser.until("nothing is loading", "!document.querySelector('.waiting')").await;
        if page == "/jobs/2" {
            let picture = "document.querySelector('img[alt=\"A frame of what job 2 made\"]')";
            browser.until("what it made is shown", &format!("{picture}?.naturalWidth === 64")).await;
        } else {
            assert_eq!(browser.value("document.images.length").await, 0, "{page}");
        }
        keep_picture(&browser, page, "light", 1280).await;
        let found = barriers(&browser, "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']").await;
        assert!(found.is_empty(), "{page}: {found:#?}");
        scheme(&browser, "dark", 1280).await;
        keep_picture(&browser, page, "dark", 1280).await;
        let found = barriers(&browser, "['color-contrast']").await;
        assert!(found.is_empty(), "{page} in the dark: {found:#?}");
        scheme(&browser, "dark", 390).await;
        keep_picture(&browser, page, "dark", 390).await;
        let overflow = browser.value("document.documentElement.scrollWidth - innerWidth").await;
        assert!(overflow.as_f64().unwrap() <= 0.0, "{page} is {overflow} px wider than a phone");
    }

    // What failed leads to the jobs that did and to the dead letters, and a part of an address to the job.
    browser.value(&go("/")).await;
    let row = "document.querySelector('a[href=\"/jobs?cause=oom\"]')?.closest('tr')";
    browser.until("the cause is counted", &format!("{row}?.cells[1].textContent === '1'")).await;
    browser.value("(field => { field.value = '1'; field.dispatchEvent(new Event('change')); })(document.querySelector('#f-failures'))").await;
    browser.until("and over another span", &format!("{row}?.cells[3].textContent === '1'")).await;
    browser.value(&format!("{row}.querySelector('a[href=\"/dead-letters?cause=oom\"]').click()")).await;
    browser.until_shown("The cause oom").await;
    browser.value("history.back()").await;
    browser.until("the overview is there again", row).await;
    browser.value(&format!("{row}.querySelector('th a').click()")).await;
    let numbers = |wanted: &str| {
        let found = "[...document.querySelectorAll('tbody th a')].map(link => link.textContent).join()";
        format!("location.pathname === '/jobs' && {found} === {}", json!(wanted))
    };
    browser.until("the job that failed so is there", &numbers("#1")).await;
    browser.value(&go("/jobs")).await;
    browser.until("all jobs are there", &numbers("#6,#5,#4,#3,#2,#1")).await;
    browser.value("document.querySelector('#f-find').value = 'Media/IN'").await;
    browser.press("Find").await;
    browser.until("the job with this in an address is there", &numbers("#6")).await;
    browser.until_shown("All jobs were searched.").await;

    // A job is corrected while it is written and handed in; a dead letter is sent round again.
    browser.value(&go("/submit")).await;
    browser.until("the form is there", "document.querySelector('#f-scenario')").await;
    let write = |text: &str| {
        let text = json!(text);
        format!(
            "(field => {{ field.value = {text}; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})(document.querySelector('#f-scenario'))"
        )
    };
    browser.value(&write("no-such-thing")).await;
    browser
        .until(
            "the fault stands at its field",
            "document.querySelector('#f-scenario-wrong')?.textContent.includes('no-such-thing')",
        )
        .await;
    browser.value(&write("720p30-h264")).await;
    browser.until_shown("This job is valid.").await;
    browser.press("Submit").await;
    browser.until("the new job is shown", "document.querySelector('h1')?.textContent === 'Job 7'").await;
    browser.value(&go("/dead-letters?fingerprint=kind-of-test")).await;
    browser.until("the kind is there", "document.querySelector('tbody button.main')").await;
    browser.value("document.querySelector('tbody button.main').click()").await;
    browser.until("a reason is asked for", "document.querySelector('dialog[open] input')").await;
    browser.value("document.querySelector('dialog input').value = 'more memory'").await;
    browser.press("Redrive").await;
    browser.until_shown("1 job goes round again").await;
    browser.until_shown("No job waits for a decision").await;

    // What a worker runs is shown as it begins and ends, also where all of them together have as much in use as before.
    browser.value(&go("/workers/w-1")).await;
    browser.until_shown("It runs nothing.").await;
    let begun = api.insert_job("running").await;
    let owned = "attempt = 1, owner_worker = 'w-1', custody = 'ledger', started_at = now(), lease_until = now() + interval '1 hour', \
                 owner_incarnation = id";
    api.update_job(begun, owned).await;
    let runs = "document.querySelector('section[aria-labelledby=h-runs]').textContent";
    browser.until("what has begun is among its runs", &format!("{runs}.includes('#8')")).await;
    api.update_job(begun, "state = 'completed', ended_at = now(), lease_until = NULL").await;
    browser.until("what has ended is not", &format!("{runs}.includes('It runs nothing.')")).await;

    // A key that is revoked ends its session.
    answer(api.post("/v1/keys/test-admin/revoke"), 200).await;
    browser.value("document.querySelector('nav a[href=\"/workers\"]').click()").await;
    browser
        .until("the key is asked for again", "location.pathname === '/login' && document.querySelector('#key')")
        .await;

    // What a browser writes about answers that are meant to be: no session yet, a key that is wrong, one that is revoked, and
    // a job that is not valid yet.
    let meant = |complaint: &String| {
        let is_answer = complaint.starts_with("\"network\"");
        let is_fault = complaint.contains("status of 422") && complaint.contains("/v1/jobs/check");
        is_answer && (complaint.contains("status of 401") || is_fault)
    };
    let complaints: Vec<String> = browser.complaints().into_iter().filter(|complaint| !meant(complaint)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    browser.close().await;
    api.stop().await;
}
