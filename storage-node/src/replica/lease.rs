//! The leader's lease: until when it may answer reads without asking its followers. Pure.
//!
//! Source of the idea: Ongaro 2014, §6.4.1, with the guards that clocks and transfers need. A round
//! is a ReadIndex round with a context of its own. Followers that answered it refuse votes for one
//! election time-out from its receipt, hence from its sending; the lease ends at least a tick
//! earlier. It never outlives a transfer: from its beginning to the end of the term there is none.

use rangedb_types::MonotonicTime;
use std::time::Duration;

/// The lease of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    term: u64,
    until: MonotonicTime,
    /// When the newest round that was confirmed was sent.
    sent: MonotonicTime,
    /// The term in which a transfer was begun; no lease is taken in it again.
    suspended_term: u64,
}

impl Lease {
    /// A quorum confirmed, in `term`, a round that was sent at `sent`.
    pub fn confirm(&mut self, term: u64, sent: MonotonicTime, length: Duration) {
        if term == self.suspended_term {
            return;
        }
        let until = sent + length;
        if term != self.term {
            *self = Self { term, until, sent, ..*self };
        } else if until > self.until {
            self.until = until;
            self.sent = sent;
        }
    }

    /// A transfer begins in `term`.
    pub fn suspend(&mut self, term: u64) {
        self.suspended_term = term;
        self.revoke();
    }

    /// Leadership ended.
    pub fn revoke(&mut self) {
        self.until = MonotonicTime::default();
    }

    /// True if it holds and was confirmed by a round that was sent at `at` or later: then no change of bounds
    /// was under way by then.
    #[must_use]
    pub fn is_renewed_since(&self, term: u64, at: MonotonicTime, now: MonotonicTime) -> bool {
        self.holds(term, now) && self.sent >= at
    }

    #[must_use]
    pub fn holds(&self, term: u64, now: MonotonicTime) -> bool {
        self.term == term && term != self.suspended_term && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(800);

    fn at(ms: u64) -> MonotonicTime {
        MonotonicTime(Duration::from_millis(ms))
    }

    #[test]
    fn the_lease_counts_from_the_send_time() {
        let mut lease = Lease::default();
        lease.confirm(3, at(100), LENGTH);
        assert!(lease.holds(3, at(899)) && !lease.holds(3, at(900)));
        assert!(!lease.holds(2, at(200)) && !lease.holds(4, at(200)));
        lease.confirm(3, at(50), LENGTH);
        assert!(lease.holds(3, at(899)), "an older round does not shorten it");
        assert!(lease.is_renewed_since(3, at(100), at(899)));
        assert!(!lease.is_renewed_since(3, at(101), at(899)), "sent before");
        assert!(!lease.is_renewed_since(3, at(100), at(900)), "it has run out");
    }

    #[test]
    fn no_lease_after_a_transfer_began_until_the_term_ends() {
        let mut lease = Lease::default();
        lease.confirm(3, at(100), LENGTH);
        lease.suspend(3);
        assert!(!lease.holds(3, at(101)));
        lease.confirm(3, at(200), LENGTH);
        assert!(!lease.holds(3, at(201)), "an aborted transfer leaves only ReadIndex");
        lease.confirm(4, at(300), LENGTH);
        assert!(lease.holds(4, at(301)));
    }
}
