//! Measures the pool and proves it from outside, on servers and processes of its own.
//!
//! [`pool::Pool`] starts a private stack with any number of dispatchers and workers, the real binaries; [`baseline`]
//! drives no-op jobs through them and sets the figures beside [`raw`], what the broker alone can do on the same machine;
//! [`chaos`] lets everything die under load, and [`audit`] proves afterwards that nothing was lost and nothing doubled.
//! [`matrix`] makes every kind of job of the original system, or shows why it is refused; [`ladder`] measures what one job
//! of several outputs saves.
//! [`live`] times the start of live jobs and looks at what is recorded when their server dies.
//! [`overhead`] sets an encode through the pool beside the same encode by hand; [`chunks`] an encode in chunks beside the
//! same encode whole, also while its workers are killed; [`cage`] runs of tools in the sandbox beside the same without it.
//! [`doors`] measures what others wait at the API while thousands only hold a place there, and what a flood gets.
//! [`dashboards`] asks every query of every dashboard and alert of a real Prometheus that has watched a pool under load.
//! [`seed`] fills a ledger as years of work would, and [`pages`] asks a dispatcher on it for every list and every page of the
//! dashboard.
//! The end-to-end tests of the whole system stand in `tests/` and use the same pool.

pub mod audit;
pub mod baseline;
pub mod cage;
pub mod chaos;
pub mod chunks;
pub mod dashboards;
pub mod doors;
pub mod ladder;
pub mod live;
pub mod matrix;
pub mod overhead;
pub mod pages;
pub mod pool;
mod processes;
pub mod raw;
pub mod seed;
mod tool;
pub mod waits;
mod workbench;
