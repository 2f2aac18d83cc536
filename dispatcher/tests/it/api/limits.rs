//! What one address, one key and one guesser may ask, and that nobody else is worse off for it.

use std::time::{Duration, Instant};

use ffpool_dispatcher::api::{StreamLimits, ThrottleRules};
use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use ffpool_dispatcher::limits::{Limit, RateLimits};
use futures_util::{StreamExt as _, stream};
use reqwest::RequestBuilder;

use super::{Api, problem};

/// Limits of an API that takes the tests' word for the client's address.
fn behind_proxy(limits: RateLimits) -> ThrottleRules {
    ThrottleRules { limits, trusted_proxies: ["127.0.0.1".parse().unwrap()].into(), ..ThrottleRules::default() }
}

fn limit(text: &str) -> Limit {
    text.parse().unwrap()
}

impl Api {
    fn from(&self, address: &str, path: &str) -> RequestBuilder {
        self.request("GET", path).header("X-Forwarded-For", address)
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// How many of those that come at these times a bucket of 200 lets pass that 100 a second flow into.
fn passing(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let (mut tokens, mut last, mut passed) = (200.0_f64, Duration::ZERO, 0.0);
    for time in times {
        tokens = (tokens + 100.0 * (time - last).as_secs_f64()).min(200.0);
        last = time;
        if tokens >= 1.0 {
            tokens -= 1.0;
            passed += 1.0;
        }
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_rapid_requests_of_one_address_the_limit_lets_pass_what_it_says_and_others_are_unharmed() {
    let api = Api::start_limited(behind_proxy(RateLimits::default())).await;
    let other = api.mint(&NewKey::of("other", Role::Viewer)).await;
    let began = Instant::now();
    let ask = async |turn: u32| {
        if turn.is_multiple_of(10) {
            let others = api.from("203.0.113.2", "/v1/scenarios").bearer_auth(&other);
            assert_eq!(status(others).await, 200, "another address at turn {turn}");
            assert_eq!(status(api.from("203.0.113.1", "/health")).await, 200, "health at turn {turn}");
            assert_ne!(status(api.from("203.0.113.1", "/ready")).await, 429, "readiness at turn {turn}");
        }
        let sent = began.elapsed();
        let answer = api.from("203.0.113.1", "/v1/scenarios").bearer_auth(&api.admin).send().await.unwrap();
        let passed = match answer.status().as_u16() {
            200 => true,
            429 => false,
            status => panic!("{status} at turn {turn}: {}", answer.text().await.unwrap()),
        };
        (passed, sent, began.elapsed())
    };
    let answers: Vec<_> = stream::iter(0..500).map(ask).buffer_unordered(4).collect().await;
    let passed = answers.iter().filter(|(passed, ..)| *passed).count() as f64;
    let elapsed = began.elapsed();
    // It was decided between the two times of each.
    let by_sent = passing(answers.iter().map(|(_, sent, _)| *sent).collect());
    let by_answered = passing(answers.iter().map(|(.., answered)| *answered).collect());
    let least = 0.95 * by_sent.min(by_answered);
    let most = 1.05 * by_sent.max(by_answered).min(200.0 + 100.0 * elapsed.as_secs_f64());
    assert!(by_sent.max(by_answered) < 500.0, "500 requests took {elapsed:?}: too slow to say anything of the limit");
    assert!((least..=most).contains(&passed), "{passed} of 500 passed in {elapsed:?}; {least} to {most} are right");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_has_one_limit_wherever_it_is_used() {
    let limits = RateLimits { key: limit("0.001/6"), ..RateLimits::OFF };
    let api = Api::start_limited(behind_proxy(limits)).await;
    let other = api.mint(&NewKey::of("other", Role::Viewer)).await;
    for last in 1..=6 {
        let address = format!("203.0.113.{last}");
        assert_eq!(status(api.from(&address, "/v1/scenarios").bearer_auth(&api.admin)).await, 200);
    }
    let response = api.from("203.0.113.7", "/v1/scenarios").bearer_auth(&api.admin).send().await.unwrap();
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let told: ffpool_schema::api::Problem = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let exact = Duration::from_millis(told.retry_after_ms.unwrap());
    assert!((1..=1000).contains(&seconds) && exact <= Duration::from_secs(seconds), "{seconds} s, {told:?}");
    assert_eq!(told.kind, "/problems/too-many-requests");
    assert!(told.detail.contains("this key") && told.detail.contains("6 at once"), "{told:?}");
    assert_eq!(status(api.from("203.0.113.7", "/v1/scenarios").bearer_auth(&other)).await, 200);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_keys_is_stopped_and_who_has_one_is_not() {
    let limits = RateLimits { failed: limit("0.001/5"), ..RateLimits::OFF };
    let api = Api::start_limited(behind_proxy(limits)).await;
    let (guesser, other) = ("203.0.113.1", "203.0.113.2");
    let late = api.mint(&NewKey::of("late", Role::Viewer)).await;
    assert_eq!(status(api.from(guesser, "/v1/scenarios").bearer_auth(&api.admin)).await, 200);
    for guess in 0..5 {
        problem(api.from(guesser, "/v1/scenarios").bearer_auth(format!("ffp_0000000000_{guess}")), 401).await;
    }
    let detail = problem(api.from(guesser, "/v1/scenarios").bearer_auth("ffp_0000000000_5"), 429).await;
    assert!(detail.contains("not known here"), "{detail}");
    // It may be the right guess: it is not looked up.
    problem(api.from(guesser, "/v1/scenarios").bearer_auth(&late), 429).await;
    assert_eq!(status(api.from(guesser, "/v1/scenarios").bearer_auth(&api.admin)).await, 200, "known to be good");
    problem(api.from(guesser, "/v1/scenarios"), 401).await;
    assert_eq!(status(api.from(other, "/v1/scenarios").bearer_auth(&late)).await, 200);
    problem(api.from(other, "/v1/scenarios").bearer_auth("ffp_0000000000_5"), 401).await;
    // A key that was good is no longer so once it is revoked.
    api.ledger.revoke_key("test-admin", &crate::by("setup")).await.unwrap();
    problem(api.from(guesser, "/v1/scenarios").bearer_auth(&api.admin), 401).await;
    problem(api.from(guesser, "/v1/scenarios").bearer_auth(&api.admin), 429).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_limit_of_their_own_by_claiming_another_address() {
    let limits = RateLimits { address: limit("0.001/3"), ..RateLimits::OFF };
    let api = Api::start_limited(ThrottleRules { limits, ..ThrottleRules::default() }).await;
    for last in 1..=3 {
        assert_eq!(status(api.from(&format!("203.0.113.{last}"), "/v1/nothing")).await, 404);
    }
    let detail = problem(api.from("203.0.113.4", "/v1/nothing"), 429).await;
    assert!(detail.contains("this address"), "{detail}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_a_tenant_have_so_many_event_streams() {
    let streams = StreamLimits { per_key: 2, per_tenant: 3 };
    let api = Api::start_limited(ThrottleRules { limits: RateLimits::OFF, streams, ..ThrottleRules::default() }).await;
    super::answer(api.post("/v1/tenants").json(&serde_json::json!({"name": "acme"})), 201).await;
    let job = api.insert_job("queued").await;
    api.update_job(job, "tenant = 'acme'").await;
    let one = api.mint(&NewKey::of("one", Role::Viewer).of_tenant("acme")).await;
    let two = api.mint(&NewKey::of("two", Role::Viewer).of_tenant("acme")).await;
    let follow = |key: &str| api.request("GET", &format!("/v1/jobs/{job}/events")).bearer_auth(key);
    let open = async |key: &str| {
        let response = follow(key).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response
    };
    let (first, _second, _third) = (open(&one).await, open(&one).await, open(&two).await);
    let detail = problem(follow(&one), 429).await;
    assert!(detail.contains("2 event streams of this key"), "{detail}");
    let detail = problem(follow(&two), 429).await;
    assert!(detail.contains("3 event streams of this tenant"), "{detail}");
    let _others = open(&api.admin).await;
    drop(first);
    super::until("a stream that is closed gives its place back", async || match status(follow(&two)).await {
        200 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    api.stop().await;
}
