//! The closed loop.
//!
//! Owns: the clients, their random keys and values, and what is counted. Must not know: protocols.
//! Invariants: a client sends its next request only when it has the answer to the last one; an
//! operation is counted if it ends inside the measured time.

use super::cpu;
use super::report::What;
use super::target::Target;
use crate::exit::Failure;
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The longest latency that is told apart from longer ones: ten minutes, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;
/// After an error a client waits, so that a dead server does not make a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Clients that write the keys before a `get` is measured.
const PREPARING_CLIENTS: usize = 64;
/// Random bytes that values are cut from.
const POOL_BYTES: usize = 1 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub struct Load {
    pub what: What,
    pub clients: usize,
    pub keys: u64,
    /// Write all keys before.
    pub fill: bool,
    pub value_bytes: usize,
    pub warmup: Duration,
    pub measured: Duration,
    pub timeout: Duration,
}

/// What came out.
#[derive(Debug)]
pub struct Measured {
    /// Of operations that succeeded, in microseconds.
    pub latency: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
    pub cpu_seconds: Option<f64>,
}

impl Default for Measured {
    fn default() -> Self {
        let latency =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants");
        Self { latency, errors: 0, first_error: None, cpu_seconds: None }
    }
}

impl Measured {
    fn error(&mut self, why: String) {
        self.errors += 1;
        self.first_error.get_or_insert(why);
    }

    fn merge(&mut self, other: Self) {
        self.latency.add(other.latency).expect("all histograms have the same bounds");
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }
}

/// Random bytes to cut values from, so that nothing can be gained by compressing them.
struct Values {
    pool: Bytes,
    bytes: usize,
}

impl Values {
    fn new(bytes: usize) -> Self {
        let mut pool = vec![0; POOL_BYTES + bytes];
        SmallRng::from_os_rng().fill_bytes(&mut pool);
        Self { pool: pool.into(), bytes }
    }

    fn next(&self, random: &mut SmallRng) -> Bytes {
        let start = random.random_range(0..=self.pool.len() - self.bytes);
        self.pool.slice(start..start + self.bytes)
    }
}

fn key(number: u64) -> Bytes {
    format!("/bench/{number:010}").into()
}

/// Runs the load.
///
/// # Errors
/// The keys that are to be read could not be written.
pub async fn run(load: Load, target: Target) -> Result<Measured, Failure> {
    let target = Arc::new(target);
    let values = Arc::new(Values::new(load.value_bytes));
    if load.fill {
        write_keys(&load, &target, &values).await?;
    }
    let start = Instant::now() + load.warmup;
    let end = start + load.measured;
    let mut clients = JoinSet::new();
    for client in 0..load.clients {
        let (load, target, values) = (load.clone(), Arc::clone(&target), Arc::clone(&values));
        clients.spawn(async move { one_client(client, &load, &target, &values, start, end).await });
    }
    tokio::time::sleep_until(start).await;
    let cpu_before = cpu::seconds();
    tokio::time::sleep_until(end).await;
    let cpu_after = cpu::seconds();
    let mut measured = Measured::default();
    while let Some(result) = clients.join_next().await {
        let part = result.map_err(|error| Failure::other(format!("a client ended: {error}")))?;
        measured.merge(part);
    }
    measured.cpu_seconds = cpu_before.zip(cpu_after).map(|(before, after)| after - before);
    Ok(measured)
}

async fn one_client(
    client: usize,
    load: &Load,
    target: &Target,
    values: &Values,
    start: Instant,
    end: Instant,
) -> Measured {
    let mut random = SmallRng::from_os_rng();
    let mut measured = Measured::default();
    loop {
        let key = key(random.random_range(0..load.keys));
        let began = Instant::now();
        if began >= end {
            return measured;
        }
        let result = match load.what {
            What::Put => target.put(client, key, values.next(&mut random), load.timeout).await,
            What::Get => target.get(client, key, load.timeout).await,
        };
        let now = Instant::now();
        if now >= start && now < end {
            let micros = u64::try_from((now - began).as_micros()).unwrap_or(LATENCY_US_MAX);
            match &result {
                Ok(()) => measured.latency.saturating_record(micros),
                Err(why) => measured.error(why.clone()),
            }
        }
        if result.is_err() {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}

async fn write_keys(
    load: &Load,
    target: &Arc<Target>,
    values: &Arc<Values>,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for client in 0..PREPARING_CLIENTS {
        let (next, target, values) = (Arc::clone(&next), Arc::clone(target), Arc::clone(values));
        let (keys, timeout) = (load.keys, load.timeout);
        writers.spawn(async move {
            let mut random = SmallRng::from_os_rng();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Ok(());
                }
                let value = values.next(&mut random);
                target.put(client, key(number), value, timeout).await?;
            }
        });
    }
    while let Some(result) = writers.join_next().await {
        let written: Result<(), String> = result.unwrap_or_else(|error| Err(error.to_string()));
        written.map_err(|why| {
            let message = format!("the keys to read could not be written: {why}");
            Failure::new(crate::exit::Exit::Unavailable, message)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_size_asked_for() {
        let mut random = SmallRng::seed_from_u64(1);
        for bytes in [0, 1, 256, 4096] {
            let values = Values::new(bytes);
            assert_eq!(values.next(&mut random).len(), bytes);
            assert!(bytes < 16 || values.next(&mut random) != values.next(&mut random));
        }
    }

    #[test]
    fn parts_add_up() {
        let mut sum = Measured::default();
        for micros in [5, 10] {
            let mut part = Measured::default();
            part.latency.record(micros).unwrap();
            part.error(format!("e{micros}"));
            sum.merge(part);
        }
        assert_eq!((sum.latency.len(), sum.errors), (2, 2));
        assert_eq!(sum.first_error.as_deref(), Some("e5"));
    }
}
