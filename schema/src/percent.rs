//! Percent-encoding of addresses (RFC 3986, 2.1), read in the two ways that are needed.
//!
//! Invariant: an escape is a percent sign and two hexadecimal digits, and nothing else; in particular no sign before a digit.

/// A text without its escapes; `None`: it is not well formed, or no text then.
pub(crate) fn strictly_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [first, tail @ ..] = left {
        if *first == b'%' {
            bytes.push(escaped(tail)?);
            left = &tail[2..];
        } else {
            bytes.push(*first);
            left = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A text without its escapes, as of a name or a password: what is no escape stays as it is.
#[must_use]
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [first, tail @ ..] = left {
        match escaped(tail).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                left = &tail[2..];
            }
            None => {
                bytes.push(*first);
                left = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte that the two digits at the beginning stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_escape_stays_or_is_refused() {
        for (text, expected) in [("plain", "plain"), ("p%40ss%2fw", "p@ss/w"), ("%2Fa%20b", "/a b")] {
            assert_eq!(decoded(text), expected);
            assert_eq!(strictly_decoded(text).as_deref(), Some(expected));
        }
        for text in ["100%", "%zz%4", "%+a", "%é"] {
            assert_eq!(decoded(text), text);
            assert_eq!(strictly_decoded(text), None, "{text}");
        }
        assert_eq!(strictly_decoded("%ff"), None, "no text");
    }
}
