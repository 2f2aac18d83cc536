//! The audio encoder's arguments.
//!
//! Invariant: the same values hold for every audio stream that is taken.

use super::arguments::Arguments;
use super::streams::{Chosen, Inputs, taken};
use super::{Expected, Refusal, Request, loudness};
use crate::encode::AudioChoice;

/// Channel layouts that libopus takes.
const OPUS_LAYOUTS: &str = "aformat=channel_layouts=7.1|5.1|stereo|mono";

/// What FFmpeg's prober calls the outcome; `None`: what the source has.
pub(super) fn name(choice: AudioChoice) -> Option<&'static str> {
    match choice {
        AudioChoice::Aac => Some("aac"),
        AudioChoice::Opus => Some("opus"),
        AudioChoice::Mp3 => Some("mp3"),
        AudioChoice::Copy | AudioChoice::None => None,
    }
}

pub(super) fn audio(
    request: &Request<'_>,
    chosen: &Chosen,
    expected: &Expected,
    input: &Inputs,
    arguments: &mut Arguments,
) -> Result<(), Refusal> {
    if chosen.audio.is_empty() || expected.audio.is_empty() {
        arguments.all(["-an"]);
        return Ok(());
    }
    for number in &chosen.audio {
        arguments.pair("-map", format!("{}:a:{number}", input.audio));
    }
    let wish = &request.encode.audio;
    let encoder = match wish.codec {
        AudioChoice::Aac => "aac",
        AudioChoice::Opus => "libopus",
        AudioChoice::Mp3 => "libmp3lame",
        // A generated tone is raw sound: a copy of it is an encode.
        AudioChoice::Copy if request.source.is_none() => "aac",
        AudioChoice::Copy | AudioChoice::None => {
            arguments.pair("-c:a", "copy");
            return Ok(());
        }
    };
    arguments.pair("-c:a", encoder);
    arguments.pair("-b:a", wish.bitrate);
    let mut filters = Vec::new();
    if wish.loudness.is_some() {
        filters.push(taken(input.left(request), None, &loudness::correction(request)?));
    }
    match (wish.channels, wish.codec) {
        (Some(channels), _) => {
            // By layout: a count alone leaves open which channels they are.
            filters.push(format!("aformat=channel_layouts={channels}"));
        }
        (None, AudioChoice::Opus) => filters.push(OPUS_LAYOUTS.to_owned()),
        (None, AudioChoice::Mp3) => filters.push("aformat=channel_layouts=stereo|mono".to_owned()),
        (None, AudioChoice::Aac | AudioChoice::Copy | AudioChoice::None) => {}
    }
    if !filters.is_empty() {
        arguments.pair("-af", filters.join(","));
    }
    // Every audio stream of the expectation has the same rate, or none is asked for.
    if let Some(rate) = expected.audio.first().and_then(|audio| audio.sample_rate) {
        arguments.pair("-ar", rate);
    }
    Ok(())
}
