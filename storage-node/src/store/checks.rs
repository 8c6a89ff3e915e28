//! Checksums of a replica's contents, kept for those who compare replicas.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::Notify;

/// How many answers are kept.
const RESULTS_MAX: usize = 8;

/// What one replica held at one point of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumResult {
    pub applied_index: u64,
    pub checksum: u64,
    pub entries: u64,
}

/// The answers of one replica to consistency checks.
#[derive(Default)]
pub struct Checks {
    /// Those that this replica has reached, and their places in the log.
    begun: Mutex<VecDeque<(u64, u64)>>,
    results: Mutex<VecDeque<(u64, ChecksumResult)>>,
    added: Notify,
}

impl Checks {
    /// The replica has reached a check.
    pub fn begin(&self, check_id: u64, index: u64) {
        let mut begun = self.begun.lock();
        if begun.len() >= RESULTS_MAX {
            begun.pop_front();
        }
        begun.push_back((check_id, index));
    }

    /// Where in the log a check lies that this replica has reached.
    #[must_use]
    pub fn index_of(&self, check_id: u64) -> Option<u64> {
        let begun = self.begun.lock();
        begun.iter().find(|(id, _)| *id == check_id).map(|(_, index)| *index)
    }

    pub fn add(&self, check_id: u64, result: ChecksumResult) {
        let mut results = self.results.lock();
        if results.len() >= RESULTS_MAX {
            results.pop_front();
        }
        results.push_back((check_id, result));
        drop(results);
        self.added.notify_waiters();
    }

    fn find(&self, check_id: u64) -> Option<ChecksumResult> {
        let results = self.results.lock();
        results.iter().find(|(id, _)| *id == check_id).map(|(_, result)| *result)
    }

    pub async fn wait(&self, check_id: u64, limit: Duration) -> Option<ChecksumResult> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(result) = self.find(check_id) {
                return Some(result);
            }
            if tokio::time::timeout_at(deadline, added).await.is_err() {
                return self.find(check_id);
            }
        }
    }
}
