//! Addresses, values that a job writes as text, and due times.
//!
//! Invariant: what is shown of an address has none of its secrets, and a value is read the same from what is written of it.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use ffpool_schema::device::{Device, DeviceLimit};
use ffpool_schema::encode::{Bitrate, CodecChoice, Crop, Encoder, Fps, Ladder, Resolution, Streams};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{Pool, Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_schema::location::{Location, Use, redact};

use super::{parts, text};

#[allow(dead_code)]
#[path = "../../../dispatcher/src/schedules/cron.rs"]
mod cron;

/// An address of an input and of an output.
pub fn location(data: &[u8]) {
    let address = text(data);
    let shown = redact(&address);
    assert_eq!(redact(&shown), shown, "what was taken out stays out");
    for purpose in [Use::Input, Use::Output] {
        match Location::parse(&address, purpose) {
            Ok(Location::Live(live)) => {
                let again = Location::parse(&live.url(), purpose).expect("an address is read from what it says");
                assert_eq!(again, Location::Live(live.clone()));
                let _ = (live.srt_uri(None), live.dialled(None), live.in_clear(), live.rtmp_server());
                // What stands for a secret may look like a part of one.
                let shown = live.to_string().replace("***", " ");
                // A short text may stand anywhere, and one that stands twice may stand where nothing is secret too.
                let whole = live.url();
                let stands_once = |secret: &&String| secret.len() >= 8 && whole.matches(secret.as_str()).count() == 1;
                for secret in live.secrets().iter().filter(stands_once) {
                    assert!(!shown.contains(secret.as_str()), "{shown}");
                }
            }
            Ok(location) => {
                assert!(!location.to_string().chars().any(char::is_control));
                let _ = (location.name(), location.is_served_by(&["s3".to_owned()]));
            }
            Err(bad) => assert!(bad.message.len() <= 4000, "{} bytes", bad.message.len()),
        }
    }
    let _ = ffpool_schema::callback::check_url(&address);
}

/// A value: the first byte says which, the rest is its text.
pub fn value(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let all: [fn(&str); 15] = [
        again::<Bitrate>,
        again::<Fps>,
        again::<Resolution>,
        again::<Crop>,
        again::<Streams>,
        again::<Ladder>,
        again::<Encoder>,
        again::<CodecChoice>,
        again::<Device>,
        again::<JobId>,
        again::<WorkerId>,
        again::<Pool>,
        again::<Priority>,
        again::<Queue>,
        again::<State>,
    ];
    let _ = text(rest).parse::<DeviceLimit>();
    all[usize::from(kind.wrapping_sub(b'a')) % all.len()](&text(rest));
}

fn again<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            let read = written.parse::<T>().unwrap_or_else(|error| panic!("`{text}` became `{written}`: {error}"));
            assert_eq!(read, value, "`{text}` became `{written}`");
        }
        Err(error) => assert!(error.to_string().len() <= 4000),
    }
}

/// A cron expression; then, after a zero, a time zone.
pub fn schedule(data: &[u8]) {
    let (expression, zone) = parts(data);
    let zone = if zone.is_empty() { "Europe/Berlin".into() } else { text(zone) };
    let Ok(recurrence) = cron::Recurrence::new(&text(expression), &zone) else { return };
    let from = "2026-03-28T12:00:00Z".parse().expect("a constant instant");
    let due = recurrence.next(from, 4);
    assert!(due.first().is_none_or(|first| *first > from) && due.is_sorted_by(|a, b| a < b), "{due:?}");
    for instant in due {
        let _ = cron::values_at("fuzz", &recurrence, instant);
    }
}
