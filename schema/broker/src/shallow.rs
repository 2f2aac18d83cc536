//! Headers of messages that are nested too deep for a stack, made flat before the client reads them.
//!
//! The client reads tables and lists within tables by recursion, without a bound, on a stack of 2 MiB: ten kilobytes of header
//! ended the process (amq-protocol-types 10.6.3 measured: about 1400 levels in an optimised build, 300 in another), and the
//! broker would have given the message to the next one. Anybody who may publish could have done that to every part of a pool.
//!
//! Invariant: not a byte more or less. A table or list at [`DEEPEST`] becomes opaque bytes of the same length by its type
//! alone, and what is shallower passes as it is. Nothing of ours, and no header that the broker makes itself, is as deep.
//! Source: AMQP 0-9-1, 4.2.3 and 4.2.5, with RabbitMQ's letters for types.

/// Tables and lists within each other, that of all headers counted. `x-death` needs four.
const DEEPEST: usize = 8;
/// Type of a frame that has a message's headers.
const HEADER_FRAME: u8 = 2;
/// Bytes before a frame's payload: type, channel, length.
const FRAME_HEAD: usize = 7;
/// Bytes of the payload before the properties: class, weight, length of the body, which properties there are.
const CONTENT_HEAD: usize = 14;
/// Which properties there are: the two texts before the headers, and these.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
/// The type of opaque bytes, whose length is told as that of tables and lists is.
const BYTES: u8 = b'x';

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The head of a frame.
    Frame,
    /// The head of a message's headers.
    Content,
    /// The length of one of so many short texts before the headers.
    ShortText(u8),
    /// The length of all headers.
    Table,
    /// The length of a name in a table.
    Name,
    /// The type of a value.
    Type,
    /// The length of a value of this type.
    Length(u8),
    /// Nothing more of this frame that matters.
    Rest,
}

/// A table or a list that is being passed.
#[derive(Debug, Clone, Copy)]
struct Inside {
    left: u32,
    is_table: bool,
}

/// Follows what comes from a broker, however it is cut.
#[derive(Debug)]
pub(crate) struct Shallow {
    next: Next,
    /// Bytes that pass before that.
    skip: u32,
    /// Bytes of what is read that are here already.
    gathered: [u8; CONTENT_HEAD],
    count: usize,
    /// Bytes of the frame that are left, its end mark not counted.
    frame_left: u32,
    inside: Vec<Inside>,
}

impl Shallow {
    /// At the beginning of a connection.
    pub(crate) fn new() -> Shallow {
        let gathered = [0; CONTENT_HEAD];
        Shallow { next: Next::Frame, skip: 0, gathered, count: 0, frame_left: 0, inside: Vec::with_capacity(DEEPEST) }
    }

