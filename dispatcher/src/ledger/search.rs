//! What a search for jobs looks at, and how far it went. Pure.
//!
//! Jobs are found by a text that stands in one of their addresses or labels, or by the beginning of their id. The first is looked for
//! from the newest job down, a bounded number of rows of `job_text` for each page: no index helps with a part of a word, but one by
//! trigrams, whose cost each job would bear ([docs/performance.md], "Searching").
//!
//! [docs/performance.md]: https://github.com/ffpool/ffpool/blob/main/docs/performance.md

use ffpool_schema::job::JobSpec;
use ffpool_schema::location::redact;
use uuid::Uuid;

/// Jobs whose texts are looked through for one page at most: some 40 ms.
pub(super) const LOOKED_MAX: u32 = 25_000;
/// Digits of an id by which it is found. Ids of version 7 that were made within a minute have eight in common.
const ID_DIGITS_MIN: usize = 8;
const ID_DIGITS: usize = 32;

/// What a job is found by: its addresses as they are shown, and its labels, in small letters.
pub(super) fn text_of(spec: &JobSpec) -> String {
    let outputs = spec.outputs.iter().map(|output| &output.url);
    let addresses = spec.input.iter().chain(&spec.output).chain(outputs).map(|address| redact(address));
    let labels = spec.labels.iter().map(|(name, value)| format!("{name}:{value}"));
    small(&addresses.chain(labels).collect::<Vec<_>>().join("\n"))
}

/// A text as it is compared.
pub(super) fn small(text: &str) -> String {
    text.to_lowercase()
}

/// The first and the last id that begin with this text; `None` where it is no beginning of one.
pub(super) fn ids_from(text: &str) -> Option<(Uuid, Uuid)> {
    let mut digits = String::with_capacity(ID_DIGITS);
    for (at, c) in text.trim().char_indices() {
        match c {
            '-' if matches!(at, 8 | 13 | 18 | 23) => {}
            c if c.is_ascii_hexdigit() => digits.push(c),
            _ => return None,
        }
    }
    if !(ID_DIGITS_MIN..=ID_DIGITS).contains(&digits.len()) {
        return None;
    }
    let bound = |fill: char| {
        let filled: String = digits.chars().chain(std::iter::repeat(fill)).take(ID_DIGITS).collect();
        Uuid::try_parse(&filled).ok()
    };
    Some((bound('0')?, bound('f')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_an_id_is_a_span_of_ids_with_or_without_its_dashes() {
        let id: Uuid = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42".parse().unwrap();
        for text in
            ["01920f3a", "01920F3A-", " 01920f3a-7c1e-7d2a ", "01920f3a7c1e", "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42"]
        {
            let (low, high) = ids_from(text).unwrap_or_else(|| panic!("{text}"));
            assert!(low <= id && id <= high, "{text}: {low} to {high}");
        }
        assert_eq!(ids_from("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42"), Some((id, id)));
        let (low, high) = ids_from("01920f3b").unwrap();
        assert!(id < low && low < high);
    }

    #[test]
    fn a_job_is_found_by_all_of_its_addresses_and_labels_and_by_no_secret() {
        let mut spec = JobSpec::new("custom-input");
        spec.input = Some("https://joe:hush@cdn.example/In/A.mov?sig=hush".into());
        spec.output = Some("/media/Out 1.mp4".into());
        spec.outputs =
            serde_json::from_str(r#"[{"url": "rtmps://live.example/app/hush", "scenario": "720p30-h264"}]"#).unwrap();
        spec.labels.insert("show".into(), "Ärger".into());
        let text = text_of(&spec);
        for part in ["cdn.example/in/a.mov", "/media/out 1.mp4", "rtmps://live.example/app/", "show:ärger"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("hush") && !text.contains("joe"), "{text}");
    }

    #[test]
    fn what_is_too_short_or_has_other_characters_begins_no_id() {
        for text in [
            "",
            "01920f3",
            "-01920f3a",
            "01920f3a_",
            "clip.mov",
            "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42a",
            "0192-0f3a7c1e",
        ] {
            assert_eq!(ids_from(text), None, "{text}");
        }
    }
}
