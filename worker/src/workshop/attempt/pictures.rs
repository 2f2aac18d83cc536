//! From a file of pictures with their times to a proven set: files or sheets in a directory, and the track that names them.
//!
//! Invariant: what is handed on is exactly the files that the track names; every picture that was taken is in them once, in its
//! order, and is shown from the time of its own frame on.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ffpool_schema::encode::{PictureFormat, Pictures};
use ffpool_schema::failure::Cause;
use ffpool_schema::message::{Phase, PicturesProof, Probe, VideoProbe};
use ffpool_schema::plan::ladder::Output;
use ffpool_schema::plan::{self, Request, Schedule, pictures};
use ffpool_schema::probe::Probed;
use ffpool_schema::track::{self, Area, Cue, picture_size};

use super::encode::{Proven, SOURCE_TOLERANCE_SECS, as_verify, refused_for, unproven};
use super::package::open_made;
use super::report::Part;
use super::{Attempt, End, blocking};
use crate::packets::{Packets, number};
use crate::publish::{Contents, Whose, directory_name};
use crate::tool::{Listener, ToolUser};

/// As much of a picture is searched for its size, in bytes.
const HEAD_BYTES: u64 = 1 << 16;
/// How exact a track tells times, in seconds.
const TRACK_SECS: f64 = 0.0011;

/// The times of the packets of a file with one stream, in seconds: one more than there may be, at most.
#[derive(Debug, Default)]
struct Times(Vec<f64>);

impl Listener for Times {
    fn output(&mut self, line: &str) -> bool {
        if self.0.len() <= Pictures::MOST as usize {
            self.0.extend(number(line, "pts_time"));
        }
        true
    }

    fn log(&mut self, _: &str) {}
}

/// A set of pictures, and where they lie.
struct Set<'a> {
    schedule: Schedule,
    /// The directory of the files.
    directory: &'a str,
    /// When each picture is shown, in seconds.
    times: Vec<f64>,
    /// Width and height of each.
    size: (u32, u32),
}

impl Set<'_> {
    fn count(&self) -> u64 {
        self.times.len() as u64
    }

    fn end_secs(&self) -> f64 {
        self.schedule.end_secs(self.times.last().copied().unwrap_or(0.0))
    }

    /// Every file, by its path in the scratch, in the order of its pictures.
    fn names(&self) -> Vec<PathBuf> {
        (1..=self.schedule.files(self.count())).map(|number| PathBuf::from(self.name(number))).collect()
    }

    fn name(&self, number: u64) -> String {
        format!("{}/{}", self.directory, pictures::file_name(number, self.schedule.format))
    }

    /// The size of each file.
    fn file_size(&self) -> (u32, u32) {
        let (width, height) = self.size;
        self.schedule.grid.map_or(self.size, |grid| (width * grid.columns, height * grid.rows))
    }

    fn cues(&self) -> Vec<Cue> {
        let millis = |secs: f64| (secs.max(0.0) * 1000.0).round() as u64;
        let ends = self.times.iter().skip(1).copied().chain([self.end_secs()]);
        let cue = |(number, (from, to)): (u64, (&f64, f64))| {
            let (file, area) = match self.schedule.grid {
                None => (number, None),
                Some(grid) => {
                    let (sheet, area) = Area::of(number, grid, self.size);
                    (sheet, Some(area))
                }
            };
            Cue { from_ms: millis(*from), to_ms: millis(to), file: self.name(file + 1), area }
        };
        (0..).zip(self.times.iter().zip(ends)).map(cue).collect()
    }

    fn proof(&self) -> PicturesProof {
        let Schedule { format, grid, .. } = self.schedule;
        PicturesProof {
            count: self.count(),
            files: self.schedule.files(self.count()),
            format,
            width: self.size.0,
            height: self.size.1,
            columns: grid.map(|grid| grid.columns),
            rows: grid.map(|grid| grid.rows),
            first_secs: self.times.first().copied().unwrap_or(0.0),
            last_secs: self.times.last().copied().unwrap_or(0.0),
            end_secs: self.end_secs(),
        }
    }

    /// The track, as what an output of a job is described by.
    fn probed(&self) -> Probed {
        let (width, height) = self.file_size();
        let video = VideoProbe {
            codec: self.schedule.format.codec().to_owned(),
            width,
            height,
            pixel_format: Some(self.schedule.format.pixels().to_owned()),
            frames: Some(self.schedule.files(self.count())),
            ..VideoProbe::default()
        };
        let probe = Probe {
            format: "webvtt".to_owned(),
            duration_secs: Some(self.end_secs()),
            video: Some(video),
            streams: 1,
            ..Probe::default()
        };
        Probed { probe, ..Probed::default() }
    }
}

