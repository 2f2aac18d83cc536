//! Settings of a process: flags, then `FFPOOL_*` variables, then a TOML file.
//!
//! The file may be shared by all parts: keys at the top are for everybody, keys under `[<section>]` for one part; a key
//! is an option's name with `_`. An unknown key is an error, so that a typing error never passes for a setting.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Parser, value_parser};

use crate::man::{self, Book};

use crate::tls::TlsError;

/// The names of the sections that a settings file may have.
pub const SECTIONS: [&str; 4] = ["dispatcher", "worker", "client", "loadtest"];

/// Options that every process has.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// A TOML file with settings. Default: `/etc/ffpool/ffpool.toml`, if it exists.
    #[arg(long, env = "FFPOOL_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings in force, secrets masked, and where each comes from.
    #[arg(long, global = true)]
    pub print_config: bool,
}

/// Why the settings file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read the settings file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("the settings file {} is no TOML", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It has a key that is no setting.
    #[error("the settings file {} has an unknown key `{key}`: a setting of this program is expected, see --help; settings of one part stand under [dispatcher], [worker], [client] or [loadtest]", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
    },
    /// A value has no simple form.
    #[error("the settings file {} gives `{key}` a value that is neither text, number, truth value nor a list of such", path.display())]
    BadValue {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
    },
}

/// Settings and where they came from.
pub struct Parsed<A> {
    /// The settings.
    pub args: A,
    /// The settings in force as text, secrets masked.
    pub description: String,
}

/// Reads the settings of a service from its arguments, its environment and its file. Prints and exits as clap does
/// for `--help` and for mistakes; with `--print-config` prints the settings, with `--man-pages` writes these, and exits with 0.
#[must_use]
pub fn parse<A: Parser>(section: &str) -> A {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = A::command().arg(man_pages());
    if let Some(folder) = value_of("--man-pages", &arguments) {
        write_pages(command, &folder);
    }
    let parsed = match read::<A>(command, section, arguments.clone()) {
        Ok(parsed) => parsed,
        Err(SettingsError::Clap(error)) => error.exit(),
        Err(SettingsError::File(error)) => {
            eprintln!("error: {}", chain(&error));
            std::process::exit(2);
        }
    };
    if arguments.iter().any(|argument| argument == "--print-config") {
        print!("{}", parsed.description);
        std::process::exit(0);
    }
    parsed.args
}

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Flags or environment.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Settings that can each be read and that together, or with what stands on this machine, make no sense: a process that finds
/// one ends with [`exit_code`] 2, as for one that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongSetting(String);

impl WrongSetting {
    /// `reason` names the settings and says what to do.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> WrongSetting {
        WrongSetting(reason.into())
    }
}

/// With what a process ends that could not run for `error`: 2 for settings that are wrong, else 1.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_wrong = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<WrongSetting>() || matches!(cause.downcast_ref(), Some(TlsError::Setting { .. }))
    };
    if error.chain().any(is_wrong) { 2 } else { 1 }
}

/// As [`parse`], without printing or exiting.
///
/// # Errors
/// What is wrong with the flags, the environment or the file.
pub fn try_parse<A: Parser>(section: &str, arguments: Vec<OsString>) -> Result<Parsed<A>, SettingsError> {
    read(A::command(), section, arguments)
}

