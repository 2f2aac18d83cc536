//! What a live job takes of its worker while it runs, in an hour, and to its end where that is known.
//!
//! Invariant: what depends on a picture that nobody has seen is absent, and the basis says what would tell it.

use serde::Serialize;

use super::{AUDIO_SPEED, COPY_SPEED, DECODE_SPEED, encoded_bits, memory, speed};
use crate::encode::{AudioChoice, Encode, Encoder, Fps, RateControl, Treatment};
use crate::plan::live::{SEGMENT_SECS, SEGMENTS};
use crate::probe::Probed;

const HOUR_SECS: f64 = 3600.0;
const MIB: f64 = 1024.0 * 1024.0;
/// How often the scratch holds a recording: in its pieces, and joined.
const RECORDING_COPIES: f64 = 2.0;
/// Segments of a playlist that stay besides those that it names.
const SEGMENTS_BESIDE: u32 = 2;
/// Bits per second of sound that is copied from a source that nobody has seen.
const SOUND_BITS: u64 = 128_000;

/// What a live job is to run on, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The encode, with its live outputs.
    pub encode: &'a Encode,
    /// The encoder; absent where the video is copied.
    pub encoder: Option<Encoder>,
    /// What is known of the source.
    pub source: Option<&'a Probed>,
    /// Threads that each part of the tool may start.
    pub threads: u32,
    /// Scratch that the job may use, in MiB.
    pub disk_mb: u64,
    /// Seconds to the job's end, where it has one.
    pub secs: Option<f64>,
}

/// What a live job takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiveEstimate {
    /// Processor time in percent of one core.
    pub cpu_percent: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// Bits per second of picture and sound.
    pub bitrate: Option<u64>,
    /// Bytes in an hour, of a recording as of what each live output is sent.
    pub size_bytes_per_hour: Option<u64>,
    /// Bytes in an hour that all live outputs are sent.
    pub sent_bytes_per_hour: Option<u64>,
    /// Scratch in MiB that an hour of recording takes; 0 where nothing is recorded.
    pub disk_mb_per_hour: Option<u64>,
    /// Seconds to the job's end, where it has one.
    pub secs: Option<f64>,
    /// Bytes to the job's end, where it has one.
    pub size_bytes: Option<u64>,
    /// Scratch in MiB at the job's end, where it has one or nothing grows.
    pub disk_mb: Option<u64>,
    /// Seconds after which the recording has no more room, and the job ends with what it has.
    pub full_after_secs: Option<f64>,
    /// On what each of them stands, in words.
    pub basis: Vec<String>,
}

/// What a live job takes.
#[must_use]
pub fn live(situation: &Situation<'_>) -> LiveEstimate {
    let Situation { encode, encoder, source, threads, disk_mb: room_mb, secs } = *situation;
    let mut basis = Vec::new();
    let picture = Picture::of(encode, source, &mut basis);
    let bits = bits(encode, encoder, source, picture, &mut basis);
    let load = load(encode, encoder, picture, bits, &mut basis);
    let memory_mb = picture.map(|picture| memory(&encode.video, encoder, threads, picture.pixels, &mut basis));

    let hourly = bits.map(|bits| bits / 8.0 * HOUR_SECS);
    let sinks = encode.live.as_ref().map_or(0, |live| live.sinks.len());
    let is_recorded = encode.live.as_ref().is_some_and(|live| live.record);
    let copies = if is_recorded { RECORDING_COPIES } else { 0.0 };
    let window = encode.live.iter().flat_map(|live| [&live.playlist, &live.presentation]).flatten().count() as f64
        * f64::from((SEGMENTS + SEGMENTS_BESIDE) * SEGMENT_SECS);
    if is_recorded {
        basis.push(format!(
            "scratch: a recording {RECORDING_COPIES} times; where it outlives its attempt once more beside the output, or in the \
             store of chunks"
        ));
    }
    if window > 0.0 {
        basis.push(format!("scratch: {window:.0} s of segments, which do not grow"));
    }
    let growth = hourly.map(|bytes| bytes * copies / MIB);
    let standing = bits.map(|bits| bits / 8.0 * window / MIB);
    let hours = secs.map(|secs| secs / HOUR_SECS);
    let disk_mb = match (growth, standing) {
        (Some(growth), Some(standing)) if growth > 0.0 => hours.map(|hours| growth * hours + standing),
        (_, standing) => standing,
    };
    let full = |growth: f64| (room_mb as f64 - standing.unwrap_or(0.0)).max(0.0) / growth * HOUR_SECS;
    LiveEstimate {
        cpu_percent: load.map(|load| (cores(load) * 100.0).ceil().max(1.0) as u32),
        memory_mb,
        bitrate: bits.map(|bits| bits as u64),
        size_bytes_per_hour: hourly.map(|bytes| bytes as u64),
        sent_bytes_per_hour: hourly.map(|bytes| (bytes * sinks as f64) as u64),
        disk_mb_per_hour: growth.map(|mib| mib.ceil() as u64),
        secs,
        size_bytes: hourly.zip(hours).map(|(bytes, hours)| (bytes * hours) as u64),
        disk_mb: disk_mb.map(|mib| mib.ceil().max(1.0) as u64),
        full_after_secs: growth.filter(|growth| *growth > 0.0).map(full),
        basis,
    }
}

