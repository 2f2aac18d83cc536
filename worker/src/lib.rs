//! The worker: pulls deliveries up to its capacity and runs one attempt for each.
//!
//! The way of a delivery: [`slots`] make room, the broker's intake hands one over, [`claims`] ask the ledger, the
//! [`workshop`] runs the tool in its [`cage`] and publishes the output (remote ends through the [`store`], chunks of long
//! ones through [`chunks`], recordings through `pieces`), [`events`] reports the end, and [`carrier`], which holds these
//! steps together, acknowledges. [`preempt`] makes room for live jobs. Beside it [`heartbeat`] renews the leases that
//! [`attempts`] knows, [`control`] obeys the dispatchers, and [`service`] starts everything and, through the stages of
//! [`drain`], stops it.
//!
//! Invariant: the worker keeps no state that outlives it; whatever it dies of, the broker or the ledger gives its jobs
//! to somebody else.

pub mod attempts;
pub mod bounds;
pub mod cage;
pub mod carrier;
pub mod chunks;
pub mod claims;
pub mod classify;
pub mod control;
pub mod devices;
pub mod drain;
pub mod encoders;
pub mod events;
mod fitness;
pub mod gstreamer;
pub mod heartbeat;
mod http;
pub mod ledger;
pub mod live;
mod liveness;
pub mod machine;
pub mod notice;
pub mod offers;
pub mod packets;
mod pieces;
pub mod preempt;
pub mod progress;
pub mod publish;
pub mod quarters;
pub mod roots;
pub mod service;
pub mod settings;
pub mod shown;
pub mod slots;
pub mod software;
mod space;
mod spans;
pub mod store;
pub mod tool;
pub mod verify;
pub mod workshop;
