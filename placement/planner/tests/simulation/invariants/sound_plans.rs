//! No plan asks for what cannot be right in the view that it was made from.

use super::Verdict;
use rangedb_planner::{ClusterView, Liveness, NodeView, Operator, Policy, RangeView, Step};
use rangedb_types::{NodeId, RangeId, Replica, ReplicaRole};
use std::collections::BTreeMap;

const FULL_PERCENT: u64 = 95;

pub fn check(view: &ClusterView, policy: &Policy, operators: &[Operator]) -> Verdict {
    if operators.is_empty() {
        return Ok(());
    }
    let nodes: BTreeMap<_, _> = view.nodes.iter().map(|node| (node.node_id, node)).collect();
    let ids = view.ranges.iter().map(|range| range.descriptor.range_id);
    let places: BTreeMap<_, _> = ids.zip(&view.ranges).collect();
    let mut seen: BTreeMap<RangeId, &Operator> = BTreeMap::new();
    for operator in operators {
        if let Some(other) = seen.insert(operator.range_id, operator) {
            return Err(format!("two steps for one range: {other:?}, {operator:?}"));
        }
        let Some(range) = places.get(&operator.range_id) else {
            return Err(format!("no such range: {operator:?}"));
        };
        let current = operator.epoch == range.descriptor.epoch;
        if !current || Some(operator.leader) != range.leader {
            return Err(format!("not for its leader and epoch: {operator:?}"));
        }
        if !fits(&operator.step, range, &nodes) {
            return Err(format!("{:?} does not fit {range:?}", operator.step));
        }
    }
    copies(view, policy, operators, &nodes, &places)
}

fn fits(step: &Step, range: &RangeView, nodes: &BTreeMap<NodeId, &NodeView>) -> bool {
    let is_good = |replica: &Replica| {
        let node = nodes.get(&replica.node_id);
        range.caught_up.contains(&replica.replica_id)
            && !range.down.contains(&replica.replica_id)
            && node.is_some_and(|node| node.liveness != Liveness::Down)
    };
    let leads = |replica: &Replica| Some(replica.node_id) == range.leader;
    match step {
        Step::AddLearner { node_id } => {
            range.descriptor.replica_on(*node_id).is_none()
                && nodes.get(node_id).is_some_and(|node| takes_replicas(node))
        }
        Step::TransferLeader { to } => {
            let node = nodes.get(&to.node_id);
            to.role == ReplicaRole::Voter
                && is_good(to)
                && node.is_some_and(|node| node.liveness == Liveness::Up && !node.draining)
        }
        Step::ChangeVoters { promote, demote } => {
            let voters = range.descriptor.with_role(ReplicaRole::Voter);
            let after: Vec<_> =
                voters.filter(|voter| !demote.contains(voter)).chain(promote).collect();
            !range.descriptor.is_joint()
                && promote.iter().all(is_good)
                && !demote.iter().any(leads)
                && after.iter().filter(|voter| is_good(voter)).count() > after.len() / 2
        }
        Step::Remove { replica } => replica.role == ReplicaRole::Learner && !leads(replica),
        Step::LeaveJoint => range.descriptor.is_joint(),
        Step::Split { .. } | Step::Merge { .. } | Step::AbortMerge { .. } => true,
    }
}

fn takes_replicas(node: &NodeView) -> bool {
    let used = node.capacity_bytes - node.available_bytes;
    node.liveness == Liveness::Up
        && node.accepts_replicas
        && !node.draining
        && used * 100 / node.capacity_bytes <= FULL_PERCENT
}

/// No node gets or gives more new copies than are allowed at the same time.
fn copies(
    view: &ClusterView,
    policy: &Policy,
    operators: &[Operator],
    nodes: &BTreeMap<NodeId, &NodeView>,
    places: &BTreeMap<RangeId, &RangeView>,
) -> Verdict {
    let mut under_way: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut count = |range: &RangeView, to: NodeId| {
        let mut most = 0;
        for node_id in [Some(to), range.leader].into_iter().flatten() {
            let copies = under_way.entry(node_id).or_default();
            *copies += 1;
            most = most.max(*copies);
        }
        most
    };
    for range in &view.ranges {
        for learner in range.descriptor.with_role(ReplicaRole::Learner) {
            let lost =
                nodes.get(&learner.node_id).is_none_or(|node| node.liveness == Liveness::Down);
            if !lost && !range.caught_up.contains(&learner.replica_id) {
                count(range, learner.node_id);
            }
        }
    }
    for operator in operators {
        if let Step::AddLearner { node_id } = operator.step {
            let most = count(places[&operator.range_id], node_id);
            if most > policy.moves_per_node_max {
                return Err(format!("{most} copies at once, the last is {operator:?}"));
            }
        }
    }
    Ok(())
}
