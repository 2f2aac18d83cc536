//! From proven renditions to a proven presentation: cut by one run, its master written, every file of it checked.
//!
//! Invariant: what is handed on is exactly the files that its playlists name, and every packet and frame of the renditions is in
//! them, in segments of the length that was asked for.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ffpool_schema::encode::{Container, Segments};
use ffpool_schema::failure::Cause;
use ffpool_schema::message::{Phase, Proof, RenditionProof};
use ffpool_schema::plan::ladder::Output;
use ffpool_schema::plan::package::{self, Layout, MEDIA_PLAYLIST, Rendition, SOUND};
use ffpool_schema::plan::{presentation_decode_arguments, presentation_packet_arguments};
use ffpool_schema::playlist::{self, Playlist, Variant};
use ffpool_schema::probe::{self, Probed};

use super::encode::{Proven, as_verify, read_probe, unproven};
use super::report::Part;
use super::{Attempt, End};
use crate::packets::Packets;
use crate::publish::{Contents, Whose, directory_name};
use crate::tool::{Answer, ToolUser};

/// The largest playlist that is read, in bytes.
const PLAYLIST_BYTES: u64 = 64 << 20;
/// As much of a rendition is searched for the record of its codec, in bytes.
const HEAD_BYTES: u64 = 4 << 20;
/// How far a length may be off besides a frame, in seconds.
const TOLERANCE_SECS: f64 = 0.1;

/// A presentation in the scratch.
pub(super) struct Presentation {
    /// Its top file.
    pub(super) top: PathBuf,
    /// Every other file, by its path in the scratch.
    pub(super) names: Vec<PathBuf>,
    pub(super) probed: Probed,
    /// The run that made it.
    pub(super) arguments: Vec<OsString>,
}

impl Presentation {
    /// It as what its output is. What is said of packets, frames and quality is the first rendition's.
    pub(super) fn of(self, output: &Output, scratch: &Path, renditions: Vec<Proven>) -> Option<Proven> {
        let Presentation { top, names, probed, .. } = self;
        let (proof, quality) = renditions.first().map(|first| (first.proof.clone(), first.quality.clone()))?;
        let rendition = |made: Proven| RenditionProof {
            name: made.name.unwrap_or_else(|| "main".to_owned()),
            probe: made.probed.probe,
            proof: made.proof,
            quality: made.quality,
        };
        let renditions = renditions.into_iter().map(rendition).collect();
        let (name, file) = (output.name.clone(), scratch.join(top));
        Some(Proven { name, file, probed, proof, quality, names, renditions, pictures: None })
    }
}

/// One of its playlists, and what it was cut from.
struct Cut {
    playlist: Playlist,
    /// The directory that its names are seen from.
    from: PathBuf,
    /// Bytes of each segment.
    bytes: Vec<u64>,
}

impl Cut {
    /// The largest and the average bit rate.
    fn rates(&self) -> (f64, f64) {
        let rates = self.playlist.segments.iter().zip(&self.bytes);
        let peak = rates.map(|((_, secs), bytes)| *bytes as f64 * 8.0 / secs.max(0.001)).fold(0.0, f64::max);
        let total: u64 = self.bytes.iter().sum();
        (peak, total as f64 * 8.0 / self.playlist.secs().max(0.001))
    }
}

