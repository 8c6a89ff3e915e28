//! Free ports on loopback.

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use rand::Rng as _;
use std::collections::HashSet;
use std::net::TcpListener;

/// Below those that the kernel gives to outgoing connections, so that a port stays free while its
/// process is down.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
const ATTEMPTS_MAX: usize = 1000;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A free port that this process hands out once.
///
/// # Errors
/// None is free.
pub fn free() -> Result<u16> {
    let mut taken = TAKEN.lock();
    let taken = taken.get_or_insert_default();
    (0..ATTEMPTS_MAX)
        .map(|_| rand::rng().random_range(PORTS))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && taken.insert(*port))
        .context("no free port on 127.0.0.1 between 10000 and 20000")
}

/// A free address.
///
/// # Errors
/// None is free.
pub fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free()?))
}
