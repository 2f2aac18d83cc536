//! Whether an output is what was asked for.
//!
//! Invariant: pure; every difference is named, with what was expected and what is there.

use ffpool_schema::encode::{Container, Fps, PictureFormat};
use ffpool_schema::message::{AudioProbe, Proof, StreamProof};
use ffpool_schema::plan::{Expected, ExpectedAudio, ExpectedVideo, SourceFrames, sound_packet_secs};
use ffpool_schema::probe::Probed;

/// How far a frame rate may be off: half of what is between 30 and 30000/1001.
const FPS_TOLERANCE: f64 = 0.0005;
/// How exact the time between two ends is at best, in seconds: sound comes in packets, of which the first and the last are not full.
const LAG_TOLERANCE_SECS: f64 = 0.1;
/// The step in which containers count their length, in seconds, at worst.
const STEP_SECS: f64 = 0.002;
/// How exact the video's length is at best, in seconds: Matroska counts in milliseconds.
const VIDEO_TOLERANCE_SECS: f64 = 0.02;
/// How far an average bit rate may be over what was asked for.
const BITRATE_TOLERANCE: f64 = 0.1;
/// Shorter outputs do not settle to their average.
const BITRATE_MIN_SECS: f64 = 5.0;
/// Frames by which a number that follows from a length and a rate may be off: one that is begun at the end.
const FRAMES_TOLERANCE: f64 = 1.0;
/// What makes a whole number of one that follows from a length and a rate.
const ROUNDING: f64 = 0.5;
/// How far a true peak may be over what was asked for, in dB: what a filter has limited a lossy codec lets overshoot. Measured at
/// 128 kbit/s: 0.2 dB where sound goes on, 2 dB where it clicks. At 32 kbit/s it is up to 8 dB, which is no more what was asked for.
const PEAK_TOLERANCE_DB: f64 = 2.0;
/// How far a loudness may be off, in LU.
const LOUDNESS_TOLERANCE: f64 = 1.0;
/// Shorter sound has no loudness that could be relied on: it is measured in blocks of 400 ms above a gate.
const LOUDNESS_MIN_SECS: f64 = 3.0;

/// What differs, one sentence for each.
#[derive(Default)]
struct Differences {
    list: Vec<String>,
}

impl Differences {
    fn differ(&mut self, what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) {
        self.list.push(format!("{what} is {found} instead of {expected}"));
    }
}

/// Every way in which an output's probe differs from what was planned. Empty: it is right.
#[must_use]
pub fn differences(expected: &Expected, found: &Probed) -> Vec<String> {
    let mut differences = Differences::default();
    match (&expected.video, &found.probe.video) {
        (Some(wish), Some(_)) => video(wish, found, &mut differences),
        (Some(_), None) => differences.list.push("it has no video".to_owned()),
        (None, Some(_)) => differences.list.push("it has a video that was not asked for".to_owned()),
        (None, None) => {}
    }
    container(expected.container, found, &mut differences);
    length(expected, found, &mut differences);
    audio(&expected.audio, &found.audio, &mut differences);
    if expected.subtitles != found.subtitles {
        let names = |codecs: &[String]| if codecs.is_empty() { "none".to_owned() } else { codecs.join(", ") };
        differences.differ("the subtitles", names(&expected.subtitles), names(&found.subtitles));
    }
    if let Some(chapters) = expected.chapters.filter(|chapters| *chapters != found.chapters) {
        differences.differ("the number of chapters", chapters, found.chapters);
    }
    differences.list
}

