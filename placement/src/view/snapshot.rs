//! The cluster as the planner is shown it: what is stored, refined by what was reported.

use super::{Reported, View};
use crate::state::{NodeState, State, settings};
use rangedb_planner::{ClusterView, Liveness, NodeView, Policy, RangeView};
use rangedb_types::{MonotonicTime, RangeDescriptor, ReplicaId, Span};
use std::collections::BTreeSet;

/// What the operator wants, from the runtime settings.
#[must_use]
pub fn policy(state: &State) -> Policy {
    Policy {
        replication_factor: state.replication_factor(),
        moves_per_node_max: usize::try_from(state.integer_setting(settings::REPLICA_MOVES))
            .expect("the setting has a small upper bound"),
        split_size_bytes: state.bytes_setting(settings::RANGE_SPLIT_SIZE),
        merge_size_bytes: state.bytes_setting(settings::RANGE_MERGE_SIZE),
        split_requests_per_second: state.integer_setting(settings::RANGE_SPLIT_REQUESTS),
        split_bytes_per_second: state.bytes_setting(settings::RANGE_SPLIT_BYTES),
        ..Policy::default()
    }
}

impl View {
    /// A consistent picture for one plan.
    #[must_use]
    pub fn snapshot(&self, state: &State, now: MonotonicTime) -> ClusterView {
        self.part(state, &Span::all(), now)
    }

    /// The same, of the ranges that overlap a span.
    #[must_use]
    pub fn part(&self, state: &State, span: &Span, now: MonotonicTime) -> ClusterView {
        let dead_after = state.node_dead_after();
        let nodes = state
            .nodes()
            .filter(|node| node.state != NodeState::Removed)
            .map(|node| {
                let mut liveness = self.liveness(node.node_id, now, dead_after);
                // Only a node with an open stream can be told anything.
                if liveness == Liveness::Up && !self.is_connected(node.node_id) {
                    liveness = Liveness::Suspect;
                }
                let stats = self.stats(node.node_id);
                NodeView {
                    liveness,
                    draining: matches!(node.state, NodeState::Draining | NodeState::Drained),
                    accepts_replicas: node.state == NodeState::Active,
                    capacity_bytes: stats.capacity_bytes,
                    available_bytes: stats.available_bytes,
                    disk_sync: stats.disk_sync,
                    region: node.locality.region.clone(),
                    zone: node.locality.zone.clone(),
                    rack: node.locality.rack.clone(),
                    ..NodeView::new(node.node_id)
                }
            })
            .collect();
        let ranges =
            state.ranges_overlapping(span).map(|stored| self.range_view(stored, now)).collect();
        ClusterView { nodes, ranges }
    }

    fn range_view(&self, stored: &RangeDescriptor, now: MonotonicTime) -> RangeView {
        let current = self
            .range(stored.range_id)
            .filter(|reported| reported.descriptor.epoch.at_least(stored.epoch));
        match current {
            Some(reported) => RangeView {
                leader: self.leader_of(stored.range_id, now),
                caught_up: caught_up(reported),
                down: reported.down.clone(),
                size_bytes: Some(reported.size_bytes),
                reads_per_second: reported.reads_per_second,
                writes_per_second: reported.writes_per_second,
                bytes_written_per_second: reported.bytes_written_per_second,
                load_splittable: reported.load_splittable,
                merging: reported.merging,
                frozen_for: reported.frozen_since.map(|since| now.since(since)).unwrap_or_default(),
                ..RangeView::new(reported.descriptor.clone())
            },
            None => RangeView::new(stored.clone()),
        }
    }
}

/// Who has caught up: the leader speaks of its followers only.
fn caught_up(reported: &Reported) -> BTreeSet<ReplicaId> {
    let own = reported.leader.and_then(|node_id| reported.descriptor.replica_on(node_id));
    reported.caught_up.iter().copied().chain(own.map(|own| own.replica_id)).collect()
}
