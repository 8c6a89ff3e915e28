//! Moves replicas apart: no two in one zone while another zone has room, then the same for racks.

use crate::cluster::Place;
use crate::members::{sharing, victims};
use crate::planning::Planning;
use crate::target::candidates;
use rangedb_types::{NodeId, Replica, ReplicaId, ReplicaRole};
use std::collections::BTreeMap;

/// A replica that is only thought of: newer than all others.
pub(crate) const fn imagined(node_id: NodeId) -> Replica {
    Replica { replica_id: ReplicaId(u64::MAX), node_id, role: ReplicaRole::Learner }
}

pub(crate) fn spread(planning: &mut Planning<'_>) {
    if !planning.cluster.has_places {
        return;
    }
    let mut free: Vec<Place> =
        planning.cluster.nodes.iter().filter(|n| n.takes_replicas()).map(|n| n.place).collect();
    free.sort_unstable();
    free.dedup();
    // Ranges whose replicas are in the same places have the same chances.
    let mut known: BTreeMap<Vec<Place>, bool> = BTreeMap::new();
    for index in 0..planning.view.ranges.len() {
        if planning.is_busy(index) {
            continue;
        }
        let replicas = &planning.range(index).descriptor.replicas;
        let nodes = replicas.iter().filter_map(|replica| planning.cluster.get(replica.node_id));
        let mut places: Vec<_> = nodes.map(|node| node.place).collect();
        places.sort_unstable();
        let crowded = match known.get(&places) {
            Some(crowded) => *crowded,
            None => {
                let crowded = is_crowded(&places, &free);
                known.insert(places, crowded);
                crowded
            }
        };
        if crowded && planning.is_healthy(index) {
            move_apart(planning, index);
        }
    }
}

/// True if a replica would share less in one of the free places than where it is.
fn is_crowded(places: &[Place], free: &[Place]) -> bool {
    places.iter().enumerate().any(|(member, place)| {
        let others = || {
            let others = places.iter().enumerate().filter(move |(other, _)| *other != member);
            others.map(|(_, other)| *other)
        };
        let now = place.sharing(others());
        free.iter().any(|place| place.sharing(others()) < now)
    })
}

fn move_apart(planning: &mut Planning<'_>, index: usize) {
    let range = planning.range(index);
    if !planning.budget.may_send(range) {
        return;
    }
    let cluster = &planning.cluster;
    let replicas = &range.descriptor.replicas;
    let better = candidates(cluster, range)
        .filter(|node| planning.budget.may_receive(node.view.node_id))
        .filter_map(|node| {
            let node_id = node.view.node_id;
            let mut members = replicas.clone();
            members.push(imagined(node_id));
            let victim = *victims(cluster, members, 1, None).first()?;
            let member = replicas.iter().position(|replica| *replica == victim)?;
            let before = sharing(cluster, replicas, victim.node_id, Some(member));
            let after = sharing(cluster, replicas, node_id, Some(member));
            (after < before).then_some((after, node.replicas, node.mixed, node_id))
        })
        .min();
    if let Some((_, _, _, node_id)) = better {
        let why = "two replicas are in one place although another one has room".to_owned();
        planning.ask_learner(index, node_id, why);
    }
}
