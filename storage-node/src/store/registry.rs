//! The initialised replicas of this node, by range and by key: there may be very many, and every message
//! for a range that is not here asks whether its keys are free.

use super::handle::ReplicaHandle;
use rangedb_types::{RangeId, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// How many that begin before a key may hold it: the one that does, and those it has just taken in. A replica
/// that catches up may take in many before the first of them is gone.
const BEFORE_MAX: usize = 256;

/// A range keeps its first key for as long as it lives; where it ends, its handle says. No two of them
/// overlap, but one that is about to go may still be listed beside what took its place.
#[derive(Default)]
pub struct Registry {
    by_id: BTreeMap<RangeId, Arc<ReplicaHandle>>,
    by_start: BTreeSet<(Vec<u8>, RangeId)>,
}

impl Registry {
    pub fn insert(&mut self, handle: Arc<ReplicaHandle>) {
        let (range_id, start) = (handle.range_id(), handle.descriptor().span.start.clone());
        self.remove(range_id);
        self.by_start.insert((start, range_id));
        self.by_id.insert(range_id, handle);
    }

    pub fn remove(&mut self, range_id: RangeId) {
        if let Some(handle) = self.by_id.remove(&range_id) {
            self.by_start.remove(&(handle.descriptor().span.start.clone(), range_id));
        }
    }

    #[must_use]
    pub fn get(&self, range_id: RangeId) -> Option<&Arc<ReplicaHandle>> {
        self.by_id.get(&range_id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of them, by range.
    pub fn handles(&self) -> impl Iterator<Item = &Arc<ReplicaHandle>> {
        self.by_id.values()
    }

    /// Those that hold any key of a span, in key order.
    pub fn overlapping(&self, span: &Span) -> impl Iterator<Item = &Arc<ReplicaHandle>> {
        let first = (span.start.clone(), RangeId(0));
        let before = self.by_start.range((Bound::Unbounded, Bound::Excluded(&first)));
        let from = before.rev().take(BEFORE_MAX).last().cloned().unwrap_or(first);
        let end = span.end.clone();
        self.by_start
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(start, _)| end.is_empty() || *start < end)
            .filter_map(|(_, range_id)| self.by_id.get(range_id))
            .filter(|handle| handle.descriptor().span.overlaps(span))
    }
}

#[cfg(test)]
mod tests {
    use super::super::news::Reporter;
    use super::super::worker::WorkerSender;
    use super::*;
    use rangedb_types::{Epoch, ManualClock, RangeDescriptor, ReplicaId};

    fn handle(range_id: u64, start: &str, end: &str) -> Arc<ReplicaHandle> {
        let descriptor = RangeDescriptor {
            range_id: RangeId(range_id),
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch::default(),
            replicas: Vec::new(),
        };
        let (sender, _inbox) = crossbeam_channel::unbounded();
        let reporter = Reporter::new(Arc::default(), RangeId(range_id));
        let clock = Arc::new(ManualClock::new(0));
        let worker = WorkerSender::new(sender);
        let id = ReplicaId(range_id);
        Arc::new(ReplicaHandle::new(id, Arc::new(descriptor), worker, clock, reporter))
    }

    #[test]
    fn ranges_are_found_by_their_keys() {
        let mut registry = Registry::default();
        for (range_id, start, end) in [(7, "", "f"), (3, "f", "m"), (9, "t", "")] {
            registry.insert(handle(range_id, start, end));
        }
        let found = |registry: &Registry, start: &str, end: &str| {
            let span = Span { start: start.into(), end: end.into() };
            registry.overlapping(&span).map(|handle| handle.range_id().0).collect::<Vec<_>>()
        };
        assert_eq!(found(&registry, "", ""), [7, 3, 9]);
        assert_eq!(found(&registry, "a", "b"), [7]);
        assert_eq!(found(&registry, "e", "g"), [7, 3]);
        assert_eq!(found(&registry, "f", "g"), [3]);
        assert!(found(&registry, "m", "t").is_empty(), "a gap");
        assert_eq!(found(&registry, "z", ""), [9]);
        registry.insert(handle(4, "f", "h"));
        assert_eq!(found(&registry, "g", "i"), [3, 4], "one of them is about to go");
        registry.remove(RangeId(3));
        assert_eq!((found(&registry, "g", "i"), registry.len()), (vec![4], 3));
    }

    #[test]
    fn a_range_is_found_behind_many_that_it_took_in() {
        let mut registry = Registry::default();
        registry.insert(handle(1, "a", "b"));
        for number in 0..100_u64 {
            let (start, end) = (format!("a{number:03}"), format!("a{:03}", number + 1));
            registry.insert(handle(number + 2, &start, &end));
        }
        let span = Span { start: "ax".into(), end: "ay".into() };
        let found: Vec<_> = registry.overlapping(&span).map(|it| it.range_id()).collect();
        assert_eq!(found, [RangeId(1)]);
    }
}
