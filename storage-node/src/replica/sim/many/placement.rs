//! A placement that gives orders at random: splits, moves, transfers, merges. Like the real one it sees
//! only what leaders say, and its orders may be late.

use super::World;
use super::clients::{KEYS, key};
use crate::replica::Input;
use crate::replica::command::{BoundaryChange, SplitPlan};
use crate::replica::membership::ReplicaChangeKind;
use crate::store::handle::{ReplicaHandle, ReplicaStatus};
use rangedb_types::{
    Epoch, NodeId, Random as _, RangeDescriptor, RangeId, Replica as Member, ReplicaId, ReplicaRole,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ranges are not split beyond this many.
const RANGES_MAX: usize = 6;
/// Merges that are wanted at once.
const MERGES_MAX: usize = 3;
/// Replicas of a range.
const COPIES: usize = 3;

pub(super) type Changes = Vec<(ReplicaChangeKind, Member)>;

/// What is decided.
#[derive(Default)]
pub struct Placement {
    last_range_id: u64,
    last_replica_id: u64,
    ranges: BTreeMap<ReplicaId, RangeId>,
    /// Where the replicas of a range are to be.
    places: BTreeMap<RangeId, BTreeSet<NodeId>>,
    /// Ranges that are to be merged into their left neighbours.
    pub right_ranges: BTreeSet<RangeId>,
}

impl Placement {
    pub fn new_range_id(&mut self) -> RangeId {
        self.last_range_id += 1;
        RangeId(self.last_range_id)
    }

    pub fn new_replica_id(&mut self, range_id: RangeId) -> ReplicaId {
        self.last_replica_id += 1;
        let replica_id = ReplicaId(self.last_replica_id);
        self.ranges.insert(replica_id, range_id);
        replica_id
    }

    /// Ids that were given to ranges, whether they came to be or not.
    pub fn ranges_made(&self) -> u64 {
        self.last_range_id
    }

    pub fn range_of(&self, replica_id: ReplicaId) -> RangeId {
        self.ranges[&replica_id]
    }
}

pub fn places(range: &RangeDescriptor) -> BTreeSet<NodeId> {
    range.replicas.iter().map(|member| member.node_id).collect()
}

impl World {
    pub(super) fn placement_acts(&mut self) {
        let mut leaders = self.leaders();
        if leaders.is_empty() {
            return;
        }
        let chosen = self.random.below(leaders.len() as u64) as usize;
        let ranges: BTreeSet<_> =
            self.handles().iter().map(|(_, handle)| handle.range_id()).collect();
        // What is being merged is left alone, but for orders that are late.
        let merging: BTreeSet<_> = leaders
            .iter()
            .filter_map(|(_, handle)| {
                Some([handle.range_id(), handle.frozen()?.name.left_range_id])
            })
            .flatten()
            .collect();
        let (at, handle) = leaders.swap_remove(chosen);
        if merging.contains(&handle.range_id()) && self.random.below(8) > 0 {
            return;
        }
        match self.random.below(10) {
            0..2 if ranges.len() < RANGES_MAX => self.split(at, &handle),
            2..3 => self.transfer(at, &handle),
            3..4 if self.plan.moves => self.choose_places(handle.range_id()),
            4..9 if self.plan.moves => self.move_on(at, &handle.status()),
            9 if self.plan.merges => self.choose_merge(&ranges),
            _ => {}
        }
    }

    fn split(&mut self, at: usize, handle: &ReplicaHandle) {
        let range = handle.descriptor();
        let key = key(self.random.below(KEYS));
        let Some(running) = &self.nodes[at].running else { return };
        let new_range_id = self.placement.new_range_id();
        let ids = range.replicas.iter().map(|_| self.placement.new_replica_id(new_range_id));
        let plan = SplitPlan {
            key,
            new_range_id,
            new_replica_ids: ids.collect(),
            left_bytes: 0,
            right_bytes: 0,
        };
        let change = BoundaryChange::Split(plan);
        let reply = Box::new(|_| {});
        let input = Input::Boundary { epoch: range.epoch, change, reply };
        running.store.input(range.range_id, input);
    }

    fn transfer(&mut self, at: usize, handle: &ReplicaHandle) {
        let range = handle.descriptor();
        let member = range.replicas[self.random.below(range.replicas.len() as u64) as usize];
        self.transfer_to(at, range.range_id, member.replica_id);
    }

    pub(super) fn transfer_to(&mut self, at: usize, range_id: RangeId, to: ReplicaId) {
        if let Some(running) = &self.nodes[at].running {
            running.store.input(range_id, Input::TransferLeader { to });
        }
    }

    fn choose_places(&mut self, range_id: RangeId) {
        let mut nodes: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        while nodes.len() > COPIES {
            let out = self.random.below(nodes.len() as u64) as usize;
            nodes.swap_remove(out);
        }
        self.placement.places.insert(range_id, nodes.into_iter().collect());
    }

    /// The range is to go where its left neighbour is, and then into it.
    fn choose_merge(&mut self, ranges: &BTreeSet<RangeId>) {
        let wanted = &mut self.placement.right_ranges;
        wanted.retain(|range_id| ranges.contains(range_id));
        if wanted.len() >= MERGES_MAX {
            let out = self.random.below(2 * MERGES_MAX as u64) as usize;
            let given_up = wanted.iter().nth(out).copied();
            wanted.retain(|range_id| Some(*range_id) != given_up);
        } else {
            let chosen = self.random.below(ranges.len() as u64) as usize;
            wanted.extend(ranges.iter().nth(chosen).filter(|range_id| range_id.get() > 1));
        }
    }

    /// The left neighbour of a range, where it is led.
    pub(super) fn left_of(&self, right: &RangeDescriptor) -> Option<(usize, Arc<ReplicaHandle>)> {
        let left = |handle: &ReplicaHandle| {
            let range = handle.descriptor();
            !range.span.end.is_empty() && range.span.end == right.span.start
        };
        self.leaders().into_iter().find(|(_, handle)| left(handle))
    }

    /// The next step of a range to where it is to be.
    pub(super) fn move_on(&mut self, at: usize, status: &ReplicaStatus) {
        let range = &status.descriptor;
        let range_id = range.range_id;
        if self.placement.right_ranges.contains(&range_id)
            && let Some((_, left)) = self.left_of(range)
        {
            self.placement.places.insert(range_id, places(&left.descriptor()));
        }
        let Some(wanted) = self.placement.places.get(&range_id).cloned() else { return };
        if range.is_joint() {
            return self.change(at, range_id, range.epoch, Vec::new(), true);
        }
        let Some(changes) = self.next_changes(status, &wanted) else { return };
        self.change(at, range_id, range.epoch, changes, false);
    }

    fn next_changes(
        &mut self,
        status: &ReplicaStatus,
        wanted: &BTreeSet<NodeId>,
    ) -> Option<Changes> {
        let range = &status.descriptor;
        let learners: Vec<_> = range.with_role(ReplicaRole::Learner).copied().collect();
        let leaving: Vec<_> = range
            .with_role(ReplicaRole::Voter)
            .filter(|member| !wanted.contains(&member.node_id))
            .copied()
            .collect();
        if let Some(stray) = learners.iter().find(|member| !wanted.contains(&member.node_id)) {
            self.watch.removals += 1;
            return Some(vec![(ReplicaChangeKind::Remove, *stray)]);
        }
        if let Some(ready) =
            learners.iter().find(|member| status.caught_up.contains(&member.replica_id))
        {
            let mut changes = vec![(ReplicaChangeKind::Promote, *ready)];
            changes.extend(leaving.first().map(|old| (ReplicaChangeKind::Demote, *old)));
            return Some(changes);
        }
        if !learners.is_empty() {
            // Now and then one that does not come along is given up.
            let given_up = self.random.below(30) == 0;
            return given_up.then(|| vec![(ReplicaChangeKind::Remove, learners[0])]);
        }
        let missing = wanted.iter().find(|node_id| range.replica_on(**node_id).is_none());
        if let Some(node_id) = missing {
            let replica_id = self.placement.new_replica_id(range.range_id);
            let role = ReplicaRole::Learner;
            let learner = Member { replica_id, node_id: *node_id, role };
            return Some(vec![(ReplicaChangeKind::AddLearner, learner)]);
        }
        leaving.first().map(|old| vec![(ReplicaChangeKind::Demote, *old)])
    }

    pub(super) fn change(
        &mut self,
        at: usize,
        range_id: RangeId,
        epoch: Epoch,
        changes: Changes,
        leave_joint: bool,
    ) {
        if let Some(running) = &self.nodes[at].running {
            running.store.input(range_id, Input::ChangeReplicas { epoch, changes, leave_joint });
        }
    }
}
