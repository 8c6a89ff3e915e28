//! The keys of snapshots that have arrived and are not installed yet.
//!
//! A replica that waits for its first snapshot has no bounds anybody could see. Without a claim two
//! snapshots with the same keys, of a range and of one that was split off it since, could each find
//! those keys free and be installed one over the other.

use parking_lot::Mutex;
use rangedb_types::{RangeId, Span};
use std::sync::Arc;

/// All claims of a node: at most one a replica.
#[derive(Default)]
pub struct Claims {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    spans: Vec<(u64, RangeId, Span)>,
}

/// Keys that are kept free for a range, until it is dropped.
pub struct Claim {
    id: u64,
    claims: Arc<Claims>,
}

impl Claims {
    /// Claims keys that `is_free` finds free; nobody else claims any meanwhile.
    ///
    /// # Errors
    /// What `is_free` says, or which range has claimed some of the keys.
    pub fn claim(
        self: &Arc<Self>,
        range_id: RangeId,
        span: &Span,
        is_free: impl FnOnce() -> Result<(), String>,
    ) -> Result<Claim, String> {
        let mut held = self.held.lock();
        held.check(range_id, span)?;
        is_free()?;
        held.next += 1;
        let id = held.next;
        held.spans.push((id, range_id, span.clone()));
        Ok(Claim { id, claims: Arc::clone(self) })
    }

    /// Refuses keys that another range has claimed.
    ///
    /// # Errors
    /// Which range that is.
    pub fn check(&self, range_id: RangeId, span: &Span) -> Result<(), String> {
        self.held.lock().check(range_id, span)
    }
}

impl Held {
    fn check(&self, range_id: RangeId, span: &Span) -> Result<(), String> {
        let mut others = self.spans.iter().filter(|(_, other, _)| *other != range_id);
        match others.find(|(_, _, claimed)| claimed.overlaps(span)) {
            Some((_, other, _)) => {
                Err(format!("its keys overlap those of a snapshot of range {other}"))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.held.lock().spans.retain(|(id, _, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: &[u8], end: &[u8]) -> Span {
        Span::new(start.to_vec(), end.to_vec()).expect("in order")
    }

    #[test]
    fn keys_are_claimed_once_and_free_again_when_the_claim_is_dropped() {
        let claims = Arc::new(Claims::default());
        let one = claims.claim(RangeId(1), &span(b"a", b"m"), || Ok(())).ok();
        assert!(one.is_some());
        assert!(claims.claim(RangeId(2), &span(b"c", b"d"), || Ok(())).is_err());
        assert!(claims.check(RangeId(2), &span(b"m", b"z")).is_ok());
        // The same range may come again: which of the two is wanted is decided later.
        let again = claims.claim(RangeId(1), &span(b"a", b"c"), || Ok(())).ok();
        drop(one);
        assert!(claims.check(RangeId(2), &span(b"c", b"d")).is_ok());
        assert!(claims.check(RangeId(2), &span(b"b", b"d")).is_err());
        drop(again);
        assert!(claims.check(RangeId(2), &span(b"a", b"z")).is_ok());
    }

    #[test]
    fn what_is_not_free_is_not_claimed() {
        let claims = Arc::new(Claims::default());
        let refused = claims.claim(RangeId(1), &span(b"a", b"m"), || Err("taken".to_owned()));
        assert_eq!(refused.err(), Some("taken".to_owned()));
        assert!(claims.check(RangeId(2), &span(b"a", b"m")).is_ok());
    }
}
