//! Free loopback ports for servers that cannot be told to choose their own.
//!
//! The ports lie below 32768: above it the kernel hands out source ports, and a server that restarts could find its own
//! port taken by somebody's outgoing connection. No port is given twice in one process, and the search begins at a
//! random place, so that stacks that start at the same time in several processes do not meet.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    sync::{LazyLock, Mutex, PoisonError},
};

const LOWEST: u16 = 10_000;
const HIGHEST: u16 = 32_767;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A loopback port that is free now and that this process has not handed out before.
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let span = u64::from(HIGHEST - LOWEST) + 1;
    let start = RandomState::new().hash_one(std::process::id());
    for step in 0..span {
        let port = LOWEST + u16::try_from(start.wrapping_add(step) % span).expect("the span is below 2^16");
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no loopback port between {LOWEST} and {HIGHEST} is free");
}
