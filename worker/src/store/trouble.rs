//! What can go wrong between a worker and a store, told apart by cause.
//!
//! Invariant: a [`Trouble`] names no secret: whatever a library says of it goes through [`redact`].

use std::error::Error;
use std::io;
use std::time::Duration;

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::location::{Use, redact};

/// The most that is kept of what a library or a server says, in characters.
const SAID: usize = 400;

/// One failed step.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Why.
    pub cause: Cause,
    /// What happened, in one sentence.
    pub message: String,
    /// What a library or the server said.
    pub evidence: Option<String>,
    /// Whether the same step may go well in a moment.
    pub is_passing: bool,
    /// How long the server wants to be left alone.
    pub pause: Option<Duration>,
}

impl Trouble {
    /// One that stays.
    #[must_use]
    pub fn lasting(cause: Cause, message: impl Into<String>) -> Trouble {
        Trouble { cause, message: message.into(), evidence: None, is_passing: false, pause: None }
    }

    /// One that may pass.
    #[must_use]
    pub fn passing(cause: Cause, message: impl Into<String>) -> Trouble {
        Trouble { is_passing: true, ..Trouble::lasting(cause, message) }
    }

    /// With what was said of it.
    #[must_use]
    pub fn because(self, error: &dyn Error) -> Trouble {
        Trouble { evidence: Some(said(error)), ..self }
    }

    /// What a failed exchange over HTTP means, where no answer tells.
    #[must_use]
    pub fn of_exchange(what: &str, error: &(dyn Error + 'static)) -> Trouble {
        let trouble = match kind(error) {
            Kind::Tls => Trouble::lasting(Cause::Tls, format!("{what}: the server's TLS is not accepted")),
            Kind::Dns => Trouble::passing(Cause::Dns, format!("{what}: the host's name does not resolve")),
            Kind::Short => {
                Trouble::passing(Cause::InputTruncated, format!("{what}: the server ended before the length it named"))
            }
            Kind::Silent => Trouble::passing(Cause::NetTransient, format!("{what}: the server fell silent")),
            Kind::Network => Trouble::passing(Cause::NetTransient, format!("{what}: the connection failed")),
        };
        trouble.because(error)
    }

    /// What an object store's error means for an input or an output.
    #[must_use]
    pub fn of_store(what: &str, purpose: Use, error: &object_store::Error) -> Trouble {
        use object_store::Error as E;
        let (auth, missing) = match purpose {
            Use::Input => (Cause::InputAuth, Cause::InputMissing),
            Use::Output => (Cause::OutputAuth, Cause::OutputMissing),
        };
        match error {
            E::NotFound { .. } => Trouble::lasting(missing, format!("{what}: not found")).because(error),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Trouble::lasting(auth, format!("{what}: the store refuses the worker's credentials")).because(error)
            }
            E::Precondition { .. } | E::NotModified { .. } | E::AlreadyExists { .. } => {
                Trouble::passing(Cause::InputChanged, format!("{what}: the object has changed")).because(error)
            }
            E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => {
                Trouble::lasting(Cause::ConfigBad, format!("{what}: the store cannot do this")).because(error)
            }
            _ => {
                let text = said(error);
                // The text has the object's key and the times of the tries as well: only the element is the store's word.
                let says = |code: &&str| text.contains(&format!("<Code>{code}</Code>"));
                if ["NoSuchBucket", "ContainerNotFound"].iter().any(says) {
                    return Trouble::lasting(missing, format!("{what}: the bucket does not exist")).because(error);
                }
                if ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"].iter().any(says) {
                    return Trouble::lasting(auth, format!("{what}: the store refuses the worker's credentials"))
                        .because(error);
                }
                let trouble = Trouble::of_exchange(what, error);
                match refusal(error) {
                    Some(refusal) => Trouble {
                        message: format!(
                            "{what}: the store {refusal}: see the store's own log, and whether the profile's address is \
                             the store's"
                        ),
                        ..trouble
                    },
                    None => trouble,
                }
            }
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure { evidence: trouble.evidence, ..Failure::new(trouble.cause, redact(&trouble.message)) }
    }
}

/// How a store answered that it does not do what it is asked, found in everything that caused an error.
fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = refusal_in(&error.to_string()) {
            return Some(refusal);
        }
        next = error.source();
    }
    None
}

/// The library tells the status in words only, and whether it has asked again: what may pass it asks several times.
fn refusal_in(text: &str) -> Option<String> {
    let (before, after) = text.split_once("Server returned non-2xx status code: ")?;
    // What follows a colon is the body.
    let status = after.split(':').next()?.trim();
    let again = if before.contains(" retries, max_retries: ") { ", and was asked again in vain" } else { "" };
    Some(format!("answered {status}{again}"))
}

enum Kind {
    Tls,
    Dns,
    Short,
    Silent,
    Network,
}

