//! Roughly how many bytes a replica holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of keys, versions and values, all versions counted: measured once, then counted. What is
/// written before somebody measures is counted too, because a measurement of files does not see what
/// is still in memory; what has already reached the files is then counted twice until the next split
/// reads the range.
#[derive(Default)]
pub(super) struct RangeSize {
    bytes: AtomicU64,
    is_known: AtomicBool,
}

impl RangeSize {
    /// `None` if nobody measured yet.
    pub(super) fn get(&self) -> Option<u64> {
        self.is_known.load(Ordering::Acquire).then(|| self.bytes.load(Ordering::Relaxed))
    }

    /// So much was there when the replica began.
    pub(super) fn found(&self, bytes: u64) {
        if !self.is_known.swap(true, Ordering::AcqRel) {
            self.add(bytes);
        }
    }

    /// It holds something else now, which nobody measured.
    pub(super) fn forget(&self) {
        self.is_known.store(false, Ordering::Release);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// All of it was read.
    pub(super) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.change(|size| size.saturating_add(bytes));
    }

    /// Garbage was removed.
    pub(super) fn remove(&self, bytes: u64) {
        self.change(|size| size.saturating_sub(bytes));
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let changed = |size| Some(change(size));
        // It never refuses.
        let _old = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_the_measurement_counts() {
        let size = RangeSize::default();
        size.add(700);
        assert_eq!(size.get(), None, "nobody knows what else is there");
        size.found(0);
        assert_eq!(size.get(), Some(700));
        size.found(5_000);
        assert_eq!(size.get(), Some(700), "measured already");
        size.remove(1_000);
        assert_eq!(size.get(), Some(0));
        size.add(30);
        size.set(9);
        assert_eq!(size.get(), Some(9));
        size.forget();
        size.add(3);
        size.found(40);
        assert_eq!(size.get(), Some(43));
    }
}
