//! The range map: what leaders last reported, with at most one range for every key.
//!
//! Invariant: no two ranges overlap. There may be holes for a moment, while a split or merge has been
//! reported by one side only.

use rangedb_types::{RangeDescriptor, RangeId, Span};
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Clone, Debug, Default)]
pub(super) struct RangeMap {
    by_id: BTreeMap<RangeId, RangeDescriptor>,
    by_start: BTreeMap<Vec<u8>, RangeId>,
}

impl RangeMap {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, range_id: RangeId) -> Option<&RangeDescriptor> {
        self.by_id.get(&range_id)
    }

    pub(super) fn first(&self) -> Option<&RangeDescriptor> {
        self.by_start.values().next().and_then(|range_id| self.by_id.get(range_id))
    }

    /// The range that holds a key.
    pub(super) fn at(&self, key: &[u8]) -> Option<&RangeDescriptor> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, range_id) = self.by_start.range::<[u8], _>(upto).next_back()?;
        self.by_id.get(range_id).filter(|range| range.span.contains(key))
    }

    /// Ranges that overlap a span, in key order.
    pub(super) fn overlapping<'a>(
        &'a self,
        span: &'a Span,
    ) -> impl Iterator<Item = &'a RangeDescriptor> + 'a {
        let before = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Excluded(span.start.as_slice())))
            .next_back();
        let within = self
            .by_start
            .range::<[u8], _>((Bound::Included(span.start.as_slice()), Bound::Unbounded))
            .take_while(|(start, _)| span.end.is_empty() || **start < span.end);
        before
            .into_iter()
            .chain(within)
            .filter_map(|(_, range_id)| self.by_id.get(range_id))
            .filter(|range| range.span.overlaps(span))
    }

    /// What taking in a reported descriptor means: `None` if it is not news, else the ids of other
    /// ranges that it replaces.
    ///
    /// Of two ranges that claim one key, the one whose bounds changed later (`epoch.version`) is
    /// right: a split or merge gives all sides that live on a version above all they had before.
    pub(super) fn judge(&self, reported: &RangeDescriptor) -> Option<Vec<RangeId>> {
        if self.get(reported.range_id).is_some_and(|known| !reported.epoch.newer_than(known.epoch))
        {
            return None;
        }
        let mut replaced = Vec::new();
        for other in self.overlapping(&reported.span) {
            if other.range_id == reported.range_id {
                continue;
            }
            if other.epoch.version >= reported.epoch.version {
                return None;
            }
            replaced.push(other.range_id);
        }
        Some(replaced)
    }

    pub(super) fn insert(&mut self, range: RangeDescriptor) {
        self.remove(range.range_id);
        self.by_start.insert(range.span.start.clone(), range.range_id);
        self.by_id.insert(range.range_id, range);
    }

    pub(super) fn remove(&mut self, range_id: RangeId) {
        if let Some(range) = self.by_id.remove(&range_id)
            && self.by_start.get(&range.span.start) == Some(&range_id)
        {
            self.by_start.remove(&range.span.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::Epoch;

    fn range(id: u64, start: &str, end: &str, version: u64) -> RangeDescriptor {
        RangeDescriptor {
            range_id: RangeId(id),
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch { version, conf_version: 1 },
            replicas: Vec::new(),
        }
    }

    fn map(ranges: &[RangeDescriptor]) -> RangeMap {
        let mut map = RangeMap::default();
        for range in ranges {
            map.insert(range.clone());
        }
        map
    }

    fn ids<'a>(ranges: impl Iterator<Item = &'a RangeDescriptor>) -> Vec<u64> {
        ranges.map(|range| range.range_id.get()).collect()
    }

    #[test]
    fn lookups_return_key_order_and_skip_holes() {
        let map = map(&[range(1, "", "g", 1), range(2, "m", "", 1)]);
        assert_eq!(ids(map.overlapping(&Span::all())), [1, 2]);
        assert_eq!(ids(map.overlapping(&Span::of_key(b"h"))), Vec::<u64>::new());
        assert_eq!(ids(map.overlapping(&Span::of_key(b"g"))), Vec::<u64>::new());
        assert_eq!(ids(map.overlapping(&Span::of_key(b"f"))), [1]);
        assert_eq!(ids(map.overlapping(&Span::of_key(b"m"))), [2]);
    }

    #[test]
    fn the_later_change_of_bounds_wins() {
        let old = map(&[range(1, "", "", 1)]);
        // The right half of a split is reported before the left half.
        assert_eq!(old.judge(&range(2, "m", "", 2)), Some(vec![RangeId(1)]));
        let split = map(&[range(2, "m", "", 2)]);
        // A late report of the range as it was before.
        assert_eq!(split.judge(&range(1, "", "", 1)), None);
        assert_eq!(split.judge(&range(1, "", "m", 2)), Some(vec![]));
        // Nothing new.
        assert_eq!(split.judge(&range(2, "m", "", 2)), None);
    }
}
