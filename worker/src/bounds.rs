//! What a worker takes of one job at most, whatever the job asks for: a small file may unpack to more than a machine has.
//!
//! Invariant: pure. Every bound that is passed has a cause of its own, and the message says what was found and which setting
//! bounds it. What the container says is judged before the encode; FFmpeg holds to the same while it reads.

use std::ffi::OsString;

use clap::Args;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::probe::Probed;

use crate::machine::group;

/// Bounds on what one attempt reads, writes and starts.
#[derive(Debug, Clone, Args)]
pub struct Bounds {
    /// Pixels of one picture of an input.
    #[arg(long, env = "FFPOOL_MAX_PIXELS", value_name = "PIXELS", default_value_t = Bounds::PIXELS, value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    pub max_pixels: u32,
    /// Streams of an input.
    #[arg(long, env = "FFPOOL_MAX_STREAMS", value_name = "NUMBER", default_value_t = Bounds::STREAMS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_streams: u32,
    /// Seconds that an input may last.
    #[arg(long, env = "FFPOOL_MAX_DURATION_SECS", value_name = "SECONDS", default_value_t = Bounds::DURATION_SECS, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_duration_secs: u64,
    /// Playlists that the source of one run of a live job may lead to.
    #[arg(long, env = "FFPOOL_MAX_PLAYLISTS", value_name = "NUMBER", default_value_t = Bounds::PLAYLISTS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_playlists: u32,
    /// MiB that all outputs of a job may have together. Default: what its `max_disk_mb` leaves.
    #[arg(long, env = "FFPOOL_MAX_OUTPUT_MB", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_output_mb: Option<u64>,
    /// MiB that an attempt may write, whatever its `max_disk_mb` says. Default: what the job says.
    #[arg(long, env = "FFPOOL_MAX_SCRATCH_MB", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_scratch_mb: Option<u64>,
    /// Files that a tool may have open.
    #[arg(long, env = "FFPOOL_MAX_OPEN_FILES", value_name = "NUMBER", default_value_t = Bounds::OPEN_FILES, value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    pub max_open_files: u64,
    /// Processes and threads that an attempt may have, where it has a cgroup.
    #[arg(long, env = "FFPOOL_MAX_PROCESSES", value_name = "NUMBER", default_value_t = group::PIDS_MAX, value_parser = clap::value_parser!(u64).range(16..=4_194_304))]
    pub max_processes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            max_pixels: Bounds::PIXELS,
            max_streams: Bounds::STREAMS,
            max_duration_secs: Bounds::DURATION_SECS,
            max_playlists: Bounds::PLAYLISTS,
            max_output_mb: None,
            max_scratch_mb: None,
            max_open_files: Bounds::OPEN_FILES,
            max_processes: group::PIDS_MAX,
        }
    }
}

impl Bounds {
    /// Twice the pixels of 8K: 8192 by 8192.
    const PIXELS: u32 = 1 << 26;
    /// More than any master has that was seen.
    const STREAMS: u32 = 200;
    /// A week.
    const DURATION_SECS: u64 = 7 * 24 * 3600;
    /// A ladder with sound in many languages has some dozens.
    const PLAYLISTS: u32 = 100;
    /// What a Linux process may open by default.
    pub(crate) const OPEN_FILES: u64 = 1024;

    /// What FFmpeg and ffprobe themselves hold to while they read an input.
    fn options(&self) -> [OsString; 4] {
        [
            "-max_pixels".into(),
            self.max_pixels.to_string().into(),
            "-max_streams".into(),
            self.max_streams.to_string().into(),
        ]
    }

    /// Arguments with these bounds before each input that is somebody else's; as they are where there is none.
    #[must_use]
    pub fn applied(&self, arguments: Vec<OsString>) -> Vec<OsString> {
        let mut bounded = Vec::with_capacity(arguments.len());
        for (at, argument) in arguments.iter().enumerate() {
            // Every input but what FFmpeg makes itself is opened behind its lists of what it may be.
            if argument == "-protocol_whitelist" && !is_made_here(&arguments[at..]) {
                bounded.extend(self.options());
            }
            bounded.push(argument.clone());
        }
        bounded
    }

