//! What commands do to the simulated cluster: each as a node would, which refuses a stale epoch.

use crate::world::{Range, Sabotage, World};
use rangedb_planner::{MergeIntent, Operator, SplitAt, Step};
use rangedb_types::{RangeId, Replica, ReplicaId, ReplicaRole};
use std::collections::BTreeMap;

/// True if both halves of the configuration have a majority that is here and holds the data.
pub fn has_quorum(world: &World, index: usize) -> bool {
    let range = &world.ranges[index];
    majority(range, |replica| {
        world.is_here(replica.node_id) && range.filled.contains(&replica.replica_id)
    })
}

/// True if in both halves of the configuration a majority of the voters is `good`.
pub fn majority(range: &Range, good: impl Fn(&Replica) -> bool) -> bool {
    use ReplicaRole::{DemotingVoter, IncomingVoter, Voter};
    [[Voter, IncomingVoter], [Voter, DemotingVoter]].iter().all(|half| {
        let voters = || range.descriptor.replicas.iter().filter(|one| half.contains(&one.role));
        voters().filter(|voter| good(voter)).count() > voters().count() / 2
    })
}

impl World {
    /// Where each range stands among the others.
    pub fn places(&self) -> BTreeMap<RangeId, usize> {
        let ids = self.ranges.iter().map(|range| range.descriptor.range_id);
        ids.zip(0..).collect()
    }

    /// Splits and merges move the ranges on their right away from their places.
    fn index_of(&self, range_id: RangeId, places: &BTreeMap<RangeId, usize>) -> Option<usize> {
        let is_it = |range: &Range| range.descriptor.range_id == range_id;
        let place = places.get(&range_id).copied();
        place
            .filter(|place| self.ranges.get(*place).is_some_and(is_it))
            .or_else(|| self.ranges.iter().position(is_it))
    }

    pub fn carry_out(&mut self, operator: &Operator, places: &BTreeMap<RangeId, usize>) {
        let Some(index) = self.index_of(operator.range_id, places) else { return };
        let range = &self.ranges[index];
        let stale = range.descriptor.epoch != operator.epoch;
        if stale && self.sabotage != Sabotage::EpochsAreIgnored {
            return;
        }
        let leads = range.leader == Some(operator.leader) && self.is_here(operator.leader);
        if !leads || !has_quorum(self, index) {
            return;
        }
        if range.merging.is_some() {
            // A frozen range takes no command.
            return;
        }
        match &operator.step {
            Step::AddLearner { node_id } => self.add_learner(index, *node_id),
            Step::ChangeVoters { promote, demote } => self.change_voters(index, promote, demote),
            Step::Remove { replica } => self.remove(index, replica),
            Step::LeaveJoint => self.leave_joint(index),
            Step::TransferLeader { to } => self.transfer(index, to),
            Step::Split { at } => self.split(index, at),
            Step::Merge { right, right_epoch } => {
                let is_right = |range: &&Range| {
                    range.descriptor.range_id == *right && range.descriptor.epoch == *right_epoch
                };
                if self.ranges.get(index + 1).filter(is_right).is_some() {
                    self.merge(index);
                }
            }
            Step::AbortMerge { left_version } => self.abort_merge(index, *left_version),
        }
    }

    fn add_learner(&mut self, index: usize, node_id: rangedb_types::NodeId) {
        if self.is_dead(node_id) {
            return;
        }
        let replica_id = ReplicaId(self.id());
        let descriptor = &mut self.ranges[index].descriptor;
        descriptor.replicas.push(Replica { replica_id, node_id, role: ReplicaRole::Learner });
        descriptor.epoch.conf_version += 1;
        self.copies += if self.sabotage == Sabotage::MovesCountTwice { 2 } else { 1 };
        if self.sabotage == Sabotage::LearnersVanish {
            self.ranges[index].descriptor.replicas.pop();
        }
    }

    fn change_voters(&mut self, index: usize, promote: &[Replica], demote: &[Replica]) {
        let range = &mut self.ranges[index];
        assert!(!range.descriptor.is_joint() || self.sabotage != Sabotage::None);
        assert!(
            demote.iter().all(|one| Some(one.node_id) != range.leader),
            "leader loses its vote"
        );
        for replica in &mut range.descriptor.replicas {
            if promote.contains(replica) {
                replica.role = ReplicaRole::IncomingVoter;
            } else if demote.contains(replica) {
                replica.role = ReplicaRole::DemotingVoter;
            }
        }
        range.descriptor.epoch.conf_version += 1;
    }

