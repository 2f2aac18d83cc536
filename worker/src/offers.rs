//! The one job that this worker was offered and keeps room for.
//!
//! Invariant: at most one at a time, named in every heartbeat for as long as its [`Reservation`] lives. Dropping that
//! gives the room up; the ledger then finds somebody else.

use std::sync::{Arc, Mutex, MutexGuard};

use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a dispatcher asks room for.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The job.
    pub job: JobId,
    /// Whether it needs the whole worker.
    pub alone: bool,
    /// The job in canonical form.
    pub spec: JobSpec,
}

/// The offers of one worker. Clones share them.
#[derive(Clone)]
pub struct Offers {
    /// Never held across an await.
    kept: Arc<Mutex<Option<Kept>>>,
    accepted: mpsc::Sender<Reservation>,
}

struct Kept {
    job: JobId,
    slots: u32,
    withdrawn: CancellationToken,
}

/// An offer that was accepted.
pub struct Reservation {
    /// What was offered.
    pub offer: Offer,
    /// How many slots it needs.
    pub slots: u32,
    withdrawn: CancellationToken,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Offers {
    /// No offer, and where accepted ones arrive.
    #[must_use]
    pub fn new() -> (Offers, mpsc::Receiver<Reservation>) {
        let (accepted, arriving) = mpsc::channel(1);
        (Offers { kept: Arc::default(), accepted }, arriving)
    }

    /// The job that room is kept for.
    #[must_use]
    pub fn reserved(&self) -> Option<JobId> {
        books(&self.kept).as_ref().map(|kept| kept.job)
    }

    /// Keeps room for `offer`. Answers how many slots; an offer that repeats is answered the same.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn keep(&self, offer: Offer, slots: u32) -> Result<u32, String> {
        let withdrawn = CancellationToken::new();
        match &mut *books(&self.kept) {
            Some(kept) if kept.job == offer.job && !kept.withdrawn.is_cancelled() => return Ok(kept.slots),
            Some(kept) => return Err(format!("it keeps room for job {}", kept.job)),
            none => *none = Some(Kept { job: offer.job, slots, withdrawn: withdrawn.clone() }),
        }
        // Refused, the reservation is dropped here and takes back what was noted.
        let reservation = Reservation { offer, slots, withdrawn, kept: self.kept.clone() };
        self.accepted.try_send(reservation).map(|()| slots).map_err(|_| "it takes no work".to_owned())
    }

    /// Keeps no room for `job` any more. Answers whether it was kept until now.
    #[must_use]
    pub fn withdraw(&self, job: JobId) -> bool {
        let books = books(&self.kept);
        let kept = books.as_ref().filter(|kept| kept.job == job);
        kept.map(|kept| kept.withdrawn.cancel()).is_some()
    }
}

impl Reservation {
    /// Resolves when a dispatcher takes the offer back.
    pub async fn withdrawn(&self) {
        self.withdrawn.cancelled().await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *books(&self.kept) = None;
    }
}

fn books(kept: &Mutex<Option<Kept>>) -> MutexGuard<'_, Option<Kept>> {
    kept.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn offer(number: u128) -> Offer {
        Offer { job: JobId(Uuid::from_u128(number)), alone: false, spec: JobSpec::new("480p30-h264") }
    }

    #[tokio::test]
    async fn room_is_kept_for_one_job_until_its_reservation_is_dropped() {
        let (offers, mut arriving) = Offers::new();
        assert_eq!(offers.keep(offer(1), 3), Ok(3));
        assert_eq!(offers.keep(offer(1), 9), Ok(3), "a repeat is answered the same");
        assert!(offers.keep(offer(2), 1).unwrap_err().contains("keeps room"));
        assert_eq!(offers.reserved(), Some(offer(1).job));
        let reservation = arriving.recv().await.unwrap();
        assert!(!offers.withdraw(offer(2).job) && offers.withdraw(offer(1).job));
        reservation.withdrawn().await;
        drop(reservation);
        assert_eq!((offers.reserved(), offers.withdraw(offer(1).job)), (None, false));
        assert_eq!(offers.keep(offer(2), 1), Ok(1));
    }

    #[tokio::test]
    async fn whoever_takes_no_work_declines() {
        let (offers, arriving) = Offers::new();
        drop(arriving);
        assert!(offers.keep(offer(1), 1).is_err());
        assert_eq!(offers.reserved(), None);
    }
}
