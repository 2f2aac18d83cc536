//! Sets of pictures: which frames become pictures, and how files are made of them.
//!
//! The frames are taken in the run that makes the job's other outputs, into one file that keeps their times, and proven there. A
//! second run makes the files: it copies pictures out one by one, or lays them into sheets.
//!
//! Invariant: a picture is the first frame of its share of the time, and no share has two; a share in which no frame begins has
//! none. Source: FFmpeg 5.1 measured: `select` keeps its variables from one frame to the next, `tile` fills a sheet that is not
//! full with black.

use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

use super::arguments::{Arguments, COMMON, READ_ONLY_FILES, file_argument};
use super::{Refusal, Request, expected};
use crate::encode::{Encode, Grid, Pace, PictureFormat, Pictures};

/// How far before its share a picture may begin, in seconds: a track tells times to the millisecond.
const EARLY_SECS: f64 = 0.001;
/// What times lose where they are kept, in seconds: a file of Matroska rounds to the millisecond.
const ROUNDING_SECS: f64 = 0.0005;
/// How much less than a file's length its video may have, where the file does not say of the video itself.
const UNSAID_SECS: f64 = 1.0;

/// Which frames of a source become pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Schedule {
    /// Seconds from the beginning of one share to the next.
    pub every_secs: f64,
    /// Length in seconds of what is taken, where it can be known.
    pub secs: Option<f64>,
    /// The fewest pictures that there must be, for a source whose frames are nowhere further apart than a share.
    pub least: Option<u64>,
    /// The most that there can be, or that are made of a source that does not say how long it is.
    pub most: Option<u64>,
    /// What the files are.
    pub format: PictureFormat,
    /// How pictures lie in sheets.
    pub grid: Option<Grid>,
}

/// The schedule of a request that makes a set of pictures.
///
/// # Errors
/// When its source is too short for so many, or too long for so close ones.
pub(super) fn schedule(request: &Request<'_>) -> Result<Option<Schedule>, Refusal> {
    let Some(Pictures { pace, format, grid }) = request.encode.pictures else { return Ok(None) };
    let video = request.source.and_then(|(_, probed)| probed.probe.video.as_ref());
    let secs = expected::pictured_secs(request)?;
    let frame_secs = video.and_then(|video| video.fps).filter(|fps| *fps > 0.0).map_or(0.04, f64::recip);
    // Where only the file says how long it is, its sound may be longer than its picture.
    let is_said = request.source.is_none() || video.is_some_and(|video| video.duration_secs.is_some());
    let unsure = if is_said { frame_secs } else { frame_secs + UNSAID_SECS };
    Schedule::new(pace, secs, unsure).map(|schedule| Some(Schedule { format, grid, ..schedule }))
}

impl Schedule {
    /// `unsure`: seconds before the end in which no frame need begin.
    fn new(pace: Pace, secs: Option<f64>, unsure: f64) -> Result<Schedule, Refusal> {
        let every_secs = match (pace, secs) {
            (Pace::Every(every), _) => every,
            (Pace::Count(count), Some(secs)) => secs / f64::from(count.max(1)),
            (Pace::Count(_), None) => {
                let message = "the source does not say how long it is: use `every_sec`";
                return Err(Refusal::job("picture_count", "unsupported", message));
            }
        };
        if let (Pace::Count(_), Some(secs)) = (pace, secs)
            && every_secs < Pictures::LEAST_SECS
        {
            let fits = (secs / Pictures::LEAST_SECS).floor().max(1.0);
            let message = format!("{secs:.3} s have {fits} pictures at most, one every {} s", Pictures::LEAST_SECS);
            return Err(Refusal::job("picture_count", "out_of_range", message));
        }
        let shares = |secs: f64| (secs.max(0.0) / every_secs).ceil().max(1.0) as u64;
        let most = secs.map(|secs| shares(secs - EARLY_SECS));
        if let Some(count) = most.filter(|count| *count > u64::from(Pictures::MOST)) {
            let (bound, least) = (Pictures::MOST, secs.unwrap_or(0.0) / f64::from(Pictures::MOST));
            let message = format!("{count} pictures: {bound} at most, one every {least:.1} s or less often");
            return Err(Refusal::job("every_sec", "out_of_range", message));
        }
        let least = secs.map(|secs| shares(secs - unsure - EARLY_SECS));
        let most = most.or(Some(u64::from(Pictures::MOST)));
        Ok(Schedule { every_secs, secs, least, most, format: PictureFormat::Jpg, grid: None })
    }

    /// The same of a source whose last frame is shown from this second of the output on, however long it stays: shares after
    /// it have no picture.
    #[must_use]
    pub fn with_last_frame(self, shown_secs: f64) -> Schedule {
        let begun = ((shown_secs + EARLY_SECS - ROUNDING_SECS) / self.every_secs).floor().max(0.0) as u64 + 1;
        Schedule { least: self.least.map(|least| least.min(begun)), ..self }
    }