    fn leave_joint(&mut self, index: usize) {
        let range = &mut self.ranges[index];
        for replica in &mut range.descriptor.replicas {
            replica.role = match replica.role {
                ReplicaRole::IncomingVoter => ReplicaRole::Voter,
                ReplicaRole::DemotingVoter => ReplicaRole::Learner,
                role => role,
            };
        }
        range.descriptor.epoch.conf_version += 1;
    }

    fn remove(&mut self, index: usize, replica: &Replica) {
        let range = &mut self.ranges[index];
        assert!(replica.role == ReplicaRole::Learner, "a voter was removed");
        if self.sabotage == Sabotage::EpochsAreIgnored {
            range.descriptor.replicas.retain(|one| one.node_id != replica.node_id);
        } else {
            range.descriptor.replicas.retain(|one| one != replica);
        }
        range.filled.remove(&replica.replica_id);
        range.descriptor.epoch.conf_version += 1;
    }

    fn transfer(&mut self, index: usize, to: &Replica) {
        let ready = self.is_here(to.node_id) && self.ranges[index].filled.contains(&to.replica_id);
        if ready {
            self.ranges[index].leader = Some(to.node_id);
            self.transfers += 1;
        }
    }

    fn split(&mut self, index: usize, _at: &SplitAt) {
        if self.ranges.get(index + 1).is_some_and(|right| right.merging.is_some()) {
            return;
        }
        let middle = between(&self.ranges[index].descriptor.span);
        let ids: Vec<_> =
            (0..self.ranges[index].descriptor.replicas.len()).map(|_| self.id()).collect();
        let right_id = RangeId(self.id());
        let left = &mut self.ranges[index];
        let mut descriptor = left.descriptor.clone();
        left.descriptor.epoch.version += 1;
        left.descriptor.span.end.clone_from(&middle);
        descriptor.range_id = right_id;
        descriptor.span.start = middle;
        descriptor.epoch = left.descriptor.epoch;
        let mut filled = std::collections::BTreeSet::new();
        for (replica, id) in descriptor.replicas.iter_mut().zip(ids) {
            if left.filled.contains(&replica.replica_id) {
                filled.insert(ReplicaId(id));
            }
            replica.replica_id = ReplicaId(id);
        }
        left.size_bytes /= 2;
        left.reads /= 2;
        left.writes /= 2;
        let right = Range {
            descriptor,
            leader: left.leader,
            filled,
            size_bytes: left.size_bytes,
            reads: left.reads,
            writes: left.writes,
            merging: None,
            frozen_since: 0,
        };
        self.ranges.insert(index + 1, right);
        self.splits += 1;
    }

    /// Freezes the right range first; commits if it is frozen for this and every replica is there.
    fn merge(&mut self, index: usize) {
        let lucky = !self.one_in(3);
        let whole = |range: &Range| {
            range.descriptor.replicas.iter().all(|replica| {
                self.is_here(replica.node_id) && range.filled.contains(&replica.replica_id)
            })
        };
        let (left, right) = (&self.ranges[index], &self.ranges[index + 1]);
        let version = left.descriptor.epoch.version;
        for replica in &left.descriptor.replicas {
            let other = right.descriptor.replica_on(replica.node_id);
            assert_eq!(other.map(|other| other.role), Some(replica.role), "ranges are apart");
        }
        if left.leader != right.leader {
            // It was so when the command was sent.
            return;
        }
        let complete = whole(left) && whole(right);
        match right.merging {
            None => {
                let intent =
                    MergeIntent { left_range_id: left.descriptor.range_id, left_version: version };
                let round = self.round;
                let right = &mut self.ranges[index + 1];
                right.merging = Some(intent);
                right.frozen_since = round;
            }
            Some(intent) if intent.left_version == version && complete && lucky => {
                let right = self.ranges.remove(index + 1);
                let left = &mut self.ranges[index];
                left.descriptor.span.end = right.descriptor.span.end;
                left.descriptor.epoch.version =
                    1 + left.descriptor.epoch.version.max(right.descriptor.epoch.version);
                left.size_bytes += right.size_bytes;
                left.reads += right.reads;
                left.writes += right.writes;
                self.merges += 1;
            }
            Some(_) => {}
        }
    }

    fn abort_merge(&mut self, index: usize, left_version: u64) {
        let epoch = &mut self.ranges[index].descriptor.epoch;
        if epoch.version == left_version {
            epoch.version += 1;
        }
        if let Some(right) = self.ranges.get_mut(index + 1) {
            right.merging = None;
        }
    }
}

/// A key between the bounds: the start with one more byte, below the end.
fn between(span: &rangedb_types::Span) -> Vec<u8> {
    let mut key = span.start.clone();
    loop {
        key.push(0x80);
        if span.end.is_empty() || key < span.end {
            return key;
        }
        key.pop();
        key.push(0);
    }
}
