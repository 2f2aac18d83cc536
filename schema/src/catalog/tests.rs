use super::*;
use crate::parse::{Parsed, parse, parse_asked};

fn catalog(file: Value) -> Result<Catalog, Vec<Fault>> {
    Catalog::new(&serde_json::from_value(file).unwrap())
}

fn codes(file: Value) -> Vec<(String, String)> {
    catalog(file).unwrap_err().into_iter().map(|fault| (fault.path, fault.code)).collect()
}

fn house() -> Catalog {
    catalog(json!({
        "scenarios": {
            "house": {"extends": "1080p30-h264", "description": "ours", "parameters": {"crf": 20, "preset": "slow"},
                      "resource_limits": {"max_memory_mb": 900}},
            "house-small": {"extends": "house", "parameters": {"resolution": "480p", "bitrate": "1M"}},
        },
        "templates": {
            "base": {"required": ["title"], "defaults": {"quality": "20"},
                     "job": {"scenario": "house", "labels": {"by": "template"}, "parameters": {"crf": "{quality}"}}},
            "news": {"extends": "base", "defaults": {"title": "untitled"},
                     "job": {"input": "/in/{title}.mov", "labels": {"show": "{title}", "braces": "{{x}}"}, "queue": "live"}},
        },
    }))
    .unwrap()
}

fn asked(catalog: &Catalog, body: &Value) -> Result<Parsed, Vec<Fault>> {
    let body = body.to_string();
    parse_asked(&Received { body: body.as_bytes(), catalog: Some(catalog), ..Received::default() })
}

#[test]
fn a_declared_scenario_becomes_the_built_in_one_at_its_root_with_every_parameter_on_the_way() {
    let house = house();
    let parsed = asked(&house, &json!({"scenario": "house-small", "parameters": {"encoder": "h265"}})).unwrap();
    let spec = serde_json::to_value(&parsed.spec).unwrap();
    assert_eq!(spec["scenario"], "1080p30-h264");
    // `bitrate` of the child has taken the place of its parent's `crf`.
    assert_eq!(
        spec["parameters"],
        json!({"codec": "h265", "bitrate": "1000000", "preset": "slow", "resolution": "854x480"})
    );
    assert_eq!(spec["resource_limits"]["max_memory_mb"], 900);
    assert_eq!(parsed.asked.scenario, "house-small");
    assert_eq!(serde_json::to_value(&parsed.asked).unwrap()["parameters"], json!({"codec": "h265"}));
}

