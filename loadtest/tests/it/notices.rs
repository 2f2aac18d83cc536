//! A machine that is announced to go: the next worker has its live job before the first one lets go of it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::JobView;
use ffpool_schema::job::{ExtraOutput, JobSpec, Queue};
use ffpool_schema::lifecycle::State as JobState;
use ffpool_stack::Rtmp;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::recordings::{Publisher, times};
use crate::support::{BOUND, pool, run};

/// What Azure gives.
const NOTICE: Duration = Duration::from_secs(30);
/// Between two frames of what is published, and a little.
const FRAME_SECS: f64 = 0.1;
/// The longest that the sink may have no publisher, and a player no picture: a key frame, a try of the next publisher, one of the
/// player, on a machine that builds something else meanwhile. Measured: 0.15 s and 0.94 s.
const OUTAGE: Duration = Duration::from_secs(5);

/// How long an attempt waits for media before it asks for the sinks all the same.
const PREPARES_SECS: f64 = 5.0;
/// How long one that is handed back waits to be asked, and ends by itself then.
const LINGER_SECS: f64 = 10.0;

/// The metadata service of one machine, as Azure has it.
#[derive(Clone, Default)]
struct Machine {
    events: Arc<Mutex<Vec<Value>>>,
    /// What the machine was told that may begin.
    begun: Arc<Mutex<Vec<Value>>>,
}

