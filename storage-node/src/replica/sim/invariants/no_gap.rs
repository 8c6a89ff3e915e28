//! The ranges that have state somewhere cover the key space; at rest, the newest ones exactly.

use rangedb_types::{RangeDescriptor, Span};

/// Looks at all ranges that have state on any node.
pub fn check(ranges: &[RangeDescriptor]) -> Result<(), String> {
    let mut spans: Vec<&Span> = ranges.iter().map(|range| &range.span).collect();
    spans.sort_by(|a, b| a.start.cmp(&b.start));
    let mut covered = Vec::new();
    for span in spans {
        if span.start > covered {
            break;
        }
        if span.end.is_empty() {
            return Ok(());
        }
        covered = covered.max(span.end.clone());
    }
    Err(format!("nothing holds the keys from {:?} on", String::from_utf8_lossy(&covered)))
}

/// Looks at what every node says when the cluster is at rest: each range once, in key order.
pub fn check_exact(ranges: &[RangeDescriptor]) -> Result<(), String> {
    let mut next = Vec::new();
    for (at, range) in ranges.iter().enumerate() {
        if range.span.start != next || (range.span.end.is_empty() && at + 1 < ranges.len()) {
            return Err(format!("the ranges do not follow one another: {ranges:?}"));
        }
        next.clone_from(&range.span.end);
    }
    if next.is_empty() && !ranges.is_empty() {
        return Ok(());
    }
    Err(format!("the ranges do not reach the end: {ranges:?}"))
}