impl Attempt<'_> {
    /// Makes the files of a set from the proven file of its pictures, and proves them. Answers with the run that made them.
    pub(super) async fn picture_set(
        &mut self,
        output: &Output,
        place: usize,
        made: Vec<Proven>,
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
    ) -> Result<(Proven, Vec<OsString>), End> {
        let file = made.into_iter().next();
        let file = file.ok_or_else(|| End::failure(Cause::Platform, "a set of pictures was planned without a file"))?;
        let name = PathBuf::from(file.file.file_name().unwrap_or_default());
        let threads = self.shop.threads(&self.grant.spec);
        let schedule = self.schedule(output, source, &name, threads)?;
        let mut times = Times::default();
        self.run_ffprobe(&plan::packet_arguments(&name), user, &mut times).await.map_err(as_verify)?;
        let Times(times) = times;
        self.hold_against(&schedule, &times, output, source, user).await?;
        if file.proof.frames != Some(times.len() as u64) {
            let frames = file.proof.frames.unwrap_or(0);
            return Err(unproven(format!("{frames} of {} pictures can be decoded", times.len())));
        }
        let video = file.probed.probe.video.as_ref();
        let size =
            video.map(|video| (video.width, video.height)).ok_or_else(|| unproven("it has no pictures".into()))?;
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        let whose = Whose { job: self.grant.job, attempt: self.grant.attempt, number };
        let directory = directory_name(Contents::Pictures, whose);
        super::make_directory(&self.scratch_path().join(&directory), user).map_err(|error| {
            End::failure(crate::roots::io_cause(&error), format!("no directory for pictures: {error}"))
        })?;
        let arguments = pictures::lay_out_arguments(&schedule, &name, &directory, threads);
        self.run_ffmpeg(&arguments, user, Phase::Verify, None, Part::WHOLE).await?;
        let _ = fs::remove_file(self.scratch_path().join(&name));

        let set = Set { schedule, directory: &directory, times, size };
        let names = set.names();
        let (scratch, within, files) = (self.scratch_path().to_owned(), directory.clone(), names.clone());
        let wish = set.file_size();
        let checked = blocking(move || check_files(&scratch, &within, &files, schedule.format, wish)).await?;
        checked.map_err(unproven)?;
        let decode = pictures::files_decode_arguments(schedule.format, &directory, threads);
        let ran = self.run_ffmpeg(&decode, user, Phase::Verify, None, Part::WHOLE).await.map_err(as_verify)?;
        let frames = ran.last.and_then(|block| block.frame);
        if frames != Some(names.len() as u64) {
            let frames = frames.unwrap_or(0);
            return Err(unproven(format!("{frames} of its {} files can be decoded", names.len())));
        }
        let top = PathBuf::from(format!("pictures-{place}.{}", output.encode.container.extension()));
        self.write_track(&top, &set)?;
        self.check_track(&top, &set, &names)?;
        let proven = Proven {
            name: output.name.clone(),
            file: self.scratch_path().join(top),
            probed: set.probed(),
            proof: file.proof,
            quality: None,
            renditions: Vec::new(),
            pictures: Some(set.proof()),
            names,
        };
        Ok((proven, arguments))
    }

    /// Holds pictures of these times against their schedule and, where there are too few, against the source's last frame.
    async fn hold_against(
        &mut self,
        schedule: &Schedule,
        times: &[f64],
        output: &Output,
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
    ) -> Result<(), End> {
        if schedule.secs.is_none() && times.len() > Pictures::MOST as usize {
            let message = format!(
                "the source, which does not say how long it is, has more than {} pictures, one every {} s: choose a longer `every_sec`",
                Pictures::MOST,
                schedule.every_secs
            );
            return Err(End::failure(Cause::ConfigBad, message));
        }
        let Some(fault) = schedule.fault(times) else { return Ok(()) };
        let too_few = || unproven(fault);
        let Some((path, probed)) = source else { return Err(too_few()) };
        let stream = probed.streams.iter().position(|(kind, _)| kind == "video");
        let mut packets = Packets::default();
        self.run_ffprobe(&plan::packet_arguments(path), user, &mut packets).await?;
        // A source that says more than it holds is cut off.
        let is_whole = |ends: f64| probed.video_end.is_some_and(|claimed| claimed - ends <= SOURCE_TOLERANCE_SECS);
        let last = packets.last_frame(stream.unwrap_or(0)).filter(|(_, ends)| is_whole(*ends));
        let Some((shown, _)) = last else { return Err(too_few()) };
        let encode = output.renditions.first().map_or(&output.encode, |rendition| &rendition.encode);
        let shown = shown - probed.start_secs.unwrap_or(0.0) - encode.start_secs.unwrap_or(0.0);
        schedule.with_last_frame(shown).fault(times).map_or(Ok(()), |fault| Err(unproven(fault)))
    }

    /// The schedule by which the pictures were taken.
    fn schedule(
        &self,
        output: &Output,
        source: Option<(&Path, &Probed)>,
        name: &Path,
        threads: u32,
    ) -> Result<Schedule, End> {
        let tools = self.shop.software.tools();
        let features = &tools.features;
        let rendition = output.renditions.first().map_or(&output.encode, |rendition| &rendition.encode);
        let request = Request {
            encode: rendition,
            encoder: None,
            device: None,
            source,
            output: name,
            number: 0,
            threads,
            features,
            loudness: None,
        };
        let planned = plan::plan(&request).map_err(|refusal| refused_for(&self.grant.spec, output.number, refusal))?;
        let missing = || End::failure(Cause::Platform, "a set of pictures was planned without a schedule");
        planned.expected.pictures.ok_or_else(missing)
    }

    fn write_track(&self, top: &Path, set: &Set<'_>) -> Result<(), End> {
        let text = track::write(&set.cues());
        let written = self.create_in_scratch(top).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            End::failure(crate::roots::io_cause(&error), format!("the track cannot be written: {error}"))
        })
    }

    /// Reads the track again and holds it against the files, the times and the length of the source.
    fn check_track(&self, top: &Path, set: &Set<'_>, names: &[PathBuf]) -> Result<(), End> {
        let cues = track::read(&self.read_text(top)?).map_err(|why| unproven(format!("the track is wrong: {why}")))?;
        if cues.len() != set.times.len() {
            return Err(unproven(format!("the track has {} cues for {} pictures", cues.len(), set.times.len())));
        }
        let (width, height) = set.file_size();
        for (cue, time) in cues.iter().zip(&set.times) {
            if (cue.from_ms as f64 / 1000.0 - time).abs() > TRACK_SECS {
                return Err(unproven(format!("a cue begins at {} ms for a picture of {time:.3} s", cue.from_ms)));
            }
            let is_inside = cue.area.is_none_or(|area| area.x + area.width <= width && area.y + area.height <= height);
            if !is_inside {
                return Err(unproven(format!("a cue names a part of {} that is not in it", cue.file)));
            }
        }
        let places: BTreeSet<(&str, Option<(u32, u32)>)> =
            cues.iter().map(|cue| (cue.file.as_str(), cue.area.map(|area| (area.x, area.y)))).collect();
        if places.len() != cues.len() {
            return Err(unproven("two cues of the track name one picture".to_owned()));
        }
        let named: BTreeSet<&str> = cues.iter().map(|cue| cue.file.as_str()).collect();
        let files = names;
        if !named.iter().copied().eq(files.iter().filter_map(|file| file.to_str())) {
            return Err(unproven("the track does not name every file".to_owned()));
        }
        let end = cues.last().map_or(0.0, |cue| cue.to_ms as f64 / 1000.0);
        if (end - set.end_secs()).abs() > TRACK_SECS {
            return Err(unproven(format!("the track ends at {end:.3} s instead of {:.3} s", set.end_secs())));
        }
        Ok(())
    }
}

/// Whether all these files of a scratch are there with the size that they must have, and no other beside them.
fn check_files(
    scratch: &Path,
    directory: &str,
    names: &[PathBuf],
    format: PictureFormat,
    wish: (u32, u32),
) -> Result<(), String> {
    for name in names {
        let mut head = Vec::new();
        open_made(&scratch.join(name))
            .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
            .map_err(|error| format!("{} cannot be read: {error}", name.display()))?;
        let size = picture_size(format, &head);
        if size != Some(wish) {
            let of = |(width, height): (u32, u32)| format!("{width}x{height}");
            let found = size.map_or("no size".to_owned(), of);
            return Err(format!("{} has {found} instead of {}", name.display(), of(wish)));
        }
    }
    let entries =
        fs::read_dir(scratch.join(directory)).map_err(|error| format!("{directory} cannot be read: {error}"))?;
    let known: BTreeSet<&PathBuf> = names.iter().collect();
    let beside = entries.flatten().map(|entry| Path::new(directory).join(entry.file_name()));
    beside
        .into_iter()
        .find(|path| !known.contains(path))
        .map_or(Ok(()), |path| Err(format!("{} is there and not named", path.display())))
}
