//! Single steps, each at one key's range.

use crate::batch_get::unexpected;
use crate::dispatch::{Call, Dispatcher};
use crate::errors::Failure;
use crate::operation::{Action, Operation, Reach};
use bytes::Bytes;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::NodeActionResult;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::transaction_state::State;
use rangedb_types::Timestamp;
use tokio::time::Instant;
use wire::node_action::{self, Kind};

/// Does one action on keys that lie in one range.
pub(super) async fn act(
    dispatcher: &Dispatcher,
    action: Action,
    deadline: Instant,
) -> Result<NodeActionResult, Failure> {
    let call = Call::new(Instant::now(), deadline, true);
    match dispatcher.execute(&Operation::Action(action), call).await?.answer {
        Answer::Action(result) => Ok(result),
        _ => Err(unexpected()),
    }
}

pub(super) fn at(key: &Bytes, kind: Kind) -> Action {
    Action { first: key.clone(), reach: Reach::Key(key.clone()), kind }
}

/// What a primary says of its transaction.
pub(super) async fn status(
    dispatcher: &Dispatcher,
    primary: &Bytes,
    query: node_action::Status,
    deadline: Instant,
) -> Result<State, Failure> {
    let result = act(dispatcher, at(primary, Kind::Status(query)), deadline).await?;
    result.state.and_then(|state| state.state).ok_or_else(unexpected)
}

/// Commits a primary. Gives the version it is committed at, now or before. `open`: its other keys are not
/// settled yet, and [`finish`] must follow once they are.
pub(super) async fn commit_primary(
    dispatcher: &Dispatcher,
    id: Timestamp,
    key: &Bytes,
    version: Timestamp,
    open: bool,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    let (keys, commit_version) = (vec![key.clone()], version.0);
    let kind = Kind::Commit(node_action::Commit { id: id.0, commit_version, keys, open });
    match act(dispatcher, at(key, kind), deadline).await {
        Ok(_) => Ok(version),
        Err(Failure::Committed { version }) => Ok(version),
        Err(failure) => Err(failure),
    }
}

/// Rolls one key back, for good.
///
/// # Errors
/// `Committed` if that is too late.
pub(super) async fn roll_back_key(
    dispatcher: &Dispatcher,
    id: Timestamp,
    key: &Bytes,
    deadline: Instant,
) -> Result<(), Failure> {
    let kind = Kind::RollBack(node_action::RollBack { id: id.0, keys: vec![key.clone()] });
    act(dispatcher, at(key, kind), deadline).await.map(|_| ())
}

/// The step that settles some keys of a transaction whose primary is settled.
pub(super) fn resolve(id: Timestamp, keys: Vec<Bytes>, version: Option<Timestamp>) -> Kind {
    let commit_version = version.unwrap_or_default().0;
    Kind::Resolve(node_action::Resolve {
        id: id.0,
        commit_version,
        keys,
        ..node_action::Resolve::default()
    })
}

/// Settles one key of a transaction whose primary is settled.
pub(super) async fn resolve_key(
    dispatcher: &Dispatcher,
    id: Timestamp,
    key: &Bytes,
    version: Option<Timestamp>,
    deadline: Instant,
) -> Result<(), Failure> {
    let kind = resolve(id, vec![key.clone()], version);
    act(dispatcher, at(key, kind), deadline).await.map(|_| ())
}

/// All other keys of a committed transaction are settled.
pub(super) async fn finish(
    dispatcher: &Dispatcher,
    id: Timestamp,
    primary: &Bytes,
    version: Timestamp,
    deadline: Instant,
) -> Result<(), Failure> {
    let commit_version = version.0;
    let kind =
        Kind::Finish(node_action::Finish { id: id.0, commit_version, primary: primary.clone() });
    act(dispatcher, at(primary, kind), deadline).await.map(|_| ())
}
