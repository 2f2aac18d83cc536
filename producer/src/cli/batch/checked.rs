//! The rows of a list become jobs with ids, or faults with lines.
//!
//! Invariant: every fault of the list is found in one go. A job's id is derived from what it says, so that lines may be
//! added, removed and moved between two runs, and what was submitted is still not made twice.

use std::collections::HashMap;

use ffpool_schema::catalog::Catalog;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::Fault;

use super::Invalid;
use super::rows::Row;
use crate::cli::wanted;

/// A job that can be sent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) line: u64,
    /// With an id.
    pub(super) asked: JobSpec,
    pub(super) id: JobId,
}

/// A whole list.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) entries: Vec<Entry>,
    pub(super) invalid: Vec<Invalid>,
}

pub(super) fn check(rows: Vec<Row>, run: &str, catalog: &Catalog) -> Checked {
    let mut checked = Checked::default();
    let mut lines_of_ids = HashMap::new();
    let mut repeats = HashMap::<Vec<u8>, u64>::new();
    for row in rows {
        match entry(&row, run, catalog, &mut repeats) {
            Err(faults) => checked.invalid.push(Invalid { line: row.line, faults }),
            Ok(entry) => {
                if let Some(first) = lines_of_ids.insert(entry.id, row.line) {
                    let message = format!("line {first} has the id {} already: one id is one job", entry.id);
                    let faults = vec![Fault::new("id", "repeated", message)];
                    checked.invalid.push(Invalid { line: row.line, faults });
                } else {
                    checked.entries.push(entry);
                }
            }
        }
    }
    checked
}

fn entry(row: &Row, run: &str, catalog: &Catalog, repeats: &mut HashMap<Vec<u8>, u64>) -> Result<Entry, Vec<Fault>> {
    let body = row.body.as_ref().map_err(|fault| vec![fault.clone()])?;
    let asked = wanted::checked(body, catalog)?.asked;
    let id = asked.id.unwrap_or_else(|| derived(&asked, run, repeats));
    Ok(Entry { line: row.line, asked: JobSpec { id: Some(id), ..asked }, id })
}

/// The id of a job without one. Two jobs of a list that say the same are two jobs: the first, the second, ...
fn derived(spec: &JobSpec, run: &str, repeats: &mut HashMap<Vec<u8>, u64>) -> JobId {
    let canonical = serde_json::to_vec(spec).expect("a job has text keys and finite numbers");
    let repeat = repeats.entry(canonical.clone()).or_default();
    *repeat += 1;
    JobId::derived("batch", &[run.as_bytes(), &canonical, &repeat.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::batch::list;
    use clap::Parser;

    fn checked(flags: &[&str], text: &str) -> Checked {
        let line = ["ffpool", "batch", "list.ndjson"].iter().chain(flags);
        let args = match Cli::try_parse_from(line).unwrap().command {
            Some(Command::Batch(args)) => *args,
            other => panic!("{other:?}"),
        };
        let mut rows = list::rows(&args, text.as_bytes()).unwrap();
        for row in &mut rows {
            row.body = row.body.clone().map(|body| args.wanted.overlay(body));
        }
        check(rows, &args.run, &Catalog::default())
    }

    fn ids(checked: &Checked) -> Vec<JobId> {
        assert!(checked.invalid.is_empty(), "{:?}", checked.invalid);
        checked.entries.iter().map(|entry| entry.id).collect()
    }

    const A: &str = r#"{"scenario": "480p30-h264", "input": "/m/a.mp4"}"#;
    const A_WRITTEN_OTHERWISE: &str = r#"{ "input": "/m/a.mp4", "priority": "medium", "scenario": "480p30-h264" }"#;
    const B: &str = r#"{"scenario": "480p30-h264", "input": "/m/b.mp4"}"#;

    #[test]
    fn a_job_keeps_its_id_when_lines_move_and_when_it_is_written_otherwise() {
        let first = ids(&checked(&[], &format!("{A}\n{B}\n")));
        assert_eq!(ids(&checked(&[], &format!("\n{B}\n{A_WRITTEN_OTHERWISE}"))), [first[1], first[0]]);
        let other_run = ids(&checked(&["--run", "2"], &format!("{A}\n{B}\n")));
        assert!(other_run.iter().all(|id| !first.contains(id)), "another run makes other jobs");
        let other_jobs = ids(&checked(&["--queue", "live"], A));
        assert!(!first.contains(&other_jobs[0]), "another job has another id");
    }

    #[test]
    fn the_same_job_twice_in_a_list_is_two_jobs_and_the_same_two_again() {
        let twice = ids(&checked(&[], &format!("{A}\n{A}\n")));
        assert_ne!(twice[0], twice[1]);
        assert_eq!(ids(&checked(&[], &format!("{A}\n{A_WRITTEN_OTHERWISE}\n"))), twice);
    }

    #[test]
    fn every_fault_is_found_with_its_line() {
        let id = r#"{"id": "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42", "scenario": "480p30-h264"}"#;
        let checked = checked(&[], &format!("{id}\n\n{{\"scenario\": \"x\", \"colour\": 1}}\n{id}\nnot json\n{A}\n"));
        assert_eq!(checked.entries.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 6]);
        let told: Vec<(u64, Vec<&str>)> = checked
            .invalid
            .iter()
            .map(|job| (job.line, job.faults.iter().map(|fault| fault.code.as_str()).collect()))
            .collect();
        assert_eq!(
            told,
            [(3, vec!["unknown_field", "unknown_scenario"]), (4, vec!["repeated"]), (5, vec!["not_json"])]
        );
    }
}
