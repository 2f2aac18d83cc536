//! Text that stands for a field of a job, and flags that overrule what a file says.
//!
//! Invariant: what a text means depends on the field's type in the job's schema, nowhere on how it looks alone: a preset
//! named `5` stays text.

use std::sync::LazyLock;

use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::{self, Encoding, Fault, Received};
use serde_json::{Map, Value, json};

use super::args::Wanted;

static SCHEMA: LazyLock<Value> = LazyLock::new(parse::job_schema);

/// The job that a body says, or everything that is wrong with it.
pub(super) fn checked(body: &Value) -> Result<JobSpec, Vec<Fault>> {
    let text = body.to_string();
    parse::parse(&Received {
        body: text.as_bytes(),
        content_type: Some(Encoding::Json.content_type()),
        ..Received::default()
    })
}

impl Wanted {
    /// The job with every flag that was given in its place.
    pub(super) fn overlay(&self, job: Value) -> Value {
        // What is no object is left as it is: parsing says so better.
        let Value::Object(mut fields) = job else { return job };
        let plain: [(&str, Option<Value>); 13] = [
            ("scenario", self.scenario.as_ref().map(|v| json!(v))),
            ("engine", self.engine.as_ref().map(|v| json!(v))),
            ("queue", self.queue.as_ref().map(|v| json!(v))),
            ("priority", self.priority.as_ref().map(|v| json!(v))),
            ("pool", self.pool.as_ref().map(|v| json!(v))),
            ("input", self.input.as_ref().map(|v| json!(v))),
            ("output", self.to.as_ref().map(|v| json!(v))),
            ("max_retries", self.max_retries.map(|v| json!(v))),
            ("not_before", self.not_before.map(|v| json!(v))),
            ("deadline", self.deadline.map(|v| json!(v))),
            ("tenant", self.tenant.as_ref().map(|v| json!(v))),
            ("callback_url", self.callback_url.as_ref().map(|v| json!(v))),
            ("depends_on", (!self.depends_on.is_empty()).then(|| json!(self.depends_on))),
        ];
        for (name, value) in plain {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        }
        let parameter = |key: &str, value: &str| meant(&format!("parameters.{key}"), value);
        merge(&mut fields, "parameters", self.param.iter().map(|(key, value)| (key.clone(), parameter(key, value))));
        merge(&mut fields, "labels", self.label.iter().map(|(key, value)| (key.clone(), json!(value))));
        let limits = [
            ("max_cpu_percent", self.max_cpu_percent.map(u64::from)),
            ("max_memory_mb", self.max_memory_mb),
            ("max_disk_mb", self.max_disk_mb),
            ("timeout_sec", self.timeout_sec),
        ];
        let given = limits.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
        merge(&mut fields, "resource_limits", given);
        Value::Object(fields)
    }
}

fn merge(fields: &mut Map<String, Value>, name: &str, given: impl Iterator<Item = (String, Value)>) {
    for (key, value) in given {
        let inner = fields.entry(name).or_insert_with(|| json!({}));
        if inner.is_null() {
            *inner = json!({});
        }
        // A file that has something else than an object here is told so by parsing.
        if let Value::Object(inner) = inner {
            inner.insert(key, value);
        }
    }
}

/// What `text` means as the field at `path`, such as `parameters.crf` or `labels.show`.
pub(super) fn meant(path: &str, text: &str) -> Value {
    let types = types_at(path);
    let may_be = |name: &str| types.contains(&name);
    let read = serde_json::from_str::<Value>(text);
    match read {
        Ok(value @ (Value::Array(_) | Value::Object(_))) if types.is_empty() || may_be("array") || may_be("object") => {
            value
        }
        Ok(_) | Err(_) if may_be("array") => {
            json!(text.split([' ', ';', ',']).filter(|part| !part.is_empty()).collect::<Vec<_>>())
        }
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null))
            if types.is_empty() || may_be("number") || may_be("integer") || may_be("boolean") =>
        {
            value
        }
        Ok(_) | Err(_) => json!(text),
    }
}

/// The JSON types that the field may have; empty when the schema does not say.
fn types_at(path: &str) -> Vec<&'static str> {
    let mut schema: &'static Value = &SCHEMA;
    for name in path.split('.') {
        schema = resolved(schema);
        let inner = schema.get("properties").and_then(|properties| properties.get(name));
        match inner.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object())) {
            Some(inner) => schema = inner,
            None => return Vec::new(),
        }
    }
    let mut types = Vec::new();
    gather(schema, &mut types);
    types
}

fn gather(schema: &'static Value, types: &mut Vec<&'static str>) {
    let schema = resolved(schema);
    match schema.get("type") {
        Some(Value::String(name)) => types.push(name.as_str()),
        Some(Value::Array(names)) => types.extend(names.iter().filter_map(Value::as_str)),
        Some(_) | None => {}
    }
    for choice in ["anyOf", "oneOf"] {
        for inner in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
            gather(inner, types);
        }
    }
}

fn resolved(schema: &'static Value) -> &'static Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|target| SCHEMA.pointer(target)).unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_number_only_where_the_field_takes_one() {
        assert_eq!(meant("parameters.crf", "20"), json!(20));
        assert_eq!(meant("parameters.duration", "2.5"), json!(2.5));
        assert_eq!(meant("parameters.bitrate", "6000000"), json!(6_000_000));
        assert_eq!(meant("parameters.bitrate", "6M"), json!("6M"));
        assert_eq!(meant("parameters.fps", "30000/1001"), json!("30000/1001"));
        assert_eq!(meant("parameters.preset", "5"), json!("5"), "a preset is text");
        assert_eq!(meant("labels.year", "2026"), json!("2026"), "a label is text");
        assert_eq!(meant("tenant", "true"), json!("true"));
        assert_eq!(meant("resource_limits.max_memory_mb", "512"), json!(512));
        assert_eq!(meant("max_retries", "0"), json!(0));
        assert_eq!(meant("no_such.field", "0"), json!(0), "parsing names the field");
    }

    #[test]
    fn a_list_is_written_with_spaces_or_as_json() {
        assert_eq!(meant("depends_on", "a b"), json!(["a", "b"]));
        assert_eq!(meant("depends_on", r#"["a"]"#), json!(["a"]));
        let outputs = r#"[{"url": "/m/a.mp4", "scenario": "480p30-h264"}]"#;
        assert_eq!(meant("outputs", outputs), serde_json::from_str::<Value>(outputs).unwrap());
    }
}
