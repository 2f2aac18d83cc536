//! How logs look and where they go: text, one JSON object a line, or journald with every field apart.
//!
//! Invariant: a line about a job has `job`, and where it is known `trace_id` and `span_id`, in every format under the same names: a
//! span's fields are part of each line within it.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// Before the names of our fields in the journal, where everybody's stand together.
const JOURNAL_PREFIX: &str = "FFPOOL";

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Journald's where standard error is the journal's, as systemd sets it up; text everywhere else.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// To journald, every field apart: `journalctl FFPOOL_JOB=<id>`.
    Journald,
}

/// The layer that writes logs in `format`.
///
/// # Errors
/// When journald is asked for and does not listen.
pub(crate) fn layer(service: &str, format: LogFormat) -> std::io::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let text = || {
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).boxed()
    };
    match format {
        LogFormat::Text => Ok(text()),
        LogFormat::Json => Ok(tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .boxed()),
        LogFormat::Journald => journald(service),
        // What the journal does not take by its own protocol, it takes from standard error.
        LogFormat::Auto if is_the_journals() => Ok(journald(service).unwrap_or_else(|_| text())),
        LogFormat::Auto => Ok(text()),
    }
}

fn journald(service: &str) -> std::io::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let layer = tracing_journald::layer()?;
    Ok(layer.with_field_prefix(Some(JOURNAL_PREFIX.into())).with_syslog_identifier(service.into()).boxed())
}

/// Whether standard error goes to the journal: systemd says which file that is.
fn is_the_journals() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else { return false };
    let is_it = |metadata: std::fs::Metadata| names(&stream, metadata.dev(), metadata.ino());
    std::fs::File::from(stderr).metadata().is_ok_and(is_it)
}

/// Whether `JOURNAL_STREAM` names this file, as `<device>:<inode>`.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

/// One JSON object a line: `timestamp`, `level`, `target`, `message`, `span`, and all fields beside them.
struct JsonLines;

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut line: Map<String, Value> = Map::new();
        let mut innermost = None;
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            innermost = Some(span.name());
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>().map_or("", |fields| fields.fields.as_str());
            // What the layer itself has written a moment ago.
            line.extend(serde_json::from_str::<Map<String, Value>>(fields).unwrap_or_default());
        }
        let mut said = Said(BTreeMap::new());
        event.record(&mut said);
        line.extend(said.0.into_iter().map(|(name, value)| (name.to_owned(), value)));
        line.insert("timestamp".into(), json!(timestamp));
        line.insert("level".into(), json!(event.metadata().level().as_str()));
        line.insert("target".into(), json!(event.metadata().target()));
        if let Some(span) = innermost {
            line.insert("span".into(), json!(span));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields of one event.
struct Said(BTreeMap<&'static str, Value>);

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), json!(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_has_the_fields_of_all_spans_around_it() {
        let page = Page::default();
        let writer = page.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let outer = tracing::info_span!("attempt", job = "j-1", attempt = 2, trace_id = tracing::field::Empty);
            outer.record("trace_id", "abc");
            let _outer = outer.entered();
            let _inner = tracing::info_span!("tool").entered();
            tracing::warn!(attempt = 3, error = %"a \"quoted\" one", ok = true, "it\nbroke");
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "level": "WARN", "message": "it\nbroke", "span": "tool", "job": "j-1", "attempt": 3, "trace_id": "abc",
            "error": "a \"quoted\" one", "ok": true, "target": "ffpool_runtime::logs::tests",
            "timestamp": line["timestamp"],
        });
        assert_eq!(line, expected);
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }

    #[test]
    fn the_journals_file_is_known_by_its_numbers() {
        assert!(names("9:4711", 9, 4711));
        for other in ["9:4712", "8:4711", "9", "", "9:4711:1", ":"] {
            assert!(!names(other, 9, 4711), "{other}");
        }
    }
}
