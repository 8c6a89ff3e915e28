//! Nodes that are emptied, taken back and forgotten by hand.

use crate::leader::Office;
use crate::state::{NodeRecord, NodeState, State};
use crate::view::{View, policy};
use rangedb_planner::{Liveness, Shortage, can_drain};
use rangedb_proto::v1 as wire;
use rangedb_types::{NodeId, Span};
use tonic::Status;

/// What a command for a node comes to.
pub(super) struct Checked {
    /// The state to set; `None` if the node has it already.
    pub(super) state: Option<NodeState>,
    pub(super) plan: wire::NodePlan,
}

fn known(state: &State, node_id: NodeId) -> Result<&NodeRecord, Status> {
    match state.node(node_id) {
        None => Err(Status::not_found(format!(
            "node {node_id} is not known; list the nodes to see what there is"
        ))),
        Some(node) if node.state == NodeState::Removed => {
            Err(Status::not_found(format!("node {node_id} was removed from the cluster")))
        }
        Some(node) => Ok(node),
    }
}

fn plan(state: &State, view: &View, node_id: NodeId, steps: Vec<String>) -> wire::NodePlan {
    let replicas_left = view.replicas_named(state, &Span::all(), node_id) as u64;
    wire::NodePlan { node_id: node_id.get(), steps, replicas_left }
}

/// "1 replica", "2 replicas".
fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

pub(super) fn drain(office: &Office, node_id: NodeId) -> Result<Checked, Status> {
    office.look(|state, view, now| {
        let node = known(state, node_id)?;
        if node.state != NodeState::Active {
            return Ok(Checked { state: None, plan: plan(state, view, node_id, Vec::new()) });
        }
        let cluster = view.snapshot(state, now);
        can_drain(&cluster, &policy(state), node_id).map_err(|shortage| match shortage {
            Shortage::UnknownNode(_) => Status::not_found(shortage.to_string()),
            Shortage::Nodes { .. } | Shortage::Space { .. } => {
                Status::failed_precondition(shortage.to_string())
            }
        })?;
        let leads = cluster.ranges.iter().filter(|range| range.leader == Some(node_id)).count();
        let mut plan = plan(state, view, node_id, Vec::new());
        plan.steps = vec![
            format!("give node {node_id} no replicas and no leaderships any more"),
            format!("hand the lead of {} to other nodes", count(leads as u64, "range")),
            format!("move {} to other nodes", count(plan.replicas_left, "replica")),
            "then its state is `drained`, and it can be removed".to_owned(),
        ];
        Ok(Checked { state: Some(NodeState::Draining), plan })
    })
}

pub(super) fn undrain(office: &Office, node_id: NodeId) -> Result<Checked, Status> {
    office.look(|state, view, _| {
        let node = known(state, node_id)?;
        if node.state == NodeState::Active {
            return Ok(Checked { state: None, plan: plan(state, view, node_id, Vec::new()) });
        }
        let steps = vec![format!("give node {node_id} replicas and leaderships again")];
        let plan = plan(state, view, node_id, steps);
        Ok(Checked { state: Some(NodeState::Active), plan })
    })
}

pub(super) fn remove(office: &Office, node_id: NodeId) -> Result<Checked, Status> {
    office.look(|state, view, now| {
        let node = known(state, node_id)?;
        let steps = vec![
            format!("forget node {node_id}; it cannot come back with the data it has"),
            "end its stream".to_owned(),
        ];
        let plan = plan(state, view, node_id, steps);
        let refuse = |why: String| Err(Status::failed_precondition(why));
        let down = view.liveness(node_id, now, state.node_dead_after()) == Liveness::Down;
        if plan.replicas_left > 0 {
            let advice = if down {
                "wait until they are repaired on other nodes"
            } else {
                "drain it, and wait until it is drained"
            };
            let replicas = count(plan.replicas_left, "replica");
            return refuse(format!("node {node_id} still holds {replicas}; {advice}"));
        }
        if down {
            return Ok(Checked { state: Some(NodeState::Removed), plan });
        }
        if node.state == NodeState::Active {
            return refuse(format!(
                "node {node_id} may get replicas at any time; drain it first, or stop it and wait until it is down"
            ));
        }
        let stray = view.stats(node_id).replicas;
        // A drained node said so; it may be stopped before it is removed.
        let told = node.state == NodeState::Drained || view.has_told_all(node_id);
        if stray > 0 || !told {
            return refuse(format!(
                "node {node_id} has not said that it is rid of its replicas ({stray} are left); wait until it is drained or down"
            ));
        }
        Ok(Checked { state: Some(NodeState::Removed), plan })
    })
}
