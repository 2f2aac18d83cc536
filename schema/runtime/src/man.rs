//! Manual pages made from a program's table of options: one for it and one for each of its commands.
//!
//! Invariant: a page says nothing that `--help` does not say; no text of ours is read as a request to the formatter.

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;

/// What the pages of one program have in common.
#[derive(Debug, Clone, Copy)]
pub struct Book {
    /// The manual's section: `1` for commands, `8` for what runs in the background.
    pub section: &'static str,
    /// What else there is to read, as `name(section)`.
    pub see_also: &'static [&'static str],
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The file's name, such as `ffpool-jobs-list.1`.
    pub file: String,
    /// Its text, for `man`.
    pub roff: String,
}

/// The pages of a program, its own first.
///
/// # Errors
/// When a page cannot be written down, which does not happen in memory.
pub fn pages(command: Command, book: Book) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, None, book, &mut pages)?;
    Ok(pages)
}

/// Writes the pages of a program into a folder, which is made. Gives the files.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write(command: Command, book: Book, folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let mut files = Vec::new();
    for page in pages(command, book)? {
        let file = folder.join(&page.file);
        std::fs::write(&file, page.roff)?;
        files.push(file);
    }
    Ok(files)
}

fn add(command: &Command, above: Option<&str>, book: Book, pages: &mut Vec<Page>) -> io::Result<()> {
    let own = if above.is_some() { without_common(command) } else { command.clone() };
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let man =
        Man::new(own).section(book.section).source(format!("ffpool {}", env!("CARGO_PKG_VERSION"))).manual("ffpool");
    let mut roff = Vec::new();
    man.render_title(&mut roff)?;
    man.render_name_section(&mut roff)?;
    man.render_synopsis_section(&mut roff)?;
    man.render_description_section(&mut roff)?;
    if command.get_arguments().any(|option| !option.is_hide_set()) {
        man.render_options_section(&mut roff)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut roff)?;
    }
    let mut roff = String::from_utf8_lossy(&roff).into_owned();
    for (title, text) in command.get_after_help().map(|help| parts(&help.to_string())).unwrap_or_default() {
        roff.push_str(&verbatim(&title, &text));
    }
    let mut others: Vec<String> = above.map(|above| format!("{above}({})", book.section)).into_iter().collect();
    others.extend(book.see_also.iter().map(|other| (*other).to_owned()));
    roff.push_str(&format!(".SH \"SEE ALSO\"\n{}\n", escaped(&others.join(", "))));
    pages.push(Page { file: format!("{name}.{}", book.section), roff });
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(inner, Some(&name), book, pages)?;
    }
    Ok(())
}

/// A command without the options that all commands have: its program's page has them.
fn without_common(command: &Command) -> Command {
    command.clone().mut_args(|option| if option.is_global_set() { option.hide(true) } else { option })
}

/// The parts of a text after the help, each with a title. What has none is notes.
fn parts(help: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for paragraph in help.split("\n\n") {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        let titled = first.strip_suffix(':').filter(|title| !title.contains(' ') || *title == "Exit codes");
        let (title, text) = match titled {
            Some("Exit codes") => ("EXIT STATUS".to_owned(), rest),
            Some(title) => (title.to_uppercase(), rest),
            None => ("NOTES".to_owned(), paragraph),
        };
        match parts.last_mut().filter(|(last, _)| *last == title) {
            Some((_, before)) => before.push_str(&format!("\n\n{text}")),
            None => parts.push((title, text.to_owned())),
        }
    }
    parts
}

/// A section whose lines stay as they are.
fn verbatim(title: &str, text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{}\n", escaped(line))).collect();
    format!(".SH \"{}\"\n.nf\n{lines}.fi\n", escaped(title))
}

/// A line that the formatter sets as it stands.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    // At the beginning of a line these would be requests.
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_parted_by_its_titles_and_no_line_of_it_is_a_request() {
        let found = parts("Examples:\n  x one\n  x two\n\nTold at the end.\n.so /etc/passwd\n\nExit codes:\n  0  done");
        let titles: Vec<&str> = found.iter().map(|(title, _)| title.as_str()).collect();
        assert_eq!(titles, ["EXAMPLES", "NOTES", "EXIT STATUS"]);
        let notes = verbatim(&found[1].0, &found[1].1);
        assert!(notes.contains("\n\\&.so /etc/passwd\n"), "{notes}");
        assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
    }

    #[test]
    fn every_command_has_a_page_and_common_options_stand_on_the_first_alone() {
        let command = Command::new("tool")
            .about("Does")
            .arg(clap::Arg::new("common").long("common").global(true).help("For all"))
            .subcommand(Command::new("inner").about("Deeper").arg(clap::Arg::new("own").long("own").help("Its own")));
        let pages = pages(command, Book { section: "1", see_also: &["other(8)"] }).unwrap();
        let files: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files, ["tool.1", "tool-inner.1"]);
        assert!(pages[0].roff.contains("common") && !pages[1].roff.contains("common"), "{pages:#?}");
        assert!(pages[1].roff.contains("own") && pages[1].roff.contains("tool(1), other(8)"), "{pages:#?}");
    }
}
