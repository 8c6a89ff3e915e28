//! Merges: placement brings two neighbours together, the node that leads both goes through the steps,
//! and what was begun and left is ended.

use super::World;
use super::placement::places;
use crate::merge::{is_forsaken, replicas_hold};
use crate::replica::Input;
use crate::replica::apply::Freeze;
use crate::replica::command::{BoundaryChange, MergeName, MergePlan};
use crate::replica::membership::ReplicaChangeKind;
use crate::replica::merge::merge;
use crate::store::handle::{ProposeError, ReplicaHandle};
use parking_lot::Mutex;
use rangedb_types::{
    Epoch, MonotonicClock as _, MonotonicTime, Random as _, RangeDescriptor, RangeId,
    Replica as Member, ReplicaRole,
};
use std::sync::Arc;
use std::time::Duration;

/// How long replicas may take to hold the freeze.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a proposal came to.
pub(super) type Answer = Arc<Mutex<Option<Result<(), ProposeError>>>>;

/// One merge that a node works on.
struct Work {
    at: usize,
    incarnation: u64,
    left: RangeId,
    left_epoch: Epoch,
    right: Arc<RangeDescriptor>,
    name: MergeName,
    begun: MonotonicTime,
    step: Step,
}

enum Step {
    Freezing(Answer),
    Waiting(Freeze),
    Merging(Answer),
}

/// The merges that nodes work on. What they knew dies with them.
#[derive(Default)]
pub struct Merging {
    works: Vec<Work>,
}

impl World {
    pub(super) fn merges_go_on(&mut self) {
        match self.random.below(4) {
            0 => self.begin_merges(),
            1 => self.end_forsaken(),
            _ => {
                let works = std::mem::take(&mut self.merging.works);
                let still: Vec<_> =
                    works.into_iter().filter_map(|work| self.next_step(work)).collect();
                self.merging.works.extend(still);
            }
        }
    }

    pub(super) fn propose_boundary(
        &self,
        at: usize,
        range_id: RangeId,
        epoch: Epoch,
        change: BoundaryChange,
    ) -> Answer {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        let reply = Box::new(move |result| *slot.lock() = Some(result));
        if let Some(running) = &self.nodes[at].running {
            running.store.input(range_id, Input::Boundary { epoch, change, reply });
        }
        answer
    }

    /// Pairs that lie together are frozen if one node leads both, else their leaders are brought
    /// together.
    fn begin_merges(&mut self) {
        for (right_at, right) in self.leaders() {
            let range = right.descriptor();
            let wanted = self.placement.right_ranges.contains(&range.range_id);
            let begun = right.frozen().is_some();
            if !wanted && !begun {
                continue;
            }
            let Some((left_at, left)) = self.left_of(&range) else { continue };
            let left_range = left.descriptor();
            // As the real one: chains of frozen ranges are ended from their left end, and what was given
            // up is thawed first. Else two steps could pull at one leader for ever.
            let hopeless = right.frozen().is_some_and(|freeze| {
                left.frozen().is_some() || is_forsaken(&left_range, &range, freeze.name)
            });
            if hopeless || places(&left_range) != places(&range) {
                continue;
            }
            if left_at == right_at {
                self.begin_merge(left_at, &left_range, &right);
            } else if begun || self.random.below(2) == 0 {
                let there = left_range.replica_on(self.nodes[right_at].id).map(|it| it.replica_id);
                if let Some(to) = there {
                    self.transfer_to(left_at, left_range.range_id, to);
                }
            }
        }
    }

    fn begin_merge(&mut self, at: usize, left: &RangeDescriptor, right: &ReplicaHandle) {
        let range = right.descriptor();
        let known = self.merging.works.iter().any(|work| work.left == left.range_id);
        if known || merge(left, left.epoch, &range).is_err() {
            return;
        }
        let name = MergeName { left_range_id: left.range_id, left_version: left.epoch.version };
        let step = match right.frozen() {
            Some(freeze) if freeze.name == name => Step::Waiting(freeze),
            Some(_) => return,
            None => {
                let freeze = BoundaryChange::Freeze(name);
                Step::Freezing(self.propose_boundary(at, range.range_id, range.epoch, freeze))
            }
        };
        self.merging.works.push(Work {
            at,
            incarnation: self.nodes[at].incarnation,
            left: left.range_id,
            left_epoch: left.epoch,
            right: range,
            name,
            begun: self.nodes[at].clock.now(),
            step,
        });
    }

