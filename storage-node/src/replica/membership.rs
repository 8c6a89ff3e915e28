//! Which changes of a range's replicas are allowed, and what they mean for Raft. Pure.
//!
//! Every change of voters goes through an explicit joint configuration ("Consensus: Bridging Theory
//! and Practice", Ongaro 2014, §4.3); a learner comes and goes by a simple change.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use rangedb_types::{RangeDescriptor, Replica, ReplicaRole};

/// What happens to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaChangeKind {
    AddLearner,
    Promote,
    Demote,
    Remove,
}

/// A change that was asked for and is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("the change names no replica")]
    Empty,
    #[error("the joint configuration must be left first")]
    Joint,
    #[error("there is no joint configuration to leave")]
    NotJoint,
    #[error("replica {0} has the wrong role for this change")]
    WrongRole(u64),
    #[error("node {0} has a replica of this range already")]
    NodeTaken(u64),
    #[error("replica {0} would take part in two changes")]
    Twice(u64),
    #[error("a learner is added or removed by itself, not with other changes")]
    Mixed,
    #[error("the range would have no voter")]
    NoVoter,
}

/// A change in both its forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub conf_change: ConfChangeV2,
    /// The range's replicas once it is applied.
    pub replicas: Vec<Replica>,
}

/// Works out a change of replicas.
///
/// # Errors
/// The rule that the change breaks; nothing may be proposed then.
pub fn change_replicas(
    range: &RangeDescriptor,
    changes: &[(ReplicaChangeKind, Replica)],
) -> Result<Change, MembershipError> {
    let [(kind, replica), rest @ ..] = changes else {
        return Err(MembershipError::Empty);
    };
    if range.is_joint() {
        return Err(MembershipError::Joint);
    }
    match kind {
        ReplicaChangeKind::AddLearner | ReplicaChangeKind::Remove if !rest.is_empty() => {
            Err(MembershipError::Mixed)
        }
        ReplicaChangeKind::AddLearner => add_learner(range, *replica),
        ReplicaChangeKind::Remove => remove_learner(range, *replica),
        ReplicaChangeKind::Promote | ReplicaChangeKind::Demote => enter_joint(range, changes),
    }
}

/// Works out how to leave a joint configuration.
///
/// # Errors
/// `NotJoint` if there is none.
pub fn leave_joint(range: &RangeDescriptor) -> Result<Change, MembershipError> {
    if !range.is_joint() {
        return Err(MembershipError::NotJoint);
    }
    let replicas = range.replicas.iter().map(|replica| Replica {
        role: match replica.role {
            ReplicaRole::IncomingVoter => ReplicaRole::Voter,
            ReplicaRole::DemotingVoter => ReplicaRole::Learner,
            role => role,
        },
        ..*replica
    });
    // A change with no steps is how Raft is told to leave.
    Ok(Change { conf_change: ConfChangeV2::default(), replicas: replicas.collect() })
}

/// The Raft configuration that a list of replicas stands for.
#[must_use]
pub fn conf_state(replicas: &[Replica]) -> ConfState {
    let ids = |roles: &[ReplicaRole]| -> Vec<u64> {
        let of_role = replicas.iter().filter(|replica| roles.contains(&replica.role));
        of_role.map(|replica| replica.replica_id.get()).collect()
    };
    let joint = replicas.iter().any(|replica| {
        matches!(replica.role, ReplicaRole::IncomingVoter | ReplicaRole::DemotingVoter)
    });
    let mut state = ConfState::default();
    state.set_voters(ids(&[ReplicaRole::Voter, ReplicaRole::IncomingVoter]));
    state.set_learners(ids(&[ReplicaRole::Learner]));
    if joint {
        state.set_voters_outgoing(ids(&[ReplicaRole::Voter, ReplicaRole::DemotingVoter]));
        state.set_learners_next(ids(&[ReplicaRole::DemotingVoter]));
    }
    state
}

fn add_learner(range: &RangeDescriptor, replica: Replica) -> Result<Change, MembershipError> {
    if range.replica_on(replica.node_id).is_some() {
        return Err(MembershipError::NodeTaken(replica.node_id.get()));
    }
    if range.replica(replica.replica_id).is_some() {
        return Err(MembershipError::Twice(replica.replica_id.get()));
    }
    let mut replicas = range.replicas.clone();
    replicas.push(Replica { role: ReplicaRole::Learner, ..replica });
    let step = single(ConfChangeType::AddLearnerNode, &replica);
    Ok(Change { conf_change: steps(vec![step], ConfChangeTransition::Auto), replicas })
}

fn remove_learner(range: &RangeDescriptor, replica: Replica) -> Result<Change, MembershipError> {
    role_must_be(range, &replica, ReplicaRole::Learner)?;
    let mut replicas = range.replicas.clone();
    replicas.retain(|other| other.replica_id != replica.replica_id);
    let step = single(ConfChangeType::RemoveNode, &replica);
    Ok(Change { conf_change: steps(vec![step], ConfChangeTransition::Auto), replicas })
}

