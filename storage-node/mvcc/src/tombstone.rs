//! The range tombstones of a range, in the form reads want them.
//!
//! A tombstone `[start, end)` at `T` hides, from every read at or above `T`, every version of a key
//! in its span with a commit timestamp below `T`. A version at or above `T` is not touched.

use crate::key::{SpanBounds, bounds, decode_key, split_version, versioned_key};
use crate::record::TombstoneRecord;
use crate::{Mutation, Result};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{RequestId, Span, Timestamp};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The tombstones of one range at one snapshot. Cheap to ask; free if there are none.
///
/// A set belongs to the snapshot it was loaded from: with an older snapshot it shows a state that
/// never was, with a newer one it may miss a deletion. Who keeps a set must know that no tombstone
/// of the range was written between the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TombstoneSet {
    /// Ordered by start, without overlap. The end of a fragment is the start of the next.
    fragments: Vec<Fragment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragment {
    start: Vec<u8>,
    /// Descending; empty where nothing is deleted.
    deleted_at: Vec<Timestamp>,
}

/// One stored tombstone.
pub(crate) struct Tombstone<'a> {
    pub(crate) start: Vec<u8>,
    pub(crate) timestamp: Timestamp,
    pub(crate) record: TombstoneRecord<'a>,
}

impl TombstoneSet {
    /// No tombstones.
    #[must_use]
    pub const fn empty() -> Self {
        Self { fragments: Vec::new() }
    }

    /// Reads every tombstone that begins in `span`, which must be the range's whole span: no
    /// tombstone of a range begins outside it.
    ///
    /// # Errors
    /// Engine errors and damage.
    pub fn load(snapshot: &dyn Snapshot, span: &Span) -> Result<Self> {
        let mut spans = Vec::new();
        for_each_tombstone(snapshot, span, |tombstone| {
            let span = Span { start: tombstone.start, end: tombstone.record.end.to_vec() };
            spans.push((span, tombstone.timestamp));
            ControlFlow::Continue(())
        })?;
        Ok(Self::from_spans(spans))
    }