fn video(wish: &ExpectedVideo, found: &Probed, differences: &mut Differences) {
    let Some(video) = &found.probe.video else { return };
    if video.codec != wish.codec {
        differences.differ("the codec", &wish.codec, &video.codec);
    }
    if (video.width, video.height) != (wish.width, wish.height) {
        let size = |(width, height): (u32, u32)| format!("{width}x{height}");
        differences.differ("the size", size((wish.width, wish.height)), size((video.width, video.height)));
    }
    // The average of few frames is not exact in every container; the rate that fits all their times is.
    let rates = [video.fps, found.rate.map(Fps::as_f64)];
    if let Some(fps) = wish.fps
        && !rates.into_iter().flatten().any(|found| (found - fps).abs() <= fps * FPS_TOLERANCE)
    {
        let found = video.fps.map_or("unknown".to_owned(), |fps| format!("{fps:.3}"));
        differences.differ("the frame rate", format!("{fps:.3}"), found);
    }
    if let Some(format) = wish.pixel_format {
        let pixels = video.pixel_format.as_deref().unwrap_or("unknown");
        // The `j` says full range, which is no other format.
        if pixels.replacen("yuvj", "yuv", 1) != format.replacen("yuvj", "yuv", 1) {
            differences.differ("the pixel format", format, pixels);
        }
    }
    if let Some(profile) = wish.profile {
        let name = video.profile.as_deref().unwrap_or("unknown");
        if !profile.probe_names().contains(&name) {
            differences.differ("the profile", format!("{profile} or less"), name);
        }
    }
    if let Some(colors) = &wish.colors {
        let found = &found.colors;
        for (what, wish, found) in [
            ("the colour primaries", colors.primaries, found.primaries),
            ("the colour transfer", colors.transfer, found.transfer),
            ("the colour matrix", colors.matrix, found.matrix),
        ] {
            if wish.is_some() && wish != found {
                differences.differ(what, wish.unwrap_or("unknown"), found.unwrap_or("unknown"));
            }
        }
        if let Some(wish) = colors.mastering
            && !found.mastering.is_some_and(|found| found.is_same(&wish))
        {
            let found = found.mastering.map_or("unknown".to_owned(), |found| found.to_string());
            differences.differ("the mastering display", wish, found);
        }
        if colors.light.is_some() && colors.light != found.light {
            let levels = |light: Option<(u32, u32)>| {
                light.map_or("unknown".to_owned(), |(content, average)| format!("{content} and {average} cd/m2"))
            };
            differences.differ("the light levels", levels(colors.light), levels(found.light));
        }
    }
    if wish.pixel_format.is_some() && video.rotation.is_some_and(|degrees| degrees.rem_euclid(360) != 0) {
        differences.differ("the rotation", 0, video.rotation.unwrap_or(0));
    }
}

fn container(wish: Container, found: &Probed, differences: &mut Differences) {
    let name = match wish {
        Container::Mp4 => "mp4",
        Container::Mov => "mov",
        Container::Mkv => "matroska",
        Container::Webm => "webm",
        Container::Ts => "mpegts",
        Container::M4a => "m4a",
        Container::Mp3 => "mp3",
        Container::Jpg => PictureFormat::Jpg.demuxer(),
        Container::Png => PictureFormat::Png.demuxer(),
        Container::Webp => PictureFormat::Webp.demuxer(),
        Container::Vtt => "webvtt",
        Container::Hls => "hls",
        Container::Dash => "dash",
    };
    if !found.probe.format.split(',').any(|format| format == name) {
        differences.differ("the container", name, &found.probe.format);
    }
}

/// Packets of sound by which a container's length may be more than that of what was put into it, besides one frame of the video or
/// one packet of the sound, whichever is longer. Measured with FFmpeg 5.1, AAC, MP3 and Opus from 8 to 48 kHz, with and without video.
fn priming_packets(container: Container) -> f64 {
    match container {
        // An edit list takes out what an encoder puts in front; the last packet says how much of it counts. Seen: 0.
        Container::Mp4 | Container::Mov | Container::M4a => 0.0,
        // All is moved back by what the encoder puts in front. Seen: 1.0 of AAC, 1.9 of MP3 below 32 kHz, 0.4 of Opus.
        Container::Mkv | Container::Webm => 2.0,
        // It stays in front of the picture, and the last packet is full. Its packets are counted, for it tells of no end: what it
        // tells of was 0.25 s less, because up to a third of a second of sound stands under one time. Seen: 2.0.
        Container::Ts => 2.0,
        // It is counted as sound at both ends. Seen: 1.6, and 2.9 below 32 kHz.
        Container::Mp3 => 3.0,
        // Their renditions are held in their own containers, and segments against these; pictures have no length.
        Container::Hls | Container::Dash | Container::Jpg | Container::Png | Container::Webp | Container::Vtt => 0.0,
    }
}

/// How far a length may be under and over what was taken of the source, in seconds. `packet`: the longest of the sound, in seconds.
fn slack(expected: &Expected, packet: f64) -> (f64, f64) {
    let one = expected.frame_secs.max(packet) + STEP_SECS;
    (one + expected.sound_slack_secs, one + priming_packets(expected.container) * packet)
}

