//! Why a read or a codec refused.

use crate::record::LockRecord;
use rangedb_engine::{EngineError, Family};

/// An error of the versioned store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MvccError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An undecided transaction's intent stands in the way; ask its primary.
    #[error("the key is locked by the transaction {}", .lock.start_ts)]
    KeyLocked { key: Vec<u8>, lock: Box<LockRecord> },
    /// Stored bytes that no version of this program writes.
    #[error("a record of {family} is damaged: {detail}; rebuild this replica")]
    Damaged { family: Family, detail: &'static str },
    /// Stored bytes of a version of this program that came later.
    #[error("a record of {family} has format {found}, which is newer than this version reads")]
    NewerFormat { family: Family, found: u8 },
    #[error("the value is encrypted with key {key_id}, which this version cannot use")]
    Encrypted { key_id: u32 },
}

impl MvccError {
    /// True if stored bytes are wrong: the replica must be rebuilt, and serve nothing until then.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_corruption(),
            Self::Damaged { .. } => true,
            Self::KeyLocked { .. } | Self::NewerFormat { .. } | Self::Encrypted { .. } => false,
        }
    }
}
