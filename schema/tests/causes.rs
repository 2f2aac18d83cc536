//! Every cause of failure with its code. The same run prints the table in `docs/causes.md`, so that the page cannot drift
//! from the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ffpool_schema::failure::{Blame, Cause, RetryPolicy};

fn who(blame: Blame) -> &'static str {
    match blame {
        Blame::Input => "whoever made the input",
        Blame::Request => "whoever wrote the job",
        Blame::Device => "the device",
        Blame::Network => "the network",
        Blame::Platform => "the pool",
        Blame::Operator => "the operator",
    }
}

fn again(policy: RetryPolicy) -> &'static str {
    match policy {
        RetryPolicy::Backoff => "after a while, within `max_retries`",
        RetryPolicy::Once => "once",
        RetryPolicy::Never => "no",
        RetryPolicy::Free => "at once, free of charge",
    }
}

fn table() -> String {
    let mut table = "| Code | Cause | To blame | Tried again | What to do |\n|---|---|---|---|---|\n".to_owned();
    for cause in Cause::ALL {
        let (who, again) = (who(cause.blame()), again(cause.policy()));
        writeln!(table, "| {} | `{}` | {who} | {again} | {} |", cause.code(), cause.as_str(), cause.cure())
            .expect("a string takes everything");
    }
    table
}

#[test]
fn codes_and_names_are_of_one_cause_each() {
    let codes: BTreeSet<u16> = Cause::ALL.iter().map(|cause| cause.code()).collect();
    let names: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
    assert_eq!((codes.len(), names.len()), (Cause::ALL.len(), Cause::ALL.len()));
}

#[test]
fn the_page_shows_the_table_that_the_code_makes() {
    const BEGIN: &str = "<!-- table: made by schema/tests/causes.rs; FFPOOL_BLESS=1 rewrites it -->\n";
    const END: &str = "<!-- end of table -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/causes.md");
    let page = std::fs::read_to_string(path).expect("docs/causes.md is part of the repository");
    let (head, rest) = page.split_once(BEGIN).expect("the page has the mark where the table begins");
    let (old, tail) = rest.split_once(END).expect("the page has the mark where the table ends");
    if std::env::var_os("FFPOOL_BLESS").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{}{END}{tail}", table())).expect("the page can be written");
    } else {
        assert_eq!(old, table(), "docs/causes.md is out of date: FFPOOL_BLESS=1 cargo test -p ffpool-schema");
    }
}
