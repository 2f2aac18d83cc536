//! Lists of jobs, and the stream of events that a client follows.
//!
//! Invariant: rows bear their lines in order, and frames are the same wherever the network cut them.

use ffpool_schema::parse::{is_field, meaning};

use super::{parts, text};

#[allow(dead_code)]
#[path = "../../../producer/src/cli/batch/rows.rs"]
mod rows;
#[allow(dead_code)]
#[path = "../../../producer/src/sse.rs"]
mod sse;

/// A list of jobs: the first byte says how it is written.
pub fn list(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let found = match kind {
        b'[' => rows::array(data),
        b';' | b'\t' => rows::table(bytes, *kind),
        b',' => rows::table(bytes, b','),
        _ => Ok(rows::lines(bytes)),
    };
    match found {
        Ok(found) => assert!(found.is_sorted_by(|a, b| a.line <= b.line), "lines are in order"),
        Err(why) => assert!(why.len() <= 1000, "{} bytes", why.len()),
    }
    let (path, value) = parts(bytes);
    let (path, value) = (text(path), text(value));
    let _ = (is_field(&path), meaning(&path, &value));
}

/// Server-sent events: the first byte says where the network cuts.
pub fn events(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = sse::Parser::new().push(bytes);
    let mut parser = sse::Parser::new();
    let cut: Vec<sse::Frame> = bytes.chunks(usize::from(*size).max(1)).flat_map(|piece| parser.push(piece)).collect();
    assert_eq!(cut, whole);
}
