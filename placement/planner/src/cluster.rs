//! The nodes with everything that is counted a node: found by id, kept up to date while a plan grows.

use crate::{ClusterView, Liveness, NodeView, RangeView};
use rangedb_types::{NodeId, Replica};
use std::collections::BTreeMap;
use std::time::Duration;

/// A disk fuller than this gets no more replicas, and gives some away.
pub(crate) const FULL_PERCENT: u64 = 95;
/// A disk fuller than this gets no replicas for balance alone: it would soon give them away again.
pub(crate) const AMPLE_PERCENT: u64 = 75;

/// Where a node is, as numbers: equal numbers are equal places, the outer ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    region: u32,
    zone: u32,
    rack: u32,
}

/// How many others are in the same place: fewer is better, farther apart comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sharing {
    region: usize,
    zone: usize,
    rack: usize,
}

impl Place {
    pub(crate) fn sharing(self, others: impl Iterator<Item = Self>) -> Sharing {
        let mut sharing = Sharing::default();
        for other in others {
            sharing.region += usize::from(other.region == self.region);
            sharing.zone += usize::from(other.zone == self.zone);
            sharing.rack += usize::from(other.rack == self.rack);
        }
        sharing
    }
}

/// A node, and what it has once all that is under way and all of this plan is done.
pub(crate) struct Node<'a> {
    pub(crate) view: &'a NodeView,
    pub(crate) place: Place,
    /// Its rank among equals.
    pub(crate) mixed: u64,
    pub(crate) replicas: usize,
    pub(crate) leaders: usize,
    pub(crate) requests: u64,
    pub(crate) incoming_bytes: u64,
    /// Its disk is much slower than the others'.
    pub(crate) is_slow: bool,
}

