//! The contract of ffpool: everything the parts agree on, and nothing that does I/O.
//!
//! A client writes a [`job::JobSpec`]; [`parse`] turns its bytes into one or says everything that is wrong with it;
//! the operator's own scenarios and templates are a [`catalog`]; [`scenario`] resolves it to a typed [`encode::Encode`], whose ends are [`location`]s and from which [`plan`] makes the
//! tool's arguments with what [`probe`] found in the source; [`chunk`] cuts a long one into jobs of its own. It waits in a queue of [`topology`]. Workers and
//! dispatchers exchange the [`message`]s over the [`subjects`], each with the least [`rights`] it can do with; what a message does to a job is decided by one pure
//! function, [`lifecycle::step`]. What ended an attempt is one of the closed set of [`failure`] causes. What encodes in hardware is a [`device`]. The ledger's
//! tables are [`migrations`]; a presentation is named by a [`playlist`], a set of pictures by a [`track`], and a job is shown by its [`thumbnail`]; what the HTTP API answers is [`api`], what a job's end sends out is a [`callback`], what work costs a matter of [`cost`], whose turn it is one of [`turns`];
//! how many attempts a worker has room for is [`capacity`], how many workers the work needs [`advice`]; every metric's name stands in [`metrics`].
//!
//! Invariant: no clock, no randomness, no async, no dependency on a sibling crate.

pub mod access;
pub mod advice;
pub mod api;
pub mod callback;
pub mod capacity;
pub mod catalog;
pub mod chunk;
pub mod cost;
pub mod device;
pub mod encode;
pub mod expiry;
pub mod failure;
pub mod gstreamer;
pub mod id;
pub mod job;
pub mod lifecycle;
pub mod live;
pub mod location;
pub mod message;
pub mod metrics;
pub mod migrations;
pub mod parse;
pub mod percent;
pub mod plan;
pub mod playlist;
pub mod probe;
pub mod retry;
pub mod rights;
pub mod scenario;
pub mod subjects;
pub mod thumbnail;
pub mod topology;
pub mod track;
pub mod turns;