fn enter_joint(
    range: &RangeDescriptor,
    changes: &[(ReplicaChangeKind, Replica)],
) -> Result<Change, MembershipError> {
    let mut replicas = range.replicas.clone();
    let mut list = Vec::with_capacity(changes.len());
    for (kind, replica) in changes {
        let (from, to, step) = match kind {
            ReplicaChangeKind::Promote => {
                (ReplicaRole::Learner, ReplicaRole::IncomingVoter, ConfChangeType::AddNode)
            }
            ReplicaChangeKind::Demote => {
                (ReplicaRole::Voter, ReplicaRole::DemotingVoter, ConfChangeType::AddLearnerNode)
            }
            ReplicaChangeKind::AddLearner | ReplicaChangeKind::Remove => {
                return Err(MembershipError::Mixed);
            }
        };
        role_must_be(range, replica, from)?;
        if list.iter().any(|step: &ConfChangeSingle| step.node_id == replica.replica_id.get()) {
            return Err(MembershipError::Twice(replica.replica_id.get()));
        }
        list.push(single(step, replica));
        for other in &mut replicas {
            if other.replica_id == replica.replica_id {
                other.role = to;
            }
        }
    }
    let stays =
        |replica: &Replica| matches!(replica.role, ReplicaRole::Voter | ReplicaRole::IncomingVoter);
    if !replicas.iter().any(stays) {
        return Err(MembershipError::NoVoter);
    }
    Ok(Change { conf_change: steps(list, ConfChangeTransition::Explicit), replicas })
}

fn role_must_be(
    range: &RangeDescriptor,
    replica: &Replica,
    role: ReplicaRole,
) -> Result<(), MembershipError> {
    match range.replica(replica.replica_id) {
        Some(member) if member.role == role => Ok(()),
        _ => Err(MembershipError::WrongRole(replica.replica_id.get())),
    }
}

fn single(kind: ConfChangeType, replica: &Replica) -> ConfChangeSingle {
    let mut step = ConfChangeSingle::default();
    step.set_change_type(kind);
    step.node_id = replica.replica_id.get();
    step
}

fn steps(changes: Vec<ConfChangeSingle>, transition: ConfChangeTransition) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.set_transition(transition);
    change.set_changes(changes.into());
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{Epoch, NodeId, RangeId, ReplicaId, Span};

    fn replica(id: u64, role: ReplicaRole) -> Replica {
        Replica { replica_id: ReplicaId(id), node_id: NodeId(id), role }
    }

    fn range(replicas: Vec<Replica>) -> RangeDescriptor {
        RangeDescriptor {
            range_id: RangeId(1),
            span: Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas,
        }
    }

    #[test]
    fn one_voter_grows_to_three_through_a_joint_configuration() {
        let mut range = range(vec![replica(1, ReplicaRole::Voter)]);
        for id in [2, 3] {
            let add = (ReplicaChangeKind::AddLearner, replica(id, ReplicaRole::Voter));
            range.replicas = change_replicas(&range, &[add]).unwrap().replicas;
        }
        let promote =
            [2, 3].map(|id| (ReplicaChangeKind::Promote, replica(id, ReplicaRole::Learner)));
        let change = change_replicas(&range, &promote).unwrap();
        assert_eq!(change.conf_change.get_transition(), ConfChangeTransition::Explicit);
        range.replicas = change.replicas;
        let joint = conf_state(&range.replicas);
        assert_eq!((joint.voters.clone(), joint.voters_outgoing.clone()), (vec![1, 2, 3], vec![1]));
        assert_eq!(change_replicas(&range, &promote), Err(MembershipError::Joint));
        range.replicas = leave_joint(&range).unwrap().replicas;
        assert!(!range.is_joint());
        assert_eq!(leave_joint(&range), Err(MembershipError::NotJoint));
    }

    #[test]
    fn demotion_keeps_the_outgoing_voter_until_the_end() {
        let range = range(vec![replica(1, ReplicaRole::Voter), replica(2, ReplicaRole::Voter)]);
        let demote = [(ReplicaChangeKind::Demote, replica(2, ReplicaRole::Voter))];
        let joint = conf_state(&change_replicas(&range, &demote).unwrap().replicas);
        assert_eq!((joint.voters.clone(), joint.voters_outgoing.clone()), (vec![1], vec![1, 2]));
        assert_eq!(joint.learners_next, vec![2]);
        let both = [1, 2].map(|id| (ReplicaChangeKind::Demote, replica(id, ReplicaRole::Voter)));
        assert_eq!(change_replicas(&range, &both), Err(MembershipError::NoVoter));
    }

    #[test]
    fn wrong_changes_are_refused() {
        let range = range(vec![replica(1, ReplicaRole::Voter), replica(2, ReplicaRole::Learner)]);
        let change = |kind, id| change_replicas(&range, &[(kind, replica(id, ReplicaRole::Voter))]);
        assert_eq!(change_replicas(&range, &[]), Err(MembershipError::Empty));
        assert_eq!(change(ReplicaChangeKind::AddLearner, 2), Err(MembershipError::NodeTaken(2)));
        assert_eq!(change(ReplicaChangeKind::Remove, 1), Err(MembershipError::WrongRole(1)));
        assert_eq!(change(ReplicaChangeKind::Promote, 7), Err(MembershipError::WrongRole(7)));
        assert!(change(ReplicaChangeKind::Remove, 2).is_ok());
    }
}
