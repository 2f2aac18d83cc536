//! A recording: one file of the pieces that the runs of a live attempt left, each at its time.
//!
//! Invariant: the recording holds every packet of its pieces and nothing else, unless it is cut at its length; where
//! nothing came, there is a gap as long as the source was away.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use ffpool_schema::encode::{AudioChoice, Encode, Fit, Treatment};
use ffpool_schema::failure::Cause;
use ffpool_schema::message::{Phase, StreamProof};
use ffpool_schema::plan::live::{Piece, join_arguments, join_list};
use ffpool_schema::plan::{self, Expected, ExpectedAudio, ExpectedVideo};
use ffpool_schema::probe::Probed;

use super::super::encode::{Made, Proven, unproven};
use super::super::report::Part;
use super::super::{Attempt, End, NEARLY};
use crate::live::timeline::Timeline;
use crate::packets::Packets;
use crate::tool::ToolUser;

/// The list of pieces.
const LIST: &str = "pieces.ffconcat";

/// The file of a run.
pub(super) fn piece_name(run: u32) -> String {
    format!("record-{run}.ts")
}

impl Attempt<'_> {
    /// Joins what was recorded and proves it. `None`: nothing was.
    pub(super) async fn join(
        &mut self,
        encode: &Encode,
        timeline: &mut Timeline,
        (arguments, tool): (Vec<OsString>, Option<String>),
        user: ToolUser,
    ) -> Result<Option<Made>, End> {
        self.reporter.phase(Phase::Verify, Some(NEARLY));
        let Some((first, packets)) = self.look_at_pieces(timeline, user).await? else { return Ok(None) };
        let placed = timeline.placed();
        let names: Vec<String> = placed.iter().map(|(span, _)| piece_name(span.run)).collect();
        let pieces: Vec<Piece<'_>> = placed
            .iter()
            .enumerate()
            .map(|(number, (span, at))| {
                let next = placed.get(number + 1).map_or(at + span.secs, |(_, next)| *next);
                Piece { name: &names[number], secs: next - at }
            })
            .collect();
        self.create_in_scratch(LIST.as_ref())
            .and_then(|mut file| file.write_all(join_list(&pieces).as_bytes()))
            .map_err(|error| End::failure(crate::roots::io_cause(&error), format!("the list of pieces: {error}")))?;
        let name = PathBuf::from(format!("encode.{}", encode.container));
        let cut = encode.duration_secs.filter(|secs| timeline.secs() > *secs);
        let join = join_arguments(encode, LIST.as_ref(), &name, cut);
        self.run_ffmpeg(&join, user, Phase::Verify, None, Part::WHOLE).await?;
        let expected = expected(encode, &first, cut.unwrap_or(timeline.secs()));
        let file = self.scratch_path().join(&name);
        let threads = self.shop.threads(&self.grant.spec);
        let (probed, proof) = self.verify(&file, &name, &expected, user, threads).await?;
        if cut.is_none()
            && let Some(difference) = difference(&packets, &proof.streams)
        {
            return Err(unproven(difference));
        }
        let (names, renditions) = (Vec::new(), Vec::new());
        let (quality, pictures) = (None, None);
        let proven = Proven { name: None, file, probed, proof, quality, names, renditions, pictures };
        let (steps, outputs) = (vec![arguments], vec![proven]);
        Ok(Some(Made { arguments: join, steps, outputs, device: None, fallback: None, chunks: Vec::new(), tool }))
    }

    /// Looks at every piece: its length into the timeline, what the first one is, and the packets of all. A piece that
    /// holds no picture is none.
    async fn look_at_pieces(
        &mut self,
        timeline: &mut Timeline,
        user: ToolUser,
    ) -> Result<Option<(Probed, Vec<StreamProof>)>, End> {
        let runs: Vec<u32> = timeline.placed().iter().map(|(span, _)| span.run).collect();
        let mut first = None;
        let mut all: Vec<StreamProof> = Vec::new();
        for run in runs {
            let name = PathBuf::from(piece_name(run));
            let is_empty = std::fs::metadata(self.scratch_path().join(&name)).map_or(0, |found| found.len()) == 0;
            if is_empty {
                timeline.measured(run, None);
                continue;
            }
            let probed = self.probe(&name, user).await?;
            let mut packets = Packets::default();
            self.run_ffprobe(&plan::packet_arguments(&name), user, &mut packets).await?;
            let (streams, _) = packets.finish(&probed.streams);
            let begin = streams.iter().filter_map(|stream| stream.first_secs).reduce(f64::min);
            let end = streams.iter().filter_map(|stream| stream.end_secs).reduce(f64::max);
            let secs = begin.zip(end).map(|(begin, end)| end - begin).filter(|_| probed.probe.video.is_some());
            timeline.measured(run, secs.filter(|secs| *secs > 0.0));
            if secs.is_none() {
                continue;
            }
            for stream in streams {
                match all.iter_mut().find(|sum| sum.kind == stream.kind) {
                    Some(sum) => sum.packets += stream.packets,
                    None => all.push(stream),
                }
            }
            first.get_or_insert(probed);
        }
        Ok(first.map(|first| (first, all)))
    }
}

