//! What an output must be, known before anything runs.
//!
//! Invariant: every field follows from the job and the probe of its source alone.

use serde::Serialize;

use super::filters::planar;
use super::shape::Shape;
use super::streams::Chosen;
use super::{Refusal, Request, Schedule, audio, pictures};
use crate::encode::{
    AudioChoice, Container, Fps, Keep, Loudness, Profile, RateControl, Source, SubtitleMode, Treatment,
};
use crate::message::AudioProbe;
use crate::probe::{Colors, Probed};
use crate::scenario::containers::text_subtitles;

/// What an output must be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    /// The container.
    pub container: Container,
    /// The video; absent: none.
    pub video: Option<ExpectedVideo>,
    /// The audio streams.
    pub audio: Vec<ExpectedAudio>,
    /// The codecs of the subtitle streams, by FFmpeg's prober.
    pub subtitles: Vec<String>,
    /// Chapters, where the container keeps them and their number can be known.
    pub chapters: Option<usize>,
    /// Length in seconds, where it can be known.
    pub duration_secs: Option<f64>,
    /// The least and the most that the video alone may last in seconds, where it can be known and is not a copy's. A picture
    /// that begins later than its file is filled up from the file's start by some versions of FFmpeg, and not by others.
    pub video_secs: Option<[f64; 2]>,
    /// How much later the audio ends than the video, in seconds, where it can be known.
    pub audio_lag_secs: Option<f64>,
    /// The pictures that it has, where it is a set of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pictures: Option<Schedule>,
    /// The frames of the source that it must have, where the source's rate is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_frames: Option<SourceFrames>,
    /// The longest frame of source or output in seconds: how exact a length can be.
    pub frame_secs: f64,
    /// By how much the source's sound may be shorter than its container says, in seconds.
    pub sound_slack_secs: f64,
}

/// How many frames of its source's video an output takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SourceFrames {
    /// As many as the source says: its container counts them, or its length and its rate tell. Absent: it does not say.
    pub said: Option<f64>,
    /// Whether its container counts them, each one.
    pub is_counted: bool,
    /// Whether all of it is taken.
    pub is_all: bool,
}

/// Length in seconds of a packet of sound, and of what a decoder leaves out at the beginning at most: two packets.
/// Source: the codecs' own; of codecs that leave it open, what is usual.
#[must_use]
pub fn sound_packet_secs(codec: &str, rate: Option<u32>) -> f64 {
    let rate = f64::from(rate.filter(|rate| *rate > 0).unwrap_or(48_000));
    match codec {
        "aac" => 1024.0 / rate,
        "mp3" if rate < 32_000.0 => 576.0 / rate,
        "mp3" | "mp2" => 1152.0 / rate,
        "ac3" | "eac3" => 1536.0 / rate,
        "opus" => 0.02,
        _ => 0.1,
    }
}

/// What the video must be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectedVideo {
    /// The codec's name in FFmpeg's prober.
    pub codec: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second, where the job asks for a rate.
    pub fps: Option<f64>,
    /// FFmpeg's name of the pixel format; absent: a copy's.
    pub pixel_format: Option<&'static str>,
    /// The profile that must do for a decoder.
    pub profile: Option<Profile>,
    /// Bits per second, where the job asks for an average.
    pub bitrate: Option<u64>,
    /// Colours that it must name.
    pub colors: Option<Colors>,
    /// Whether it is one picture.
    pub is_picture: bool,
}

/// What an audio stream must be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectedAudio {
    /// The codec's name in FFmpeg's prober.
    pub codec: String,
    /// Channels, where they can be known.
    pub channels: Option<u32>,
    /// Samples per second, where the job asks for a rate.
    pub sample_rate: Option<u32>,
    /// Loudness, where the job asks for one.
    pub loudness: Option<Loudness>,
}

pub(super) fn expected(request: &Request<'_>, shape: Option<&Shape>, chosen: &Chosen) -> Result<Expected, Refusal> {
    let encode = request.encode;
    let video = shape.map(|shape| video(request, shape));
    let audio: Vec<ExpectedAudio> = chosen.audio.iter().map(|number| sound(request, *number)).collect();
    let rates = shape.map(|shape| [shape.fps.map(Fps::as_f64), shape.source_fps]);
    let slowest = rates.into_iter().flatten().flatten().filter(|fps| *fps > 0.0);
    let is_picture = encode.video.treatment == Treatment::Picture;
    let duration_secs =
        if is_picture { None } else { length(request, if audio.is_empty() { &[] } else { &chosen.audio })? };
    Ok(Expected {
        pictures: pictures::schedule(request)?,
        container: encode.container,
        video,
        subtitles: subtitles(request, chosen),
        chapters: chapters(request),
        duration_secs,
        video_secs: video_secs(request),
        audio_lag_secs: lag(request, chosen, &audio),
        source_frames: source_frames(request),
        frame_secs: slowest.map(|fps| 1.0 / fps).fold(0.0, f64::max),
        sound_slack_secs: sound_slack(request, chosen),
        audio,
    })
}

