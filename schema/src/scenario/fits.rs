//! Whether a worker can run a job, by what it says of itself.
//!
//! Invariant: pure; what a worker lacks is named at the field that needs it.

use super::choose_engine;
use crate::chunk::{self, Piece};
use crate::encode::{Encode, Encoder};
use crate::job::{Checkpoint, HardwarePolicy, JobSpec, ResourceLimits};
use crate::location::{Location, Use};
use crate::message::Ability;
use crate::parse::Fault;

/// Whether a worker could run a job with nothing else running.
///
/// # Errors
/// Everything that it lacks, as faults of the job.
pub fn fits(spec: &JobSpec, encode: Option<&Encode>, ability: &Ability) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let limits: &ResourceLimits = &spec.resource_limits;
    let mut need = |path: &str, message: String| faults.push(Fault::new(path, "no_worker_fits", message));
    if let Some(cpu) = limits.max_cpu_percent.filter(|cpu| *cpu > ability.cpu_percent) {
        need(
            "resource_limits.max_cpu_percent",
            format!("{cpu} % of a core is more than the {} % a worker has", ability.cpu_percent),
        );
    }
    // A job that does not say is run with what there is: only a wish can be too large.
    if let Some(memory) = limits.max_memory_mb.filter(|memory| *memory > ability.memory_mb) {
        need(
            "resource_limits.max_memory_mb",
            format!("{memory} MiB is more than the {} MiB a worker has", ability.memory_mb),
        );
    }
    if let Some(disk) = limits.max_disk_mb.filter(|disk| *disk > ability.disk_mb) {
        need(
            "resource_limits.max_disk_mb",
            format!("{disk} MiB is more than the {} MiB a worker has", ability.disk_mb),
        );
    }
    let input = spec.input.as_deref().and_then(|address| Location::parse(address, Use::Input).ok());
    if let Some(location) = input.filter(|location| !location.is_served_by(&ability.stores)) {
        need("input", format!("no worker here serves {location}"));
    }
    let stated = [("input_sha256", spec.input_sha256.is_some()), ("input_size_bytes", spec.input_size_bytes.is_some())];
    for (field, _) in stated.into_iter().filter(|(_, is_given)| *is_given && !ability.has(JobSpec::CHECKS_INPUT)) {
        need(field, "no worker here holds an input against it: they are of an older version".to_owned());
    }
    if spec.piece.is_some() || spec.checkpoint == Checkpoint::Require {
        if !ability.has(Piece::FEATURE) {
            need("checkpoint", "no worker here makes chunks".to_owned());
        }
        for feature in encode.into_iter().flat_map(chunk::needs).filter(|feature| !ability.has(feature)) {
            need("checkpoint", format!("no worker here makes chunks of such a job: they have no `{feature}`"));
        }
    }
    if spec.piece.as_ref().is_some_and(|piece| piece.is_sound) && !ability.has(Piece::SOUND_FEATURE) {
        need("checkpoint", "no worker here makes the sound apart from chunks".to_owned());
    }
    match encode {
        None if !ability.noop => {
            need("engine", "no worker here runs `noop` jobs: start one with them allowed".to_owned())
        }
        None => faults.extend(lacks_store(spec, ability)),
        Some(encode) => faults.extend(choose_engine(spec, encode, ability).err().into_iter().flatten()),
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether a worker does not reach where an output goes.
pub(super) fn lacks_store(spec: &JobSpec, ability: &Ability) -> Option<Fault> {
    let location = Location::parse(spec.output.as_deref()?, Use::Output).ok()?;
    let message = || format!("no worker here serves {location}");
    (!location.is_served_by(&ability.stores)).then(|| Fault::new("output", "no_worker_fits", message()))
}

pub(super) fn lacks_encoder(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Option<String> {
    let has = |encoder: &Encoder| ability.encoders.iter().any(|name| name == encoder.as_str());
    if encode.candidates().iter().any(has) {
        return None;
    }
    let codec = encode.video.codec;
    let has_device = || codec.hardware_encoders().iter().any(has);
    match encode.video.encoder {
        Some(_) if spec.parameters.hw == Some(HardwarePolicy::Prefer) && codec.encoders().iter().any(has) => None,
        Some(encoder) => Some(format!("no worker here has a working encoder {encoder}")),
        None if encode.video.hw == Some(HardwarePolicy::Require) && has_device() => {
            let cure = if encode.ladder.is_some() { "leave `crf` out" } else { "give `bitrate` instead of `crf`" };
            let codec = codec.as_str();
            Some(format!(
                "no device of a worker here bounds the constant quality of {codec}: {cure}, or allow software with `prefer`"
            ))
        }
        None if encode.video.hw == Some(HardwarePolicy::Require) => {
            Some(format!("no worker here has a device that encodes {}: allow software with `prefer`", codec.as_str()))
        }
        None => Some(format!("no worker here has a working encoder for {}", codec.as_str())),
    }
}
