//! Which timestamps a leader hands out in one term. Pure: the clock is an argument.

use rangedb_types::Timestamp;
use rangedb_types::timestamp::LOGICAL_BITS;

/// How far ahead of the clock a window is committed, in milliseconds.
pub const WINDOW_MS: u64 = 3_000;
/// Most timestamps in one batch.
pub const BATCH_MAX: u32 = 1 << 16;

/// The window must first be extended through the quorum, at least up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedWindow {
    pub until: Timestamp,
}

/// The oracle of one leader in one term.
///
/// Invariants: `next <= window_end`, except while a window is wanted at the beginning of a term; all
/// that was handed out in earlier terms lies below the `window_end` the term began with, and all
/// that is handed out in this one at or above it, and below the committed window.
#[derive(Clone, Copy, Debug)]
pub struct Oracle {
    next: Timestamp,
    window_end: Timestamp,
}

impl Oracle {
    /// Begins a term. `window_end` is the end of the window that is committed as the term begins,
    /// read after leadership was confirmed in this term.
    #[must_use]
    pub fn new_term(window_end: Timestamp, now_ms: u64) -> Self {
        Self { next: window_end.max(physical(now_ms)), window_end }
    }

    /// Hands out `count` timestamps, from the returned one on, each one above the one before.
    ///
    /// # Errors
    /// `NeedWindow` if they do not fit in the committed window.
    pub fn allocate(&mut self, count: u32, now_ms: u64) -> Result<Timestamp, NeedWindow> {
        let count = u64::from(count.clamp(1, BATCH_MAX));
        // A clock that went back, or stands still, is waited out by counting on.
        let first = self.next.max(physical(now_ms));
        let end = Timestamp(first.0.saturating_add(count));
        if end > self.window_end {
            return Err(NeedWindow { until: window_after(end) });
        }
        self.next = end;
        Ok(first)
    }

    /// The quorum has committed, in this term, that timestamps below `until` may be handed out.
    pub fn window_committed(&mut self, until: Timestamp) {
        self.window_end = self.window_end.max(until);
    }

    /// The window to ask for if the present one is soon used up.
    #[must_use]
    pub fn wants_window(&self, now_ms: u64) -> Option<NeedWindow> {
        let now = self.next.max(physical(now_ms));
        let left_ms = self.window_end.physical_ms().saturating_sub(now.physical_ms());
        (left_ms < WINDOW_MS / 2).then(|| NeedWindow { until: window_after(now) })
    }
}

/// The first timestamp of a millisecond.
fn physical(now_ms: u64) -> Timestamp {
    const LATEST_MS: u64 = u64::MAX >> LOGICAL_BITS;
    Timestamp(now_ms.min(LATEST_MS) << LOGICAL_BITS)
}

