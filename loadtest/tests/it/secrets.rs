//! Secrets are planted wherever one can be given, a pool runs jobs of every outcome with them at the most talkative log level,
//! and nothing that it wrote or showed has any of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use ffpool::{AmqpProducer, Client, ClientConfig};
use ffpool_loadtest::pool::{PASSWORD, Pool, PoolSettings};
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::Encoding;

use crate::support::{BOUND, SMALL, files, pool, program, quick, run};

const SIGNATURE: &str = "planted-signature-7d20";
const HOOK: &str = "planted-hook-token-51be";
const CALLBACK: &str = "planted-callback-secret-a3f8";
const WRONG_KEY: &str = "planted-wrong-api-key-66d2";
const STORE_ID: &str = "PLANTEDSTOREID84";
const STORE_SECRET: &str = "planted-store-secret-0b7c";

/// What a job itself says must be kept for its next attempt: its body and its address to call. Nothing else of it.
const KEPT: &str = "- 'body' - 'spec' - 'callback_url' - 'url'";

/// Looks at the command line of every process, and at the environment of every tool, until told to stop.
fn watch_processes(secrets: Vec<String>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(BTreeSet<String>, usize)> {
    std::thread::spawn(move || {
        let (mut found, mut tools) = (BTreeSet::new(), BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            for entry in std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok) {
                let process = entry.path();
                let Ok(line) = std::fs::read(process.join("cmdline")) else { continue };
                let line = String::from_utf8_lossy(&line).into_owned();
                let is_tool =
                    line.split('\0').next().is_some_and(|name| name.ends_with("ffmpeg") || name.ends_with("ffprobe"));
                let environment =
                    if is_tool { std::fs::read(process.join("environ")).unwrap_or_default() } else { Vec::new() };
                // Of somebody else's tool the environment is closed to us.
                if !environment.is_empty() {
                    tools.insert(process.clone());
                }
                let shown = format!("{line} {}", String::from_utf8_lossy(&environment));
                found.extend(
                    secrets.iter().filter(|secret| shown.contains(*secret)).map(|secret| format!("{secret}: {shown}")),
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        (found, tools.len())
    })
}

/// A source behind a signed address, a hook that takes everything, and a store that lets nobody in.
async fn outside(clip: Vec<u8>) -> anyhow::Result<String> {
    let routes = Router::new()
        .route("/clip.mp4", get(async move || clip))
        .route("/hook", post(async || StatusCode::NO_CONTENT))
        .fallback(async || StatusCode::FORBIDDEN);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(format!("http://{address}"))
}

async fn metrics(pool: &Pool) -> anyhow::Result<String> {
    let mut text = String::new();
    for part in pool.dispatchers.iter().chain(&pool.workers) {
        text += &reqwest::get(format!("http://{}/metrics", part.metrics)).await?.text().await?;
    }
    anyhow::ensure!(text.contains("ffpool_"), "no metrics: {text}");
    Ok(text)
}

/// Every row of every table as text, without what a job says of itself.
fn dump(url: &str) -> anyhow::Result<String> {
    let mut sql = postgres::Client::connect(url, postgres::NoTls)?;
    let tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') \
                  AND NOT relispartition";
    let mut text = String::new();
    for table in sql.query(tables, &[])? {
        let table: String = table.get(0);
        let rows = sql.query(&format!("SELECT (to_jsonb(t) {KEPT})::text FROM {table} AS t"), &[])?;
        rows.iter().for_each(|row| text += &format!("{table}: {}\n", row.get::<_, String>(0)));
    }
    Ok(text)
}

fn leaks(place: &str, text: &str, secrets: &[String]) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let secret = secrets.iter().find(|secret| line.contains(*secret))?;
            Some(format!("{secret} in {place}, line {}: {}", number + 1, line.chars().take(400).collect::<String>()))
        })
        .collect()
}

