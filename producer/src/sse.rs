//! Server-sent events: turns a stream of bytes into frames, wherever the network cut it.
//!
//! Source of the rules: WHATWG HTML, section 9.2.6. Invariant: a frame is handed out only when its blank line has come.

/// The longest line that is kept; a longer one is not from our server, and its rest is thrown away.
const LINE_MAX: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its name; empty when the server gave none.
    pub event: String,
    /// Its data, lines joined by `\n`.
    pub data: String,
}

/// Collects bytes until they make frames.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: String,
    data: Option<String>,
}

impl Parser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Takes the next bytes and gives the frames that they complete. Comments (`: keep-alive`) give none.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let was_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                // The second half of a line end that was taken already.
                b'\n' if was_cr => {}
                b'\n' | b'\r' => frames.extend(self.end_line()),
                byte if self.line.len() < LINE_MAX => self.line.push(byte),
                _ => {}
            }
        }
        frames
    }

    fn end_line(&mut self) -> Option<Frame> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return self.data.take().map(|data| Frame { event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment (empty name), `id`, `retry`, or a field of a later standard.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, data: &str) -> Frame {
        Frame { event: event.into(), data: data.into() }
    }

    const STREAM: &[u8] = b"event: job\ndata: {\"a\":1}\n\n: keep-alive\n\nevent:progress\r\ndata: one\r\ndata: two\r\n\r\ndata: \xc3\xbc\n\nevent: job\ndata: cut off";

    #[test]
    fn frames_are_the_same_wherever_the_network_cut_them() {
        let expected = vec![frame("job", "{\"a\":1}"), frame("progress", "one\ntwo"), frame("", "ü")];
        for size in [1, 2, 3, 7, STREAM.len()] {
            let mut parser = Parser::new();
            let found: Vec<Frame> = STREAM.chunks(size).flat_map(|chunk| parser.push(chunk)).collect();
            assert_eq!(found, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_data_is_no_frame() {
        assert_eq!(Parser::new().push(b"event: job\n\nid: 4\nretry: 10\n\n"), []);
    }
}
