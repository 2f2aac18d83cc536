//! The operator's own scenarios and job templates, with inheritance.
//!
//! Invariant: a scenario of the catalog is never something that runs by itself: it becomes a built-in scenario with
//! parameters before the job is checked, and that is what is recorded, granted and proven. So only who reads jobs for the
//! ledger needs the catalog, and a change of it changes no job that is recorded. A name that is built in cannot be declared.

mod merge;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::{ScenarioSource, ScenarioView, TemplateView};
use crate::parse::{self, Fault, Received};
use crate::scenario::Scenario;
use template::Placeholders;

/// Parents above each other at most.
const MAX_DEPTH: usize = 16;
/// Bytes of a name at most.
const MAX_NAME: usize = 64;

/// A scenario file as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile {
    /// Scenarios by name.
    #[serde(default)]
    pub scenarios: BTreeMap<String, ScenarioDeclaration>,
    /// Templates by name.
    #[serde(default)]
    pub templates: BTreeMap<String, TemplateDeclaration>,
}

/// A scenario as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioDeclaration {
    /// The scenario that it is like: built in, or of the same file.
    pub extends: String,
    /// What it is, in words.
    #[serde(default)]
    pub description: String,
    /// What differs from its parent: a job's `parameters`.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// A job's `resource_limits`.
    #[serde(default)]
    pub resource_limits: Map<String, Value>,
}

/// A template as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateDeclaration {
    /// The template that it is like.
    #[serde(default)]
    pub extends: Option<String>,
    /// What it is for, in words.
    #[serde(default)]
    pub description: String,
    /// Variables that must be given.
    #[serde(default)]
    pub required: Vec<String>,
    /// Variables that may be given, and their values when they are not.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
    /// The job, with `{variable}` in its texts.
    #[serde(default)]
    pub job: Map<String, Value>,
}

/// A declared scenario, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// What it is, in words.
    pub description: String,
    /// The scenario that it names as its parent.
    pub extends: String,
    /// The built-in scenario at the root.
    pub base: String,
    /// Every parameter that differs from it.
    pub parameters: Map<String, Value>,
    /// Every resource limit.
    pub resource_limits: Map<String, Value>,
}

/// A template, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// What it is for, in words.
    pub description: String,
    /// The template that it names as its parent.
    pub extends: Option<String>,
    /// Variables that must be given.
    pub required: BTreeSet<String>,
    /// The other variables.
    pub defaults: BTreeMap<String, String>,
    /// The job, with `{variable}` in its texts.
    pub job: Map<String, Value>,
}

/// Checked scenarios and templates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// Scenarios by name.
    pub scenarios: BTreeMap<String, Declared>,
    /// Templates by name.
    pub templates: BTreeMap<String, Template>,
}

impl Catalog {
    /// Resolves and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its path, such as `scenarios.house.parameters.crf`.
    pub fn new(file: &CatalogFile) -> Result<Catalog, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut catalog = Catalog::default();
        for name in file.scenarios.keys() {
            match declared(file, name) {
                Ok(scenario) => {
                    check_scenario(name, &scenario, &mut faults);
                    catalog.scenarios.insert(name.clone(), scenario);
                }
                Err(fault) => faults.push(fault),
            }
        }
        for name in file.templates.keys() {
            match template(file, name) {
                Ok(template) => {
                    check_template(name, &template, &mut faults);
                    catalog.templates.insert(name.clone(), template);
                }
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(catalog) } else { Err(faults) }
    }

    /// The catalog that `GET /v1/scenarios` and `GET /v1/templates` tell of.
    ///
    /// # Errors
    /// What this version does not understand of it.
    pub fn of_views(scenarios: Vec<ScenarioView>, templates: Vec<TemplateView>) -> Result<Catalog, Vec<Fault>> {
        let declared = scenarios.into_iter().filter_map(|view| {
            let ScenarioView { name, description, base, parameters, resource_limits, .. } = view;
            Some((name, ScenarioDeclaration { extends: base?, description, parameters, resource_limits }))
        });
        let templates = templates.into_iter().map(|view| {
            let TemplateView { name, description, required, defaults, job, .. } = view;
            (name, TemplateDeclaration { extends: None, description, required, defaults, job })
        });
        Catalog::new(&CatalogFile { scenarios: declared.collect(), templates: templates.collect() })
    }

    /// Its scenarios and templates as the API shows them.
    #[must_use]
    pub fn views(&self) -> (Vec<ScenarioView>, Vec<TemplateView>) {
        let scenarios = self.scenarios.iter().map(|(name, declared)| ScenarioView {
            source: ScenarioSource::File,
            extends: Some(declared.extends.clone()),
            base: Some(declared.base.clone()),
            parameters: declared.parameters.clone(),
            resource_limits: declared.resource_limits.clone(),
            ..ScenarioView::built_in(name, &declared.description)
        });
        let templates = self.templates.iter().map(|(name, template)| TemplateView {
            name: name.clone(),
            description: template.description.clone(),
            extends: template.extends.clone(),
            required: template.required.iter().cloned().collect(),
            defaults: template.defaults.clone(),
            job: template.job.clone(),
        });
        (scenarios.collect(), templates.collect())
    }

