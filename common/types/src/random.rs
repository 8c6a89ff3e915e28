//! Sources of randomness, so that a run can be replayed from its seed.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::time::Duration;

/// Random bits.
pub trait Random: Send {
    fn next_u64(&mut self) -> u64;

    /// 128 random bits that are not zero (zero means "none" for identifiers).
    fn next_id(&mut self) -> u128 {
        loop {
            let id = u128::from(self.next_u64()) << 64 | u128::from(self.next_u64());
            if id != 0 {
                return id;
            }
        }
    }

    /// A number below `bound`; 0 if the bound is 0.
    fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// "Full jitter": a duration from zero up to `longest` (Brooker, "Exponential Backoff and
    /// Jitter", AWS 2015).
    fn jitter(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros.saturating_add(1)))
    }
}

/// The operating system's randomness, by way of the thread's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&mut self) -> u64 {
        rand::rng().next_u64()
    }
}

/// The same bits for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct SeededRandom {
    rng: StdRng,
}

impl SeededRandom {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }
}

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }
}
