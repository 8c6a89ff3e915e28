//! When writes were acknowledged: latencies, pauses, and how soon writes went on after a fault.

use crate::wait;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How soon writes went on after a fault.
#[derive(Clone, Copy, Debug)]
pub struct Resumption {
    /// Until the first writer had a write acknowledged that it began after the fault.
    pub first: Duration,
    /// Until the last one had.
    pub last: Duration,
}

/// Moments of acknowledgement, by writer.
pub struct Acknowledged {
    writers: Vec<Mutex<Vec<(Instant, Instant)>>>,
}

impl Acknowledged {
    pub fn new(writers: usize) -> Self {
        Self { writers: (0..writers).map(|_| Mutex::default()).collect() }
    }

    pub fn add(&self, writer: usize, begun: Instant) {
        self.writers[writer].lock().push((begun, Instant::now()));
    }

    pub fn count(&self) -> usize {
        self.writers.iter().map(|writer| writer.lock().len()).sum()
    }

    /// The first acknowledgement, of each writer, of a write that it began after `since`.
    pub async fn resumed(&self, since: Instant, limit: Duration) -> Result<Resumption> {
        let times = wait::until("every writer goes on", limit, async || self.first_after(since));
        let times = times.await?;
        Ok(Resumption {
            first: times.iter().min().copied().unwrap_or_default(),
            last: times.iter().max().copied().unwrap_or_default(),
        })
    }

    fn first_after(&self, since: Instant) -> Result<Vec<Duration>> {
        let first = |(number, writer): (usize, &Mutex<Vec<(Instant, Instant)>>)| {
            let writer = writer.lock();
            let at = writer.partition_point(|(begun, _)| *begun <= since);
            let (_, end) = writer
                .get(at)
                .with_context(|| format!("writer {number} has had no write acknowledged"))?;
            Ok(*end - since)
        };
        self.writers.iter().enumerate().map(first).collect()
    }

    pub fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let mut latencies = Vec::new();
        for writer in &self.writers {
            let writer = writer.lock();
            let inside = writer.iter().filter(|(_, end)| (from..to).contains(end));
            latencies.extend(inside.map(|(begun, end)| *end - *begun));
        }
        latencies.sort();
        latencies
    }

    pub fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let mut ends = vec![from, to];
        for writer in &self.writers {
            let writer = writer.lock();
            ends.extend(writer.iter().map(|(_, end)| *end).filter(|end| (from..to).contains(end)));
        }
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// A percentile (in hundredths of a per cent, so 9900 is p99) of sorted latencies, in milliseconds.
#[must_use]
pub fn percentile_ms(sorted: &[Duration], hundredths: usize) -> f64 {
    let index = (sorted.len() * hundredths / 10_000).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

/// Worst and median of some times, for people.
#[must_use]
pub fn summary(what: &str, times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let median = percentile_ms(&sorted, 5000);
    let worst = percentile_ms(&sorted, 10_000);
    format!("{what}: worst {worst:.0} ms, median {median:.0} ms of {}", times.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_sorted_latencies() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&sorted, 5000) as u64, 51);
        assert_eq!(percentile_ms(&sorted, 10_000) as u64, 100);
        assert_eq!(percentile_ms(&[], 5000) as u64, 0);
    }

    #[test]
    fn the_longest_pause_includes_both_ends() {
        let acknowledged = Acknowledged::new(1);
        let start = Instant::now();
        acknowledged.add(0, start);
        let end = start + Duration::from_secs(10);
        assert!(acknowledged.longest_pause(start, end) > Duration::from_secs(9));
    }
}