fn window_after(timestamp: Timestamp) -> Timestamp {
    physical(timestamp.physical_ms() + 1 + WINDOW_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tso::JumpGuard;
    use proptest::prelude::*;
    use rangedb_types::MonotonicTime;
    use std::time::Duration;

    fn committed(oracle: &mut Oracle, count: u32, now_ms: u64) -> Timestamp {
        loop {
            match oracle.allocate(count, now_ms) {
                Ok(first) => return first,
                Err(NeedWindow { until }) => oracle.window_committed(until),
            }
        }
    }

    #[test]
    fn nothing_is_served_outside_the_window() {
        let mut oracle = Oracle::new_term(Timestamp::ZERO, 5_000);
        let NeedWindow { until } = oracle.allocate(1, 5_000).unwrap_err();
        assert!(until.physical_ms() >= 5_000 + WINDOW_MS);
        oracle.window_committed(until);
        assert_eq!(oracle.allocate(10, 5_000), Ok(Timestamp::new(5_000, 0)));
        assert_eq!(oracle.allocate(1, 5_000), Ok(Timestamp::new(5_000, 10)));
        assert!(oracle.allocate(1, until.physical_ms()).is_err());
        assert_eq!(oracle.allocate(1, 5_001), Ok(Timestamp::new(5_001, 0)));
    }

    #[test]
    fn a_term_begins_beyond_the_old_window() {
        let old_end = Timestamp::new(9_000, 77);
        let mut oracle = Oracle::new_term(old_end, 5_000);
        assert!(oracle.allocate(1, 5_000).is_err(), "the old window is used up by definition");
        assert_eq!(committed(&mut oracle, 1, 5_000), old_end);
    }

    #[test]
    fn a_clock_that_goes_back_is_waited_out() {
        let mut oracle = Oracle::new_term(Timestamp::ZERO, 5_000);
        let before = committed(&mut oracle, 1, 5_000);
        assert_eq!(committed(&mut oracle, 1, 1_000), before.next());
        // The counter runs over into the next millisecond if need be.
        let many = committed(&mut oracle, BATCH_MAX, 1_000);
        for _ in 0..8 {
            committed(&mut oracle, BATCH_MAX, 1_000);
        }
        assert!(committed(&mut oracle, 1, 1_000) > many);
    }

    /// What a world of crashing members and bad clocks does.
    #[derive(Clone, Debug)]
    enum Step {
        /// The leader of this term number (modulo) is asked, be it deposed or not.
        Ask {
            leader: usize,
            count: u32,
        },
        /// A new leader; it read the window when it was confirmed.
        Elect,
        /// The leader of this number proposes its window; committed only if it still leads.
        Extend {
            leader: usize,
        },
        /// The clock everyone reads goes anywhere within this distance, also back.
        Clock {
            forward: bool,
            ms: u64,
        },
        Pass {
            ms: u64,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..3usize, 1..300_000u32).prop_map(|(leader, count)| Step::Ask { leader, count }),
            1 => Just(Step::Elect),
            4 => (0..3usize).prop_map(|leader| Step::Extend { leader }),
            1 => (any::<bool>(), 0..10_000_000u64)
                .prop_map(|(forward, ms)| Step::Clock { forward, ms }),
            2 => (0..5_000u64).prop_map(|ms| Step::Pass { ms }),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// A batch counts as handed out only if its leader still leads (that is what confirmation
        /// of leadership means); then all batches, of all leaders, follow each other.
        #[test]
        fn timestamps_never_go_back_and_never_come_twice(steps in steps()) {
            let (mut wall_ms, mut passed_ms) = (1_000_000_000u64, 0u64);
            let mono = |ms| MonotonicTime(Duration::from_millis(ms));
            let mut guard = JumpGuard::new(wall_ms, mono(0));
            let mut replicated = Timestamp::ZERO;
            let mut leaders: Vec<Oracle> = vec![Oracle::new_term(replicated, wall_ms)];
            let mut handed_out_end = Timestamp::ZERO;
            for step in steps {
                let now_ms = guard.check(wall_ms, mono(passed_ms)).now_ms;
                let latest = leaders.len() - 1;
                let nth = |back: usize| latest.saturating_sub(back);
                match step {
                    Step::Ask { leader, count } => {
                        let at = nth(leader);
                        if let Ok(first) = leaders[at].allocate(count, now_ms)
                            && at == latest
                        {
                            prop_assert!(first >= handed_out_end, "{first} after {handed_out_end}");
                            handed_out_end = Timestamp(first.0 + u64::from(count.min(BATCH_MAX)));
                            prop_assert!(handed_out_end <= replicated, "outside the window");
                        }
                    }
                    Step::Elect => leaders.push(Oracle::new_term(replicated, now_ms)),
                    Step::Extend { leader } => {
                        let at = nth(leader);
                        if let Some(NeedWindow { until }) = leaders[at].wants_window(now_ms)
                            && at == latest
                        {
                            replicated = replicated.max(until);
                            leaders[at].window_committed(replicated);
                        }
                    }
                    Step::Clock { forward: true, ms } => wall_ms += ms,
                    Step::Clock { forward: false, ms } => wall_ms -= ms.min(wall_ms),
                    Step::Pass { ms } => {
                        wall_ms += ms;
                        passed_ms += ms;
                    }
                }
            }
        }
    }
}