#[test]
fn nothing_that_a_pool_writes_or_shows_has_a_secret_in_it() {
    run(async {
        let own = tempfile::tempdir()?;
        let clip = own.path().join("clip.mp4").display().to_string();
        let made = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=d=1:s=320x240:r=15", "-y", &clip];
        assert!(program("ffmpeg", "ffmpeg", &made).status.success());
        let outside = outside(std::fs::read(&clip)?).await?;
        let stores = own.path().join("stores.toml");
        let profile = format!(
            "[planted]\nserves = \"s3://planted\"\nendpoint = \"{outside}\"\nregion = \"us-east-1\"\nallow_http = true\n\
             access_key_id = \"{STORE_ID}\"\nsecret_access_key = \"{STORE_SECRET}\"\n"
        );
        std::fs::write(&stores, profile)?;
        let stores = stores.display().to_string();
        let worker: Vec<(&str, &str)> = SMALL
            .iter()
            .copied()
            .chain([("FFPOOL_LOG", "trace"), ("FFPOOL_STORES", stores.as_str()), ("FFPOOL_FETCH_ALLOW", "127.0.0.0/8")])
            .collect();
        let settings = PoolSettings::one_worker(&worker)
            .with_least_rights()
            .dispatcher("FFPOOL_LOG", "trace")
            .dispatcher("FFPOOL_CALLBACK_SECRET", &format!("k1:{CALLBACK}"))
            .dispatcher("FFPOOL_CALLBACK_ALLOW", "127.0.0.0/8");
        let pool = pool(settings).await?;
        let secrets: Vec<String> = [PASSWORD, SIGNATURE, HOOK, CALLBACK, WRONG_KEY, STORE_ID, STORE_SECRET]
            .into_iter()
            .chain([pool.key.as_str()])
            .map(String::from)
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let watched = watch_processes(secrets.clone(), stop.clone());

        // One that completes and one that does not, each way of submitting; a store that refuses; one that is no job at all.
        let job = |input: String, output: &str| {
            let mut spec = quick(&pool.media.join(output).display().to_string());
            spec.input = Some(input);
            spec.callback_url = Some(format!("{outside}/hook?token={HOOK}"));
            spec.max_retries = 0;
            spec
        };
        let signed = |path: &str| format!("{outside}/{path}?X-Amz-Signature={SIGNATURE}");
        let good = pool.client.submit(&job(signed("clip.mp4"), "good.mp4")).await?.id;
        let absent = pool.client.submit(&job(signed("absent.mp4"), "absent.mp4")).await?.id;
        let refused = pool.client.submit(&job("s3://planted/a.mov".into(), "refused.mp4")).await?.id;
        let producer = AmqpProducer::open(pool.amqp_url.clone());
        let published = producer.publish(&job(signed("clip.mp4"), "amqp.mp4"), Encoding::Json, None).await?;
        let mut nonsense = job(signed("clip.mp4"), "nonsense.mp4");
        nonsense.scenario = "17p-h264".into();
        let nonsense = producer.publish(&nonsense, Encoding::MessagePack, None).await?;
        let wrong = Client::open(ClientConfig::new(pool.api_url.clone()).key(WRONG_KEY))?;
        wrong.jobs(&Default::default()).await.expect_err("a wrong key opens nothing");

        let mut shown = String::new();
        for (id, state) in [
            (good, State::Completed),
            (absent, State::Failed),
            (refused, State::Failed),
            (published, State::Completed),
            (nonsense, State::Rejected),
        ] {
            let detail = pool.until_ended(id, BOUND).await?;
            assert_eq!(detail.job.state, state, "{detail:#?}");
            let told = pool.until(id, BOUND, |_| true).await?;
            shown += &format!("{}\n", serde_json::to_string(&told)?);
            shown += &format!("{}\n", serde_json::to_string(&pool.client.explain(id).await?)?);
        }
        shown += &serde_json::to_string(&pool.client.jobs(&Default::default()).await?.items)?;
        shown += &serde_json::to_string(&pool.client.workers().await?)?;
        shown += &serde_json::to_string(&pool.client.dead_letters(&Default::default()).await?.items)?;
        stop.store(true, Ordering::Relaxed);
        let (found, tools) = watched.join().expect("the watch does not panic");
        assert!(tools > 0, "the environment of no tool was seen: the watch is blind");

        let superuser = pool.database_url.replace(&format!("ffpool_doctor:{PASSWORD}@"), "ffpool@");
        let dumped = tokio::task::spawn_blocking(move || dump(&superuser)).await??;
        assert!(dumped.contains(&good.to_string()), "the dump is empty");
        let mut leaked: Vec<String> = found.into_iter().map(|line| format!("a process shows {line}")).collect();
        leaked.extend(leaks("the ledger", &dumped, &secrets));
        leaked.extend(leaks("the API", &shown, &secrets));
        leaked.extend(leaks("the metrics", &metrics(&pool).await?, &secrets));
        let mut logged = 0;
        for path in files(pool.directory()) {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            logged += usize::from(is_log(&path) && text.contains("TRACE"));
            leaked.extend(leaks(&path.display().to_string(), &text, &secrets));
        }
        assert_eq!(logged, 2, "the dispatcher and the worker logged everything");
        assert_eq!(leaked, [] as [String; 0], "{} leaks", leaked.len());
        Ok(())
    });
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "log")
}
