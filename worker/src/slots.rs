//! Room for attempts, counted in units: who may pull a delivery, and who may start.
//!
//! A free unit is taken before a delivery is. An attempt that needs more units gives its own back and queues for all
//! it needs at once; while anybody queues, nobody pulls. So those who wait hold nothing, and cannot block each other.
//!
//! Invariant: units in use never exceed the total, except after the total shrank, until enough of them are free again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// The units of one worker. Clones share them.
#[derive(Clone)]
pub struct Slots {
    shared: Arc<Shared>,
}

struct Shared {
    /// Never held across an await.
    books: Mutex<Books>,
    /// Told after every change of the books.
    changed: watch::Sender<()>,
    /// Whether idle pullers must give back what they hold. Apart from `changed`, so that many idle pullers cost nothing.
    recall: watch::Sender<bool>,
}

struct Books {
    total: u32,
    /// Units taken, idle ones too.
    used: u32,
    /// Units of slots that have no delivery yet.
    idle: u32,
    /// Tickets of those who gather, in the order in which they are served.
    gathering: VecDeque<u64>,
    next_ticket: u64,
}

/// Units taken. Dropping it frees them.
pub struct Slot {
    slots: Slots,
    units: u32,
    /// Whether it has no delivery yet.
    idle: bool,
}

impl Slots {
    /// `total` free units.
    #[must_use]
    pub fn new(total: u32) -> Slots {
        let books = Books { total, used: 0, idle: 0, gathering: VecDeque::new(), next_ticket: 0 };
        let (changed, recall) = (watch::Sender::new(()), watch::Sender::new(false));
        Slots { shared: Arc::new(Shared { books: Mutex::new(books), changed, recall }) }
    }

    /// All units, free or not.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.books().total
    }

    /// Units in use, without those that only wait for a delivery.
    #[must_use]
    pub fn used(&self) -> u32 {
        let books = self.books();
        books.used - books.idle
    }

    /// Whether every unit is in use or being gathered, so that nobody waits for a delivery.
    #[must_use]
    pub fn full(&self) -> bool {
        self.books().idle == 0
    }

    /// Sets the total anew, as when the worker's cgroup changed. What runs goes on.
    pub fn resize(&self, total: u32) {
        self.change(|books| books.total = total);
    }

    /// Waits for one free unit, with which a delivery may be pulled. Cancel-safe.
    pub async fn take(&self) -> Slot {
        self.when(|books| {
            let free = books.gathering.is_empty() && books.used < books.total;
            books.used += u32::from(free);
            books.idle += u32::from(free);
            free
        })
        .await;
        Slot { slots: self.clone(), units: 1, idle: true }
    }

    /// Whether somebody queues for room.
    #[must_use]
    pub fn contended(&self) -> bool {
        !self.books().gathering.is_empty()
    }

    /// A slot without room, for a delivery that somebody else is to make room for.
    #[must_use]
    pub fn none(&self) -> Slot {
        Slot { slots: self.clone(), units: 0, idle: false }
    }

    /// Resolves when a slot that has no delivery yet must be given back: somebody gathers, or the total shrank.
    pub async fn recalled(&self) {
        let mut recall = self.shared.recall.subscribe();
        recall.wait_for(|&recalled| recalled).await.expect("the sender lives as long as self");
    }

    /// Waits until `ready` says yes. It may change the books when it does, and only then.
    async fn when(&self, mut ready: impl FnMut(&mut Books) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !ready(&mut self.books()) {
            changed.changed().await.expect("the sender lives as long as self");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Books)) {
        {
            let mut books = self.books();
            change(&mut books);
            let recalled = !books.gathering.is_empty() || books.used > books.total;
            self.shared.recall.send_if_modified(|now| std::mem::replace(now, recalled) != recalled);
        }
        self.shared.changed.send_replace(());
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().expect("no holder panics")
    }
}

impl Slot {
    /// It has a delivery now.
    pub fn occupy(&mut self) {
        if std::mem::take(&mut self.idle) {
            self.slots.change(|books| books.idle -= 1);
        }
    }

