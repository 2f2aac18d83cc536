//! The other outputs of a job: each is checked as a job of its own, and none may take another's place.
//!
//! Invariant: pure; a fault of an output names the field of that output, such as `outputs[1].url`.

use std::collections::HashMap;

use super::{Checks, Scenario};
use crate::encode::Ladder;
use crate::job::{ExtraOutput, JobSpec, Parameters};
use crate::location::{Location, Use};
use crate::parse::Fault;
use crate::plan::ladder;

/// How the name of a manifest ends, which stands beside each output.
const MANIFEST: &str = ".ffpool.json";

/// The name of a field of `outputs[index]`, from its name in a job that has this output alone. What the output has from its
/// job keeps the job's name.
#[must_use]
pub fn field_of(index: usize, output: &ExtraOutput, field: &str) -> String {
    let Parameters { start, end, duration, .. } = output.parameters;
    let is_of_job = [start, end, duration] == [None; 3]
        && matches!(field, "parameters.start" | "parameters.end" | "parameters.duration");
    match field {
        "output" => format!("outputs[{index}].url"),
        "scenario" => format!("outputs[{index}].scenario"),
        _ if is_of_job => field.to_owned(),
        _ if field.starts_with("parameters") => format!("outputs[{index}].{field}"),
        _ => field.to_owned(),
    }
}

/// A fault of an output as one of its job.
#[must_use]
pub fn fault_of(index: usize, output: &ExtraOutput, fault: Fault) -> Fault {
    Fault { path: field_of(index, output, &fault.path), ..fault }
}

/// Adds what is wrong with the other outputs.
pub(super) fn check(spec: &JobSpec, faults: &mut Vec<Fault>) {
    if spec.outputs.len() > JobSpec::MAX_OUTPUTS {
        let message = format!("{} more outputs: {} at most", spec.outputs.len(), JobSpec::MAX_OUTPUTS);
        faults.push(Fault::new("outputs", "too_many", message));
        return;
    }
    let has_ladder =
        spec.parameters.ladder.is_some() || Scenario::find(&spec.scenario).is_some_and(|found| found.is_ladder);
    if spec.input.is_none() && (has_ladder || !spec.outputs.is_empty()) && has_quality(&spec.parameters) {
        faults.push(unmeasured());
    }
    for (index, output) in spec.outputs.iter().enumerate() {
        let mut own = Vec::new();
        // Without an address or a scenario it has its fault already, and nothing more can be said.
        if output.url.is_empty() || output.scenario.is_empty() {
            continue;
        }
        if spec.input.is_none() && output.parameters.duration.is_some() {
            let message = "a generated source has one length: give `duration` in the job's own parameters";
            own.push(Fault::new("parameters.duration", "contradiction", message));
        }
        if output.parameters.ladder.is_some() || Scenario::find(&output.scenario).is_some_and(|found| found.is_ladder) {
            let field = if output.parameters.ladder.is_some() { "parameters.ladder" } else { "scenario" };
            own.push(Fault::new(
                field,
                "unsupported",
                "one ladder is made for a job: ask for it by the job's own scenario",
            ));
            faults.extend(own.into_iter().map(|fault| fault_of(index, output, fault)));
            continue;
        }
        if spec.input.is_none() && has_quality(&output.parameters) {
            own.push(unmeasured());
        }
        let job = spec.of_output(output);
        let mut checks = Checks { faults: &mut own };
        checks.output_mode(&job);
        checks.encode(&job);
        for fault in own {
            let fault = fault_of(index, output, fault);
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }
    collisions(spec, faults);
}

/// A generated picture is as large as the largest output needs it: the smaller ones have no source of their own.
fn unmeasured() -> Fault {
    let message = "the quality of one of several outputs of a generated source is not measured: give an `input`";
    Fault::new("parameters.quality", "unsupported", message)
}

/// Whether anything about quality is asked for.
fn has_quality(p: &Parameters) -> bool {
    let targets = [p.target_vmaf, p.target_psnr, p.target_ssim];
    p.quality.is_some() || p.quality_target.is_some() || targets.iter().any(Option::is_some)
}

/// Outputs that would replace one another, or one another's manifest.
fn collisions(spec: &JobSpec, faults: &mut Vec<Fault>) {
    let others = spec.outputs.iter().enumerate().map(|(index, output)| (format!("outputs[{index}].url"), &output.url));
    let own = spec.output.iter().map(|output| ("output".to_owned(), output));
    let places = own.chain(others).filter_map(|(field, address)| Some((field, place(address)?)));
    let ladder = spec.parameters.ladder.clone();
    let is_ladder = Scenario::find(&spec.scenario).is_some_and(|found| found.is_ladder);
    let rungs = ladder.or(is_ladder.then_some(Ladder::Auto)).map(|ladder| ladder::rungs(&ladder)).unwrap_or_default();
    let places: Vec<(String, String)> = places
        .flat_map(|(field, place)| match field.as_str() {
            "output" if !rungs.is_empty() && ladder::is_pattern(&place) => {
                rungs.iter().map(|rung| (field.clone(), ladder::address(&place, *rung))).collect()
            }
            _ => vec![(field, place)],
        })
        .collect();
    let mut taken: HashMap<&str, &str> = HashMap::new();
    for (field, place) in &places {
        if let Some(first) = taken.insert(place, field) {
            let message = format!("it is the address of `{first}` too: every output needs one of its own");
            faults.push(Fault::new(field, "same_as_output", message));
        }
    }
    for (field, place) in &places {
        if let Some(first) = place.strip_suffix(MANIFEST).and_then(|output| taken.get(output)) {
            let message = format!("the manifest of `{first}` goes there: give it another name");
            faults.push(Fault::new(field, "same_as_output", message));
        }
    }
}

/// An address without what is said in more than one way.
fn place(address: &str) -> Option<String> {
    Some(match Location::parse(address, Use::Output).ok()? {
        Location::File(path) => path
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .fold(String::new(), |path, part| path + "/" + part),
        other => other.to_string(),
    })
}
