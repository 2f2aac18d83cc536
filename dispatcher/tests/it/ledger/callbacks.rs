//! Callbacks: told at least once whoever dies, signed, and sent nowhere that is not allowed.

use crate::by;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use ffpool_dispatcher::callbacks::CallbackSecret;
use ffpool_schema::api::JobDetail;
use ffpool_schema::callback::{CallbackBody, DELIVERY_HEADER, EVENT_HEADER, SIGNATURE_HEADER, TRY_HEADER};
use ffpool_schema::lifecycle::State;

use super::*;

const SECRET: &str = "k1:0123456789abcdef0123";

/// A receiver that refuses until it is opened.
struct Receiver {
    url: String,
    open: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let open = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (is_open, list) = (open.clone(), heard.clone());
        let hook = move |headers: HeaderMap, body: Bytes| {
            list.lock().unwrap().push((headers, body));
            let is_open = is_open.load(Ordering::SeqCst);
            async move { if is_open { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE } }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=hidden", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/hook", axum::routing::post(hook));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiver { url, open, heard }
    }

    fn heard(&self) -> Vec<(HeaderMap, Bytes)> {
        self.heard.lock().unwrap().clone()
    }

    async fn until_heard(&self, count: usize) -> Vec<(HeaderMap, Bytes)> {
        until(&format!("{count} tries"), async || {
            let heard = self.heard();
            if heard.len() >= count { Ok(heard) } else { Err(heard.len().to_string()) }
        })
        .await
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).unwrap_or_else(|| panic!("no {name} in {headers:?}")).to_str().unwrap()
}

