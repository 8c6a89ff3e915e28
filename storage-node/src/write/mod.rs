//! Writes, on the leader's node: latch, look, stamp, propose, answer.
//!
//! Owns: the order of these steps, the timestamps of a range's writes, request ids and fences. Must
//! not know: the wire, Raft. A plain first attempt reads nothing from the engine; all of those that
//! came in one message share one timestamp.
//!
//! The steps of a write, and why they stand in this order:
//!
//! 1. The target: epoch, bounds and leadership are checked when the request comes. The proposal
//!    names that leadership, and the store refuses it under any other, so everything between is
//!    done in one term.
//! 2. The latch: writes of overlapping keys go one after the other, until each is settled. First
//!    attempts of unconditional puts and deletes share it: they ask nothing of each other, and each
//!    has a timestamp of its own, so it is all the same in which order the log has them. Whatever
//!    looks at what is there (a retry, a condition, a transaction, a question for a write's fate)
//!    has it alone, and so finds all of those settled.
//! 3. The look: a retry is looked up by its request id, fences are checked, then the condition.
//!    Under the latch nothing of this changes any more. A condition that fails is an answer about
//!    the present state, so that look is confirmed like a read; the others are either facts for
//!    good (found, fenced) or are checked by consensus.
//! 4. The timestamp, fetched after the latch was had, so that it lies above every version of the
//!    key, and after the look, so that a fence that was dropped as too old had let nothing through:
//!    the attempt it was meant for is refused by its age.
//! 5. The stamp: above every read served so far, and in flight from then on (see [`stamps`]).
//! 6. The proposal. The latch and the stamp live with it, not with the request: if the caller goes
//!    away, or its deadline passes (the answer is then that the outcome is unknown), they are held
//!    until the proposal is settled at this leader.

mod batch;
pub(crate) mod command;
pub mod metrics;
pub mod stamps;
mod writer;

pub use batch::{Batch, Work, WorkResult};
pub use stamps::{InFlight, ReadStart, StampError, Stamps};
pub use writer::{Change, Identity, StatusQuery, Write, Writer};
pub(crate) use writer::{Proposal, Settling, refusal_of, refusal_of_latch};

#[cfg(test)]
mod tests;
