//! Actions of transactions, on and off the wire.

use super::decode::{invalid, key, span};
use crate::access::Refusal;
use crate::gc::Taken;
use crate::txn::{Action, Done};
use bytes::Bytes;
use rangedb_mvcc::record::LockRecord;
use rangedb_mvcc::txn::{KeyState, Status, StatusQuery, Transaction, Want};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_types::Timestamp;
use wire::node_action::{self, Kind, write};
use wire::transaction_state::{self, State};

/// # Errors
/// `Invalid`.
// tidy: long because it is one list: an arm for every kind.
pub(super) fn decode(action: wire::NodeAction) -> Result<Action, Refusal> {
    let kind = action.kind.ok_or_else(|| invalid("the action is none"))?;
    Ok(match kind {
        Kind::Prewrite(prewrite) => Action::Prewrite {
            transaction: transaction(prewrite.transaction)?,
            writes: writes(prewrite.writes)?,
            secondaries: prewrite
                .secondaries
                .map(|others| others.keys.iter().map(|key| key.to_vec()).collect()),
        },
        Kind::CommitAtOnce(commit) => Action::CommitAtOnce {
            transaction: transaction(commit.transaction)?,
            writes: writes(commit.writes)?,
        },
        Kind::Commit(commit) => Action::Commit {
            id: id(commit.id)?,
            commit_ts: id(commit.commit_version)?,
            keys: keys(commit.keys)?,
            open: commit.open,
        },
        Kind::Acquire(acquire) => Action::Acquire {
            transaction: transaction(acquire.transaction)?,
            writes: writes(acquire.writes)?,
        },
        Kind::FirmUp(own) => Action::FirmUp {
            transaction: transaction(own.transaction)?,
            span: span(&own.start, &own.end)?,
        },
        Kind::CommitSpan(own) => Action::CommitSpan {
            transaction: transaction(own.transaction)?,
            span: span(&own.start, &own.end)?,
        },
        Kind::Finish(finish) => Action::Finish {
            id: id(finish.id)?,
            commit_ts: id(finish.commit_version)?,
            primary: key(finish.primary)?,
        },
        Kind::RollBack(roll_back) => {
            Action::RollBack { id: id(roll_back.id)?, keys: keys(roll_back.keys)? }
        }
        Kind::Status(status) => Action::Status {
            query: StatusQuery {
                id: id(status.id)?,
                primary: key(status.primary)?.to_vec(),
                now: Timestamp::ZERO,
                push_above: (status.push_above != 0).then_some(Timestamp(status.push_above)),
                roll_back_absent: status.roll_back_absent,
            },
            out_of_interest: status.out_of_interest,
        },
        Kind::States(states) => Action::States {
            id: id(states.id)?,
            keys: keys(states.keys)?,
            roll_back_absent: states.roll_back_absent,
        },
        Kind::Resolve(resolve) => decode_resolve(resolve)?,
        Kind::Renew(renew) => Action::Renew {
            id: id(renew.id)?,
            primary: key(renew.primary)?,
            lifetime_ms: renew.lifetime_ms,
        },
        Kind::CheckReads(check) => Action::CheckReads {
            id: id(check.id)?,
            snapshot_ts: id(check.snapshot_version)?,
            commit_ts: id(check.commit_version)?,
            keys: check.keys,
            spans: check
                .spans
                .iter()
                .map(|part| span(&part.start, &part.end))
                .collect::<Result<_, _>>()?,
        },
    })
}

fn decode_resolve(resolve: node_action::Resolve) -> Result<Action, Refusal> {
    let id = id(resolve.id)?;
    let commit_ts = (resolve.commit_version != 0).then_some(Timestamp(resolve.commit_version));
    if resolve.keys.is_empty() {
        let span = span(&resolve.start, &resolve.end)?;
        return Ok(Action::Resolve { id, span, commit_ts });
    }
    Ok(Action::ResolveKeys { id, keys: keys(resolve.keys)?, commit_ts })
}

fn id(version: u64) -> Result<Timestamp, Refusal> {
    if version == 0 { Err(invalid("a timestamp is missing")) } else { Ok(Timestamp(version)) }
}

