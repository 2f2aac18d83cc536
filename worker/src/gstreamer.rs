//! GStreamer on this worker: whether it is there, what of it works, and what it says while it runs.
//!
//! Invariant: a feature that is offered has encoded a moment here; an element that is not there is named, with the package
//! that brings it.

pub mod classify;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ffpool_schema::gstreamer::{self, ELEMENTS, Installation, Speech};
use ffpool_schema::live::Protocol;
use futures_util::future::join_all;
use tokio::process::Command;
use tracing::{info, warn};

use crate::encoders;
use crate::quarters::Quarters;
use crate::tool::EndedBy;

pub use classify::classify;

/// GStreamer's list of its plugins, in a worker's scratch and a copy in each attempt's. Without it every run would look
/// through all plugins first.
pub const REGISTRY: &str = "gstreamer.registry";
/// How long all of it may take, the first look through all plugins with it: a worker starts without a GStreamer that hangs.
const OPENING: Duration = Duration::from_secs(120);
/// How long a trial may take.
const TRIAL: Duration = Duration::from_secs(30);

/// GStreamer, where it works.
#[derive(Debug, Clone)]
pub struct Gstreamer {
    /// `gst-launch-1.0`.
    pub program: PathBuf,
    /// What is told of it.
    pub installation: Installation,
    /// What it encodes.
    pub features: Vec<&'static str>,
    /// Its list of plugins, of which each attempt has a copy.
    pub registry: PathBuf,
}

impl Gstreamer {
    /// Looks for it and tries every encoder as the user as whom jobs run. `None`: it is not there, or nothing works.
    pub async fn open(program: &Path, scratch: &Path, quarters: &Quarters) -> Option<Gstreamer> {
        match tokio::time::timeout(OPENING, Gstreamer::look(program, scratch, quarters)).await {
            Ok(found) => found,
            Err(_) => {
                warn!(program = %program.display(), within = ?OPENING, "GStreamer hangs here: it is not offered");
                None
            }
        }
    }

    async fn look(program: &Path, scratch: &Path, quarters: &Quarters) -> Option<Gstreamer> {
        let Some(program) = encoders::find_program(program) else {
            info!(program = %program.display(), "no GStreamer here: install gstreamer1.0-tools and its plugins to offer it");
            return None;
        };
        let registry = scratch.join(REGISTRY);
        let version = match ask(&program, &registry, OPENING, &["--version"]).await {
            Ok(version) => version,
            Err(reason) => {
                warn!(program = %program.display(), reason, "GStreamer does not run here: it is not offered");
                return None;
            }
        };
        let version = version.lines().next().unwrap_or_default().to_owned();
        let inspect = inspector(&program);
        let missing = missing(inspect.as_deref(), &registry).await;
        // It is made for its maker alone.
        let opened = std::fs::set_permissions(&registry, std::fs::Permissions::from_mode(0o644));
        if let Err(error) = opened {
            warn!(registry = %registry.display(), %error, "GStreamer's list of plugins cannot be shared: it is not offered");
            return None;
        }
        let mut features = features(&program, &registry, quarters).await;
        if features.is_empty() {
            warn!(%version, "no encoder of GStreamer works here: it is not offered");
            return None;
        }
        if let (Some(inspect), Some(missing)) = (&inspect, &missing) {
            features.extend(spoken(inspect, &registry, missing).await);
        }
        let missing = missing.unwrap_or_default();
        Some(Gstreamer { program, installation: Installation { version, missing }, features, registry })
    }
}

/// The features of the protocols of which all elements are there, with what pipelines set of them. What lies behind a network
/// cannot be tried.
async fn spoken(inspect: &Path, registry: &Path, missing: &[String]) -> Vec<&'static str> {
    let looks = whole(missing).into_iter().map(|speech| async move {
        let Some(reason) = incomplete(inspect, registry, &speech).await else { return Some(speech.feature) };
        info!(feature = speech.feature, reason, "GStreamer's elements do not do here what pipelines ask");
        None
    });
    join_all(looks).await.into_iter().flatten().collect()
}

/// The protocols of which all elements are there.
fn whole(missing: &[String]) -> Vec<Speech> {
    let is_there = |element: &str| !missing.iter().any(|missing| missing == element);
    let speeches = Protocol::ALL.into_iter().filter_map(gstreamer::speech);
    speeches.filter(|Speech { elements, .. }| elements.iter().all(|element| is_there(element))).collect()
}

/// What an element of a protocol lacks that pipelines set.
async fn incomplete(inspect: &Path, registry: &Path, speech: &Speech) -> Option<String> {
    let asked = speech.elements.into_iter().zip(speech.properties).filter(|(_, properties)| !properties.is_empty());
    for (element, properties) in asked {
        match ask(inspect, registry, TRIAL, &[element]).await {
            Ok(described) => {
                if let Some(property) = lacking(&described, properties) {
                    return Some(format!("`{element}` has no property `{property}`: it is of an older version"));
                }
            }
            Err(reason) => return Some(format!("`{element}` cannot be looked at: {reason}")),
        }
    }
    None
}

/// The first property that is not among those of an element, by lines such as `  latency             : Minimum latency`.
fn lacking<'p>(described: &str, properties: &[&'p str]) -> Option<&'p str> {
    let own = described.split_once("Element Properties:").map_or("", |(_, own)| own);
    let names = || own.lines().filter_map(|line| Some(line.strip_prefix("  ")?.split_once(':')?.0.trim_end()));
    properties.iter().find(|property| !names().any(|name| name == **property)).copied()
}

