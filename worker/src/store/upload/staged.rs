//! The names under which an output lies whole for a moment before it is visible, in a store that compares only when it copies.
//!
//! Invariant: no two attempts have one name. What an attempt that died left is deleted by whichever attempt of its job puts the
//! output next, and by one of another job when it is old.

use std::time::Duration;

use ffpool_schema::id::JobId;
use ffpool_schema::location::ObjectAddress;
use ffpool_schema::message::hex;
use futures_util::StreamExt;
use jiff::Timestamp;
use object_store::path::Path as Key;
use sha2::{Digest, Sha256};

use super::super::bucket::{Mark, Object};

/// The longest key, in bytes: as much as Google takes.
const KEY_BYTES: usize = 1024;
/// The longest name in a folder: a job's id, a dot, an attempt and the end.
const NAME_BYTES: usize = 36 + 1 + 10 + END.len();
/// How a name ends: what a rule of the store that clears away what is left can go by.
const END: &str = ".ffpool-part";
/// What another job's attempt has left for so long is nobody's any more.
const OLD: Duration = Duration::from_secs(24 * 3600);
/// For the list of what was left and its deletion: it may stay until the next time.
const SWEEP_WITHIN: Duration = Duration::from_secs(30);
/// As many of what was left are deleted at a time.
const AT_A_TIME: usize = 100;

/// Where an attempt has an output put together.
pub(super) fn at(object: &Object, mark: &Mark) -> Object {
    under(object, &format!("{}.{}{END}", mark.job, mark.attempt))
}

fn under(object: &Object, name: &str) -> Object {
    let key = format!("{}{name}", folder(&object.address.key));
    Object {
        key: Key::parse(&key).expect("the key was good without its end"),
        address: ObjectAddress { key, ..object.address.clone() },
        ..object.clone()
    }
}

fn folder(key: &str) -> String {
    let usual = format!("{key}.ffpool/");
    match usual.len() + NAME_BYTES <= KEY_BYTES {
        true => usual,
        // A name of the same worth that has room for what follows.
        false => format!(".ffpool/{}/", hex(&Sha256::digest(key))),
    }
}

/// Whose a name is.
fn whose(name: &str) -> Option<(JobId, u32)> {
    let (job, attempt) = name.strip_suffix(END)?.split_once('.')?;
    Some((job.parse().ok()?, attempt.parse().ok()?))
}

/// Whether what bears a name is left of an attempt that is over, as far as an attempt can know.
fn is_left(name: &str, ours: &Mark, age: Duration) -> bool {
    whose(name).is_some_and(|(job, attempt)| if job == ours.job { attempt < ours.attempt } else { age > OLD })
}

/// Deletes what attempts that are over left for this output, as far as it can.
pub(super) async fn sweep(object: &Object, ours: &Mark) {
    if tokio::time::timeout(SWEEP_WITHIN, sweep_all(object, ours)).await.is_err() {
        tracing::debug!(object = %object.address(), "what earlier attempts left may stay: the store does not answer");
    }
}

async fn sweep_all(object: &Object, ours: &Mark) {
    let folder = folder(&object.address.key);
    let prefix = Key::parse(folder.trim_end_matches('/')).expect("the key was good without its end");
    let mut found = object.client.store().list(Some(&prefix)).take(AT_A_TIME);
    while let Some(found) = found.next().await {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(object = %object.address(), %error, "what earlier attempts left cannot be listed");
                return;
            }
        };
        let Some(name) = found.location.as_ref().strip_prefix(folder.as_str()) else { continue };
        let seconds = Timestamp::now().as_second() - found.last_modified.timestamp();
        if !is_left(name, ours, Duration::from_secs(u64::try_from(seconds).unwrap_or_default())) {
            continue;
        }
        let left = under(object, name);
        match left.delete().await {
            Ok(()) => tracing::info!(object = %left.address(), "deleted what an attempt left"),
            Err(trouble) => {
                tracing::warn!(object = %left.address(), evidence = trouble.evidence, "what an attempt left stays")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn mark(job: u128, attempt: u32) -> Mark {
        Mark { job: JobId(Uuid::from_u128(job)), attempt, sha256: String::new() }
    }

    #[test]
    fn a_name_has_room_whatever_the_output_s_key_is() {
        assert_eq!(folder("a b/50%.mp4"), "a b/50%.mp4.ffpool/");
        let names = [999, 1000].map(|length| folder(&"k".repeat(length)));
        assert_ne!(names[0], names[1]);
        let longest = format!("{}.{}{END}", JobId(Uuid::max()), u32::MAX);
        for length in [1, 940, 956, 957, 958, 1000] {
            assert!(folder(&"k".repeat(length)).len() + longest.len() <= KEY_BYTES, "{length}");
        }
    }

    #[test]
    fn only_what_an_attempt_that_is_over_left_is_swept() {
        let name = |job, attempt| format!("{}.{attempt}{END}", mark(job, attempt).job);
        let (ours, young) = (mark(1, 3), Duration::from_secs(60));
        assert_eq!(whose(&name(1, 2)), Some((ours.job, 2)));
        assert!(is_left(&name(1, 2), &ours, young), "an earlier attempt's");
        for (job, attempt) in [(1, 3), (1, 4), (2, 1)] {
            assert!(!is_left(&name(job, attempt), &ours, young), "{job} {attempt}");
        }
        assert!(is_left(&name(2, 9), &ours, OLD * 2), "nobody's");
        assert!(!is_left(&name(1, 4), &ours, OLD * 2), "a later attempt's, whatever the clocks say");
        for other in ["out.mp4", &format!("x.1{END}"), &format!("{}.1.mp4", ours.job), &format!("a/{}", name(1, 1))] {
            assert!(!is_left(other, &ours, OLD * 2), "{other}");
        }
    }
}
