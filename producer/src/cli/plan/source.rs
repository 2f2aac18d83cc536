//! What a job's source holds: looked at from here, or as somebody with the right to it has looked at it.
//!
//! Invariant: what cannot be looked at leaves the plan open and says why; a signature in an address is shown nowhere. A web
//! server is waited for within [`WEB`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ffpool_schema::encode::{Encode, Source};
use ffpool_schema::location::{Location, Use, redact};
use ffpool_schema::probe::{self, Probed};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use super::args;
use super::place::{TOOL, ask};
use crate::cli::exit::{Exit, Trouble};

/// All looks at an input on a web server together.
const WEB: Duration = Duration::from_secs(30);
/// Silence of a web server after which a look at it is given up, in microseconds.
const WEB_SILENCE_US: u64 = 10_000_000;
/// As a worker names what it has fetched.
const FETCHED: &str = "input";
/// What comes of a source that nobody has looked at.
const OPEN: &str = "what follows from what is in it is left open, time and size too";
/// What ffprobe is asked for, for whoever does so where the input can be reached.
const HOW: &str = "ffprobe -of json -show_format -show_streams -show_chapters";

/// Where a job's source is.
pub(super) enum Found {
    Generated,
    /// As the tools will name it, and what it holds.
    Seen(PathBuf, Box<Probed>),
    /// Nobody has looked at it, and why.
    Unseen(Option<String>),
}

impl Found {
    pub(super) fn probed(&self) -> Option<&Probed> {
        match self {
            Found::Seen(_, probed) => Some(probed),
            Found::Generated | Found::Unseen(_) => None,
        }
    }
}

pub(super) async fn find(args: &args::Plan, encode: &Encode, notes: &mut Vec<String>) -> Result<Found, Trouble> {
    let name = match &encode.source {
        Source::Generated { .. } if args.probe.is_some() => {
            return Err(Trouble::usage("--probe tells of an input, and the job has none: its source is generated")
                .next("Leave --probe out, or give the job an input."));
        }
        Source::Generated { .. } => return Ok(Found::Generated),
        Source::File { path } => PathBuf::from(path),
        Source::Remote { .. } | Source::Live { .. } => PathBuf::from(FETCHED),
    };
    if let Some(file) = &args.probe {
        notes.push(format!("what the source holds is taken from {file}: it was not looked at"));
        return Ok(Found::Seen(name, Box::new(stored(file)?)));
    }
    match &encode.source {
        Source::Remote { url } => Ok(remote(args, url, name, notes).await),
        Source::File { .. } if name.is_file() => {
            Ok(Found::Seen(name.clone(), Box::new(Look::at_file(args, name).all().await?)))
        }
        Source::File { .. } => Ok(Found::Unseen(Some(format!(
            "{} is not on this machine: {OPEN}. Where it is, `{HOW} PATH` tells; give that with --probe",
            name.display()
        )))),
        Source::Live { .. } | Source::Generated { .. } => Ok(Found::Unseen(None)),
    }
}

/// What ffprobe has said of the source before.
fn stored(file: &str) -> Result<Probed, Trouble> {
    let text = std::fs::read_to_string(file).map_err(|error| Trouble::unreadable(file, &error))?;
    let next = format!("`{HOW} INPUT > FILE` writes what is expected.");
    let mut probed = probe::parse(&text)
        .map_err(|error| Trouble::usage(format!("{file} is not what ffprobe prints: {error}")).next(&next))?;
    if probed.streams.is_empty() {
        return Err(Trouble::usage(format!("{file} tells of no stream")).next(next));
    }
    if probed.is_hdr_unsaid() {
        // There where frames were asked for too.
        probe::add_frame(&mut probed, &text)
            .map_err(|error| Trouble::usage(format!("the frames in {file} cannot be read: {error}")))?;
    }
    Ok(probed)
}

/// An input that a worker fetches.
async fn remote(args: &args::Plan, url: &str, name: PathBuf, notes: &mut Vec<String>) -> Found {
    let location = match Location::parse(url, Use::Input) {
        Ok(Location::Web(url)) => Location::Web(url),
        Ok(location) => {
            return Found::Unseen(Some(format!(
                "{location} is read with the worker's credentials, which `ffpool` does not hold: {OPEN}. `{HOW}`, run on a signed \
                 address or a copy of it, tells; give that with --probe"
            )));
        }
        Err(bad) => return Found::Unseen(Some(bad.message)),
    };
    match Look::at_web(args, url).all().await {
        Ok(probed) => {
            notes.push(format!("{location} was looked at from this machine; a worker fetches it whole first"));
            Found::Seen(name, Box::new(probed))
        }
        Err(trouble) => {
            let why = redact(&trouble.what);
            Found::Unseen(Some(format!(
                "{why}: {OPEN}. A worker may reach it all the same; what `{HOW}` says of it there can be given with --probe"
            )))
        }
    }
}

/// A look at an input with this machine's ffprobe.
struct Look<'a> {
    args: &'a args::Plan,
    /// As it is shown.
    shown: String,
    arguments: Vec<OsString>,
    /// For the first frame.
    frame: Vec<OsString>,
    until: Instant,
}

impl<'a> Look<'a> {
    fn at_file(args: &'a args::Plan, path: PathBuf) -> Look<'a> {
        Look {
            args,
            shown: path.display().to_string(),
            arguments: probe::arguments(&path),
            frame: probe::frame_arguments(&path),
            until: Instant::now() + TOOL,
        }
    }

    fn at_web(args: &'a args::Plan, url: &str) -> Look<'a> {
        Look {
            args,
            shown: redact(url),
            arguments: probe::web_arguments(url, WEB_SILENCE_US),
            frame: probe::web_frame_arguments(url, WEB_SILENCE_US),
            until: Instant::now() + WEB,
        }
    }

    async fn all(self) -> Result<Probed, Trouble> {
        let program = &self.args.ffprobe;
        let unreadable = |error: serde_json::Error| {
            Trouble::new(Exit::Trouble, format!("{program}'s answer cannot be read: {error}"))
        };
        let mut probed = probe::parse(&self.once(&self.arguments).await?).map_err(unreadable)?;
        if probed.is_hdr_unsaid() {
            probe::add_frame(&mut probed, &self.once(&self.frame).await?).map_err(unreadable)?;
        }
        Ok(probed)
    }

    async fn once(&self, arguments: &[OsString]) -> Result<String, Trouble> {
        let program = &self.args.ffprobe;
        let mut command = Command::new(program);
        command.args(arguments);
        let asked = timeout_at(self.until, ask(command, program)).await;
        let late = |_| Err(format!("`{program}` was not done with it in time"));
        asked.unwrap_or_else(late).map_err(|error| {
            Trouble::new(Exit::Trouble, format!("{} cannot be looked at: {error}", self.shown))
                .next("Install FFmpeg (Debian's package: ffmpeg), or name its prober with --ffprobe.")
        })
    }
}