    /// What is wrong with a source by what was found in it.
    #[must_use]
    pub fn judge(&self, probed: &Probed) -> Option<Failure> {
        let streams = probed.probe.streams;
        if streams > self.max_streams {
            let message = format!("the input has {streams} streams, FFPOOL_MAX_STREAMS is {}", self.max_streams);
            return Some(Failure::new(Cause::InputStreams, message));
        }
        if let Some(video) = probed.probe.video.as_ref() {
            let pixels = u64::from(video.width) * u64::from(video.height);
            if pixels > u64::from(self.max_pixels) {
                let message = format!(
                    "a picture of the input has {} x {} pixels, FFPOOL_MAX_PIXELS is {}",
                    video.width, video.height, self.max_pixels
                );
                return Some(Failure::new(Cause::InputPixels, message));
            }
        }
        let secs = probed.probe.duration_secs.filter(|secs| *secs > self.max_duration_secs as f64)?;
        let message = format!("the input lasts {secs:.0} s, FFPOOL_MAX_DURATION_SECS is {}", self.max_duration_secs);
        Some(Failure::new(Cause::InputTooLong, message))
    }

    /// Bytes that an attempt may write whose job allows itself so many.
    #[must_use]
    pub fn scratch_bytes(&self, wished: u64) -> u64 {
        self.max_scratch_mb.map_or(wished, |mb| wished.min(mb.saturating_mul(1 << 20)))
    }

    /// Bytes that all outputs may have together.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.max_output_mb.map_or(u64::MAX, |mb| mb.saturating_mul(1 << 20))
    }
}

/// Whether the next input of these arguments lies in the scratch, where the attempt made it: it is named without a directory.
fn is_made_here(arguments: &[OsString]) -> bool {
    let input = arguments.iter().skip_while(|argument| *argument != "-i").nth(1);
    input.and_then(|input| input.to_str()?.strip_prefix("file:")).is_some_and(|path| !path.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use ffpool_schema::message::{Probe, VideoProbe};

    use super::*;

    fn probed(width: u32, height: u32, streams: u32, secs: f64) -> Probed {
        let video = VideoProbe { width, height, ..VideoProbe::default() };
        let probe = Probe { video: Some(video), streams, duration_secs: Some(secs), ..Probe::default() };
        Probed { probe, ..Probed::default() }
    }

    #[test]
    fn each_bound_has_its_cause_and_says_its_setting() {
        let bounds = Bounds::default();
        assert_eq!(bounds.judge(&probed(8192, 4320, 40, 86_400.0)), None);
        for (found, cause, setting) in [
            (probed(16_384, 16_384, 1, 1.0), Cause::InputPixels, "FFPOOL_MAX_PIXELS"),
            (probed(u32::MAX, u32::MAX, 1, 1.0), Cause::InputPixels, "4294967295 x 4294967295"),
            (probed(320, 180, 201, 1.0), Cause::InputStreams, "FFPOOL_MAX_STREAMS"),
            (probed(320, 180, 1, 1e12), Cause::InputTooLong, "FFPOOL_MAX_DURATION_SECS"),
            (probed(320, 180, 1, f64::INFINITY), Cause::InputTooLong, "inf"),
        ] {
            let failure = bounds.judge(&found).unwrap();
            assert_eq!(failure.cause, cause, "{failure:?}");
            assert!(failure.message.contains(setting), "{failure:?}");
        }
    }

    #[test]
    fn bounds_stand_before_the_input_of_somebody_else() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let bounds = Bounds { max_pixels: 9, max_streams: 8, ..Bounds::default() };
        assert_eq!(
            bounds.applied(words("-nostdin -protocol_whitelist file -i file:/a -f null -")),
            words("-nostdin -max_pixels 9 -max_streams 8 -protocol_whitelist file -i file:/a -f null -")
        );
        // Each of several, but what the attempt made itself: that may be larger than what it was made of.
        assert_eq!(
            bounds.applied(words(
                "-protocol_whitelist tcp -i rtmp://h/a -protocol_whitelist file -f concat -i file:chunks.txt -protocol_whitelist file -i file:/b"
            )),
            words(
                "-max_pixels 9 -max_streams 8 -protocol_whitelist tcp -i rtmp://h/a -protocol_whitelist file -f concat -i file:chunks.txt \
                 -max_pixels 9 -max_streams 8 -protocol_whitelist file -i file:/b"
            )
        );
        assert_eq!(bounds.applied(words("-f lavfi -i testsrc2")), words("-f lavfi -i testsrc2"));
    }

    #[test]
    fn a_worker_s_bound_holds_whatever_the_job_says() {
        let bounds = Bounds { max_scratch_mb: Some(2), max_output_mb: Some(1), ..Bounds::default() };
        assert_eq!((bounds.scratch_bytes(1 << 40), bounds.scratch_bytes(1)), (2 << 20, 1));
        assert_eq!(bounds.output_bytes(), 1 << 20);
        assert_eq!(Bounds::default().scratch_bytes(7), 7);
    }
}
