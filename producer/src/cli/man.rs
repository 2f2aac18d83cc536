//! `man`: the manual pages of every command, made from the table of commands.

use std::path::Path;

use clap::CommandFactory as _;
use ffpool_runtime::man::{self, Book};

use super::Context;
use super::args::Cli;
use super::exit::{Exit, Trouble};

/// What `ffpool`'s pages have in common.
const BOOK: Book = Book { section: "1", see_also: &["ffpool-dispatcher(8)", "ffpool-worker(8)"] };

pub(crate) fn write(context: &Context, folder: &Path) -> Result<Exit, Trouble> {
    let files = man::write(Cli::command(), BOOK, folder).map_err(|error| {
        Trouble::usage(format!("write manual pages into {}: {error}", folder.display()))
            .next("Name a folder in which you may write, such as ~/.local/share/man/man1.")
    })?;
    context.format.print(&files, |files| {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(folder);
        format!(
            "{} pages are in {}; `man -M {} ffpool` shows the first.",
            files.len(),
            folder.display(),
            parent.display()
        )
    });
    Ok(Exit::Success)
}
