//! Which replicas of a range stay, come and go, read off its descriptor alone.
//!
//! A move is: learner, caught up, joint change, removal. A plan remembers nothing, so it tells a
//! learner that comes from one that goes by their ids: those only grow, so the learner that comes is
//! newer than every voter, and the one that lost its vote is older than the voter that got it.

use crate::RangeView;
use crate::cluster::{Cluster, Sharing};
use rangedb_types::{NodeId, RangeDescriptor, Replica, ReplicaId, ReplicaRole};
use std::cmp::Reverse;

/// The replicas of a range by what is to become of them.
pub(crate) struct Members {
    pub(crate) voters: Vec<Replica>,
    /// Learners that are to stay, on nodes that are not lost.
    pub(crate) coming: Vec<Replica>,
    /// Learners that are of no use any more.
    pub(crate) leaving: Vec<Replica>,
}

impl Members {
    pub(crate) fn of(range: &RangeView, cluster: &Cluster<'_>, wanted: usize) -> Self {
        let replicas = &range.descriptor.replicas;
        let (mut voters, mut learners) = (Vec::with_capacity(replicas.len()), Vec::new());
        for replica in replicas {
            match replica.role {
                ReplicaRole::Voter | ReplicaRole::IncomingVoter => voters.push(*replica),
                ReplicaRole::Learner | ReplicaRole::DemotingVoter => learners.push(*replica),
            }
        }
        let enough =
            voters.len() >= wanted && !voters.iter().any(|voter| cluster.is_lost(voter.node_id));
        let newest = voters.iter().map(|voter| voter.replica_id).max().unwrap_or_default();
        let (leaving, coming) = learners.into_iter().partition(|learner| {
            cluster.is_lost(learner.node_id) || (enough && learner.replica_id < newest)
        });
        Self { voters, coming, leaving }
    }

    /// All that are not on their way out.
    pub(crate) fn all(&self) -> Vec<Replica> {
        self.voters.iter().chain(&self.coming).copied().collect()
    }
}

/// How much better off a range is without a replica; the greatest goes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Burden {
    lost: bool,
    draining: bool,
    /// Not on a node of the range that this one is to be merged into.
    outside: bool,
    sharing: Sharing,
    disk_full: bool,
    replicas_on_node: usize,
    older: Reverse<ReplicaId>,
}

/// The `count` replicas that the range is best off without. The newest one has a bonus, so that a
/// copy that was begun is not given up when others overtake it; with a vote as much as without, or a
/// single voter and its successor would take turns for ever.
pub(crate) fn victims(
    cluster: &Cluster<'_>,
    mut members: Vec<Replica>,
    count: usize,
    align_to: Option<&RangeDescriptor>,
) -> Vec<Replica> {
    let mut victims = Vec::with_capacity(count);
    while victims.len() < count {
        let worst =
            (0..members.len()).max_by_key(|index| burden(cluster, &members, *index, align_to));
        let Some(worst) = worst else { break };
        victims.push(members.swap_remove(worst));
    }
    victims
}

fn burden(
    cluster: &Cluster<'_>,
    members: &[Replica],
    index: usize,
    align_to: Option<&RangeDescriptor>,
) -> Burden {
    let member = &members[index];
    let node = cluster.get(member.node_id);
    let is_newest = members.iter().all(|other| other.replica_id <= member.replica_id);
    Burden {
        lost: cluster.is_lost(member.node_id),
        draining: node.is_some_and(|node| node.view.draining),
        outside: align_to.is_some_and(|left| left.replica_on(member.node_id).is_none()),
        sharing: sharing(cluster, members, member.node_id, Some(index)),
        disk_full: !is_newest
            && node.is_some_and(|node| node.used_percent() > crate::cluster::FULL_PERCENT),
        replicas_on_node: node
            .map_or(0, |node| node.replicas.saturating_sub(usize::from(is_newest))),
        older: Reverse(member.replica_id),
    }
}

/// How many of the members, but for one, share a place with this node.
pub(crate) fn sharing(
    cluster: &Cluster<'_>,
    members: &[Replica],
    node_id: NodeId,
    except: Option<usize>,
) -> Sharing {
    let Some(node) = cluster.get(node_id).filter(|_| cluster.has_places) else {
        return Sharing::default();
    };
    let others = members
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != except)
        .filter_map(|(_, member)| cluster.get(member.node_id))
        .filter(|other| !other.is_lost());
    node.place.sharing(others.map(|other| other.place))
}
