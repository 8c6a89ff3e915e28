//! Merges asked for by hand: the right range's replicas go to where the left one's are, then its
//! lead, then it is merged. Once it is frozen the planner brings the merge to its end.

use super::moving;
use super::next::Next;
use super::survey::Survey;
use rangedb_planner::{RangeView, Step};
use rangedb_types::{NodeId, RangeId, ReplicaRole};

pub(super) fn next(left: &RangeView, right: RangeId, version: u64, survey: &Survey<'_>) -> Next {
    let begun = left.descriptor.epoch.version > version;
    let Some(right) = survey.range(right) else {
        return if begun {
            Next::Done
        } else {
            Next::GivenUp(format!("range {right} is gone; it was merged elsewhere"))
        };
    };
    let right_id = right.descriptor.range_id;
    if left.descriptor.span.covers(&right.descriptor.span) {
        return Next::Done;
    }
    if survey.right_of(left).map(|next| next.descriptor.range_id) != Some(right_id) {
        return Next::GivenUp(format!("range {right_id} is no longer its right neighbour"));
    }
    if begun {
        return Next::GivenUp("the merge took too long and was given up; try again".to_owned());
    }
    if right.merging.is_some() || left.merging.is_some() {
        return Next::Leave(format!("range {right_id} is frozen, and its replicas catch up"));
    }
    if right.leader.is_none() {
        return Next::Hold(format!("range {right_id} has no leader that reports"));
    }
    let settled = left.descriptor.with_role(ReplicaRole::Voter).count();
    if settled < left.descriptor.replicas.len() {
        return Next::Leave("a change of the range's replicas ends first".to_owned());
    }
    bring_together(left, right, survey)
}

fn bring_together(left: &RangeView, right: &RangeView, survey: &Survey<'_>) -> Next {
    let right_id = right.descriptor.range_id;
    if right.descriptor.is_joint() {
        return Next::Take { range_id: right_id, step: Step::LeaveJoint };
    }
    if let Some((from, to)) = misplaced(left, right) {
        return match moving::next(right, from, to, survey) {
            Next::GivenUp(why) => {
                Next::GivenUp(format!("range {right_id} cannot move there: {why}"))
            }
            other => other,
        };
    }
    let mut right_voters = right.descriptor.with_role(ReplicaRole::Voter);
    let together = right.descriptor.replicas.len() == left.descriptor.replicas.len()
        && right_voters.all(|replica| left.descriptor.replica_on(replica.node_id).is_some())
        && right.descriptor.with_role(ReplicaRole::Learner).next().is_none();
    if !together {
        return Next::Leave(format!("a change of range {right_id}'s replicas ends first"));
    }
    let is_whole = |range: &RangeView| {
        range.descriptor.replicas.iter().all(|replica| survey.is_good(range, replica))
    };
    if !is_whole(left) || !is_whole(right) {
        return Next::Hold("every replica of both ranges catches up first".to_owned());
    }
    if left.leader != right.leader {
        let to = left.leader.and_then(|node_id| right.descriptor.replica_on(node_id));
        return match to.filter(|to| survey.could_lead(right, to)) {
            Some(to) => Next::Take { range_id: right_id, step: Step::TransferLeader { to: *to } },
            None => Next::Hold(format!("range {right_id} cannot be led from where this one is")),
        };
    }
    let step = Step::Merge { right: right_id, right_epoch: right.descriptor.epoch };
    Next::Take { range_id: left.descriptor.range_id, step }
}

/// A node of the right range where the left one is not, and one to go to instead.
fn misplaced(left: &RangeView, right: &RangeView) -> Option<(NodeId, NodeId)> {
    let (left, right) = (&left.descriptor, &right.descriptor);
    let outside = |replica: &&rangedb_types::Replica| left.replica_on(replica.node_id).is_none();
    let from = right.replicas.iter().find(outside)?.node_id;
    let mut nodes = left.replicas.iter().map(|replica| replica.node_id);
    // The one whose replica is being filled already comes first, then one without.
    let learner = |node_id: &NodeId| {
        right.replica_on(*node_id).is_some_and(|replica| replica.role == ReplicaRole::Learner)
    };
    let to = nodes.clone().find(learner);
    let to = to.or_else(|| nodes.clone().find(|node_id| right.replica_on(*node_id).is_none()));
    to.or_else(|| nodes.next()).map(|to| (from, to))
}