    fn from_spans(mut spans: Vec<(Span, Timestamp)>) -> Self {
        spans.sort_by(|a, b| a.0.start.cmp(&b.0.start));
        let mut edges = BTreeSet::new();
        for (span, _) in &spans {
            edges.insert(span.start.clone());
            if !span.end.is_empty() {
                edges.insert(span.end.clone());
            }
        }
        // Sweep over the edges; `open` holds the tombstones that reach the present one.
        let mut open: Vec<(Span, Timestamp)> = Vec::new();
        let mut coming = spans.into_iter().peekable();
        let mut fragments = Vec::with_capacity(edges.len());
        for start in edges {
            open.retain(|(span, _)| span.end.is_empty() || span.end > start);
            while let Some(next) = coming.next_if(|(span, _)| span.start <= start) {
                open.push(next);
            }
            let mut deleted_at: Vec<_> = open.iter().map(|&(_, timestamp)| timestamp).collect();
            deleted_at.sort_unstable_by(|a, b| b.cmp(a));
            fragments.push(Fragment { start, deleted_at });
        }
        Self { fragments }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Whether a tombstone is newer than `timestamp`.
    #[must_use]
    pub fn any_after(&self, timestamp: Timestamp) -> bool {
        let newest = self.fragments.iter().filter_map(|fragment| fragment.deleted_at.first());
        newest.max().is_some_and(|newest| *newest > timestamp)
    }

    /// The newest deletion of any key of a span.
    #[must_use]
    pub fn newest_over(&self, span: &Span) -> Option<Timestamp> {
        let first = self.fragments.partition_point(|fragment| fragment.start <= span.start);
        let overlapping = self.fragments[first.saturating_sub(1)..]
            .iter()
            .take_while(|fragment| span.end.is_empty() || fragment.start < span.end);
        overlapping.filter_map(|fragment| fragment.deleted_at.first().copied()).max()
    }

    /// Whether the version `commit_ts` of `key` is hidden from a read at `read_ts`.
    #[must_use]
    pub fn hides(&self, key: &[u8], commit_ts: Timestamp, read_ts: Timestamp) -> bool {
        self.newest(key, read_ts).is_some_and(|deleted_at| commit_ts < deleted_at)
    }

    /// The newest deletion of `key` that a read at `read_ts` sees.
    #[must_use]
    pub fn newest(&self, key: &[u8], read_ts: Timestamp) -> Option<Timestamp> {
        if self.fragments.is_empty() {
            return None;
        }
        let after = self.fragments.partition_point(|fragment| fragment.start.as_slice() <= key);
        let fragment = &self.fragments[after.checked_sub(1)?];
        fragment.deleted_at.iter().copied().find(|&deleted_at| deleted_at <= read_ts)
    }
}

/// Calls `visit` with every stored tombstone that begins in `span`, in order, until it breaks.
pub(crate) fn for_each_tombstone(
    snapshot: &dyn Snapshot,
    span: &Span,
    mut visit: impl FnMut(Tombstone<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let SpanBounds { lower, upper } = bounds(span);
    let mut iter = snapshot.iterator(Family::RangeTombstone, &lower, &upper)?;
    let mut valid = iter.seek_to_first()?;
    while valid {
        let (encoded, timestamp) = split_version(Family::RangeTombstone, iter.key())?;
        let start = decode_key(Family::RangeTombstone, encoded)?;
        let record = TombstoneRecord::decode(iter.value())?;
        if visit(Tombstone { start, timestamp, record }).is_break() {
            return Ok(());
        }
        valid = iter.next()?;
    }
    Ok(())
}

/// The changes that cut every tombstone of `span` in two where a split cuts the range: to be written
/// in the batch that splits it.
///
/// # Errors
/// Engine errors and damage.
pub fn tombstones_for_split(
    snapshot: &dyn Snapshot,
    span: &Span,
    split_key: &[u8],
) -> Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    let left = Span { start: span.start.clone(), end: split_key.to_vec() };
    for_each_tombstone(snapshot, &left, |tombstone| {
        let end = tombstone.record.end;
        if end.is_empty() || end > split_key {
            let part = |start: &[u8], end: &[u8], request_id: RequestId| {
                let key = versioned_key(start, tombstone.timestamp);
                let record = TombstoneRecord { request_id, end };
                Mutation::put(Family::RangeTombstone, key, record.encode())
            };
            let request_id = tombstone.record.request_id;
            mutations.push(part(&tombstone.start, split_key, request_id));
            mutations.push(part(split_key, end, request_id));
        }
        ControlFlow::Continue(())
    })?;
    Ok(mutations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(start: &str, end: &str) -> Span {
        Span { start: start.into(), end: end.into() }
    }

    #[test]
    fn a_tombstone_hides_what_is_older() {
        let set = TombstoneSet::from_spans(vec![(span("b", "d"), Timestamp(10))]);
        let hides = |key: &str, commit_ts, read_ts| {
            set.hides(key.as_bytes(), Timestamp(commit_ts), Timestamp(read_ts))
        };
        assert!(hides("b", 9, 10) && hides("c", 9, u64::MAX));
        assert!(!hides("b", 9, 9), "a read below it does not see it");
        assert!(!hides("b", 10, 20) && !hides("b", 11, 20), "a put at or after it is visible");
        assert!(!hides("a", 9, 20) && !hides("d", 9, 20), "outside of it");
        assert!(!TombstoneSet::empty().hides(b"a", Timestamp(1), Timestamp::MAX));
    }

    proptest! {
        #[test]
        fn fragments_say_what_the_tombstones_say(
            raw in prop::collection::vec((0u8..8, 0u8..8, 1u64..20), 0..8),
            key in 0u8..8, commit_ts in 0u64..20, read_ts in 0u64..20,
        ) {
            let spans: Vec<_> = raw
                .into_iter()
                .filter(|&(start, end, _)| start < end || end == 0)
                .map(|(start, end, at)| {
                    let end = if end == 0 { vec![] } else { vec![end] };
                    (Span { start: vec![start], end }, Timestamp(at))
                })
                .collect();
            let expected = spans.iter().any(|(span, at)| {
                span.contains(&[key]) && at.0 <= read_ts && commit_ts < at.0
            });
            let set = TombstoneSet::from_spans(spans);
            prop_assert_eq!(set.hides(&[key], Timestamp(commit_ts), Timestamp(read_ts)), expected);
        }
    }
}
