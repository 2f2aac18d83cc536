//! Where inputs and outputs lie: typed addresses, and one way to show them without the secrets they may hold.
//!
//! Invariant: a [`Location`] names one file or one object. User and password, fragments, `..` and empty names never get
//! through, so whoever opens a location need not look again.

use std::fmt;

use crate::live::LiveAddress;
use crate::scenario::path_of;

/// The longest key of an object, in bytes. S3 and Cloud Storage take 1024; the manifest's key is a little longer.
const KEY_BYTES: usize = 1000;
/// The longest web address that is taken, in bytes.
const URL_BYTES: usize = 8192;
/// How a location is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// A file below a worker's media roots.
    File,
    /// A web server, in clear. Inputs only.
    Http,
    /// A web server with TLS. Inputs only.
    Https,
    /// Amazon S3 and what speaks its language.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 6] = [Scheme::File, Scheme::Http, Scheme::Https, Scheme::S3, Scheme::Gs, Scheme::Az];

    /// The name before `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::File => "file",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        }
    }

    /// Whether it is an object store.
    #[must_use]
    pub fn is_object_store(self) -> bool {
        match self {
            Scheme::S3 | Scheme::Gs | Scheme::Az => true,
            Scheme::File | Scheme::Http | Scheme::Https => false,
        }
    }

    fn of(name: &str) -> Option<Scheme> {
        let lower = name.to_ascii_lowercase();
        Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == lower)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object in a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectAddress {
    /// Which kind of store: one of those for which [`Scheme::is_object_store`] holds.
    pub scheme: Scheme,
    /// The bucket, or the container.
    pub bucket: String,
    /// The key, as it stands: nothing in it is percent-decoded.
    pub key: String,
}

impl fmt::Display for ObjectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme, self.bucket, self.key)
    }
}

/// Where an input or an output lies.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A file, by its absolute path.
    File(String),
    /// A resource of a web server, by its whole address. It may hold a signature: show it through [`redact`].
    Web(String),
    /// An object.
    Object(ObjectAddress),
    /// A live source or sink.
    Live(LiveAddress),
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl fmt::Display for Location {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => f.write_str(path),
            Location::Web(url) => f.write_str(&redact(url)),
            Location::Object(object) => write!(f, "{object}"),
            Location::Live(live) => write!(f, "{live}"),
        }
    }
}

/// What a location is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Input,
    /// It is written.
    Output,
}

/// Why an address is no location: a stable code, and what is wrong with the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLocation {
    /// The code of the fault.
    pub code: &'static str,
    /// What is wrong and what is expected, without secrets.
    pub message: String,
}

impl BadLocation {
    fn new(code: &'static str, message: impl Into<String>) -> BadLocation {
        BadLocation { code, message: message.into() }
    }
}

impl Location {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(address: &str, purpose: Use) -> Result<Location, BadLocation> {
        if address.chars().any(char::is_control) {
            return Err(BadLocation::new("bad_value", "an address has no control characters in it"));
        }
        if let Some(path) = path_of(address) {
            // As `%0A`: a line of a list of files, or of a log, would end there.
            if path.chars().any(char::is_control) {
                return Err(BadLocation::new("bad_value", "the name of a file has no control characters in it"));
            }
            return Ok(Location::File(path));
        }
        if LiveAddress::is_named_by(address, purpose) {
            return LiveAddress::parse(address).map(Location::Live);
        }
        let shown = crate::id::excerpt(&redact(address));
        let expected = "a file://, http://, https://, s3://, gs://, az://, rtmp://, rtmps:// or srt:// address or an absolute path is expected";
        let Some((name, rest)) = address.split_once("://") else {
            return Err(BadLocation::new("bad_value", format!("`{shown}` is no address: {expected}")));
        };
        match Scheme::of(name) {
            Some(scheme @ (Scheme::Http | Scheme::Https)) => web(scheme, rest, &shown, purpose),
            Some(scheme @ (Scheme::S3 | Scheme::Gs | Scheme::Az)) => object(scheme, rest, &shown).map(Location::Object),
            Some(Scheme::File) => {
                let message = format!("`{shown}` is no file of this host: file:///absolute/path is expected");
                Err(BadLocation::new("bad_value", message))
            }
            None => Err(BadLocation::new(
                "bad_value",
                format!("`{}` is not supported: {expected}", crate::id::excerpt(name)),
            )),
        }
    }

