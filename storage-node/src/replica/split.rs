//! Which splits are allowed, and what they make of a range. Pure.

use super::command::SplitPlan;
use rangedb_types::{Epoch, RangeDescriptor, Replica, Span};

/// A split that was asked for and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("the range has changed since the split was decided")]
    EpochMismatch,
    #[error("the range's replicas are being changed; split it afterwards")]
    Joint,
    #[error("the split key is not strictly inside the range")]
    KeyOutside,
    #[error("{ids} new replica ids were given for {replicas} replicas")]
    Ids { ids: usize, replicas: usize },
}

/// Both parts of a range after a split. The left one keeps the id.
///
/// # Errors
/// The rule that the split breaks; it must do nothing then.
pub fn split(
    range: &RangeDescriptor,
    epoch: Epoch,
    plan: &SplitPlan,
) -> Result<(RangeDescriptor, RangeDescriptor), SplitError> {
    if epoch != range.epoch {
        return Err(SplitError::EpochMismatch);
    }
    if range.is_joint() {
        return Err(SplitError::Joint);
    }
    if !range.span.contains(&plan.key) || plan.key == range.span.start {
        return Err(SplitError::KeyOutside);
    }
    let (ids, replicas) = (plan.new_replica_ids.len(), range.replicas.len());
    if ids != replicas {
        return Err(SplitError::Ids { ids, replicas });
    }
    let epoch = Epoch { version: epoch.version + 1, ..epoch };
    let left = RangeDescriptor {
        span: Span { start: range.span.start.clone(), end: plan.key.clone() },
        epoch,
        ..range.clone()
    };
    let renamed = range.replicas.iter().zip(&plan.new_replica_ids);
    let right = RangeDescriptor {
        range_id: plan.new_range_id,
        span: Span { start: plan.key.clone(), end: range.span.end.clone() },
        epoch,
        replicas: renamed.map(|(old, id)| Replica { replica_id: *id, ..*old }).collect(),
    };
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{NodeId, RangeId, ReplicaId, ReplicaRole};

    fn range() -> RangeDescriptor {
        let replica = |id, role| Replica { replica_id: ReplicaId(id), node_id: NodeId(id), role };
        RangeDescriptor {
            range_id: RangeId(1),
            span: Span { start: b"b".to_vec(), end: b"x".to_vec() },
            epoch: Epoch { version: 4, conf_version: 9 },
            replicas: vec![replica(1, ReplicaRole::Voter), replica(2, ReplicaRole::Learner)],
        }
    }

    fn plan(key: &[u8]) -> SplitPlan {
        SplitPlan {
            key: key.to_vec(),
            new_range_id: RangeId(7),
            new_replica_ids: vec![ReplicaId(11), ReplicaId(12)],
            left_bytes: 0,
            right_bytes: 0,
        }
    }

    #[test]
    fn a_split_leaves_no_gap_and_no_overlap() {
        let old = range();
        let (left, right) = split(&old, old.epoch, &plan(b"m")).unwrap();
        assert_eq!((left.span.start, left.span.end.clone()), (b"b".to_vec(), b"m".to_vec()));
        assert_eq!((right.span.start, right.span.end), (left.span.end, b"x".to_vec()));
        assert_eq!((left.epoch, right.epoch.version), (Epoch { version: 5, conf_version: 9 }, 5));
        assert_eq!((left.range_id, right.range_id), (RangeId(1), RangeId(7)));
        let roles: Vec<_> = right.replicas.iter().map(|one| (one.replica_id.0, one.role)).collect();
        assert_eq!(roles, [(11, ReplicaRole::Voter), (12, ReplicaRole::Learner)]);
        assert_eq!(left.replicas, old.replicas);
    }

    #[test]
    fn a_split_outside_of_the_range_or_of_another_epoch_does_nothing() {
        let mut old = range();
        for key in [&b"a"[..], b"b", b"x", b"y", b""] {
            assert_eq!(split(&old, old.epoch, &plan(key)).err(), Some(SplitError::KeyOutside));
        }
        let late = Epoch { conf_version: 8, ..old.epoch };
        assert_eq!(split(&old, late, &plan(b"m")).err(), Some(SplitError::EpochMismatch));
        let few = SplitPlan { new_replica_ids: vec![ReplicaId(11)], ..plan(b"m") };
        let ids = SplitError::Ids { ids: 1, replicas: 2 };
        assert_eq!(split(&old, old.epoch, &few).err(), Some(ids));
        old.replicas[1].role = ReplicaRole::IncomingVoter;
        assert_eq!(split(&old, old.epoch, &plan(b"m")).err(), Some(SplitError::Joint));
    }
}
