//! Kinds of dead letters: the same cause with the same evidence, whatever numbers, paths and addresses stand in it. Pure.

use ffpool_schema::failure::Cause;
use ffpool_schema::message::hex;
use sha2::{Digest as _, Sha256};

/// Names the kind of a failure: 16 hexadecimal digits.
pub(super) fn of(cause: Cause, evidence: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(cause.as_str());
    hash.update([0]);
    hash.update(normal(evidence));
    hex(&hash.finalize()[..8])
}

/// The words of a line, with what differs from job to job replaced by what it is.
fn normal(line: &str) -> String {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        if let Some((word, after)) = quoted(rest) {
            words.push(word.to_owned());
            rest = after.trim_start();
            continue;
        }
        let end = rest
            .char_indices()
            .find(|(at, c)| *at > 0 && (c.is_whitespace() || is_quote(*c)))
            .map_or(rest.len(), |(at, _)| at.max(first.len_utf8()));
        words.push(normal_word(&rest[..end]));
        rest = rest[end..].trim_start();
    }
    words.join(" ")
}

fn is_quote(c: char) -> bool {
    matches!(c, '\'' | '"' | '`')
}

/// What a quoted text at the beginning stands for, and what follows it. An apostrophe without another quotes nothing.
fn quoted(text: &str) -> Option<(&'static str, &str)> {
    let quote = text.chars().next().filter(|c| is_quote(*c))?;
    let (inside, after) = text[1..].split_once(quote)?;
    inside.contains(['/', '.', '\\']).then_some(("<path>", after))
}

fn normal_word(word: &str) -> String {
    if word.contains("://") {
        return "<url>".to_owned();
    }
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/');
    if bare.len() > 1 && bare.starts_with('/') {
        return "<path>".to_owned();
    }
    let mut normal = String::with_capacity(word.len());
    let mut run = String::new();
    for c in word.chars().chain([' ']) {
        if c.is_alphanumeric() {
            run.push(c);
            continue;
        }
        push_run(&mut normal, &run);
        run.clear();
        if c != ' ' {
            normal.push(c);
        }
    }
    normal
}

/// A run of letters and digits: a hexadecimal number, or letters with their digits replaced.
fn push_run(normal: &mut String, run: &str) {
    let digits = run.strip_prefix("0x").unwrap_or(run);
    let has_number = digits.bytes().any(|b| b.is_ascii_digit());
    if has_number && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        normal.push('#');
        return;
    }
    let mut in_number = false;
    for c in run.chars() {
        if c.is_ascii_digit() {
            if !in_number {
                normal.push('#');
            }
            in_number = true;
        } else {
            normal.push(c);
            in_number = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_addresses_and_paths_do_not_make_a_kind_of_their_own() {
        let same = [
            ("[h264 @ 0x55d0c0ffee00] error at frame 17", "[h264 @ 0x7f0012345678] error at frame 2048"),
            ("'/srv/a.mp4': No such file", "'/data/other b.mkv': No such file"),
            ("/srv/a.mp4: Invalid data", "/srv/x/b.mkv: Invalid data"),
            ("read of https://one/a failed: 503", "read of s3://bucket/b failed: 500"),
            ("file \"a.mp4\" is cut", "file \"b.mp4\" is cut"),
        ];
        for (a, b) in same {
            assert_eq!(of(Cause::InputBad, a), of(Cause::InputBad, b), "{} / {}", normal(a), normal(b));
        }
        let different = [
            ("No such file", "Permission denied"),
            ("cannot open 'encoder'", "cannot open 'decoder'"),
            ("it's broken", "it's closed"),
        ];
        for (a, b) in different {
            assert_ne!(of(Cause::InputBad, a), of(Cause::InputBad, b), "{} / {}", normal(a), normal(b));
        }
        assert_ne!(of(Cause::InputBad, "x"), of(Cause::Crash, "x"));
        assert_eq!(of(Cause::Crash, "").len(), 16);
    }
}
