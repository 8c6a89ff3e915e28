//! A limit on bytes a second, shared by everything that goes out.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Unused bandwidth is saved up for so long at most.
const BURST: Duration = Duration::from_millis(250);

pub(super) struct Throttle {
    bytes_per_second: f64,
    /// When everything let through so far has had its time.
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second as f64, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may go.
    pub async fn take(&self, bytes: usize) {
        let starts = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let starts = (*free_at).max(earliest);
            *free_at = starts + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            starts
        };
        tokio::time::sleep_until(starts).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_a_second_lets_half_a_seconds_worth_through() {
        let throttle = Throttle::new(10_000_000);
        let start = Instant::now();
        for _ in 0..51 {
            throttle.take(100_000).await;
        }
        // The last one waits for the fifty before it; the first had nothing saved up.
        assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
    }
}