impl Attempt<'_> {
    /// Makes a presentation of proven renditions, and proves that nothing was lost.
    pub(super) async fn package(
        &mut self,
        output: &Output,
        place: usize,
        made: &[Proven],
        user: ToolUser,
        threads: u32,
    ) -> Result<Presentation, End> {
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        let segments =
            directory_name(Contents::Segments, Whose { job: self.grant.job, attempt: self.grant.attempt, number });
        let top = PathBuf::from(format!("presentation-{place}.{}", output.encode.container.extension()));
        let names: Vec<PathBuf> = made.iter().filter_map(|made| Some(PathBuf::from(made.file.file_name()?))).collect();
        let has_sound = made.first().is_some_and(|made| !made.probed.audio.is_empty());
        let renditions: Vec<Rendition<'_>> = made
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(index, (made, file))| Rendition {
                file,
                name: made.name.as_deref().unwrap_or("main"),
                has_sound: has_sound && index == 0,
                size: made.probed.probe.video.as_ref().map_or((0, 0), |video| (video.width, video.height)),
            })
            .collect();
        let is_hls = output.encode.container == Container::Hls;
        let mut directories = vec![PathBuf::from(&segments)];
        if is_hls {
            let inner = renditions.iter().map(|rendition| rendition.name).chain(has_sound.then_some(SOUND));
            directories.extend(inner.map(|name| Path::new(&segments).join(name)));
        }
        for directory in &directories {
            let path = self.scratch_path().join(directory);
            super::make_directory(&path, user).map_err(|error| {
                End::failure(crate::roots::io_cause(&error), format!("no directory for segments: {error}"))
            })?;
        }
        let layout = Layout { top: &top, segments: &segments };
        let cutting = package::package_arguments(output, &renditions, layout);
        let secs = made.iter().filter_map(|made| made.probed.probe.duration_secs).reduce(f64::max);
        self.run_ffmpeg(&cutting, user, Phase::Verify, secs, Part::WHOLE).await?;

        let cuts = if is_hls { self.media_playlists(&directories[1..])? } else { self.presentation(&top)? };
        let expected = renditions.len() + usize::from(has_sound);
        if cuts.len() != expected {
            return Err(unproven(format!("it has {} streams instead of {expected}", cuts.len())));
        }
        let files = self.named_files(&segments, &cuts, &directories, is_hls)?;
        check_cuts(output.encode.segments, &cuts, made)?;
        if is_hls {
            self.write_master(&top, &segments, &cuts, made)?;
        }
        for (index, made) in made.iter().enumerate() {
            let read = if is_hls { package::media_playlist(&segments, renditions[index].name) } else { top.clone() };
            let stream = if is_hls { 0 } else { index };
            let arguments = presentation_decode_arguments(&read, 'v', stream, threads);
            let ran = self.run_ffmpeg(&arguments, user, Phase::Verify, secs, Part::WHOLE).await.map_err(as_verify)?;
            let frames = ran.last.and_then(|block| block.frame);
            if frames != made.proof.frames {
                let known = |frames: Option<u64>| frames.map_or("unknown".to_owned(), |frames| frames.to_string());
                let name = renditions[index].name;
                return Err(unproven(format!(
                    "{name} has {} frames in its segments instead of {}",
                    known(frames),
                    known(made.proof.frames)
                )));
            }
        }
        self.check_packets(&top, &segments, is_hls, made, user).await?;
        let mut answer = Answer::default();
        let arguments = probe::output_arguments(&top, output.encode.container);
        self.run_ffprobe(&arguments, user, &mut answer).await.map_err(as_verify)?;
        let probed = read_probe(&answer)?;
        let videos = probed.streams.iter().filter(|(kind, _)| kind == "video").count();
        if (videos, probed.audio.len()) != (renditions.len(), usize::from(has_sound)) {
            let found = probed.streams.len();
            return Err(unproven(format!("a player finds {found} streams in it instead of {expected}")));
        }
        for name in &names {
            // Cut into segments now; room for what else is to come.
            let _ = fs::remove_file(self.scratch_path().join(name));
        }
        Ok(Presentation { top, names: files, probed, arguments: cutting })
    }

    /// The media playlists in these directories.
    fn media_playlists(&self, directories: &[PathBuf]) -> Result<Vec<Cut>, End> {
        let read = |directory: &PathBuf| {
            let text = self.read_text(&directory.join(MEDIA_PLAYLIST))?;
            let playlist = playlist::media(&text)
                .map_err(|why| unproven(format!("the playlist in {} is wrong: {why}", directory.display())))?;
            self.weighed(playlist, directory.clone())
        };
        directories.iter().map(read).collect()
    }

    /// The representations of a presentation of DASH, pictures first.
    fn presentation(&self, top: &Path) -> Result<Vec<Cut>, End> {
        let text = self.read_text(top)?;
        let found =
            playlist::presentation(&text).map_err(|why| unproven(format!("the presentation is wrong: {why}")))?;
        found.into_iter().map(|(_, playlist)| self.weighed(playlist, PathBuf::new())).collect()
    }

    pub(super) fn read_text(&self, name: &Path) -> Result<String, End> {
        let mut text = String::new();
        let read = self.open(name).and_then(|file| file.take(PLAYLIST_BYTES).read_to_string(&mut text));
        read.map(|_| text).map_err(|error| unproven(format!("{} cannot be read: {error}", name.display())))
    }

    /// A file of the scratch, never through a link: the tool's user could have put one there.
    pub(super) fn open(&self, name: &Path) -> std::io::Result<File> {
        open_made(&self.scratch_path().join(name))
    }

    fn weighed(&self, playlist: Playlist, from: PathBuf) -> Result<Cut, End> {
        let size = |name: &str| {
            let metadata = fs::symlink_metadata(self.scratch_path().join(&from).join(name)).ok();
            metadata.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).filter(|bytes| *bytes > 0)
        };
        let mut bytes = Vec::new();
        for name in playlist.files() {
            let found = size(name).ok_or_else(|| unproven(format!("{name} is named and not there")))?;
            if Some(name) != playlist.init.as_deref() {
                bytes.push(found);
            }
        }
        Ok(Cut { playlist, from, bytes })
    }

    /// Every file that is named, by its path in the scratch; nothing else may lie there.
    fn named_files(
        &self,
        segments: &str,
        cuts: &[Cut],
        directories: &[PathBuf],
        is_hls: bool,
    ) -> Result<Vec<PathBuf>, End> {
        let mut named: BTreeSet<PathBuf> =
            cuts.iter().flat_map(|cut| cut.playlist.files().map(|name| cut.from.join(name))).collect();
        if is_hls {
            named.extend(cuts.iter().map(|cut| cut.from.join(MEDIA_PLAYLIST)));
        }
        for directory in directories {
            let entries = fs::read_dir(self.scratch_path().join(directory))
                .map_err(|error| unproven(format!("{segments} cannot be read: {error}")))?;
            for entry in entries.flatten() {
                let path = directory.join(entry.file_name());
                if !named.contains(&path) && !directories.contains(&path) {
                    return Err(unproven(format!("{} is there and not named", path.display())));
                }
            }
        }
        Ok(named.into_iter().collect())
    }

    /// Writes the master playlist of these renditions.
    fn write_master(&self, top: &Path, segments: &str, cuts: &[Cut], made: &[Proven]) -> Result<(), End> {
        let sound = cuts.get(made.len());
        let (sound_peak, sound_average) = sound.map_or((0.0, 0.0), Cut::rates);
        let mut variants = Vec::new();
        for (made, cut) in made.iter().zip(cuts) {
            let Some(video) = &made.probed.probe.video else { continue };
            let mut head = Vec::new();
            let read = self.open(Path::new(made.file.file_name().unwrap_or_default()));
            let _ = read.and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
            let codec = package::codec_name(&head)
                .ok_or_else(|| unproven(format!("a rendition's {} has no record", video.codec)))?;
            let (peak, average) = cut.rates();
            let name = made.name.as_deref().unwrap_or("main");
            variants.push(Variant {
                uri: package::media_playlist(segments, name).display().to_string(),
                peak: (peak + sound_peak).ceil() as u64,
                average: (average + sound_average).ceil() as u64,
                size: (video.width, video.height),
                fps: video.fps,
                codecs: std::iter::once(codec).chain(sound.map(|_| "mp4a.40.2".to_owned())).collect(),
            });
        }
        let uri = package::media_playlist(segments, SOUND).display().to_string();
        let channels = made.first().and_then(|made| made.probed.audio.first()?.channels);
        let text = playlist::master(&variants, sound.map(|_| (uri.as_str(), channels)));
        let written = self.create_in_scratch(top).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            End::failure(crate::roots::io_cause(&error), format!("the master playlist cannot be written: {error}"))
        })
    }

    /// Whether every packet of the renditions is in the segments.
    async fn check_packets(
        &mut self,
        top: &Path,
        segments: &str,
        is_hls: bool,
        made: &[Proven],
        user: ToolUser,
    ) -> Result<(), End> {
        let mut wanted: Vec<(&str, char, Option<u64>)> = made
            .iter()
            .map(|made| (made.name.as_deref().unwrap_or("main"), 'v', count(&made.proof, "video")))
            .collect();
        let sound = made.first().and_then(|made| count(&made.proof, "audio"));
        wanted.extend(sound.map(|packets| (SOUND, 'a', Some(packets))));
        for (index, (name, kind, packets)) in wanted.into_iter().enumerate() {
            // In HLS each stream has a playlist to itself, in DASH all are numbered in one.
            let (read, stream) =
                if is_hls { (package::media_playlist(segments, name), 0) } else { (top.to_owned(), index) };
            let number = if kind == 'v' { stream } else { 0 };
            let mut listed = Packets::default();
            let arguments = presentation_packet_arguments(&read, kind, number);
            self.run_ffprobe(&arguments, user, &mut listed).await.map_err(as_verify)?;
            let (streams, faults) = listed.finish(&vec![(String::new(), String::new()); stream + 1]);
            if !faults.is_empty() {
                return Err(unproven(format!("{name}: {}", faults.join("; "))));
            }
            let found = streams.last().map(|stream| stream.packets);
            if found != packets {
                let known = |packets: Option<u64>| packets.unwrap_or(0);
                return Err(unproven(format!(
                    "{name} has {} packets in its segments instead of {}",
                    known(found),
                    known(packets)
                )));
            }
        }
        Ok(())
    }
}

