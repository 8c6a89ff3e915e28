//! What the gateway knows about one range.

use rangedb_proto::internal::v1 as wire;
use rangedb_types::{NodeId, RangeDescriptor, ReplicaId, ReplicaRole};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A range and where its leader was last seen. The descriptor never changes: news replaces the
/// whole route. The leader is only a hint; a wrong one costs one redirect.
#[derive(Debug)]
pub struct Route {
    pub descriptor: RangeDescriptor,
    /// Node id of the leader; 0 if unknown.
    leader: AtomicU64,
    /// Which replica is asked next while the leader is unknown.
    next: AtomicUsize,
    /// Which of the others answers the next read that any replica may.
    turn: AtomicUsize,
    /// Set by lookups, cleared by the cache's eviction hand.
    used: AtomicBool,
}

impl Route {
    #[must_use]
    pub fn new(descriptor: RangeDescriptor, leader: Option<NodeId>) -> Self {
        Self {
            descriptor,
            leader: AtomicU64::new(leader.map_or(0, NodeId::get)),
            next: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            used: AtomicBool::new(true),
        }
    }

    /// A route from placement's answer.
    ///
    /// # Errors
    /// `Malformed` if the descriptor is.
    pub fn from_wire(route: &wire::Route) -> Result<Self, rangedb_proto::convert::Malformed> {
        let malformed = rangedb_proto::convert::Malformed("route without a range");
        let descriptor = RangeDescriptor::try_from(route.range.as_ref().ok_or(malformed)?)?;
        let leader =
            descriptor.replica(ReplicaId(route.leader_replica_id)).map(|replica| replica.node_id);
        Ok(Self::new(descriptor, leader))
    }

    /// The leader, if one is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match self.leader.load(Ordering::Relaxed) {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    /// The node to ask: the leader, or the replicas in turn. `None` if the range has no replica.
    #[must_use]
    pub fn target(&self) -> Option<NodeId> {
        self.leader().or_else(|| {
            let voters = self.descriptor.replicas.iter().filter(|replica| {
                matches!(replica.role, ReplicaRole::Voter | ReplicaRole::IncomingVoter)
            });
            let count = voters.clone().count();
            let turn = self.next.load(Ordering::Relaxed).checked_rem(count)?;
            voters.clone().nth(turn).map(|replica| replica.node_id)
        })
    }

    /// The nodes whose replicas do not lead, as far as is known: each call begins with another one.
    #[must_use]
    pub fn others(&self) -> Vec<NodeId> {
        let leader = self.leader();
        let nodes = self.descriptor.replicas.iter().map(|replica| replica.node_id);
        let mut others: Vec<_> = nodes.filter(|node| Some(*node) != leader).collect();
        if !others.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % others.len();
            others.rotate_left(turn);
        }
        others
    }

    /// A replica named the leader.
    pub fn set_leader(&self, node: NodeId) {
        self.leader.store(node.get(), Ordering::Relaxed);
    }

    /// `node` is not the leader, or cannot be reached: ask another one next.
    pub fn leader_failed(&self, node: NodeId) {
        let known = self.leader.load(Ordering::Relaxed);
        if known != 0 && known != node.get() {
            return; // Somebody found another one since.
        }
        self.leader.store(0, Ordering::Relaxed);
        self.next.fetch_add(1, Ordering::Relaxed);
        if self.target() == Some(node) {
            self.next.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn mark_used(&self) {
        // A plain read first: the line stays shared between cores while nothing evicts.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Clears the mark; true if it was set.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}