    /// Takes the next bytes, and changes the types of what is too deep.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip > 0 {
                let step = self.skip.min(u32::try_from(bytes.len() - at).unwrap_or(u32::MAX));
                self.skip -= step;
                self.take(step);
                at += step as usize;
                continue;
            }
            self.leave();
            // Leaving may have made something to skip, or a frame's end.
            if self.skip > 0 {
                continue;
            }
            self.read(&mut bytes[at]);
            at += 1;
        }
    }

    /// Counts bytes of the frame and of whatever they are inside of.
    fn take(&mut self, count: u32) {
        if self.next == Next::Frame {
            return;
        }
        self.frame_left = self.frame_left.saturating_sub(count);
        for inside in &mut self.inside {
            inside.left = inside.left.saturating_sub(count);
        }
    }

    /// Ends the tables, lists and the frame that are over.
    fn leave(&mut self) {
        while matches!(self.next, Next::Name | Next::Type) && self.inside.last().is_some_and(|inside| inside.left == 0)
        {
            self.inside.pop();
            self.next = self.next_inside();
        }
        if self.frame_left == 0 && self.next != Next::Frame {
            self.next = Next::Rest;
        }
        if self.next == Next::Rest {
            // And the frame's end mark.
            self.skip = self.frame_left.saturating_add(1);
            (self.next, self.frame_left, self.count) = (Next::Frame, 0, 0);
            self.inside.clear();
        }
    }

    fn next_inside(&self) -> Next {
        match self.inside.last() {
            Some(Inside { is_table: true, .. }) => Next::Name,
            Some(Inside { is_table: false, .. }) => Next::Type,
            None => Next::Rest,
        }
    }

    fn read(&mut self, byte: &mut u8) {
        self.take(1);
        match self.next {
            Next::Frame => {
                if let Some(head) = self.gather(*byte, FRAME_HEAD) {
                    self.frame_left = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
                    let is_header = head[0] == HEADER_FRAME && self.frame_left as usize >= CONTENT_HEAD;
                    self.next = if is_header { Next::Content } else { Next::Rest };
                }
            }
            Next::Content => {
                if let Some(head) = self.gather(*byte, CONTENT_HEAD) {
                    let flags = u16::from_be_bytes([head[12], head[13]]);
                    let texts = u8::from(flags & CONTENT_TYPE != 0) + u8::from(flags & CONTENT_ENCODING != 0);
                    self.next = match (flags & HEADERS != 0, texts) {
                        (false, _) => Next::Rest,
                        (true, 0) => Next::Table,
                        (true, texts) => Next::ShortText(texts),
                    };
                }
            }
            Next::ShortText(texts) => {
                self.next = if texts > 1 { Next::ShortText(texts - 1) } else { Next::Table };
                self.pass_over(u32::from(*byte));
            }
            Next::Table => {
                if let Some(left) = self.gather(*byte, 4).map(length) {
                    self.enter(left, true);
                }
            }
            Next::Name => {
                self.next = Next::Type;
                self.pass_over(u32::from(*byte));
            }
            Next::Type => {
                if matches!(*byte, b'A' | b'F') && self.inside.len() >= DEEPEST {
                    *byte = BYTES;
                }
                self.of_type(*byte);
            }
            Next::Length(kind) => {
                if let Some(left) = self.gather(*byte, 4).map(length) {
                    if matches!(kind, b'A' | b'F') {
                        self.enter(left, kind == b'F');
                    } else {
                        self.next = self.next_inside();
                        self.pass_over(left);
                    }
                }
            }
            Next::Rest => {}
        }
    }

    fn of_type(&mut self, kind: u8) {
        let fixed = match kind {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'V' => 0,
            b'S' | b'A' | b'F' | BYTES => {
                self.next = Next::Length(kind);
                return;
            }
            // The client knows no such type either, and gives the connection up here.
            _ => return self.give_up(),
        };
        self.next = self.next_inside();
        self.pass_over(fixed);
    }

    /// What follows in the frame is not looked at: the client cannot read it.
    fn give_up(&mut self) {
        self.next = Next::Rest;
        self.inside.clear();
    }

    /// The bytes that are left of what is being passed.
    fn left(&self) -> u32 {
        self.inside.last().map_or(self.frame_left, |inside| inside.left)
    }

    fn pass_over(&mut self, count: u32) {
        if count > self.left() { self.give_up() } else { self.skip = count }
    }

    /// Begins a table or a list. One that is longer than what it is in is wrong, and not read by the client either.
    fn enter(&mut self, left: u32, is_table: bool) {
        if left > self.left() {
            return self.give_up();
        }
        self.inside.push(Inside { left, is_table });
        self.next = self.next_inside();
    }

    fn gather(&mut self, byte: u8, wanted: usize) -> Option<[u8; CONTENT_HEAD]> {
        self.gathered[self.count] = byte;
        self.count += 1;
        if self.count < wanted {
            return None;
        }
        self.count = 0;
        Some(self.gathered)
    }
}

