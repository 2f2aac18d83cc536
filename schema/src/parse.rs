//! A client's bytes become a [`JobSpec`], or a list of everything that is wrong with them.
//!
//! Both encodings are read into one generic value first; then every field is checked by itself, so that one fault does
//! not hide the next. Accepted besides the canonical form: `encoder` for `codec`, `duration_seconds` for `duration`,
//! `frame_rate` for `fps`, `resolution_width` with `resolution_height` for `resolution`, and resource limits, `input`
//! and `output` inside `parameters`. Two spellings of one thing must agree.
//!
//! Invariant: what is said of a job is bounded, however much is wrong with it: it is stored and shown.

mod meaning;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::catalog::Catalog;
use crate::encode::{OutputMode, Resolution};
use crate::id::{JobId, shortened};
use crate::job::{Engine, ExtraOutput, JobSpec, Parameters, Pool, Priority, Queue, ResourceLimits};
use crate::message::MAX_BODY_BYTES;
use crate::topology::WorkQueue;

pub use meaning::{is_field, meaning};

/// Faults that are told of one job.
pub const MAX_FAULTS: usize = 64;
/// Unknown fields of one object that are named; each is looked up among all known names.
const MAX_UNKNOWN: usize = 16;
/// Characters of a fault's path, and of its message.
const PATH_CHARS: usize = 200;
const MESSAGE_CHARS: usize = 2000;

