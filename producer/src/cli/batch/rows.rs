//! The rows of a list, with their lines: of a JSON list, of lines of JSON, of a table.
//!
//! Invariant: a row that cannot be read is a row with a fault, so that one does not hide the next; only a list that is no
//! list at all ends the reading. A table's first line makes no object deeper, and no job wider, than a job can be.

use std::collections::BTreeSet;

use csv::StringRecord;
use ffpool_schema::parse::{Fault, meaning};
use serde_json::{Map, Value, json};

/// Columns of a table: more than a job has fields, with room for labels and variables.
const MOST_COLUMNS: usize = 512;
/// Names in a column's path, such as the two of `parameters.crf`.
const MOST_NAMES: usize = 4;

/// One job of a list as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    pub(super) body: Result<Value, Fault>,
}

/// A JSON list.
pub(super) fn array(bytes: &[u8]) -> Result<Vec<Row>, String> {
    let whole: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON ({error})"))?;
    let Value::Array(jobs) = whole else {
        return Err("a JSON list of jobs is expected; `ffpool submit` takes one job".to_owned());
    };
    // The text is valid: what remains is to find where each element begins.
    let mut at = bytes.iter().position(|byte| *byte == b'[').map_or(bytes.len(), |open| open + 1);
    let (mut line, mut counted) = (1, 0);
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let gap = bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b',').count();
        at += gap;
        line += bytes[counted..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        counted = at;
        let mut element = serde_json::Deserializer::from_slice(&bytes[at..]).into_iter::<serde::de::IgnoredAny>();
        let _ = element.next();
        at += element.byte_offset();
        rows.push(Row { line, body: Ok(job) });
    }
    Ok(rows)
}

/// One JSON object for each line.
pub(super) fn lines(bytes: &[u8]) -> Vec<Row> {
    let numbered = bytes.split(|byte| *byte == b'\n').zip(1..);
    let written = numbered.filter(|(text, _)| !text.iter().all(u8::is_ascii_whitespace));
    let body = |text: &[u8]| {
        serde_json::from_slice(text)
            .map_err(|error| Fault::new("body", "not_json", format!("the line is no JSON object ({error})")))
    };
    written.map(|(text, line)| Row { line, body: body(text) }).collect()
}

/// A table with the fields' paths in its first line.
pub(super) fn table(bytes: &[u8], delimiter: u8) -> Result<Vec<Row>, String> {
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let columns = columns(&header)?;
    let mut rows = Vec::new();
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(rows),
            Ok(true) => {}
            Err(error) => return Err(error.to_string()),
        }
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(Row { line, body: row(&columns, &record) });
    }
}

/// The field paths of a table.
fn columns(header: &StringRecord) -> Result<Vec<String>, String> {
    if header.len() > MOST_COLUMNS {
        return Err(format!("line 1: {} columns: {MOST_COLUMNS} at most", header.len()));
    }
    let mut seen = BTreeSet::new();
    for name in header {
        if name.split('.').any(str::is_empty) || name.split('.').count() > MOST_NAMES {
            let shown: String = name.chars().take(80).collect();
            return Err(format!("line 1: `{shown}` names no field: a path such as `parameters.crf` is expected"));
        }
        if !seen.insert(name) {
            return Err(format!("line 1: the column `{name}` stands twice"));
        }
    }
    let inside =
        |name: &&str| seen.iter().any(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('.')));
    if let Some(name) = seen.iter().find(|name| inside(name)) {
        return Err(format!("line 1: the column `{name}` is inside of another column"));
    }
    Ok(header.iter().map(str::to_owned).collect())
}

fn row(columns: &[String], record: &csv::ByteRecord) -> Result<Value, Fault> {
    if record.len() != columns.len() {
        let message = format!("{} cells, and the first line names {} fields", record.len(), columns.len());
        return Err(Fault::new("body", "wrong_length", message));
    }
    let mut job = Map::new();
    for (path, cell) in columns.iter().zip(record) {
        let text = std::str::from_utf8(cell)
            .map_err(|_| Fault::new(path.as_str(), "not_text", "the cell is not written in UTF-8"))?;
        if !text.is_empty() {
            // A template's value takes the type of the field that it is put into.
            let is_value = path.starts_with("set.") || path == "template";
            place(&mut job, path, if is_value { json!(text) } else { meaning(path, text) });
        }
    }
    Ok(Value::Object(job))
}

fn place(job: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            job.insert(path.to_owned(), value);
        }
        Some((outer, inner)) => {
            let object = job.entry(outer).or_insert_with(|| json!({}));
            place(object.as_object_mut().expect("no column is inside of another"), inner, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_fields_by_their_paths_and_empty_cells_leave_them_out() {
        let text = "scenario,parameters.crf,labels.show,input\n480p30-h264,20,7,/m/a.mp4\n\"720p-h264\",,\"two\nlines\", \nx\n";
        let rows = table(text.as_bytes(), b',').unwrap();
        let first =
            json!({"scenario": "480p30-h264", "parameters": {"crf": 20}, "labels": {"show": "7"}, "input": "/m/a.mp4"});
        assert_eq!(rows[0], Row { line: 2, body: Ok(first) });
        assert_eq!(
            rows[1],
            Row { line: 3, body: Ok(json!({"scenario": "720p-h264", "labels": {"show": "two\nlines"}})) }
        );
        assert_eq!((rows[2].line, rows[2].body.as_ref().unwrap_err().code.as_str()), (5, "wrong_length"));
    }

    #[test]
    fn a_table_whose_first_line_cannot_be_meant_is_refused() {
        // The last two: objects as deep as the stack, and columns that are each held against all others.
        let (deep, wide) =
            ("a.".repeat(100_000) + "a\n", (0..100_000).map(|n| format!("c{n},")).collect::<String>() + "z\n");
        for wrong in [
            "scenario,scenario\n",
            "a,\n",
            "a..b\n",
            "labels,labels.show\n",
            "labels.show,labels\n",
            deep.as_str(),
            wide.as_str(),
        ] {
            let why = table(wrong.as_bytes(), b',').unwrap_err();
            assert!(why.starts_with("line 1: "), "{why}");
        }
    }

    #[test]
    fn each_element_of_an_array_knows_its_line() {
        let rows = array(b"\n [ {\"a\": \"x, [\\\"\"} , 7,\n\n  {\n\"b\": [1,\n2]}\n,null]").unwrap();
        let lines: Vec<u64> = rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 2, 4, 7]);
        assert_eq!(rows[2].body, Ok(json!({"b": [1, 2]})));
        array(b"{}").unwrap_err();
        array(b"[1").unwrap_err();
    }
}
