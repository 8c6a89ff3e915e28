//! What became of a transaction, for good.

use super::fate::{Fate, Haste, Inquiry};
use super::steps::roll_back_key;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use bytes::Bytes;
use rangedb_types::Timestamp;
use tokio::time::Instant;

/// The version at which a transaction was committed; `None`: it was not, and never will be.
///
/// # Errors
/// Those of asking.
pub async fn fate_of(
    dispatcher: &Dispatcher,
    id: Timestamp,
    primary: &Bytes,
    deadline: Instant,
) -> Result<Option<Timestamp>, Failure> {
    let push_above = Timestamp::ZERO;
    let inquiry = Inquiry {
        dispatcher,
        id,
        primary,
        push_above,
        haste: Haste::Now,
        out_of_interest: true,
        deadline,
    };
    let unknown = |failure| match failure {
        Failure::OutcomeUnknown { .. } => {
            Failure::TransactionUnknown { id, primary: primary.clone() }
        }
        failure => failure,
    };
    match inquiry.fate().await.map_err(unknown)? {
        Fate::Committed(version) => Ok(Some(version)),
        Fate::RolledBack => Ok(None),
        Fate::Undecided { .. } => Err(Failure::KeyLocked { key: primary.clone(), id }),
    }
}

/// Makes sure that a transaction never commits.
///
/// # Errors
/// `Committed` if it did.
pub async fn end(
    dispatcher: &Dispatcher,
    id: Timestamp,
    primary: &Bytes,
    deadline: Instant,
) -> Result<(), Failure> {
    match fate_of(dispatcher, id, primary, deadline).await? {
        Some(version) => Err(Failure::Committed { version }),
        None => roll_back_key(dispatcher, id, primary, deadline).await,
    }
}
