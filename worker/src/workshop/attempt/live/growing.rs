//! What grows where people look for it while a live job runs: its playlist of HLS and its presentation of DASH.
//!
//! Invariant: nothing is carried out by an attempt that has been handed back.

use std::io;

use super::playlist::Playlist;
use super::presentation::Carried;

/// Both, as far as the job asks for them.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) playlist: Option<Playlist>,
    pub(super) presentation: Option<Carried>,
    /// Nothing is carried out any more: the next attempt may.
    is_let_go: bool,
}

impl Growing {
    pub(super) fn new(playlist: Option<Playlist>, presentation: Option<Carried>) -> Growing {
        Growing { playlist, presentation, is_let_go: false }
    }

    /// A run of the tool begins.
    pub(super) fn begin(&mut self, run: u32) -> io::Result<()> {
        if self.is_let_go {
            return Ok(());
        }
        self.presentation.as_mut().map_or(Ok(()), |presentation| presentation.begin(run))
    }

    /// Carries out what is there, and nothing after it.
    pub(super) fn let_go(&mut self) -> io::Result<()> {
        let carried = self.carry();
        // Whatever became of it: the next attempt may be at the same names.
        self.is_let_go = true;
        carried
    }

    /// Carries out what is new.
    pub(super) fn carry(&mut self) -> io::Result<()> {
        if self.is_let_go {
            return Ok(());
        }
        self.playlist.as_mut().map_or(Ok(()), Playlist::carry)?;
        self.presentation.as_mut().map_or(Ok(()), Carried::carry)
    }

    /// Carries out the rest and says that nothing more comes.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.is_let_go {
            return Ok(());
        }
        self.playlist.as_mut().map_or(Ok(()), Playlist::end)?;
        self.presentation.as_mut().map_or(Ok(()), Carried::end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_carried_out_once_the_attempt_is_handed_back() {
        let (scratch, media) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = media.path().join("live.m3u8");
        let playlist = Playlist::open(scratch.path(), target.clone(), "job-".to_owned()).unwrap();
        let mut growing = Growing::new(Some(playlist), None);
        growing.let_go().unwrap();
        growing.begin(2).unwrap();
        growing.carry().unwrap();
        growing.end().unwrap();
        assert!(!target.exists(), "the next attempt writes there");
    }
}
