//! The address of a page that shows one trace, at whatever the operator looks at traces with.
//!
//! Invariant: it is an address of HTTP without a password, and nothing but the id of a trace is put into it.

use std::str::FromStr;

use reqwest::Url;

/// Stands for the id.
const PLACE: &str = "{trace_id}";

/// An address with a place for the id of a trace, such as `https://jaeger.example/trace/{trace_id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceUrl(String);

impl TraceUrl {
    /// Where the trace of this id is shown.
    pub(crate) fn of(&self, trace_id: &str) -> String {
        self.0.replace(PLACE, trace_id)
    }
}

impl FromStr for TraceUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<TraceUrl, String> {
        const EXPECTED: &str = "an address such as https://jaeger.example/trace/{trace_id} is expected";
        if text.matches(PLACE).count() != 1 {
            return Err(format!("{EXPECTED}: {PLACE} stands for the id, once"));
        }
        let url = Url::parse(&text.replace(PLACE, "0")).map_err(|error| format!("{EXPECTED}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{EXPECTED}, by http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{EXPECTED}, without a name and a password: everybody sees it"));
        }
        // Whoever could name a trace would choose whose server is asked.
        let is_in_host = text.split(['/', '?', '#']).nth(2).is_none_or(|host| host.contains(PLACE));
        if is_in_host || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(format!("{EXPECTED}, with {PLACE} behind the host and no space"));
        }
        Ok(TraceUrl(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_http_with_one_place_for_the_id_is_taken_and_nothing_else() {
        let grafana = "http://localhost:3000/explore?left=%7B%22query%22:%22{trace_id}%22%7D";
        for (good, shown) in [
            ("https://jaeger.example/trace/{trace_id}", "https://jaeger.example/trace/4bf9"),
            (grafana, "http://localhost:3000/explore?left=%7B%22query%22:%224bf9%22%7D"),
        ] {
            assert_eq!(good.parse::<TraceUrl>().unwrap().of("4bf9"), shown);
        }
        for bad in [
            "",
            "https://jaeger.example/trace/",
            "https://jaeger.example/{trace_id}/{trace_id}",
            "jaeger.example/trace/{trace_id}",
            "javascript:alert('{trace_id}')",
            "ftp://jaeger.example/{trace_id}",
            "https://me:secret@jaeger.example/{trace_id}",
            "https://{trace_id}.example/",
            "https://jaeger.example/ {trace_id}",
        ] {
            let said = bad.parse::<TraceUrl>().unwrap_err();
            assert!(said.starts_with("an address such as") && !said.contains("secret"), "{bad}: {said}");
        }
    }
}
