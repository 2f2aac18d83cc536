//! What is sent to a job's `callback_url` when it has ended, and how the receiver knows that it is ours.
//!
//! Invariant: what is signed is the time and the exact bytes of the body, so neither can be changed, and an old message
//! cannot be passed off as a new one.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::api::JobView;
use crate::lifecycle::State;
use crate::location::{Location, Use};
use crate::parse::Fault;

/// Header with the signature, `t=<unix seconds>,k=<key id>,v1=<hex HMAC-SHA256>`.
pub const SIGNATURE_HEADER: &str = "X-FFpool-Signature";
/// Header with the delivery's id: the same for every try.
pub const DELIVERY_HEADER: &str = "X-FFpool-Delivery";
/// Header with what happened, such as `job.completed`.
pub const EVENT_HEADER: &str = "X-FFpool-Event";
/// Header with the number of the try, from 1.
pub const TRY_HEADER: &str = "X-FFpool-Try";
/// The longest address, in bytes.
const MAX_URL: usize = 2048;

/// The body of a callback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackBody {
    /// The delivery: the same for every try, another for each end of a job.
    pub delivery: Uuid,
    /// What happened: `job.` and the state.
    pub event: String,
    /// The state in which the job ended.
    pub state: State,
    /// When.
    pub ended_at: Timestamp,
    /// The job as it is when this is sent: it may have been sent round again since.
    pub job: JobView,
    /// The files, when it completed.
    pub artifacts: Vec<CallbackArtifact>,
}

/// A file that the job made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackArtifact {
    /// Where it is.
    pub url: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
}

/// What happened, as it stands in body and header.
#[must_use]
pub fn event_of(state: State) -> String {
    format!("job.{state}")
}

/// The bytes that are signed.
#[must_use]
pub fn signed(unix_secs: i64, body: &[u8]) -> Vec<u8> {
    [unix_secs.to_string().as_bytes(), b".", body].concat()
}

/// The value of [`SIGNATURE_HEADER`].
#[must_use]
pub fn signature_header(unix_secs: i64, key: &str, hex: &str) -> String {
    format!("t={unix_secs},k={key},v1={hex}")
}

/// What is wrong with an address, if anything.
#[must_use]
pub fn check_url(url: &str) -> Option<Fault> {
    let fault = |code: &str, message: String| Some(Fault::new("callback_url", code, message));
    if url.len() > MAX_URL {
        return fault("too_large", format!("{} bytes: an address has {MAX_URL} at most", url.len()));
    }
    match Location::parse(url, Use::Input) {
        Ok(Location::Web(_)) => None,
        Ok(Location::File(_) | Location::Object(_) | Location::Live(_)) => {
            fault("bad_value", "an http:// or https:// address is expected".to_owned())
        }
        Err(bad) => fault(bad.code, bad.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_the_web_without_secrets_for_others_to_see() {
        for good in ["https://a.example/hook", "http://a.example:8080/hook?id=7"] {
            assert_eq!(check_url(good), None, "{good}");
        }
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL));
        for bad in ["", "/hook", "s3://b/k", "ftp://a/b", "https://u:p@a.example/", "https://", "https://a/#f", &long] {
            assert!(check_url(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn time_and_body_are_signed_together() {
        assert_eq!(signed(17, b"{}"), b"17.{}");
        assert_eq!(signature_header(17, "k1", "ab"), "t=17,k=k1,v1=ab");
    }
}