/// The longest packet of an output's sound, as its packets tell.
fn longest_packet(proof: &Proof) -> f64 {
    let sounds = proof.streams.iter().filter(|stream| stream.kind == "audio" && stream.packets > 0);
    sounds.filter_map(|stream| Some(span(stream)? / stream.packets as f64)).fold(0.0, f64::max)
}

fn is_length(expected: &Expected, packet: f64, secs: f64) -> bool {
    let Some(wish) = expected.duration_secs else { return true };
    let (least, most) = match expected.video_secs {
        Some([least, most]) if expected.audio.is_empty() => (least.min(wish), most.max(wish)),
        Some(_) | None => (wish, wish),
    };
    let (under, over) = slack(expected, packet);
    secs >= least - under && secs <= most + over
}

fn length(expected: &Expected, found: &Probed, differences: &mut Differences) {
    // Subtitles may outlast both picture and sound; a transport stream tells of no end.
    let is_told = expected.subtitles.is_empty() && expected.container != Container::Ts;
    let Some(wish) = expected.duration_secs.filter(|_| is_told) else { return };
    let packets = found.audio.iter().map(|audio| sound_packet_secs(&audio.codec, audio.sample_rate));
    let packet = packets.fold(0.0, f64::max);
    if !found.probe.duration_secs.is_some_and(|secs| is_length(expected, packet, secs)) {
        let found = found.probe.duration_secs.map_or("unknown".to_owned(), |secs| format!("{secs:.3} s"));
        differences.differ("the length", format!("{wish:.3} s"), found);
    }
}

/// The same of a container that does not tell, by its packets.
fn length_of_packets(expected: &Expected, proof: &Proof, differences: &mut Differences) {
    let is_untold = expected.subtitles.is_empty() && expected.container == Container::Ts;
    let Some(wish) = expected.duration_secs.filter(|_| is_untold) else { return };
    let first = proof.streams.iter().filter_map(|stream| stream.first_secs).reduce(f64::min);
    let end = proof.streams.iter().filter_map(|stream| stream.end_secs).reduce(f64::max);
    let secs = first.zip(end).map(|(first, end)| end - first);
    if !secs.is_some_and(|secs| is_length(expected, longest_packet(proof), secs)) {
        let found = secs.map_or("unknown".to_owned(), |secs| format!("{secs:.3} s"));
        differences.differ("the length", format!("{wish:.3} s"), found);
    }
}

fn audio(wishes: &[ExpectedAudio], found: &[AudioProbe], differences: &mut Differences) {
    if wishes.len() != found.len() {
        let count = |count: usize| if count == 0 { "none".to_owned() } else { format!("{count} streams") };
        differences.differ("the audio", count(wishes.len()), count(found.len()));
        return;
    }
    for (wish, found) in wishes.iter().zip(found) {
        if wish.codec != found.codec {
            differences.differ("the audio", &wish.codec, &found.codec);
        }
        let text = |value: Option<u32>| value.map_or("unknown".to_owned(), |value| value.to_string());
        if wish.channels.is_some() && wish.channels != found.channels {
            differences.differ("the number of audio channels", text(wish.channels), text(found.channels));
        }
        if wish.sample_rate.is_some() && wish.sample_rate != found.sample_rate {
            differences.differ("the audio's sample rate", text(wish.sample_rate), text(found.sample_rate));
        }
    }
}