impl Machine {
    async fn start() -> anyhow::Result<(Machine, String)> {
        let machine = Machine::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let events = get(async |State(machine): State<Machine>| {
            let events = machine.events.lock().unwrap().clone();
            Json(json!({"DocumentIncarnation": events.len(), "Events": events}))
        })
        .post(async |State(machine): State<Machine>, Json(wish): Json<Value>| machine.begun.lock().unwrap().push(wish));
        let routes = Router::new()
            .route("/metadata/scheduledevents", events)
            .route("/metadata/instance/compute/name", get(async || "me"))
            .with_state(machine.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok((machine, url))
    }

    fn announce_its_end(&self) {
        let at = Timestamp::now() + SignedDuration::try_from(NOTICE).expect("30 s fit");
        let not_before = at.strftime("%a, %d %b %Y %T GMT").to_string();
        self.events
            .lock()
            .unwrap()
            .push(json!({"EventId": "1", "EventType": "Preempt", "ResourceType": "VirtualMachine",
            "Resources": ["me"], "EventStatus": "Scheduled", "NotBefore": not_before}));
    }
}

/// Somebody who plays a stream, and comes back whenever it ends.
struct Player {
    leaves: Arc<AtomicBool>,
    seen: Seen,
    plays: JoinHandle<()>,
}

/// What one connection has shown: when each frame came, and its own time in seconds.
type Visit = Vec<(Instant, f64)>;
type Seen = Arc<Mutex<Vec<Visit>>>;

impl Player {
    fn of(url: String) -> Player {
        let (leaves, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
        let (is_over, sees) = (leaves.clone(), seen.clone());
        let plays = std::thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                Player::visit(&url, &sees);
            }
        });
        Player { leaves, seen, plays }
    }

    /// Until the stream ends.
    fn visit(url: &str, seen: &Seen) {
        let mut child = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "quiet", "-copyts", "-i", url, "-map", "0:v:0", "-c", "copy"])
            .args(["-f", "framecrc", "-flush_packets", "1", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("play by the Debian package ffmpeg");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let mut is_first = true;
        for line in lines.filter(|line| !line.starts_with('#')) {
            // `0, dts, pts, duration, size, sum` in milliseconds.
            let millis: Option<f64> = line.split(',').nth(2).and_then(|pts| pts.trim().parse().ok());
            let mut visits = seen.lock().unwrap();
            if std::mem::take(&mut is_first) {
                visits.push(Vec::new());
            }
            let visit = visits.last_mut().expect("this one");
            visit.extend(millis.map(|millis| (Instant::now(), millis / 1000.0)));
        }
        let _ = child.wait();
    }

    /// Waits until it has seen this.
    async fn until_seen(&self, pool: &Pool, wanted: impl Fn(&[Visit]) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + BOUND;
        while !wanted(&self.seen.lock().unwrap()) {
            let frames: Vec<usize> = self.seen.lock().unwrap().iter().map(Vec::len).collect();
            ensure!(Instant::now() < end, "frames of each visit at last: {frames:?}\n{}", pool.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What it saw; the stream has ended.
    fn leave(self) -> Vec<Visit> {
        self.leaves.store(true, Ordering::SeqCst);
        self.plays.join().expect("a player does not panic");
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// When the first frame of a visit would have come to somebody who waits for nothing: a player looks at a stream for seconds before it
/// shows any, and is in time afterwards.
fn began(visit: &Visit) -> Instant {
    let own = |secs: f64| Duration::from_secs_f64((secs - visit[0].1).max(0.0));
    visit.iter().map(|(came, secs)| *came - own(*secs)).min().expect("a visit has frames")
}

/// Who published under a key, by the server's log: the numbers of connections as they began and ended, and of those that were refused.
#[derive(Debug, PartialEq)]
enum Turn {
    Begins(String),
    Refused(String),
    Ends(String),
}

fn turns(log: &str, key: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for line in log.lines() {
        let Some((_, said)) = line.split_once(": *") else { continue };
        let Some((connection, said)) = said.split_once(' ') else { continue };
        let connection = connection.to_owned();
        let publishes = turns.contains(&Turn::Begins(connection.clone()));
        if said.starts_with(&format!("publish: name='{key}'")) {
            turns.push(Turn::Begins(connection));
        } else if publishes && said.starts_with("live: already publishing") {
            turns.retain(|turn| *turn != Turn::Begins(connection.clone()));
            turns.push(Turn::Refused(connection));
        } else if publishes && said.starts_with("deleteStream") && !turns.contains(&Turn::Ends(connection.clone())) {
            turns.push(Turn::Ends(connection));
        }
    }
    turns
}

/// Reads the server's log until it has this; tells when that was, to some milliseconds.
async fn until_turn(server: &Rtmp, pool: &Pool, wanted: impl Fn(&[Turn]) -> bool) -> anyhow::Result<Instant> {
    let end = Instant::now() + BOUND;
    loop {
        let turns = turns(&server.log(), "out");
        if wanted(&turns) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < end, "the sink's publishers at last: {turns:?}\n{}", pool.logs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn count(turns: &[Turn], is_it: fn(&Turn) -> bool) -> usize {
    turns.iter().filter(|turn| is_it(turn)).count()
}

/// When a log says something, and the line.
fn said<'l>(log: &'l str, what: &str) -> anyhow::Result<(Timestamp, &'l str)> {
    let line = log.lines().find(|line| line.contains(what)).with_context(|| format!("`{what}` is not in\n{log}"))?;
    let at = line.split_whitespace().next().context("a line begins with its time")?;
    Ok((at.parse().with_context(|| line.to_owned())?, line))
}

/// That an attempt carries media.
fn carries(attempt: u32) -> impl Fn(&JobView) -> bool {
    move |view| {
        let live = view.progress.as_ref().and_then(|progress| progress.live.as_ref());
        view.attempt == attempt && live.is_some_and(|live| live.run == attempt && live.is_up)
    }
}

#[test]
fn on_a_notice_the_next_worker_is_ready_before_the_first_lets_go_of_a_live_job() {
    run(async {
        let (machines, urls): (Vec<_>, Vec<_>) = [Machine::start().await?, Machine::start().await?].into_iter().unzip();
        let settings = urls.iter().fold(PoolSettings::default(), |settings, url| {
            settings.worker(&[
                ("FFPOOL_SLOTS", "1"),
                ("FFPOOL_FETCH_ALLOW", "127.0.0.0/8"),
                ("FFPOOL_LIVE_PIECE_SECS", "1"),
                ("FFPOOL_EVICTION", "azure"),
                ("FFPOOL_EVICTION_URL", url),
            ])
        });
        let mut pool = pool(settings).await?;
        let server = tokio::task::spawn_blocking(Rtmp::start).await?.context("start the RTMP server")?;
        let _publisher = Publisher::to(&server.url("in"))?;
        let file = pool.media.join("recording.mp4");
        let mut spec = JobSpec::new("240p25-h264");
        spec.queue = Queue::Live;
        spec.input = Some(server.url("in"));
        spec.output = Some(server.url("out"));
        let url = file.display().to_string();
        spec.outputs = vec![ExtraOutput { url, scenario: spec.scenario.clone(), parameters: Default::default() }];
        spec.parameters.preset = Some("ultrafast".into());
        spec.parameters.gop = Some(13);
        let id = pool.client.submit(&spec).await?.id;
        let running = pool.until(id, BOUND, carries(1)).await?;
        let first = running.job.worker.context("a running job has a worker")?;
        let (leaving, staying) = if first.as_str().ends_with("-1") { (1, 0) } else { (0, 1) };
        until_turn(&server, &pool, |turns| count(turns, |turn| matches!(turn, Turn::Begins(_))) == 1).await?;
        let player = Player::of(server.url("out"));
        // So that there is something to compare.
        player.until_seen(&pool, |visits| visits.first().is_some_and(|visit| visit.len() > 25)).await?;

        let noticed = Instant::now();
        machines[leaving].announce_its_end();
        let let_go = until_turn(&server, &pool, |turns| turns.iter().any(|turn| matches!(turn, Turn::Ends(_)))).await?;
        let is_begin = |turn: &Turn| matches!(turn, Turn::Begins(_));
        let taken = until_turn(&server, &pool, |turns| count(turns, is_begin) == 2).await?;
        assert!(taken - let_go < OUTAGE, "nobody published for {:?}", taken - let_go);
        // Whoever is refused in between has not begun.
        let order = turns(&server.log(), "out");
        let begins: Vec<usize> = (0..order.len()).filter(|at| is_begin(&order[*at])).collect();
        let ended = order.iter().position(|turn| matches!(turn, Turn::Ends(_)));
        assert!(begins.len() == 2 && Some(begins[1]) > ended, "one publisher at a time: {order:?}");

        let status = pool.workers[leaving].wait(NOTICE)?;
        assert!(status.success() && noticed.elapsed() < NOTICE, "{status} after {:?}", noticed.elapsed());
        assert_eq!(*machines[leaving].begun.lock().unwrap(), [json!({"StartRequests": [{"EventId": "1"}]})]);
        // The next one was ready, or had waited for its source as long as it may, and asked; then the first one let go.
        let (old, new) = (pool.workers[leaving].log_tail(), pool.workers[staying].log_tail());
        let (handed_back, _) = said(&old, "handed back: it goes on")?;
        let (gone, _) = said(&old, "the attempt that was handed back has let go")?;
        let (begun, _) = said(&new, "the attempt begins")?;
        let (asked, line) = said(&new, "asks the attempt before this one for the sinks")?;
        said(&new, "the attempt before has let go of the sinks")?;
        let secs = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
        assert!(line.contains("has_media=true") || secs(begun, asked) >= PREPARES_SECS, "{line}");
        assert!(asked <= gone && secs(handed_back, gone) < LINGER_SECS, "{old}\n{new}");
        player.until_seen(&pool, |visits| visits.len() > 1 && visits[visits.len() - 1].len() > 25).await?;
        pool.client.finish(id).await?;
        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, JobState::Completed, "{detail:#?}\n{}", pool.logs());
        let workers: Vec<&str> = detail.attempts.iter().map(|attempt| attempt.worker.as_str()).collect();
        assert_eq!(workers, [pool.worker_id(leaving), pool.worker_id(staying)]);
        assert_eq!((detail.job.failures, detail.job.attempt), (0, 2), "a notice costs nothing: {detail:#?}");
        let told = |detail: &Value| detail.to_string().contains("eviction notice from azure");
        assert!(detail.events.iter().any(|event| told(&event.detail)), "{:#?}", detail.events);

        // What was published is without a gap by each, and the time between them is short.
        let visits = tokio::task::spawn_blocking(move || player.leave()).await?;
        assert_eq!(
            visits.len(),
            2,
            "one visit to each publisher: {:?}",
            visits.iter().map(Vec::len).collect::<Vec<_>>()
        );
        for visit in &visits {
            let jump = visit.windows(2).find(|pair| !(0.0..FRAME_SECS).contains(&(pair[1].1 - pair[0].1)));
            assert_eq!(jump, None, "{visit:?}");
        }
        let (last, _) = visits[0].last().context("a visit has frames")?;
        let dark = began(&visits[1]).saturating_duration_since(*last);
        assert!(dark < OUTAGE, "a player saw nothing for {dark:?}");

        // Both recorded meanwhile: hardly anything is missing where the second begins, and nothing elsewhere.
        let live = detail.manifest.and_then(|manifest| manifest.live).context("it was live")?;
        let times = times(&file.display().to_string());
        let apart: BTreeMap<usize, f64> = times.windows(2).map(|pair| pair[1] - pair[0]).enumerate().collect();
        let jumps: Vec<(&usize, &f64)> =
            apart.iter().filter(|(_, secs)| **secs <= 0.0 || **secs > FRAME_SECS).collect();
        assert!(jumps.len() <= 1 && jumps.iter().all(|(_, secs)| (0.0..1.0).contains(*secs)), "{jumps:?} {live:?}");
        assert_eq!(live.runs, 2, "{live:?}");
        println!("no publisher for {:?}, no picture for {dark:?}, {jumps:?} in the recording", taken - let_go);
        Ok(())
    });
}
