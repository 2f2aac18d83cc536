//! NATS: reachable, of a known version, with room for the largest message.

use std::time::{Duration, Instant};

use ffpool_broker::{NatsServer, Signals};
use ffpool_runtime::settings::chain;
use ffpool_schema::message::MAX_BODY_BYTES;

use super::Check;
use super::broker::major_minor;

const CONNECT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A claim carries a whole body as base64, with some facts around it.
const LARGEST_MESSAGE: usize = MAX_BODY_BYTES * 4 / 3 + 64 * 1024;
/// The oldest version that was tried.
const OLDEST: (u32, u32) = (2, 9);

pub(super) async fn check(url: Option<String>) -> Vec<Check> {
    let Some(url) = url else { return vec![Check::skipped("nats", "FFPOOL_NATS_URL")] };
    let remedy =
        "Start NATS (Debian's package: nats-server), or correct FFPOOL_NATS_URL: host, port, user and password.";
    let signals = match Signals::open(&url, "ffpool doctor").await {
        Ok(signals) => signals,
        Err(error) => return vec![Check::fail("nats", chain(&error), remedy)],
    };
    let since = Instant::now();
    while !signals.is_up() {
        if since.elapsed() >= CONNECT {
            let why = signals.last_error().map(|why| format!(": {why}")).unwrap_or_default();
            let found = format!("no connection within {} s{why}", CONNECT.as_secs());
            return vec![Check::fail("nats", found, remedy)];
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    vec![judge(signals.server())]
}

fn judge(server: Option<NatsServer>) -> Check {
    // It has gone again.
    let Some(NatsServer { version, max_payload }) = server else {
        return Check::ok("nats", "of unknown version, reachable");
    };
    if max_payload < LARGEST_MESSAGE {
        return Check::fail(
            "nats",
            format!("{version}, takes messages of {max_payload} bytes at most, {LARGEST_MESSAGE} are needed"),
            "Raise max_payload in its configuration to 1MB, which is also its default.",
        );
    }
    match major_minor(&version) {
        Some(found) if found < OLDEST => Check::warn(
            "nats",
            format!("{version} is older than 2.9, the oldest that was tried"),
            "Upgrade it when you can.",
        ),
        Some(_) | None => Check::ok("nats", format!("{version}, reachable, takes messages of {max_payload} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn a_server_that_cannot_carry_the_largest_job_fails() {
        let status = |max_payload| judge(Some(NatsServer { version: "2.10.27".into(), max_payload })).status;
        assert_eq!((status(65_536), status(1_048_576)), (Status::Fail, Status::Ok));
    }
}