    /// The filter that lets these frames through, counted from this second of what is read.
    #[must_use]
    pub fn filter(&self, from: f64) -> String {
        let every = self.every_secs;
        // The variable is the number of the next share.
        let time = format!("t-{from}+{EARLY_SECS}");
        format!("select='if(gte({time},ld(0)*{every}),st(0,floor(({time})/{every})+1),0)'")
    }

    /// What is wrong with pictures of these times, in seconds from the beginning.
    #[must_use]
    pub fn fault(&self, times: &[f64]) -> Option<String> {
        let count = times.len() as u64;
        if count == 0 {
            return Some("it has no pictures".to_owned());
        }
        let mut next = 0;
        for (index, time) in times.iter().enumerate() {
            // The least share that it can be of, then the most: times were rounded where they were kept.
            let share = |slack: f64| ((time + slack) / self.every_secs).floor().max(0.0) as u64;
            let (low, high) = (share(EARLY_SECS - ROUNDING_SECS), share(EARLY_SECS + ROUNDING_SECS + 1e-6));
            if high < next {
                return Some(format!("picture {} is of {time:.3} s, as is the one before it", index + 1));
            }
            next = low.max(next) + 1;
        }
        if let Some(least) = self.least.filter(|least| next < *least) {
            let end = times.last().copied().unwrap_or(0.0);
            return Some(format!(
                "its last picture is of {end:.3} s: {least} shares of {} s were expected",
                self.every_secs
            ));
        }
        self.most.filter(|most| count > *most).map(|most| format!("it has {count} pictures instead of {most}"))
    }

    /// When the last of these pictures ends, in seconds.
    #[must_use]
    pub fn end_secs(&self, last: f64) -> f64 {
        self.secs.filter(|secs| *secs > last + EARLY_SECS).unwrap_or(last + self.every_secs)
    }

    /// Files that so many pictures make.
    #[must_use]
    pub fn files(&self, pictures: u64) -> u64 {
        self.grid.map_or(pictures, |grid| pictures.div_ceil(u64::from(grid.tiles().max(1))))
    }
}

/// The format in which pictures leave the first run: that of the files where they are copied out one by one, else one that
/// loses nothing.
pub(super) fn made(encode: &Encode) -> PictureFormat {
    match encode.pictures {
        None => PictureFormat::of(encode.container).unwrap_or(PictureFormat::Jpg),
        Some(pictures) if is_copied(pictures.format, pictures.grid) => pictures.format,
        Some(_) => PictureFormat::Png,
    }
}

/// Whether the files are the pictures as they were made. The file that holds them in between takes no WebP.
fn is_copied(format: PictureFormat, grid: Option<Grid>) -> bool {
    grid.is_none() && format != PictureFormat::Webp
}

pub(super) fn encoder(format: PictureFormat, arguments: &mut Arguments) {
    arguments.pair("-c:v", format.encoder());
    match format {
        PictureFormat::Jpg => arguments.pair("-q:v", 2),
        PictureFormat::Webp => arguments.pair("-quality", 80),
        PictureFormat::Png => {}
    }
}

/// The name of the file of this number, from 1, in its directory.
#[must_use]
pub fn file_name(number: u64, format: PictureFormat) -> String {
    format!("{number:05}.{format}")
}

/// The run that makes the files of a set in a directory, from the file that has its pictures.
#[must_use]
pub fn lay_out_arguments(schedule: &Schedule, file: &Path, directory: &str, threads: u32) -> Vec<OsString> {
    let Schedule { format, grid, .. } = *schedule;
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", threads);
    arguments.pair("-filter_threads", threads);
    arguments.all(READ_ONLY_FILES);
    arguments.list.extend(["-i".into(), file_argument(file)]);
    arguments.all(["-map", "0:V:0"]);
    if is_copied(format, grid) {
        arguments.all(["-c", "copy"]);
    } else {
        let tiles = grid.map(|Grid { columns, rows }| format!("tile={columns}x{rows}:color=black,"));
        arguments.pair("-vf", format!("{}format={}", tiles.unwrap_or_default(), format.pixels()));
        encoder(format, &mut arguments);
        arguments.all(["-fps_mode", "passthrough"]);
        arguments.pair("-threads", threads);
    }
    arguments.all(["-map_metadata", "-1", "-f", "image2", "-start_number", "1", "-y"]);
    arguments.list.push(format!("{directory}/%05d.{format}").into());
    arguments.list
}

