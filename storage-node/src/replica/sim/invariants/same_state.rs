//! Replicas of a range that applied the same entries hold the same.

use crate::raft_log::LogPosition;
use crate::replica::apply::Applier;
use crate::store::stepped::checksum;
use rangedb_engine::Snapshot;
use rangedb_mvcc::replicated_spans;
use rangedb_types::{NodeId, RangeId};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What the first replica that came to a position held there.
#[derive(Default)]
pub struct SameState {
    states: HashMap<(RangeId, u64), (u64, NodeId, String)>,
    /// What each node was last seen to have applied.
    last: HashMap<(NodeId, RangeId), LogPosition>,
}

impl SameState {
    /// Looks at one range on one node, if it has moved on since the last time.
    pub fn check(
        &mut self,
        node_id: NodeId,
        applier: &Applier,
        data: &dyn Snapshot,
    ) -> Result<(), String> {
        let range_id = applier.descriptor.range_id;
        let last = self.last.insert((node_id, range_id), applier.applied);
        if last == Some(applier.applied) {
            return Ok(());
        }
        let (checksum, entries) = checksum(data, &applier.descriptor)?;
        let LogPosition { index, term } = applier.applied;
        let range = &applier.descriptor;
        let mut hasher = DefaultHasher::new();
        (checksum, term, &range.span.start, &range.span.end, range.epoch).hash(&mut hasher);
        range.replicas.hash(&mut hasher);
        applier.frozen.map(|freeze| freeze.position.index).hash(&mut hasher);
        let state = hasher.finish();
        let words = || {
            let contents = contents(data, applier);
            format!("{entries} entries, term {term}, {contents:?}, {range:?}, {:?}", applier.frozen)
        };
        let known = self.states.entry((range_id, index));
        let (same, other, theirs) = known.or_insert_with(|| (state, node_id, words()));
        if *same == state {
            return Ok(());
        }
        Err(format!(
            "range {range_id} at {index}: node {other} has {theirs}; node {node_id} has {}",
            words()
        ))
    }

    /// A node lost what was not durable: it may go through the same positions again.
    pub fn forget(&mut self, node_id: NodeId) {
        self.last.retain(|(node, _), _| *node != node_id);
    }
}

/// Every entry that all replicas hold alike.
fn contents(data: &dyn Snapshot, applier: &Applier) -> Vec<String> {
    let mut entries = Vec::new();
    for span in replicated_spans(&applier.descriptor) {
        let iter = data.iterator(span.family, &span.lower, &span.upper);
        let mut iter = iter.expect("it is memory");
        let mut valid = iter.seek_to_first().expect("it is memory");
        while valid {
            let (key, value) = (String::from_utf8_lossy(iter.key()), iter.value());
            entries.push(format!("{} {key:?}: {value:?}", span.family));
            valid = iter.next().expect("it is memory");
        }
    }
    entries
}
