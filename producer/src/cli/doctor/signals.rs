//! NATS: reachable, of a known version, with room for the largest message.

use std::time::{Duration, Instant};

use ffpool_broker::Signals;
use ffpool_runtime::settings::chain;
use ffpool_schema::message::MAX_BODY_BYTES;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::Check;
use super::broker::major_minor;

const CONNECT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A claim carries a whole body as base64, with some facts around it.
const LARGEST_MESSAGE: u64 = MAX_BODY_BYTES as u64 * 4 / 3 + 64 * 1024;
/// The oldest version that was tried.
const OLDEST: (u32, u32) = (2, 9);

/// What a server says of itself in its first line.
#[derive(Debug, Deserialize)]
struct Info {
    version: String,
    max_payload: u64,
}

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
    // The client does not hand out the limit; the server's greeting tells it.
    let info = match tokio::time::timeout(CONNECT, greeting(&url)).await {
        Ok(Ok(info)) => Some(info),
        Ok(Err(_)) | Err(_) => None,
    };
    vec![judge(info, signals.server_version())]
}

fn judge(info: Option<Info>, version: Option<String>) -> Check {
    let Some(info) = info else {
        let version = version.unwrap_or_else(|| "of unknown version".to_owned());
        return Check::ok("nats", format!("{version}, reachable"));
    };
    let Info { version, max_payload } = info;
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

/// Reads the line that a server sends to everybody who connects.
async fn greeting(url: &str) -> std::io::Result<Info> {
    let unreadable = |what: &str| std::io::Error::other(what.to_owned());
    let (host, port) = place(url).ok_or_else(|| unreadable("no plain address"))?;
    let stream = TcpStream::connect((host, port)).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    let json = line.strip_prefix("INFO ").ok_or_else(|| unreadable("no greeting of NATS"))?;
    serde_json::from_str(json).map_err(std::io::Error::other)
}

/// Host and port of the first server in a URL.
fn place(url: &str) -> Option<(&str, u16)> {
    let first = url.split(',').next()?.trim();
    let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    match place.strip_prefix('[').and_then(|bracketed| bracketed.split_once(']')) {
        Some((host, port)) => Some((host, port.strip_prefix(':').map_or(Ok(4222), str::parse).ok()?)),
        None => match place.split_once(':') {
            Some((host, port)) => Some((host, port.parse().ok()?)),
            None => Some((place, 4222)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn the_place_is_found_in_every_form_of_address() {
        assert_eq!(place("nats://user:secret@host:1234"), Some(("host", 1234)));
        assert_eq!(place("host"), Some(("host", 4222)));
        assert_eq!(place("nats://[::1]:5/, nats://other"), Some(("::1", 5)));
        assert_eq!(place("nats://host:port"), None);
    }

    #[test]
    fn a_server_that_cannot_carry_the_largest_job_fails() {
        let status = |max_payload| judge(Some(Info { version: "2.10.27".into(), max_payload }), None).status;
        assert_eq!((status(65_536), status(1_048_576)), (Status::Fail, Status::Ok));
    }
}
