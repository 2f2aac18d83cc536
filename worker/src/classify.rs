//! Why a tool failed, from how it ended and what it said.
//!
//! Invariant: pure, and in one order: the kernel's word (memory, signals), then the tool's last errors against the table,
//! then its exit code or its silence, then unknown. That we ended it ourselves is known before, and never asked here.
//! Source of table and codes: FFmpeg 5.1 and 9.0 measured, 7.1 and 8.1 read; lines carry `[error]` by `-loglevel level+warning`.

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::location::redact;

/// How a tool ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, where it exited.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Processes that the kernel killed for memory in its cgroup.
    pub oom_kills: u64,
}

/// Patterns of one cause.
type Patterns = (Cause, &'static [&'static str]);

/// Streams that FFmpeg does not take because the worker told it so.
const STREAMS: Patterns = (Cause::InputStreams, &["exceeds max_streams parameter"]);
/// The same of pixels.
const PIXELS: Patterns = (Cause::InputPixels, &["exceeds specified max pixel count"]);

/// Patterns by cause, checked in this order; `*` stands for anything. Lower case. Of the lines that speak for a cause the evidence is
/// the one that the earliest of its patterns fits: what says most stands first.
const TABLE: &[Patterns] = &[
    // Before all else, for what follows from it is said too.
    STREAMS,
    (
        Cause::NetTransient,
        &[
            "connection reset by peer",
            "connection refused",
            "connection timed out",
            "operation timed out",
            "network is unreachable",
            "no route to host",
            "failed to resolve hostname",
            "temporary failure in name resolution",
            "server returned 5xx",
            "server returned 429",
            "http error 5",
            "stream ends prematurely",
            "error in the pull function",
            "tls fatal alert",
            "broken pipe",
            "cannot open connection tcp://",
            "rtmp_connect",
            "rtmp_readpacket",
            "error during demuxing: connection",
        ],
    ),
    (
        Cause::IoTransient,
        &["input/output error", "stale file handle", "resource temporarily unavailable", "text file busy"],
    ),
    (Cause::DiskFull, &["no space left on device", "disk quota exceeded", "file too large"]),
    (Cause::Resource, &["cannot allocate memory", "error while allocating", "too many open files in system"]),
    (Cause::OpenFiles, &["too many open files"]),
    (
        Cause::Device,
        &[
            "cannot load libcuda",
            "cannot load libnvcuvid",
            "cannot load nvcuda",
            "no capable devices found",
            "openencodesessionex failed",
            "out of memory (10)",
            "no nvenc capable",
            "driver does not support the required nvenc api",
            "cuda_error_",
            "failed to create vaapi",
            "failed to initialise vaapi",
            "vainitialize failed",
            "error initializing an internal mfx session",
            "device creation failed",
            "impossible to convert between the formats",
        ],
    ),
    (Cause::InputAuth, &["server returned 401", "server returned 403", "401 unauthorized", "403 forbidden"]),
    (Cause::InputMissing, &["no such file or directory", "server returned 404", "netstream.play.streamnotfound"]),
    // One damaged header in a source that loses packets says so too, and ends nothing: whatever is known besides comes first.
    PIXELS,
    // No size at all, or larger than FFmpeg itself takes.
    (Cause::InputBad, &["picture size 0x*is invalid", "picture size -*is invalid", "x0 is invalid", "x-*is invalid"]),
    (Cause::InputPixels, &["picture size * is invalid"]),
    // FFmpeg 5.1 says so of a picture that it does not take, too.
    (Cause::IoTransient, &["device or resource busy"]),
    (
        Cause::InputBad,
        &[
            "moov atom not found",
            "ebml header parsing failed",
            "could not find codec parameters",
            "does not contain any stream",
            "matches no streams",
            "partial file",
            "file ended prematurely",
            "corrupt input packet",
            "error while decoding",
            "error splitting the input into nal units",
            "format not on whitelist",
            // Said of the file after what was wrong with it.
            "invalid data found when processing input",
        ],
    ),
    (
        Cause::ConfigBad,
        &[
            "unknown encoder",
            "unknown decoder",
            "encoder not found",
            "decoder not found",
            "unrecognized option",
            "option not found",
            "no such filter",
            "filter not found",
            "not divisible by 2",
            "unable to find a suitable output format",
            "unable to choose an output format",
            "could not write header",
            "error setting option",
            "error parsing option",
            "incompatible pixel format",
        ],
    ),
    (
        Cause::Policy,
        &[
            "not on whitelist",
            "unsafe file name",
            "is not in allowed_segment_extensions",
            "operation not permitted",
            "permission denied",
        ],
    ),
    (Cause::Crash, &["assertion * failed", "internal bug"]),
    // Said of almost anything: only when nothing else was.
    (Cause::ConfigBad, &["invalid argument"]),
];