async fn shown(dispatcher: &Dispatcher, job: JobId) -> JobDetail {
    let url = format!("http://{}/v1/jobs/{job}", dispatcher.api_addr());
    let answer = reqwest::Client::new().get(url).bearer_auth("a-key-for-tests-only").send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_told_signed_though_the_receiver_refuses_and_the_dispatcher_dies_between_the_tries() {
    let scene = Scene::new().await;
    let receiver = Receiver::start().await;
    let flags = ["--callback-secret", SECRET, "--callback-allow", "127.0.0.1", "--callback-base-secs", "0.2"];
    let first = scene.dispatcher(&flags).await;
    let (cancelled, body) = job_with(|spec| spec.callback_url = Some(receiver.url.clone()));
    scene.publish("jobs.default", "", Some(cancelled), &body).await;
    scene.until_column(cancelled, "state", "queued").await;
    first.ledger().cancel(cancelled, &by("test")).await.unwrap();
    receiver.until_heard(1).await;
    scene.until_count("SELECT least(count(*), 1) FROM callback_try", 1).await;
    // As a crash would: nothing is finished.
    drop(first);

    receiver.open.store(true, Ordering::SeqCst);
    let second = scene.dispatcher(&flags).await;
    scene.until_count("SELECT count(*) FROM callback WHERE outcome = 'delivered'", 1).await;
    let heard = receiver.heard();
    let (headers, told) = heard.last().unwrap();
    let body: CallbackBody = serde_json::from_slice(told).unwrap();
    assert_eq!((body.state, body.job.id, body.event.as_str()), (State::Cancelled, cancelled, "job.cancelled"));
    assert_eq!(header(headers, EVENT_HEADER), "job.cancelled");
    // A try that the first one set out on may never have been sent.
    assert!(header(headers, TRY_HEADER).parse::<usize>().unwrap() >= heard.len());
    let time = header(headers, SIGNATURE_HEADER).strip_prefix("t=").unwrap().split(',').next().unwrap();
    let secret: CallbackSecret = SECRET.parse().unwrap();
    assert_eq!(header(headers, SIGNATURE_HEADER), secret.sign(time.parse().unwrap(), told));
    let deliveries: HashSet<&str> = heard.iter().map(|(headers, _)| header(headers, DELIVERY_HEADER)).collect();
    assert_eq!(
        deliveries,
        HashSet::from([body.delivery.to_string().as_str()]),
        "one delivery, however often it is tried"
    );

    let detail = shown(&second, cancelled).await;
    let [callback] = detail.callbacks.as_slice() else { panic!("{:?}", detail.callbacks) };
    assert_eq!(callback.outcome.as_deref(), Some("delivered"));
    assert!(!callback.url.contains("hidden") && callback.url.starts_with("http://127.0.0.1"), "{}", callback.url);
    let statuses: Vec<Option<u16>> = callback.tries.iter().map(|one| one.status).collect();
    assert_eq!((statuses.first(), statuses.last()), (Some(&Some(503)), Some(&Some(204))));

    // A second end of the same job, and the end of one that was never valid.
    let before = receiver.heard().len();
    assert_eq!(second.ledger().redrive(cancelled, &by("test"), None).await.unwrap(), State::Queued);
    second.ledger().cancel(cancelled, &by("test")).await.unwrap();
    let invalid = JobId(Uuid::now_v7());
    let body = format!("{{\"scenario\": \"no-such\", \"callback_url\": \"{}\"}}", receiver.url);
    scene.publish("jobs.default", "", Some(invalid), body.as_bytes()).await;
    let heard = receiver.until_heard(before + 2).await;
    let told: Vec<CallbackBody> =
        heard[before..].iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect();
    let rejected = told.iter().find(|body| body.job.id == invalid).unwrap();
    assert_eq!((rejected.state, rejected.job.faults[0].code.as_str()), (State::Rejected, "unknown_scenario"));
    scene.until_count("SELECT count(DISTINCT id) FROM callback WHERE outcome = 'delivered'", 3).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_goes_nowhere_that_is_not_allowed_and_is_given_up_after_its_time() {
    let scene = Scene::new().await;
    let receiver = Receiver::start().await;
    let flags = ["--callback-secret", SECRET, "--callback-base-secs", "0.1"];
    let dispatcher = scene.dispatcher(&flags).await;
    // Where a name leads may change, so that it is tried again; an address stays what it is.
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    for (url, tries, is_given_up) in [(&receiver.url, 1, true), (&by_name, 2, false)] {
        let (id, body) = job_with(|spec| spec.callback_url = Some(url.clone()));
        scene.publish("jobs.default", "", Some(id), &body).await;
        scene.until_column(id, "state", "queued").await;
        dispatcher.ledger().cancel(id, &by("test")).await.unwrap();
        let told = until("its tries", async || {
            let told = shown(&dispatcher, id).await.callbacks.remove(0);
            if told.tries.len() >= tries && told.outcome.is_some() == is_given_up {
                Ok(told)
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
        let error = told.tries[0].error.clone().unwrap();
        assert!(error.contains("not public") && error.contains("FFPOOL_CALLBACK_ALLOW"), "{error}");
    }
    assert!(receiver.heard().is_empty(), "nothing was sent");
    dispatcher.stop().await;

    // Allowed, and never taken.
    let flags = ["--callback-secret", SECRET, "--callback-allow", "127.0.0.0/8", "--callback-base-secs", "0.1"];
    let dispatcher = scene.dispatcher(&[&flags[..], &["--callback-give-up-secs", "4"]].concat()).await;
    let (id, body) = job_with(|spec| spec.callback_url = Some(receiver.url.clone()));
    scene.publish("jobs.default", "", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    dispatcher.ledger().cancel(id, &by("test")).await.unwrap();
    scene.until_count("SELECT count(*) FROM callback WHERE outcome = 'given_up'", 3).await;
    assert!(shown(&dispatcher, id).await.callbacks[0].tries.len() > 1);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_a_job_with_a_callback_is_refused_before_it_runs() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--callback-secret", "acme/a1:0123456789abcdef0123"]).await;
    let url = "https://receiver.example/hook".to_owned();
    let (refused, body) = job_with(|spec| spec.callback_url = Some(url.clone()));
    scene.publish("jobs.default", "", Some(refused), &body).await;
    scene.until_column(refused, "faults -> 0 ->> 'code'", "unsupported").await;
    let (taken, body) =
        job_with(|spec| (spec.callback_url, spec.tenant) = (Some(url.clone()), Some("acme".to_owned())));
    scene.publish("jobs.default", "", Some(taken), &body).await;
    scene.until_column(taken, "state", "queued").await;
    assert_eq!(scene.count("SELECT count(*) FROM callback").await, 0);
    dispatcher.stop().await;
}
