//! How refusals look on the wire.

use crate::consensus::{Consensus, LeadershipError, MembershipError, ProposeError};
use crate::state::Rejection;
use crate::tso::TimestampError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata of a refusal by a member that does not lead: the leader's address, or nothing.
pub(super) const LEADER_METADATA: &str = "rangedb-placement-leader";

/// The refusal of a member that does not lead, naming who does as far as it knows.
pub(super) fn not_leader(consensus: &Consensus) -> Status {
    let leadership = consensus.leadership().borrow().clone();
    // Its own address would send the caller back here, though it no longer serves.
    let address = leadership.leader_address.filter(|_| !leadership.is_leader);
    refusal(&address.unwrap_or_default())
}

fn refusal(address: &str) -> Status {
    let message = if address.is_empty() {
        "this placement member does not lead, and knows no leader".to_owned()
    } else {
        format!("this placement member does not lead; {address} does")
    };
    let mut status = Status::failed_precondition(message);
    let address = MetadataValue::try_from(address).unwrap_or(MetadataValue::from_static(""));
    status.metadata_mut().insert(LEADER_METADATA, address);
    status
}

pub(super) fn of_leadership(consensus: &Consensus, error: &LeadershipError) -> Status {
    match error {
        LeadershipError::Timeout => Status::unavailable("a quorum of placement cannot be reached"),
        LeadershipError::NotLeader { .. } | LeadershipError::Stopped => not_leader(consensus),
    }
}

pub(super) fn of_timestamps(consensus: &Consensus, error: &TimestampError) -> Status {
    match error {
        TimestampError::Timeout => Status::unavailable("a quorum of placement cannot be reached"),
        TimestampError::NotLeader { .. } | TimestampError::Stopped => not_leader(consensus),
    }
}

pub(super) fn of_propose(consensus: &Consensus, error: &ProposeError) -> Status {
    match error {
        ProposeError::NotLeader { .. } => not_leader(consensus),
        ProposeError::OutcomeUnknown | ProposeError::Stopped => {
            Status::unknown("placement did not confirm the change in time; it may have been made")
        }
    }
}

pub(super) fn of_membership(consensus: &Consensus, error: &MembershipError) -> Status {
    match error {
        MembershipError::Propose(error) => of_propose(consensus, error),
        MembershipError::Refused(why) => Status::failed_precondition(why.clone()),
    }
}

pub(super) fn of_rejection(rejection: &Rejection) -> Status {
    let code = match rejection {
        Rejection::UnknownNode { .. }
        | Rejection::StoreMismatch { .. }
        | Rejection::NodeRemoved { .. }
        | Rejection::NodeHoldsReplicas { .. }
        | Rejection::WishUnderWay { .. }
        | Rejection::ConfigVersion { .. } => Code::FailedPrecondition,
        Rejection::UnknownSetting { .. }
        | Rejection::UnknownRange { .. }
        | Rejection::UnknownHold { .. } => Code::NotFound,
        Rejection::TooManyWishes | Rejection::TooManyHolds => Code::ResourceExhausted,
        Rejection::TooManyIds
        | Rejection::TooOldToHold { .. }
        | Rejection::TooManyRanges
        | Rejection::InvalidSetting { .. }
        | Rejection::ReservedKey { .. }
        | Rejection::NotJson { .. }
        | Rejection::ValueTooLong { .. } => Code::InvalidArgument,
    };
    Status::new(code, rejection.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_always_carry_the_metadata() {
        for address in ["", "127.0.0.1:8281"] {
            let status = refusal(address);
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(status.metadata().get(LEADER_METADATA).unwrap(), address);
        }
    }

    #[test]
    fn a_rejection_is_not_mistaken_for_another_leader() {
        let status = of_rejection(&Rejection::UnknownNode { node_id: rangedb_types::NodeId(7) });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.metadata().get(LEADER_METADATA).is_none());
    }
}
