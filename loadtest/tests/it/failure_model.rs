//! The failure model names its proofs: they must exist.

use std::path::Path;

#[test]
fn every_test_that_the_failure_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/failure-model.md")).expect("the page can be read");
    let proofs = page.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"));
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
    assert_eq!(missing, [] as [String; 0], "named in docs/failure-model.md, and not there");
    assert!(named > 40, "only {named} proofs were found: the page is read wrongly");
}
