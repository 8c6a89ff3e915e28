//! Routes by key: a pure, bounded map of ranges that never overlap.
//!
//! Owns: which of two contradicting descriptors is newer. Must not know: where routes come from.
//! Invariants: no two cached ranges overlap; a descriptor never replaces a newer one. (Bounds only
//! change with `epoch.version`, which split and merge raise above that of every range they touch, so
//! of two different ranges that overlap the one with the larger version is newer.)

use super::route::Route;
use crate::operation::Place;
use rangedb_types::{NodeId, RangeDescriptor, Span};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// How many routes the eviction hand looks at before it takes one that is in use.
const EVICTION_STEPS_MAX: usize = 64;

/// A bounded cache of routes.
#[derive(Debug)]
pub struct RouteCache {
    routes: BTreeMap<Vec<u8>, Arc<Route>>,
    routes_max: usize,
    /// Start key from which the next eviction looks.
    hand: Vec<u8>,
}

impl RouteCache {
    #[must_use]
    pub fn new(routes_max: usize) -> Self {
        Self { routes: BTreeMap::new(), routes_max: routes_max.max(1), hand: Vec::new() }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// The route for a place.
    #[must_use]
    pub fn find(&self, place: &Place) -> Option<&Arc<Route>> {
        let route = match place {
            Place::At(key) => self.at(key)?,
            Place::Below(end) => self.below(end)?,
        };
        route.mark_used();
        Some(route)
    }

    /// The route of the range that holds a key.
    #[must_use]
    pub fn at(&self, key: &[u8]) -> Option<&Arc<Route>> {
        let (_, route) =
            self.routes.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        route.descriptor.span.contains(key).then_some(route)
    }

    fn below(&self, end: &[u8]) -> Option<&Arc<Route>> {
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let (_, route) = self.routes.range::<[u8], _>((Bound::Unbounded, upper)).next_back()?;
        let known_end = &route.descriptor.span.end;
        let reaches = known_end.is_empty() || (!end.is_empty() && end <= known_end.as_slice());
        reaches.then_some(route)
    }

    /// Any route of this range.
    #[must_use]
    pub fn by_range(&self, range: rangedb_types::RangeId) -> Option<&Arc<Route>> {
        self.routes.values().find(|route| route.descriptor.range_id == range)
    }

    /// Where the unknown stretch around a place begins: the end of the known range before it.
    #[must_use]
    pub fn gap_start(&self, place: &Place) -> Vec<u8> {
        let upper = match place {
            Place::At(key) => Bound::Included(key.as_ref()),
            Place::Below(end) if end.is_empty() => Bound::Unbounded,
            Place::Below(end) => Bound::Excluded(end.as_ref()),
        };
        let before = self.routes.range::<[u8], _>((Bound::Unbounded, upper)).next_back();
        before.map(|(_, route)| route.descriptor.span.end.clone()).unwrap_or_default()
    }

    /// Takes in a descriptor, and who leads it if the source knows. False if something newer is
    /// known already.
    pub fn insert(&mut self, descriptor: RangeDescriptor, leader: Option<NodeId>) -> bool {
        let overlapping: Vec<_> = self.overlapping(&descriptor.span).cloned().collect();
        let mut inherited = None;
        for route in &overlapping {
            let known = &route.descriptor;
            let same_range = known.range_id == descriptor.range_id;
            let stale = if same_range {
                !descriptor.epoch.at_least(known.epoch)
            } else {
                known.epoch.version > descriptor.epoch.version
            };
            if stale {
                return false;
            }
            if same_range && known.epoch == descriptor.epoch && known.span == descriptor.span {
                if let Some(node) = leader {
                    route.set_leader(node);
                }
                return true;
            }
            if same_range {
                inherited = route.leader().filter(|node| descriptor.replica_on(*node).is_some());
            }
        }
        let rest = overlapping.iter().find_map(|route| rest_of(route, &descriptor));
        for route in overlapping {
            self.routes.remove(&route.descriptor.span.start);
        }
        if self.routes.len() + usize::from(rest.is_some()) >= self.routes_max {
            self.evict();
        }
        if let Some(rest) = rest {
            self.routes.insert(rest.descriptor.span.start.clone(), Arc::new(rest));
        }
        let start = descriptor.span.start.clone();
        self.routes.insert(start, Arc::new(Route::new(descriptor, leader.or(inherited))));
        true
    }

    /// True if a cached route is older than this descriptor of its keys.
    #[must_use]
    pub fn is_outdated_by(&self, descriptor: &RangeDescriptor) -> bool {
        self.overlapping(&descriptor.span).any(|route| {
            let known = &route.descriptor;
            if known.range_id == descriptor.range_id {
                descriptor.epoch.newer_than(known.epoch)
            } else {
                descriptor.epoch.version > known.epoch.version
            }
        })
    }

    fn overlapping<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Arc<Route>> {
        let upper = if span.end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(span.end.as_slice())
        };
        self.routes
            .range::<[u8], _>((Bound::Unbounded, upper))
            .rev()
            .map(|(_, route)| route)
            .take_while(|route| route.descriptor.span.overlaps(span))
    }