/// What is encoded of the picture, and what is decoded for it, both in pixels.
#[derive(Clone, Copy)]
struct Picture {
    pixels: f64,
    /// A second.
    made: f64,
    /// A second.
    read: f64,
}

impl Picture {
    /// `None` where nobody knows.
    fn of(encode: &Encode, source: Option<&Probed>, basis: &mut Vec<String>) -> Option<Picture> {
        let seen = source.and_then(|probed| probed.probe.video.as_ref());
        let area = |width: u32, height: u32| f64::from(width) * f64::from(height);
        let wish = encode.video.size.map(|size| area(size.width, size.height));
        let is = seen.map(|video| area(video.width, video.height));
        let rate = seen.and_then(|video| video.fps);
        let fps = encode.video.fps.map(Fps::as_f64).or(rate);
        let (Some(pixels), Some(fps)) = (wish.or(is), fps) else {
            let lacks = if wish.or(is).is_none() { "size" } else { "rate" };
            basis.push(format!(
                "the picture's {lacks} is the source's own, which nobody has looked at: name it in the job, or give what ffprobe says \
                 of the source"
            ));
            return None;
        };
        let read = match (is, rate) {
            (Some(is), Some(rate)) => is * rate,
            (Some(_), None) | (None, _) => {
                basis
                    .push("processor: the source is taken to be as large and as fast as what is made of it".to_owned());
                pixels * fps
            }
        };
        Some(Picture { pixels, made: pixels * fps, read })
    }
}

/// Bits a second.
fn bits(
    encode: &Encode,
    encoder: Option<Encoder>,
    source: Option<&Probed>,
    picture: Option<Picture>,
    basis: &mut Vec<String>,
) -> Option<f64> {
    let sound = match encode.audio.codec {
        AudioChoice::None => 0,
        AudioChoice::Copy => source.and_then(|probed| probed.audio_bitrate).unwrap_or(SOUND_BITS),
        AudioChoice::Aac | AudioChoice::Opus | AudioChoice::Mp3 => encode.audio.bitrate.0,
    };
    let video = match encode.video.treatment {
        Treatment::Copy => {
            let own = source.and_then(|probed| probed.video_bitrate.or(probed.probe.bitrate));
            basis.push(match own {
                Some(_) => "size: the source's own bits per second".to_owned(),
                None => "size: the source's own, which nobody has looked at: give what ffprobe says of it".to_owned(),
            });
            own? as f64
        }
        Treatment::Encode => {
            // An average needs no picture.
            let made = picture.map(|picture| picture.made);
            let is_average = matches!(encode.video.rate, RateControl::Bitrate { .. });
            encoded_bits(&encode.video, encoder, made.or(is_average.then_some(0.0))?, basis)
        }
        Treatment::Drop | Treatment::Picture => 0.0,
    };
    Some(video + sound as f64)
}

/// Cores of work that never end, the last of which help as much as the first.
fn load(
    encode: &Encode,
    encoder: Option<Encoder>,
    picture: Option<Picture>,
    bits: Option<f64>,
    basis: &mut Vec<String>,
) -> Option<f64> {
    match (encode.video.treatment, encoder) {
        (Treatment::Encode, Some(encoder)) => {
            let Picture { made, read, .. } = picture?;
            let preset = encode.video.preset.as_deref();
            let speed = speed(encoder, preset);
            basis.push(format!(
                "processor: {:.1} megapixels a second at {speed:.1} a second and core for {encoder} ({}), {:.1} decoded at \
                 {DECODE_SPEED}",
                made / 1e6,
                preset.unwrap_or("medium"),
                read / 1e6,
            ));
            Some(made / 1e6 / speed + read / 1e6 / DECODE_SPEED + 1.0 / AUDIO_SPEED)
        }
        (Treatment::Encode | Treatment::Copy | Treatment::Drop | Treatment::Picture, _) => {
            basis.push(format!("processor: what is copied at {COPY_SPEED} MB a second"));
            Some(bits? / 8e6 / COPY_SPEED)
        }
    }
}

