//! Flags that overrule what a file says of a job, and the check of what comes out.
//!
//! Invariant: a job is checked as the dispatcher will read it, with the pool's own scenarios and templates, and sent with
//! the scenario that was asked for: the ledger resolves it, and what it resolves is what runs.

use ffpool_schema::catalog::Catalog;
use ffpool_schema::parse::{self, Encoding, Fault, Parsed, Received, meaning};
use ffpool_schema::scenario::Scenario;
use serde_json::{Map, Value, json};

use super::Context;
use super::args::Wanted;
use super::exit::Trouble;

/// The job that a body says, or everything that is wrong with it.
pub(super) fn checked(body: &Value, catalog: &Catalog) -> Result<Parsed, Vec<Fault>> {
    let text = body.to_string();
    parse::parse_asked(&Received {
        body: text.as_bytes(),
        content_type: Some(Encoding::Json.content_type()),
        catalog: Some(catalog),
        ..Received::default()
    })
}

/// What the bodies need of the pool's own scenarios and templates: from the scenario file, else asked of the API. An API
/// that is away is as one that has none: then the job is told to be wrong, and why nobody else was asked.
pub(super) async fn catalog_for(context: &Context, bodies: &[Value]) -> Result<Catalog, Trouble> {
    if let Some(path) = &context.connection.scenario_file {
        return ffpool_runtime::scenarios::load(path).map_err(|error| Trouble::usage(error.to_string()));
    }
    if !bodies.iter().any(needs_catalog) {
        return Ok(Catalog::default());
    }
    let client = context.client()?;
    let asked = async { Ok::<_, ffpool::ApiError>((client.scenarios().await?, client.templates().await?)) };
    match asked.await {
        Ok((scenarios, templates)) => Catalog::of_views(scenarios, templates).map_err(|faults| {
            Trouble::rejected("the pool's own list of scenarios", &faults)
                .next("Use the version of ffpool that the dispatcher has, or give --scenario-file.")
        }),
        Err(error) => {
            eprintln!("the pool's own scenarios and templates are not known here: {error}");
            Ok(Catalog::default())
        }
    }
}

fn needs_catalog(body: &Value) -> bool {
    let named = |field: &str| body.get(field).and_then(Value::as_str);
    named("template").is_some() || named("scenario").is_some_and(|name| Scenario::find(name).is_none())
}

impl Wanted {
    /// The job with every flag that was given in its place.
    pub(super) fn overlay(&self, job: Value) -> Value {
        // What is no object is left as it is: parsing says so better.
        let Value::Object(mut fields) = job else { return job };
        let plain: [(&str, Option<Value>); 15] = [
            ("scenario", self.scenario.as_ref().map(|v| json!(v))),
            ("engine", self.engine.as_ref().map(|v| json!(v))),
            ("queue", self.queue.as_ref().map(|v| json!(v))),
            ("priority", self.priority.as_ref().map(|v| json!(v))),
            ("pool", self.pool.as_ref().map(|v| json!(v))),
            ("input", self.input.as_ref().map(|v| json!(v))),
            ("input_sha256", self.input_sha256.as_ref().map(|v| json!(v))),
            ("input_size_bytes", self.input_size_bytes.map(|v| json!(v))),
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
        let parameter = |key: &str, value: &str| meaning(&format!("parameters.{key}"), value);
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
        if let Some(template) = &self.template {
            fields.insert("template".to_owned(), json!(template));
        }
        merge(&mut fields, "set", self.set.iter().map(|(key, value)| (key.clone(), json!(value))));
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
