//! Live sources and sinks: their addresses as types, and how a live job goes on when one of them goes away.
//!
//! Invariant: an address has a known protocol, a host, and only letters that stand for themselves in every place where
//! FFmpeg takes one; its stream key, passphrase and user never show: [`std::fmt::Display`] and [`std::fmt::Debug`]
//! leave them out, and [`LiveAddress::secrets`] names them for whoever prints what others said.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::location::{BadLocation, Use, redact};

/// The longest live address, in bytes.
const ADDRESS_BYTES: usize = 2048;
/// What a SRT address may say after its `?`.
const SRT_KEYS: [&str; 4] = ["streamid", "passphrase", "latency", "mode"];
/// Milliseconds that SRT may wait for what was lost.
const SRT_LATENCY_MS: std::ops::RangeInclusive<u32> = 20..=8000;

/// How live media travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// RTMP, in clear.
    Rtmp,
    /// RTMP with TLS.
    Rtmps,
    /// SRT, as the side that calls.
    Srt,
    /// An HLS playlist of a web server, in clear. Sources only.
    Hls,
    /// The same with TLS.
    HlsTls,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Protocol; 5] = [Protocol::Rtmp, Protocol::Rtmps, Protocol::Srt, Protocol::Hls, Protocol::HlsTls];

    /// The name before `://`.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Protocol::Rtmp => "rtmp",
            Protocol::Rtmps => "rtmps",
            Protocol::Srt => "srt",
            Protocol::Hls => "http",
            Protocol::HlsTls => "https",
        }
    }

    /// The feature of a worker whose FFmpeg speaks it.
    #[must_use]
    pub fn feature(self) -> &'static str {
        match self {
            Protocol::Rtmp => "live-rtmp",
            Protocol::Rtmps => "live-rtmps",
            Protocol::Srt => "live-srt",
            Protocol::Hls | Protocol::HlsTls => "live-hls",
        }
    }

    /// Whether it is spoken through a web client that can be sent through a proxy.
    #[must_use]
    pub fn is_web(self) -> bool {
        match self {
            Protocol::Hls | Protocol::HlsTls => true,
            Protocol::Rtmp | Protocol::Rtmps | Protocol::Srt => false,
        }
    }

    fn usual_port(self) -> Option<u16> {
        match self {
            Protocol::Rtmp => Some(1935),
            Protocol::Rtmps | Protocol::HlsTls => Some(443),
            Protocol::Hls => Some(80),
            Protocol::Srt => None,
        }
    }
}

/// The address of a live source or sink.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LiveAddress {
    /// How it is reached.
    pub protocol: Protocol,
    /// Name or address of the host; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `user:password`, RTMP only.
    user: Option<String>,
    /// From the first `/`; RTMP: `/app/key`. Empty for SRT.
    path: String,
    /// After `?`.
    query: Option<String>,
}

impl fmt::Display for LiveAddress {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.url()))
    }
}

impl fmt::Debug for LiveAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveAddress({self})")
    }
}

