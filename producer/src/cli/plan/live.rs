//! What a worker would run for a live job: one run, its addresses without their secrets.
//!
//! Invariant: nothing is dialled; a worker puts the addresses of the hosts into their place, once it has judged them.

use std::path::Path;

use ffpool_schema::encode::{Encode, Encoder, Source};
use ffpool_schema::gstreamer::live_pipeline;
use ffpool_schema::job::JobSpec;
use ffpool_schema::live::{Live, LiveAddress, SourceEnd, hide};
use ffpool_schema::location::redact;
use ffpool_schema::plan::Refusal;
use ffpool_schema::plan::live::{LiveRequest, LiveSource, live_arguments, silence_secs};
use ffpool_schema::probe::Probed;

/// What carries a live job out.
pub(super) enum By<'a> {
    /// FFmpeg, with this encoder.
    Ffmpeg(Option<Encoder>),
    /// GStreamer; of a file with what it holds.
    Gstreamer(Option<&'a Probed>),
}

/// The arguments of a run, on a worker whose settings are the usual ones.
pub(super) fn arguments(
    spec: &JobSpec,
    encode: &Encode,
    live: &Live,
    by: &By<'_>,
    threads: u32,
) -> Result<Vec<String>, Refusal> {
    let source = match &encode.source {
        Source::Live { url } => LiveAddress::parse(url).ok(),
        Source::File { .. } | Source::Remote { .. } | Source::Generated { .. } => None,
    };
    let file = match &encode.source {
        Source::File { path } => Some(Path::new(path)),
        // As a worker names what it has fetched.
        Source::Remote { .. } => Some(Path::new("input")),
        Source::Live { .. } | Source::Generated { .. } => None,
    };
    let stall = Live::stall_sec(spec.resource_limits.stall_sec, source.is_some(), Live::FED_STALL_SEC);
    let sinks: Vec<_> =
        live.sinks.iter().filter_map(|sink| LiveAddress::parse(sink).ok()).map(|sink| (sink, None)).collect();
    let secrets: Vec<String> =
        source.iter().chain(sinks.iter().map(|(sink, _)| sink)).flat_map(LiveAddress::secrets).collect();
    let run = LiveRequest {
        encode,
        encoder: match by {
            By::Ffmpeg(encoder) => *encoder,
            By::Gstreamer(_) => None,
        },
        device: None,
        threads,
        source: match (&source, file) {
            (Some(address), _) => LiveSource::Live(address, None, None),
            (None, Some(file)) => LiveSource::File(file),
            (None, None) => LiveSource::Generated,
        },
        sinks: &sinks,
        recording: live.record.then_some(Path::new("record-1.ts")),
        playlist: live.playlist.as_ref().map(|_| (Path::new("live.m3u8"), "segment-%06d.ts")),
        presentation: live.presentation.as_ref().map(|_| (Path::new("live-1.mpd"), "segment")),
        is_continued: false,
        is_later: false,
        is_heir: false,
        ca_file: None,
        silence_secs: silence_secs(stall),
        secs: encode.duration_secs,
    };
    let words = match by {
        By::Ffmpeg(_) => live_arguments(&run),
        By::Gstreamer(probed) => live_pipeline(&run, *probed)?.arguments(),
    };
    Ok(words.iter().map(|word| hide(&redact(&word.to_string_lossy()), &secrets)).collect())
}

/// How it goes on, in words.
pub(super) fn notes(encode: &Encode, live: &Live) -> Vec<String> {
    let mut notes = vec![format!(
        "live: the worker resolves every host itself before each run; {} live outputs, {}, {}, {}",
        live.sinks.len(),
        if live.playlist.is_some() { "an HLS playlist" } else { "no HLS playlist" },
        if live.presentation.is_some() { "a DASH presentation" } else { "no DASH presentation" },
        if live.record { "a recording" } else { "no recording" },
    )];
    if matches!(encode.source, Source::Live { .. }) {
        let end = match live.source_end {
            SourceEnd::Finish => "the job is done",
            SourceEnd::Fail => "the attempt fails",
        };
        notes.push(format!(
            "when the source is away for {} s, {end}; the tool is started again {} times at most",
            live.reconnect_secs, live.restarts
        ));
    }
    notes
}
