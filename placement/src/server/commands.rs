//! Commands for ranges given by hand: checks before anything starts, and plans in words.

use super::convert;
use crate::leader::Office;
use crate::state::{Goal, State, StoredKey, WISHES_PER_CALL_MAX, Wish, WishedKey};
use crate::view::View;
use crate::wishes::scatter;
use rangedb_planner::{
    ClusterView, MoveRefusal, RangeView, TransferRefusal, can_move, can_transfer,
};
use rangedb_proto::v1 as wire;
use rangedb_types::key::SYSTEM_PREFIX;
use rangedb_types::limits::KEY_BYTES_MAX;
use rangedb_types::{MonotonicTime, NodeId, RangeDescriptor, RangeId, Span};
use std::collections::BTreeSet;
use tonic::Status;

/// A wish that can be begun, and what it will come to.
pub(super) struct Checked {
    /// `None` if the range is already as it is to be.
    pub(super) wish: Option<Wish>,
    pub(super) plan: wire::RangePlan,
}

fn unknown_range(range_id: RangeId) -> Status {
    Status::not_found(format!(
        "range {range_id} is not known; list the ranges to see what there is"
    ))
}

fn unknown_node(node_id: NodeId) -> Status {
    Status::not_found(format!("node {node_id} is not known; list the nodes to see what there is"))
}

fn stored(state: &State, range_id: RangeId) -> Result<&RangeDescriptor, Status> {
    state.range(range_id).ok_or_else(|| unknown_range(range_id))
}

/// Everything a check looks at.
struct Scene<'a> {
    state: &'a State,
    cluster: ClusterView,
}

impl<'a> Scene<'a> {
    /// One range alone: there may be very many.
    fn of(
        state: &'a State,
        view: &View,
        now: MonotonicTime,
        range_id: RangeId,
    ) -> Result<Self, Status> {
        let span = &stored(state, range_id)?.span;
        Ok(Self { state, cluster: view.part(state, span, now) })
    }

    fn range(&self, range_id: RangeId) -> Result<&RangeView, Status> {
        let mut ranges = self.cluster.ranges.iter();
        let range = ranges.find(|range| range.descriptor.range_id == range_id);
        range.ok_or_else(|| unknown_range(range_id))
    }

    /// Refuses a range that cannot take a command now.
    fn check_free(&self, range: &RangeView, goal: &Goal) -> Result<(), Status> {
        let range_id = range.descriptor.range_id;
        let refuse = |known: &Wish| {
            Err(Status::failed_precondition(format!(
                "range {range_id} is busy with a command given before: {known}; wait until it has ended"
            )))
        };
        if let Some(known) = self.state.wish(range_id)
            && known.goal != *goal
        {
            return refuse(known);
        }
        let involves =
            |wish: &&Wish| matches!(wish.goal, Goal::Merge { right, .. } if right == range_id);
        self.state.wishes().find(involves).map_or(Ok(()), refuse)
    }
}

/// Refuses a range that is in the middle of a change.
fn check_settled(range: &RangeView) -> Result<(), Status> {
    let range_id = range.descriptor.range_id;
    let changing = if range.descriptor.is_joint() {
        "its replicas are being changed"
    } else if range.merging.is_some() {
        "it is frozen for a merge"
    } else if range.leader.is_none() {
        "it has no leader that reports"
    } else {
        return Ok(());
    };
    Err(Status::failed_precondition(format!(
        "range {range_id} cannot be changed now: {changing}; try again when it has settled"
    )))
}

fn checked(range: &RangeView, goal: Option<Goal>, steps: Vec<String>) -> Checked {
    let range_id = range.descriptor.range_id;
    Checked {
        wish: goal.map(|goal| Wish { range_id, goal }),
        plan: convert::plan(&range.descriptor, steps),
    }
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a key has from 1 to {KEY_BYTES_MAX} bytes; this one has {}",
            key.len()
        )));
    }
    if key.starts_with(SYSTEM_PREFIX) {
        return Err(Status::permission_denied(
            "keys that begin with `_/` belong to the system; name another key",
        ));
    }
    Ok(())
}

pub(super) fn split(office: &Office, request: &wire::SplitRangeRequest) -> Result<Checked, Status> {
    use wire::split_range_request::At;
    let at = match &request.at {
        Some(At::AtKey(key)) => {
            check_key(key)?;
            WishedKey::Key(StoredKey(key.to_vec()))
        }
        Some(At::By(by)) => match wire::SplitBy::try_from(*by) {
            Ok(wire::SplitBy::Size) => WishedKey::Size,
            Ok(wire::SplitBy::Load) => WishedKey::Load,
            Err(_) => return Err(Status::invalid_argument("`by` is neither size nor load")),
        },
        None => WishedKey::Size,
    };
    office.look(|state, view, now| {
        let range_id = range_of_split(state, request, &at)?;
        let scene = Scene::of(state, view, now, range_id)?;
        let range = scene.range(range_id)?;
        let how = check_split(range, &at)?;
        let goal = Goal::Split { at, version: range.descriptor.epoch.version };
        scene.check_free(range, &goal)?;
        check_settled(range)?;
        let steps = vec![
            format!(
                "cut the range {how}; the left part keeps the id, the right one gets a new one"
            ),
            "its replicas stay where they are".to_owned(),
        ];
        Ok(checked(range, Some(goal), steps))
    })
}