    /// The job that `object` asks for with its `template` and `set`, where it has them: the template's fields, under the
    /// job's own.
    ///
    /// # Errors
    /// What is wrong with the template's name and the variables.
    pub(crate) fn filled_in(&self, mut object: Map<String, Value>) -> Result<Map<String, Value>, Vec<Fault>> {
        let given = object.remove("set").filter(|set| !set.is_null());
        let Some(name) = object.remove("template").filter(|name| !name.is_null()) else {
            return match given {
                None => Ok(object),
                Some(_) => Err(vec![Fault::new("set", "missing", "`set` gives values to a `template`: name one")]),
            };
        };
        let Some(template) = name.as_str().and_then(|name| self.templates.get(name)) else {
            let known: Vec<&str> = self.templates.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            let shown = crate::id::excerpt(name.as_str().unwrap_or_default());
            return Err(vec![Fault::new("template", "unknown_template", format!("`{shown}` is no template: {known}"))]);
        };
        let filled = template.filled_in(&given.unwrap_or_else(|| json!({})))?;
        // Else whoever names a tenant would get what is in another's template.
        let own = filled.get("tenant").filter(|tenant| !tenant.is_null());
        if own.is_some() && object.get("tenant").is_some_and(|named| Some(named) != own) {
            let message = "the template makes jobs of another tenant: leave `tenant` out, or take another template";
            return Err(vec![Fault::new("tenant", "bad_value", message)]);
        }
        Ok(merge::job(&filled, &object))
    }

    /// The job with built-in scenarios in the place of declared ones, its own and those of its outputs.
    pub(crate) fn resolved(&self, object: &Map<String, Value>) -> Option<Map<String, Value>> {
        let own = self.named_by(object).map(|scenario| merge::scenario(scenario, object));
        let outputs = object.get("outputs").and_then(Value::as_array).filter(|outputs| {
            outputs.iter().any(|output| output.as_object().is_some_and(|output| self.named_by(output).is_some()))
        });
        if own.is_none() && outputs.is_none() {
            return None;
        }
        let mut job = own.unwrap_or_else(|| object.clone());
        if let Some(outputs) = outputs {
            let resolved = outputs.iter().map(|output| {
                let declared = output.as_object().and_then(|output| Some((self.named_by(output)?, output)));
                declared.map_or_else(|| output.clone(), |(scenario, output)| merge::output(scenario, output).into())
            });
            job.insert("outputs".to_owned(), resolved.collect());
        }
        Some(job)
    }

    /// The declared scenario that a job, or one of its outputs, names.
    fn named_by(&self, object: &Map<String, Value>) -> Option<&Declared> {
        self.scenarios.get(object.get("scenario")?.as_str()?)
    }
}

/// A job's fields with these values in the place of `{name}` in their texts, as a template's.
///
/// # Errors
/// Placeholders that cannot be read, or that stand for nothing.
pub fn filled(job: &Map<String, Value>, values: &BTreeMap<String, String>) -> Result<Map<String, Value>, Vec<Fault>> {
    let mut found = Placeholders::default();
    for (name, value) in job {
        found.look(name, value);
    }
    for (place, variable) in &found.used {
        if !values.contains_key(variable) {
            let known: Vec<&str> = values.keys().map(String::as_str).collect();
            let message = format!("`{{{variable}}}` stands for nothing: there are {}", known.join(", "));
            found.faults.push(Fault::new(place, "unknown_variable", message));
        }
    }
    if found.faults.is_empty() { Ok(template::filled_fields(job, values)) } else { Err(found.faults) }
}

/// Whether a scenario, a template or a schedule may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn bad_name(path: String, name: &str) -> Option<Fault> {
    let expected = format!("1 to {MAX_NAME} letters, digits, `-` or `_` are expected, the first no sign");
    (!is_name(name))
        .then(|| Fault::new(path, "bad_value", format!("`{}` is no name: {expected}", crate::id::excerpt(name))))
}

/// The names from `name` up to its root, each given by `parent`.
fn ancestry<'f>(path: &str, name: &'f str, parent: impl Fn(&'f str) -> Option<&'f str>) -> Result<Vec<&'f str>, Fault> {
    let mut line = vec![name];
    while let Some(next) = parent(line[line.len() - 1]) {
        if let Some(from) = line.iter().position(|earlier| *earlier == next) {
            let circle = [&line[from..], &[next]].concat().join(" -> ");
            return Err(Fault::new(format!("{path}.extends"), "cycle", format!("it extends itself: {circle}")));
        }
        line.push(next);
        if line.len() > MAX_DEPTH {
            return Err(Fault::new(format!("{path}.extends"), "too_many", format!("more than {MAX_DEPTH} parents")));
        }
    }
    Ok(line)
}

