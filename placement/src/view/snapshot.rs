//! The cluster as the planner is shown it: what is stored, refined by what was reported.

use super::View;
use crate::state::{NodeState, State};
use rangedb_planner::{ClusterView, Liveness, NodeView, RangeView};
use rangedb_types::{MonotonicTime, RangeDescriptor, Span};
use std::collections::BTreeSet;

impl View {
    /// A consistent picture for one plan.
    #[must_use]
    pub fn snapshot(&self, state: &State, now: MonotonicTime) -> ClusterView {
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
                NodeView {
                    node_id: node.node_id,
                    liveness,
                    accepts_replicas: node.state == NodeState::Active,
                    region: node.locality.region.clone(),
                    zone: node.locality.zone.clone(),
                    rack: node.locality.rack.clone(),
                }
            })
            .collect();
        let everything = Span::all();
        let ranges = state
            .ranges_overlapping(&everything)
            .map(|stored| self.range_view(stored, now))
            .collect();
        ClusterView { nodes, ranges }
    }

    fn range_view(&self, stored: &RangeDescriptor, now: MonotonicTime) -> RangeView {
        let current = self
            .range(stored.range_id)
            .filter(|reported| reported.descriptor.epoch.at_least(stored.epoch));
        match current {
            Some(reported) => RangeView {
                descriptor: reported.descriptor.clone(),
                leader: self.leader_of(stored.range_id, now),
                caught_up: reported.caught_up.clone(),
            },
            None => {
                RangeView { descriptor: stored.clone(), leader: None, caught_up: BTreeSet::new() }
            }
        }
    }
}