fn range_of_split(
    state: &State,
    request: &wire::SplitRangeRequest,
    at: &WishedKey,
) -> Result<RangeId, Status> {
    if request.range_id != 0 {
        return Ok(RangeId(request.range_id));
    }
    let key = match at {
        WishedKey::Key(key) if request.key.is_empty() => &key.0[..],
        _ => &request.key[..],
    };
    if key.is_empty() {
        return Err(Status::invalid_argument("name the range by its id or by one of its keys"));
    }
    check_key(key)?;
    state
        .range_at(key)
        .map(|range| range.range_id)
        .ok_or_else(|| Status::not_found("no range holds this key; the cluster has none yet"))
}

fn check_split(range: &RangeView, at: &WishedKey) -> Result<String, Status> {
    let range_id = range.descriptor.range_id;
    let span = &range.descriptor.span;
    match at {
        WishedKey::Key(key) if key.0 == span.start || key.0 == span.end => {
            Err(Status::invalid_argument(format!(
                "the key is a bound of range {range_id} already; name a key between its bounds"
            )))
        }
        WishedKey::Key(key) if !span.contains(&key.0) => Err(Status::invalid_argument(format!(
            "the key is not in range {range_id}; name one between its bounds {} and {}",
            bound(&span.start),
            bound(&span.end)
        ))),
        WishedKey::Key(key) => Ok(format!("at {}", bound(&key.0))),
        WishedKey::Size if range.size_bytes == Some(0) => {
            Err(Status::failed_precondition(format!(
                "range {range_id} is empty, so it has no halves of equal size; name a key instead"
            )))
        }
        WishedKey::Size => Ok("into halves of equal size".to_owned()),
        WishedKey::Load if !range.load_splittable => Err(Status::failed_precondition(format!(
            "no key is known that halves the load of range {range_id}; split it by size, or at a key"
        ))),
        WishedKey::Load => Ok("into halves of equal load".to_owned()),
    }
}

/// A bound as people read it.
fn bound(key: &[u8]) -> String {
    if key.is_empty() { "(none)".to_owned() } else { format!("`{}`", key.escape_ascii()) }
}

pub(super) fn merge(office: &Office, request: &wire::MergeRangeRequest) -> Result<Checked, Status> {
    office.look(|state, view, now| {
        let range_id = RangeId(request.range_id);
        let scene = Scene::of(state, view, now, range_id)?;
        let left = scene.range(range_id)?;
        let Some(right) = right_neighbour(state, left) else {
            return Err(Status::failed_precondition(format!(
                "range {range_id} is the last one, and has no right neighbour; merge the one on its left"
            )));
        };
        let right_id = right.range_id;
        let scene_of_right = Scene::of(state, view, now, right_id)?;
        let right = scene_of_right.range(right_id)?;
        let wanted = RangeId(request.right_range_id);
        if wanted != RangeId(0) && wanted != right_id {
            stored(state, wanted)?;
            return Err(Status::failed_precondition(format!(
                "range {wanted} is not the right neighbour of range {range_id}; range {right_id} is"
            )));
        }
        let goal = Goal::Merge { right: right_id, version: left.descriptor.epoch.version };
        scene.check_free(left, &goal)?;
        if state.wish(range_id).is_none() {
            scene.check_free(right, &goal)?;
        }
        check_settled(left)?;
        check_settled(right)?;
        Ok(checked(left, Some(goal), merge_steps(left, right)))
    })
}

fn right_neighbour<'a>(state: &'a State, left: &RangeView) -> Option<&'a RangeDescriptor> {
    let end = &left.descriptor.span.end;
    if end.is_empty() {
        return None;
    }
    state.range_at(end)
}

fn merge_steps(left: &RangeView, right: &RangeView) -> Vec<String> {
    let right_id = right.descriptor.range_id;
    let mut steps = Vec::new();
    for replica in &left.descriptor.replicas {
        if right.descriptor.replica_on(replica.node_id).is_none() {
            steps.push(format!("move a replica of range {right_id} to node {}", replica.node_id));
        }
    }
    if let Some(leader) = left.leader.filter(|_| left.leader != right.leader) {
        steps.push(format!("hand the lead of range {right_id} to node {leader}"));
    }
    steps.push(format!("freeze range {right_id} until all its replicas have caught up"));
    steps.push(format!("make range {right_id} part of range {}", left.descriptor.range_id));
    steps
}

