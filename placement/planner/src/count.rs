//! The right number of replicas and voters for one range.
//!
//! Grows by learners first, and gives votes to several at once: a range with two voters survives no
//! more failures than one with one, and needs both for every write.

use crate::budget::Budget;
use crate::explain::{count_of, nodes_are_up};
use crate::target::{Loads, candidates};
use crate::{ClusterView, Explanation, Operator, Policy, RangeView, Step};
use rangedb_types::{NodeId, Replica, ReplicaRole};

/// What a decision about one range may look at and use up.
pub(crate) struct Context<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) policy: &'a Policy,
    pub(crate) budget: &'a mut Budget,
    pub(crate) loads: &'a mut Loads,
    pub(crate) explanation: &'a mut Explanation,
}

/// How many replicas and voters a range can have now.
struct Goal {
    replicas: usize,
    voters: usize,
    /// Nodes that are not lost and hold, or could take, a replica.
    nodes: usize,
}

/// The next step for a range, if one is due and possible.
pub(crate) fn next_step(range: &RangeView, context: &mut Context<'_>) -> Option<Operator> {
    let range_id = range.descriptor.range_id;
    let Some(leader) = range.leader else {
        context.explanation.wait(|| format!("range {range_id} has no leader that reports"));
        return None;
    };
    let (step, why) = if range.descriptor.is_joint() {
        (Step::LeaveJoint, "a range must not stay in a joint configuration".to_owned())
    } else {
        let goal = Goal::of(range, context);
        tell_shortage(range, &goal, context);
        add_learner(range, &goal, context)
            .or_else(|| promote(range, &goal, context))
            .or_else(|| remove_surplus(range, context))?
    };
    Some(Operator { range_id, epoch: range.descriptor.epoch, leader, step, why })
}

impl Goal {
    fn of(range: &RangeView, context: &Context<'_>) -> Self {
        let wanted = context.policy.replication_factor.max(1);
        let nodes = held(range, context.view) + candidates(context.view, range).count();
        let replicas = wanted.min(nodes);
        let voters = if replicas == wanted { wanted } else { odd_at_most(replicas) };
        Self { replicas, voters, nodes }
    }
}

const fn odd_at_most(count: usize) -> usize {
    if count == 0 || count % 2 == 1 { count } else { count - 1 }
}

/// Replicas that count: all voters, and learners on nodes that are not lost.
fn held(range: &RangeView, view: &ClusterView) -> usize {
    let counts =
        |replica: &&Replica| replica.role != ReplicaRole::Learner || view.lives(replica.node_id);
    range.descriptor.replicas.iter().filter(counts).count()
}

fn voters(range: &RangeView) -> usize {
    range.descriptor.with_role(ReplicaRole::Voter).count()
}

fn tell_shortage(range: &RangeView, goal: &Goal, context: &mut Context<'_>) {
    let wanted = context.policy.replication_factor;
    if goal.replicas >= wanted {
        return;
    }
    let range_id = range.descriptor.range_id;
    let spare = goal.replicas - goal.voters;
    context.explanation.wait(|| {
        let shortage =
            format!("range {range_id} wants {wanted} replicas, {}", nodes_are_up(goal.nodes));
        if spare == 0 {
            return shortage;
        }
        format!(
            "{shortage}; it runs with {} and {} until then, because an even number of voters survives no more failures",
            count_of(goal.voters, "voter"),
            count_of(spare, "learner"),
        )
    });
}

fn add_learner(
    range: &RangeView,
    goal: &Goal,
    context: &mut Context<'_>,
) -> Option<(Step, String)> {
    let has = held(range, context.view);
    if has >= goal.replicas {
        return None;
    }
    let range_id = range.descriptor.range_id;
    let wanted = context.policy.replication_factor;
    let allowed = |node_id: NodeId| context.budget.allows(range, node_id);
    let Some(node_id) = context.loads.best(context.view, range, allowed).map(|node| node.node_id)
    else {
        context.explanation.wait(|| {
            format!(
                "range {range_id} wants {wanted} replicas and has {has}; it waits for other copies to end ({} at once a node)",
                context.policy.moves_per_node_max
            )
        });
        return None;
    };
    context.budget.take(range, node_id);
    context.loads.add(node_id);
    Some((Step::AddLearner { node_id }, format!("it has {has} of {wanted} replicas")))
}

fn promote(range: &RangeView, goal: &Goal, context: &mut Context<'_>) -> Option<(Step, String)> {
    let voters = voters(range);
    let missing = goal.voters.saturating_sub(voters);
    if missing == 0 {
        return None;
    }
    let mut ready: Vec<Replica> = range
        .descriptor
        .with_role(ReplicaRole::Learner)
        .filter(|learner| {
            range.caught_up.contains(&learner.replica_id) && context.view.is_up(learner.node_id)
        })
        .copied()
        .collect();
    ready.sort_unstable();
    let most = missing.min(ready.len());
    let good = |count: &usize| voters + count == goal.voters || (voters + count) % 2 == 1;
    let Some(count) = (1..=most).rev().find(good) else {
        let range_id = range.descriptor.range_id;
        let have = ready.len();
        context.explanation.wait(|| {
            format!(
                "range {range_id} wants {}, has {voters}; {have} of {missing} learners have caught up",
                count_of(goal.voters, "voter"),
            )
        });
        return None;
    };
    ready.truncate(count);
    let why = format!("it has {} of {}", voters, count_of(goal.voters, "voter"));
    Some((Step::ChangeVoters { promote: ready, demote: Vec::new() }, why))
}

/// Removes a learner that is not needed once there are voters enough: lost ones first.
fn remove_surplus(range: &RangeView, context: &mut Context<'_>) -> Option<(Step, String)> {
    let wanted = context.policy.replication_factor;
    let range_id = range.descriptor.range_id;
    let voters = voters(range);
    if voters > wanted {
        context.explanation.wait(|| {
            format!("range {range_id} has {voters} voters and wants {wanted}; voters are not removed by themselves yet")
        });
    }
    if voters < wanted {
        return None;
    }
    let surplus = range
        .descriptor
        .with_role(ReplicaRole::Learner)
        .min_by_key(|learner| (context.view.lives(learner.node_id), learner.replica_id))?;
    let why = format!("it has {voters} voters and needs no learner");
    Some((Step::Remove { replica: *surplus }, why))
}
