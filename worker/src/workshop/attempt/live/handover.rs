//! How a live job passes from one attempt to the next without its sinks falling silent in between, or its recording missing
//! what comes meanwhile.
//!
//! Invariant: the ledger knows of one attempt at a time. One that is handed back while it runs has lost its lease: it
//! publishes nothing, carries nothing out but what it records, under names of its own, and feeds its sinks only until the
//! next attempt wants them or a bound is over. What a sink refuses while another attempt feeds it is not held against the
//! sink.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::live::Live;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::{Attempt, End, blocking};
use super::growing::Growing;
use super::recording::Keeping;
use super::run::Heard;
use super::{Broadcast, Media};
use crate::store::fetch::stopped;
use crate::workshop::{Consent, Stop};

/// The next attempt asks for the sinks when it has media, or after so long: its source may wait for the other to leave.
const PREPARES: Duration = Duration::from_secs(5);
/// For a server to see that a publisher has gone.
const SETTLES: Duration = Duration::from_secs(2);
/// How often it is looked at whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Where an attempt is with the sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Succession {
    /// The attempt before this one may still feed them.
    Waits,
    /// It has let go; a server may not have seen it yet.
    Settles,
    /// They are its own.
    Owns,
}

/// What an attempt needs to hand itself over.
pub(super) struct Handing<'h> {
    pub(super) consent: &'h dyn Consent,
    pub(super) growing: &'h Arc<Mutex<Growing>>,
    /// Whether its job has sinks that can be handed over.
    pub(super) is_possible: bool,
    pub(super) succession: watch::Receiver<Succession>,
}

/// Whether a job has sinks, and a source that goes on by itself: a file is played from its beginning.
pub(super) fn is_possible(live: &Live, media: &Media) -> bool {
    !live.sinks.is_empty() && matches!(media, Media::Live(_) | Media::Generated)
}

impl Attempt<'_> {
    /// Where an attempt is told to hand itself back, goes on feeding its sinks, and recording, until the next attempt wants to
    /// go on, or it is told something stronger. Otherwise nothing.
    pub(super) async fn hand_over(&self, handing: &Handing<'_>, keeping: Keeping<'_, '_>, told: &Stop) {
        let Stop::Release(reason) = told else { return };
        // Without a lease nobody knows who runs the job.
        let is_of_use = handing.is_possible || keeping.is_recording();
        if reason == Stop::FENCE || !is_of_use || *handing.succession.borrow() == Succession::Waits {
            return;
        }
        let growing = handing.growing.clone();
        let let_go = blocking(move || growing.lock().unwrap_or_else(PoisonError::into_inner).let_go()).await;
        if let Ok(Err(error)) = let_go {
            tracing::warn!(%error, "the last segments of an attempt that is handed back are not carried out");
        }
        self.keep_for_heir(keeping).await;
        self.reporter.log("[ffpool] handed back; it goes on until the next attempt takes over");
        let mut stop = self.orders.stop.clone();
        let stronger = stop.wait_for(|stop| match stop {
            Some(Stop::Cancel | Stop::Abandon) => true,
            Some(Stop::Release(reason)) => reason == Stop::FENCE,
            None => false,
        });
        tokio::select! {
            () = handing.consent.hand_over(reason, self.used()) => {}
            Ok(_) = stronger => {}
        }
    }

    /// Waits for the attempt before this one to let go of what this one needs before it begins.
    ///
    /// # Errors
    /// When a stop comes first.
    pub(super) async fn wait_to_take_over(&self, broadcast: &mut Broadcast<'_>) -> Result<(), End> {
        let mut stop = self.orders.stop.clone();
        tokio::select! {
            biased;
            order = stopped(&mut stop) => return Err(order.into()),
            () = broadcast.consent.take_over() => {}
        }
        broadcast.succession = Succession::Settles;
        Ok(())
    }

    /// Takes the sinks from the attempt before this one, once there is something to send.
    pub(super) async fn take_over(
        &self,
        consent: &dyn Consent,
        heard: &Mutex<Heard<'_>>,
        succession: &watch::Sender<Succession>,
    ) -> Infallible {
        if *succession.borrow() == Succession::Waits {
            let since = Instant::now();
            while since.elapsed() < PREPARES && heard.lock().unwrap_or_else(PoisonError::into_inner).is_preparing() {
                tokio::time::sleep(LOOK).await;
            }
            let has_media = !heard.lock().unwrap_or_else(PoisonError::into_inner).is_preparing();
            tracing::info!(has_media, "asks the attempt before this one for the sinks");
            consent.take_over().await;
            succession.send_replace(Succession::Settles);
        }
        if *succession.borrow() == Succession::Settles {
            tokio::time::sleep(SETTLES).await;
            succession.send_replace(Succession::Owns);
        }
        pending().await
    }
}