    /// What of it has an extension: the path or the key.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Location::File(path) => path,
            Location::Web(url) => url.split('?').next().unwrap_or_default(),
            Location::Object(object) => &object.key,
            Location::Live(_) => "",
        }
    }

    /// Whether a worker that says it serves `stores` reaches it: its scheme, or its scheme and bucket, is among them.
    /// Files are a matter of media roots, and looked for by each worker itself.
    #[must_use]
    pub fn is_served_by(&self, stores: &[String]) -> bool {
        let has = |name: &str| stores.iter().any(|store| store == name);
        match self {
            Location::File(_) => true,
            // Which protocols a worker speaks is among its features.
            Location::Live(_) => true,
            Location::Web(url) if url.starts_with("https:") => has(Scheme::Https.as_str()),
            Location::Web(_) => has(Scheme::Http.as_str()),
            Location::Object(object) => {
                has(object.scheme.as_str()) || has(&format!("{}://{}", object.scheme, object.bucket))
            }
        }
    }
}

fn web(scheme: Scheme, rest: &str, shown: &str, purpose: Use) -> Result<Location, BadLocation> {
    if purpose == Use::Output {
        return Err(BadLocation::new(
            "unsupported",
            format!(
                "`{scheme}` is for inputs only: a web server cannot promise that a late attempt does not replace a newer \
                 one's output; use file://, s3://, gs:// or az://"
            ),
        ));
    }
    if rest.len() > URL_BYTES {
        return Err(BadLocation::new("too_long", format!("an address has at most {URL_BYTES} bytes")));
    }
    no_fragment(rest, shown)?;
    if rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        let message = format!("`{shown}` has white space or a backslash in it: write them as %20 and %5C");
        return Err(BadLocation::new("bad_value", message));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    no_user(authority)?;
    if authority.is_empty() || authority.starts_with(':') {
        return Err(BadLocation::new("bad_value", format!("`{shown}` names no host")));
    }
    Ok(Location::Web(format!("{scheme}://{rest}")))
}

fn object(scheme: Scheme, rest: &str, shown: &str) -> Result<ObjectAddress, BadLocation> {
    no_fragment(rest, shown)?;
    no_user(rest.split(['/', '?']).next().unwrap_or_default())?;
    if rest.contains('?') {
        let message = format!("`{shown}` has a query: a bucket and a key are expected; credentials are the worker's");
        return Err(BadLocation::new("bad_value", message));
    }
    let Some((bucket, key)) = rest.split_once('/') else {
        return Err(BadLocation::new(
            "no_file",
            format!("`{shown}` names no object: {scheme}://bucket/key is expected"),
        ));
    };
    let is_bucket_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    if !(3..=222).contains(&bucket.len())
        || !bucket.chars().all(is_bucket_letter)
        || !bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
        || bucket.contains("..")
    {
        let message = format!(
            "`{shown}` names no bucket: 3 or more lower-case letters, digits, `-`, `_` and single `.` are expected"
        );
        return Err(BadLocation::new("bad_bucket", message));
    }
    if key.is_empty() || key.ends_with('/') {
        return Err(BadLocation::new("no_file", format!("`{shown}` names no object: it ends with `/`")));
    }
    if key.len() > KEY_BYTES {
        return Err(BadLocation::new("name_too_long", format!("the key of `{shown}` has more than {KEY_BYTES} bytes")));
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let message = format!("`{shown}` has an empty part, `.` or `..` in its key");
        return Err(BadLocation::new("bad_key", message));
    }
    Ok(ObjectAddress { scheme, bucket: bucket.to_owned(), key: key.to_owned() })
}

fn no_fragment(rest: &str, shown: &str) -> Result<(), BadLocation> {
    if rest.contains('#') {
        return Err(BadLocation::new("bad_value", format!("`{shown}` has a fragment: leave out `#` and what follows")));
    }
    Ok(())
}

