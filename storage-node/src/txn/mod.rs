//! Steps of transactions, on the leader's node: latch, look, stamp, propose, answer.
//!
//! Owns: the order of these steps. Must not know: the wire, Raft, what an action means (`rangedb_mvcc::txn`),
//! which actions make a transaction. The steps and their reasons are those of writes (see [`crate::write`]),
//! with these differences: one latch covers all keys of an action; what an action finds at its keys is a
//! fact for good or is checked by consensus, so no look is confirmed; an action that finds itself done
//! proposes nothing.

mod action;
mod actor;
#[cfg(feature = "fault-injection")]
pub mod alone;
mod waits;

pub use action::{Action, Done};
pub use actor::{Actor, Edges};
pub use waits::Waits;

#[cfg(test)]
mod tests;
