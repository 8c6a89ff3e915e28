//! Makes small, quiet neighbours one: brings the right one's replicas to where the left one's are,
//! then its leadership, then merges; and ends every merge that has begun, one way or the other.

use crate::pairs::{missing_nodes, same_places};
use crate::planning::Planning;
use crate::{RangeView, Step};
use rangedb_types::{Replica, ReplicaRole};

/// Goes on with merges for which a range is frozen already, or gives them up.
pub(crate) fn finish(planning: &mut Planning<'_>) {
    for (left, right) in planning.pairs.begun() {
        let neighbour = right.checked_sub(1).filter(|neighbour| {
            let left = &planning.range(*neighbour).descriptor.span;
            !planning.is_busy(*neighbour) && left.end == planning.range(right).descriptor.span.start
        });
        if let Some(neighbour) = neighbour {
            if left == Some(neighbour) {
                finish_one(planning, neighbour, right);
            } else {
                // The one that it is frozen for was split, or is gone.
                show_left(planning, neighbour, right);
            }
        } else {
            let range_id = planning.range(right).descriptor.range_id;
            planning.explanation.wait(|| {
                format!("range {range_id} is frozen, and waits for the range on its left")
            });
        }
        for index in neighbour.into_iter().chain([right]) {
            planning.set_busy(index);
        }
    }
}

fn finish_one(planning: &mut Planning<'_>, left: usize, right: usize) {
    let (left_range, right_range) = (planning.range(left), planning.range(right));
    let Some(intent) = right_range.merging else { return };
    let range_id = right_range.descriptor.range_id;
    if left_range.descriptor.epoch.version > intent.left_version {
        show_left(planning, left, right);
        return;
    }
    if right_range.frozen_for >= planning.policy.merge_patience {
        let seconds = right_range.frozen_for.as_secs();
        let step = Step::AbortMerge { left_version: intent.left_version };
        let why = format!("range {range_id} has been frozen for {seconds} s");
        planning.ask(left, step, why);
        return;
    }
    if !same_places(left_range, right_range) || right_range.leader.is_none() {
        planning.explanation.wait(|| {
            format!("range {range_id} is frozen, and its replicas are not where its left neighbour's are")
        });
        return;
    }
    if left_range.leader == right_range.leader {
        let why = format!("range {range_id} is frozen for it");
        ask_merge(planning, left, right, why);
        return;
    }
    // The frozen range keeps its leader; the other one can follow it.
    let to = right_range.leader.and_then(|node_id| left_range.descriptor.replica_on(node_id));
    if let Some(to) = to.filter(|to| planning.cluster.could_lead(left_range, to)).copied() {
        planning.ask_transfer(left, to, format!("range {range_id} on its right is frozen there"));
    }
}

/// A range whose merge was given up is thawed by its leader, once that sees on its own node a replica of
/// the range on the left which shows it. They lay together when the range was frozen; if they do not
/// any more, they are brought together again.
fn show_left(planning: &mut Planning<'_>, left: usize, right: usize) {
    let (left_range, right_range) = (planning.range(left), planning.range(right));
    let range_id = right_range.descriptor.range_id;
    let Some(leader) = right_range.leader else { return };
    let is_there = |node_id| left_range.descriptor.replica_on(node_id).is_some();
    if is_there(leader) {
        planning
            .explanation
            .wait(|| format!("range {range_id} is frozen for a merge that was given up"));
        return;
    }
    let mut members = right_range.descriptor.with_role(ReplicaRole::Voter);
    let to = members.find(|member| {
        is_there(member.node_id) && planning.cluster.could_lead(right_range, member)
    });
    if let Some(to) = to.copied() {
        let why = "its merge was given up, which is known there".to_owned();
        planning.ask_transfer(right, to, why);
    } else if !left_range.descriptor.is_joint()
        && left_range.merging.is_none()
        && planning.budget.allows(left_range, leader)
    {
        let why = format!("range {range_id} is to see there that its merge was given up");
        planning.ask_learner(left, leader, why);
    }
}

fn ask_merge(planning: &mut Planning<'_>, left: usize, right: usize, why: String) {
    let right_range = &planning.range(right).descriptor;
    let step = Step::Merge { right: right_range.range_id, right_epoch: right_range.epoch };
    planning.ask(left, step, why);
    planning.set_busy(right);
}

/// Prepares and begins merges.
pub(crate) fn merge(planning: &mut Planning<'_>) {
    for (left, right) in planning.pairs.chosen() {
        if !planning.is_busy(left) && !planning.is_busy(right) {
            bring_together(planning, left, right);
        }
        // Nothing else may pull the two apart meanwhile.
        planning.set_busy(left);
        planning.set_busy(right);
    }
}

fn bring_together(planning: &mut Planning<'_>, left: usize, right: usize) {
    let (left_range, right_range) = (planning.range(left), planning.range(right));
    let (left_id, right_id) = (left_range.descriptor.range_id, right_range.descriptor.range_id);
    if !same_places(left_range, right_range) {
        let in_motion =
            right_range.descriptor.replicas.len() > left_range.descriptor.replicas.len();
        let missing = missing_nodes(left_range, right_range)
            .find(|node_id| planning.budget.allows(right_range, *node_id));
        match missing {
            Some(node_id) if !in_motion => {
                let why = format!("it is to be merged into range {left_id}, which is there");
                planning.ask_learner(right, node_id, why);
            }
            _ => planning.explanation.wait(|| {
                format!(
                    "range {right_id} is to be merged into range {left_id}, and moves there first"
                )
            }),
        }
        return;
    }
    let is_whole = |range: &RangeView| {
        let good = |replica: &Replica| planning.cluster.is_good(range, replica);
        range.descriptor.replicas.iter().all(good)
    };
    if !is_whole(left_range) || !is_whole(right_range) {
        planning.explanation.wait(|| {
            format!("range {right_id} is to be merged into range {left_id} once all replicas have caught up")
        });
        return;
    }
    if left_range.leader == right_range.leader {
        let why = format!("it and range {right_id} are small and quiet");
        ask_merge(planning, left, right, why);
        return;
    }
    let to = left_range.leader.and_then(|node_id| right_range.descriptor.replica_on(node_id));
    if let Some(to) = to.filter(|to| planning.cluster.could_lead(right_range, to)).copied() {
        let why = format!("it is to be merged into range {left_id}, which is led there");
        planning.ask_transfer(right, to, why);
    }
}
