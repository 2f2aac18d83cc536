//! The only writer of job state: ledger, claims, leases, retries, dead letters, HTTP API.
//!
//! Messages come in by `intake`, questions of workers by `claims`, signs of life by `heartbeats`; each becomes a
//! happening that the [`ledger`] decides. What follows goes out by `outbox` and `control`. What nobody brings in,
//! because somebody died, is found by the leader's `timers`. That a job has ended is told outside by [`callbacks`]; jobs that recur are made by `schedules`. [`api`]
//! serves people.
//!
//! Invariant: only `ledger` knows Postgres, only `ffpool-broker` the brokers, and no state is kept outside the ledger
//! that cannot be lost.

pub mod api;
pub mod callbacks;
mod claims;
mod control;
mod families;
mod fleet;
mod gauges;
pub mod health_command;
mod heartbeats;
mod intake;
mod kept;
pub mod ledger;
pub mod limits;
mod metrics_endpoint;
mod outbox;
mod placement;
mod run;
mod scaling;
mod schedules;
pub mod settings;
mod timers;
mod vitals;
mod web;

pub use run::Dispatcher;
