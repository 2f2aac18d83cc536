//! The whole system from outside: real servers, real dispatchers and workers, real encodes.

mod chaos;
mod chunks;
mod clients;
mod collector;
mod dashboard;
mod doors;
mod failure_model;
mod faults;
mod inputs;
mod matrix;
mod metrics;
mod notices;
mod pages;
mod recordings;
mod rights;
mod scheduling;
mod secrets;
mod support;
mod tracing;
