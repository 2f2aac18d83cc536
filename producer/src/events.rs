//! Follows one job over server-sent events and connects again whenever the stream breaks.
//!
//! A stream begins with the job as it is, so whatever was missed while it was broken heals at the next connect.
//! Invariant: [`JobEvents::next`] fails only for what will not heal: a refusal, or silence for longer than the patience.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use ffpool_schema::api::StreamEvent;
use futures_util::{Stream, StreamExt};
use reqwest::Method;
use reqwest::header::ACCEPT;

use crate::client::{ApiError, Client, JobName};
use crate::sse::Parser;

/// First pause before connecting again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Servers send a comment every few seconds; a stream as silent as this is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// For the head of the answer to come.
const HEAD: Duration = Duration::from_secs(15);
/// How long the API may be away before following is given up.
const PATIENCE: Duration = Duration::from_secs(300);

type Bytes = Pin<Box<dyn Stream<Item = Result<Vec<u8>, reqwest::Error>> + Send>>;

/// What following a job brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// News of the job.
    Event(StreamEvent),
    /// The stream broke, for this reason; it is being rebuilt. The job itself is not touched by that.
    Interrupted(String),
}

/// A job being followed.
pub struct JobEvents {
    client: Client,
    job: JobName,
    stream: Option<Bytes>,
    parser: Parser,
    ready: VecDeque<StreamEvent>,
    patience: Duration,
    pause: Duration,
    /// Since when there has been no event; the patience counts from here.
    broken_since: Option<Instant>,
}

impl JobEvents {
    pub(crate) fn new(client: Client, job: JobName) -> JobEvents {
        JobEvents {
            client,
            job,
            stream: None,
            parser: Parser::new(),
            ready: VecDeque::new(),
            patience: PATIENCE,
            pause: PAUSE_MIN,
            broken_since: None,
        }
    }

    /// Gives up when the API has been away for so long. Default: five minutes.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> JobEvents {
        self.patience = patience;
        self
    }

    /// Waits for the next news. Cancel-safe.
    ///
    /// # Errors
    /// What the API refuses (no such job, bad key), and [`ApiError::Unreachable`] when the patience is over.
    pub async fn next(&mut self) -> Result<Heard, ApiError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Heard::Event(event));
            }
            let lost = match &mut self.stream {
                Some(stream) => match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
                    Ok(Some(Ok(bytes))) => {
                        self.take(&bytes);
                        continue;
                    }
                    Ok(Some(Err(error))) => self.client.unreachable(error).to_string(),
                    Ok(None) => "the API ended the stream".to_owned(),
                    Err(_) => "the stream fell silent".to_owned(),
                },
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(error) if !error.is_transient() || self.is_out_of_patience() => return Err(error),
                    Err(error) => error.to_string(),
                },
            };
            self.stream = None;
            self.broken_since.get_or_insert_with(Instant::now);
            return Ok(Heard::Interrupted(lost));
        }
    }

    async fn connect(&mut self) -> Result<(), ApiError> {
        if self.broken_since.is_some() {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        let path = format!("/v1/jobs/{}/events", self.job);
        // The deadline of ordinary calls covers the body too; a stream may run for days.
        let request = self
            .client
            .request(Method::GET, &path)
            .timeout(Duration::from_secs(u64::from(u32::MAX)))
            .header(ACCEPT, "text/event-stream");
        let answer = match tokio::time::timeout(HEAD, self.client.send(request, &path)).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(ApiError::Strange {
                    path,
                    status: 504,
                    excerpt: format!("nothing within {} s", HEAD.as_secs()),
                });
            }
        };
        self.parser = Parser::new();
        self.stream = Some(Box::pin(answer.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()))));
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        for frame in self.parser.push(bytes) {
            // What cannot be read is an event of a later version, and no reason to stop following.
            if let Ok(event) = serde_json::from_str::<StreamEvent>(&frame.data) {
                self.ready.push_back(event);
                self.broken_since = None;
                self.pause = PAUSE_MIN;
            }
        }
    }

    fn is_out_of_patience(&self) -> bool {
        self.broken_since.is_some_and(|since| since.elapsed() >= self.patience)
    }
}
