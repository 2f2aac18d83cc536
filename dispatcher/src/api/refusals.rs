//! Refused requests in the audit: the first of each source in a minute at once, the others as a count when it is over.
//!
//! Invariant: whoever knocks however often makes no more entries in a minute than [`SOURCES_MAX`] twice and one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::App;
use crate::api::access::Whose;
use crate::ledger::{Actor, Entry, Ledger, Realm};
use crate::limits::Origin;

/// How long refusals of one source are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources that are told apart in one window.
const SOURCES_MAX: usize = 64;
/// Characters of a path and of a reason that are kept.
const TEXT_MAX: usize = 200;

/// A request that was refused, or a connection before it could ask.
pub(crate) struct Refused<'a> {
    pub(crate) whose: Whose,
    pub(crate) address: IpAddr,
    /// Its method and path.
    pub(crate) route: String,
    /// `None`: it got no answer.
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: &'a str,
}

/// Whose refusals are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    name: String,
    tenant: Option<String>,
    origin: Origin,
    status: Option<u16>,
    /// Of a connection that came to no request: there is no route that would tell such apart.
    reason: Option<String>,
}

/// What was refused since the window began.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    /// How many came after the first of each source.
    more: HashMap<Source, (IpAddr, u64)>,
    /// Of sources that found no room.
    others: u64,
}

impl Window {
    /// Counts one. Whether it is the first of its source, and gets an entry of its own.
    fn count(&mut self, source: Source, address: IpAddr, now: Instant) -> bool {
        self.began.get_or_insert(now);
        if let Some((_, more)) = self.more.get_mut(&source) {
            *more += 1;
            return false;
        }
        if self.more.len() >= SOURCES_MAX {
            self.others += 1;
            return false;
        }
        self.more.insert(source, (address, 0));
        true
    }

    /// What is to be told of a window that is over; a new one begins.
    fn take_over(&mut self, now: Instant) -> Option<Window> {
        let is_over = self.began.is_some_and(|began| now.duration_since(began) >= WINDOW);
        is_over.then(|| std::mem::take(self))
    }
}

/// The refusals of one dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Window>);

impl Refusals {
    /// Writes a refused request down, or counts it.
    pub(crate) async fn note(&self, ledger: &Ledger, refused: Refused<'_>) {
        let actor = actor_of(&refused);
        let source = Source {
            name: actor.name.clone(),
            tenant: actor.realm.tenant().map(str::to_owned),
            origin: Origin::of(refused.address),
            status: refused.status.map(|status| status.as_u16()),
            reason: refused.status.is_none().then(|| shortened(refused.reason)),
        };
        let (over, is_first) = {
            let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            (window.take_over(now), window.count(source, refused.address, now))
        };
        if let Some(over) = over {
            tell(ledger, over).await;
        }
        if is_first {
            let detail =
                json!({ "status": refused.status.map(|status| status.as_u16()), "reason": shortened(refused.reason) });
            ledger.audit(&actor, Entry::new("refused", shortened(&refused.route)).detail(detail)).await;
        }
    }

    fn take(&self, all: bool) -> Option<Window> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all { Some(std::mem::take(&mut *window)) } else { window.take_over(Instant::now()) }
    }
}

/// Tells what was counted whenever a window is over, and at `stop` what is left.
pub(crate) async fn keep_told(app: App, stop: CancellationToken) {
    let mut tick = tokio::time::interval(WINDOW);
    loop {
        let is_last = tokio::select! {
            _ = tick.tick() => false,
            () = stop.cancelled() => true,
        };
        if let Some(over) = app.refusals.take(is_last) {
            tell(&app.ledger, over).await;
        }
        if is_last {
            return;
        }
    }
}

async fn tell(ledger: &Ledger, over: Window) {
    for (source, (address, more)) in over.more.into_iter().filter(|(_, (_, more))| *more > 0) {
        let actor = Actor { name: source.name, realm: Realm::of(source.tenant), address: Some(address) };
        let mut detail = json!({ "status": source.status, "count": more });
        if let Some(reason) = source.reason {
            detail["reason"] = reason.into();
        }
        ledger.audit(&actor, Entry::new("refused_again", "the API").detail(detail)).await;
    }
    if over.others > 0 {
        let detail = json!({ "count": over.others, "reason": "more sources than are told apart in a minute" });
        ledger.audit(&Actor::of_pool("others"), Entry::new("refused_again", "the API").detail(detail)).await;
    }
}

fn actor_of(refused: &Refused<'_>) -> Actor {
    let address = Some(refused.address);
    match &refused.whose {
        Whose::Nobody => Actor { address, ..Actor::of_pool("no key") },
        Whose::Handshake => Actor { address, ..Actor::of_pool("a TLS client") },
        Whose::Unknown => Actor { address, ..Actor::of_pool("an unknown key") },
        Whose::Session => Actor { address, ..Actor::of_pool("an ended session") },
        Whose::Certificate(name) => Actor { address, ..Actor::of_pool(format!("certificate {name}")) },
        Whose::Known(caller) => Actor { address, ..caller.actor.clone() },
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> (Source, IpAddr) {
        let address = IpAddr::V4(number.into());
        let name = "no key".to_owned();
        (Source { name, tenant: None, origin: Origin::of(address), status: Some(401), reason: None }, address)
    }

    #[test]
    fn a_flood_makes_few_entries_and_every_refusal_is_counted() {
        let mut window = Window::default();
        let now = Instant::now();
        let mut entries = 0;
        for round in 0..10 {
            for number in 0..1_000 {
                let (source, address) = source(number);
                entries += usize::from(window.count(source, address, now + Duration::from_secs(round)));
            }
        }
        assert_eq!(entries, SOURCES_MAX);
        assert!(window.take_over(now + Duration::from_secs(59)).is_none());
        let over = window.take_over(now + WINDOW).unwrap();
        let counted: u64 = over.more.values().map(|(_, more)| *more).sum();
        assert_eq!(entries as u64 + counted + over.others, 10_000);
        assert_eq!(over.more.len(), SOURCES_MAX);
        let (source, address) = source(1);
        assert!(window.count(source, address, now + WINDOW), "a new minute begins anew");
    }
}
