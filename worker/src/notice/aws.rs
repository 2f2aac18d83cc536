//! Amazon EC2: spot interruption notices and rebalance recommendations, over IMDSv2.
//!
//! Source: Amazon EC2 User Guide, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations". A
//! notice comes two minutes before the instance ends, or as it begins to hibernate, and the guide asks to look every 5 s.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::ask::{Answer, AskError, Metadata, ask};
use super::{Asked, Kind, Notice, Provider, Source};

const TOKEN: &str = "/latest/api/token";
const ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
/// Asked for, and how long a token lives.
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// The longest life that a token can have.
const TTL_SECS: u64 = 21_600;
/// A token is renewed so long before its end, or after half its life if that is later.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// No notice comes earlier than that. So a clock that is wrong cannot make the deadline seem farther away.
const NOTICE: Duration = Duration::from_secs(120);

/// The answer of [`ACTION`].
#[derive(Debug, Deserialize)]
struct Action {
    action: String,
    time: Timestamp,
}

/// The answer of [`REBALANCE`].
#[derive(Debug, Deserialize)]
struct Rebalance {
    #[serde(rename = "noticeTime")]
    notice_time: Timestamp,
}

struct Token {
    text: String,
    renew_at: Instant,
}

/// The metadata service of one instance.
pub(super) struct Aws {
    metadata: Metadata,
    pause: Duration,
    token: Option<Token>,
}

impl Aws {
    pub(super) fn new(metadata: Metadata, pause: Duration) -> Aws {
        Aws { metadata, pause, token: None }
    }

    /// Whether a service that speaks IMDSv2 answers.
    pub(super) async fn answers(metadata: &Metadata) -> bool {
        new_token(metadata).await.is_ok()
    }

    async fn look_once(&mut self) -> Result<Vec<Notice>, AskError> {
        if let Some(answer) = self.read(ACTION).await? {
            let now = Timestamp::now();
            // Nothing that the other path says could matter more.
            return Ok(vec![interruption(&answer.text, now, answer.clock_error(now))?]);
        }
        match self.read(REBALANCE).await? {
            Some(answer) => Ok(vec![recommendation(&answer.text)?]),
            None => Ok(Vec::new()),
        }
    }

    /// What stands at `path`; `None` when there is no such thing. A token that is refused is replaced once.
    async fn read(&mut self, path: &str) -> Result<Option<Answer>, AskError> {
        let mut answer = self.read_with_token(path).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.token = None;
            answer = self.read_with_token(path).await?;
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.good(path)?))
    }

    async fn read_with_token(&mut self, path: &str) -> Result<Answer, AskError> {
        let token = match self.token.take().filter(|token| Instant::now() < token.renew_at) {
            Some(token) => self.token.insert(token),
            None => self.token.insert(new_token(&self.metadata).await?),
        };
        ask(self.metadata.get(path).header(TOKEN_HEADER, &token.text), path).await
    }
}

impl Source for Aws {
    fn name(&self) -> &'static str {
        "aws spot interruptions"
    }

    fn pause(&self) -> Duration {
        self.pause
    }

    fn look(&mut self) -> Asked<'_, Vec<Notice>> {
        Box::pin(self.look_once())
    }
}

async fn new_token(metadata: &Metadata) -> Result<Token, AskError> {
    let asked = Instant::now();
    let answer = ask(metadata.put(TOKEN).header(TTL_HEADER, TTL_SECS), TOKEN).await?.good(TOKEN)?;
    let ttl =
        answer.header(TTL_HEADER).and_then(|text| text.parse().ok()).map_or(TTL_SECS, |ttl: u64| ttl.min(TTL_SECS));
    let ttl = Duration::from_secs(ttl);
    let text = answer.text.trim().to_owned();
    let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        return Err(AskError::not_understood(TOKEN, "no token"));
    }
    Ok(Token { text, renew_at: asked + (ttl / 2).max(ttl.saturating_sub(RENEW_BEFORE)) })
}

/// The notice in an answer that came `now`, by a clock that is `clock_error` before the service's.
fn interruption(text: &str, now: Timestamp, clock_error: SignedDuration) -> Result<Notice, AskError> {
    let said: Action = serde_json::from_str(text).map_err(|_| AskError::not_understood(ACTION, text))?;
    let time = said.time.saturating_add(clock_error).unwrap_or(now);
    let deadline = match said.action.as_str() {
        "terminate" | "stop" => time.min(now.saturating_add(NOTICE).unwrap_or(now)),
        // Begins at once, whatever time stands there.
        "hibernate" => time.min(now),
        _ => return Err(AskError::not_understood(ACTION, text)),
    };
    let evidence = format!("spot/instance-action is {} at {}", said.action, said.time);
    Ok(Notice { provider: Provider::Aws, kind: Kind::Evict { deadline }, evidence })
}

fn recommendation(text: &str) -> Result<Notice, AskError> {
    let said: Rebalance = serde_json::from_str(text).map_err(|_| AskError::not_understood(REBALANCE, text))?;
    let evidence = format!("events/recommendations/rebalance of {}", said.notice_time);
    Ok(Notice { provider: Provider::Aws, kind: Kind::Rebalance, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(text: &str, now: &str) -> Option<String> {
        deadline_by(text, now, SignedDuration::ZERO)
    }

    fn deadline_by(text: &str, now: &str, clock_error: SignedDuration) -> Option<String> {
        match interruption(text, now.parse().unwrap(), clock_error).ok()?.kind {
            Kind::Evict { deadline } => Some(deadline.to_string()),
            Kind::Rebalance => None,
        }
    }

    #[test]
    fn the_deadline_is_the_time_that_is_said_but_never_over_two_minutes_away() {
        let text = r#"{"action": "terminate", "time": "2026-03-01T08:22:00Z"}"#;
        assert_eq!(deadline(text, "2026-03-01T08:20:30Z").unwrap(), "2026-03-01T08:22:00Z");
        assert_eq!(deadline(text, "2026-03-01T07:20:30Z").unwrap(), "2026-03-01T07:22:30Z");
        let text = r#"{"action": "hibernate", "time": "2026-03-01T08:22:00Z"}"#;
        assert_eq!(deadline(text, "2026-03-01T08:20:30Z").unwrap(), "2026-03-01T08:20:30Z");
    }

    #[test]
    fn a_clock_that_is_an_hour_off_does_not_move_the_deadline() {
        let text = r#"{"action": "terminate", "time": "2026-03-01T08:22:00Z"}"#;
        let hour = SignedDuration::from_hours(1);
        assert_eq!(deadline_by(text, "2026-03-01T09:20:30Z", hour).unwrap(), "2026-03-01T09:22:00Z");
        assert_eq!(deadline_by(text, "2026-03-01T07:20:30Z", -hour).unwrap(), "2026-03-01T07:22:00Z");
    }

    #[test]
    fn what_is_not_understood_is_no_notice() {
        let strange = r#"{"action": "dance", "time": "2026-03-01T08:22:00Z"}"#;
        for text in ["", "<html>", "{}", "null", r#"{"action": "terminate"}"#, strange] {
            assert_eq!(deadline(text, "2026-03-01T08:20:30Z"), None, "{text}");
        }
    }
}