impl Node<'_> {
    pub(crate) fn is_up(&self) -> bool {
        self.view.liveness == Liveness::Up
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.view.liveness == Liveness::Down
    }

    pub(crate) fn may_lead(&self) -> bool {
        self.is_up() && !self.view.draining && !self.view.catching_up && !self.is_slow
    }

    /// True if nothing forbids new replicas.
    pub(crate) fn takes_replicas(&self) -> bool {
        self.is_up()
            && self.view.accepts_replicas
            && !self.view.draining
            && self.used_percent() <= FULL_PERCENT
    }

    /// True if it has its part of an even spread, now or as soon as it is back.
    pub(crate) fn has_share(&self) -> bool {
        !self.is_lost() && self.view.accepts_replicas && !self.view.draining
    }

    /// How full the disk is; 0 if that is unknown.
    pub(crate) fn used_percent(&self) -> u64 {
        let capacity = self.view.capacity_bytes;
        if capacity == 0 {
            return 0;
        }
        let used = capacity.saturating_sub(self.view.available_bytes);
        let percent =
            u128::from(used.saturating_add(self.incoming_bytes)) * 100 / u128::from(capacity);
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

/// A disk that takes less to sync a write is not slow, whatever the others take.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// How much slower than the disk in the middle it must be: if all are slow, moving leaders helps nobody.
const SLOW_FACTOR: u32 = 4;

fn mark_slow(nodes: &mut [Node<'_>]) {
    let known = nodes.iter().filter(|node| node.is_up() && !node.view.disk_sync.is_zero());
    let mut times: Vec<_> = known.map(|node| node.view.disk_sync).collect();
    times.sort_unstable();
    // Of two, the faster one.
    let Some(middle) = times.len().checked_sub(1).map(|last| times[last / 2]) else { return };
    for node in nodes {
        let time = node.view.disk_sync;
        node.is_slow = time >= SLOW_SYNC && time >= middle * SLOW_FACTOR;
    }
}

/// All nodes, in the order of their ids.
pub(crate) struct Cluster<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    /// True if not all nodes are in one and the same place.
    pub(crate) has_places: bool,
}

impl<'a> Cluster<'a> {
    /// Counts leaders and their load; replicas are counted by those who know which of them stay.
    pub(crate) fn of(view: &'a ClusterView, seed: u64) -> Self {
        let mut names = BTreeMap::new();
        let mut nodes: Vec<_> = view
            .nodes
            .iter()
            .map(|node| Node {
                view: node,
                place: place(&mut names, node),
                mixed: mix(seed ^ node.node_id.get()),
                replicas: 0,
                leaders: 0,
                requests: 0,
                incoming_bytes: 0,
                is_slow: false,
            })
            .collect();
        mark_slow(&mut nodes);
        nodes.sort_unstable_by_key(|node| node.view.node_id);
        let has_places = nodes.windows(2).any(|pair| pair[0].place != pair[1].place);
        let mut cluster = Self { nodes, has_places };
        for range in &view.ranges {
            if let Some(leader) = range.leader.and_then(|node_id| cluster.get_mut(node_id)) {
                leader.leaders += 1;
                leader.requests = leader.requests.saturating_add(range.requests());
            }
        }
        cluster
    }

    pub(crate) fn index(&self, node_id: NodeId) -> Option<usize> {
        self.nodes.binary_search_by_key(&node_id, |node| node.view.node_id).ok()
    }

    pub(crate) fn get(&self, node_id: NodeId) -> Option<&Node<'a>> {
        self.index(node_id).map(|index| &self.nodes[index])
    }

    pub(crate) fn get_mut(&mut self, node_id: NodeId) -> Option<&mut Node<'a>> {
        self.index(node_id).map(|index| &mut self.nodes[index])
    }

    /// True if the node is down for good, or not known at all.
    pub(crate) fn is_lost(&self, node_id: NodeId) -> bool {
        self.get(node_id).is_none_or(Node::is_lost)
    }

    pub(crate) fn is_draining(&self, node_id: NodeId) -> bool {
        self.get(node_id).is_some_and(|node| node.view.draining)
    }

    /// True if the replica can be relied upon: it lives, is heard from and has the data.
    pub(crate) fn is_good(&self, range: &RangeView, replica: &Replica) -> bool {
        range.caught_up.contains(&replica.replica_id)
            && !range.down.contains(&replica.replica_id)
            && !self.is_lost(replica.node_id)
    }

    /// True if the replica could lead the range as far as its node goes.
    pub(crate) fn could_lead(&self, range: &RangeView, replica: &Replica) -> bool {
        self.is_good(range, replica) && self.get(replica.node_id).is_some_and(Node::may_lead)
    }

    /// Counts a change of leaders that this plan asks for.
    pub(crate) fn move_leader(&mut self, range: &RangeView, to: NodeId) {
        let requests = range.requests();
        if let Some(from) = range.leader.and_then(|node_id| self.get_mut(node_id)) {
            from.leaders = from.leaders.saturating_sub(1);
            from.requests = from.requests.saturating_sub(requests);
        }
        if let Some(to) = self.get_mut(to) {
            to.leaders += 1;
            to.requests = to.requests.saturating_add(requests);
        }
    }

    /// Counts a replica that comes.
    pub(crate) fn add_replica(&mut self, range: &RangeView, to: NodeId) {
        if let Some(node) = self.get_mut(to) {
            node.replicas += 1;
            let bytes = range.size_bytes.unwrap_or(0);
            node.incoming_bytes = node.incoming_bytes.saturating_add(bytes);
        }
    }

    /// Counts a replica that goes.
    pub(crate) fn drop_replica(&mut self, from: NodeId) {
        if let Some(node) = self.get_mut(from) {
            node.replicas = node.replicas.saturating_sub(1);
        }
    }
}

fn place<'a>(names: &mut BTreeMap<[&'a str; 3], u32>, node: &'a NodeView) -> Place {
    let mut number = |name: [&'a str; 3]| {
        let next = u32::try_from(names.len()).expect("fewer places than 2^32");
        *names.entry(name).or_insert(next)
    };
    // A separator that no label holds keeps outer and inner names apart.
    Place {
        region: number([&node.region, "\0", "\0"]),
        zone: number([&node.region, &node.zone, "\0"]),
        rack: number([&node.region, &node.zone, &node.rack]),
    }
}

/// Spreads equal choices: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
