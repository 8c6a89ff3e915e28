//! What the leader of placement knows from reports alone, and forgets when it stops leading.
//!
//! Owns: which nodes were heard from, which ranges they lead, how large those are. Must not know:
//! streams, consensus, clocks: time is an argument.
//! Invariants: of two reports of one range the later wins, by Raft term and then by epoch; nothing
//! here is needed after a restart, because the first beat of every stream tells it all again.

mod snapshot;

pub use snapshot::policy;

use crate::state::State;
use rangedb_planner::{Liveness, MergeIntent};
use rangedb_proto::convert::Malformed;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{MonotonicTime, NodeId, RangeDescriptor, RangeId, ReplicaId, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A node that was not heard from for this long gets nothing new.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// A range whose leader was not heard from for this long counts as led by nobody.
pub const LEADER_STALE_AFTER: Duration = Duration::from_secs(10);

/// By then a range that was reported is stored, or it is none.
const STORED_AFTER: Duration = Duration::from_secs(10);

/// One stream of one node. Grows with every stream, so a late end of an old one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What a node said of itself in its last beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStats {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub replicas: u64,
    pub leaders: u64,
    /// How long its disk takes to sync a write; zero: not known.
    pub disk_sync: Duration,
}

#[derive(Clone, Debug)]
struct NodeLive {
    session: Option<SessionId>,
    /// True once the session's first beat, which holds every range the node leads, has come.
    told_all: bool,
    heard_at: MonotonicTime,
    stats: NodeStats,
}

/// What the leader of a range said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    pub descriptor: RangeDescriptor,
    /// `None` once that node said that it no longer leads.
    pub leader: Option<NodeId>,
    pub term: u64,
    pub size_bytes: u64,
    pub caught_up: BTreeSet<ReplicaId>,
    pub down: BTreeSet<ReplicaId>,
    pub reads_per_second: u64,
    pub writes_per_second: u64,
    pub bytes_written_per_second: u64,
    pub load_splittable: bool,
    pub merging: Option<MergeIntent>,
    pub reported_at: MonotonicTime,
    /// Since when it is frozen for that merge, as far as this leader knows.
    pub frozen_since: Option<MonotonicTime>,
}

/// The soft state of one term of leadership.
#[derive(Debug)]
pub struct View {
    /// Nodes count as heard from at this point: they need time to find the new leader.
    since: MonotonicTime,
    nodes: BTreeMap<NodeId, NodeLive>,
    ranges: BTreeMap<RangeId, Reported>,
    changes: u64,
}

impl View {
    #[must_use]
    pub const fn new(now: MonotonicTime) -> Self {
        Self { since: now, nodes: BTreeMap::new(), ranges: BTreeMap::new(), changes: 0 }
    }

    /// Grows whenever something was reported that a plan may depend on. What follows from time alone
    /// does not count.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// A node opened its stream; an older one of its streams no longer counts.
    pub fn connected(&mut self, node_id: NodeId, session: SessionId, now: MonotonicTime) {
        let stats = self.nodes.get(&node_id).map(|node| node.stats).unwrap_or_default();
        let node = NodeLive { session: Some(session), told_all: false, heard_at: now, stats };
        self.nodes.insert(node_id, node);
        self.changes += 1;
    }

    pub fn disconnected(&mut self, node_id: NodeId, session: SessionId) {
        if let Some(node) = self.nodes.get_mut(&node_id)
            && node.session == Some(session)
        {
            node.session = None;
            self.changes += 1;
        }
    }

    /// Takes in a beat. Returns the descriptors that were not older than what was known.
    ///
    /// # Errors
    /// `Malformed` if a range cannot be read; then nothing was taken in.
    pub fn heartbeat(
        &mut self,
        node_id: NodeId,
        session: SessionId,
        beat: &wire::Heartbeat,
        now: MonotonicTime,
    ) -> Result<Vec<RangeDescriptor>, Malformed> {
        let reports: Vec<_> = beat
            .ranges
            .iter()
            .map(|report| read_report(node_id, report))
            .collect::<Result<_, _>>()?;
        let Some(node) = self.nodes.get_mut(&node_id).filter(|node| node.session == Some(session))
        else {
            return Ok(Vec::new());
        };
        node.heard_at = now;
        node.stats = NodeStats {
            capacity_bytes: beat.capacity_bytes,
            available_bytes: beat.available_bytes,
            used_bytes: beat.used_bytes,
            replicas: beat.replicas,
            leaders: beat.leaders,
            disk_sync: Duration::from_micros(beat.disk_sync_micros),
        };
        let first = !std::mem::replace(&mut node.told_all, true);
        if first {
            self.forget_leaderships(node_id);
        }
        if first || !reports.is_empty() || !beat.lost_leaderships.is_empty() {
            self.changes += 1;
        }
        for range_id in beat.lost_leaderships.iter().copied().map(RangeId) {
            if let Some(range) = self.ranges.get_mut(&range_id) {
                range.leader.take_if(|leader| *leader == node_id);
            }
        }
        Ok(reports.into_iter().filter_map(|report| self.take_in(report, now)).collect())
    }

