//! What grows where people look for it while a live job runs: its playlist of HLS and its presentation of DASH.

use std::io;

use super::playlist::Playlist;
use super::presentation::Carried;

/// Both, as far as the job asks for them.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) playlist: Option<Playlist>,
    pub(super) presentation: Option<Carried>,
}

impl Growing {
    pub(super) fn new(playlist: Option<Playlist>, presentation: Option<Carried>) -> Growing {
        Growing { playlist, presentation }
    }

    /// A run of the tool begins.
    pub(super) fn begin(&mut self, run: u32) -> io::Result<()> {
        self.presentation.as_mut().map_or(Ok(()), |presentation| presentation.begin(run))
    }

    /// Carries out what is new.
    pub(super) fn carry(&mut self) -> io::Result<()> {
        self.playlist.as_mut().map_or(Ok(()), Playlist::carry)?;
        self.presentation.as_mut().map_or(Ok(()), Carried::carry)
    }

    /// Carries out the rest and says that nothing more comes.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.playlist.as_mut().map_or(Ok(()), Playlist::end)?;
        self.presentation.as_mut().map_or(Ok(()), Carried::end)
    }
}
