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
use ffpool_schema::plan::estimate::LiveEstimate;
use ffpool_schema::plan::live::{LiveRequest, LiveSource, live_arguments, silence_secs};
use ffpool_schema::probe::Probed;
use jiff::Timestamp;

use super::format;
use super::place::Place;

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

/// Seconds to the end of a live job: by its `duration`, its deadline, or the length of what it publishes. `None`: it goes on.
pub(super) fn secs_to_end(spec: &JobSpec, encode: &Encode, source: Option<&Probed>, now: Timestamp) -> Option<f64> {
    let begin = spec.not_before.map_or(now, |at| at.max(now));
    let to_deadline = spec.deadline.map(|deadline| deadline.duration_since(begin).as_secs_f64().max(0.0));
    let of_source = match &encode.source {
        Source::Generated { duration_secs } => Some(*duration_secs),
        Source::File { .. } | Source::Remote { .. } => source.and_then(|probed| probed.probe.duration_secs),
        Source::Live { .. } => None,
    };
    [encode.duration_secs, to_deadline, of_source].into_iter().flatten().reduce(f64::min)
}

/// What may go wrong while it runs.
pub(super) fn warnings(spec: &JobSpec, place: &Place, estimate: &LiveEstimate) -> Vec<String> {
    let mut warnings = Vec::new();
    let most = place.cpu_percent(spec);
    if let Some(percent) = estimate.cpu_percent.filter(|percent| *percent > most) {
        warnings.push(format!(
            "about {percent} % of a core is more than the {most} % that the job gets: the encode would fall behind its source. \
             Choose a faster preset, a smaller size or fewer frames"
        ));
    }
    let memory = estimate.memory_mb.unwrap_or(0);
    warnings.extend(super::too_large("memory", "max_memory_mb", memory, place.memory_mb(spec)));
    if let Some(full) = estimate.full_after_secs.filter(|full| estimate.secs.is_none_or(|secs| secs > *full)) {
        let end = match estimate.secs {
            Some(secs) => format!("the job, which lasts {},", format::duration(secs)),
            None => "the job, which names no end,".to_owned(),
        };
        warnings.push(format!(
            "{end} ends after about {} with what it has recorded: {} MiB of scratch hold no more of it, twice. Raise \
             resource_limits.max_disk_mb for a longer recording",
            format::duration(full),
            place.disk_mb(spec)
        ));
    }
    if estimate.secs == Some(0.0) {
        warnings.push("its deadline has passed: it would not run".to_owned());
    }
    warnings
}

/// What a live job takes, in words.
pub(super) fn rows(estimate: &LiveEstimate) -> Vec<(&'static str, String)> {
    let about = |value: Option<String>| value.map_or("not known".to_owned(), |value| format!("about {value}"));
    let hourly = |bytes: u64| format!("{} an hour", format::bytes(bytes));
    let size = |bytes: u64| match estimate.size_bytes {
        Some(all) => format!("{}, {} in all", hourly(bytes), format::bytes(all)),
        None => hourly(bytes),
    };
    let disk = estimate.disk_mb_per_hour.map(|mib| match (mib, estimate.disk_mb) {
        (0, standing) => format!("{} MiB, which do not grow", standing.unwrap_or(0)),
        (mib, Some(all)) => format!("{mib} MiB an hour, {all} MiB in all"),
        (mib, None) => format!("{mib} MiB an hour"),
    });
    let sent = estimate.sent_bytes_per_hour.filter(|bytes| *bytes > 0);
    vec![
        ("processor", about(estimate.cpu_percent.map(|percent| format!("{percent} % of a core")))),
        ("memory", about(estimate.memory_mb.map(|mib| format!("{mib} MiB")))),
        ("bit rate", about(estimate.bitrate.map(|bits| format!("{:.1} Mbit/s", bits as f64 / 1e6)))),
        ("size", about(estimate.size_bytes_per_hour.map(size))),
        ("sent", sent.map(|bytes| format!("about {}", hourly(bytes))).unwrap_or_default()),
        ("scratch", about(disk)),
        ("lasts", estimate.secs.map_or("until its source ends, or it is finished".to_owned(), format::duration)),
    ]
}
