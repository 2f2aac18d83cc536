//! Makes the Grafana dashboards in `compose/grafana/dashboards` out of lists of panels, and holds the files against them.
//!
//! Invariant: every query names what exists, and is parsed by Prometheus' own tool.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::boards::{BOARDS, Board, Panel, Shape};
use crate::promql::{compose, promtool, unknown_names};

/// Columns of Grafana's grid.
const GRID: usize = 24;

fn file(board: &Board) -> PathBuf {
    compose().join(format!("grafana/dashboards/ffpool-{}.json", board.name))
}

fn made(board: &Board) -> Value {
    let (mut x, mut y, mut row_height) = (0, 0, 0);
    let mut panels = Vec::new();
    for (number, panel) in board.panels.iter().enumerate() {
        let (width, height) = panel.shape.size();
        if x + width > GRID {
            (x, y, row_height) = (0, y + row_height, 0);
        }
        panels.push(made_panel(panel, number + 1, json!({ "x": x, "y": y, "w": width, "h": height })));
        x += width;
        row_height = row_height.max(height);
    }
    json!({
        "uid": format!("ffpool-{}", board.name),
        "title": format!("ffpool: {}", board.title),
        "description": board.about,
        "tags": ["ffpool"],
        "schemaVersion": 39,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": board.span, "to": "now" },
        "templating": { "list": [{ "name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus" }] },
        "links": [{ "type": "dashboards", "title": "ffpool", "tags": ["ffpool"], "asDropdown": true, "keepTime": true }],
        "panels": panels,
    })
}

fn made_panel(panel: &Panel, id: usize, place: Value) -> Value {
    let source = json!({ "type": "prometheus", "uid": "${source}" });
    let targets: Vec<Value> = panel
        .queries
        .iter()
        .zip('A'..)
        .map(|((query, legend), letter)| {
            let instant = panel.shape == Shape::Number;
            json!({ "refId": letter.to_string(), "expr": query, "legendFormat": legend, "instant": instant, "datasource": source })
        })
        .collect();
    let kind = match panel.shape {
        Shape::Number => "stat",
        Shape::Graph | Shape::Wide => "timeseries",
    };
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
        "targets": targets,
    })
}

/// Rewrites the files when `FFPOOL_BLESS=1`; otherwise fails when one and its list of panels differ.
#[test]
fn the_files_are_what_the_lists_of_panels_make() {
    for board in BOARDS {
        let text = serde_json::to_string_pretty(&made(board)).expect("values are written") + "\n";
        let path = file(board);
        if std::env::var_os("FFPOOL_BLESS").is_some() {
            std::fs::write(&path, text).expect("the dashboard can be written");
        } else {
            let old = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(old == text, "{} is out of date: FFPOOL_BLESS=1 cargo test -p ffpool-schema", path.display());
        }
    }
    let there = std::fs::read_dir(compose().join("grafana/dashboards")).expect("the folder is there").count();
    assert_eq!(there, BOARDS.len(), "a dashboard that no list makes");
}

#[test]
fn every_query_names_metrics_and_labels_that_exist_and_prometheus_parses_it() {
    let mut rules = Vec::new();
    for board in BOARDS {
        for panel in board.panels {
            for (query, _) in panel.queries {
                assert_eq!(unknown_names(query), [] as [String; 0], "{}, {}: {query}", board.title, panel.title);
                // What Grafana puts in.
                let query = query.replace("$__rate_interval", "5m").replace("$__range", "6h");
                rules.push(json!({ "record": format!("query:{}", rules.len()), "expr": query }));
            }
        }
    }
    assert!(rules.len() > 60, "{} queries", rules.len());
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("queries.json");
    // JSON is YAML too.
    let groups = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    std::fs::write(&path, groups.to_string()).expect("the queries can be written");
    promtool(&["check", "rules", "--lint=none", &path.display().to_string()]);
}
