//! What transactions do to keys: a snapshot and arguments in, mutations and an outcome out.
//!
//! Owns: the meaning of intents, of commits and of rollback marks (`docs/transactions.md`). Must not know:
//! who asks, latches, consensus. Invariants: every action may be repeated, and says then what the first
//! one came to; a transaction whose mark stands on a key never gets an intent or a version there; a key
//! has at most one intent.
//!
//! The caller holds a latch over all keys of an action from the snapshot on until its mutations are applied.

mod acquire;
mod history;
mod place;
mod reads;
mod settle;
mod status;

pub use acquire::{Hold, acquire};
pub use history::intent_of;
pub use place::{Plan, Want, firm_up, plan};
pub use reads::check_reads;
pub use settle::{
    Settled, commit, finish, intents_below, intents_of, resolve, resolve_keys, roll_back,
};
pub use status::{KeyState, Status, StatusQuery, renew, states, status};

use crate::MvccError;
use crate::record::LockRecord;
use rangedb_types::Timestamp;

/// What all intents of one call have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its start timestamp.
    pub id: Timestamp,
    /// Foreign versions above it are conflicts; zero: none are. Else not below `id`.
    pub snapshot_ts: Timestamp,
    /// The key that decides.
    pub primary: Vec<u8>,
    /// How long after `id`, in oracle time, it lives without being renewed.
    pub lifetime_ms: u64,
    /// Counts the calls of one transaction.
    pub sequence: u32,
}

/// Why an action was not done. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    #[error("another transaction, {}, has an intent on the key", .lock.start_ts)]
    KeyLocked { key: Vec<u8>, lock: Box<LockRecord> },
    /// Somebody wrote the key since the snapshot that the transaction reads.
    #[error("the key was written at {version}, after the transaction's snapshot")]
    WriteConflict { key: Vec<u8>, version: Timestamp },
    /// It was rolled back, and will never commit.
    #[error("the transaction was rolled back")]
    Aborted { key: Vec<u8> },
    /// It was committed before.
    #[error("the transaction was committed at {version}")]
    Committed { version: Timestamp },
    /// The intent there says that another key decides.
    #[error("the key is not the transaction's primary")]
    NotPrimary { key: Vec<u8> },
    /// An earlier call with the same number wanted something else, or the transaction is being committed.
    #[error(
        "the transaction's last call failed and may be done: repeat it as it was, or roll back"
    )]
    OutOfTurn { key: Vec<u8> },
    /// A reader was promised that it commits no earlier.
    #[error("the transaction cannot commit below {least}")]
    CommitTooEarly { least: Timestamp },
    #[error(transparent)]
    Mvcc(#[from] MvccError),
}

impl From<rangedb_engine::EngineError> for ActionError {
    fn from(error: rangedb_engine::EngineError) -> Self {
        Self::Mvcc(error.into())
    }
}

/// What an action returns.
pub type Result<T, E = ActionError> = std::result::Result<T, E>;
