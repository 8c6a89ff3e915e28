//! Closes timestamps of the ranges this node leads, and hears of those that others lead: see
//! `docs/closed-timestamps.md`.
//!
//! Owns: the rounds, what is claimed in them, and the way to the other nodes. Must not know: who reads.

mod closer;
mod hear;
pub mod metrics;
mod peers;

pub use closer::Closer;
pub use hear::hear;
