//! One job's fields over another's.
//!
//! Invariant: what is on top wins in every spelling: who gives `encoder` takes the place of `codec`, and who gives `crf`
//! takes the place of `bitrate`, which excludes it. `null` is absent.

use serde_json::{Map, Value, json};

use super::Declared;

/// Parameters that mean one thing, or exclude each other.
const GROUPS: [&[&str]; 5] = [
    &["codec", "encoder"],
    &["duration", "duration_seconds", "end"],
    &["fps", "frame_rate"],
    &["resolution", "resolution_width", "resolution_height"],
    &["crf", "bitrate"],
];
/// The limits that may also stand in `parameters`.
const LIMITS: [&str; 5] = ["max_cpu_percent", "max_memory_mb", "max_disk_mb", "timeout_sec", "stall_sec"];

/// Every field of `over`, and those of `under` that it does not have.
pub(super) fn plain(under: &Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = under.clone();
    merged.extend(over.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())));
    merged
}

/// `over` on top of `under`.
pub(super) fn parameters(under: &Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    let gives = |name: &str| over.get(name).is_some_and(|value| !value.is_null());
    let replaced = |name: &String| {
        gives(name)
            || GROUPS.iter().any(|group| group.contains(&name.as_str()) && group.iter().any(|other| gives(other)))
    };
    let kept: Map<String, Value> =
        under.iter().filter(|(name, _)| !replaced(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    plain(&kept, over)
}

/// A job's fields on top of a template's.
pub(super) fn job(under: &Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = plain(under, over);
    for (name, merge) in [
        ("parameters", parameters as fn(&Map<String, Value>, &Map<String, Value>) -> Map<String, Value>),
        ("resource_limits", plain),
        ("labels", plain),
    ] {
        if let (Some(Value::Object(below)), Some(Value::Object(above))) = (under.get(name), over.get(name)) {
            merged.insert(name.to_owned(), Value::Object(merge(below, above)));
        }
    }
    merged
}

/// A job of a declared scenario as one of the built-in scenario at its root. What is no object is left for parsing to tell.
pub(super) fn scenario(declared: &Declared, asked: &Map<String, Value>) -> Map<String, Value> {
    let mut job = asked.clone();
    job.insert("scenario".to_owned(), json!(declared.base));
    let own = job.get("parameters").filter(|value| !value.is_null()).cloned().unwrap_or_else(|| json!({}));
    let limits = job.get("resource_limits").filter(|value| !value.is_null()).cloned().unwrap_or_else(|| json!({}));
    let (Value::Object(own), Value::Object(limits)) = (own, limits) else { return job };
    let nested = own.get("resource_limits");
    let is_given = |name: &str| {
        let given = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
        given(own.get(name)) || given(limits.get(name)) || given(nested.and_then(|nested| nested.get(name)))
    };
    let mut merged_limits = limits.clone();
    for name in LIMITS.iter().filter(|name| !is_given(name)) {
        if let Some(value) = declared.resource_limits.get(*name) {
            merged_limits.insert((*name).to_owned(), value.clone());
        }
    }
    job.insert("parameters".to_owned(), Value::Object(parameters(&declared.parameters, &own)));
    job.insert("resource_limits".to_owned(), Value::Object(merged_limits));
    job
}

/// The same of one of a job's outputs, which has no limits of its own.
pub(super) fn output(declared: &Declared, asked: &Map<String, Value>) -> Map<String, Value> {
    let mut output = asked.clone();
    output.insert("scenario".to_owned(), json!(declared.base));
    let own = output.get("parameters").filter(|value| !value.is_null()).cloned().unwrap_or_else(|| json!({}));
    let Value::Object(own) = own else { return output };
    let is_limit = |name: &str| name == "resource_limits" || LIMITS.contains(&name);
    let given = declared.parameters.iter().filter(|(name, _)| !is_limit(name));
    let given = given.map(|(name, value)| (name.clone(), value.clone())).collect();
    output.insert("parameters".to_owned(), Value::Object(parameters(&given, &own)));
    output
}
