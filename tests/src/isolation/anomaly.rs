//! Names of anomalies, and which level forbids which. Owns: the table. Must not know: how one is
//! found.

use std::fmt;

/// What a level promises, weakest first: each promises what the ones before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    ReadCommitted,
    Snapshot,
    Serializable,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// Writes of two transactions lie in different orders on different keys.
    G0,
    /// What an aborted transaction wrote was read.
    G1a,
    /// What a transaction wrote, and then wrote over by itself, was read by another.
    G1b,
    /// Two transactions each depend on what the other one wrote.
    G1c,
    /// A committed write was made from what an aborted transaction wrote.
    DirtyUpdate,
    /// An element stands twice in a list.
    Duplicate,
    /// Two lists have the same element after different beginnings.
    IncompatibleOrder,
    /// A value was read that nobody wrote.
    Unwritten,
    /// A transaction does not see what it wrote itself.
    Internal,
    /// A read misses what was acknowledged, or read by somebody, before its transaction began.
    StaleRead,
    /// A transaction sees two states of a key, or of a span.
    NonRepeatableRead,
    /// Two transactions wrote a key, both from the same earlier state of it.
    LostUpdate,
    /// A cycle with one anti-dependency: half of what another transaction wrote was seen.
    GSingle,
    /// A cycle with several anti-dependencies, no two of which follow each other.
    GNonadjacent,
    /// A cycle with anti-dependencies that follow each other, on keys that were there.
    G2Item,
    /// The same with a key that a span read would have had to see: a phantom.
    G2,
}

/// What besides dependencies it takes to see an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Nothing.
    Plain,
    /// The order of each client's transactions.
    Session,
    /// That one transaction had ended before another began.
    RealTime,
}

impl Anomaly {
    /// The weakest level that forbids it. Snapshots are taken at Begin, and all versions come from
    /// one oracle: so each level forbids an anomaly also when only time shows it.
    #[must_use]
    pub const fn forbidden_from(self) -> Level {
        match self {
            Self::G0
            | Self::G1a
            | Self::G1b
            | Self::G1c
            | Self::DirtyUpdate
            | Self::Duplicate
            | Self::IncompatibleOrder
            | Self::Unwritten
            | Self::Internal
            | Self::StaleRead => Level::ReadCommitted,
            Self::NonRepeatableRead | Self::LostUpdate | Self::GSingle | Self::GNonadjacent => {
                Level::Snapshot
            }
            Self::G2Item | Self::G2 => Level::Serializable,
        }
    }

    /// True if a history at this level must not have it.
    #[must_use]
    pub fn is_forbidden_at(self, level: Level) -> bool {
        self.forbidden_from() <= level
    }

    const fn name(self) -> &'static str {
        match self {
            Self::G0 => "G0 (dirty write)",
            Self::G1a => "G1a (aborted read)",
            Self::G1b => "G1b (intermediate read)",
            Self::G1c => "G1c (circular information flow)",
            Self::DirtyUpdate => "dirty update",
            Self::Duplicate => "duplicate element",
            Self::IncompatibleOrder => "incompatible order",
            Self::Unwritten => "unwritten value",
            Self::Internal => "internal inconsistency",
            Self::StaleRead => "stale read",
            Self::NonRepeatableRead => "non-repeatable read",
            Self::LostUpdate => "lost update",
            Self::GSingle => "G-single (read skew)",
            Self::GNonadjacent => "G-nonadjacent",
            Self::G2Item => "G2-item (write skew)",
            Self::G2 => "G2 (phantom)",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "",
            Self::Session => " against the order of a client",
            Self::RealTime => " against real time",
        })
    }
}
