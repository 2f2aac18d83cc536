//! What pages and tables name must exist: the proofs of the failure model, the places where metrics are counted.

use std::path::Path;

use crate::support::files;

#[test]
fn every_metric_of_the_table_is_kept_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("schema/src/metrics.rs")).unwrap();
    let constants: Vec<&str> =
        table.lines().filter_map(|line| line.trim().split_once(" = \"ffpool_").map(|(constant, _)| constant)).collect();
    assert_eq!(constants.len(), ffpool_schema::metrics::ALL.len(), "the table is read wrongly");
    let sources: String = ["schema/runtime/src", "dispatcher/src", "worker/src"]
        .iter()
        .flat_map(|part| files(&root.join(part)))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let kept =
        |constant: &&str| sources.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *constant);
    let unused: Vec<&str> = constants.into_iter().filter(|constant| !kept(constant)).collect();
    assert_eq!(unused, [] as [&str; 0], "in the table, and never counted");
}

#[test]
fn every_test_that_the_failure_model_names_exists() {
    proofs_exist("docs/failure-model.md", 40);
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    proofs_exist("SECURITY.md", 20);
}

/// That every `file.rs::test` on a page is a test in the tree.
fn proofs_exist(page: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join(page)).expect("the page can be read");
    let proofs = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"));
    let (mut named, mut missing) = (0, Vec::new());
    for (file, test) in proofs {
        named += 1;
        let source = std::fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
        let is_test = source.split("#[").any(|item| {
            let is_marked = item.starts_with("test]") || item.starts_with("tokio::test");
            is_marked && item.contains(&format!("fn {test}("))
        });
        if !is_test {
            missing.push(format!("{file}.rs::{test}"));
        }
    }
    assert_eq!(missing, [] as [String; 0], "named in {page}, and not there");
    assert!(named > at_least, "only {named} proofs were found: {page} is read wrongly");
}