fn keys(keys: Vec<Bytes>) -> Result<Vec<Bytes>, Refusal> {
    if keys.is_empty() || keys.iter().any(Bytes::is_empty) {
        return Err(invalid("a key is missing"));
    }
    Ok(keys)
}

fn transaction(transaction: Option<node_action::Transaction>) -> Result<Transaction, Refusal> {
    let transaction = transaction.ok_or_else(|| invalid("the action names no transaction"))?;
    Ok(Transaction {
        id: id(transaction.id)?,
        snapshot_ts: Timestamp(transaction.snapshot_version),
        primary: key(transaction.primary)?.to_vec(),
        lifetime_ms: transaction.lifetime_ms,
        sequence: transaction.sequence,
    })
}

fn writes(writes: Vec<node_action::Write>) -> Result<Vec<(Bytes, Want)>, Refusal> {
    if writes.is_empty() {
        return Err(invalid("the action writes nothing"));
    }
    let mut wanted = Vec::with_capacity(writes.len());
    for write in writes {
        let want = match write.want.ok_or_else(|| invalid("a write wants nothing"))? {
            write::Want::Put(value) => Want::Put(value),
            write::Want::Delete(_) => Want::Delete,
            write::Want::Check(_) => Want::Check,
        };
        wanted.push((key(write.key)?, want));
    }
    Ok(wanted)
}

pub(super) fn done(done: Done) -> Answer {
    let mut result = wire::NodeActionResult::default();
    match done {
        Done::Prewritten(version) | Done::Committed(version) => result.version = version.0,
        Done::Status(status) => result.state = Some(of_status(status)),
        Done::States(states) => result.states = states.into_iter().map(of_state).collect(),
        Done::Firm { least, resume } => {
            result.version = least.0;
            result.resume = resume;
        }
        Done::Acquired { values, version } => {
            result.version = version.0;
            result.values = values.into_iter().map(super::convert::value).collect();
        }
        Done::Resolved(resume) | Done::Checked(resume) => result.resume = resume,
        Done::Nothing => {}
    }
    Answer::Action(result)
}

const fn state(state: State) -> wire::TransactionState {
    wire::TransactionState { state: Some(state) }
}

fn of_status(status: Status) -> wire::TransactionState {
    state(match status {
        Status::Committed(version) => State::Committed(version.0),
        Status::RolledBack => State::RolledBack(transaction_state::Nothing {}),
        Status::Alive(lock) => State::Intent(intent(Bytes::from(lock.primary.clone()), &lock)),
        Status::Absent => State::Absent(transaction_state::Nothing {}),
    })
}

/// Of a key that is not the primary only the kind of intent matters, and its least commit timestamp.
fn of_state(found: KeyState) -> wire::TransactionState {
    state(match found {
        KeyState::Firm { least } => {
            State::Intent(wire::Intent { least_commit_version: least.0, ..wire::Intent::default() })
        }
        KeyState::Tentative => {
            State::Intent(wire::Intent { tentative: true, ..wire::Intent::default() })
        }
        KeyState::Committed(version) => State::Committed(version.0),
        KeyState::RolledBack => State::RolledBack(transaction_state::Nothing {}),
        KeyState::Absent => State::Absent(transaction_state::Nothing {}),
    })
}

/// What gateways are to settle.
pub(super) fn abandoned(taken: Taken) -> wire::TakeAbandonedResponse {
    let intents = taken.intents.into_iter().map(|(key, lock)| intent(key, &lock));
    let primaries = taken.primaries.into_iter().map(|primary| wire::OpenPrimary {
        key: primary.key.into(),
        id: primary.id.0,
        commit_version: primary.version.0,
    });
    wire::TakeAbandonedResponse { intents: intents.collect(), primaries: primaries.collect() }
}

pub(super) fn intent(key: Bytes, lock: &LockRecord) -> wire::Intent {
    let secondaries = lock.secondaries.as_ref().map(|keys| node_action::Keys {
        keys: keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
    });
    wire::Intent {
        key,
        id: lock.start_ts.0,
        primary: Bytes::copy_from_slice(&lock.primary),
        least_commit_version: lock.min_commit_ts.0,
        expires_at: lock.expires_at().0,
        tentative: lock.tentative,
        secondaries,
    }
}
