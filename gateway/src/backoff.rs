//! Pauses between attempts: exponential with full jitter (Brooker, "Exponential Backoff and
//! Jitter", AWS 2015).

use rangedb_types::{Random, SystemRandom};
use std::time::Duration;

/// A growing pause with an upper bound.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// The next pause: between half of the current step and all of it, so that it is never nothing.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        step / 2 + jitter(step / 2)
    }
}

/// In tests of this crate always the same, so that they can be replayed.
fn jitter(longest: Duration) -> Duration {
    if cfg!(test) { longest / 2 } else { SystemRandom.jitter(longest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::new(Duration::from_millis(4), Duration::from_millis(50));
        for _ in 0..100 {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_millis(2) && pause <= Duration::from_millis(50));
        }
        assert!(backoff.pause() >= Duration::from_millis(25));
    }
}
