//! Which node gets a new replica.

use crate::{ClusterView, Liveness, NodeView, RangeView};
use rangedb_types::NodeId;
use std::collections::BTreeMap;

/// How bad a node is for one more replica of a range; the smallest wins. Far apart comes before
/// evenly filled: a lost zone must not take a majority along.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    replicas_in_region: usize,
    replicas_in_zone: usize,
    replicas_in_rack: usize,
    replicas_on_node: usize,
    mixed: u64,
    node_id: NodeId,
}

/// Replicas each node has, those of this plan included.
pub(crate) struct Loads {
    replicas: BTreeMap<NodeId, usize>,
    seed: u64,
}

impl Loads {
    pub(crate) fn of(view: &ClusterView, seed: u64) -> Self {
        let mut replicas = BTreeMap::new();
        for replica in view.ranges.iter().flat_map(|range| &range.descriptor.replicas) {
            *replicas.entry(replica.node_id).or_default() += 1;
        }
        Self { replicas, seed }
    }

    pub(crate) fn add(&mut self, node_id: NodeId) {
        *self.replicas.entry(node_id).or_default() += 1;
    }

    /// The best node that `allowed` lets pass.
    pub(crate) fn best<'a>(
        &self,
        view: &'a ClusterView,
        range: &RangeView,
        allowed: impl Fn(NodeId) -> bool,
    ) -> Option<&'a NodeView> {
        candidates(view, range)
            .filter(|node| allowed(node.node_id))
            .min_by_key(|node| self.score(view, range, node))
    }

    fn score(&self, view: &ClusterView, range: &RangeView, node: &NodeView) -> Score {
        let peers: Vec<&NodeView> = range
            .descriptor
            .replicas
            .iter()
            .filter_map(|replica| view.node(replica.node_id))
            .filter(|peer| peer.liveness != Liveness::Down)
            .collect();
        let count =
            |same: &dyn Fn(&NodeView) -> bool| peers.iter().filter(|peer| same(peer)).count();
        Score {
            replicas_in_region: count(&|peer| peer.region == node.region),
            replicas_in_zone: count(&|peer| peer.region == node.region && peer.zone == node.zone),
            replicas_in_rack: count(&|peer| {
                peer.region == node.region && peer.zone == node.zone && peer.rack == node.rack
            }),
            replicas_on_node: self.replicas.get(&node.node_id).copied().unwrap_or(0),
            mixed: mix(self.seed ^ node.node_id.get()),
            node_id: node.node_id,
        }
    }
}

/// Nodes that could take a replica of this range.
pub(crate) fn candidates<'a>(
    view: &'a ClusterView,
    range: &RangeView,
) -> impl Iterator<Item = &'a NodeView> {
    view.nodes.iter().filter(|node| {
        node.liveness == Liveness::Up
            && node.accepts_replicas
            && range.descriptor.replica_on(node.node_id).is_none()
    })
}

/// Spreads equal choices: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
