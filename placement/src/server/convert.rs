//! What operators are shown.

use crate::leader::Office;
use crate::state::{MetaEntry, NodeState, SettingView, State, Wish};
use crate::view::View;
use crate::wishes::Board;
use rangedb_planner::{Liveness, Operator};
use rangedb_proto::v1 as wire;
use rangedb_types::{MonotonicTime, RangeDescriptor, RangeId, ReplicaRole};
use std::collections::BTreeSet;

pub(super) fn nodes(office: &Office) -> Vec<wire::NodeStatus> {
    office.look(|state, view, now| {
        let shown = state.nodes().filter(|node| node.state != NodeState::Removed);
        shown
            .map(|node| {
                let stats = view.stats(node.node_id);
                let liveness = view.liveness(node.node_id, now, state.node_dead_after());
                wire::NodeStatus {
                    node_id: node.node_id.get(),
                    address: node.address.clone(),
                    zone: node.locality.zone.clone(),
                    state: state_word(node.state, liveness).to_owned(),
                    replicas: stats.replicas,
                    leaders: stats.leaders,
                    used_bytes: stats.used_bytes,
                    capacity_bytes: stats.capacity_bytes,
                    region: node.locality.region.clone(),
                    rack: node.locality.rack.clone(),
                    software_version: node.software_version.clone(),
                }
            })
            .collect()
    })
}

/// What the operator wants of a node is shown only while the node is there.
const fn state_word(wanted: NodeState, liveness: Liveness) -> &'static str {
    match (liveness, wanted) {
        (Liveness::Down, _) => "down",
        (Liveness::Suspect, _) => "suspect",
        (Liveness::Up, NodeState::Draining) => "draining",
        (Liveness::Up, NodeState::Drained) => "drained",
        (Liveness::Up, NodeState::Active | NodeState::Removed) => "up",
    }
}

pub(super) fn range(
    view: &View,
    stored: &RangeDescriptor,
    now: MonotonicTime,
) -> wire::RangeStatus {
    let range = super::lookup::freshest(view, stored);
    let leader = view.leader_of(range.range_id, now).map_or(0, rangedb_types::NodeId::get);
    wire::RangeStatus {
        range_id: range.range_id.get(),
        start: range.span.start.clone().into(),
        end: range.span.end.clone().into(),
        version: range.epoch.version,
        conf_version: range.epoch.conf_version,
        leader_node_id: leader,
        size_bytes: view.range(range.range_id).map_or(0, |reported| reported.size_bytes),
        replicas: range
            .replicas
            .iter()
            .map(|replica| wire::ReplicaStatus {
                node_id: replica.node_id.get(),
                replica_id: replica.replica_id.get(),
                role: role_word(replica.role).to_owned(),
            })
            .collect(),
    }
}

const fn role_word(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Voter => "voter",
        ReplicaRole::Learner => "learner",
        ReplicaRole::IncomingVoter => "incoming_voter",
        ReplicaRole::DemotingVoter => "demoting_voter",
    }
}

pub(super) fn operator(operator: Operator) -> wire::OperatorStatus {
    wire::OperatorStatus {
        range_id: operator.range_id.get(),
        what: operator.step.to_string(),
        why: operator.why,
    }
}

/// The wish of a range that is under way, or else the one that ended last.
pub(super) fn wish(
    board: &Board,
    range_id: RangeId,
    stored: Option<&Wish>,
) -> Option<wire::WishStatus> {
    use wire::wish_status::State;
    if let Some(wish) = stored {
        let (what, why) = (wish.to_string(), board.now(range_id));
        return Some(wire::WishStatus { state: State::UnderWay.into(), what, why });
    }
    board.last_ended(range_id).map(|ended| wire::WishStatus {
        state: if ended.fulfilled { State::Done } else { State::GivenUp }.into(),
        what: ended.wish.to_string(),
        why: ended.why.clone(),
    })
}

/// What a command for a range comes to.
pub(super) fn plan(range: &RangeDescriptor, steps: Vec<String>) -> wire::RangePlan {
    wire::RangePlan {
        range_id: range.range_id.get(),
        version: range.epoch.version,
        conf_version: range.epoch.conf_version,
        steps,
    }
}

/// Steps under way, and for wishes what is under way or waited for; and what cannot start.
pub(super) fn operators(office: &Office) -> (Vec<wire::OperatorStatus>, Vec<wire::PendingWork>) {
    let (operators, pending) = office.work();
    let wishes: Vec<Wish> = office.look(|state, _, _| state.wishes().cloned().collect());
    let told: BTreeSet<RangeId> = wishes.iter().map(|wish| wish.range_id).collect();
    let planned = operators.into_iter().filter(|operator| !told.contains(&operator.range_id));
    let asked = office.wishes(|board| -> Vec<_> {
        let status = |wish: &Wish| wire::OperatorStatus {
            range_id: wish.range_id.get(),
            what: wish.to_string(),
            why: format!("asked for by hand; {}", board.now(wish.range_id)),
        };
        wishes.iter().map(status).collect()
    });
    let operators = asked.into_iter().chain(planned.map(operator)).collect();
    let mut pending: Vec<_> = pending.into_iter().map(|why| wire::PendingWork { why }).collect();
    let empty = office.look(|state: &State, _, _| state.range_count() == 0);
    if empty {
        let why = "the first range waits for a storage node to register".to_owned();
        pending.insert(0, wire::PendingWork { why });
    }
    (operators, pending)
}

pub(super) fn setting(view: SettingView) -> wire::ConfigEntry {
    wire::ConfigEntry {
        name: view.name,
        value: view.value,
        version: view.version,
        default_value: view.default_value,
        description: view.description,
        warning: view.warning,
    }
}

pub(super) fn meta(entry: MetaEntry) -> wire::MetaEntry {
    wire::MetaEntry {
        key: entry.key,
        value: entry.value.into_bytes().into(),
        revision: entry.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_away_is_down_whatever_was_wanted_of_it() {
        assert_eq!(state_word(NodeState::Draining, Liveness::Down), "down");
        assert_eq!(state_word(NodeState::Draining, Liveness::Up), "draining");
        assert_eq!(state_word(NodeState::Active, Liveness::Suspect), "suspect");
        assert_eq!(state_word(NodeState::Active, Liveness::Up), "up");
    }
}