fn read<A: Parser>(mut command: Command, section: &str, arguments: Vec<OsString>) -> Result<Parsed<A>, SettingsError> {
    let mut from_file = BTreeSet::new();
    if let Some(path) = file_of(&arguments) {
        command = apply_file(command, section, &path, &mut from_file)?;
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    let description = describe(&command, &matches, &from_file);
    let args = A::from_arg_matches(&matches)?;
    Ok(Parsed { args, description })
}

/// The option of services that writes their manual pages. Not among their settings: no variable and no file has it.
fn man_pages() -> Arg {
    let help = "Write the manual pages of this program into a folder, such as /usr/local/share/man/man8, and end";
    Arg::new("man_pages").long("man-pages").value_name("DIR").value_parser(value_parser!(PathBuf)).help(help)
}

/// Writes the pages of a service and exits: with 2 where it cannot.
fn write_pages(command: Command, folder: &Path) -> ! {
    match man::write(command, Book { section: "8", see_also: &["ffpool(1)"] }, folder) {
        Ok(files) => {
            println!("{} pages are in {}", files.len(), folder.display());
            std::process::exit(0);
        }
        Err(error) => {
            eprintln!("error: write manual pages into {}: {error}", folder.display());
            eprintln!("  -> Name a folder in which you may write.");
            std::process::exit(2);
        }
    }
}

/// The value of an option that counts before all others are read.
fn value_of(option: &str, arguments: &[OsString]) -> Option<PathBuf> {
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            return None;
        } else if text == option {
            return left.next().map(PathBuf::from);
        } else if let Some(path) = text.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let from_environment = || std::env::var_os("FFPOOL_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    value_of("--config", arguments)
        .or_else(from_environment)
        .or_else(|| Some(PathBuf::from("/etc/ffpool/ffpool.toml")).filter(|path| path.try_exists().unwrap_or(true)))
}

fn apply_file(
    mut command: Command,
    section: &str,
    path: &Path,
    from_file: &mut BTreeSet<String>,
) -> Result<Command, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: toml::Table =
        text.parse().map_err(|source| FileError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    let mut settings = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(own) if key == section => {
                settings.extend(own.into_iter().map(|(name, value)| (format!("{section}.{name}"), name, value)));
            }
            toml::Value::Table(_) if SECTIONS.contains(&key.as_str()) => {}
            value => settings.push((key.clone(), key, value)),
        }
    }
    for (shown, name, value) in settings {
        let known = command.get_arguments().any(|arg| arg.get_id() == name.as_str())
            && !["config", "print_config", "man_pages"].contains(&name.as_str());
        if !known {
            return Err(FileError::UnknownKey { path: path.to_owned(), key: shown });
        }
        let values = plain(&value).ok_or_else(|| FileError::BadValue { path: path.to_owned(), key: shown })?;
        command = command.mut_arg(&name, |arg| arg.default_values(values).required(false));
        from_file.insert(name);
    }
    Ok(command)
}

fn plain(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(truth) => Some(vec![truth.to_string()]),
        toml::Value::Array(list) => {
            let mut values = Vec::new();
            for item in list {
                values.extend(plain(item)?);
            }
            Some(values)
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn describe(command: &Command, matches: &ArgMatches, from_file: &BTreeSet<String>) -> String {
    let mut lines = String::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if matches!(id, "help" | "version" | "config" | "print_config" | "man_pages") {
            continue;
        }
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            Some(ValueSource::DefaultValue) if from_file.contains(id) => "file",
            Some(_) => "default",
            None => "not set",
        };
        let value = matches
            .get_raw(id)
            .map(|values| values.map(|value| mask(id, &value.to_string_lossy())).collect::<Vec<_>>().join(", "));
        lines.push_str(&format!("{id} = {:?}  # {source}\n", value.unwrap_or_default()));
    }
    lines
}

/// Hides what is secret in a setting: whole keys, and the passwords of addresses.
#[must_use]
pub fn mask(name: &str, value: &str) -> String {
    let mut masked = String::with_capacity(value.len());
    let mut from = 0;
    for secret in secret_parts(name, value) {
        masked.push_str(&value[from..secret.start]);
        masked.push_str("***");
        from = secret.end;
    }
    masked.push_str(&value[from..]);
    masked
}

