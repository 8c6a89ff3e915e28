//! Which replicas may have something new to report: sleeping ones never do, however many there are.

use parking_lot::Mutex;
use rangedb_types::RangeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ranges with news, each at most once for every replica of it since they were taken.
#[derive(Default)]
pub struct News {
    ranges: Mutex<Vec<RangeId>>,
}

impl News {
    /// A range is not here any more.
    pub fn gone(&self, range_id: RangeId) {
        self.ranges.lock().push(range_id);
    }

    pub fn take(&self) -> Vec<RangeId> {
        std::mem::take(&mut self.ranges.lock())
    }
}

/// One replica's entry in the news.
pub(super) struct Reporter {
    news: Arc<News>,
    range_id: RangeId,
    is_listed: AtomicBool,
}

impl Reporter {
    pub(super) fn new(news: Arc<News>, range_id: RangeId) -> Self {
        Self { news, range_id, is_listed: AtomicBool::new(false) }
    }

    /// Call after a change became visible. A whole barrier: whoever calls [`Self::seen`] and then looks
    /// misses no change that did not list the range again.
    pub(super) fn changed(&self) {
        if !self.is_listed.swap(true, Ordering::SeqCst) {
            self.news.ranges.lock().push(self.range_id);
        }
    }

    /// Call before looking.
    pub(super) fn seen(&self) {
        self.is_listed.swap(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_listed_once_until_it_is_seen() {
        let news = Arc::new(News::default());
        let reporter = Reporter::new(Arc::clone(&news), RangeId(7));
        reporter.changed();
        reporter.changed();
        assert_eq!(news.take(), [RangeId(7)]);
        reporter.changed();
        assert_eq!(news.take(), [], "nobody looked at what was taken before");
        // Nobody could look, because it was not there yet: listed anew once it is.
        reporter.seen();
        reporter.changed();
        news.gone(RangeId(8));
        assert_eq!(news.take(), [RangeId(7), RangeId(8)]);
    }
}
