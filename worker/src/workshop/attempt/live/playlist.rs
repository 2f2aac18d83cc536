//! A live HLS playlist where people look for it: the tool writes into its scratch, and this carries it out.
//!
//! Invariant: a segment is whole and in place before a playlist names it, and stays while one does; a playlist is
//! replaced at once or not at all. Nothing is carried after the attempt has lost its lease: the carrier is the
//! attempt's own. Only segments that bear the job's name are carried, replaced or deleted, and no link is followed: the
//! tool may have been turned against us.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{place, read, replace, write_new};
use crate::publish::delete_if_there;

/// What the playlist is called in the scratch.
pub(super) const NAME: &str = "live.m3u8";
/// What ends a playlist.
const END: &str = "#EXT-X-ENDLIST\n";

/// A playlist on its way out.
#[derive(Debug)]
pub(super) struct Playlist {
    scratch: PathBuf,
    output: PathBuf,
    /// What the names of the job's segments begin with.
    prefix: String,
    /// Segments that this attempt has put into place.
    carried: BTreeSet<String>,
    last: String,
}

impl Playlist {
    /// Goes on with the playlist that an earlier attempt at this job left at `output`, if any. Another job's is replaced.
    /// The names of the job's segments begin with `prefix`.
    pub(super) fn open(scratch: &Path, output: PathBuf, prefix: String) -> io::Result<Playlist> {
        let (scratch, carried) = (scratch.to_owned(), BTreeSet::new());
        let mut playlist = Playlist { scratch, output, prefix, carried, last: String::new() };
        if let Some(text) = read(&playlist.output)? {
            playlist.carried = playlist.segments(&text);
            if !playlist.carried.is_empty() {
                write_new(&playlist.in_scratch(), text.replace(END, "").as_bytes())?;
            }
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
        let Some(text) = read(&self.in_scratch())? else { return Ok(()) };
        if text == self.last {
            return Ok(());
        }
        let directory = self.output.parent().unwrap_or(Path::new("/")).to_owned();
        let named = self.segments(&text);
        for name in &named {
            if !self.carried.contains(name) {
                place(&self.scratch.join(name), &directory.join(name))?;
                self.carried.insert(name.clone());
            }
        }
        self.put(&text)?;
        // A player that has read the playlist before this one still asks for what that named.
        let before = self.segments(&self.last);
        let old: Vec<String> =
            self.carried.iter().filter(|name| !named.contains(*name) && !before.contains(*name)).cloned().collect();
        for name in old {
            delete_if_there(&directory.join(&name))?;
            self.carried.remove(&name);
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
        replace(&self.output, text)
    }

    /// The job's own segments that a playlist names.
    fn segments(&self, text: &str) -> BTreeSet<String> {
        let is_own = |line: &&str| line.starts_with(&self.prefix) && !line.contains('/');
        text.lines().map(str::trim).filter(is_own).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let mut playlist = Playlist::open(scratch.path(), output.clone(), "job-".into()).unwrap();
        playlist.carry().unwrap();
        assert!(!playlist.is_begun() && names(out.path()).is_empty());
        for (number, named) in ["#EXTM3U\njob-1.ts\n", "#EXTM3U\njob-2.ts\n", "#EXTM3U\njob-3.ts\n"].iter().enumerate()
        {
            fs::write(scratch.path().join(format!("job-{}.ts", number + 1)), "x").unwrap();
            fs::write(scratch.path().join(NAME), named).unwrap();
            playlist.carry().unwrap();
        }
        assert_eq!(names(out.path()), ["a.m3u8", "job-2.ts", "job-3.ts"]);
        playlist.end().unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "#EXTM3U\njob-3.ts\n#EXT-X-ENDLIST\n");

        let next = tempfile::tempdir().unwrap();
        let playlist = Playlist::open(next.path(), output.clone(), "job-".into()).unwrap();
        assert!(playlist.is_begun());
        assert_eq!(fs::read_to_string(next.path().join(NAME)).unwrap(), "#EXTM3U\njob-3.ts\n");
    }

    #[test]
    fn nothing_but_the_jobs_own_plain_files_is_carried_replaced_or_gone_on_with() {
        let (scratch, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let output = out.path().join("a.m3u8");
        fs::write(&output, "#EXTM3U\nother-1.ts\n").unwrap();
        fs::write(out.path().join("movie.mp4"), "a film").unwrap();
        let mut playlist = Playlist::open(scratch.path(), output, "job-".into()).unwrap();
        assert!(!playlist.is_begun(), "another job's playlist is begun anew");
        fs::write(scratch.path().join("movie.mp4"), "not a film").unwrap();
        fs::write(scratch.path().join(NAME), "#EXTM3U\nmovie.mp4\n").unwrap();
        playlist.carry().unwrap();
        assert_eq!(fs::read_to_string(out.path().join("movie.mp4")).unwrap(), "a film");

        let secret = out.path().join("secret");
        fs::write(&secret, "for root alone").unwrap();
        std::os::unix::fs::symlink(&secret, scratch.path().join("job-1.ts")).unwrap();
        fs::write(scratch.path().join(NAME), "#EXTM3U\njob-1.ts\n").unwrap();
        playlist.carry().unwrap_err();
        assert!(!out.path().join("job-1.ts").exists());
    }
}
