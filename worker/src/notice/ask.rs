//! Asks a metadata service: plain HTTP to a link-local address, never through a proxy.
//!
//! Invariant: every question ends within its time, and no answer is read beyond [`ANSWER_MAX`].

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, StatusCode, Url};

/// For the TCP handshake: the service is on this very host, or nowhere.
const CONNECT: Duration = Duration::from_secs(1);
/// For one answer, where the question does not say otherwise.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Far more than any answer that is understood here.
const ANSWER_MAX: usize = 256 * 1024;
/// Two clocks with less between them agree.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(5);
/// So much of an answer that is not understood is shown.
const SHOWN: usize = 80;

/// Reads dates as HTTP writes them.
pub(super) static DATE: DateTimeParser = DateTimeParser::new();

/// Why a question has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No client can be made.
    #[error("set up HTTP")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("ask for {path}")]
    Ask {
        /// What for.
        path: String,
        /// Why there is none.
        #[source]
        source: reqwest::Error,
    },
    /// An answer of the wrong kind.
    #[error("{path} is answered with status {status}")]
    Status {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
    },
    /// An answer without end.
    #[error("{path} is answered with more than {ANSWER_MAX} bytes")]
    TooLong {
        /// What was asked for.
        path: String,
    },
    /// An answer that means nothing.
    #[error("{path} is answered with what is not understood: {shown}")]
    NotUnderstood {
        /// What was asked for.
        path: String,
        /// The beginning of the answer, or what is wrong with it.
        shown: String,
    },
}

impl AskError {
    /// That `answer` to `path` is not understood.
    pub(super) fn not_understood(path: &str, answer: &str) -> AskError {
        let shown = answer.escape_debug().take(SHOWN).collect();
        AskError::NotUnderstood { path: path.to_owned(), shown }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    /// The answer to `path` if it is a good one.
    pub(super) fn good(self, path: &str) -> Result<Answer, AskError> {
        if self.status.is_success() {
            Ok(self)
        } else {
            Err(AskError::Status { path: path.to_owned(), status: self.status })
        }
    }

    /// How far the clock of this machine is before that of the service, by the date of the answer. A date has whole
    /// seconds and was on its way: what is less than [`CLOCKS_AGREE`] is nothing.
    pub(super) fn clock_error(&self, now: Timestamp) -> SignedDuration {
        let date = self.header("date").and_then(|date| DATE.parse_timestamp(date).ok());
        let error = date.map_or(SignedDuration::ZERO, |date| now.duration_since(date));
        if error.abs() < CLOCKS_AGREE { SignedDuration::ZERO } else { error }
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// One metadata service. Clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    client: Client,
    url: Url,
}

impl Metadata {
    /// The service at `url`.
    pub(super) fn open(url: &Url) -> Result<Metadata, AskError> {
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Plain HTTP only, so that no certificates need be installed.
            .tls_certs_only([])
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()
            .map_err(AskError::Client)?;
        Ok(Metadata { client, url: url.clone() })
    }

    /// A GET of `path`, query included.
    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.at(path))
    }

    /// A PUT to `path`.
    pub(super) fn put(&self, path: &str) -> RequestBuilder {
        self.client.put(self.at(path))
    }

    /// A POST to `path`, query included.
    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.at(path))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.as_str().trim_end_matches('/'))
    }
}

/// Sends `question`, which is about `path`, and reads the answer.
pub(super) async fn ask(question: RequestBuilder, path: &str) -> Result<Answer, AskError> {
    let fail = |source: reqwest::Error| AskError::Ask { path: path.to_owned(), source: source.without_url() };
    let mut response = question.send().await.map_err(fail)?;
    let mut body = Vec::new();
    while let Some(more) = response.chunk().await.map_err(fail)? {
        if body.len() + more.len() > ANSWER_MAX {
            return Err(AskError::TooLong { path: path.to_owned() });
        }
        body.extend_from_slice(&more);
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: response.status(), headers: response.headers().clone(), text })
}