/// `gst-inspect-1.0`, which comes with the other, in the same package.
fn inspector(program: &Path) -> Option<PathBuf> {
    let beside = program.with_file_name("gst-inspect-1.0");
    if beside.is_file() { Some(beside) } else { encoders::find_program(Path::new("gst-inspect-1.0")) }
}

/// The elements that pipelines may need and that are not there. `None`: that is not known.
async fn missing(inspect: Option<&Path>, registry: &Path) -> Option<Vec<String>> {
    let listed = match inspect {
        Some(inspect) => ask(inspect, registry, OPENING, &[]).await,
        None => Err("it is not there: install gstreamer1.0-tools".to_owned()),
    };
    let listed = match listed {
        Ok(listed) => listed,
        Err(reason) => {
            warn!(reason, "gst-inspect-1.0 does not list GStreamer's elements: those that are missing are not known");
            return None;
        }
    };
    let there = elements(&listed);
    let missing = ELEMENTS.iter().filter(|(element, _)| !there.contains(element));
    let missing: Vec<String> = missing
        .map(|(element, package)| {
            info!(element, package, "GStreamer lacks an element here: jobs that need it are not taken");
            (*element).to_owned()
        })
        .collect();
    Some(missing)
}

/// The elements in a list such as `x264:  x264enc: x264 H.264 Encoder`.
fn elements(listed: &str) -> Vec<&str> {
    listed.lines().filter_map(|line| Some(line.split_once(":  ")?.1.split_once(": ")?.0)).collect()
}

/// The features of the encoders that work.
async fn features(program: &Path, registry: &Path, quarters: &Quarters) -> Vec<&'static str> {
    let trials = gstreamer::trials();
    let all: Vec<&str> = trials.iter().flat_map(|(_, words)| words.iter().copied()).collect();
    if tried(program, registry, quarters, &all).await.is_ok() {
        return trials.iter().map(|(feature, _)| *feature).collect();
    }
    let mut features = Vec::new();
    for (feature, words) in &trials {
        match tried(program, registry, quarters, words).await {
            Ok(()) => features.push(*feature),
            Err(reason) => info!(feature, reason, "an encoder of GStreamer does not work here"),
        }
    }
    features
}

/// Runs a pipeline once, as an attempt would. Otherwise why it does not work.
async fn tried(program: &Path, registry: &Path, quarters: &Quarters, words: &[&str]) -> Result<(), String> {
    let words: Vec<OsString> = words.iter().map(Into::into).collect();
    let run = async {
        let place = quarters.place()?;
        place.furnish(REGISTRY, registry)?;
        place.run(program, &words, false, TRIAL).await
    };
    let finished = run.await.map_err(|error| error.to_string())?;
    if finished.ended_by == EndedBy::Timeout {
        return Err(format!("it does not end within {TRIAL:?}"));
    }
    if finished.is_success() { Ok(()) } else { Err(reason(finished.log.first().map(String::as_str), finished.status)) }
}

/// What it says of itself, where it ends well; otherwise why not. It meets no file of anybody's.
async fn ask(program: &Path, registry: &Path, within: Duration, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(words)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GST_REGISTRY", registry)
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(within, command.output()).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("it does not end within {within:?}")),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(reason(String::from_utf8_lossy(&output.stderr).lines().next(), output.status))
}

fn reason(first_line: Option<&str>, status: ExitStatus) -> String {
    first_line.map_or_else(|| format!("it ended with {status}"), crate::classify::clean)
}

/// Seconds of media that have gone by, from a line such as `progress (00:00:01): 3 / 10 seconds (30.0 %)`.
#[must_use]
pub fn progress_secs(line: &str) -> Option<i64> {
    let rest = line.strip_prefix(gstreamer::PROGRESS)?.split_once("): ")?.1;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_with_and_without_a_length() {
        assert_eq!(progress_secs("progress (00:00:01): 3 / 10 seconds (30.0 %)"), Some(3));
        assert_eq!(progress_secs("progress (00:00:02): 7 seconds"), Some(7));
        assert_eq!(progress_secs("Setting pipeline to PLAYING ..."), None);
    }

    #[test]
    fn a_protocol_is_spoken_with_all_of_its_elements() {
        let of = |missing: &[String]| whole(missing).iter().map(|speech| speech.feature).collect::<Vec<_>>();
        assert_eq!(of(&[]), ["gstreamer-rtmp", "gstreamer-srt"]);
        assert_eq!(of(&["srtsink".to_owned()]), ["gstreamer-rtmp"]);
    }

    #[test]
    fn a_property_that_an_older_element_lacks_is_named() {
        let described = "Factory Details:\n  timeout             : of something else\n\nElement Properties:\n\n\
                         \x20 auto-reconnect      : Automatically reconnect when connection fails\n\
                         \x20                       flags: readable, writable\n\
                         \x20 a-name-longer-than-its-column: Anything\n  uri                 : URI: srt://address:port\n";
        assert_eq!(lacking(described, &["uri", "auto-reconnect", "a-name-longer-than-its-column"]), None);
        assert_eq!(lacking(described, &["uri", "timeout"]), Some("timeout"));
        assert_eq!(lacking(described, &["flags"]), Some("flags"));
        assert_eq!(lacking("No such element", &["uri"]), Some("uri"));
    }

    #[test]
    fn elements_are_found_in_the_list() {
        let listed =
            "x264:  x264enc: x264 H.264 Encoder\ntypefindfunctions: video/x-h264: h264\n\nTotal count: 2 plugins\n";
        assert_eq!(elements(listed), ["x264enc"]);
    }
}
