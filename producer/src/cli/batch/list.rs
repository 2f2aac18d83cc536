//! How a list is written: JSON, NDJSON or CSV, as a flag says, its name, or its beginning.
//!
//! Invariant: no list is taken for another kind silently: what is no list of the kind is an error that names the file.

use std::path::Path;

use super::rows::{Row, array, lines, table};
use crate::cli::args::{Batch, ListFormat};
use crate::cli::exit::Trouble;

/// A byte order mark, which spreadsheets like to write.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Everything in the list.
pub(super) fn rows(args: &Batch, bytes: &[u8]) -> Result<Vec<Row>, Trouble> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let unusable = |why: String| Trouble::usage(format!("{} cannot be read: {why}", args.source));
    match args.format.unwrap_or_else(|| guessed(&args.source, bytes)) {
        ListFormat::Json => array(bytes).map_err(unusable),
        ListFormat::Ndjson => Ok(lines(bytes)),
        ListFormat::Csv => {
            let delimiter = *args.delimiter.as_bytes().first().expect("the flag takes one character");
            table(bytes, delimiter).map_err(unusable)
        }
    }
}

fn guessed(source: &str, bytes: &[u8]) -> ListFormat {
    let extension = Path::new(source).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "json" => ListFormat::Json,
        "ndjson" | "jsonl" => ListFormat::Ndjson,
        "csv" => ListFormat::Csv,
        _ => match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => ListFormat::Json,
            Some(b'{') | None => ListFormat::Ndjson,
            Some(_) => ListFormat::Csv,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_an_extension_is_known_by_how_it_begins() {
        assert_eq!(guessed("-", b" \n[{}]"), ListFormat::Json);
        assert_eq!(guessed("-", b"{}\n{}"), ListFormat::Ndjson);
        assert_eq!(guessed("-", b"scenario\n"), ListFormat::Csv);
        assert_eq!(guessed("a.JSONL", b"["), ListFormat::Ndjson);
    }
}
