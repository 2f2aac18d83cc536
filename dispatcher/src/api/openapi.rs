//! `/openapi.json`: the route table as an OpenAPI 3.1 document.

use ffpool_schema::access::{Right, Role};
use ffpool_schema::api::Problem;
use ffpool_schema::job::Queue;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::api::access::Reach;
use crate::api::problem::Kind;
use crate::api::routes::{self, Content, Route};
use crate::api::session;

/// The document. The same for every process of one version.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();

    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(&route, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ffpool",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A pool of media workers: hand in jobs, follow them, look after workers and dead letters.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": session::COOKIE,
                    "description": "Of POST /v1/session; what changes something needs the header X-FFPool-CSRF too.",
                },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "description": needed_key(route),
        "parameters": parameters(route),
        "responses": responses(route, generator),
        "security": match route.right {
            Right::Open => json!([]),
            Right::Read | Right::Submit | Right::Control | Right::Administer => json!([{"bearer": []}, {"header": []}, {"session": []}]),
        },
    });
    if let Some(body) = &route.takes {
        operation["requestBody"] = json!({"required": route.needs_body, "content": content(body, generator)});
    }
    operation
}

fn needed_key(route: &Route) -> String {
    let role = match route.right {
        Right::Open => return "Needs no key.".to_owned(),
        Right::Read | Right::Submit | Right::Control | Right::Administer => Role::least(route.right),
    };
    match route.reach {
        Reach::Realm => format!("Needs a key of the role {role} or higher; sees and changes what is its tenant's."),
        Reach::Pool => format!("Needs a key of the role {role} or higher that is bound to no tenant."),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path =
        route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).map(|name| {
            let (meaning, schema) = match name {
                "queue" => ("The queue.", json!({"type": "string", "enum": Queue::ALL.map(Queue::as_str)})),
                "name" if route.path.starts_with("/v1/tenants/") => ("The tenant's name.", json!({"type": "string"})),
                "name" => ("The schedule's name.", json!({"type": "string"})),
                "file" => ("The file's name.", json!({"type": "string"})),
                "key" => ("The key's name, or its prefix.", json!({"type": "string"})),
                _ if route.path.contains("/jobs/") => ("The job's id, or its number.", json!({"type": "string"})),
                _ => ("The worker's name.", json!({"type": "string"})),
            };
            json!({"name": name, "in": "path", "required": true, "description": meaning, "schema": schema})
        });
    let in_query = route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.meaning,
            "schema": parameter.shape.schema(),
        })
    });
    in_path.chain(in_query).collect()
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for (status, meaning, body) in &route.answers {
        responses
            .insert(status.as_str().to_owned(), json!({"description": meaning, "content": content(body, generator)}));
    }
    let of_right: &[Kind] = match route.right {
        Right::Open => &[Kind::TooManyRequests],
        Right::Read | Right::Submit | Right::Control | Right::Administer => {
            &[Kind::Unauthenticated, Kind::Forbidden, Kind::TooManyRequests, Kind::Internal, Kind::Unavailable]
        }
    };
    for kind in route.problems.iter().chain(of_right) {
        let (_, status, title) = kind.entry();
        let problem = generator.subschema_for::<Problem>();
        responses.insert(
            status.as_str().to_owned(),
            json!({"description": title, "content": {"application/problem+json": {"schema": problem}}}),
        );
    }
    Value::Object(responses)
}

fn content(body: &Content, generator: &mut SchemaGenerator) -> Value {
    let types = body.media_types.iter().map(|media_type| {
        let schema = (body.schema)(generator);
        ((*media_type).to_owned(), json!({ "schema": schema }))
    });
    Value::Object(types.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = document();
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        assert!(references.contains("#/components/schemas/JobSpec"), "{references:?}");
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("only references within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    fn collect(value: &Value, references: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    references.insert(reference.clone());
                }
                members.values().for_each(|member| collect(member, references));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
