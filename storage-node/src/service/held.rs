//! Requests that came in the moment between two leaders, or while a range's bounds change: they wait here
//! a little rather than at the gateway, which would have to guess for how long, and where to ask.

use super::decode::Decoded;
use crate::access::Refusal;
use std::time::Duration;
use tokio::time::Instant;

/// When a held request looks again; after the last it is refused. Elections after a split take a few
/// writes to disk.
pub(super) const LOOKS: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(12),
    Duration::from_millis(20),
    Duration::from_millis(30),
];

/// A request that waits. There are no more of them than a stream may have under way.
pub(super) struct Held {
    pub(super) tag: u64,
    pub(super) decoded: Decoded,
    pub(super) deadline: Instant,
}

/// Looks while the right part of a range that was just split may still be made. It may as well have
/// been moved away long ago.
pub(super) const LOOKS_FOR_PART: usize = 4;

/// True if waiting here is better than asking elsewhere, after so many looks: this replica is about to
/// lead, or nobody is known who does.
pub(super) const fn passes_soon(refusal: &Refusal, looks: usize) -> bool {
    match refusal {
        Refusal::NotReady(_) | Refusal::NotLeader { leader: None, .. } => looks < LOOKS.len(),
        Refusal::EpochMismatch { ranges } => ranges.is_empty() && looks < LOOKS_FOR_PART,
        _ => false,
    }
}
