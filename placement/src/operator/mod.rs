//! From plans to commands.
//!
//! Owns: which operators are under way, when their commands were last sent, and the ids given to
//! replicas that a command creates. Must not know: streams, consensus, clocks: time and ids are
//! arguments. Invariants: a command is not sent again before [`RESEND_AFTER`] has passed, and then
//! with the same replica id, so that the node can tell that it is the same; what the plan no longer
//! holds is forgotten.

use rangedb_planner::{Operator, SplitAt, Step};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::internal::v1::replica_change::Kind;
use rangedb_proto::internal::v1::split_range;
use rangedb_types::{ClusterId, MonotonicTime, NodeId, RangeId, Replica, ReplicaId, ReplicaRole};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a command that showed no effect is left alone.
pub const RESEND_AFTER: Duration = Duration::from_secs(3);

/// How long the first choice of a target is kept although plans choose another by now.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// An operator that was begun.
#[derive(Clone, Debug)]
pub struct UnderWay {
    pub operator: Operator,
    /// How many new ids the step needs, and those it was given.
    ids_wanted: usize,
    ids: Vec<u64>,
    sent_at: Option<MonotonicTime>,
    first_sent_at: Option<MonotonicTime>,
}

/// A command for a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    pub node_id: NodeId,
    pub range_id: RangeId,
    pub kind: &'static str,
    pub command: wire::NodeCommand,
}

/// All that is under way.
#[derive(Debug, Default)]
pub struct Operators {
    under_way: BTreeMap<RangeId, UnderWay>,
    /// Ids that were allocated and not used yet.
    spare_ids: VecDeque<u64>,
}

impl Operators {
    /// Takes in a new plan: goes on with what it still holds, begins what is new, forgets the rest.
    /// `replicas` tells how many replicas a range has.
    pub fn accept(
        &mut self,
        plan: Vec<Operator>,
        replicas: impl Fn(RangeId) -> usize,
        now: MonotonicTime,
    ) {
        let mut before = std::mem::take(&mut self.under_way);
        for operator in plan {
            // For one epoch the first choice stays for a while: another would race with it.
            let same = before.remove(&operator.range_id).filter(|old| {
                old.operator.epoch == operator.epoch && !old.gone_stale(&operator, now)
            });
            let entry = match same {
                Some(old) => UnderWay {
                    operator: Operator { leader: operator.leader, ..old.operator },
                    ..old
                },
                None => {
                    let ids_wanted = match operator.step {
                        Step::AddLearner { .. } => 1,
                        // One for the new range, one for each of its replicas.
                        Step::Split { .. } => 1 + replicas(operator.range_id),
                        _ => 0,
                    };
                    let (ids, sent_at, first_sent_at) = (Vec::new(), None, None);
                    UnderWay { operator, ids_wanted, ids, sent_at, first_sent_at }
                }
            };
            self.under_way.insert(entry.operator.range_id, entry);
        }
    }

    /// How many new ids are wanted before [`Self::due`] can send everything.
    #[must_use]
    pub fn ids_wanted(&self) -> usize {
        let wanted: usize = self.under_way.values().map(UnderWay::ids_missing).sum();
        wanted.saturating_sub(self.spare_ids.len())
    }

    /// Ids that nobody else uses.
    pub fn give_ids(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.spare_ids.extend(ids);
    }

    /// The commands that are to be sent now.
    pub fn due(&mut self, now: MonotonicTime) -> Vec<Dispatch> {
        let mut due = Vec::new();
        for entry in self.under_way.values_mut() {
            if entry.sent_at.is_some_and(|sent_at| now.since(sent_at) < RESEND_AFTER) {
                continue;
            }
            let missing = entry.ids_missing();
            if missing > self.spare_ids.len() {
                continue;
            }
            entry.ids.extend(self.spare_ids.drain(..missing));
            entry.sent_at = Some(now);
            entry.first_sent_at.get_or_insert(now);
            due.push(entry.dispatch());
        }
        due
    }

    /// A command could not be handed to its node: it may be sent again at once.
    pub fn not_sent(&mut self, range_id: RangeId) {
        if let Some(entry) = self.under_way.get_mut(&range_id) {
            entry.sent_at = None;
        }
    }

