//! Variables in a template's texts.
//!
//! Invariant: a value is put in once and not looked at again, so no value can bring a variable or a field with it. A text
//! that is one variable alone takes the type of its field; every other stays text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Template, merge};
use crate::parse::{Fault, is_field, meaning};

/// Whether a variable may have this name.
pub(super) fn is_variable(name: &str) -> bool {
    (1..=super::MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A piece of a text.
#[derive(Debug, PartialEq)]
enum Piece<'t> {
    Text(Cow<'t, str>),
    Variable(&'t str),
}

/// A text in its pieces; `{{` and `}}` are braces that stay.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].into()));
        }
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(doubled) = after.strip_prefix(brace) {
            pieces.push(Piece::Text(brace.into()));
            rest = doubled;
        } else if brace == "}" {
            return Err("a `}` without its `{`; a brace that stays is doubled".to_owned());
        } else {
            let (name, behind) = after.split_once('}').ok_or("a `{` without its `}`; a brace that stays is doubled")?;
            if !is_variable(name) {
                return Err(format!("`{{{name}}}` names no variable; braces that stay are doubled"));
            }
            pieces.push(Piece::Variable(name));
            rest = behind;
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// Where variables are used in a value.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    /// Place and variable.
    pub(super) used: Vec<(String, String)>,
    pub(super) faults: Vec<Fault>,
}

impl Placeholders {
    pub(super) fn look(&mut self, place: &str, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => match pieces(text) {
                Ok(pieces) => {
                    for piece in pieces {
                        if let Piece::Variable(name) = piece {
                            self.used.push((place.to_owned(), name.to_owned()));
                        }
                    }
                }
                Err(message) => self.faults.push(Fault::new(place, "bad_value", message)),
            },
            Value::Array(items) => items.iter().for_each(|item| self.look(place, item)),
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| self.look(&format!("{place}.{name}"), value));
            }
        }
    }
}

/// The paths of a job's fields, without their insides where those are lists.
pub(super) fn fields(job: &Map<String, Value>) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, value) in job {
        match value {
            Value::Object(inner) if name != "labels" => {
                paths.extend(fields(inner).into_iter().map(|field| format!("{name}.{field}")));
            }
            _ => paths.push(name.clone()),
        }
    }
    paths
}

impl Template {
    /// The job with these values in it. What `set` gives besides variables are fields of the job, by their paths.
    ///
    /// # Errors
    /// Variables that are missing, and names that are neither a variable nor a field.
    pub(super) fn filled_in(&self, set: &Value) -> Result<Map<String, Value>, Vec<Fault>> {
        let Value::Object(set) = set else {
            return Err(vec![Fault::new("set", "wrong_type", "an object of variables and their values is expected")]);
        };
        let mut faults = Vec::new();
        let mut values = self.defaults.clone();
        let mut fields = Map::new();
        for (name, value) in set.iter().filter(|(_, value)| !value.is_null()) {
            let place = format!("set.{}", crate::id::excerpt(name));
            let is_variable = self.required.contains(name) || self.defaults.contains_key(name);
            match (text_of(value), is_variable) {
                (Some(text), true) => {
                    values.insert(name.clone(), text.into_owned());
                }
                (None, true) => {
                    faults.push(Fault::new(place, "wrong_type", "a text, a number or a boolean is expected"));
                }
                (text, false) if is_field(name) && name != "id" => {
                    let value = text.map_or_else(|| value.clone(), |text| meaning(name, &text));
                    put(&mut fields, name, value);
                }
                (_, false) => {
                    let known: Vec<&str> =
                        self.required.iter().chain(self.defaults.keys()).map(String::as_str).collect();
                    let message =
                        format!("it is neither a variable of the template ({}) nor a field of a job", known.join(", "));
                    faults.push(Fault::new(place, "unknown_variable", message));
                }
            }
        }
        for name in self.required.iter().filter(|name| !values.contains_key(*name)) {
            let message = format!("the template needs a value for `{name}`");
            faults.push(Fault::new(format!("set.{name}"), "missing", message));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(merge::job(&filled_fields(&self.job, &values), &fields))
    }
}

/// A job's fields with these values in them.
pub(super) fn filled_fields(job: &Map<String, Value>, values: &BTreeMap<String, String>) -> Map<String, Value> {
    job.iter().map(|(name, value)| (name.clone(), filled(name, value, values))).collect()
}

fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(truth) => Some(truth.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Puts a value at a path of a job.
fn put(job: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            job.insert(path.to_owned(), value);
        }
        Some((outer, inner)) => {
            let object = job.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(object) = object {
                put(object, inner, value);
            }
        }
    }
}

fn filled(path: &str, value: &Value, values: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) => filled_text(path, text, values),
        // Items of a list have no path of their own in a job's schema; they stay text.
        Value::Array(items) => Value::Array(items.iter().map(|item| filled("", item, values)).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| {
                    let inner = if path.is_empty() { String::new() } else { format!("{path}.{name}") };
                    (name.clone(), filled(&inner, value, values))
                })
                .collect(),
        ),
    }
}

fn filled_text(path: &str, text: &str, values: &BTreeMap<String, String>) -> Value {
    let pieces = pieces(text).expect("the template was checked");
    let value_of = |name: &str| values.get(name).map_or("", String::as_str);
    if let ([Piece::Variable(name)], false) = (pieces.as_slice(), path.is_empty()) {
        return meaning(path, value_of(name));
    }
    let mut whole = String::new();
    for piece in &pieces {
        match piece {
            Piece::Text(text) => whole.push_str(text),
            Piece::Variable(name) => whole.push_str(value_of(name)),
        }
    }
    Value::String(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_its_variables_and_doubled_braces_stay() {
        let text = |text: &'static str| Piece::Text(text.into());
        assert_eq!(pieces("/in/{title}.mov"), Ok(vec![text("/in/"), Piece::Variable("title"), text(".mov")]));
        assert_eq!(pieces("{{x}}"), Ok(vec![text("{"), text("x"), text("}")]));
        assert_eq!(pieces(""), Ok(vec![]));
        for wrong in ["{", "}", "{a", "a}", "{}", "{A}", "{a b}", "{a.b}"] {
            pieces(wrong).unwrap_err();
        }
    }
}