    /// Second chance ("clock"): the first route after the hand that was not used since the hand
    /// last passed it.
    fn evict(&mut self) {
        let from_hand =
            self.routes.range::<Vec<u8>, _>((Bound::Excluded(&self.hand), Bound::Unbounded));
        let candidates: Vec<_> = from_hand
            .chain(self.routes.iter())
            .take(EVICTION_STEPS_MAX)
            .map(|(_, r)| r.clone())
            .collect();
        let unused = candidates.iter().find(|route| !route.take_used());
        if let Some(victim) = unused.or(candidates.first()) {
            self.hand.clone_from(&victim.descriptor.span.start);
            self.routes.remove(&victim.descriptor.span.start);
        }
    }
}

/// A range that was split keeps its first keys. Until it is known who has the others, they are asked for
/// where the range was: a node that took part in the split knows.
fn rest_of(old: &Route, new: &RangeDescriptor) -> Option<Route> {
    let (known, end) = (&old.descriptor, &new.span.end);
    let was_cut = known.range_id == new.range_id && !end.is_empty() && known.span.contains(end);
    was_cut.then(|| {
        let span = Span { start: end.clone(), end: known.span.end.clone() };
        Route::new(RangeDescriptor { span, ..known.clone() }, old.leader())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rangedb_types::{Epoch, RangeId, Replica, ReplicaId, ReplicaRole};

    fn range(id: u64, start: &str, end: &str, version: u64, conf_version: u64) -> RangeDescriptor {
        let replicas = (1..=3)
            .map(|node| Replica {
                replica_id: ReplicaId(id * 10 + node),
                node_id: NodeId(node),
                role: ReplicaRole::Voter,
            })
            .collect();
        RangeDescriptor {
            range_id: RangeId(id),
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch { version, conf_version },
            replicas,
        }
    }

    fn at(cache: &RouteCache, key: &'static str) -> Option<u64> {
        let place = Place::At(Bytes::from_static(key.as_bytes()));
        cache.find(&place).map(|route| route.descriptor.range_id.get())
    }

    fn below(cache: &RouteCache, end: &'static str) -> Option<u64> {
        let place = Place::Below(Bytes::from_static(end.as_bytes()));
        cache.find(&place).map(|route| route.descriptor.range_id.get())
    }

    #[test]
    fn lookups_by_key_and_below_a_bound() {
        let mut cache = RouteCache::new(10);
        assert!(cache.insert(range(1, "", "g", 1, 1), None));
        assert!(cache.insert(range(3, "m", "", 1, 1), None));
        assert_eq!((at(&cache, "a"), at(&cache, "g"), at(&cache, "z")), (Some(1), None, Some(3)));
        assert_eq!(
            (below(&cache, "g"), below(&cache, "m"), below(&cache, "")),
            (Some(1), None, Some(3))
        );
        assert_eq!(below(&cache, "h"), None, "the gap lies just below");
        assert_eq!(cache.gap_start(&Place::At(Bytes::from_static(b"h"))), b"g");
        assert_eq!(cache.gap_start(&Place::Below(Bytes::from_static(b"m"))), b"g");
    }

    #[test]
    fn a_split_replaces_the_parent_and_a_late_parent_is_refused() {
        let mut cache = RouteCache::new(10);
        cache.insert(range(1, "", "", 1, 1), Some(NodeId(2)));
        assert!(cache.insert(range(1, "", "m", 2, 1), None));
        let rest = cache.at(b"z").unwrap();
        let epoch = rest.descriptor.epoch;
        assert_eq!((rest.leader(), epoch.version), (Some(NodeId(2)), 1), "who had it knows more");
        assert!(cache.insert(range(2, "m", "", 2, 1), Some(NodeId(3))));
        assert_eq!((at(&cache, "a"), at(&cache, "z"), cache.len()), (Some(1), Some(2), 2));
        let left = cache.at(b"a").unwrap();
        assert_eq!(left.leader(), Some(NodeId(2)), "the leader of the same range is kept");
        assert!(!cache.insert(range(1, "", "", 1, 1), None), "the parent is older");
        assert!(!cache.insert(range(1, "", "m", 1, 9), None));
        assert_eq!(at(&cache, "z"), Some(2));
    }

    #[test]
    fn only_what_is_cached_is_outdated_by_news() {
        let mut cache = RouteCache::new(10);
        cache.insert(range(1, "g", "m", 3, 1), None);
        assert!(!cache.is_outdated_by(&range(2, "m", "", 9, 1)), "nobody asked for it");
        assert!(!cache.is_outdated_by(&range(1, "g", "m", 3, 1)));
        assert!(!cache.is_outdated_by(&range(3, "a", "h", 2, 9)));
        assert!(cache.is_outdated_by(&range(1, "g", "m", 3, 2)));
        assert!(cache.is_outdated_by(&range(3, "a", "h", 4, 1)));
    }

    #[test]
    fn news_of_the_same_epoch_only_moves_the_leader() {
        let mut cache = RouteCache::new(10);
        cache.insert(range(1, "", "", 1, 1), Some(NodeId(1)));
        let before = Arc::clone(cache.at(b"k").unwrap());
        assert!(cache.insert(range(1, "", "", 1, 1), Some(NodeId(3))));
        assert!(Arc::ptr_eq(&before, cache.at(b"k").unwrap()));
        assert_eq!(before.target(), Some(NodeId(3)));
    }

    #[test]
    fn an_unknown_leader_is_looked_for_in_turn() {
        let mut cache = RouteCache::new(10);
        cache.insert(range(1, "", "", 1, 1), Some(NodeId(1)));
        let route = cache.at(b"k").unwrap();
        let mut asked = Vec::new();
        for _ in 0..3 {
            let node = route.target().unwrap();
            asked.push(node.get());
            route.leader_failed(node);
        }
        asked.sort_unstable();
        assert_eq!(asked, [1, 2, 3]);
        route.set_leader(NodeId(2));
        route.leader_failed(NodeId(1));
        assert_eq!(
            route.leader(),
            Some(NodeId(2)),
            "a late failure of another node changes nothing"
        );
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = RouteCache::new(4);
        for number in 0..4_u64 {
            let (start, end) = (format!("{number}"), format!("{}", number + 1));
            cache.insert(range(number + 1, &start, &end, 1, 1), None);
        }
        for route in cache.routes.values() {
            route.take_used();
        }
        assert_eq!(at(&cache, "0"), Some(1));
        cache.insert(range(9, "8", "9", 1, 1), None);
        assert_eq!(cache.len(), 4);
        assert_eq!((at(&cache, "0"), at(&cache, "8")), (Some(1), Some(9)));
    }
}
