//! Has groff judge manual pages, as whoever packs them does.

use std::path::Path;
use std::process::Command;

/// Sets a manual page with every warning on, and gives its text.
///
/// # Panics
/// When groff is not there, or has anything to say about the page.
#[must_use]
pub fn manual_page(file: &Path) -> String {
    let set = Command::new("groff")
        .args(["-k", "-man", "-ww", "-rHY=0", "-Tutf8"])
        .env("GROFF_NO_SGR", "1")
        .arg(file)
        .output()
        .unwrap_or_else(|error| panic!("groff cannot be run ({error}): apt-get install groff-base"));
    let said = String::from_utf8_lossy(&set.stderr);
    assert!(set.status.success() && said.trim().is_empty(), "{}: {said}", file.display());
    // Bold is struck twice: a character, a step back, the same again.
    let mut text = String::new();
    for letter in String::from_utf8_lossy(&set.stdout).chars() {
        if letter == '\u{8}' {
            text.pop();
        } else {
            text.push(letter);
        }
    }
    text
}