#[test]
fn what_a_job_says_wins_wherever_it_says_it() {
    let house = house();
    let of = |body: Value| asked(&house, &body).unwrap().spec;
    let limits = of(json!({"scenario": "house", "parameters": {"max_memory_mb": 100, "crf": 30}}));
    assert_eq!((limits.resource_limits.max_memory_mb, limits.parameters.crf), (Some(100), Some(30)));
    let bitrate = of(json!({"scenario": "house", "parameters": {"bitrate": "2M", "crf": null}}));
    assert_eq!((bitrate.parameters.crf, bitrate.parameters.bitrate.is_some()), (None, true));
    let plain = of(json!({"scenario": "720p30-h264"}));
    assert_eq!(plain, parse(&Received { body: br#"{"scenario": "720p30-h264"}"#, ..Received::default() }).unwrap());
}

#[test]
fn a_template_is_filled_in_by_variables_and_fields() {
    let house = house();
    let body = json!({"template": "news", "set": {"title": "a {quality} b", "quality": 18, "parameters.tune": "film", "labels.x": 1},
        "priority": "high"});
    let spec = asked(&house, &body).unwrap().spec;
    assert_eq!(spec.input.as_deref(), Some("/in/a {quality} b.mov"), "a value is not looked at again");
    assert_eq!((spec.parameters.crf, spec.parameters.tune.as_deref()), (Some(18), Some("film")));
    assert_eq!((spec.queue.as_str(), spec.priority.as_str()), ("live", "high"));
    let labels: Vec<(&str, &str)> = spec.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("braces", "{x}"), ("by", "template"), ("show", "a {quality} b"), ("x", "1")]);
    // The parent needs a title, the child has one.
    assert_eq!(asked(&house, &json!({"template": "news"})).unwrap().spec.input.as_deref(), Some("/in/untitled.mov"));

    let code = |body: Value| {
        let faults = asked(&house, &body).unwrap_err();
        faults.into_iter().map(|fault| (fault.path, fault.code)).collect::<Vec<_>>()
    };
    let one = |path: &str, code: &str| vec![(path.to_owned(), code.to_owned())];
    assert_eq!(code(json!({"template": "base"})), one("set.title", "missing"));
    assert_eq!(code(json!({"template": "news", "set": {"colour": 1}})), one("set.colour", "unknown_variable"));
    assert_eq!(code(json!({"template": "news", "set": {"title": []}})), one("set.title", "wrong_type"));
    assert_eq!(code(json!({"template": "x"})), one("template", "unknown_template"));
    assert_eq!(code(json!({"set": {}, "scenario": "house"})), one("set", "missing"));
}

#[test]
fn nobody_gets_the_template_of_a_tenant_by_naming_another_one() {
    let acme = catalog(json!({
        "templates": {"intro": {"job": {"scenario": "720p30-h264", "input": "s3://acme/secret.mov", "tenant": "acme"}}},
    }))
    .unwrap();
    let tenant = |body: Value| asked(&acme, &body).map(|parsed| parsed.spec.tenant);
    assert_eq!(tenant(json!({"template": "intro"})).unwrap().as_deref(), Some("acme"));
    assert_eq!(tenant(json!({"template": "intro", "tenant": "acme"})).unwrap().as_deref(), Some("acme"));
    for other in [json!("other"), Value::Null, json!("")] {
        let faults = tenant(json!({"template": "intro", "tenant": other})).unwrap_err();
        assert_eq!((faults[0].path.as_str(), faults.len()), ("tenant", 1), "{faults:?}");
        assert!(!format!("{faults:?}").contains("acme"), "{faults:?}");
    }
}

#[test]
fn who_has_no_catalog_refuses_what_needs_one() {
    let faults = parse(&Received { body: br#"{"template": "news"}"#, ..Received::default() }).unwrap_err();
    assert!(faults.iter().any(|fault| fault.path == "template" && fault.code == "unknown_field"), "{faults:?}");
    let faults = parse(&Received { body: br#"{"scenario": "house"}"#, ..Received::default() }).unwrap_err();
    assert_eq!(faults[0].code, "unknown_scenario");
}

#[test]
fn a_file_is_refused_with_everything_that_is_wrong_in_it() {
    let found = codes(json!({
        "scenarios": {
            "a": {"extends": "b"}, "b": {"extends": "c"}, "c": {"extends": "a"},
            "orphan": {"extends": "nobody"},
            "720p30-h264": {"extends": "1080p30-h264"},
            "copy": {"extends": "1080p30-h264"},
            "bad name": {"extends": "1080p30-h264"},
            "wrong": {"extends": "1080p30-h264", "parameters": {"crf": 99, "colour": "red", "output": "/x"}},
        },
        "templates": {
            "t": {"extends": "t"},
            "u": {"extends": "nobody"},
            "v": {"required": ["Title", "input"], "job": {"inptu": "{x}", "output": "{", "id": "7"}},
        },
    }));
    let expected = [
        ("scenarios.720p30-h264", "built_in"),
        ("scenarios.a.extends", "cycle"),
        ("scenarios.b.extends", "cycle"),
        ("scenarios.bad name", "bad_value"),
        ("scenarios.c.extends", "cycle"),
        ("scenarios.copy", "built_in"),
        ("scenarios.orphan.extends", "unknown_scenario"),
        ("scenarios.wrong.parameters.colour", "unknown_field"),
        ("scenarios.wrong.parameters.crf", "out_of_range"),
        ("scenarios.wrong.parameters.output", "unknown_field"),
        ("templates.t.extends", "cycle"),
        ("templates.u.extends", "unknown_template"),
        ("templates.v.Title", "bad_value"),
        ("templates.v.input", "contradiction"),
        ("templates.v.job.output", "bad_value"),
        ("templates.v.job.inptu", "unknown_variable"),
        ("templates.v.job.inptu", "unknown_field"),
        ("templates.v.job.id", "contradiction"),
    ];
    let expected: Vec<(String, String)> = expected.map(|(path, code)| (path.to_owned(), code.to_owned())).to_vec();
    assert_eq!(found, expected);
    let circle = catalog(json!({"scenarios": {"a": {"extends": "b"}, "b": {"extends": "a"}}})).unwrap_err();
    assert_eq!(circle[0].message, "it extends itself: a -> b -> a");
}

#[test]
fn what_the_api_tells_is_the_same_catalog() {
    let house = house();
    let (scenarios, templates) = house.views();
    let told = Catalog::of_views(scenarios, templates).unwrap();
    let body = json!({"template": "news", "scenario": "house-small", "set": {"title": "x"}});
    assert_eq!(asked(&told, &body), asked(&house, &body));
}

#[test]
fn outputs_name_declared_scenarios_too() {
    let body = json!({"scenario": "720p-h264", "input": "/in/a.mov", "output": "/out/a.mp4", "outputs": [
        {"url": "/out/b.mp4", "scenario": "house", "parameters": {"bitrate": "3M"}},
        {"url": "/out/c.mp4", "scenario": "240p-h264"}]});
    let parsed = asked(&house(), &body).unwrap();
    let outputs = serde_json::to_value(&parsed.spec).unwrap()["outputs"].clone();
    assert_eq!(outputs[0]["scenario"], "1080p30-h264");
    assert_eq!(outputs[0]["parameters"], json!({"bitrate": "3000000", "preset": "slow"}));
    assert_eq!((&outputs[1]["scenario"], parsed.asked.outputs[0].scenario.as_str()), (&json!("240p-h264"), "house"));
}
