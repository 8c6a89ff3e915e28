//! One replica of one range: raft-rs behind a pure core.
//!
//! Owns: the Raft state machine of a replica, its lease, its waiting reads and proposals, its
//! membership changes, and how entries are applied. Must not know: tonic, threads, clocks (time is
//! an argument), the disk (changes to the log and the data are returned as effects).
//!
//! Invariants, each of which the hosts above rely on:
//! * nothing steps the Raft core between `ready` and `persisted`;
//! * a Ready that changes term or vote is synced before any of its messages leaves;
//! * a ReadIndex context is never used twice;
//! * the lease counts from the *send* time of a round that a quorum confirmed;
//! * a proposal is answered at most once, and `Ok` only after it was applied here.

pub mod apply;
pub mod command;
pub mod compaction;
pub mod core;
pub mod input;
pub mod lease;
pub mod log_storage;
pub mod membership;
pub mod merge;
pub mod options;
pub mod proposals;
pub mod reads;
pub mod ready;
#[cfg(test)]
mod sim;
pub mod sleep;
pub mod split;
mod transfer;
mod upkeep;

pub use self::core::Replica;
pub use self::input::Input;
pub use self::options::ReplicaOptions;
pub use self::ready::{Effects, Persisted};
pub use self::sleep::{Nap, Sleep};

/// Bootstrapped ranges start with a log that is truncated here, so that a replica that joins later
/// always begins with a snapshot, which gives it its configuration.
pub const INITIAL_POSITION: crate::raft_log::LogPosition =
    crate::raft_log::LogPosition { index: 10, term: 1 };
