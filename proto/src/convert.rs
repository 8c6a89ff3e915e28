//! Conversions between wire types and domain types.

use crate::internal::v1 as wire;
use rangedb_types::{
    Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span,
};

/// A message that lacks something it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<Epoch> for wire::Epoch {
    fn from(epoch: Epoch) -> Self {
        Self { version: epoch.version, conf_version: epoch.conf_version }
    }
}

impl From<wire::Epoch> for Epoch {
    fn from(epoch: wire::Epoch) -> Self {
        Self { version: epoch.version, conf_version: epoch.conf_version }
    }
}

impl From<ReplicaRole> for wire::ReplicaRole {
    fn from(role: ReplicaRole) -> Self {
        match role {
            ReplicaRole::Voter => Self::Voter,
            ReplicaRole::Learner => Self::Learner,
            ReplicaRole::IncomingVoter => Self::IncomingVoter,
            ReplicaRole::DemotingVoter => Self::DemotingVoter,
        }
    }
}

impl From<wire::ReplicaRole> for ReplicaRole {
    fn from(role: wire::ReplicaRole) -> Self {
        match role {
            wire::ReplicaRole::Voter => Self::Voter,
            wire::ReplicaRole::Learner => Self::Learner,
            wire::ReplicaRole::IncomingVoter => Self::IncomingVoter,
            wire::ReplicaRole::DemotingVoter => Self::DemotingVoter,
        }
    }
}

impl From<&Replica> for wire::Replica {
    fn from(replica: &Replica) -> Self {
        Self {
            replica_id: replica.replica_id.get(),
            node_id: replica.node_id.get(),
            role: wire::ReplicaRole::from(replica.role).into(),
        }
    }
}

impl TryFrom<&wire::Replica> for Replica {
    type Error = Malformed;

    fn try_from(replica: &wire::Replica) -> Result<Self, Malformed> {
        let role = wire::ReplicaRole::try_from(replica.role)
            .map_err(|_| Malformed("unknown replica role"))?;
        Ok(Self {
            replica_id: ReplicaId(replica.replica_id),
            node_id: NodeId(replica.node_id),
            role: role.into(),
        })
    }
}

impl From<&RangeDescriptor> for wire::RangeDescriptor {
    fn from(range: &RangeDescriptor) -> Self {
        Self {
            range_id: range.range_id.get(),
            start: range.span.start.clone().into(),
            end: range.span.end.clone().into(),
            epoch: Some(range.epoch.into()),
            replicas: range.replicas.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<&wire::RangeDescriptor> for RangeDescriptor {
    type Error = Malformed;

    fn try_from(range: &wire::RangeDescriptor) -> Result<Self, Malformed> {
        Ok(Self {
            range_id: RangeId(range.range_id),
            span: Span::new(range.start.to_vec(), range.end.to_vec())
                .map_err(|_| Malformed("range bounds in the wrong order"))?,
            epoch: range.epoch.ok_or(Malformed("range without an epoch"))?.into(),
            replicas: range.replicas.iter().map(Replica::try_from).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_the_wire() {
        let range = RangeDescriptor {
            range_id: RangeId(7),
            span: Span { start: b"a".to_vec(), end: b"".to_vec() },
            epoch: Epoch { version: 3, conf_version: 9 },
            replicas: vec![Replica {
                replica_id: ReplicaId(11),
                node_id: NodeId(2),
                role: ReplicaRole::DemotingVoter,
            }],
        };
        let wire = wire::RangeDescriptor::from(&range);
        assert_eq!(RangeDescriptor::try_from(&wire), Ok(range));
        let broken = wire::RangeDescriptor { epoch: None, ..wire };
        assert!(RangeDescriptor::try_from(&broken).is_err());
    }
}
