//! A small picture of what an attempt made, for whoever looks at its job.
//!
//! Invariant: it is made of a proven output, before that leaves the scratch, and nothing depends on it: whatever goes wrong is
//! logged, and the attempt goes on without one.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use ffpool_schema::encode::{Container, PictureFormat};
use ffpool_schema::plan::{self, Frame};
use ffpool_schema::thumbnail::{BadThumbnail, MAX_BYTES, Thumbnail};
use tokio::time::Instant;

use super::encode::Proven;
use super::package::open_made;
use super::{Attempt, blocking};
use crate::cage::Needs;
use crate::tool::{self, Answer, EndedBy, Finished, Invocation, ToolUser, Watch};

/// How long it may take. It takes a tenth of a second where there is a processor free.
const BOUND: Duration = Duration::from_secs(10);
/// Between asking its tool to stop and killing it: there is nothing that it could finish.
const GRACE: Duration = Duration::from_millis(200);
/// What encodes goes first.
const NICE: i32 = 19;
/// Size that no file of its tool may exceed: more than the picture of most bytes that it can make.
const FILE_BYTES: u64 = 1 << 20;

impl Attempt<'_> {
    /// Makes the thumbnail of the first of these outputs that can be seen, where the worker makes any.
    pub(super) async fn make_thumbnail<'m>(
        &mut self,
        mut made: impl Iterator<Item = (&'m Proven, Container)> + Send,
        user: ToolUser,
    ) {
        if !self.shop.settings.thumbnails {
            return;
        }
        let can_be_seen = |(proven, _): &(&Proven, Container)| proven.probed.probe.video.is_some();
        let Some((proven, container)) = made.find(can_be_seen) else { return };
        match self.thumbnail_of(proven, container, user).await {
            Ok(thumbnail) => self.thumbnail = Some(thumbnail),
            // It ends now, and says so itself.
            Err(_) if self.orders.stop.borrow().is_some() => {}
            Err(why) => {
                tracing::warn!(job = %self.grant.job, attempt = self.grant.attempt, why, "no thumbnail of the output");
                self.reporter.log(&format!("[ffpool] no thumbnail of the output: {why}"));
            }
        }
    }

    async fn thumbnail_of(
        &mut self,
        proven: &Proven,
        container: Container,
        user: ToolUser,
    ) -> Result<Thumbnail, String> {
        let probe = &proven.probed.probe;
        let colors = Some(&proven.probed.colors).filter(|colors| colors.is_hdr());
        let tools = self.shop.software.tools();
        let features = &tools.features;
        let can_map = ["zscale", "tonemap"].iter().all(|filter| features.iter().any(|feature| feature == filter));
        // Of a set of pictures the first: the file at the top is a track.
        let (file, picture) = match (&proven.pictures, proven.names.first()) {
            (Some(set), Some(first)) => (first.as_path(), Some(set.format)),
            (Some(_), None) | (None, _) => {
                let name = proven.file.file_name().map(Path::new);
                (name.ok_or("the output has no name")?, PictureFormat::of(container))
            }
        };
        let (arguments, files) = plan::thumbnail_arguments(&Frame {
            file,
            picture,
            is_presentation: container.is_streamed(),
            secs: probe.video.as_ref().and_then(|video| video.duration_secs).or(probe.duration_secs),
            mapped: colors.filter(|_| can_map),
        });
        self.stand_still().await;
        let invocation = Invocation {
            file_bytes: FILE_BYTES,
            nice: NICE,
            needs: Needs { reads: &[], network: None, devices: false },
            ..self.invocation(&self.shop.ffmpeg, &arguments, user)
        };
        let deadline = self.deadline().min(Instant::now() + BOUND);
        let watch = Watch { deadline, grace: GRACE, disk: None, ..self.watch(None) };
        let ran = tool::run(&self.shop.quarters.launcher, invocation, watch, &mut Answer::default()).await;
        let finished = ran.map_err(|error| format!("ffmpeg cannot be run: {error}"))?;
        self.count(&finished);
        if !finished.is_success() {
            return Err(self.why(&finished));
        }
        let paths = files.map(|file| self.scratch_path().join(file));
        let read = move || best_that_fits(paths.iter().map(|path| picture_of(path)));
        blocking(read).await.unwrap_or_else(|_| Err("a thread of the worker ended".to_owned()))
    }

    fn why(&self, finished: &Finished) -> String {
        let how = match &finished.ended_by {
            EndedBy::Itself => format!("ffmpeg ended with {}", finished.status),
            EndedBy::Timeout => format!("it took longer than {} s", BOUND.as_secs()),
            EndedBy::Stop(_) | EndedBy::Stall | EndedBy::Disk(_) => "its tool was stopped".to_owned(),
        };
        match finished.log.last() {
            Some(line) => format!("{how}: {}", self.reporter.clean(line)),
            None => how,
        }
    }
}

/// The first that is no larger than it may be.
fn best_that_fits(found: impl Iterator<Item = Result<Thumbnail, Fault>>) -> Result<Thumbnail, String> {
    let mut last = "no picture was made".to_owned();
    for found in found {
        match found {
            Ok(thumbnail) => return Ok(thumbnail),
            Err(Fault::Bad(BadThumbnail::TooLarge)) => last = BadThumbnail::TooLarge.to_string(),
            Err(Fault::Bad(bad)) => return Err(bad.to_string()),
            Err(Fault::Unread(error)) => return Err(format!("it cannot be read: {error}")),
        }
    }
    Err(last)
}

/// Why a file is no thumbnail.
#[derive(Debug)]
enum Fault {
    Unread(std::io::Error),
    Bad(BadThumbnail),
}

fn picture_of(path: &Path) -> Result<Thumbnail, Fault> {
    let mut bytes = Vec::new();
    let file = open_made(path).map_err(Fault::Unread)?;
    if !file.metadata().map_err(Fault::Unread)?.is_file() {
        return Err(Fault::Unread(std::io::Error::other("it is no plain file")));
    }
    // One more than it may have, so that a larger one is seen to be that.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Fault::Unread)?;
    Thumbnail::of(bytes).map_err(Fault::Bad)
}