/// Cores that such a load takes: the last ones help less than the first.
fn cores(load: f64) -> f64 {
    if load <= 1.0 { load } else { load.powf(1.0 / 0.9) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::parse::{Received, parse};
    use crate::probe;
    use crate::scenario::resolve;

    fn estimate(job: Value, source: Option<&Probed>, secs: Option<f64>) -> LiveEstimate {
        let body = job.to_string();
        let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap();
        let encode = resolve(&spec).unwrap().unwrap();
        let encoder = (encode.video.treatment == Treatment::Encode).then_some(Encoder::Libx264);
        live(&Situation { encode: &encode, encoder, source, threads: 4, disk_mb: 5000, secs })
    }

    fn job(scenario: &str, outputs: &[&str], parameters: Value) -> Value {
        let outputs: Vec<Value> = outputs.iter().map(|url| json!({"url": url, "scenario": scenario})).collect();
        json!({"scenario": scenario, "input": "rtmp://in.example/live/key", "outputs": outputs, "parameters": parameters})
    }

    const RECORDING: &str = "/m/rec.mp4";
    const SINKS: [&str; 2] = ["srt://a.example:9000", "srt://b.example:9000"];

    #[test]
    fn an_hour_follows_from_the_bit_rate_and_a_recording_takes_its_room_twice() {
        let wish = json!({"bitrate": "3M", "audio_bitrate": "100k"});
        let found = estimate(job("720p30-h264", &[SINKS[0], SINKS[1], RECORDING], wish), None, None);
        let hour = 3_100_000 / 8 * 3600;
        assert_eq!((found.bitrate, found.size_bytes_per_hour), (Some(3_100_000), Some(hour)));
        assert_eq!(found.sent_bytes_per_hour, Some(2 * hour));
        let mib = (2 * hour).div_ceil(1 << 20);
        assert_eq!((found.disk_mb_per_hour, found.disk_mb, found.size_bytes), (Some(mib), None, None));
        let full = found.full_after_secs.unwrap();
        assert!((full - 5000.0 / mib as f64 * 3600.0).abs() < 5.0, "{full}");

        let wish = json!({"bitrate": "3M", "audio_bitrate": "100k"});
        let half = estimate(job("720p30-h264", &[RECORDING], wish), None, Some(1800.0));
        assert_eq!((half.size_bytes, half.sent_bytes_per_hour), (Some(hour / 2), Some(0)));
        assert_eq!(half.disk_mb, Some(hour.div_ceil(1 << 20)));
    }

    #[test]
    fn what_is_only_sent_or_listed_fills_no_disk() {
        let wish = json!({"bitrate": "3M"});
        let sent = estimate(job("720p30-h264", &SINKS, wish.clone()), None, None);
        assert_eq!((sent.disk_mb_per_hour, sent.full_after_secs), (Some(0), None));
        let listed = estimate(job("720p30-h264", &["/m/live.m3u8", "/m/live.mpd"], wish), None, None);
        // 3.128 Mbit/s for 48 s, twice.
        assert_eq!((listed.disk_mb, listed.full_after_secs), (Some(36), None), "{listed:?}");
    }

    #[test]
    fn a_larger_picture_and_a_slower_preset_take_more_of_the_processor() {
        let percent = |scenario: &str, preset: &str| {
            estimate(job(scenario, &SINKS, json!({"preset": preset})), None, None).cpu_percent.unwrap()
        };
        let small = percent("720p30-h264", "veryfast");
        // 27.6 megapixels a second: at 60 encoded, at 150 decoded.
        assert!((60..70).contains(&small), "{small} %");
        assert!(percent("720p30-h264", "medium") > small && percent("1080p60-h264", "veryfast") > 4 * small);
    }

    #[test]
    fn what_is_the_source_s_own_is_known_only_of_a_source_that_was_seen() {
        let unseen = estimate(job("copy", &SINKS, json!({})), None, None);
        assert_eq!((unseen.cpu_percent, unseen.memory_mb, unseen.bitrate), (None, None, None));
        assert!(unseen.basis.iter().any(|line| line.contains("give what ffprobe says")), "{:?}", unseen.basis);
        let probed = probe::parse(
            &json!({"format": {"format_name": "flv"}, "streams": [
                {"codec_type": "video", "codec_name": "h264", "width": 1280, "height": 720, "avg_frame_rate": "30/1",
                 "r_frame_rate": "30/1", "bit_rate": "4000000"},
                {"codec_type": "audio", "codec_name": "aac", "bit_rate": "160000"}]})
            .to_string(),
        )
        .unwrap();
        let seen = estimate(job("copy", &SINKS, json!({})), Some(&probed), None);
        assert_eq!((seen.bitrate, seen.cpu_percent), (Some(4_160_000), Some(1)));
        let average = estimate(job("custom-input", &SINKS, json!({"bitrate": "2M"})), None, None);
        assert_eq!((average.bitrate, average.cpu_percent), (Some(2_128_000), None), "{average:?}");
    }
}