fn declared(file: &CatalogFile, name: &str) -> Result<Declared, Fault> {
    let path = format!("scenarios.{name}");
    if let Some(fault) = bad_name(path.clone(), name) {
        return Err(fault);
    }
    if Scenario::find(name).is_some() {
        let message = format!("`{name}` is built in and cannot be declared: give it another name");
        return Err(Fault::new(path, "built_in", message));
    }
    let parent = |name: &str| file.scenarios.get(name).map(|scenario| scenario.extends.as_str());
    // The root is the first that is not of this file.
    let line = ancestry(&path, name, parent)?;
    let base = line[line.len() - 1];
    if Scenario::find(base).is_none() {
        let message = format!("`{}` is no scenario, neither built in nor in this file", crate::id::excerpt(base));
        return Err(Fault::new(format!("{path}.extends"), "unknown_scenario", message));
    }
    let (mut parameters, mut limits) = (Map::new(), Map::new());
    for ancestor in line[..line.len() - 1].iter().rev() {
        let declaration = &file.scenarios[*ancestor];
        parameters = merge::parameters(&parameters, &declaration.parameters);
        limits = merge::plain(&limits, &declaration.resource_limits);
    }
    let own = &file.scenarios[name];
    Ok(Declared {
        description: own.description.clone(),
        extends: own.extends.clone(),
        base: base.to_owned(),
        parameters,
        resource_limits: limits,
    })
}

/// A job of the scenario must be valid: what is wrong with it alone is found here, not at every job.
fn check_scenario(name: &str, scenario: &Declared, faults: &mut Vec<Fault>) {
    let is_address = |name: &String| ["input", "output"].contains(&name.as_str());
    let parameters: Map<String, Value> =
        scenario.parameters.clone().into_iter().filter(|(name, _)| !is_address(name)).collect();
    let probe = json!({"scenario": scenario.base, "input": "/input", "parameters": parameters,
        "resource_limits": scenario.resource_limits});
    for fault in parse::parse(&Received { body: probe.to_string().as_bytes(), ..Received::default() })
        .err()
        .into_iter()
        .flatten()
    {
        faults.push(Fault { path: format!("scenarios.{name}.{}", fault.path), ..fault });
    }
    for address in scenario.parameters.keys().filter(|name| is_address(name)) {
        let path = format!("scenarios.{name}.parameters.{address}");
        faults.push(Fault::new(path, "unknown_field", "an address belongs to a job or a template"));
    }
}

fn template(file: &CatalogFile, name: &str) -> Result<Template, Fault> {
    let path = format!("templates.{name}");
    if let Some(fault) = bad_name(path.clone(), name) {
        return Err(fault);
    }
    let parent = |name: &str| file.templates.get(name).and_then(|template| template.extends.as_deref());
    let line = ancestry(&path, name, parent)?;
    if let Some(unknown) = line.iter().find(|ancestor| !file.templates.contains_key(**ancestor)) {
        let message = format!("`{}` is no template of this file", crate::id::excerpt(unknown));
        return Err(Fault::new(format!("{path}.extends"), "unknown_template", message));
    }
    let own = &file.templates[name];
    let mut template = Template {
        description: own.description.clone(),
        extends: own.extends.clone(),
        required: BTreeSet::new(),
        defaults: BTreeMap::new(),
        job: Map::new(),
    };
    for ancestor in line.iter().rev() {
        let declaration = &file.templates[*ancestor];
        for variable in &declaration.required {
            template.defaults.remove(variable);
            template.required.insert(variable.clone());
        }
        for (variable, value) in &declaration.defaults {
            template.required.remove(variable);
            template.defaults.insert(variable.clone(), value.clone());
        }
        template.job = merge::job(&template.job, &declaration.job);
    }
    Ok(template)
}

fn check_template(name: &str, template: &Template, faults: &mut Vec<Fault>) {
    let path = |rest: &str| format!("templates.{name}.{rest}");
    for variable in template.required.iter().chain(template.defaults.keys()) {
        if !template::is_variable(variable) {
            let expected = "lower-case letters, digits and `_` are expected, the first a letter";
            faults.push(Fault::new(path(variable), "bad_value", format!("`{variable}` is no variable: {expected}")));
        } else if parse::is_field(variable) {
            let message = format!("`{variable}` is a field of every job and needs no variable: `set` can give it");
            faults.push(Fault::new(path(variable), "contradiction", message));
        }
    }
    let mut found = Placeholders::default();
    found.look("job", &Value::Object(template.job.clone()));
    faults.extend(found.faults.into_iter().map(|fault| Fault { path: path(&fault.path), ..fault }));
    for (place, variable) in found.used {
        if !template.required.contains(&variable) && !template.defaults.contains_key(&variable) {
            let message =
                format!("`{{{variable}}}` is neither in `required` nor in `defaults`; braces that stay are doubled");
            faults.push(Fault::new(path(&place), "unknown_variable", message));
        }
    }
    for field in template::fields(&template.job) {
        if !parse::is_field(&field) {
            faults.push(Fault::new(path(&format!("job.{field}")), "unknown_field", format!("unknown field `{field}`")));
        }
    }
    if template.job.contains_key("id") {
        faults.push(Fault::new(path("job.id"), "contradiction", "an id is of one job: a template makes many"));
    }
}

#[cfg(test)]
mod tests;