    /// What is under way, in the order of range ids.
    pub fn under_way(&self) -> impl Iterator<Item = &Operator> {
        self.under_way.values().map(|entry| &entry.operator)
    }
}

impl UnderWay {
    const fn ids_missing(&self) -> usize {
        self.ids_wanted - self.ids.len()
    }

    /// True if the plan wants another step by now. Another target for a new replica waits until the
    /// first had its chance.
    fn gone_stale(&self, wanted: &Operator, now: MonotonicTime) -> bool {
        match (&self.operator.step, &wanted.step) {
            (own, wanted) if own == wanted => false,
            (Step::AddLearner { .. }, Step::AddLearner { .. }) => {
                self.first_sent_at.is_some_and(|first| now.since(first) >= GIVE_UP_AFTER)
            }
            _ => true,
        }
    }

    fn dispatch(&self) -> Dispatch {
        let change = |kind: Kind, replica: &Replica| wire::ReplicaChange {
            kind: kind.into(),
            replica: Some(replica.into()),
        };
        let range_id = self.operator.range_id.get();
        let epoch = Some(self.operator.epoch.into());
        let change_replicas = |changes: Vec<wire::ReplicaChange>| {
            let leave_joint = changes.is_empty();
            Command::ChangeReplicas(wire::ChangeReplicas { range_id, epoch, changes, leave_joint })
        };
        let (kind, command) = match &self.operator.step {
            Step::AddLearner { node_id } => {
                let replica_id = ReplicaId(self.ids[0]);
                let replica = Replica { replica_id, node_id: *node_id, role: ReplicaRole::Learner };
                ("add_learner", change_replicas(vec![change(Kind::AddLearner, &replica)]))
            }
            Step::ChangeVoters { promote, demote } => {
                let promote = promote.iter().map(|replica| change(Kind::Promote, replica));
                let demote = demote.iter().map(|replica| change(Kind::Demote, replica));
                ("change_voters", change_replicas(promote.chain(demote).collect()))
            }
            Step::Remove { replica } => {
                ("remove", change_replicas(vec![change(Kind::Remove, replica)]))
            }
            Step::LeaveJoint => ("leave_joint", change_replicas(Vec::new())),
            Step::TransferLeader { to } => {
                let to_replica_id = to.replica_id.get();
                let transfer = wire::TransferLeader { range_id, epoch, to_replica_id };
                ("transfer_leader", Command::TransferLeader(transfer))
            }
            Step::Merge { right, right_epoch } => {
                let merge = wire::MergeRanges {
                    left_range_id: range_id,
                    left_epoch: epoch,
                    right_range_id: right.get(),
                    right_epoch: Some((*right_epoch).into()),
                };
                ("merge", Command::MergeRanges(merge))
            }
            Step::AbortMerge { left_version } => {
                let abort =
                    wire::AbortMerge { left_range_id: range_id, left_version: *left_version };
                ("abort_merge", Command::AbortMerge(abort))
            }
            Step::Split { at } => ("split", Command::SplitRange(self.split(at))),
        };
        Dispatch {
            node_id: self.operator.leader,
            range_id: self.operator.range_id,
            kind,
            command: wire::NodeCommand { command: Some(command) },
        }
    }
}

impl UnderWay {
    fn split(&self, at: &SplitAt) -> wire::SplitRange {
        let at = match at {
            SplitAt::Key(key) => split_range::At::Key(key.clone().into()),
            SplitAt::Size => split_range::At::By(split_range::By::Size.into()),
            SplitAt::Load => split_range::At::By(split_range::By::Load.into()),
        };
        wire::SplitRange {
            range_id: self.operator.range_id.get(),
            epoch: Some(self.operator.epoch.into()),
            new_range_id: self.ids[0],
            new_replica_ids: self.ids[1..].to_vec(),
            at: Some(at),
        }
    }
}

/// What chooses between equally good nodes, the same for the life of a cluster.
#[must_use]
pub const fn planner_seed(cluster_id: ClusterId) -> u64 {
    (cluster_id.0 >> 64) as u64 ^ cluster_id.0 as u64
}

#[cfg(test)]
mod tests;