fn no_user(authority: &str) -> Result<(), BadLocation> {
    if authority.contains('@') {
        return Err(BadLocation::new(
            "credentials_in_address",
            "an address with a user or password is not taken: a job is stored and shown. Sign the address, or give the \
             worker its own credentials",
        ));
    }
    Ok(())
}

/// A text with everything taken out of its addresses that may be a secret: user and password, the query, where
/// signatures stand, and the key of an RTMP stream, which is what follows its application. Only white space surely ends an address, for quotes may stand in one: what follows a query without
/// any is taken out with it.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        cleaned.push_str(before);
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        // A second address in one word, unless it stands in the first one's query.
        let inner = after[..end].find("://").filter(|inner| !after[..*inner].contains('?'));
        let scheme = |inner: usize| after[..inner].trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
        let (url, tail) = after.split_at(inner.map_or(end, scheme));
        let is_rtmp = ["rtmp://", "rtmps://"].iter().any(|scheme| {
            let start = before.len().checked_sub(scheme.len());
            start.and_then(|start| before.get(start..)).is_some_and(|found| found.eq_ignore_ascii_case(scheme))
        });
        let authority = url.find(['/', '?']).unwrap_or(url.len());
        let host = url[..authority].rfind('@').map_or(0, |at| at + 1);
        if host > 0 {
            cleaned.push_str("***@");
        }
        let key = || {
            // A slash of the query is none of the path.
            let place = url.split('?').next().unwrap_or_default();
            let path = place.find('/').filter(|_| is_rtmp)?;
            place[path + 1..].find('/').map(|app| path + app + 2).filter(|key| *key < url.len())
        };
        if let Some(key) = key() {
            cleaned.push_str(&url[host..key]);
            cleaned.push_str("***");
            rest = tail;
            continue;
        }
        match url[host..].split_once('?') {
            Some((path, _)) => {
                cleaned.push_str(path);
                cleaned.push_str("?***");
            }
            None => cleaned.push_str(&url[host..]),
        }
        rest = tail;
    }
    cleaned.push_str(rest);
    cleaned
}

