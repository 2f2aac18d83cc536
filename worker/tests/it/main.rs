//! The worker against real servers and real tools.

mod clock;
mod disk;
mod live;
mod log;
mod manager;
mod manual;
mod notice;
mod pool;
mod service;
mod store;
mod tool;
