//! Which merges are allowed, and what they make of two ranges. Pure. See docs/ranges.md.

use rangedb_types::{Epoch, NodeId, RangeDescriptor, ReplicaRole, Span};
use std::collections::BTreeSet;

/// A merge that was asked for and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("the left range has changed since the merge was decided")]
    EpochMismatch,
    #[error("replicas are being changed; merge the ranges afterwards")]
    Joint,
    #[error("the ranges are not neighbours")]
    NotNeighbours,
    #[error("the ranges do not have the same replicas on the same nodes")]
    OtherNodes,
}

/// The left range once it has taken in the right one.
///
/// # Errors
/// The rule that the merge breaks; it must do nothing then.
pub fn merge(
    left: &RangeDescriptor,
    epoch: Epoch,
    right: &RangeDescriptor,
) -> Result<RangeDescriptor, MergeError> {
    if left.epoch != epoch {
        return Err(MergeError::EpochMismatch);
    }
    if left.is_joint() || right.is_joint() {
        return Err(MergeError::Joint);
    }
    if left.span.end.is_empty() || left.span.end != right.span.start {
        return Err(MergeError::NotNeighbours);
    }
    if places(left) != places(right) {
        return Err(MergeError::OtherNodes);
    }
    let version = left.epoch.version.max(right.epoch.version) + 1;
    Ok(RangeDescriptor {
        span: Span { start: left.span.start.clone(), end: right.span.end.clone() },
        epoch: Epoch { version, ..left.epoch },
        ..left.clone()
    })
}

fn places(range: &RangeDescriptor) -> BTreeSet<(NodeId, bool)> {
    let place =
        |replica: &rangedb_types::Replica| (replica.node_id, replica.role == ReplicaRole::Learner);
    range.replicas.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{RangeId, Replica, ReplicaId};

    fn range(id: u64, start: &str, end: &str, version: u64) -> RangeDescriptor {
        let replica = |node| Replica {
            replica_id: ReplicaId(id * 10 + node),
            node_id: NodeId(node),
            role: ReplicaRole::Voter,
        };
        RangeDescriptor {
            range_id: RangeId(id),
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch { version, conf_version: id },
            replicas: vec![replica(1), replica(2)],
        }
    }

    #[test]
    fn the_left_range_takes_in_the_right_one() {
        let (left, right) = (range(1, "b", "m", 4), range(2, "m", "", 7));
        let merged = merge(&left, left.epoch, &right).unwrap();
        assert_eq!(merged.span, Span { start: b"b".to_vec(), end: Vec::new() });
        assert_eq!(merged.epoch, Epoch { version: 8, conf_version: 1 });
        assert_eq!((merged.range_id, merged.replicas), (left.range_id, left.replicas));
    }

    #[test]
    fn other_ranges_are_left_alone() {
        let (left, right) = (range(1, "b", "m", 4), range(2, "m", "x", 7));
        let late = Epoch { version: 3, ..left.epoch };
        assert_eq!(merge(&left, late, &right), Err(MergeError::EpochMismatch));
        assert_eq!(merge(&right, right.epoch, &left), Err(MergeError::NotNeighbours));
        let last = range(3, "x", "", 1);
        assert_eq!(merge(&last, last.epoch, &range(1, "", "b", 1)), Err(MergeError::NotNeighbours));
        let mut elsewhere = right.clone();
        elsewhere.replicas[1].node_id = NodeId(3);
        assert_eq!(merge(&left, left.epoch, &elsewhere), Err(MergeError::OtherNodes));
        let mut learner = right.clone();
        learner.replicas[1].role = ReplicaRole::Learner;
        assert_eq!(merge(&left, left.epoch, &learner), Err(MergeError::OtherNodes));
        let mut joint = right;
        joint.replicas[1].role = ReplicaRole::IncomingVoter;
        assert_eq!(merge(&left, left.epoch, &joint), Err(MergeError::Joint));
    }
}