/// What exit codes mean, where FFmpeg exits with the low byte of its error (7.1 and newer). 8 and 255 are left out: they
/// stand for many things.
const CODES: &[(i32, Cause)] = &[
    (254, Cause::InputMissing),
    (251, Cause::IoTransient),
    (244, Cause::Resource),
    (243, Cause::Policy),
    (234, Cause::ConfigBad),
    (228, Cause::DiskFull),
    (224, Cause::NetTransient),
    (183, Cause::InputBad),
    (176, Cause::ConfigBad),
    (152, Cause::NetTransient),
    (146, Cause::NetTransient),
    (145, Cause::NetTransient),
    (143, Cause::NetTransient),
    (69, Cause::InputBad),
];

/// The failure of a tool that we did not end. `log` is the end of what it said.
#[must_use]
pub fn classify(tool: &str, exit: Exit, log: &[String]) -> Failure {
    let verdict = by_kernel(exit).or_else(|| by_log(log)).or_else(|| by_code(exit)).or_else(|| by_silence(exit, log));
    let (cause, evidence) = verdict.unwrap_or((Cause::Unknown, None));
    let evidence = evidence.or_else(|| last_error(log)).map(clean);
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    };
    let message = match cause {
        Cause::Oom => format!("{tool} ran into the attempt's memory limit and was killed"),
        Cause::InputBad if log.is_empty() => format!("{tool} {how} without a word: part of the input does not decode"),
        Cause::DiskFull if exit.signal == Some(SIGXFSZ) => format!("{tool} wrote more than the attempt's disk limit"),
        _ => format!("{tool} {how}"),
    };
    Failure { cause, message, evidence, exit_code: exit.code, signal: exit.signal }
}

const SIGXFSZ: i32 = nix::libc::SIGXFSZ;

type Verdict<'l> = (Cause, Option<&'l str>);

fn by_kernel(exit: Exit) -> Option<Verdict<'static>> {
    if exit.oom_kills > 0 {
        return Some((Cause::Oom, None));
    }
    match exit.signal? {
        nix::libc::SIGSEGV | nix::libc::SIGABRT | nix::libc::SIGILL | nix::libc::SIGBUS | nix::libc::SIGFPE => {
            Some((Cause::Crash, None))
        }
        SIGXFSZ => Some((Cause::DiskFull, None)),
        _ => Some((Cause::Killed, None)),
    }
}

fn by_log(log: &[String]) -> Option<Verdict<'_>> {
    let errors: Vec<&str> = log.iter().map(String::as_str).filter(|line| is_error(line)).collect();
    let warnings: Vec<&str> = log.iter().map(String::as_str).filter(|line| !is_error(line)).collect();
    // A warning decides only when no error is known: tools warn of much that does not matter.
    [errors, warnings].iter().find_map(|lines| {
        TABLE.iter().find_map(|(cause, patterns)| {
            let fits = |line: &str, pattern: &str| {
                let lower = line.to_ascii_lowercase();
                let is_remote = ["http://", "https://", "rtmp://"].iter().any(|scheme| lower.contains(scheme));
                !(*cause == Cause::IoTransient && is_remote) && contains(&lower, pattern)
            };
            let said = |pattern: &&str| lines.iter().rev().find(|line| fits(line, pattern));
            let hit = patterns.iter().find_map(said)?;
            Some((*cause, Some(*hit)))
        })
    })
}

