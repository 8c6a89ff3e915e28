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

use crate::access::{RangeAccess, Ranges};
use rangedb_types::Span;
use std::sync::Arc;

/// This node's replica of the first range.
fn first_range(ranges: &dyn Ranges) -> Option<Arc<dyn RangeAccess>> {
    let first = ranges.overlapping(&Span { start: Vec::new(), end: vec![0] });
    first.first().and_then(|first| ranges.range(first.range_id))
}