pub(super) fn move_replica(
    office: &Office,
    request: &wire::MoveReplicaRequest,
) -> Result<Checked, Status> {
    let (from, to) = (NodeId(request.from_node_id), NodeId(request.to_node_id));
    office.look(|state, view, now| {
        let range_id = RangeId(request.range_id);
        let scene = Scene::of(state, view, now, range_id)?;
        let range = scene.range(range_id)?;
        let goal = Goal::Move { from, to };
        scene.check_free(range, &goal)?;
        if state.wish(range.descriptor.range_id).is_none() {
            check_settled(range)?;
            can_move(range, from, to, &scene.cluster).map_err(|refusal| of_move(&refusal))?;
        }
        let mut steps = vec![
            format!("add a learner on node {to}, and fill it by a snapshot"),
            format!("give it the vote of the replica on node {from}, in one joint change"),
            format!("remove the replica on node {from}"),
        ];
        if range.leader == Some(from) {
            steps.insert(1, format!("hand the lead from node {from} to another voter"));
        }
        Ok(checked(range, Some(goal), steps))
    })
}

fn of_move(refusal: &MoveRefusal) -> Status {
    let advice = match refusal {
        MoveRefusal::UnknownNode(node_id) => return unknown_node(*node_id),
        MoveRefusal::NoReplica { .. } => "name a node that has one (`admin ranges show`)",
        MoveRefusal::HasReplica { .. }
        | MoveRefusal::Down(_)
        | MoveRefusal::NotAccepting(_)
        | MoveRefusal::NearlyFull(_) => "name another node (`admin nodes list`)",
        MoveRefusal::Changing(_) => return Status::failed_precondition(refusal.to_string()),
    };
    Status::failed_precondition(format!("{refusal}; {advice}"))
}

pub(super) fn transfer(
    office: &Office,
    request: &wire::TransferLeaderRequest,
) -> Result<Checked, Status> {
    let to = NodeId(request.to_node_id);
    office.look(|state, view, now| {
        let range_id = RangeId(request.range_id);
        let scene = Scene::of(state, view, now, range_id)?;
        let range = scene.range(range_id)?;
        let goal = Goal::TransferLeader { to };
        scene.check_free(range, &goal)?;
        if range.leader == Some(to) {
            return Ok(checked(range, None, Vec::new()));
        }
        check_settled(range)?;
        can_transfer(range, to, &scene.cluster).map_err(|refusal| of_transfer(&refusal))?;
        let steps = vec![format!("hand the lead to node {to}")];
        Ok(checked(range, Some(goal), steps))
    })
}

fn of_transfer(refusal: &TransferRefusal) -> Status {
    let advice = match refusal {
        TransferRefusal::UnknownNode(node_id) => return unknown_node(*node_id),
        TransferRefusal::Changing(_) => return Status::failed_precondition(refusal.to_string()),
        TransferRefusal::NotCaughtUp { .. } => "try again when it has, or name another node",
        TransferRefusal::NoReplica { .. }
        | TransferRefusal::Learner { .. }
        | TransferRefusal::Down(_)
        | TransferRefusal::Draining(_) => "name the node of another voter (`admin ranges show`)",
    };
    Status::failed_precondition(format!("{refusal}; {advice}"))
}

/// Wishes that spread a span, with their plans.
pub(super) fn scattered(
    office: &Office,
    request: &wire::ScatterRangesRequest,
) -> Result<(Vec<Wish>, wire::ScatterPlan), Status> {
    let span = Span::new(request.start.to_vec(), request.end.to_vec())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if !span.start.is_empty() {
        check_key(&span.start)?;
    }
    office.look(|state, view, now| {
        let cluster = view.snapshot(state, now);
        let busy: BTreeSet<RangeId> = state
            .wishes()
            .flat_map(|wish| match wish.goal {
                Goal::Merge { right, .. } => [wish.range_id, right],
                _ => [wish.range_id; 2],
            })
            .collect();
        let is_busy = |range: &RangeView| {
            busy.contains(&range.descriptor.range_id) || check_settled(range).is_err()
        };
        let wishes = scatter(&cluster, &span, WISHES_PER_CALL_MAX, is_busy);
        let plan = |wish: &Wish| {
            let range = stored(state, wish.range_id)?;
            Ok(convert::plan(range, vec![wish.to_string()]))
        };
        let plans = wishes.iter().map(plan).collect::<Result<_, Status>>()?;
        Ok((wishes, wire::ScatterPlan { plans }))
    })
}

/// One range, with what is asked of it.
pub(super) fn shown(
    office: &Office,
    request: &wire::GetRangeRequest,
) -> Result<wire::GetRangeResponse, Status> {
    let range_id = RangeId(request.range_id);
    let (range, wish) = office.look(|state, view, now| {
        let range = stored(state, range_id).map(|range| convert::range(view, range, now));
        (range, state.wish(range_id).cloned())
    });
    let wish = office.wishes(|board| convert::wish(board, range_id, wish.as_ref()));
    let operator = office.step_of(range_id).map(convert::operator);
    Ok(wire::GetRangeResponse { range: Some(range?), operator, wish })
}
