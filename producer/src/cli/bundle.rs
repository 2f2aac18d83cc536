//! `support-bundle`: what somebody who helps needs to see, in one file, with nothing secret in it.
//!
//! Invariants: every text goes through [`Redaction`] before it is written. What could not be had is named with the reason,
//! and never ends the command. Nothing in the pool is changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use ffpool::{ApiError, Client, JobFilter};
use ffpool_runtime::settings;
use ffpool_schema::lifecycle::State;
use ffpool_schema::location;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{Bundle, Cli};
use super::exit::{Exit, Trouble};
use super::progress::Progress;
use super::{Context, doctor};

/// For one question: a pool that is in trouble may not answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Of each state, jobs that are listed.
const JOBS: u32 = 100;
/// Lines of a job's log.
const LINES: u16 = 1000;
/// Of a log file, the last bytes.
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Shorter values are no secrets, and taking them out would make everything unreadable.
const SECRET_MIN: usize = 8;

/// Takes secrets out of texts: those of this process's settings wherever they stand, and those that can be known by their look.
struct Redaction {
    known: Vec<String>,
}

impl Redaction {
    /// Knows the values of variables and settings whose names or form say that they are secret.
    fn new(values: impl IntoIterator<Item = (String, String)>) -> Redaction {
        let mut known: Vec<String> = values
            .into_iter()
            .flat_map(|(name, value)| {
                let is_id = name.to_ascii_lowercase().ends_with("_access_key_id");
                let parts = settings::secret_parts(&name, &value).into_iter().filter(|_| !is_id);
                let whole: Vec<String> = parts.map(|part| value[part].to_owned()).collect();
                // Each of a list, `name=value` or `id:secret`, may stand alone.
                let each =
                    whole.iter().flat_map(|whole| whole.split(',')).filter_map(|item| item.rsplit(['=', ':']).next());
                each.map(|part| part.trim().to_owned()).chain(whole.iter().cloned()).collect::<Vec<_>>()
            })
            .filter(|secret| secret.len() >= SECRET_MIN)
            .collect();
        // The longest first: one may be part of another.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        known.dedup();
        Redaction { known }
    }

    fn text(&self, text: &str) -> String {
        let mut cleaned = text.to_owned();
        for secret in &self.known {
            cleaned = cleaned.replace(secret.as_str(), "***");
        }
        cleaned.split_inclusive('\n').map(|line| keys_out(&location::redact(line))).collect()
    }

    /// A document, text by text, so that it stays one.
    fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(values) => values.into_iter().map(|value| self.value(value)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, self.value(value))).collect(),
            plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
        }
    }
}

/// Takes keys of the API out, which begin with `ffp_`, and what follows `Bearer`.
fn keys_out(line: &str) -> String {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '~' | '+' | '/' | '=');
    let mut cleaned = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((at, length)) =
        ["ffp_", "Bearer "].iter().filter_map(|mark| rest.find(mark).map(|at| (at, mark.len()))).min()
    {
        let (before, after) = rest.split_at(at + length);
        cleaned.push_str(before);
        cleaned.push_str("***");
        rest = after.trim_start_matches(is_of_key);
    }
    cleaned.push_str(rest);
    cleaned
}

/// The archive while it is written.
struct Archive<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    redaction: Redaction,
    at: Timestamp,
    /// What is in it, and what could not be had.
    had: Vec<String>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Missing {
    what: String,
    why: String,
}

