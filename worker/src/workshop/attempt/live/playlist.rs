//! A live HLS playlist where people look for it: the tool writes into its scratch, and this carries it out.
//!
//! Invariant: a segment is whole and in place before a playlist names it, and stays while one does; a playlist is
//! replaced at once or not at all. Nothing is carried after the attempt has lost its lease: the carrier is the
//! attempt's own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the playlist is called in the scratch.
pub(super) const NAME: &str = "live.m3u8";
/// What ends a playlist.
const END: &str = "#EXT-X-ENDLIST\n";

/// A playlist on its way out.
#[derive(Debug)]
pub(super) struct Playlist {
    scratch: PathBuf,
    output: PathBuf,
    /// Segments that this attempt has put into place.
    carried: BTreeSet<String>,
    last: String,
}

impl Playlist {
    /// Goes on with the playlist that an earlier attempt left at `output`, if any.
    pub(super) fn open(scratch: &Path, output: PathBuf) -> io::Result<Playlist> {
        let mut playlist =
            Playlist { scratch: scratch.to_owned(), output, carried: BTreeSet::new(), last: String::new() };
        match fs::read_to_string(&playlist.output) {
            Ok(text) => {
                playlist.carried = segments(&text).map(str::to_owned).collect();
                fs::write(playlist.scratch.join(NAME), text.replace(END, ""))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(playlist)
    }

    /// Whether there is something to go on with.
    pub(super) fn is_begun(&self) -> bool {
        self.scratch.join(NAME).exists()
    }

    pub(super) fn in_scratch(&self) -> PathBuf {
        self.scratch.join(NAME)
    }

    /// Carries out what is new.
    pub(super) fn carry(&mut self) -> io::Result<()> {
        let text = match fs::read_to_string(self.scratch.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if text == self.last {
            return Ok(());
        }
        let directory = self.output.parent().unwrap_or(Path::new("/")).to_owned();
        let named: BTreeSet<String> = segments(&text).map(str::to_owned).collect();
        for name in &named {
            if !self.carried.contains(name) {
                place(&self.scratch.join(name), &directory.join(name))?;
                self.carried.insert(name.clone());
            }
        }
        self.put(&text)?;
        // A player that has read the playlist before this one still asks for what that named.
        let before: BTreeSet<String> = segments(&self.last).map(str::to_owned).collect();
        let old: Vec<String> =
            self.carried.iter().filter(|name| !named.contains(*name) && !before.contains(*name)).cloned().collect();
        for name in old {
            match fs::remove_file(directory.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => self.carried.remove(&name),
            };
        }
        self.last = text;
        Ok(())
    }

    /// Carries out the rest and says that nothing more comes.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.carry()?;
        let text = format!("{}{END}", self.last);
        self.put(&text)
    }

    fn put(&self, text: &str) -> io::Result<()> {
        let mut new = self.output.clone().into_os_string();
        new.push(".ffpool-new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.output)
    }
}

/// Puts a copy into place, whole.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    let mut new = to.to_owned().into_os_string();
    new.push(".ffpool-new");
    fs::copy(from, &new)?;
    fs::rename(&new, to)
}

/// The segments that a playlist names. A name with a directory in it is none of ours.
fn segments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && !line.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn segments_come_before_the_playlist_and_go_after_two_of_them() {
        let (scratch, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let output = out.path().join("a.m3u8");
        let mut playlist = Playlist::open(scratch.path(), output.clone()).unwrap();
        playlist.carry().unwrap();
        assert!(!playlist.is_begun() && names(out.path()).is_empty());
        for (number, named) in ["#EXTM3U\n1.ts\n", "#EXTM3U\n2.ts\n", "#EXTM3U\n3.ts\n"].iter().enumerate() {
            fs::write(scratch.path().join(format!("{}.ts", number + 1)), "x").unwrap();
            fs::write(scratch.path().join(NAME), named).unwrap();
            playlist.carry().unwrap();
        }
        assert_eq!(names(out.path()), ["2.ts", "3.ts", "a.m3u8"]);
        playlist.end().unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "#EXTM3U\n3.ts\n#EXT-X-ENDLIST\n");

        let next = tempfile::tempdir().unwrap();
        let playlist = Playlist::open(next.path(), output).unwrap();
        assert!(playlist.is_begun());
        assert_eq!(fs::read_to_string(next.path().join(NAME)).unwrap(), "#EXTM3U\n3.ts\n");
    }
}