/// A full decode of every file of a set, all errors fatal.
#[must_use]
pub fn files_decode_arguments(format: PictureFormat, directory: &str, threads: u32) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", threads);
    arguments.all(["-protocol_whitelist", "file", "-f", "image2", "-pattern_type", "sequence", "-start_number", "1"]);
    arguments.list.extend(["-i".into(), format!("{directory}/%05d.{format}").into()]);
    arguments.all(["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "null", "-"]);
    arguments.list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(pace: Pace, secs: f64) -> Schedule {
        Schedule::new(pace, Some(secs), 0.04).unwrap()
    }

    fn refused(pace: Pace, secs: Option<f64>) -> (String, String) {
        match Schedule::new(pace, secs, 0.04).unwrap_err() {
            Refusal::Job(fault) => (fault.path, fault.code),
            Refusal::Input(why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_source_has_as_many_pictures_as_shares_that_it_begins() {
        let counts = |pace, secs| {
            let schedule = schedule(pace, secs);
            (schedule.least.unwrap(), schedule.most.unwrap())
        };
        assert_eq!(counts(Pace::Every(1.0), 4.0), (4, 4));
        // The last share may be shorter, but not so short that no frame begins in it.
        assert_eq!(counts(Pace::Every(1.0), 4.5), (5, 5));
        assert_eq!(counts(Pace::Every(1.0), 4.02), (4, 5));
        assert_eq!(counts(Pace::Every(10.0), 2.0), (1, 1), "shorter than the interval");
        assert_eq!(counts(Pace::Every(0.7), 2.1), (3, 3), "no fourth by a rounding error");
        assert_eq!(counts(Pace::Count(7), 10.0), (7, 7));
        assert!((schedule(Pace::Count(7), 10.0).every_secs - 10.0 / 7.0).abs() < 1e-12);
        assert_eq!(counts(Pace::Count(3), 9.943), (3, 3));
        let open = Schedule::new(Pace::Every(5.0), None, 0.04).unwrap();
        assert_eq!((open.least, open.most, open.end_secs(5.0)), (None, Some(u64::from(Pictures::MOST)), 10.0));
    }

    #[test]
    fn what_a_source_is_too_short_or_too_long_for_is_refused_at_its_field() {
        let fault = |field: &str, code: &str| (format!("parameters.{field}"), code.to_owned());
        assert_eq!(refused(Pace::Count(30), Some(2.0)), fault("picture_count", "out_of_range"));
        assert_eq!(refused(Pace::Count(30), None), fault("picture_count", "unsupported"));
        assert_eq!(refused(Pace::Every(0.1), Some(7200.0)), fault("every_sec", "out_of_range"));
    }

    #[test]
    fn sheets_are_as_many_as_are_begun() {
        let grid = |columns, rows| Schedule { grid: Some(Grid { columns, rows }), ..schedule(Pace::Every(1.0), 60.0) };
        assert_eq!([1, 5, 6, 7, 12, 13].map(|count| grid(3, 2).files(count)), [1, 1, 1, 2, 2, 3]);
        assert_eq!(grid(1, 1).files(9), 9);
        assert_eq!(schedule(Pace::Every(1.0), 60.0).files(9), 9, "no sheets");
    }

    #[test]
    fn times_are_held_against_the_shares() {
        let wish = schedule(Pace::Every(0.5), 2.0);
        assert_eq!(wish.fault(&[0.0, 0.52, 1.0, 1.5]), None);
        // Rounded down where they were kept; late in a share; one share without a frame.
        assert_eq!(wish.fault(&[0.0, 0.4995, 0.9991, 1.5]), None);
        assert_eq!(wish.fault(&[0.12, 0.96, 1.72]), None);
        for (times, what) in [
            (&[][..], "no pictures"),
            (&[0.0, 0.5, 0.98, 1.5], "as is the one before"),
            (&[0.0, 0.0, 0.5, 1.0], "as is the one before"),
            (&[0.0, 0.5, 1.0], "the last picture is of 1.000 s"),
            (&[0.0, 0.5, 1.0, 1.5, 2.0], "5 pictures instead of 4"),
        ] {
            let fault = wish.fault(times).unwrap_or_else(|| panic!("{times:?} passes"));
            assert!(fault.contains(what.trim_start_matches("the ")), "{what}: {fault}");
        }
    }

    #[test]
    fn shares_after_the_last_frame_need_no_picture() {
        let wish = schedule(Pace::Every(1.0), 10.0);
        assert_eq!(wish.with_last_frame(5.96).least, Some(6));
        assert_eq!(wish.with_last_frame(6.0).least, Some(7));
        assert_eq!(wish.with_last_frame(12.0).least, wish.least);
        assert!(wish.fault(&[0.0, 1.0]).is_some() && wish.with_last_frame(1.0).fault(&[0.0, 1.0]).is_none());
    }

    #[test]
    fn the_filter_counts_from_where_the_output_begins() {
        let filter = schedule(Pace::Every(0.5), 2.0).filter(10.0);
        assert_eq!(filter, "select='if(gte(t-10+0.001,ld(0)*0.5),st(0,floor((t-10+0.001)/0.5)+1),0)'");
    }
}
