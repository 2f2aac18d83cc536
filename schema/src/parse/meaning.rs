//! What a text means as a field of a job: for flags, cells of tables and values of templates, which have no types.
//!
//! Invariant: it depends on the field's type in the job's schema, nowhere on how the text looks alone: a preset named `5`
//! stays text.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::job_schema;

static SCHEMA: LazyLock<Value> = LazyLock::new(job_schema);

/// What `text` means as the field at `path`, such as `parameters.crf` or `labels.show`. A list is written with spaces,
/// `;` or `,` between its items, or as JSON.
#[must_use]
pub fn meaning(path: &str, text: &str) -> Value {
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

/// Whether a job has a field at `path`.
#[must_use]
pub fn is_field(path: &str) -> bool {
    !types_at(path).is_empty() || schema_at(path).is_some()
}

/// The JSON types that the field may have; empty when the schema does not say.
fn types_at(path: &str) -> Vec<&'static str> {
    let mut types = Vec::new();
    if let Some(schema) = schema_at(path) {
        gather(schema, &mut types);
    }
    types
}

fn schema_at(path: &str) -> Option<&'static Value> {
    let mut schema: &'static Value = &SCHEMA;
    for name in path.split('.') {
        schema = resolved(schema);
        let inner = schema.get("properties").and_then(|properties| properties.get(name));
        schema = inner.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()))?;
    }
    Some(schema)
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
        assert_eq!(meaning("parameters.crf", "20"), json!(20));
        assert_eq!(meaning("parameters.duration", "2.5"), json!(2.5));
        assert_eq!(meaning("parameters.bitrate", "6000000"), json!(6_000_000));
        assert_eq!(meaning("parameters.bitrate", "6M"), json!("6M"));
        assert_eq!(meaning("parameters.fps", "30000/1001"), json!("30000/1001"));
        assert_eq!(meaning("parameters.preset", "5"), json!("5"), "a preset is text");
        assert_eq!(meaning("labels.year", "2026"), json!("2026"), "a label is text");
        assert_eq!(meaning("tenant", "true"), json!("true"));
        assert_eq!(meaning("resource_limits.max_memory_mb", "512"), json!(512));
        assert_eq!(meaning("max_retries", "0"), json!(0));
        assert_eq!(meaning("no_such.field", "0"), json!(0), "parsing names the field");
    }

    #[test]
    fn a_list_is_written_with_spaces_or_as_json() {
        assert_eq!(meaning("depends_on", "a b"), json!(["a", "b"]));
        assert_eq!(meaning("depends_on", r#"["a"]"#), json!(["a"]));
        let outputs = r#"[{"url": "/m/a.mp4", "scenario": "480p30-h264"}]"#;
        assert_eq!(meaning("outputs", outputs), serde_json::from_str::<Value>(outputs).unwrap());
    }

    #[test]
    fn the_fields_of_a_job_are_known_by_their_paths() {
        for path in ["input", "parameters", "parameters.encoder", "labels.anything", "resource_limits.stall_sec"] {
            assert!(is_field(path), "{path}");
        }
        for path in ["title", "parameters.colour", "input.path", ""] {
            assert!(!is_field(path), "{path}");
        }
    }
}