/// Every way in which an output's packets, frames and loudness differ from what was planned.
#[must_use]
pub fn proof_differences(expected: &Expected, proof: &Proof) -> Vec<String> {
    let mut differences = Differences::default();
    let of_kind = |kind: &str| proof.streams.iter().find(|stream| stream.kind == kind);
    length_of_packets(expected, proof, &mut differences);
    if let (Some(wish), Some(video)) = (&expected.video, of_kind("video")) {
        frames(wish, video, proof.frames, &mut differences);
        if let (Some(fps), Some([least, most]), Some(frames)) = (wish.fps, expected.video_secs, proof.frames) {
            let tolerance = FRAMES_TOLERANCE + STEP_SECS * fps;
            let (least, most) = (least * fps, most * fps);
            if (frames as f64) < least - tolerance || frames as f64 > most + tolerance {
                let nearest = if (frames as f64) < least { least } else { most };
                differences.differ("the number of frames by the source's length", format!("{nearest:.1}"), frames);
            }
        }
        if let (Some([least, most]), Some(found)) = (expected.video_secs, span(video)) {
            // A frame at either end: the first may come before the sound, the last may be cut or doubled by the rate.
            let tolerance = 2.0 * expected.frame_secs + VIDEO_TOLERANCE_SECS;
            let tolerance = tolerance.max(VIDEO_TOLERANCE_SECS * 2.0);
            if found < least - tolerance || found > most + tolerance {
                let nearest = if found < least { least } else { most };
                differences.differ("the video's length", format!("{nearest:.3} s"), format!("{found:.3} s"));
            }
        }
        if let (Some(bitrate), Some(rate)) = (wish.bitrate, settled_bitrate(proof)) {
            // Under it is no fault: a simple picture needs no more, and no encoder can spend bits on nothing.
            if rate > bitrate as f64 * (1.0 + BITRATE_TOLERANCE) {
                differences.differ("the video bit rate", bitrate, format!("{rate:.0}"));
            }
        }
        if let (Some(lag), Some(audio)) = (expected.audio_lag_secs, of_kind("audio"))
            && let (Some(video_end), Some(audio_end)) = (video.end_secs, audio.end_secs)
        {
            let found = audio_end - video_end;
            let (under, over) = slack(expected, longest_packet(proof));
            if (found - lag).abs() > LAG_TOLERANCE_SECS.max(under).max(over) + 2.0 * expected.frame_secs {
                differences.differ(
                    "the time from the video's end to the audio's",
                    format!("{lag:.3} s"),
                    format!("{found:.3} s"),
                );
            }
        }
    }
    let wish = expected.audio.iter().find_map(|audio| audio.loudness);
    let is_long = expected.duration_secs.is_none_or(|secs| secs >= LOUDNESS_MIN_SECS);
    if let (Some(wish), true) = (wish, is_long)
        && !proof.lufs.is_some_and(|lufs| (lufs - wish.lufs).abs() <= LOUDNESS_TOLERANCE)
    {
        let found = proof.lufs.map_or("unknown".to_owned(), |lufs| format!("{lufs:.1} LUFS"));
        differences.differ("the loudness", format!("{:.1} LUFS", wish.lufs), found);
    }
    if let Some(wish) = wish
        && !proof.peak_dbtp.is_some_and(|peak| peak <= wish.peak_dbtp + PEAK_TOLERANCE_DB)
    {
        let found = proof.peak_dbtp.map_or("unknown".to_owned(), |peak| format!("{peak:.1} dBTP"));
        differences.differ("the true peak", format!("{:.1} dBTP or less", wish.peak_dbtp), found);
    }
    differences.list
}

/// What the run that made an output says of its frames.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Run {
    /// Frames that it wrote, where it tells of this output.
    pub written: Option<u64>,
    /// Frames that it repeated to keep a rate, in all of its outputs.
    pub repeated: u64,
    /// Frames that it left out to keep a rate, in all of its outputs.
    pub left_out: u64,
    /// Outputs that it made.
    pub outputs: u64,
}

impl Run {
    /// The least and the most that it took of the source for an output of so many frames. Of one output alone it is one number.
    fn taken(&self, frames: u64) -> [u64; 2] {
        let (least, most) = (frames.saturating_sub(self.repeated), frames.saturating_add(self.left_out));
        if self.outputs > 1 { [least, most] } else { [most.saturating_sub(self.repeated); 2] }
    }

    /// What goes into the proof of an output of so many frames; `is_kept`: the rate is the source's.
    pub fn note(&self, proof: &mut Proof, is_kept: bool) {
        let [least, most] = self.taken(proof.frames.unwrap_or(0));
        proof.source_frames = (is_kept && least == most).then_some(most);
        let is_told = self.outputs == 1;
        (proof.repeated, proof.left_out) = (is_told.then_some(self.repeated), is_told.then_some(self.left_out));
    }

    /// Whether an output has other frames than its run says that it wrote.
    #[must_use]
    pub fn difference(&self, wish: &ExpectedVideo, frames: u64) -> Option<String> {
        // VP8 has packets that are not shown.
        let written = self.written.filter(|written| *written != frames && wish.codec != "vp8")?;
        Some(format!("the number of frames is {frames}, and the tool wrote {written}"))
    }

