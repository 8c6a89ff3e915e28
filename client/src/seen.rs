//! A version that lies before any write that starts now.

use crate::Version;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A seen version older than this is renewed before a write. The servers refuse retries after ten
/// minutes.
const RENEW_AFTER: Duration = Duration::from_secs(60);
/// Versions that are newer by less do not move the age: most writes touch no lock here.
const STEP: Duration = Duration::from_secs(1);

/// The newest version this client saw, and when.
#[derive(Debug, Default)]
pub struct Seen {
    newest: AtomicU64,
    /// The newest that this client has written or read.
    observed: AtomicU64,
    /// The version whose sight is `renewed`.
    stepped: AtomicU64,
    /// When a version was last seen that was newer by a step than the one before of which this is true.
    renewed: Mutex<Option<Instant>>,
}

impl Seen {
    pub fn newest(&self) -> Version {
        Version(self.newest.load(Ordering::Relaxed))
    }

    /// What a stale read has to show.
    pub fn observed(&self) -> Version {
        Version(self.observed.load(Ordering::Relaxed))
    }

    /// Something was written, or read, at this version.
    pub fn observe(&self, version: Version) {
        self.observed.fetch_max(version.0, Ordering::Relaxed);
    }

    /// Takes in a version of an answer.
    pub fn saw(&self, version: Version) {
        self.newest.fetch_max(version.0, Ordering::Relaxed);
        // Not the newest: where versions come all the time, each is newer than that by a moment only.
        let before = Version(self.stepped.load(Ordering::Relaxed));
        if before.is_zero() || version.since(before) >= STEP {
            let mut renewed = self.renewed.lock();
            self.stepped.fetch_max(version.0, Ordering::Relaxed);
            *renewed = Some(Instant::now());
        }
    }

    /// True if a retry of a write that starts now could come too late for its seen version.
    pub fn is_old(&self) -> bool {
        self.renewed.lock().is_none_or(|renewed| renewed.elapsed() > RENEW_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_versions_count() {
        let seen = Seen::default();
        assert!(seen.is_old());
        seen.saw(Version::new(5000, 0));
        seen.saw(Version::new(10, 0));
        assert_eq!(seen.newest(), Version::new(5000, 0));
        assert!(!seen.is_old());
    }

    #[test]
    fn versions_that_come_all_the_time_keep_it_young() {
        let seen = Seen::default();
        seen.saw(Version::new(5000, 0));
        *seen.renewed.lock() = Instant::now().checked_sub(RENEW_AFTER * 2);
        assert!(seen.is_old());
        seen.saw(Version::new(5400, 0));
        seen.saw(Version::new(5800, 0));
        assert!(seen.is_old(), "newer by a moment");
        seen.saw(Version::new(6200, 0));
        assert!(!seen.is_old(), "newer by a step, though not than the one before");
    }
}
