//! Shows the rules what they look at.

use super::network::Packet;
use super::node::Node;
use super::placement::Placement;
use super::{Result, Violation};
use crate::replica::sim::invariants::log_matching::LogMatching;
use crate::replica::sim::invariants::no_overlap::NoOverlap;
use crate::replica::sim::invariants::no_return::NoReturn;
use crate::replica::sim::invariants::one_leader::OneLeader;
use crate::replica::sim::invariants::one_lease::OneLease;
use crate::replica::sim::invariants::same_state::SameState;
use crate::replica::sim::invariants::{no_gap, registers::Registers};
use crate::store::stepped::load_states;
use rangedb_engine::Engine as _;
use rangedb_types::{NodeId, RangeDescriptor};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Every rule, and what was seen.
#[derive(Default)]
pub struct Watch {
    leaders: OneLeader,
    logs: LogMatching,
    overlap: NoOverlap,
    removed: NoReturn,
    state: SameState,
    pub registers: Registers,
    /// The ranges that have state on each node.
    ranges: BTreeMap<NodeId, Vec<RangeDescriptor>>,
    /// Everything that was seen, in short: two runs of one seed have the same.
    trace: DefaultHasher,
    pub snapshots: u64,
    /// Replicas that were asleep when the time was told, all times added up.
    pub asleep: u64,
    pub merges: u64,
    pub crashes: u64,
    pub removals: u64,
}

impl Watch {
    /// Looks at a node that has just had a turn.
    pub fn node(&mut self, node: &Node) -> Result {
        let Some(running) = &node.running else { return Ok(()) };
        for (range_id, core) in running.store.cores() {
            self.leaders.check(range_id, core).map_err(Violation::of("one leader a term"))?;
        }
        let replicas = running.store.cores();
        let replicas = replicas.map(|(_, core)| (core.replica_id, core.is_initialised()));
        self.removed.check(node.id, replicas).map_err(Violation::of("no replica returns"))?;
        self.disk(node)
    }

    /// Looks at what lies in a node's data engine.
    pub fn disk(&mut self, node: &Node) -> Result {
        let data = node.engine.snapshot();
        let states = load_states(data.as_ref()).map_err(Violation::of("states can be read"))?;
        for state in &states {
            let same = self.state.check(node.id, state, data.as_ref());
            same.map_err(Violation::of("the same state at the same index"))?;
            (node.id, state.applied.index, state.applied.term).hash(&mut self.trace);
        }
        let ranges: Vec<_> = states.iter().map(|state| (*state.descriptor).clone()).collect();
        let known = self.ranges.entry(node.id).or_default();
        if *known == ranges {
            return Ok(());
        }
        for range in ranges.iter().filter(|range| !known.contains(range)) {
            tracing::debug!(node_id = %node.id, ?range, "on disk");
        }
        known.clone_from(&ranges);
        self.overlap.check(&ranges).map_err(Violation::of("no overlap"))?;
        let all: Vec<_> = self.ranges.values().flatten().cloned().collect();
        no_gap::check(&all).map_err(Violation::of("no gap"))
    }

    /// A node lost what was not durable.
    pub fn forget(&mut self, node_id: NodeId) {
        self.state.forget(node_id);
    }

    pub fn leases(&self, nodes: &[Node]) -> Result {
        let mut leases = OneLease::default();
        for node in nodes {
            let Some(running) = &node.running else { continue };
            for handle in running.store.handles() {
                leases.check(node.id, &handle).map_err(Violation::of("one lease a key"))?;
            }
        }
        Ok(())
    }

    pub fn appended(&mut self, placement: &Placement, node: &Node) -> Result {
        for appended in node.log.take_appended() {
            let range_id = placement.range_of(appended.replica_id);
            self.logs
                .check(range_id, appended.before, &appended.entries)
                .map_err(Violation::of("log matching"))?;
        }
        Ok(())
    }

    /// A node sent something.
    pub fn spoken(&mut self, node_id: NodeId, packet: &Packet) -> Result {
        (packet.to, packet.inbound.from_replica, packet.inbound.to_replica).hash(&mut self.trace);
        let Some(message) = &packet.inbound.message else { return Ok(()) };
        (message.get_msg_type() as u64, message.index, message.term).hash(&mut self.trace);
        let from = packet.inbound.from_replica;
        self.removed.check_speaker(node_id, from).map_err(Violation::of("no replica returns"))
    }

    /// The run so far, in one number.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }
}