/// Looks through everything that caused an error.
fn kind(error: &(dyn Error + 'static)) -> Kind {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return Kind::Tls;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if is_tls(error) {
                return Kind::Tls;
            }
            match error.kind() {
                io::ErrorKind::TimedOut => return Kind::Silent,
                io::ErrorKind::UnexpectedEof => return Kind::Short,
                _ => {}
            }
        }
        if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
            return Kind::Silent;
        }
        let text = error.to_string();
        // The libraries say these only in words.
        if text.contains("before message") {
            return Kind::Short;
        }
        if text.contains("dns error") || text.contains("failed to lookup address") {
            return Kind::Dns;
        }
        next = error.source();
    }
    Kind::Network
}

/// Whether it is TLS that failed, however often that is wrapped: such an error is not among its wrapper's sources.
fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>() || inner.downcast_ref::<io::Error>().is_some_and(is_tls))
}

/// An error with all its causes, on one line, without secrets.
fn said(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        // Some libraries repeat their causes in their own words.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = source.source();
    }
    let line = parts.join(": ").split_whitespace().collect::<Vec<_>>().join(" ");
    redact(&line).chars().take(SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_words_have_one_meaning_for_an_input_and_one_for_an_output() {
        use object_store::Error as E;
        let path = || "k".to_owned();
        let source = |text: &str| -> Box<dyn Error + Send + Sync> { text.into() };
        for (error, input, output) in [
            (
                E::NotFound { path: path(), source: source("<Code>NoSuchBucket</Code>") },
                Cause::InputMissing,
                Cause::OutputMissing,
            ),
            (E::PermissionDenied { path: path(), source: source("") }, Cause::InputAuth, Cause::OutputAuth),
            (E::Unauthenticated { path: path(), source: source("") }, Cause::InputAuth, Cause::OutputAuth),
            (
                E::Generic { store: "S3", source: source("<Code>NoSuchBucket</Code>") },
                Cause::InputMissing,
                Cause::OutputMissing,
            ),
            (
                E::Generic { store: "S3", source: source("status 403: <Code>AccessDenied</Code>") },
                Cause::InputAuth,
                Cause::OutputAuth,
            ),
            // A key and a time that look like a refusal.
            (
                E::Generic { store: "S3", source: source("GET /in/20260401/AccessDenied.mov in 1.403s: broken pipe") },
                Cause::NetTransient,
                Cause::NetTransient,
            ),
            (E::Generic { store: "S3", source: source("dns error") }, Cause::Dns, Cause::Dns),
            (E::Generic { store: "S3", source: source("broken pipe") }, Cause::NetTransient, Cause::NetTransient),
        ] {
            assert_eq!(Trouble::of_store("x", Use::Input, &error).cause, input, "{error}");
            assert_eq!(Trouble::of_store("x", Use::Output, &error).cause, output, "{error}");
        }
    }

    #[test]
    fn a_store_s_refusal_has_its_status_and_whether_it_was_asked_again() {
        let again = "Generic S3 error: Error performing PUT http://127.0.0.1:9/b/k in 1.2s, after 2 retries, max_retries: 2, \
                     retry_timeout: 1000s  - Server returned non-2xx status code: 502 Bad Gateway: ignored: by us";
        assert_eq!(refusal_in(again).unwrap(), "answered 502 Bad Gateway, and was asked again in vain");
        let once = "Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: 400 Bad Request: ";
        assert_eq!(refusal_in(once).unwrap(), "answered 400 Bad Request");
        assert_eq!(refusal_in("Error performing GET http://h/b/k in 1ms - HTTP error: broken pipe"), None);

        let error = object_store::Error::Generic { store: "S3", source: again.into() };
        let trouble = Trouble::of_store("write s3://b/k", Use::Output, &error);
        assert!(trouble.message.starts_with("write s3://b/k: the store answered 502 Bad Gateway,"), "{trouble:?}");
        assert_eq!((trouble.cause, trouble.is_passing), (Cause::NetTransient, true));
    }

    #[test]
    fn an_exchange_that_failed_is_told_apart_and_shows_no_secret() {
        let io = |kind, text: &str| io::Error::new(kind, text.to_owned());
        for (error, cause) in [
            (io(io::ErrorKind::ConnectionReset, "reset"), Cause::NetTransient),
            (io(io::ErrorKind::TimedOut, "late"), Cause::NetTransient),
            (io(io::ErrorKind::UnexpectedEof, "end"), Cause::InputTruncated),
            (io::Error::other(rustls::Error::DecryptError), Cause::Tls),
            (io::Error::other(io::Error::other(rustls::Error::DecryptError)), Cause::Tls),
        ] {
            assert_eq!(Trouble::of_exchange("x", &error).cause, cause, "{error}");
        }
        let error = io::Error::other("for https://u:hunter2@h/a?sig=hunter2 it failed");
        let failure = Failure::from(Trouble::of_exchange("fetch https://h/a?sig=hunter2", &error));
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }
}