/// What the recording must be, where the job leaves it to the source as its first piece is.
fn expected(encode: &Encode, first: &Probed, secs: f64) -> Expected {
    let wish = &encode.video;
    let is_encoded = wish.treatment == Treatment::Encode;
    let video = first.probe.video.as_ref().map(|found| {
        let size = wish.size.filter(|_| is_encoded && wish.fit != Fit::Inside);
        let (width, height) = size.map_or((found.width, found.height), |size| (size.width, size.height));
        ExpectedVideo {
            codec: if is_encoded { wish.codec.probe_name().to_owned() } else { found.codec.clone() },
            width,
            height,
            fps: None,
            pixel_format: is_encoded.then(|| plan::planar(wish.pixel_format).as_str()),
            profile: wish.profile.filter(|_| is_encoded),
            bitrate: None,
            colors: None,
            is_picture: false,
        }
    });
    let audio = first.audio.iter().take(usize::from(encode.audio.codec != AudioChoice::None)).map(|found| {
        let is_encoded = encode.audio.codec == AudioChoice::Aac;
        ExpectedAudio {
            codec: if is_encoded { "aac".to_owned() } else { found.codec.clone() },
            channels: encode.audio.channels.filter(|_| is_encoded).map(|channels| channels.count()),
            sample_rate: encode.audio.sample_rate.filter(|_| is_encoded),
            loudness: None,
        }
    });
    let fps = wish.fps.map(|fps| fps.as_f64()).or(first.probe.video.as_ref().and_then(|video| video.fps));
    Expected {
        pictures: None,
        container: encode.container,
        audio: audio.collect(),
        video,
        subtitles: Vec::new(),
        chapters: Some(0),
        duration_secs: Some(secs),
        video_secs: None,
        audio_lag_secs: None,
        source_frames: None,
        // How long its pieces are is known to some packets of sound.
        frame_secs: fps.filter(|fps| *fps > 0.0).map_or(0.04, |fps| 1.0 / fps).max(0.1),
        sound_slack_secs: 0.0,
    }
}

/// Whether a recording holds other packets than its pieces.
fn difference(pieces: &[StreamProof], recording: &[StreamProof]) -> Option<String> {
    pieces.iter().find_map(|piece| {
        let there = recording.iter().find(|stream| stream.kind == piece.kind).map_or(0, |stream| stream.packets);
        (there != piece.packets).then(|| {
            format!("the recording has {there} {} packets, and what was recorded {}", piece.kind, piece.packets)
        })
    })
}

/// Why there is no recording.
pub(super) fn nothing() -> End {
    End::failure(Cause::SourceGone, "nothing came that could be recorded")
}
