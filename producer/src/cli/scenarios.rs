//! `scenarios` and `templates`: what a job may name, and where it comes from.

use std::path::Path;

use ffpool_schema::api::{ScenarioView, TemplateView};
use serde_json::{Map, Value, json};

use super::Context;
use super::exit::{Exit, Trouble};
use super::output::table;

pub(crate) async fn list(context: &Context) -> Result<Exit, Trouble> {
    let scenarios = context.client()?.scenarios().await?;
    context.format.print(&scenarios, |scenarios| scenario_table(scenarios));
    Ok(Exit::Success)
}

pub(crate) async fn templates(context: &Context) -> Result<Exit, Trouble> {
    let templates = context.client()?.templates().await?;
    context.format.print(&templates, |templates| template_table(templates));
    Ok(Exit::Success)
}

/// Says whether a scenario file is valid, and what it holds.
pub(crate) fn check(context: &Context, file: &Path) -> Result<Exit, Trouble> {
    let catalog = ffpool_runtime::scenarios::load(file)
        .map_err(|error| Trouble::usage(error.to_string()).next("Correct what is named, then check the file again."))?;
    let (scenarios, templates) = catalog.views();
    let both = json!({"scenarios": scenarios, "templates": templates});
    context.format.print(&both, |_| format!("{}\n\n{}", scenario_table(&scenarios), template_table(&templates)));
    Ok(Exit::Success)
}

fn scenario_table(scenarios: &[ScenarioView]) -> String {
    let rows = scenarios.iter().map(|scenario| {
        let from = match &scenario.extends {
            Some(parent) => format!("{}, like {parent}", scenario.source.as_str()),
            None => scenario.source.as_str().to_owned(),
        };
        [scenario.name.clone(), from, in_words(&scenario.description, &scenario.parameters)]
    });
    table(["scenario", "from", "what it is"], rows)
}

fn in_words(description: &str, parameters: &Map<String, Value>) -> String {
    let given: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    let parts = [description.to_owned(), given.join(" ")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn template_table(templates: &[TemplateView]) -> String {
    let rows = templates.iter().map(|template| {
        let optional = template.defaults.iter().map(|(name, value)| format!("{name}={value}"));
        let variables: Vec<String> = template.required.iter().cloned().chain(optional).collect();
        let scenario = template.job.get("scenario").map(plain).unwrap_or_default();
        [template.name.clone(), variables.join(" "), scenario, template.description.clone()]
    });
    table(["template", "variables", "scenario", "what it is for"], rows)
}