    /// The work, if it goes on.
    fn next_step(&mut self, mut work: Work) -> Option<Work> {
        if self.nodes[work.at].incarnation != work.incarnation {
            return None;
        }
        match &work.step {
            Step::Freezing(answer) => {
                let result = answer.lock().clone();
                match result {
                    None if Arc::strong_count(answer) == 1 => return None,
                    None => {}
                    Some(Err(_)) => return None,
                    Some(Ok(())) => {
                        let right = self.handle(work.at, work.right.range_id)?;
                        let freeze = right.frozen().filter(|freeze| freeze.name == work.name)?;
                        work.step = Step::Waiting(freeze);
                    }
                }
            }
            Step::Waiting(freeze) => return self.wait(*freeze, work),
            Step::Merging(answer) => {
                if *answer.lock() == Some(Ok(())) {
                    self.watch.merges += 1;
                }
                if Arc::strong_count(answer) == 1 {
                    return None;
                }
            }
        }
        Some(work)
    }

    fn wait(&mut self, freeze: Freeze, mut work: Work) -> Option<Work> {
        let right = self.handle(work.at, work.right.range_id)?;
        let held = replicas_hold(&right.status(), freeze).ok()?;
        if held || self.plan.sabotage.no_freeze_wait {
            let plan = MergePlan { right: (*work.right).clone(), freeze: freeze.position };
            let change = BoundaryChange::Merge(plan);
            work.step =
                Step::Merging(self.propose_boundary(work.at, work.left, work.left_epoch, change));
        } else if self.nodes[work.at].clock.now().since(work.begun) > PATIENCE {
            self.raise_version(work.at, work.left, work.name.left_version);
            return None;
        }
        Some(work)
    }

    fn raise_version(&self, at: usize, left: RangeId, version: u64) {
        let Some(handle) = self.handle(at, left) else { return };
        let epoch = handle.descriptor().epoch;
        if epoch.version == version {
            self.propose_boundary(at, left, epoch, BoundaryChange::RaiseVersion(version));
        }
    }

    /// Ends what was begun, one way or the other.
    pub(super) fn end_merges(&mut self) {
        self.begin_merges();
        let works = std::mem::take(&mut self.merging.works);
        let still: Vec<_> = works.into_iter().filter_map(|work| self.next_step(work)).collect();
        self.merging.works.extend(still);
        self.end_forsaken();
        self.lead_where_it_is_known();
    }

    /// A frozen range is thawed by a leader on whose node it is seen that it may be: as the real
    /// placement does, its lead goes there, or its left neighbour comes.
    fn lead_where_it_is_known(&mut self) {
        for (at, right) in self.leaders() {
            let Some(freeze) = right.frozen() else { continue };
            let range = right.descriptor();
            let Some((left_at, left)) = self.left_of(&range) else { continue };
            let left = left.descriptor();
            if !is_forsaken(&left, &range, freeze.name) {
                continue;
            }
            let node_id = self.nodes[at].id;
            if left.replica_on(node_id).is_some() {
                continue;
            }
            let caught_up = right.status().caught_up;
            let there = |member: &&Member| {
                left.replica_on(member.node_id).is_some() && caught_up.contains(&member.replica_id)
            };
            if let Some(to) = range.with_role(ReplicaRole::Voter).find(there) {
                self.transfer_to(at, range.range_id, to.replica_id);
            } else {
                let replica_id = self.placement.new_replica_id(left.range_id);
                let learner = Member { replica_id, node_id, role: ReplicaRole::Learner };
                let changes = vec![(ReplicaChangeKind::AddLearner, learner)];
                self.change(left_at, left.range_id, left.epoch, changes, false);
            }
        }
    }

    /// Merges that stand still are given up; ranges whose merge cannot happen any more are thawed.
    fn end_forsaken(&mut self) {
        for (at, right) in self.leaders() {
            let Some(freeze) = right.frozen() else { continue };
            let (name, range) = (freeze.name, right.descriptor());
            let mut here = self.handles().into_iter().filter(|(other_at, _)| *other_at == at);
            if here.any(|(_, other)| is_forsaken(&other.descriptor(), &range, name)) {
                let thaw = BoundaryChange::Thaw(name);
                self.propose_boundary(at, range.range_id, range.epoch, thaw);
            } else if self.random.below(8) == 0 {
                for (left_at, left) in self.leaders() {
                    if left.range_id() == name.left_range_id {
                        self.raise_version(left_at, name.left_range_id, name.left_version);
                    }
                }
            }
        }
    }
}