impl LiveAddress {
    /// Whether an address is one of a live source or sink: by its scheme, or as the playlist of a web server.
    #[must_use]
    pub fn is_named_by(address: &str, purpose: Use) -> bool {
        let Some((scheme, rest)) = address.split_once("://") else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "rtmp" | "rtmps" | "srt" => true,
            "http" | "https" => purpose == Use::Input && is_playlist(rest),
            _ => false,
        }
    }

    /// Reads an address for which [`LiveAddress::is_named_by`] holds.
    ///
    /// # Errors
    /// What is wrong with it, without its secrets.
    pub fn parse(address: &str) -> Result<LiveAddress, BadLocation> {
        let shown = crate::id::excerpt(&redact(address));
        let bad = |message: String| BadLocation { code: "bad_value", message };
        let (scheme, rest) = address.split_once("://").unwrap_or((address, ""));
        let scheme = scheme.to_ascii_lowercase();
        let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.scheme() == scheme) else {
            return Err(bad(format!(
                "`{shown}` has no live protocol: rtmp, rtmps, srt or an HLS playlist is expected"
            )));
        };
        let fits = |length: usize| {
            let message = format!("a live address has at most {ADDRESS_BYTES} bytes, its port among them");
            if length <= ADDRESS_BYTES { Ok(()) } else { Err(BadLocation { code: "too_long", message }) }
        };
        fits(address.len())?;
        // Nothing here may be a quote, a separator or an escape where FFmpeg takes lists of outputs and options.
        if let Some(odd) = rest.chars().find(|c| !c.is_ascii_alphanumeric() && !"-._~:/?@!$&*+,;=%[]".contains(*c)) {
            return Err(bad(format!("`{shown}` has {odd:?} in it: write it as %{:02X}", u32::from(odd))));
        }
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query.to_owned())),
            None => (rest, None),
        };
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        if path.contains(['[', ']']) || query.as_deref().is_some_and(|query| query.contains(['[', ']'])) {
            return Err(bad(format!("`{shown}` has a bracket behind its host: write it as %5B or %5D")));
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        let (host, port) = host_and_port(host)
            .ok_or_else(|| bad(format!("`{shown}` names no host: {scheme}://host:port is expected")))?;
        let Some(port) = port.or(protocol.usual_port()) else {
            return Err(bad(format!("`{shown}` names no port: srt://host:port is expected")));
        };
        let live = LiveAddress { protocol, host, port, user, path: path.to_owned(), query };
        // Written out it has its port: whoever is handed that must be able to read it.
        fits(live.url().len())?;
        live.check(&shown)?;
        Ok(live)
    }

    fn check(&self, shown: &str) -> Result<(), BadLocation> {
        let bad = |message: String| Err(BadLocation { code: "bad_value", message });
        match self.protocol {
            Protocol::Rtmp | Protocol::Rtmps => {
                let parts: Vec<&str> = self.path.split('/').skip(1).collect();
                if parts.len() < 2 || parts.iter().any(|part| part.is_empty()) {
                    return bad(format!(
                        "`{shown}` names no stream: {}://host/app/key is expected",
                        self.protocol.scheme()
                    ));
                }
            }
            Protocol::Srt => {
                if self.user.is_some() || self.path.len() > 1 {
                    return bad(format!("`{shown}`: srt://host:port?streamid=... is expected, without user and path"));
                }
                self.check_srt(shown)?;
            }
            Protocol::Hls | Protocol::HlsTls => {
                if self.user.is_some() {
                    return Err(BadLocation {
                        code: "credentials_in_address",
                        message: "a playlist's address with a user or password is not taken: sign the address"
                            .to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    fn check_srt(&self, shown: &str) -> Result<(), BadLocation> {
        for part in self.query.iter().flat_map(|query| query.split('&')) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (code, wrong) = match key {
                "streamid" if (1..=512).contains(&value.len()) => continue,
                "streamid" => ("out_of_range", "a `streamid` has 1 to 512 bytes".to_owned()),
                // Taken literally by FFmpeg, so nothing that would have to be decoded.
                "passphrase" if (10..=79).contains(&value.len()) && !value.contains('%') => continue,
                "passphrase" => ("out_of_range", "a `passphrase` has 10 to 79 characters, none of them %".to_owned()),
                "latency" if value.parse().is_ok_and(|ms: u32| SRT_LATENCY_MS.contains(&ms)) => continue,
                "latency" => ("out_of_range", "`latency` is 20 to 8000 milliseconds".to_owned()),
                "mode" if value == "caller" => continue,
                "mode" => ("unsupported", "a worker calls and does not listen: `mode` is `caller`".to_owned()),
                other => ("bad_value", format!("`{other}` is unknown: one of {} is expected", SRT_KEYS.join(", "))),
            };
            return Err(BadLocation { code, message: format!("`{shown}`: {wrong}") });
        }
        Ok(())
    }

    /// The whole address, secrets and all.
    #[must_use]
    pub fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{}{query}", self.base(&self.host), self.path)
    }

    /// What FFmpeg is given: the address with the host at `ip`, where the protocol does not need its name. A certificate is
    /// for a name, so with TLS the name stays.
    #[must_use]
    pub fn dialled(&self, ip: Option<IpAddr>) -> String {
        let host = match (self.protocol, ip) {
            (Protocol::Rtmp | Protocol::Srt, Some(ip)) => ip.to_string(),
            (Protocol::Rtmp | Protocol::Srt, None) | (Protocol::Rtmps | Protocol::Hls | Protocol::HlsTls, _) => {
                self.host.clone()
            }
        };
        let base = self.base(&host);
        match self.protocol {
            Protocol::Srt => {
                let mut url = format!("{base}?mode=caller&transtype=live&pkt_size=1316");
                for part in self.query.iter().flat_map(|query| query.split('&')) {
                    match part.split_once('=') {
                        // FFmpeg counts in microseconds.
                        Some(("latency", ms)) => url += &format!("&latency={ms}000"),
                        Some((key @ ("streamid" | "passphrase"), value)) => url += &format!("&{key}={value}"),
                        Some(_) | None => {}
                    }
                }
                url
            }
            Protocol::Rtmp | Protocol::Rtmps | Protocol::Hls | Protocol::HlsTls => {
                let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
                format!("{base}{}{query}", self.path)
            }
        }
    }

    /// What GStreamer's elements of SRT are given: the address with the host at `ip`.
    #[must_use]
    pub fn srt_uri(&self, ip: Option<IpAddr>) -> String {
        let mut uri = format!("{}?mode=caller", self.base(&ip.map_or_else(|| self.host.clone(), |ip| ip.to_string())));
        for part in self.query.iter().flat_map(|query| query.split('&')) {
            if let Some((key @ ("streamid" | "passphrase" | "latency"), value)) = part.split_once('=') {
                uri += &format!("&{key}={value}");
            }
        }
        uri
    }

    /// The address of a playlist as the worker's proxy is asked for it, which speaks TLS itself where that is called for.
    #[must_use]
    pub fn in_clear(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("http://{}:{}{}{query}", bracketed(&self.host), self.port, self.path)
    }

    /// What an RTMP server is told that it was called by: its name, whatever address it was reached at.
    #[must_use]
    pub fn rtmp_server(&self) -> Option<String> {
        match self.protocol {
            Protocol::Rtmp => {
                let app = self.path.split('/').nth(1)?;
                Some(format!("rtmp://{}:{}/{app}", bracketed(&self.host), self.port))
            }
            Protocol::Rtmps | Protocol::Srt | Protocol::Hls | Protocol::HlsTls => None,
        }
    }

    fn base(&self, host: &str) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{}://{user}{}:{}", self.protocol.scheme(), bracketed(host), self.port)
    }

    /// Texts of it that must not be shown, longest first.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = Vec::new();
        secrets.extend(self.user.clone());
        secrets.extend(self.user.iter().filter_map(|user| Some(user.split_once(':')?.1.to_owned())));
        match self.protocol {
            Protocol::Rtmp | Protocol::Rtmps => {
                let key: Vec<&str> = self.path.splitn(3, '/').skip(2).collect();
                secrets.extend(key.iter().map(|key| (*key).to_owned()));
                secrets.extend(key.iter().filter_map(|key| key.rsplit('/').next()).map(str::to_owned));
            }
            Protocol::Srt | Protocol::Hls | Protocol::HlsTls => {}
        }
        if let Some(query) = &self.query {
            secrets.push(query.clone());
            let hidden = |key: &str| self.protocol != Protocol::Srt || matches!(key, "streamid" | "passphrase");
            let values = query.split('&').filter_map(|part| part.split_once('=')).filter(|(key, _)| hidden(key));
            for (_, value) in values {
                secrets.push(value.to_owned());
                // As whoever decodes it says it.
                secrets.extend(crate::percent::strictly_decoded(value));
            }
        }
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        secrets
    }
}

/// Whether the path of an address, from the host on, is that of a playlist.
fn is_playlist(rest: &str) -> bool {
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    // A host may be called so too, and is no playlist.
    place.split_once('/').is_some_and(|(_, path)| path.to_ascii_lowercase().ends_with(".m3u8"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A host's name or address, and the port where there is one.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let host: std::net::Ipv6Addr = host.parse().ok()?;
        return match after.strip_prefix(':') {
            Some(number) => Some((host.to_string(), Some(port(number)?))),
            None if after.is_empty() => Some((host.to_string(), None)),
            None => None,
        };
    }
    let (host, number) = match text.split_once(':') {
        Some((host, number)) => (host, Some(port(number)?)),
        None => (text, None),
    };
    let is_name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    (!host.is_empty() && !host.starts_with('-') && is_name(host)).then(|| (host.to_owned(), number))
}

/// A text with every one of these secrets taken out of it, where it stands alone: a short one is no reason to cut words.
#[must_use]
pub fn hide(text: &str, secrets: &[String]) -> String {
    let mut hidden = text.to_owned();
    for secret in secrets {
        let mut from = 0;
        while let Some(at) = hidden[from..].find(secret.as_str()).map(|at| from + at) {
            let end = at + secret.len();
            let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let stands_alone = !is_part(hidden[..at].chars().next_back()) && !is_part(hidden[end..].chars().next());
            if stands_alone || secret.len() >= 8 {
                hidden.replace_range(at..end, "***");
                from = at + 3;
            } else {
                from = end;
            }
        }
    }
    hidden
}

/// What the end of a live source means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceEnd {
    /// The job is done: what was sent and recorded is all there was.
    Finish,
    /// The attempt fails.
    Fail,
}

/// The live half of an encode: where it goes besides a file, and how it goes on when something goes away.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Addresses to which it is sent, whole.
    pub sinks: Vec<String>,
    /// The absolute path of an HLS playlist that grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playlist: Option<String>,
    /// The absolute path of a DASH presentation that grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presentation: Option<String>,
    /// Whether it is recorded to the encode's output.
    pub record: bool,
    /// Seconds that the source, or all sinks, may be away in one piece.
    pub reconnect_secs: u64,
    /// Starts of the tool after the first, in one attempt.
    pub restarts: u32,
    /// What it means when the source stays away.
    pub source_end: SourceEnd,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sinks: Vec<String> = self.sinks.iter().map(|sink| redact(sink)).collect();
        f.debug_struct("Live")
            .field("sinks", &sinks)
            .field("playlist", &self.playlist)
            .field("presentation", &self.presentation)
            .field("record", &self.record)
            .field("reconnect_secs", &self.reconnect_secs)
            .field("restarts", &self.restarts)
            .field("source_end", &self.source_end)
            .finish()
    }
}