impl<W: Write> Archive<W> {
    fn new(to: W, redaction: Redaction, at: Timestamp) -> Archive<W> {
        let tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        Archive { tar, redaction, at, had: Vec::new(), missing: Vec::new() }
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.redaction.text(text);
        self.append(name, text.as_bytes())
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let value = self.redaction.value(serde_json::to_value(value).map_err(io::Error::other)?);
        let text = serde_json::to_string_pretty(&value).map_err(io::Error::other)?;
        self.append(name, text.as_bytes())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.at.as_second()).unwrap_or(0));
        self.had.push(name.to_owned());
        self.tar.append_data(&mut header, format!("ffpool-support/{name}"), bytes)
    }

    fn missing(&mut self, what: &str, why: impl std::fmt::Display) {
        let why = self.redaction.text(&why.to_string());
        self.missing.push(Missing { what: self.redaction.text(what), why });
    }

    /// An answer of the API, or why there is none.
    async fn ask<T: Serialize>(
        &mut self,
        name: &str,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> io::Result<()> {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => self.json(name, &answer),
            Ok(Err(error)) => {
                self.missing(name, settings::chain(&error));
                Ok(())
            }
            Err(_) => {
                self.missing(name, format!("no answer within {ANSWER:?}"));
                Ok(())
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.finish()?.flush()
    }
}

pub(crate) async fn bundle(context: &Context, args: &Bundle) -> Result<Exit, Trouble> {
    let at = Timestamp::now();
    let path =
        args.to.clone().unwrap_or_else(|| format!("ffpool-support-{}.tar.gz", at.strftime("%Y%m%dT%H%M%SZ")).into());
    let unwritten = |error: io::Error| {
        let trouble = Trouble::new(Exit::Trouble, format!("write {}: {error}", path.display()));
        trouble.next("Name a file with --to in a folder that you may write to and that has room.")
    };
    if path.exists() {
        return Err(Trouble::usage(format!("{} exists: name another file with --to", path.display())));
    }
    // Under its name it is whole.
    let part = path.with_extension("part");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(unwritten)?;
    let secrets = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .chain(context.connection.secrets());
    let mut archive = Archive::new(io::BufWriter::new(file), Redaction::new(secrets), at);
    let collected = collect(context, args, &mut archive).await;
    let summary =
        json!({"made_at": at, "by": env!("CARGO_PKG_VERSION"), "files": archive.had, "missing": archive.missing});
    let written = collected.and_then(|()| archive.json("summary.json", &summary)).and_then(|()| {
        let Archive { missing, .. } = &archive;
        let missing = missing.len();
        archive.finish()?;
        std::fs::rename(&part, &path).map(|()| missing)
    });
    match written {
        Ok(missing) => {
            let result = json!({"file": path, "missing": summary["missing"]});
            context.format.print(&result, |_| {
                let mut text = format!("wrote {}: look through it before you send it", path.display());
                if missing > 0 {
                    text.push_str(&format!("\n{missing} parts could not be had; summary.json in it says why"));
                }
                text
            });
            Ok(Exit::Success)
        }
        Err(error) => {
            // Half a bundle helps nobody.
            let _ = std::fs::remove_file(&part);
            Err(unwritten(error))
        }
    }
}

async fn collect<W: Write>(context: &Context, args: &Bundle, archive: &mut Archive<W>) -> io::Result<()> {
    archive.text("settings.toml", &args_in_force())?;
    archive.json("doctor.json", &doctor::report(context, &args.doctor).await)?;
    let progress = Progress::busy("the logs");
    for (number, path) in args.logs.iter().enumerate() {
        let name = path.file_name().map_or_else(|| "log".to_owned(), |name| name.to_string_lossy().into_owned());
        match tail(path) {
            Ok(text) => archive.text(&format!("logs/{}-{name}", number + 1), &text)?,
            Err(error) => archive.missing(&path.display().to_string(), error),
        }
    }
    for (number, url) in args.metrics.iter().enumerate() {
        progress.say(&format!("metrics of {}", location::redact(url)));
        match metrics(url).await {
            Ok(text) => {
                archive.text(&format!("metrics/{}.txt", number + 1), &format!("# {}\n{text}", location::redact(url)))?
            }
            Err(why) => archive.missing(url, why),
        }
    }
    match context.client() {
        Ok(client) => of_pool(&client, args, archive, &progress).await,
        Err(trouble) => {
            archive.missing("api", trouble);
            Ok(())
        }
    }
}

async fn of_pool<W: Write>(
    client: &Client,
    args: &Bundle,
    archive: &mut Archive<W>,
    progress: &Progress,
) -> io::Result<()> {
    progress.say("the pool");
    archive.ask("api/ready.json", client.ready()).await?;
    archive.ask("api/workers.json", client.workers()).await?;
    archive.ask("api/queues.json", client.queues()).await?;
    archive.ask("api/dead-letter-groups.json", client.dead_letter_groups()).await?;
    archive.ask("api/schedules.json", client.schedules()).await?;
    for status in [State::Running, State::Queued, State::Delayed, State::Blocked, State::Failed, State::Rejected] {
        let filter = JobFilter { status: Some(status), limit: Some(JOBS), ..JobFilter::default() };
        archive.ask(&format!("api/jobs-{status}.json"), client.jobs(&filter)).await?;
    }
    for job in &args.jobs {
        progress.say(&format!("job {job}"));
        let folder = format!("jobs/{}", job.to_string().trim_start_matches('#'));
        archive.ask(&format!("{folder}/job.json"), client.job(*job)).await?;
        archive.ask(&format!("{folder}/explain.json"), client.explain(*job)).await?;
        archive.ask(&format!("{folder}/log.json"), client.log(*job, None, Some(LINES))).await?;
    }
    Ok(())
}

/// The settings of this command with their sources, secrets masked.
fn args_in_force() -> String {
    match settings::try_parse::<Cli>("client", super::with_own_file(std::env::args_os().collect())) {
        Ok(parsed) => parsed.description,
        Err(error) => settings::chain(&error),
    }
}

/// The last lines of a file. The first of them may be cut, and with it what a secret is known by: it is left out.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let whole =
        if from == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1) };
    Ok(String::from_utf8_lossy(&bytes[whole..]).into_owned())
}

async fn metrics(url: &str) -> Result<String, String> {
    let client = reqwest::Client::builder().timeout(ANSWER).build().map_err(|error| settings::chain(&error))?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let text = match answer {
        Ok(answer) => answer.text().await,
        Err(error) => Err(error),
    };
    text.map_err(|error| settings::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction() -> Redaction {
        let values = [
            ("FFPOOL_API_KEY", "ffp_0123456789_abcdef"),
            ("FFPOOL_AMQP_URL", "amqp://worker:rabbit-pass@mq/v"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
            ("HOME", "/home/anna"),
            ("FFPOOL_BOOTSTRAP_KEY", "no"),
        ];
        Redaction::new(values.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn known_secrets_go_wherever_they_stand_and_others_by_their_look() {
        let redaction = redaction();
        for (text, expected) in [
            ("login rabbit-pass refused", "login *** refused"),
            ("got wJalrXUtnFEMI\nnext", "got ***\nnext"),
            ("key ffp_aaaaaaaaaa_99ff is wrong", "key ffp_*** is wrong"),
            ("Authorization: Bearer eyJhbGciOi.x-y, ok", "Authorization: Bearer ***, ok"),
            ("get https://in.example/a.mov?X-Sig=1 now", "get https://in.example/a.mov?*** now"),
            ("rtmp://live.example/app/stream-key", "rtmp://live.example/app/***"),
            ("no secret, /home/anna stays", "no secret, /home/anna stays"),
        ] {
            assert_eq!(redaction.text(text), expected);
        }
    }

    #[test]
    fn a_document_stays_one() {
        let cleaned = redaction().value(json!({"a": ["rabbit-pass", 1, null], "b": {"c": "https://x.example/?s"}}));
        assert_eq!(cleaned, json!({"a": ["***", 1, null], "b": {"c": "https://x.example/?***"}}));
    }
}