    /// Whether it has no room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// Gives all its room to another slot.
    #[must_use]
    pub fn cede(&mut self) -> Slot {
        Slot { slots: self.slots.clone(), units: std::mem::take(&mut self.units), idle: false }
    }

    /// Waits until it holds `units`, or all there are if that is less. First come, first served.
    pub async fn hold(&mut self, units: u32) {
        let slots = self.slots.clone();
        if units.min(slots.total()).max(1) <= self.units {
            return;
        }
        let queued = Queued::join(self);
        slots
            .when(|books| {
                let wanted = units.min(books.total).max(1);
                let granted = books.gathering.front() == Some(&queued.ticket) && books.used + wanted <= books.total;
                if granted {
                    books.used += wanted;
                    self.units = wanted;
                }
                granted
            })
            .await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.occupy();
        let units = self.units;
        self.slots.change(|books| books.used -= units);
    }
}

/// A place in the queue of those who gather, left on drop.
struct Queued {
    slots: Slots,
    ticket: u64,
}

impl Queued {
    /// Gives the units of `slot` back and queues.
    fn join(slot: &mut Slot) -> Queued {
        let slots = slot.slots.clone();
        let units = std::mem::take(&mut slot.units);
        let mut ticket = 0;
        slots.change(|books| {
            books.used -= units;
            ticket = books.next_ticket;
            books.next_ticket += 1;
            books.gathering.push_back(ticket);
        });
        Queued { slots, ticket }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.slots.change(|books| books.gathering.retain(|&other| other != ticket));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use super::*;

    async fn stays_pending(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn units_are_taken_up_to_the_total_and_come_back_on_drop() {
        let slots = Slots::new(2);
        let first = slots.take().await;
        let _second = slots.take().await;
        assert!(stays_pending(slots.take()).await);
        drop(first);
        let mut third = slots.take().await;
        assert_eq!((slots.used(), slots.full()), (0, false));
        third.occupy();
        assert_eq!(slots.used(), 1);
    }

    #[tokio::test]
    async fn whoever_gathers_recalls_the_idle_and_is_served_before_them() {
        let slots = Slots::new(2);
        let mut large = slots.take().await;
        large.occupy();
        let idle = slots.take().await;
        let gathering = tokio::spawn(async move {
            large.hold(2).await;
            large
        });
        slots.recalled().await;
        assert!(stays_pending(slots.take()).await);
        drop(idle);
        let large = gathering.await.unwrap();
        assert_eq!((large.units, slots.used()), (2, 2));
        assert!(stays_pending(slots.recalled()).await);
    }

    #[tokio::test]
    async fn two_that_gather_everything_run_one_after_the_other() {
        let slots = Slots::new(2);
        let (mut one, mut other) = (slots.take().await, slots.take().await);
        one.occupy();
        other.occupy();
        let (one, other) = (
            tokio::spawn(async move {
                one.hold(2).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }),
            tokio::spawn(async move {
                other.hold(2).await;
                other.units
            }),
        );
        one.await.unwrap();
        assert_eq!(other.await.unwrap(), 2);
        assert_eq!(slots.used(), 0);
    }

    #[tokio::test]
    async fn more_units_than_there_are_means_all_of_them() {
        let slots = Slots::new(2);
        let mut slot = slots.take().await;
        slot.hold(7).await;
        assert_eq!(slot.units, 2);
    }

    #[tokio::test]
    async fn giving_up_the_gathering_leaves_the_queue_and_frees_nothing_twice() {
        let slots = Slots::new(2);
        let mut slot = slots.take().await;
        slot.occupy();
        let mut other = slots.take().await;
        other.occupy();
        assert!(stays_pending(slot.hold(2)).await);
        assert_eq!(slots.used(), 1);
        drop(slot);
        assert_eq!(slots.used(), 1);
        let _next = slots.take().await;
    }

    #[tokio::test]
    async fn a_smaller_total_recalls_the_idle_and_admits_nobody() {
        let slots = Slots::new(2);
        let (one, _other) = (slots.take().await, slots.take().await);
        slots.resize(1);
        slots.recalled().await;
        drop(one);
        assert!(stays_pending(slots.take()).await);
        slots.resize(2);
        let _again = slots.take().await;
    }
}
