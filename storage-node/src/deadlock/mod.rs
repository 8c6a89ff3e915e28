//! Deadlocks among pessimistic transactions.
//!
//! Owns: the graph of who waits for whom (on the node that leads the first range), and what this node tells
//! of it. Must not know: intents, latches.

mod detector;
mod graph;
mod reporter;

pub use detector::Detector;
pub use graph::{Deadlock, EDGES_MAX, Graph};
pub use reporter::{Reporter, Way};
