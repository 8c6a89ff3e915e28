//! A wall clock that cannot jump far ahead: checked against the monotonic clock.

use rangedb_types::MonotonicTime;
use std::time::Duration;

/// How far the wall clock may run ahead of what the monotonic clock says has passed. Whatever is
/// further ahead is refused: timestamps that were once handed out can never be taken back.
pub const CLOCK_JUMP_MAX: Duration = Duration::from_secs(10);

/// Remembers when wall and monotonic clock last agreed.
#[derive(Clone, Copy, Debug)]
pub struct JumpGuard {
    anchor_wall_ms: u64,
    anchor: MonotonicTime,
}

/// A time to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedTime {
    pub now_ms: u64,
    /// The wall clock was refused: it is far ahead, and the time is counted on without it.
    pub refused: bool,
}

impl JumpGuard {
    /// Trusts the wall clock as it is now: there is nothing yet to hold against it.
    #[must_use]
    pub const fn new(wall_ms: u64, now: MonotonicTime) -> Self {
        Self { anchor_wall_ms: wall_ms, anchor: now }
    }

    /// The wall clock's time if it can be believed, else the last one believed plus the time that
    /// has passed. A clock that went back is believed: the oracle waits it out by counting on.
    pub fn check(&mut self, wall_ms: u64, now: MonotonicTime) -> CheckedTime {
        let passed_ms = ms(now.since(self.anchor));
        let expected_ms = self.anchor_wall_ms.saturating_add(passed_ms);
        if wall_ms > expected_ms.saturating_add(ms(CLOCK_JUMP_MAX)) {
            return CheckedTime { now_ms: expected_ms, refused: true };
        }
        // After a big step back the anchor stays, so that the step forward again is no jump.
        if wall_ms.saturating_add(ms(CLOCK_JUMP_MAX)) >= expected_ms {
            *self = Self::new(wall_ms, now);
        }
        CheckedTime { now_ms: wall_ms, refused: false }
    }
}

fn ms(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> MonotonicTime {
        MonotonicTime(Duration::from_millis(ms))
    }

    #[test]
    fn a_clock_that_jumps_far_ahead_is_refused_not_followed() {
        let mut guard = JumpGuard::new(1_000_000, at(0));
        let jumped = guard.check(9_000_000_000, at(500));
        assert_eq!(jumped, CheckedTime { now_ms: 1_000_500, refused: true });
        // Also when it stays there, and for as long.
        assert_eq!(guard.check(9_000_003_000, at(3_500)).now_ms, 1_003_500);
        // Once it is right again it is believed again.
        assert_eq!(
            guard.check(1_004_100, at(4_000)),
            CheckedTime { now_ms: 1_004_100, refused: false }
        );
    }

    #[test]
    fn a_long_pause_is_no_jump() {
        let mut guard = JumpGuard::new(1_000, at(0));
        let day = 86_400_000;
        assert!(!guard.check(1_000 + day, at(day)).refused);
    }

    #[test]
    fn back_and_forth_is_no_jump() {
        let mut guard = JumpGuard::new(10_000_000, at(0));
        assert!(!guard.check(5_000_000, at(1_000)).refused);
        assert!(!guard.check(10_002_000, at(2_000)).refused);
        assert!(guard.check(10_002_000 + 20_000, at(2_000)).refused);
    }
}
