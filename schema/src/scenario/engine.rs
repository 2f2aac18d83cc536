//! Which engine runs a job on a worker, and why.
//!
//! Invariant: an engine that is named is never replaced by another; `auto` takes FFmpeg wherever it can do the job.

use super::{encode_of, lacks_encoder, lacks_store, live, outputs};
use crate::encode::{Encode, Metric, Treatment};
use crate::gstreamer::{self, Speech};
use crate::job::{Checkpoint, Engine, JobSpec};
use crate::message::{Ability, EngineChoice};
use crate::parse::Fault;

/// Adds what GStreamer's engine does not do of a job that names it and is right otherwise.
pub(super) fn check(spec: &JobSpec, faults: &mut Vec<Fault>) {
    if spec.engine != Engine::Gstreamer || !faults.is_empty() {
        return;
    }
    if live::is_live(spec) {
        let refused = live::encode_of(spec).iter().flat_map(gstreamer::refusals).collect::<Vec<_>>();
        return faults.extend(refused.into_iter().map(|fault| at_only_output(spec, fault)));
    }
    if !spec.outputs.is_empty() {
        faults.push(gstreamer::unsupported("outputs", "more than one output"));
    }
    faults.extend(encode_of(spec).iter().flat_map(gstreamer::refusals));
}

/// A fault of the only output of a job, at the field that names it.
fn at_only_output(spec: &JobSpec, fault: Fault) -> Fault {
    if fault.path != "output" || spec.output.is_some() {
        return fault;
    }
    Fault { path: "outputs[0].url".to_owned(), ..fault }
}

/// Why the engine that a job names runs it, or FFmpeg where the job leaves the choice.
#[must_use]
pub fn why(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "`auto` takes ffmpeg wherever it has what the job needs: it does all that a job can ask for",
        Engine::Ffmpeg | Engine::Gstreamer | Engine::Noop => "the job names it",
    }
}

/// The engine that runs a job on a worker.
///
/// # Errors
/// What the worker lacks.
pub fn choose_engine(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Result<EngineChoice, Vec<Fault>> {
    let choice = |engine, reason: String| Ok(EngineChoice { engine, reason });
    let by_ffmpeg = || by_ffmpeg(spec, encode, ability);
    match spec.engine {
        Engine::Gstreamer => {
            let lacking = by_gstreamer(spec, encode, ability);
            if lacking.is_empty() { choice(Engine::Gstreamer, why(spec.engine).to_owned()) } else { Err(lacking) }
        }
        Engine::Ffmpeg | Engine::Noop => {
            let lacking = by_ffmpeg();
            if lacking.is_empty() { choice(Engine::Ffmpeg, why(spec.engine).to_owned()) } else { Err(lacking) }
        }
        Engine::Auto => {
            let lacking = by_ffmpeg();
            if lacking.is_empty() {
                return choice(Engine::Ffmpeg, why(spec.engine).to_owned());
            }
            let is_whole = spec.piece.is_none() && spec.checkpoint != Checkpoint::Require;
            if is_whole && gstreamer::refusals(encode).is_empty() && by_gstreamer(spec, encode, ability).is_empty() {
                let codec = encode.video.codec.as_str();
                return choice(
                    Engine::Gstreamer,
                    format!("ffmpeg on this worker lacks what the job needs, and gstreamer there encodes {codec}"),
                );
            }
            Err(lacking)
        }
    }
}

/// What a worker lacks to run a job with FFmpeg.
fn by_ffmpeg(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Vec<Fault> {
    let mut faults = one_by_ffmpeg(spec, encode, ability);
    for (index, (output, other)) in spec.outputs.iter().zip(&encode.others).enumerate() {
        let lacks = one_by_ffmpeg(&spec.of_output(output), other, ability).into_iter();
        faults.extend(lacks.map(|fault| outputs::fault_of(index, output, fault)));
    }
    faults
}

/// The same of one output.
fn one_by_ffmpeg(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(lacks_store(spec, ability));
    let mut need = |path: &str, message: String| faults.push(Fault::new(path, "no_worker_fits", message));
    if encode.video.treatment == Treatment::Encode
        && let Some(message) = lacks_encoder(spec, encode, ability)
    {
        need("parameters.codec", message);
    }
    for feature in encode.needs().into_iter().filter(|feature| !ability.has(feature)) {
        let path = if feature == Encode::OUTPUTS_FEATURE { "outputs" } else { "parameters" };
        match Metric::ALL.iter().find(|metric| metric.filter() == feature) {
            Some(metric) => need("parameters.quality", unmeasured(*metric)),
            None => need(path, format!("no worker here can do what this needs: `{feature}`")),
        }
    }
    faults
}

fn unmeasured(metric: Metric) -> String {
    format!("no worker here can measure {metric}: FFmpeg there has no filter `{}`", metric.filter())
}

/// What a worker lacks to run a job with GStreamer.
fn by_gstreamer(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(lacks_store(spec, ability));
    let mut need = |path: &str, message: String| faults.push(Fault::new(path, "no_worker_fits", message));
    let Some(there) = &ability.gstreamer else {
        let message = "no worker here has a GStreamer that works: install gstreamer1.0-tools and its plugins there, or \
                       use `engine: ffmpeg`";
        need("engine", message.to_owned());
        return faults;
    };
    for (element, feature) in gstreamer::encoders(encode) {
        if !ability.has(feature) {
            let why = if there.lacks(element) {
                gstreamer::missing(element)
            } else {
                format!("the element `{element}` of {} does not work there", gstreamer::package(element))
            };
            need("engine", format!("no worker here has what this needs of GStreamer: {why}, or use `engine: ffmpeg`"));
        }
    }
    for Speech { feature, elements, .. } in gstreamer::speeches(encode) {
        if !ability.has(feature) {
            let lacking = elements.into_iter().find(|element| there.lacks(element));
            let why = lacking.map_or_else(
                || format!("`{feature}`: its elements are there, and they or the worker are of an older version"),
                gstreamer::missing,
            );
            need("engine", format!("no worker here has what this needs of GStreamer: {why}, or use `engine: ffmpeg`"));
        }
    }
    if let Some(muxer) = gstreamer::file_muxer(encode).filter(|muxer| there.lacks(muxer)) {
        let why = gstreamer::missing(muxer);
        need("engine", format!("no worker here has what this needs of GStreamer: {why}, or use `engine: ffmpeg`"));
    }
    let metrics = encode.quality.iter().flat_map(|quality| &quality.metrics).copied();
    for metric in metrics.filter(|metric| !ability.has(metric.filter())) {
        need("parameters.quality", unmeasured(metric));
    }
    faults
}