fn video(request: &Request<'_>, shape: &Shape) -> ExpectedVideo {
    let wish = &request.encode.video;
    let source = request.source.and_then(|(_, probed)| probed.probe.video.as_ref());
    let blank = ExpectedVideo {
        codec: String::new(),
        width: shape.width,
        height: shape.height,
        fps: None,
        pixel_format: None,
        profile: None,
        bitrate: None,
        colors: None,
        is_picture: false,
    };
    match (wish.treatment, request.encoder) {
        (Treatment::Encode, Some(encoder)) => ExpectedVideo {
            codec: encoder.codec().probe_name().to_owned(),
            fps: shape.fps.map(Fps::as_f64),
            pixel_format: Some(planar(wish.pixel_format).as_str()),
            profile: wish.profile,
            bitrate: match wish.rate {
                RateControl::Bitrate { bitrate, .. } => Some(bitrate.0),
                RateControl::Crf { .. } => None,
            },
            colors: shape.colors.clone(),
            ..blank
        },
        (Treatment::Picture, _) => ExpectedVideo {
            codec: pictures::made(request.encode).codec().to_owned(),
            pixel_format: Some(pictures::made(request.encode).pixels()),
            is_picture: request.encode.pictures.is_none(),
            ..blank
        },
        (Treatment::Encode | Treatment::Copy | Treatment::Drop, _) => {
            ExpectedVideo { codec: source.map(|video| video.codec.clone()).unwrap_or_default(), ..blank }
        }
    }
}

fn sound(request: &Request<'_>, number: usize) -> ExpectedAudio {
    let wish = &request.encode.audio;
    let source: Option<&AudioProbe> = request.source.and_then(|(_, probed)| probed.audio.get(number));
    // The tone that is generated has one channel.
    let there = if request.source.is_some() { source.and_then(|audio| audio.channels) } else { Some(1) };
    let made = match wish.codec {
        AudioChoice::Copy if request.source.is_none() => Some("aac"),
        choice => audio::name(choice),
    };
    let channels = match (wish.codec, wish.channels) {
        (AudioChoice::Copy | AudioChoice::None, _) => there,
        (_, Some(channels)) => Some(channels.count()),
        (AudioChoice::Mp3, None) => there.map(|channels| channels.min(2)),
        (AudioChoice::Aac, None) => there,
        // Of the layouts it takes, the filter chooses the nearest.
        (AudioChoice::Opus, None) => there.filter(|channels| matches!(channels, 1 | 2 | 6 | 8)),
    };
    ExpectedAudio {
        codec: made.map(str::to_owned).or_else(|| source.map(|audio| audio.codec.clone())).unwrap_or_default(),
        channels,
        sample_rate: rate(request, source),
        loudness: wish.loudness,
    }
}

/// The rate of the samples, where it is settled.
fn rate(request: &Request<'_>, source: Option<&AudioProbe>) -> Option<u32> {
    let wish = &request.encode.audio;
    match wish.codec {
        AudioChoice::Copy | AudioChoice::None => None,
        // It has one rate.
        AudioChoice::Opus => Some(48_000),
        AudioChoice::Aac | AudioChoice::Mp3 => {
            // The loudness filter works at a rate of its own, from which the way back must be told.
            let own = || source.and_then(|audio| audio.sample_rate).map_or(48_000, |rate| rate.min(48_000));
            wish.sample_rate.or_else(|| wish.loudness.map(|_| own()))
        }
    }
}

/// Length in seconds of the video that is taken, where pictures are made of it.
pub(super) fn pictured_secs(request: &Request<'_>) -> Result<Option<f64>, Refusal> {
    length(request, &[])
}

/// Length in seconds of what is taken: the video, if any, and these audio streams of the source.
fn length(request: &Request<'_>, audio: &[usize]) -> Result<Option<f64>, Refusal> {
    let encode = request.encode;
    let Some((_, probed)) = request.source else {
        return Ok(match encode.source {
            Source::Generated { duration_secs } => Some(duration_secs),
            Source::File { .. } | Source::Remote { .. } | Source::Live { .. } => None,
        });
    };
    let start = encode.start_secs.unwrap_or(0.0);
    let Some(whole) = source_secs(probed, encode.video.treatment != Treatment::Drop, audio) else {
        return Ok(None);
    };
    if start >= whole {
        return Err(Refusal::job(
            "start",
            "out_of_range",
            format!("the source ends at {whole:.3} s, before the start"),
        ));
    }
    let left = whole - start;
    Ok(Some(encode.duration_secs.map_or(left, |wish| wish.min(left))))
}

