//! What of an encode GStreamer's pipelines do not do.
//!
//! Invariant: whatever is not refused here is in the pipeline; each fault names FFmpeg as what does it.

use super::encoders::buffer_ms;
use super::{audio_encoder, muxer, speech, twin, video_encoder};
use crate::encode::{
    AudioChoice, Channels, Deinterlace, Encode, Hdr, Keep, PixelFormat, Profile, RateControl, Source, Streams,
    SubtitleMode, Treatment, VideoCodec, VideoEncode,
};
use crate::live::{Live, LiveAddress};
use crate::parse::Fault;

/// The most that `x264enc` takes of these.
const X264_MOST: (u8, u64) = (50, 10_000);

/// The fault of asking this engine for what it does not do.
#[must_use]
pub fn unsupported(path: &str, what: &str) -> Fault {
    Fault::new(path, "unsupported", format!("{what}: GStreamer's engine does not do it, use `engine: ffmpeg`"))
}

/// What the engine does not do of an encode, each at its field.
#[must_use]
pub fn refusals(encode: &Encode) -> Vec<Fault> {
    let mut refused = Refused::default();
    if let Some(live) = &encode.live {
        refused.live(encode, live);
    }
    if !encode.others.is_empty() {
        refused.at("outputs", "more than one output");
    }
    refused.video(&encode.video);
    refused.audio(encode);
    refused.rest(encode);
    refused.faults
}

#[derive(Default)]
struct Refused {
    faults: Vec<Fault>,
}

impl Refused {
    fn at(&mut self, path: &str, what: &str) {
        self.faults.push(unsupported(path, what));
    }

    fn when(&mut self, is_beyond: bool, field: &str, what: &str) {
        if is_beyond {
            self.at(&format!("parameters.{field}"), what);
        }
    }

    fn live(&mut self, encode: &Encode, live: &Live) {
        let is_spoken = |url: &str| LiveAddress::parse(url).is_ok_and(|address| speech(address.protocol).is_some());
        if let Source::Live { url } = &encode.source
            && !is_spoken(url)
        {
            self.at("input", "a live source over RTMPS or HLS");
        }
        let grows = [&live.playlist, &live.presentation].into_iter().flatten().count();
        if live.sinks.len() + grows + usize::from(live.record) > 1 {
            self.at("outputs", "more than one output");
        }
        if grows > 0 {
            self.at("output", "a live playlist of HLS or presentation of DASH");
        }
        if live.sinks.iter().any(|sink| !is_spoken(sink)) {
            self.at("output", "a live output over RTMPS");
        }
        self.when(encode.video.codec != VideoCodec::H264, "codec", "another live codec than H.264");
    }

    fn video(&mut self, video: &VideoEncode) {
        if video.treatment != Treatment::Encode {
            return self.when(true, "codec", "an output whose video is not encoded");
        }
        if video_encoder(video.codec).is_none() {
            return self.when(true, "codec", "AV1, of which its encoder knows no constant quality");
        }
        let is_twin = video.encoder.is_none() || video.encoder == twin(video.codec);
        self.when(!is_twin, "codec", "another encoder than libx264, libx265, libvpx and libvpx-vp9");
        self.when(video.hw.is_some(), "hw", "a device");
        self.when(video.pixel_format != PixelFormat::Yuv420p, "pixel_format", "another pixel format than yuv420p");
        let profiles = [None, Some(Profile::Baseline), Some(Profile::Main), Some(Profile::High)];
        self.when(!profiles.contains(&video.profile), "profile", "this profile");
        self.when(video.two_pass, "passes", "two passes");
        self.when(video.crop.is_some(), "crop", "a crop");
        self.when(video.deinterlace != Deinterlace::Off, "deinterlace", "deinterlacing");
        self.when(video.hdr != Hdr::Auto, "hdr", "HDR");
        self.rate(video);
    }

    fn rate(&mut self, video: &VideoEncode) {
        let (RateControl::Crf { maxrate, bufsize, .. } | RateControl::Bitrate { maxrate, bufsize, .. }) = video.rate;
        match (video.codec, video.rate) {
            (VideoCodec::H264, RateControl::Crf { crf, .. }) => {
                self.when(crf > X264_MOST.0, "crf", "a CRF over 50");
                let buffer = maxrate.map_or(0, |peak| buffer_ms(peak, bufsize));
                self.when(buffer > X264_MOST.1, "bufsize", "a rate buffer of more than 10 s");
            }
            (VideoCodec::H264, RateControl::Bitrate { bitrate, .. }) => {
                let is_over = maxrate.is_some_and(|peak| peak > bitrate);
                self.when(is_over, "maxrate", "a peak over the average, which is the peak there");
                self.when(bufsize.is_some(), "bufsize", "a rate buffer of an average");
            }
            (VideoCodec::H265, _) => {}
            (VideoCodec::Vp9, RateControl::Crf { .. }) => {
                let what = "a constant quality of VP9, of which its encoder knows none (`bitrate` is possible)";
                self.when(true, "crf", what);
            }
            (VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1, _) => {
                self.when(maxrate.is_some(), "maxrate", "a peak rate of this codec");
                self.when(bufsize.is_some(), "bufsize", "a rate buffer of this codec");
            }
        }
    }

    fn audio(&mut self, encode: &Encode) {
        let audio = &encode.audio;
        let is_known = audio.codec == AudioChoice::None || audio_encoder(audio.codec).is_some();
        self.when(!is_known, "audio_codec", "copied audio");
        self.when(audio.loudness.is_some(), "loudness", "a loudness");
        self.when(audio.streams != Streams::First, "audio_streams", "another audio stream than the first");
        let channels = [None, Some(Channels::Mono), Some(Channels::Stereo)];
        self.when(!channels.contains(&audio.channels), "audio_channels", "a mix to more than two channels");
    }

    fn rest(&mut self, encode: &Encode) {
        let is_file = matches!(encode.source, Source::File { .. } | Source::Remote { .. });
        // What is live and not recorded has none.
        let has_container = encode.live.as_ref().is_none_or(|live| live.record);
        self.when(
            has_container && muxer(encode.container).is_none(),
            "container",
            "another container than mp4, mov, mkv, webm and ts",
        );
        self.when(encode.ladder.is_some(), "ladder", "a ladder");
        self.when(encode.start_secs.is_some(), "start", "a start in the middle");
        self.when(is_file && encode.duration_secs.is_some(), "duration", "an end before the source's");
        self.when(encode.subtitles != SubtitleMode::Drop, "subtitles", "subtitles");
        self.when(encode.metadata == Keep::Drop, "metadata", "tags that are dropped");
        if let Some(quality) = &encode.quality {
            if let Some(aim) = quality.aim {
                self.when(true, &format!("target_{}", aim.metric), "a CRF that is sought");
            }
            self.when(!is_file, "quality", "the quality of a generated source");
        }
    }
}
