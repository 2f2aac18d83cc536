//! Why a pipeline failed, from how it ended and the errors of its bus.
//!
//! Invariant: the kernel's word first, then the bus's errors in the order in which they came: the first one that says anything
//! is the reason, those behind it follow from it.
//! Source: the messages of GStreamer's error domains (`gsterror.c`) and of its demuxers, 1.22 measured. `gst-launch-1.0` prints
//! their text alone, not their code.

use ffpool_schema::failure::{Cause, Failure};

use crate::classify::{self, Exit};

/// What each message of the bus means. Lower case.
const TABLE: &[(&str, Cause)] = &[
    // Resources.
    ("no space left on", Cause::DiskFull),
    ("error while writing to file", Cause::DiskFull),
    ("resource not found", Cause::InputMissing),
    ("no such file", Cause::InputMissing),
    ("missing authorization", Cause::InputAuth),
    ("could not open resource for reading", Cause::Policy),
    ("permission denied", Cause::Policy),
    ("resource busy", Cause::IoTransient),
    ("could not read from resource", Cause::IoTransient),
    ("could not write to resource", Cause::IoTransient),
    ("could not synchronize on resource", Cause::IoTransient),
    ("input/output error", Cause::IoTransient),
    // Streams, and what the demuxers say of theirs.
    ("contains no playable streams", Cause::InputBad),
    ("this file is invalid", Cause::InputBad),
    ("this file is corrupt", Cause::InputBad),
    ("this file is incomplete", Cause::InputBad),
    ("doesn't contain enough data", Cause::InputBad),
    ("could not demultiplex stream", Cause::InputBad),
    ("could not decode stream", Cause::InputBad),
    ("could not determine type of stream", Cause::InputBad),
    ("the stream is in the wrong format", Cause::InputBad),
    ("the stream is encrypted", Cause::InputBad),
    ("different type than handled", Cause::InputBad),
    ("delayed linking failed", Cause::InputBad),
    ("could not encode stream", Cause::ConfigBad),
    ("could not multiplex stream", Cause::ConfigBad),
    // The core, its libraries, and what the pipeline is made of.
    ("is missing a plug-in", Cause::ConfigBad),
    ("no element ", Cause::ConfigBad),
    ("no property ", Cause::ConfigBad),
    ("could not set property", Cause::ConfigBad),
    ("could not link", Cause::ConfigBad),
    ("negotiation problem", Cause::ConfigBad),
    ("not-negotiated", Cause::ConfigBad),
    ("could not initialize supporting library", Cause::ConfigBad),
    ("could not configure supporting library", Cause::ConfigBad),
    ("failed to allocate", Cause::Resource),
    ("too many open files in system", Cause::Resource),
    ("too many open files", Cause::OpenFiles),
];

/// The failure of a pipeline that we did not end. `log` is the end of what it said.
#[must_use]
pub fn classify(exit: Exit, log: &[String]) -> Failure {
    if exit.oom_kills > 0 || exit.signal.is_some() {
        return classify::classify("gst-launch-1.0", exit, log);
    }
    let said = log.iter().find_map(|line| {
        let lower = line.to_ascii_lowercase();
        TABLE.iter().find(|(text, _)| lower.contains(text)).map(|(_, cause)| (*cause, line))
    });
    let first = log.iter().find(|line| line.starts_with("ERROR")).or_else(|| log.last());
    let (cause, evidence) = said.map_or((Cause::Unknown, first), |(cause, line)| (cause, Some(line)));
    let how = exit.code.map_or_else(|| "ended".to_owned(), |code| format!("exited with code {code}"));
    let mut failure = Failure::new(cause, format!("gst-launch-1.0 {how}"));
    failure.evidence = evidence.map(|line| classify::clean(line));
    failure.exit_code = exit.code;
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Exit = Exit { code: Some(1), signal: None, oom_kills: 0 };

    #[test]
    fn each_message_of_the_bus_has_its_cause() {
        for (line, cause) in [
            (
                "ERROR: from element /GstPipeline:pipeline0/GstFileSrc:filesrc0: Resource not found.",
                Cause::InputMissing,
            ),
            ("ERROR: from element /P/GstFileSrc:filesrc0: Could not open resource for reading.", Cause::Policy),
            ("ERROR: from element /P/GstFileSrc:filesrc0: Could not read from resource.", Cause::IoTransient),
            ("ERROR: from element /P/GstFileSink:filesink0: No space left on the resource.", Cause::DiskFull),
            ("ERROR: from element /P/GstQTDemux:demux: This file contains no playable streams.", Cause::InputBad),
            ("ERROR: from element /P/GstQTDemux:demux: This file is invalid and cannot be played.", Cause::InputBad),
            ("ERROR: from element /P/GstVP8Dec:vp8dec0: Could not decode stream.", Cause::InputBad),
            ("WARNING: erroneous pipeline: no element \"x264enc\"", Cause::ConfigBad),
            ("streaming stopped, reason not-negotiated (-4)", Cause::ConfigBad),
            ("ERROR: something new", Cause::Unknown),
        ] {
            let failure = classify(FAILED, &[line.to_owned()]);
            assert_eq!((failure.cause, failure.evidence.as_deref()), (cause, Some(line)));
        }
    }

    #[test]
    fn the_first_error_is_the_reason_and_the_kernel_s_word_comes_before_it() {
        let log = [
            "ERROR: from element /P/GstFileSink:filesink0: No space left on the resource.",
            "ERROR: from element /P/GstQTDemux:demux: Internal data stream error.",
            "streaming stopped, reason error (-5)",
            "ERROR: from element /P/GstQTDemux:demux: Could not demultiplex stream.",
        ];
        let log = log.map(str::to_owned);
        assert_eq!(classify(FAILED, &log).cause, Cause::DiskFull);
        assert_eq!(classify(Exit { code: None, signal: Some(9), oom_kills: 1 }, &log).cause, Cause::Oom);
        assert_eq!(classify(Exit { code: None, signal: Some(11), oom_kills: 0 }, &log).cause, Cause::Crash);
        assert_eq!(classify(FAILED, &[]).cause, Cause::Unknown);
    }
}