    fn forget_leaderships(&mut self, node_id: NodeId) {
        for range in self.ranges.values_mut() {
            range.leader.take_if(|leader| *leader == node_id);
        }
    }

    fn take_in(&mut self, mut report: Reported, now: MonotonicTime) -> Option<RangeDescriptor> {
        let range_id = report.descriptor.range_id;
        report.frozen_since = report.merging.map(|_| now);
        report.reported_at = now;
        if let Some(known) = self.ranges.get(&range_id) {
            if known.merging == report.merging {
                report.frozen_since = known.frozen_since;
            }
            let epoch = report.descriptor.epoch;
            if report.term < known.term || !epoch.at_least(known.descriptor.epoch) {
                return None;
            }
        }
        let descriptor = report.descriptor.clone();
        self.ranges.insert(range_id, report);
        Some(descriptor)
    }

    /// What was last reported of a range.
    #[must_use]
    pub fn range(&self, range_id: RangeId) -> Option<&Reported> {
        self.ranges.get(&range_id)
    }

    /// The node that leads a range, if it was heard from lately.
    #[must_use]
    pub fn leader_of(&self, range_id: RangeId, now: MonotonicTime) -> Option<NodeId> {
        let leader = self.ranges.get(&range_id)?.leader?;
        let heard_at = self.nodes.get(&leader)?.heard_at;
        (now.since(heard_at) < LEADER_STALE_AFTER).then_some(leader)
    }

    #[must_use]
    pub fn stats(&self, node_id: NodeId) -> NodeStats {
        self.nodes.get(&node_id).map(|node| node.stats).unwrap_or_default()
    }

    #[must_use]
    pub fn is_connected(&self, node_id: NodeId) -> bool {
        self.nodes.get(&node_id).is_some_and(|node| node.session.is_some())
    }

    /// True if the node's stream is open and its first beat, which tells everything, has come.
    #[must_use]
    pub fn has_told_all(&self, node_id: NodeId) -> bool {
        self.nodes.get(&node_id).is_some_and(|node| node.session.is_some() && node.told_all)
    }

    /// How many ranges of a span name the node, as stored or as reported since.
    #[must_use]
    pub fn replicas_named(&self, state: &State, span: &Span, node_id: NodeId) -> usize {
        let names = |range: &RangeDescriptor| range.replica_on(node_id).is_some();
        let stored = state.ranges_overlapping(span);
        let naming = stored.filter(|stored| {
            let reported = self.range(stored.range_id).map(|reported| &reported.descriptor);
            match reported.filter(|reported| reported.epoch.newer_than(stored.epoch)) {
                // The map follows in a moment; both must agree that it is gone.
                Some(reported) => names(reported) || names(stored),
                None => names(stored),
            }
        });
        naming.count()
    }

    #[must_use]
    pub fn liveness(&self, node_id: NodeId, now: MonotonicTime, dead_after: Duration) -> Liveness {
        let heard_at = self.nodes.get(&node_id).map_or(self.since, |node| node.heard_at);
        match now.since(heard_at) {
            silence if silence < SUSPECT_AFTER => Liveness::Up,
            silence if silence < dead_after => Liveness::Suspect,
            _ => Liveness::Down,
        }
    }

    /// Forgets ranges that are no more. What was just reported may not be stored yet.
    pub fn retain_ranges(&mut self, state: &State, now: MonotonicTime) {
        self.ranges.retain(|range_id, range| {
            state.range(*range_id).is_some() || now.since(range.reported_at) < STORED_AFTER
        });
    }
}

fn read_report(node_id: NodeId, report: &wire::RangeReport) -> Result<Reported, Malformed> {
    let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
    let range = report.range.as_ref().ok_or(Malformed("range report without a range"))?;
    Ok(Reported {
        descriptor: range.try_into()?,
        leader: Some(node_id),
        term: report.term,
        size_bytes: report.size_bytes,
        caught_up: ids(&report.caught_up_replica_ids),
        down: ids(&report.down_replica_ids),
        reads_per_second: report.reads_per_second,
        writes_per_second: report.writes_per_second,
        bytes_written_per_second: report.bytes_written_per_second,
        load_splittable: report.load_splittable,
        merging: report.merging.map(|intent| MergeIntent {
            left_range_id: RangeId(intent.left_range_id),
            left_version: intent.left_version,
        }),
        reported_at: MonotonicTime::default(),
        frozen_since: None,
    })
}

#[cfg(test)]
mod tests;
