//! Moves of one replica: learner, caught up, joint change, removal; the lead leaves first.

use super::next::Next;
use super::survey::Survey;
use rangedb_planner::{MoveRefusal, RangeView, Step, can_move};
use rangedb_types::{NodeId, Replica, ReplicaRole};

pub(super) fn next(range: &RangeView, from: NodeId, to: NodeId, survey: &Survey<'_>) -> Next {
    let descriptor = &range.descriptor;
    let take = |step| Next::Take { range_id: descriptor.range_id, step };
    if descriptor.is_joint() {
        return take(Step::LeaveJoint);
    }
    match (descriptor.replica_on(from), descriptor.replica_on(to)) {
        (None, Some(_)) => Next::Done,
        (None, None) => Next::GivenUp(format!("the range has no replica on node {from} any more")),
        (Some(_), None) => add(range, from, to, survey),
        (Some(old), Some(new)) => match (old.role, new.role) {
            (ReplicaRole::Learner, _) => take(Step::Remove { replica: *old }),
            (_, ReplicaRole::Learner) => swap(range, old, new, survey),
            _ => demote(range, old, new, survey),
        },
    }
}

fn add(range: &RangeView, from: NodeId, to: NodeId, survey: &Survey<'_>) -> Next {
    match can_move(range, from, to, survey.view) {
        Ok(()) => {}
        Err(refusal @ (MoveRefusal::Changing(_) | MoveRefusal::NearlyFull(_))) => {
            return Next::Leave(refusal.to_string());
        }
        Err(MoveRefusal::Down(_)) if !survey.is_lost(to) => {
            return Next::Leave(format!("node {to} was not heard from lately"));
        }
        Err(refusal) => return Next::GivenUp(refusal.to_string()),
    }
    if let Some(busy) = survey.too_busy(range, to) {
        return Next::Hold(format!("node {busy} is busy with other copies"));
    }
    let step = Step::AddLearner { node_id: to };
    Next::Take { range_id: range.descriptor.range_id, step }
}

/// Gives the new replica the old one's vote.
fn swap(range: &RangeView, old: &Replica, new: &Replica, survey: &Survey<'_>) -> Next {
    let node_id = new.node_id;
    if survey.is_lost(node_id) {
        return Next::GivenUp(format!("node {node_id} is down"));
    }
    if !survey.is_good(range, new) || !survey.is_up(node_id) {
        return Next::Hold(format!("the new replica on node {node_id} catches up"));
    }
    let mut demote = vec![*old];
    if range.leader == Some(old.node_id) {
        if let Some(step) = hand_over(range, old, survey) {
            return Next::Take { range_id: range.descriptor.range_id, step };
        }
        if range.descriptor.with_role(ReplicaRole::Voter).count() > 1 {
            return Next::Hold(format!("node {} leads, and no other voter could", old.node_id));
        }
        // The only voter can hand over once there is a second one.
        demote.clear();
    }
    change(range, vec![*new], demote, survey)
}

/// Takes the vote from the old replica where the new one has its own.
fn demote(range: &RangeView, old: &Replica, new: &Replica, survey: &Survey<'_>) -> Next {
    if range.leader == Some(old.node_id) {
        let to = if survey.could_lead(range, new) {
            Some(Step::TransferLeader { to: *new })
        } else {
            hand_over(range, old, survey)
        };
        return match to {
            Some(step) => Next::Take { range_id: range.descriptor.range_id, step },
            None => Next::Hold(format!("node {} leads, and no other voter could", old.node_id)),
        };
    }
    change(range, Vec::new(), vec![*old], survey)
}

fn hand_over(range: &RangeView, old: &Replica, survey: &Survey<'_>) -> Option<Step> {
    let others =
        range.descriptor.replicas.iter().filter(|other| other.replica_id != old.replica_id);
    let mut able = others.filter(|other| survey.could_lead(range, other));
    able.next().map(|to| Step::TransferLeader { to: *to })
}

fn change(
    range: &RangeView,
    promote: Vec<Replica>,
    demote: Vec<Replica>,
    survey: &Survey<'_>,
) -> Next {
    let voters = range.descriptor.with_role(ReplicaRole::Voter);
    let stay = voters.filter(|voter| !demote.contains(voter)).chain(&promote);
    let (mut count, mut good) = (0, 0);
    for voter in stay {
        count += 1;
        good += usize::from(survey.is_good(range, voter));
    }
    if good <= count / 2 {
        return Next::Hold("a majority of the voters catches up first".to_owned());
    }
    let step = Step::ChangeVoters { promote, demote };
    Next::Take { range_id: range.descriptor.range_id, step }
}