fn by_code(exit: Exit) -> Option<Verdict<'static>> {
    let code = exit.code?;
    CODES.iter().find(|(known, _)| *known == code).map(|(_, cause)| (*cause, None))
}

/// Under `-xerror` FFmpeg 5.1 leaves without a word when a packet does not decode, and only then.
fn by_silence(exit: Exit, log: &[String]) -> Option<Verdict<'static>> {
    (exit.code == Some(1) && log.is_empty()).then_some((Cause::InputBad, None))
}

fn is_error(line: &str) -> bool {
    ["[error]", "[fatal]", "[panic]"].iter().any(|level| line.contains(level))
}

fn last_error(log: &[String]) -> Option<&str> {
    log.iter().rev().find(|line| is_error(line)).or_else(|| log.last()).map(String::as_str)
}

/// Whether the parts of `pattern` between its `*` stand in `line` in their order.
fn contains(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// The bound on inputs that a tool met and went on from, where its log tells of one: what it says of the input is no proof.
#[must_use]
pub fn passed_bound(log: &[String]) -> Option<(Cause, &str)> {
    log.iter().find_map(|line| {
        let lower = line.to_ascii_lowercase();
        let (cause, _) =
            [STREAMS, PIXELS].into_iter().find(|(_, patterns)| patterns.iter().any(|text| contains(&lower, text)))?;
        Some((cause, line.as_str()))
    })
}

/// A log line fit to be kept: no addresses of memory, no secrets.
#[must_use]
pub fn clean(line: &str) -> String {
    redact(&without_pointers(line))
}

/// Takes out ` @ 0x7f...`, which is different in every run.
fn without_pointers(line: &str) -> String {
    let mut parts = line.split(" @ 0x");
    let mut cleaned = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        cleaned.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(exit: Exit, log: &[&str]) -> Cause {
        let log: Vec<String> = log.iter().map(|line| (*line).to_owned()).collect();
        classify("ffmpeg", exit, &log).cause
    }

    const FAILED: Exit = Exit { code: Some(1), signal: None, oom_kills: 0 };

    #[test]
    fn the_kernel_s_word_comes_first() {
        let log = ["[error] Invalid data found when processing input"];
        assert_eq!(cause(Exit { code: None, signal: Some(9), oom_kills: 1 }, &log), Cause::Oom);
        assert_eq!(cause(Exit { code: None, signal: Some(11), oom_kills: 0 }, &log), Cause::Crash);
        assert_eq!(cause(Exit { code: None, signal: Some(9), oom_kills: 0 }, &log), Cause::Killed);
        assert_eq!(cause(Exit { code: None, signal: Some(25), oom_kills: 0 }, &[]), Cause::DiskFull);
    }

    #[test]
    fn the_tool_s_words_come_before_its_code() {
        for (line, expected) in [
            ("[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55] [error] moov atom not found", Cause::InputBad),
            ("[error] file:/media/a.mp4: No such file or directory", Cause::InputMissing),
            ("[error] av_interleaved_write_frame(): No space left on device", Cause::DiskFull),
            ("[fatal] Unknown encoder 'libx266'", Cause::ConfigBad),
            ("[h264_nvenc @ 0x1] [error] Cannot load libcuda.so.1", Cause::Device),
            ("[error] Protocol 'http' not on whitelist 'file,crypto,data'!", Cause::Policy),
            ("[concat @ 0x1] [error] Format not on whitelist 'mov'", Cause::InputBad),
            ("[panic] Assertion src->f->buf[0] failed at libavcodec/x.c:1", Cause::Crash),
            ("[error] x: Invalid argument", Cause::ConfigBad),
            ("[error] file:/media/a.mp4: Input/output error", Cause::IoTransient),
            ("[error] file:/media/a.mp4: Too many open files", Cause::OpenFiles),
            ("[error] file:/media/a.mp4: Too many open files in system", Cause::Resource),
            (
                "[error] Number of streams exceeds max_streams parameter (200), see the documentation",
                Cause::InputStreams,
            ),
            ("[error] Picture size 16384x16384 exceeds specified max pixel count 67108864, see", Cause::InputPixels),
            ("[IMGUTILS @ 0x1] [error] Picture size 16384x16384 is invalid", Cause::InputPixels),
            ("[IMGUTILS @ 0x1] [error] Picture size 0x0 is invalid", Cause::InputBad),
            ("[error] something new", Cause::Unknown),
        ] {
            assert_eq!(cause(FAILED, &[line]), expected, "{line}");
        }
    }

    #[test]
    fn the_evidence_is_the_line_that_says_most() {
        let log = [
            "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55] [error] moov atom not found",
            "[error] file:input: Invalid data found when processing input",
        ];
        let log: Vec<String> = log.iter().map(|line| (*line).to_owned()).collect();
        let failure = classify("ffprobe", FAILED, &log);
        assert_eq!(failure.cause, Cause::InputBad);
        assert_eq!(failure.evidence.as_deref(), Some("[mov,mp4,m4a,3gp,3g2,mj2] [error] moov atom not found"));
        assert_eq!(
            classify("ffprobe", FAILED, &log[1..]).evidence.as_deref(),
            Some("[error] file:input: Invalid data found when processing input")
        );
    }

    #[test]
    fn a_warning_decides_only_without_an_error() {
        let log = ["[warning] partial file", "[error] av_interleaved_write_frame(): No space left on device"];
        assert_eq!(cause(FAILED, &log), Cause::DiskFull);
        assert_eq!(cause(FAILED, &log[..1]), Cause::InputBad);
    }

    #[test]
    fn a_damaged_header_decides_only_where_nothing_but_damage_is_known() {
        let pixels = "[error] Picture size 16384x16384 exceeds specified max pixel count 67108864, see";
        assert_eq!(cause(FAILED, &[pixels, "[error] x: Connection reset by peer"]), Cause::NetTransient);
        assert_eq!(cause(FAILED, &[pixels, "[error] file:a: Device or resource busy"]), Cause::InputPixels);
        assert_eq!(cause(FAILED, &["[error] file:a: Device or resource busy"]), Cause::IoTransient);
        assert_eq!(cause(FAILED, &[pixels, "[error] x: Invalid data found when processing input"]), Cause::InputPixels);
    }

    #[test]
    fn the_exit_code_decides_when_nothing_was_said() {
        assert_eq!(cause(Exit { code: Some(183), ..FAILED }, &[]), Cause::InputBad);
        assert_eq!(cause(Exit { code: Some(228), ..FAILED }, &[]), Cause::DiskFull);
        assert_eq!(cause(Exit { code: Some(255), ..FAILED }, &[]), Cause::Unknown);
        assert_eq!(cause(FAILED, &[]), Cause::InputBad);
    }

    #[test]
    fn lines_are_kept_without_pointers_and_secrets() {
        assert_eq!(
            clean("[https @ 0x5581f0] [error] https://joe:pw@host/a.mp4?X-Signature=abc: Server returned 403"),
            "[https] [error] https://***@host/a.mp4?*** Server returned 403"
        );
        assert_eq!(clean("no url here"), "no url here");
        assert_eq!(clean("a://b/@c 'rtmp://u:p@h/app/key'"), "a://b/@c 'rtmp://***@h/app/***");
    }
}
