//! The page of all settings (`docs/settings.md`), made from the programs' tables of options.
//!
//! Invariant: a part of the page says what its program's `--help` says and nothing else; each program's tests hold its part.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Arg, Command};

/// Every option of a program and its commands that a variable sets, each once and in the order of `--help`, as rows of Markdown.
#[must_use]
pub fn rows(mut command: Command) -> String {
    command.build();
    let (mut seen, mut rows) = (BTreeSet::new(), String::new());
    add(&command, &mut seen, &mut rows);
    rows
}

fn add(command: &Command, seen: &mut BTreeSet<String>, rows: &mut String) {
    for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
        let Some(variable) = option.get_env().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if seen.insert(variable.clone()) {
            rows.push_str(&row(&variable, option));
        }
    }
    command.get_subcommands().filter(|inner| !inner.is_hide_set()).for_each(|inner| add(inner, seen, rows));
}

fn row(variable: &str, option: &Arg) -> String {
    let flag = option.get_long().map(|long| format!("`--{long}`")).unwrap_or_default();
    let defaults: Vec<String> =
        option.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let default = if defaults.is_empty() { "-".to_owned() } else { defaults.join(", ") };
    let help = option.get_long_help().or(option.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    // clap takes the period from what is one sentence.
    if !help.is_empty() && !help.ends_with('.') {
        help.push('.');
    }
    let names: Vec<String> =
        option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    // A switch says so by its default.
    if option.get_action().takes_values() && !names.is_empty() {
        help.push_str(&format!(" One of {}.", names.join(", ")));
    }
    format!("| `{variable}` | {flag} | {default} | {} |\n", help.replace('|', "\\|"))
}

/// Whether the part of `page` about `program` is the table of these rows. With `FFPOOL_BLESS` it is written anew.
///
/// # Errors
/// What is wrong with the page, and how it is mended.
pub fn hold(page: &Path, program: &str, rows: &str) -> Result<(), String> {
    let (begin, end) = (format!("<!-- settings of {program} -->\n"), "<!-- end -->\n");
    let shown = page.display();
    let text = std::fs::read_to_string(page).map_err(|error| format!("read {shown}: {error}"))?;
    let parted = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?)));
    let (before, (found, after)) =
        parted.ok_or_else(|| format!("{shown} has no part between `{begin}` and `{end}`"))?;
    let wanted = format!("\n| Variable | Option | Default | |\n|---|---|---|---|\n{rows}\n");
    if found == wanted {
        return Ok(());
    }
    if std::env::var_os("FFPOOL_BLESS").is_some() {
        let text = format!("{before}{begin}{wanted}{end}{after}");
        return std::fs::write(page, text).map_err(|error| format!("write {shown}: {error}"));
    }
    let missing = wanted.lines().find(|line| !found.lines().any(|known| known == *line));
    let much = found.lines().find(|line| !wanted.lines().any(|known| known == *line));
    Err(format!(
        "{shown} tells something else of {program} than its --help: it lacks {missing:?} and has {much:?}; FFPOOL_BLESS=1 writes it anew"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_with_a_variable_is_one_row_whichever_command_has_it() {
        let option =
            |name: &'static str, env: &'static str| Arg::new(name).long(name).env(env).help("A\n  thing | or two.");
        let command = Command::new("tool")
            .arg(option("size", "T_SIZE").default_value("7"))
            .arg(Arg::new("plain").long("plain").help("No variable."))
            .subcommand(
                Command::new("inner")
                    .arg(option("size", "T_SIZE"))
                    .arg(option("form", "T_FORM").value_parser(["a", "b"])),
            );
        let expected = "| `T_SIZE` | `--size` | `7` | A thing \\| or two. |\n\
                        | `T_FORM` | `--form` | - | A thing \\| or two. One of `a`, `b`. |\n";
        assert_eq!(rows(command), expected);
    }

    #[test]
    fn every_variable_of_ours_in_the_code_stands_on_the_page_of_settings() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let page = std::fs::read_to_string(root.join("docs/settings.md")).unwrap();
        let mut found = BTreeSet::new();
        for folder in
            ["dispatcher/src", "worker/src", "producer/src", "schema/src", "schema/broker/src", "schema/runtime/src"]
        {
            look(&root.join(folder), &mut found);
        }
        // Of tests alone.
        found.retain(|name| name != "FFPOOL_BLESS" && !name.starts_with("FFPOOL_TEST_"));
        assert!(found.len() > 100, "only {} variables were found", found.len());
        let missing: Vec<&String> = found.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/settings.md does not tell of {missing:?}");
    }

    /// Names of variables that stand as texts of their own in the sources below a folder.
    fn look(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for rest in text.split("\"FFPOOL_").skip(1) {
                    let name: String = rest
                        .chars()
                        .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                        .collect();
                    if !name.is_empty() && rest[name.len()..].starts_with('"') {
                        found.insert(format!("FFPOOL_{name}"));
                    }
                }
            }
        }
    }
}