/// Length of the streams that are taken. The file as a whole may be longer, by streams that are left out.
fn source_secs(probed: &Probed, with_video: bool, audio: &[usize]) -> Option<f64> {
    let video = probed.probe.video.as_ref().filter(|_| with_video).map(|video| video.duration_secs);
    let audio = audio.iter().map(|number| probed.audio.get(*number).and_then(|audio| audio.duration_secs));
    let taken: Option<Vec<f64>> = video.into_iter().chain(audio).collect();
    taken.filter(|secs| !secs.is_empty()).map_or(probed.probe.duration_secs, |secs| secs.into_iter().reduce(f64::max))
}

/// Length of the video that is encoded: the least and the most.
fn video_secs(request: &Request<'_>) -> Option<[f64; 2]> {
    let encode = request.encode;
    if encode.video.treatment != Treatment::Encode {
        return None;
    }
    let Some((_, probed)) = request.source else { return length(request, &[]).ok().flatten().map(|secs| [secs; 2]) };
    let said = probed.probe.video.as_ref()?.duration_secs?;
    let zero = probed.start_secs.unwrap_or(0.0);
    let number = probed.streams.iter().position(|(kind, _)| kind == "video");
    let begins = number.and_then(|number| *probed.starts.get(number)?).map_or(0.0, |start| (start - zero).max(0.0));
    let start = encode.start_secs.unwrap_or(0.0);
    let within = |secs: f64| encode.duration_secs.map_or(secs, |wish| wish.min(secs));
    let late = (begins - start).max(0.0);
    // Matroska says of a stream when it ends, or how long it is: that depends on who wrote the file.
    let ends = probed.video_end.map_or(begins + said, |end| end - zero);
    let (least, most) = (within(ends - start) - late, within((begins + said).max(ends) - start));
    (least > 0.0).then_some([least, most])
}

/// The frames of the source that are taken, where they come out as they are.
fn source_frames(request: &Request<'_>) -> Option<SourceFrames> {
    let (encode, (_, probed)) = (request.encode, request.source?);
    if encode.video.treatment != Treatment::Encode || encode.video.fps.is_some() {
        return None;
    }
    let is_all = encode.start_secs.is_none() && encode.duration_secs.is_none();
    let counted = probed.frames.filter(|_| is_all).map(|frames| frames as f64);
    let reckoned = || Some(video_secs(request)?[0] * probed.rate?.as_f64());
    Some(SourceFrames { said: counted.or_else(reckoned), is_counted: counted.is_some(), is_all })
}

/// What a decoder may leave out at the beginning of the sound that is taken, in seconds.
fn sound_slack(request: &Request<'_>, chosen: &Chosen) -> f64 {
    let Some((_, probed)) = request.source else { return 0.0 };
    let taken = chosen.audio.iter().filter_map(|number| probed.audio.get(*number));
    // What is kept sample by sample has nothing in front of it.
    let is_exact =
        |audio: &&AudioProbe| audio.codec.starts_with("pcm_") || audio.codec == "flac" || audio.codec == "alac";
    taken
        .filter(|audio| !is_exact(audio))
        .map(|audio| 2.0 * sound_packet_secs(&audio.codec, audio.sample_rate))
        .fold(0.0, f64::max)
}

/// How much later the source's audio ends than its video, where both are taken to their ends.
fn lag(request: &Request<'_>, chosen: &Chosen, audio: &[ExpectedAudio]) -> Option<f64> {
    if audio.is_empty() || request.encode.video.treatment != Treatment::Encode {
        return None;
    }
    let Some((_, probed)) = request.source else { return Some(0.0) };
    // A transport stream packs sound of a third of a second under one time: its end is not known.
    if request.encode.duration_secs.is_some() || audio.len() > 1 || super::chunk::jumps(probed) {
        return None;
    }
    let number = *chosen.audio.first()?;
    Some((*probed.audio_ends.get(number)?)? - probed.video_end?)
}

fn subtitles(request: &Request<'_>, chosen: &Chosen) -> Vec<String> {
    let encode = request.encode;
    let Some((_, probed)) = request.source else { return Vec::new() };
    let codec = |number: &usize| match encode.subtitles {
        SubtitleMode::Convert => text_subtitles(encode.container).unwrap_or_default().to_owned(),
        SubtitleMode::Copy | SubtitleMode::Burn | SubtitleMode::Drop => probed.subtitles[*number].clone(),
    };
    match encode.subtitles {
        SubtitleMode::Copy | SubtitleMode::Convert => chosen.subtitles.iter().map(codec).collect(),
        SubtitleMode::Burn | SubtitleMode::Drop => Vec::new(),
    }
}

fn chapters(request: &Request<'_>) -> Option<usize> {
    let encode = request.encode;
    let Some((_, probed)) = request.source else { return Some(0) };
    match encode.container {
        Container::Mkv | Container::Mp4 | Container::Mov | Container::M4a => {}
        Container::Webm
        | Container::Ts
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => return None,
    }
    match encode.chapters {
        Keep::Drop => Some(0),
        // A part of the source has a part of its chapters.
        Keep::Keep if encode.start_secs.is_some() || encode.duration_secs.is_some() => None,
        Keep::Keep => Some(probed.chapters),
    }
}
