//! What an operator of the cluster asked of ranges by hand, turned into steps.
//!
//! Owns: the next step of every wish, and what is told of wishes. Must not know: consensus, streams,
//! clocks: time is an argument. Invariants: a wish is judged from the stored wish and the view alone,
//! so that the next leader of placement goes on with it; one step a range and round, made for the
//! epoch in the view; what keeps a range available (joint configurations, merges that have begun,
//! lost replicas) goes before.

mod board;
mod merging;
mod moving;
mod next;
mod scatter;
mod survey;

pub use board::{Board, Ended};
pub use scatter::scatter;

#[cfg(test)]
mod tests;