fn length(gathered: [u8; CONTENT_HEAD]) -> u32 {
    u32::from_be_bytes([gathered[0], gathered[1], gathered[2], gathered[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of headers with content type, and of what is in them.
    fn frame(table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        payload.extend((CONTENT_TYPE | HEADERS | 1 << 12).to_be_bytes());
        payload.extend(b"\x10application/json");
        payload.extend((table.len() as u32).to_be_bytes());
        payload.extend(table);
        payload.push(2);
        let mut frame = vec![HEADER_FRAME, 0, 1];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xce);
        frame
    }

    fn entry(name: &str, value: &[u8]) -> Vec<u8> {
        [&[name.len() as u8], name.as_bytes(), value].concat()
    }

    fn nested(kind: u8, depth: usize) -> Vec<u8> {
        let mut value = b"I\0\0\0\x01".to_vec();
        for _ in 0..depth {
            let inner = if kind == b'F' { entry("n", &value) } else { value };
            value = [&[kind][..], &(inner.len() as u32).to_be_bytes(), &inner].concat();
        }
        value
    }

    fn passed(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut shallow = Shallow::new();
        bytes.chunks_mut(size).for_each(|chunk| shallow.pass(chunk));
        bytes
    }

    fn all_types() -> Vec<u8> {
        let values: [&[u8]; 14] = [
            b"t\x01",
            b"b\x01",
            b"B\x01",
            b"s\0\x01",
            b"u\0\x01",
            b"I\0\0\0\x01",
            b"i\0\0\0\x01",
            b"l\0\0\0\0\0\0\0\x01",
            b"f\0\0\0\0",
            b"d\0\0\0\0\0\0\0\0",
            b"D\x02\0\0\0\x01",
            b"T\0\0\0\0\0\0\0\x01",
            b"V",
            b"S\0\0\0\x03AFA",
        ];
        values.iter().flat_map(|value| entry("A", value)).collect()
    }

    #[test]
    fn what_is_not_deep_passes_as_it_is() {
        let others = [1, 0, 1, 0, 0, 0, 3, b'A', b'F', b'A', 0xce, 8, 0, 0, 0, 0, 0, 0, 0xce];
        let table = [all_types(), entry("x", &nested(b'F', 6)), entry("y", &nested(b'A', 6)), all_types()].concat();
        let stream = [&others[..], &frame(&table), &others, &frame(b""), &frame(&all_types())].concat();
        for size in [1, 2, 3, 7, 64, stream.len()] {
            assert_eq!(passed(&stream, size), stream, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_too_deep_becomes_bytes_of_the_same_length_and_what_follows_is_still_read() {
        for kind in [b'A', b'F'] {
            let deep = entry("deep", &nested(kind, 10_000));
            let stream = [frame(&[deep.clone(), all_types(), deep].concat()), frame(&all_types())].concat();
            let flat = passed(&stream, stream.len());
            assert_eq!(flat.len(), stream.len());
            let changed: Vec<usize> = (0..flat.len()).filter(|at| flat[*at] != stream[*at]).collect();
            assert_eq!(changed.len(), 2, "one for each that is too deep");
            assert!(changed.iter().all(|at| (stream[*at], flat[*at]) == (kind, BYTES)));
            for size in [1, 5, 1000] {
                assert_eq!(passed(&stream, size), flat, "in pieces of {size}");
            }
            // The client reads it on a test's stack.
            let (rest, read) = lapin::types::parsing::parse_field_table(&flat[38..]).unwrap();
            assert_eq!((read.inner().len(), rest[0]), (2, 2));
        }
    }

    #[test]
    fn lengths_that_lie_end_the_reading_of_their_frame_alone() {
        let lies = [
            entry("a", b"A\xff\xff\xff\xff"),
            entry("a", b"S\xff\xff\xff\xff"),
            entry("a", b"?"),
            b"\xff".to_vec(),
            entry("a", b"F\0\0\0\x0a\xff"),
        ];
        for lie in lies {
            let deep = frame(&entry("deep", &nested(b'A', 100)));
            let flat = passed(&deep, 9);
            let stream = [frame(&lie), deep].concat();
            let found = passed(&stream, 4);
            assert_eq!(found[found.len() - flat.len()..], flat, "{lie:?}");
        }
    }
}
