//! What a client knows of its transactions. Owns: the form of a history. Must not know: what is
//! right or wrong in one.

use std::collections::BTreeMap;
use std::fmt;

/// A key, by its place in the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", self.0)
    }
}

/// One step of a transaction. A key is either a list or a register, always. No value is ever
/// written to a key twice, not even by a transaction that is run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Adds to the end of a list.
    Append {
        key: Key,
        element: u64,
    },
    ReadList {
        key: Key,
        found: Vec<u64>,
    },
    /// Writes a register.
    Write {
        key: Key,
        value: u64,
    },
    Read {
        key: Key,
        found: Option<u64>,
    },
    /// Reads all registers from `start` (inclusive) to `end` (exclusive).
    ReadSpan {
        start: Key,
        end: Key,
        found: BTreeMap<Key, u64>,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { key, element } => write!(f, "append {element} to {key}"),
            Self::ReadList { key, found } => write!(f, "read {key}: {found:?}"),
            Self::Write { key, value } => write!(f, "write {value} to {key}"),
            Self::Read { key, found: Some(value) } => write!(f, "read {key}: {value}"),
            Self::Read { key, found: None } => write!(f, "read {key}: nothing"),
            Self::ReadSpan { start, end, found } => {
                let found: Vec<String> =
                    found.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                write!(f, "read {start} to {end}: [{}]", found.join(", "))
            }
        }
    }
}

/// How a transaction ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this version. What read only has its snapshot's, or zero.
    Committed(u64),
    Aborted,
    /// It counts as committed if somebody saw a write of it.
    Unknown,
}

/// A transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The client. It runs one transaction at a time.
    pub process: u32,
    /// When it was called for, by a clock that all clients share.
    pub begun: u64,
    /// When its end was known, by the same clock; after `begun`.
    pub ended: u64,
    pub outcome: Outcome,
    /// In their order; of a read that failed there is none.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// Its commit version, if it is known to have one.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Committed(version) => Some(version),
            Outcome::Aborted | Outcome::Unknown => None,
        }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}, {} to {}, ", self.process, self.begun, self.ended)?;
        match self.outcome {
            Outcome::Committed(version) => write!(f, "committed at {version}")?,
            Outcome::Aborted => write!(f, "aborted")?,
            Outcome::Unknown => write!(f, "outcome unknown")?,
        }
        let ops: Vec<String> = self.ops.iter().map(ToString::to_string).collect();
        write!(f, ": {}", ops.join("; "))
    }
}