/// One thing that is wrong with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Where: the field's path, such as `parameters.bitrate`; `body` for the whole.
    pub path: String,
    /// A stable code, such as `unknown_field`.
    pub code: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl Fault {
    /// A fault. A path or a message that is too long to be read is cut.
    #[must_use]
    pub fn new(path: impl Into<String>, code: &str, message: impl Into<String>) -> Fault {
        let bounded = |text: String, most: usize| if text.len() <= most { text } else { shortened(&text, most) };
        let (path, message) = (bounded(path.into(), PATH_CHARS), bounded(message.into(), MESSAGE_CHARS));
        Fault { path, code: code.to_owned(), message }
    }

    /// Whether it may be no fault to a later version: this one does not know what is asked for, or does not do it.
    #[must_use]
    pub fn is_of_another_version(&self) -> bool {
        self.code.starts_with("unknown") || self.code == "unsupported"
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`, and whatever says nothing and begins like JSON.
    Json,
    /// `application/msgpack`.
    MessagePack,
}

impl Encoding {
    /// The content type to publish it with.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::MessagePack => "application/msgpack",
        }
    }
}

/// A job as it was received, with what the transport said about it.
#[derive(Debug, Clone, Default)]
pub struct Received<'a> {
    /// The body.
    pub body: &'a [u8],
    /// The content type, where one was given.
    pub content_type: Option<&'a str>,
    /// The AMQP `message_id`, where one was given.
    pub message_id: Option<&'a str>,
    /// The work queue, where the job came through the broker.
    pub work: Option<&'a WorkQueue>,
    /// The operator's scenarios and templates. Who reads without them refuses jobs that name one.
    pub catalog: Option<&'a Catalog>,
}

/// A job as it runs, and as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// With a built-in scenario.
    pub spec: JobSpec,
    /// With the scenario that its client named.
    pub asked: JobSpec,
}

/// Reads a job.
///
/// # Errors
/// Everything that is wrong with it, in the order of its fields.
pub fn parse(received: &Received<'_>) -> Result<JobSpec, Vec<Fault>> {
    parse_asked(received).map(|parsed| parsed.spec)
}

/// Reads a job, and keeps how it was asked for: a scenario of the catalog stands there by its own name.
///
/// # Errors
/// Everything that is wrong with it, in the order of its fields.
pub fn parse_asked(received: &Received<'_>) -> Result<Parsed, Vec<Fault>> {
    if received.body.len() > MAX_BODY_BYTES {
        return Err(vec![oversize(received.body.len())]);
    }
    let value = decode(received.body, received.content_type).map_err(|fault| vec![fault])?;
    let Value::Object(mut object) = value else {
        return Err(vec![Fault::new("body", "wrong_type", format!("a job is an object, not {}", kind(&value)))]);
    };
    if let Some(catalog) = received.catalog {
        object = catalog.filled_in(object)?;
    }
    let resolved = received.catalog.and_then(|catalog| catalog.resolved(&object));
    let mut faults = Vec::new();
    let asked = read_job(object, received, &mut faults);
    let spec = match resolved {
        None => asked.clone(),
        Some(resolved) => {
            faults.clear();
            read_job(resolved, received, &mut faults)
        }
    };
    crate::scenario::check(&spec, &mut faults);
    if faults.is_empty() { Ok(Parsed { spec, asked }) } else { Err(bounded(faults)) }
}

/// The first [`MAX_FAULTS`]; the last of these says how many there are besides.
fn bounded(mut faults: Vec<Fault>) -> Vec<Fault> {
    if faults.len() > MAX_FAULTS {
        let rest = faults.split_off(MAX_FAULTS - 1);
        // A later version may know what this one does not.
        let may_be_none = rest.iter().any(Fault::is_of_another_version);
        let code = if may_be_none { "unknown_more" } else { "too_many" };
        faults.push(Fault::new("body", code, format!("{} more faults: correct those above first", rest.len())));
    }
    faults
}

/// A job that the ledger made, from a body that it published: one chunk of another. Nothing may be recorded from it, for
/// anybody can publish such a body; [`parse`] refuses it.
#[must_use]
pub fn piece(received: &Received<'_>) -> Option<JobSpec> {
    if received.body.len() > MAX_BODY_BYTES {
        return None;
    }
    let spec: JobSpec = serde_json::from_value(decode(received.body, received.content_type).ok()?).ok()?;
    spec.piece.is_some().then_some(spec)
}

/// The fault of a body of `len` bytes that is too large to be read.
#[must_use]
pub fn oversize(len: usize) -> Fault {
    Fault::new(
        "body",
        "too_large",
        format!("{len} bytes: a job may have {MAX_BODY_BYTES} at most; keep media out of it and give its address"),
    )
}

/// The id that a message claims to have, readable even when the rest of it is not.
#[must_use]
pub fn claimed_id(received: &Received<'_>) -> Option<JobId> {
    if let Some(id) = received.message_id {
        return id.parse().ok();
    }
    if received.body.len() > MAX_BODY_BYTES {
        return None;
    }
    decode(received.body, received.content_type).ok()?.get("id")?.as_str()?.parse().ok()
}

/// Where a message wants its end to be told, readable even when the rest of it is not valid. Only an address that could be
/// called.
#[must_use]
pub fn claimed_callback(received: &Received<'_>) -> Option<String> {
    if received.body.len() > MAX_BODY_BYTES {
        return None;
    }
    let body = decode(received.body, received.content_type).ok()?;
    let url = body.get("callback_url")?.as_str()?;
    crate::callback::check_url(url).is_none().then(|| url.to_owned())
}

fn decode(body: &[u8], content_type: Option<&str>) -> Result<Value, Fault> {
    let encoding = match content_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase()) {
        None => guess(body),
        Some(text) => match text.as_str() {
            "" | "application/octet-stream" | "text/plain" | "application/x-www-form-urlencoded" => guess(body),
            "application/json" => Encoding::Json,
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Encoding::MessagePack,
            other => {
                return Err(Fault::new(
                    "content_type",
                    "unknown_encoding",
                    format!("`{other}`: application/json or application/msgpack is expected"),
                ));
            }
        },
    };
    match encoding {
        Encoding::Json => serde_json::from_slice(body)
            .map_err(|error| Fault::new("body", "not_json", format!("the body is no JSON: {error}"))),
        Encoding::MessagePack => decode_message_pack(body)
            .map_err(|why| Fault::new("body", "not_msgpack", format!("the body is no MessagePack: {why}"))),
    }
}

/// A JSON object begins with a brace, after white space; nothing in MessagePack that could be a job does.
fn guess(body: &[u8]) -> Encoding {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[' | b'"') | None => Encoding::Json,
        Some(_) => Encoding::MessagePack,
    }
}

fn decode_message_pack(body: &[u8]) -> Result<Value, String> {
    /// Deep enough for a job, shallow enough for any stack: the library's own limit overflowed one of 2 MiB.
    const MAX_DEPTH: usize = 64;
    let mut rest = body;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(MAX_DEPTH);
    let value = Value::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    drop(deserializer);
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes follow the job", rest.len())) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The fields of one object that have not been read yet.
struct Fields<'f> {
    prefix: String,
    rest: Map<String, Value>,
    known: Vec<&'static str>,
    faults: &'f mut Vec<Fault>,
}

impl<'f> Fields<'f> {
    fn new(prefix: impl Into<String>, rest: Map<String, Value>, faults: &'f mut Vec<Fault>) -> Fields<'f> {
        Fields { prefix: prefix.into(), rest, known: Vec::new(), faults }
    }

    fn path(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            // A field may have no name, but a fault has a place.
            ("", "") => "body".to_owned(),
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    fn fault(&mut self, name: &str, code: &str, message: impl Into<String>) {
        let path = self.path(name);
        self.faults.push(Fault::new(path, code, message));
    }

    /// A field by its name. `null` is absent.
    fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.known.push(name);
        let value = self.rest.remove(name).filter(|value| !value.is_null())?;
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, "bad_value", error.to_string());
                None
            }
        }
    }

    /// A field under either of two spellings, which must agree.
    fn take_either<T: DeserializeOwned + PartialEq>(&mut self, name: &'static str, alias: &'static str) -> Option<T> {
        let (first, second) = (self.take::<T>(name), self.take::<T>(alias));
        if let (Some(a), Some(b)) = (&first, &second)
            && a != b
        {
            self.fault(
                alias,
                "contradiction",
                format!("`{name}` and `{alias}` are the same thing and differ: give one"),
            );
        }
        first.or(second)
    }

    fn take_object(&mut self, name: &'static str) -> Map<String, Value> {
        self.known.push(name);
        match self.rest.remove(name) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(object)) => object,
            Some(other) => {
                self.fault(name, "wrong_type", format!("an object is expected, not {}", kind(&other)));
                Map::new()
            }
        }
    }

    /// What is left is unknown, each by name.
    fn finish(mut self) {
        let unknown = std::mem::take(&mut self.rest);
        for name in unknown.keys().take(MAX_UNKNOWN) {
            let near = self
                .known
                .iter()
                .copied()
                .filter(|known| distance(known, name) <= 2)
                .min_by_key(|known| distance(known, name));
            let hint = near.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            self.fault(name, "unknown_field", format!("unknown field `{}`{hint}", crate::id::excerpt(name)));
        }
        if unknown.len() > MAX_UNKNOWN {
            let path = if self.prefix.is_empty() { "body" } else { &self.prefix };
            let message = format!("{} more unknown fields", unknown.len() - MAX_UNKNOWN);
            self.faults.push(Fault::new(path, "unknown_field", message));
        }
    }
}

/// Edit distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn read_job(object: Map<String, Value>, received: &Received<'_>, faults: &mut Vec<Fault>) -> JobSpec {
    let mut spec = JobSpec::new("");
    let mut fields = Fields::new("", object, faults);

    spec.id = fields.take("id");
    if let Some(message_id) = received.message_id {
        match (message_id.parse::<JobId>(), spec.id) {
            (Err(error), _) => fields.fault("message_id", "bad_value", error.to_string()),
            (Ok(given), Some(id)) if given != id => fields.fault(
                "id",
                "contradiction",
                format!("the message says {given}, the body {id}: they must be equal, or only one given"),
            ),
            (Ok(given), _) => spec.id = Some(given),
        }
    }
    let scenario = fields.take::<String>("scenario");
    spec.engine = fields.take("engine").unwrap_or_default();
    // Given and empty says no more than not given, but to who does nothing with it.
    let is_missing = scenario.as_ref().is_none_or(|name| name.is_empty() && spec.engine != Engine::Noop);
    if is_missing && !fields.faults.iter().any(|fault| fault.path == "scenario") {
        fields.fault("scenario", "missing", "a job needs a scenario, such as 1080p30-h264");
    }
    spec.scenario = scenario.unwrap_or_default();
    read_route(&mut spec, &mut fields, received.work);
    spec.input = fields.take("input");
    spec.input_sha256 = fields.take("input_sha256");
    spec.input_size_bytes = fields.take("input_size_bytes");
    spec.output = fields.take("output");
    let outputs = fields.take::<Vec<Value>>("outputs").unwrap_or_default();
    spec.max_retries = fields.take("max_retries").unwrap_or(JobSpec::MAX_RETRIES);
    spec.not_before = fields.take("not_before");
    spec.deadline = fields.take("deadline");
    spec.depends_on = fields.take("depends_on").unwrap_or_default();
    spec.labels = fields.take::<BTreeMap<String, String>>("labels").unwrap_or_default();
    spec.tenant = fields.take("tenant");
    spec.callback_url = fields.take("callback_url");
    spec.checkpoint = fields.take("checkpoint").unwrap_or_default();
    spec.confidence = fields.take("confidence");
    spec.classification = fields.take("classification");
    let parameters = fields.take_object("parameters");
    let limits = fields.take_object("resource_limits");
    fields.finish();

    spec.outputs = read_outputs(outputs, faults);
    let nested = read_parameters(&mut spec, parameters, faults);
    spec.resource_limits = read_limits("resource_limits", limits, faults);
    merge_limits(&mut spec.resource_limits, nested, faults);
    spec
}

/// The route decides where a job waits; a body that names another place contradicts it.
fn read_route(spec: &mut JobSpec, fields: &mut Fields<'_>, work: Option<&WorkQueue>) {
    let queue: Option<Queue> = fields.take("queue");
    let priority: Option<Priority> = fields.take("priority");
    let pool: Option<Pool> = fields.take("pool");
    let Some(work) = work else {
        spec.queue = queue.unwrap_or_default();
        spec.priority = priority.unwrap_or_default();
        spec.pool = pool.unwrap_or_default();
        return;
    };
    let mut differs = |name: &str, said: Option<String>, is: String| {
        if let Some(said) = said.filter(|said| *said != is) {
            fields.fault(
                name,
                "contradiction",
                format!("the body says {said}, but it was published to {}", work.name()),
            );
        }
    };
    differs("queue", queue.map(|queue| queue.to_string()), work.queue.to_string());
    differs("priority", priority.map(|priority| priority.to_string()), work.priority.to_string());
    differs("pool", pool.map(|pool| pool.to_string()), work.pool.to_string());
    spec.queue = work.queue;
    spec.priority = work.priority;
    spec.pool = work.pool.clone();
}

fn read_outputs(values: Vec<Value>, faults: &mut Vec<Fault>) -> Vec<ExtraOutput> {
    if values.len() > JobSpec::MAX_OUTPUTS {
        let message = format!("{} more outputs: {} at most", values.len(), JobSpec::MAX_OUTPUTS);
        faults.push(Fault::new("outputs", "too_many", message));
        return Vec::new();
    }
    let mut outputs = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let path = format!("outputs[{index}]");
        let Value::Object(object) = value else {
            let message = format!("an object with `url` and `scenario` is expected, not {}", kind(&value));
            faults.push(Fault::new(path, "wrong_type", message));
            continue;
        };
        let mut fields = Fields::new(path.clone(), object, faults);
        let mut text = |name: &'static str, what: &str| {
            let before = fields.faults.len();
            let found = fields.take::<String>(name);
            let found = found.unwrap_or_default();
            if found.is_empty() && fields.faults.len() == before {
                fields.fault(name, "missing", format!("an output needs {what}"));
            }
            found
        };
        let url = text("url", "the address where it goes");
        let scenario = text("scenario", "a scenario, such as 720p30-h264");
        let parameters = fields.take_object("parameters");
        fields.finish();
        let mut fields = Fields::new(format!("{path}.parameters"), parameters, faults);
        let parameters = take_parameters(&mut fields);
        fields.finish();
        outputs.push(ExtraOutput { url, scenario, parameters });
    }
    outputs
}

/// Everything in `parameters` that is about the encode.
fn take_parameters(fields: &mut Fields<'_>) -> Parameters {
    let mut parameters = Parameters {
        codec: fields.take_either("codec", "encoder"),
        bitrate: fields.take("bitrate"),
        maxrate: fields.take("maxrate"),
        bufsize: fields.take("bufsize"),
        crf: fields.take("crf"),
        preset: fields.take("preset"),
        tune: fields.take("tune"),
        gop: fields.take("gop"),
        duration: fields.take_either("duration", "duration_seconds"),
        resolution: fields.take("resolution"),
        fps: fields.take_either("fps", "frame_rate"),
        hw: fields.take("hw"),
        pixel_format: fields.take("pixel_format"),
        audio_codec: fields.take("audio_codec"),
        audio_bitrate: fields.take("audio_bitrate"),
        container: fields.take("container"),
        passes: fields.take("passes"),
        profile: fields.take("profile"),
        fit: fields.take("fit"),
        crop: fields.take("crop"),
        deinterlace: fields.take("deinterlace"),
        hdr: fields.take("hdr"),
        start: fields.take("start"),
        end: fields.take("end"),
        audio_channels: fields.take("audio_channels"),
        sample_rate: fields.take("sample_rate"),
        loudness: fields.take("loudness"),
        true_peak: fields.take("true_peak"),
        audio_streams: fields.take("audio_streams"),
        subtitles: fields.take("subtitles"),
        subtitle_streams: fields.take("subtitle_streams"),
        metadata: fields.take("metadata"),
        chapters: fields.take("chapters"),
        quality: fields.take("quality"),
        quality_target: fields.take("quality_target"),
        target_vmaf: fields.take("target_vmaf"),
        target_psnr: fields.take("target_psnr"),
        target_ssim: fields.take("target_ssim"),
        segment_type: fields.take("segment_type"),
        segment_seconds: fields.take("segment_seconds"),
        every_sec: fields.take("every_sec"),
        picture_count: fields.take("picture_count"),
        picture_format: fields.take("picture_format"),
        columns: fields.take("columns"),
        rows: fields.take("rows"),
        ladder: fields.take("ladder"),
        output_mode: fields.take::<OutputMode>("output_mode"),
        reconnect_sec: fields.take("reconnect_sec"),
        restarts: fields.take("restarts"),
        source_end: fields.take("source_end"),
    };
    read_width_and_height(&mut parameters, fields);
    parameters
}

fn read_parameters(spec: &mut JobSpec, object: Map<String, Value>, faults: &mut Vec<Fault>) -> ResourceLimits {
    let mut fields = Fields::new("parameters", object, faults);
    let parameters = take_parameters(&mut fields);
    for (name, slot) in [("input", &mut spec.input), ("output", &mut spec.output)] {
        if let Some(nested) = fields.take::<String>(name) {
            if slot.as_ref().is_some_and(|outer| *outer != nested) {
                fields.fault(
                    name,
                    "contradiction",
                    format!("`{name}` stands outside `parameters` too, and differs: give one"),
                );
            }
            slot.get_or_insert(nested);
        }
    }
    let nested = fields.take_object("resource_limits");
    let flat: Map<String, Value> = ["max_cpu_percent", "max_memory_mb", "max_disk_mb", "timeout_sec", "stall_sec"]
        .into_iter()
        .filter_map(|name| {
            fields.known.push(name);
            fields.rest.remove(name).map(|value| (name.to_owned(), value))
        })
        .collect();
    fields.finish();
    spec.parameters = parameters;
    let mut limits = read_limits("parameters.resource_limits", nested, faults);
    let flat = read_limits("parameters", flat, faults);
    merge_limits(&mut limits, flat, faults);
    limits
}

fn read_width_and_height(parameters: &mut Parameters, fields: &mut Fields<'_>) {
    let width: Option<u32> = fields.take("resolution_width");
    let height: Option<u32> = fields.take("resolution_height");
    match (width, height) {
        (None, None) => {}
        (Some(width), Some(height)) => match Resolution::new(width, height) {
            Ok(size) if parameters.resolution.is_some_and(|given| given != size) => fields.fault(
                "resolution_width",
                "contradiction",
                "`resolution` and `resolution_width` with `resolution_height` are the same thing and differ: give one",
            ),
            Ok(size) => parameters.resolution = Some(size),
            Err(error) => fields.fault("resolution_width", "bad_value", error.to_string()),
        },
        (Some(_), None) => fields.fault("resolution_height", "missing", "`resolution_width` needs `resolution_height`"),
        (None, Some(_)) => fields.fault("resolution_width", "missing", "`resolution_height` needs `resolution_width`"),
    }
}

fn read_limits(prefix: &'static str, object: Map<String, Value>, faults: &mut Vec<Fault>) -> ResourceLimits {
    let mut fields = Fields::new(prefix, object, faults);
    let limits = ResourceLimits {
        max_cpu_percent: fields.take("max_cpu_percent"),
        max_memory_mb: fields.take("max_memory_mb"),
        max_disk_mb: fields.take("max_disk_mb"),
        timeout_sec: fields.take("timeout_sec"),
        stall_sec: fields.take("stall_sec"),
    };
    fields.finish();
    limits
}

fn merge_limits(into: &mut ResourceLimits, other: ResourceLimits, faults: &mut Vec<Fault>) {
    fn merge<T: PartialEq + Copy>(into: &mut Option<T>, other: Option<T>, name: &str, faults: &mut Vec<Fault>) {
        if let (Some(a), Some(b)) = (&*into, &other)
            && a != b
        {
            let path = format!("resource_limits.{name}");
            faults.push(Fault::new(
                path,
                "contradiction",
                format!("`{name}` is given twice and differs: give it once"),
            ));
        }
        *into = into.or(other);
    }
    merge(&mut into.max_cpu_percent, other.max_cpu_percent, "max_cpu_percent", faults);
    merge(&mut into.max_memory_mb, other.max_memory_mb, "max_memory_mb", faults);
    merge(&mut into.max_disk_mb, other.max_disk_mb, "max_disk_mb", faults);
    merge(&mut into.timeout_sec, other.timeout_sec, "timeout_sec", faults);
    merge(&mut into.stall_sec, other.stall_sec, "stall_sec", faults);
}

/// The JSON Schema (draft 2020-12) of a job, with every spelling that [`parse`] takes.
#[must_use]
pub fn job_schema() -> Value {
    let mut schema = schemars::schema_for!(JobSpec).to_value();
    let limits = schema["$defs"]["ResourceLimits"]["properties"].clone();
    let addresses = ["input", "output"].map(|name| (name, schema["properties"][name].clone()));
    let parameters = &mut schema["$defs"]["Parameters"]["properties"];
    for (alias, canonical) in [("encoder", "codec"), ("duration_seconds", "duration"), ("frame_rate", "fps")] {
        parameters[alias] = parameters[canonical].clone();
    }
    for side in ["resolution_width", "resolution_height"] {
        parameters[side] = serde_json::json!({"type": ["integer", "null"], "minimum": 16, "maximum": 16384});
    }
    parameters["resource_limits"] = serde_json::json!({"$ref": "#/$defs/ResourceLimits"});
    for (name, property) in addresses {
        parameters[name] = property;
    }
    if let Value::Object(limits) = limits {
        for (name, property) in limits {
            parameters[name] = property;
        }
    }
    schema["title"] = "ffpool job".into();
    schema
}
