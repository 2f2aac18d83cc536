//! The dispatcher over real servers, which all tests of this binary share.

mod api;
mod ledger;
mod manual;

use ffpool_dispatcher::ledger::Actor;

/// Somebody of the pool's.
fn by(name: &str) -> Actor {
    Actor::of_pool(name)
}