impl Live {
    /// The feature of a worker that carries out live jobs.
    pub const FEATURE: &'static str = "live";
    /// The feature of a worker that makes live presentations of DASH.
    pub const DASH_FEATURE: &'static str = "live-dash";
    /// Seconds that source or sinks may be away in a job that does not say.
    pub const RECONNECT_SECS: u64 = 60;
    /// Restarts of a job that does not say.
    pub const RESTARTS: u32 = 1000;
    /// Seconds of silence of a live source after which a run has stalled, in a job that does not say: three usual distances of
    /// key frames of a slow sort.
    pub const STALL_SEC: u64 = 15;
    /// The same where the source is a file or generated and only sinks are live, on a worker that is not set otherwise.
    pub const FED_STALL_SEC: u64 = 300;

    /// Seconds of silence after which the tool is started again: what the job asks for, or what is usual for a live source
    /// or for one that the tool feeds itself.
    #[must_use]
    pub fn stall_sec(asked: Option<u64>, is_live: bool, fed: u64) -> u64 {
        asked.unwrap_or(if is_live { Live::STALL_SEC } else { fed })
    }
    /// Wall time of a live attempt of a job that does not say, in seconds: the longest that can be asked for.
    pub const TIMEOUT_SEC: u64 = 30 * 86_400;

