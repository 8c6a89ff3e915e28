//! How much of a replica's log may go. Pure.
//!
//! Followers that are a little behind are served from the log, those far behind by a snapshot: the
//! border is a budget of bytes and of entries. Nothing is dropped beyond what is applied *and*
//! durable in the data store.

use std::collections::VecDeque;

/// How many measured points of the log are kept; the oldest go first.
const SAMPLES_MAX: usize = 2048;
/// A point is measured whenever this many bytes or entries were appended.
const SAMPLE_BYTES: u64 = 64 << 10;
const SAMPLE_ENTRIES: u64 = 64;

/// Limits of a replica's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBudget {
    /// Bytes kept for followers that are behind.
    pub retain_bytes: u64,
    /// Entries kept for followers that are behind.
    pub retain_entries: u64,
}

/// Knows roughly where in the log how many bytes lie.
#[derive(Debug, Default)]
pub struct LogSizer {
    /// (index, bytes appended up to and including it since the start of the process).
    samples: VecDeque<(u64, u64)>,
    last_index: u64,
    total: u64,
}

impl LogSizer {
    /// Entries of `bytes` were appended, the last one at `last_index`.
    pub fn appended(&mut self, last_index: u64, bytes: u64) {
        while self.samples.back().is_some_and(|(index, _)| *index >= last_index) {
            self.samples.pop_back();
        }
        self.total += bytes;
        self.last_index = last_index;
        let (index, total) = self.samples.back().copied().unwrap_or_default();
        if last_index - index < SAMPLE_ENTRIES && self.total - total < SAMPLE_BYTES {
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((last_index, self.total));
    }

    /// The index up to which the log may be dropped; `None` if it is within its budget.
    ///
    /// `needed` is the smallest index that a live follower still has to receive, when this replica
    /// leads: what all have may go at once, beyond a small reserve.
    #[must_use]
    pub fn target(
        &self,
        first: u64,
        needed: Option<u64>,
        applied: u64,
        budget: LogBudget,
    ) -> Option<u64> {
        let last = self.last_index.max(applied);
        let by_entries = last.saturating_sub(budget.retain_entries);
        let spare = self.total.saturating_sub(budget.retain_bytes);
        let by_bytes = match self.samples.partition_point(|(_, bytes)| *bytes <= spare) {
            0 => 0,
            found => self.samples[found - 1].0,
        };
        let over_budget = by_entries.max(by_bytes);
        let all_have = needed.map_or(0, |needed| needed.saturating_sub(budget.retain_entries / 8));
        let target = over_budget.max(all_have).min(applied);
        (target > first).then_some(target)
    }

    /// Entries up to `index` are gone.
    pub fn truncated(&mut self, index: u64) {
        while self.samples.front().is_some_and(|(sample, _)| *sample <= index) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: LogBudget = LogBudget { retain_bytes: 1 << 20, retain_entries: 8000 };

    fn log(entries: u64, bytes_each: u64) -> LogSizer {
        let mut sizer = LogSizer::default();
        for index in 1..=entries {
            sizer.appended(index, bytes_each);
        }
        sizer
    }

    #[test]
    fn keeps_its_budget_of_bytes_and_entries() {
        assert_eq!(log(5000, 10).target(0, None, 5000, BUDGET), None);
        assert_eq!(log(10_000, 1).target(0, None, 10_000, BUDGET), Some(2000));
        let target = log(5000, 1024).target(0, None, 5000, BUDGET).expect("over budget");
        assert!((3900..=3976).contains(&target), "{target}");
    }

    #[test]
    fn never_beyond_applied() {
        assert_eq!(log(5000, 1024).target(0, None, 7, BUDGET), Some(7));
        assert_eq!(log(5000, 1024).target(7, None, 7, BUDGET), None);
    }

    #[test]
    fn what_every_follower_has_goes_early() {
        assert_eq!(log(5000, 1).target(0, Some(5000), 5000, BUDGET), Some(4000));
        assert_eq!(log(5000, 1).target(0, Some(5), 5000, BUDGET), None);
    }

    #[test]
    fn stays_small_and_close_when_the_log_is_long() {
        let mut sizer = log(1_000_000, 1);
        assert!(sizer.samples.len() <= SAMPLES_MAX);
        let budget = LogBudget { retain_bytes: 50_000, retain_entries: 10_000_000 };
        let target = sizer.target(0, None, 1_000_000, budget).expect("over budget");
        assert!((949_900..=950_000).contains(&target), "{target}");
        sizer.truncated(target);
        assert_eq!(sizer.target(target, None, 1_000_000, budget), None);
    }
}
