//! How results reach the terminal: tables for people, JSON for programs.
//!
//! Invariant: with `json`, standard output carries nothing but JSON; what is meant for people goes to standard error.

use std::io::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Format, String> {
        match text {
            "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            other => Err(format!(
                "`{other}` is no format: `table` or `json` is expected; where a job's output goes is said with --to"
            )),
        }
    }

    /// Prints a result, as JSON or as the text that `people` makes of it.
    pub(crate) fn print<T: Serialize>(self, result: &T, people: impl FnOnce(&T) -> String) {
        match self {
            Format::Table => line(people(result).trim_end()),
            Format::Json => {
                let text = serde_json::to_string_pretty(result).expect("results have text keys and finite numbers");
                line(&text);
            }
        }
    }
}

/// Writes a line. A reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// A table without borders, in the width of its content.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// Names and values below each other, values aligned. Lines without a value are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let shown = fields.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_bare() {
        let text = table(["id", "state"], [["1".into(), "running".into()], ["1000".into(), "queued".into()]]);
        assert_eq!(text, "ID    STATE\n1     running\n1000  queued");
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let text = fields(&[("id", "1".into()), ("worker", String::new()), ("state", "queued".into())]);
        assert_eq!(text, "id      1\nstate   queued\n");
    }
}