    /// Whether nothing is left of it when no sink takes it.
    #[must_use]
    pub fn needs_sink(&self) -> bool {
        !self.record && self.playlist.is_none() && self.presentation.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> LiveAddress {
        LiveAddress::parse(address).unwrap_or_else(|bad| panic!("{address}: {bad:?}"))
    }

    #[test]
    fn addresses_are_typed_and_dialled_at_the_address_that_was_checked() {
        let rtmp = parse("rtmp://u:pw@live.example/app/key-1?token=t0");
        assert_eq!((rtmp.host.as_str(), rtmp.port), ("live.example", 1935));
        let ip = "203.0.113.9".parse().ok();
        assert_eq!(rtmp.dialled(ip), "rtmp://u:pw@203.0.113.9:1935/app/key-1?token=t0");
        assert_eq!(rtmp.rtmp_server().as_deref(), Some("rtmp://live.example:1935/app"));
        let tls = parse("RTMPS://live.example/app/key");
        assert_eq!(tls.dialled(ip), "rtmps://live.example:443/app/key");
        let srt = parse("srt://[2001:db8::1]:9000?streamid=a%2Fb&passphrase=0123456789&latency=120&mode=caller");
        assert_eq!(
            srt.dialled("2001:db8::1".parse().ok()),
            "srt://[2001:db8::1]:9000?mode=caller&transtype=live&pkt_size=1316&streamid=a%2Fb&passphrase=0123456789&latency=120000"
        );
        assert!(LiveAddress::is_named_by("https://h/a/live.M3U8?sig=1", Use::Input));
        assert!(!LiveAddress::is_named_by("https://h/a/live.m3u8", Use::Output));
        assert!(!LiveAddress::is_named_by("https://h/a.mp4?x=.m3u8", Use::Input));
        assert!(!LiveAddress::is_named_by("https://host.m3u8?sig=1", Use::Input), "a host");
        let long = |bytes: usize| format!("https://h/{}.m3u8", "a".repeat(bytes - "https://h/.m3u8".len()));
        assert_eq!(parse(&long(ADDRESS_BYTES - ":443".len())).url().len(), ADDRESS_BYTES);
        assert_eq!(LiveAddress::parse(&long(ADDRESS_BYTES)).map_err(|bad| bad.code), Err("too_long"));
        assert_eq!(parse("https://h/a/live.m3u8?sig=1").port, 443);
    }

    #[test]
    fn bad_addresses_are_refused_each_with_its_code_and_without_their_secrets() {
        for (address, code) in [
            ("rtmp://h/app", "bad_value"),
            ("rtmp://h/app/", "bad_value"),
            ("rtmp:///app/hunter2", "bad_value"),
            ("rtmp://h:0/app/hunter2", "bad_value"),
            ("rtmp://h:99999/app/hunter2", "bad_value"),
            ("rtmp://-h/app/hunter2", "bad_value"),
            ("rtmp://h/app/hunter2|[f=mp4]x", "bad_value"),
            ("rtmp://h/app/hunter2'x", "bad_value"),
            ("rtmp://h/app/hunter2\\x", "bad_value"),
            ("rtmp://h/app/hunter2 live=1", "bad_value"),
            ("srt://h", "bad_value"),
            ("srt://h:1/path", "bad_value"),
            ("srt://h:1?passphrase=short", "out_of_range"),
            ("srt://h:1?latency=9000", "out_of_range"),
            ("srt://h:1?mode=listener", "unsupported"),
            ("srt://h:1?pkt_size=1&streamid=hunter2", "bad_value"),
            ("https://u:hunter2@h/a.m3u8", "credentials_in_address"),
        ] {
            let bad = LiveAddress::parse(address).expect_err(address);
            assert_eq!(bad.code, code, "{address}");
            assert!(!bad.message.contains("hunter2"), "{}", bad.message);
        }
    }

    #[test]
    fn keys_passphrases_and_users_do_not_show() {
        for (address, shown) in [
            ("rtmp://joe:hunter2@h/app/s3cret", "rtmp://***@h:1935/app/***"),
            ("rtmps://h/app/inst/s3cret?t=hunter2", "rtmps://h:443/app/***"),
            ("srt://h:9?streamid=s3cret&passphrase=hunter2hunter2", "srt://h:9?***"),
            ("https://h/live.m3u8?sig=s3cret", "https://h:443/live.m3u8?***"),
        ] {
            let live = parse(address);
            assert_eq!(live.to_string(), shown);
            let said = format!("[x] cannot publish s3cret of hunter2, {} ({})", live.url(), live.dialled(None));
            let hidden = hide(&said, &live.secrets());
            assert!(!hidden.contains("s3cret"), "{hidden}");
            let is_rtmp = matches!(live.protocol, Protocol::Rtmp | Protocol::Rtmps);
            assert!(!is_rtmp || !hidden.contains("hunter2"), "{hidden}");
        }
        let srt = parse("srt://h:9?streamid=%23%21%3A%3Au%3Ds3cret");
        assert!(!hide("who is #!::u=s3cret?", &srt.secrets()).contains("s3cret"));
        assert_eq!(hide("no abc in abcd, abc!", &["abc".to_owned()]), "no *** in abcd, ***!");
    }
}
