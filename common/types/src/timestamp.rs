//! Timestamps of the oracle: 46 bits of physical milliseconds, 18 bits of a counter.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How many bits of a timestamp count within one millisecond.
pub const LOGICAL_BITS: u32 = 18;

/// A point in the cluster's history: `physical milliseconds << 18 | counter`. Also the version of a
/// value (its commit timestamp). 0 is "none", `MAX` reads the latest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    /// Composes a timestamp. `logical` must fit in 18 bits.
    #[must_use]
    pub const fn new(physical_ms: u64, logical: u64) -> Self {
        assert!(logical < 1 << LOGICAL_BITS, "the counter has 18 bits");
        Self(physical_ms << LOGICAL_BITS | logical)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The counter within the millisecond.
    #[must_use]
    pub const fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    /// The next timestamp. Stays at `MAX`.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The timestamp before. Stays at zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Oracle time that passed from `earlier` to here; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.physical_ms().saturating_sub(earlier.physical_ms()))
    }

    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let ts = Timestamp::new(1_700_000_000_123, 42);
        assert_eq!((ts.physical_ms(), ts.logical()), (1_700_000_000_123, 42));
        assert!(ts.next() > ts && ts.next().prev() == ts);
        assert_eq!(Timestamp::MAX.next(), Timestamp::MAX);
        assert_eq!(Timestamp::new(20, 0).since(Timestamp::new(5, 9)), Duration::from_millis(15));
    }
}