/// The same for every text within a job that is not typed yet.
pub fn redact_within(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = redact(text),
        Value::Array(values) => values.iter_mut().for_each(redact_within),
        Value::Object(fields) => fields.values_mut().for_each(redact_within),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(address: &str, purpose: Use) -> &'static str {
        match Location::parse(address, purpose) {
            Ok(_) => "ok",
            Err(bad) => bad.code,
        }
    }

    #[test]
    fn good_addresses_are_typed() {
        let input = |address| Location::parse(address, Use::Input).unwrap();
        assert_eq!(input("/m/a b.mp4"), Location::File("/m/a b.mp4".into()));
        assert_eq!(input("file:///m/a%20b.mp4"), Location::File("/m/a b.mp4".into()));
        assert_eq!(input("HTTPS://h:8443/a.mp4?x=1"), Location::Web("https://h:8443/a.mp4?x=1".into()));
        let object = ObjectAddress { scheme: Scheme::S3, bucket: "media.in".into(), key: "a/b%20@c.mp4".into() };
        assert_eq!(input("s3://media.in/a/b%20@c.mp4"), Location::Object(object.clone()));
        assert_eq!(object.to_string(), "s3://media.in/a/b%20@c.mp4");
        for (address, scheme) in [("gs://bucket/k", Scheme::Gs), ("az://container/k", Scheme::Az)] {
            let is_there =
                |location: &Location| matches!(location, Location::Object(object) if object.scheme == scheme);
            assert!(Location::parse(address, Use::Output).is_ok_and(|location| is_there(&location)), "{address}");
        }
        for (address, purpose) in [("rtmp://h/app/key", Use::Output), ("https://h/a.m3u8", Use::Input)] {
            assert!(matches!(Location::parse(address, purpose), Ok(Location::Live(_))), "{address}");
        }
    }

    #[test]
    fn bad_addresses_are_refused_each_with_its_code() {
        for (address, expected) in [
            ("relative.mp4", "bad_value"),
            ("file://elsewhere/a.mp4", "bad_value"),
            ("ftp://h/a.mp4", "bad_value"),
            ("rtmp://h/a", "bad_value"),
            ("rtsp://h/a", "bad_value"),
            ("http://h/a\0b", "bad_value"),
            ("file:///m/a%0Afile%20b.mp4", "bad_value"),
            ("file:///m/a%00.mp4", "bad_value"),
            ("file:///m/a%+5.mp4", "bad_value"),
            ("http:///a.mp4", "bad_value"),
            ("http://:80/a.mp4", "bad_value"),
            ("http://h/a b.mp4", "bad_value"),
            ("https://joe:secret@h/a.mp4", "credentials_in_address"),
            ("https://h/a.mp4#t=10", "bad_value"),
            ("s3://key:secret@bucket/a.mp4", "credentials_in_address"),
            ("s3://bucket", "no_file"),
            ("s3://bucket/", "no_file"),
            ("s3://bucket/dir/", "no_file"),
            ("s3:///a.mp4", "bad_bucket"),
            ("s3://Bucket/a.mp4", "bad_bucket"),
            ("s3://bu..cket/a.mp4", "bad_bucket"),
            ("s3://bucket/a/../b.mp4", "bad_key"),
            ("s3://bucket//b.mp4", "bad_key"),
            ("s3://bucket/a.mp4?versionId=1", "bad_value"),
            ("s3://bucket/a.mp4#x", "bad_value"),
        ] {
            assert_eq!(code(address, Use::Input), expected, "{address}");
        }
        assert_eq!(code("https://h/a.mp4", Use::Output), "unsupported");
        assert_eq!(code(&format!("s3://bucket/{}", "k".repeat(1001)), Use::Output), "name_too_long");
    }

    #[test]
    fn secrets_do_not_show() {
        let signed = "https://h/a.mp4?X-Amz-Signature=abc";
        let location = Location::parse(signed, Use::Input).unwrap();
        assert_eq!(location.to_string(), "https://h/a.mp4?***");
        assert_eq!(format!("{location:?}"), "Location(https://h/a.mp4?***)");
        for bad in ["https://joe:hunter2@h/a.mp4", "ftp://joe:hunter2@h/a.mp4", "s3://b/a?token=hunter2"] {
            let message = Location::parse(bad, Use::Input).unwrap_err().message;
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert_eq!(redact("a://b/@c 'rtmp://u:p@h/app/key'"), "a://b/@c 'rtmp://***@h/app/***");
        assert_eq!(
            redact("[f=flv]rtmp://h/app/key|[f=flv]RTMPS://i/app/x?y=z end"),
            "[f=flv]rtmp://h/app/***RTMPS://i/app/*** end"
        );
        assert_eq!(redact("rtmp://h/app?token=hun/ter2/x"), "rtmp://h/app?***");
        assert_eq!(redact("rtmp://h?token=hun/ter2/x"), "rtmp://h?***");
        assert_eq!(redact("no url here"), "no url here");
        for secret in ["https://b/it's/x.mp4?name='a.mp4'&sig=hunter2", "'https://b/x?sig=hunter2': reset by peer"] {
            assert!(!redact(secret).contains("hunter2"), "{}", redact(secret));
        }
    }

    #[test]
    fn secrets_do_not_show_in_a_job_as_it_was_written() {
        let mut job = serde_json::json!({
            "scenario": "720p30-h264", "input": "https://h/a.mp4?sig=hunter2", "max_retries": 3,
            "outputs": [{"url": "rtmp://h/live/hunter2"}, {"url": "/m/a.mp4"}],
        });
        redact_within(&mut job);
        let expected = serde_json::json!({
            "scenario": "720p30-h264", "input": "https://h/a.mp4?***", "max_retries": 3,
            "outputs": [{"url": "rtmp://h/live/***"}, {"url": "/m/a.mp4"}],
        });
        assert_eq!(job, expected);
    }

    #[test]
    fn a_worker_serves_what_it_says() {
        let stores = ["https".to_owned(), "s3://media".to_owned(), "gs".to_owned()];
        for (address, served) in [
            ("/m/a.mp4", true),
            ("https://h/a", true),
            ("http://h/a", false),
            ("s3://media/a", true),
            ("s3://other/a", false),
            ("gs://any/a", true),
            ("az://any/a", false),
        ] {
            assert_eq!(Location::parse(address, Use::Input).unwrap().is_served_by(&stores), served, "{address}");
        }
    }
}
