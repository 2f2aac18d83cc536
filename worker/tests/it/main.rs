//! The worker against real servers and real tools.

mod pool;
mod service;
mod tool;