    /// Whether so many frames are as many as the source says that it has.
    #[must_use]
    pub fn fits(&self, source: &SourceFrames, frames: u64) -> bool {
        let [least, most] = self.taken(frames).map(|frames| frames as f64);
        let tolerance = match (source.is_counted, source.is_all) {
            (true, _) => 0.0,
            (false, true) => ROUNDING,
            // It may begin and end within a frame.
            (false, false) => FRAMES_TOLERANCE,
        };
        source.said.is_some_and(|said| said >= least - tolerance && said <= most + tolerance)
    }

    /// Whether an output of so many frames has others than a decode of what is taken of the source counted.
    #[must_use]
    pub fn loss(&self, source: &SourceFrames, frames: u64, counted: u64) -> Option<String> {
        let [least, most] = self.taken(frames);
        // A part may begin and end within a frame.
        let tolerance = if source.is_all { 0 } else { 1 };
        let is_right = counted >= least.saturating_sub(tolerance) && counted <= most.saturating_add(tolerance);
        (!is_right).then(|| {
            let (repeated, left_out) = (self.repeated, self.left_out);
            let taken = if least == most { most.to_string() } else { format!("{least} to {most}") };
            format!(
                "the number of frames of the source is {taken} instead of {counted}: of {frames} frames {repeated} are \
                 repeated, and {left_out} were left out, to keep the rate"
            )
        })
    }

    /// Whether more frames were left out than are too near to others for the rate.
    #[must_use]
    pub fn excess(&self, crowded: u64) -> Option<String> {
        let left_out = self.left_out;
        (left_out > crowded.saturating_mul(self.outputs.max(1))).then(|| {
            format!(
                "{left_out} frames were left out to keep the rate, and the source has {crowded} that it has no room for"
            )
        })
    }
}

fn frames(wish: &ExpectedVideo, video: &StreamProof, frames: Option<u64>, differences: &mut Differences) {
    let Some(decoded) = frames else {
        differences.list.push("its frames could not be counted".to_owned());
        return;
    };
    if decoded == 0 {
        differences.list.push("it has no frames".to_owned());
    }
    // A copy is as good as its source; VP8 has packets that are not shown.
    let is_one_to_one = wish.pixel_format.is_some() && video.codec != "vp8";
    if is_one_to_one && decoded != video.packets {
        differences.differ("the number of frames that decode", video.packets, decoded);
    }
    if let (Some(fps), Some(secs)) = (wish.fps, span(video)) {
        let planned = secs * fps;
        if (decoded as f64 - planned).abs() > 1.5 + planned * FPS_TOLERANCE {
            differences.differ("the number of frames", format!("{planned:.0}"), decoded);
        }
    }
}

fn span(stream: &StreamProof) -> Option<f64> {
    Some(stream.end_secs? - stream.first_secs?)
}