/// What of a setting's value is secret, as places in it, first to last: all of it where its name says so; otherwise the
/// password of each address, or all before its `@` where there is no user, and what follows `password=`.
#[must_use]
pub fn secret_parts(name: &str, value: &str) -> Vec<Range<usize>> {
    const WORDS: [&str; 7] = ["key", "password", "secret", "token", "headers", "pass", "pwd"];
    let name = name.to_ascii_lowercase();
    let is_secret = name.split('_').any(|part| WORDS.contains(&part))
        || name.contains("password")
        || name.contains("connection_string");
    let mut parts = Vec::new();
    if is_secret {
        parts.extend((!value.is_empty()).then_some(0..value.len()));
        return parts;
    }
    for (at, mark) in value.match_indices("://") {
        let start = at + mark.len();
        let end = value[start..].find(['/', '?']).map_or(value.len(), |end| start + end);
        if let Some(host) = value[start..end].rfind('@') {
            let user = value[start..start + host].find(':').map_or(0, |colon| colon + 1);
            parts.push(start + user..start + host);
        }
    }
    for (at, mark) in value.match_indices("password=") {
        let start = at + mark.len();
        // In quotes it may have spaces.
        let end = match value[start..].strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(value.len(), |end| start + end + 2),
            None => value[start..].find(|c: char| c == '&' || c.is_whitespace()).map_or(value.len(), |end| start + end),
        };
        parts.push(start..end);
    }
    parts.sort_by_key(|part| part.start);
    parts
}

/// An error with everything that caused it, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        file: FileArgs,
        #[arg(long, env = "FFPOOL_TEST_AMQP_URL")]
        amqp_url: Option<String>,
        #[arg(long, value_delimiter = ',')]
        pools: Vec<String>,
        #[arg(long, default_value_t = 5)]
        lease_secs: u32,
    }

    fn with_file(text: &str, flags: &[&str]) -> Result<Parsed<Args>, SettingsError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("ffpool-settings-{}-{}.toml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("the temporary directory is writable");
        let mut arguments: Vec<OsString> = vec!["test".into(), "--config".into(), path.clone().into()];
        arguments.extend(flags.iter().map(OsString::from));
        let parsed = try_parse("worker", arguments);
        std::fs::remove_file(&path).expect("the file was just written");
        parsed
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "amqp_url = \"amqp://u:secret@h/v\"\n[worker]\nlease_secs = 7\npools = [\"cpu\", \"gpu\"]\n[dispatcher]\nanything = 1\n";
        let parsed = with_file(text, &["--lease-secs", "9"]).expect("these settings are valid");
        assert_eq!(parsed.args.lease_secs, 9);
        assert_eq!(parsed.args.pools, ["cpu", "gpu"]);
        assert_eq!(parsed.args.amqp_url.as_deref(), Some("amqp://u:secret@h/v"));
        assert!(parsed.args.file.config.is_some() && !parsed.args.file.print_config);
        assert!(parsed.description.contains("amqp_url = \"amqp://u:***@h/v\"  # file"), "{}", parsed.description);
        assert!(parsed.description.contains("lease_secs = \"9\"  # flag"), "{}", parsed.description);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = with_file("[worker]\nlease_sec = 7\n", &[]).err().expect("the key is misspelt");
        assert!(error.to_string().contains("`worker.lease_sec`"), "{error}");
    }

    #[test]
    fn keys_are_masked_whole() {
        assert_eq!(mask("api_key", "abc"), "***");
        assert_eq!(mask("otlp_headers", "authorization=Bearer abc"), "***");
        assert_eq!(mask("api_url", "http://host:1/x"), "http://host:1/x");
        assert_eq!(mask("nats_url", "nats://token@h:4222"), "nats://***@h:4222");
        assert_eq!(mask("nats_url", "nats://u:p1@a,nats://u:p2@b:1"), "nats://u:***@a,nats://u:***@b:1");
        assert_eq!(mask("database_url", "postgres://u:p@h1,h2/db?x=1"), "postgres://u:***@h1,h2/db?x=1");
        assert_eq!(mask("database_url", "host=db password=s3 user=u"), "host=db password=*** user=u");
        assert_eq!(mask("database_url", "password='a b' host=db"), "password=*** host=db");
        assert_eq!(
            mask("database_url", "postgres://h/db?user=u&sslpassword=s3"),
            "postgres://h/db?user=u&sslpassword=***"
        );
        assert_eq!(mask("PGPASSWORD", "s3"), "***");
    }
}