fn count(proof: &Proof, kind: &str) -> Option<u64> {
    proof.streams.iter().find(|stream| stream.kind == kind).map(|stream| stream.packets)
}

/// How long a stream is, from its first packet to its end.
fn length(proof: &Proof, kind: &str) -> Option<f64> {
    let stream = proof.streams.iter().find(|stream| stream.kind == kind)?;
    Some(stream.end_secs? - stream.first_secs?)
}

/// Whether the segments have the length that was asked for and add up to what was cut.
fn check_cuts(wish: Option<Segments>, cuts: &[Cut], made: &[Proven]) -> Result<(), End> {
    let Some(Segments { secs, .. }) = wish else {
        return Err(End::failure(Cause::Platform, "a presentation without segments was granted"));
    };
    for (index, Cut { playlist, .. }) in cuts.iter().enumerate() {
        let of = made.get(index).or(made.first());
        let frame = of.and_then(|made| made.probed.probe.video.as_ref()?.fps).filter(|fps| *fps > 0.0);
        let tolerance = TOLERANCE_SECS + 2.0 / frame.unwrap_or(25.0);
        let kind = if index < made.len() { "video" } else { "audio" };
        if let Some(whole) = of.and_then(|made| length(&made.proof, kind))
            && (playlist.secs() - whole).abs() > tolerance
        {
            return Err(unproven(format!("its segments have {:.3} s instead of {whole:.3} s", playlist.secs())));
        }
        let (last, before) = playlist.segments.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let uneven = before.iter().find(|(_, length)| (length - secs).abs() > tolerance);
        let too_long = last.into_iter().find(|(_, length)| *length > secs + tolerance);
        if let Some((name, length)) = uneven.or(too_long) {
            return Err(unproven(format!("{name} has {length:.3} s instead of {secs} s")));
        }
        let over = |target: u32| playlist.segments.iter().find(|(_, length)| length.round() > f64::from(target));
        if let Some((name, length)) = playlist.target_secs.and_then(over) {
            return Err(unproven(format!("{name} has {length:.3} s, more than its playlist's target")));
        }
    }
    Ok(())
}

/// A file that a tool made, never through a link.
pub(super) fn open_made(path: &Path) -> std::io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