/// The video's average rate, where the output is long enough to have one.
#[must_use]
pub fn settled_bitrate(proof: &Proof) -> Option<f64> {
    let video = proof.streams.iter().find(|stream| stream.kind == "video")?;
    let secs = span(video).filter(|secs| *secs > BITRATE_MIN_SECS)?;
    Some(video.bytes as f64 * 8.0 / secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::encode::{Loudness, Profile};
    use ffpool_schema::message::{Probe, VideoProbe};
    use ffpool_schema::probe::{Colors, Mastering};

    fn expected() -> Expected {
        Expected {
            pictures: None,
            container: Container::Mp4,
            video: Some(ExpectedVideo {
                codec: "hevc".to_owned(),
                width: 640,
                height: 360,
                fps: Some(30.0),
                pixel_format: Some("yuv420p"),
                profile: Some(Profile::Main),
                bitrate: Some(1_000_000),
                colors: Some(Colors { transfer: Some("smpte2084"), ..Colors::default() }),
                is_picture: false,
            }),
            audio: vec![ExpectedAudio {
                codec: "aac".to_owned(),
                channels: Some(2),
                sample_rate: Some(48_000),
                loudness: Some(Loudness { lufs: -23.0, peak_dbtp: -1.0 }),
            }],
            subtitles: Vec::new(),
            chapters: Some(0),
            duration_secs: Some(10.0),
            video_secs: Some([10.0, 10.0]),
            audio_lag_secs: Some(0.0),
            source_frames: None,
            frame_secs: 1.0 / 30.0,
            sound_slack_secs: 0.0,
        }
    }

    fn found() -> Probed {
        let audio = AudioProbe {
            codec: "aac".to_owned(),
            channels: Some(2),
            sample_rate: Some(48_000),
            ..AudioProbe::default()
        };
        Probed {
            probe: Probe {
                format: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
                duration_secs: Some(10.03),
                video: Some(VideoProbe {
                    codec: "hevc".to_owned(),
                    profile: Some("Main".to_owned()),
                    width: 640,
                    height: 360,
                    fps: Some(30.005),
                    pixel_format: Some("yuvj420p".to_owned()),
                    ..VideoProbe::default()
                }),
                audio: Some(audio.clone()),
                ..Probe::default()
            },
            audio: vec![audio],
            colors: Colors { transfer: Some("smpte2084"), ..Colors::default() },
            ..Probed::default()
        }
    }

    fn proof() -> Proof {
        let stream = |kind: &str, codec: &str, packets, bytes| StreamProof {
            kind: kind.to_owned(),
            codec: codec.to_owned(),
            packets,
            bytes,
            first_secs: Some(0.0),
            end_secs: Some(10.0),
        };
        let streams = vec![stream("video", "hevc", 300, 1_300_000), stream("audio", "aac", 469, 160_000)];
        Proof { streams, frames: Some(300), lufs: Some(-23.4), peak_dbtp: Some(0.9), ..Proof::default() }
    }

    #[test]
    fn what_was_asked_for_passes() {
        assert_eq!(differences(&expected(), &found()), Vec::<String>::new());
        assert_eq!(proof_differences(&expected(), &proof()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let mut wrong = found();
        let video = wrong.probe.video.as_mut().unwrap();
        video.codec = "h264".to_owned();
        video.width = 320;
        video.fps = Some(25.0);
        video.pixel_format = Some("yuv444p".to_owned());
        video.profile = Some("High".to_owned());
        video.rotation = Some(90);
        wrong.probe.duration_secs = Some(9.0);
        wrong.audio.clear();
        wrong.probe.format = "matroska,webm".to_owned();
        wrong.subtitles = vec!["subrip".to_owned()];
        wrong.chapters = 2;
        wrong.colors = Colors::default();
        let differences = differences(&expected(), &wrong);
        for what in [
            "codec",
            "size",
            "frame rate",
            "pixel format",
            "profile",
            "rotation",
            "container",
            "length",
            "audio",
            "subtitles",
            "chapters",
            "colour transfer",
        ] {
            assert!(differences.iter().any(|line| line.contains(what)), "{what}: {differences:?}");
        }
        assert_eq!(differences.len(), 12);
    }

    #[test]
    fn a_rate_that_is_nearly_the_right_one_is_wrong() {
        for (wish, rate, is_right) in
            [(30.0, 30_000.0 / 1001.0, false), (24.0, 24_000.0 / 1001.0, false), (24_000.0 / 1001.0, 23.976, true)]
        {
            let mut expected = expected();
            let mut found = found();
            expected.video.as_mut().unwrap().fps = Some(wish);
            found.probe.video.as_mut().unwrap().fps = Some(rate);
            assert_eq!(differences(&expected, &found).is_empty(), is_right, "{rate} for {wish}");
            found.rate = Some(Fps { num: 24_000, den: 1001 });
            assert_eq!(differences(&expected, &found).is_empty(), wish < 24.0, "{rate} for {wish}");
        }
    }

    #[test]
    fn what_is_lost_of_a_high_range_is_named() {
        let mastering = Mastering {
            points: [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)],
            luminance: (0.0001, 1000.0),
        };
        let mut expected = expected();
        let colors = expected.video.as_mut().unwrap().colors.as_mut().unwrap();
        (colors.mastering, colors.light) = (Some(mastering), Some((1000, 400)));
        let mut found = found();
        let lost = differences(&expected, &found);
        assert_eq!(lost.len(), 2, "{lost:?}");
        assert!(lost[0].contains("red (0.6800, 0.3200)") && lost[1].contains("1000 and 400 cd/m2"), "{lost:?}");
        // As AV1 counts it.
        let steps = Mastering { luminance: (2.0 / 16_384.0, 1000.0), ..mastering };
        (found.colors.mastering, found.colors.light) = (Some(steps), Some((1000, 400)));
        assert_eq!(differences(&expected, &found), Vec::<String>::new());
        found.colors.mastering = Some(Mastering { luminance: (0.0001, 4000.0), ..mastering });
        assert_eq!(differences(&expected, &found).len(), 1);
    }

    #[test]
    fn sound_is_compared_stream_by_stream() {
        let mut wrong = found();
        wrong.audio[0] = AudioProbe {
            codec: "mp3".to_owned(),
            channels: Some(1),
            sample_rate: Some(44_100),
            ..AudioProbe::default()
        };
        let differences = differences(&expected(), &wrong);
        assert_eq!(
            differences,
            [
                "the audio is mp3 instead of aac",
                "the number of audio channels is 1 instead of 2",
                "the audio's sample rate is 44100 instead of 48000",
            ]
        );
    }

    #[test]
    fn packets_and_frames_must_agree_with_the_plan_and_with_each_other() {
        let mut wrong = proof();
        wrong.frames = Some(250);
        wrong.streams[0].end_secs = Some(9.0);
        wrong.streams[0].bytes = 1_500_000;
        wrong.lufs = Some(-30.0);
        wrong.peak_dbtp = Some(1.1);
        let differences = proof_differences(&expected(), &wrong);
        for what in [
            "frames that decode",
            "the number of frames is",
            "the video's length",
            "bit rate",
            "the number of frames by the source's length",
            "the loudness is -30.0 LUFS",
            "the true peak is 1.1 dBTP instead of -1.0 dBTP or less",
            "from the video's end to the audio's",
        ] {
            assert!(differences.iter().any(|line| line.contains(what)), "{what}: {differences:?}");
        }
    }

    #[test]
    fn a_length_is_exact_to_a_frame_and_what_its_container_adds() {
        // (container, with picture, rate of the sound, length, whether it is right)
        for (container, codec, rate, secs, is_right) in [
            (Container::Mp4, "aac", 48_000, 10.034, true),
            (Container::Mp4, "aac", 48_000, 10.037, false),
            (Container::Mp4, "aac", 48_000, 9.96, false),
            (Container::Mkv, "aac", 48_000, 10.076, true),
            (Container::Mkv, "aac", 48_000, 10.08, false),
            (Container::Mkv, "aac", 48_000, 9.96, false),
            (Container::Webm, "opus", 48_000, 10.07, true),
            (Container::Mp3, "mp3", 44_100, 10.1, true),
            (Container::Mp3, "mp3", 8000, 10.24, true),
            (Container::Mp3, "mp3", 44_100, 10.12, false),
        ] {
            let wish = Expected { container, ..expected() };
            let told = Probe { duration_secs: Some(secs), ..found().probe };
            let audio = AudioProbe { codec: codec.to_owned(), sample_rate: Some(rate), ..AudioProbe::default() };
            let found = Probed { probe: told, audio: vec![audio], ..found() };
            let mut differences = Differences::default();
            length(&wish, &found, &mut differences);
            assert_eq!(
                differences.list.is_empty(),
                is_right,
                "{container} {codec} {rate} {secs}: {:?}",
                differences.list
            );
        }
        // What a decoder leaves out of the source's sound.
        let wish = Expected { sound_slack_secs: 0.05, ..expected() };
        let told = Probe { duration_secs: Some(9.92), ..found().probe };
        assert_eq!(differences(&wish, &Probed { probe: told, ..found() }), Vec::<String>::new());
        // A transport stream is measured by its packets, whatever it says.
        let wish = Expected { container: Container::Ts, audio_lag_secs: None, ..expected() };
        for (end, is_right) in [(10.07, true), (10.09, false), (9.9, true), (9.96, true)] {
            let mut found = proof();
            found.streams[1].end_secs = Some(end);
            found.streams[1].first_secs = Some(-0.001);
            let differences = proof_differences(&wish, &found);
            assert_eq!(differences.is_empty(), is_right, "{end}: {differences:?}");
        }
    }

    #[test]
    fn frames_are_held_against_those_of_the_source() {
        let counted = SourceFrames { said: Some(300.0), is_counted: true, is_all: true };
        let reckoned = SourceFrames { said: Some(300.4), is_counted: false, is_all: true };
        let alone = Run { written: Some(300), outputs: 1, ..Run::default() };
        for (run, frames, is_counted_right, is_reckoned_right) in [
            (alone, 300, true, true),
            (alone, 299, false, false),
            (alone, 301, false, false),
            // One frame more at the beginning, because the sound begins before the picture.
            (Run { repeated: 1, ..alone }, 301, true, true),
            // One lost, and another repeated.
            (Run { repeated: 1, ..alone }, 300, false, false),
            (Run { left_out: 2, ..alone }, 298, true, true),
            // What a run says of several outputs may be true of any of them.
            (Run { repeated: 3, outputs: 3, ..alone }, 300, true, true),
            (Run { repeated: 3, outputs: 3, ..alone }, 299, false, false),
            (Run { left_out: 3, outputs: 3, ..alone }, 298, true, true),
        ] {
            let name = format!("{run:?} {frames}");
            assert_eq!(run.fits(&counted, frames), is_counted_right, "{name}");
            assert_eq!(run.fits(&reckoned, frames), is_reckoned_right, "{name}");
            assert_eq!(run.loss(&counted, frames, 300).is_none(), is_counted_right, "{name}");
        }
        assert!(!alone.fits(&SourceFrames { said: None, ..counted }, 300), "nothing is known: it is counted");
        let part = SourceFrames { is_all: false, ..reckoned };
        assert_eq!([299, 300, 301, 302].map(|frames| alone.fits(&part, frames)), [false, true, true, false]);
        assert_eq!([299, 301, 302].map(|frames| alone.loss(&part, frames, 300).is_none()), [true, true, false]);
        let evidence = Run { repeated: 1, ..alone }.loss(&counted, 300, 300).unwrap();
        let lost = "the number of frames of the source is 299 instead of 300: of 300 frames 1 are repeated, and 0";
        assert!(evidence.starts_with(lost), "{evidence}");
        let wish = expected().video.unwrap();
        assert_eq!([300, 299].map(|frames| alone.difference(&wish, frames).is_none()), [true, false]);
        let left_out = Run { left_out: 4, ..alone };
        assert_eq!([3, 4].map(|crowded| left_out.excess(crowded).is_none()), [false, true]);
        let mut proof = proof();
        Run { repeated: 1, ..alone }.note(&mut proof, true);
        assert_eq!((proof.source_frames, proof.repeated, proof.left_out), (Some(299), Some(1), Some(0)));
        Run { repeated: 1, outputs: 2, ..alone }.note(&mut proof, true);
        assert_eq!((proof.source_frames, proof.repeated, proof.left_out), (None, None, None));
    }

    #[test]
    fn a_picture_that_begins_late_may_be_filled_up_or_not() {
        let wish = Expected { video_secs: Some([10.0, 10.6]), audio_lag_secs: None, ..expected() };
        for (secs, is_right) in [(9.8, false), (10.0, true), (10.6, true), (10.8, false)] {
            let mut found = proof();
            found.streams[0].end_secs = Some(secs);
            found.streams[0].packets = (secs * 30.0).round() as u64;
            found.frames = Some(found.streams[0].packets);
            assert_eq!(proof_differences(&wish, &found).is_empty(), is_right, "{secs}");
            let alone = Expected { audio: Vec::new(), duration_secs: Some(10.6), ..wish.clone() };
            let mut probed = self::found();
            probed.audio.clear();
            probed.probe.duration_secs = Some(secs);
            assert_eq!(differences(&alone, &probed).is_empty(), is_right, "{secs}");
        }
    }

    #[test]
    fn a_rate_is_asked_only_of_what_is_long_enough_and_may_be_lower() {
        let mut short = proof();
        for stream in &mut short.streams {
            stream.end_secs = Some(4.95);
        }
        short.frames = Some(149);
        short.streams[0].packets = 149;
        short.streams[0].bytes = 9_000_000;
        let wish = Expected { duration_secs: Some(4.95), video_secs: Some([4.95, 4.95]), ..expected() };
        assert_eq!(proof_differences(&wish, &short), Vec::<String>::new());
        let mut simple = proof();
        simple.streams[0].bytes = 10_000;
        assert_eq!(proof_differences(&expected(), &simple), Vec::<String>::new());
    }
}
