//! Up to which timestamp a replica may answer reads without its leader: see
//! `docs/closed-timestamps.md`.

use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::collections::VecDeque;

/// ClosedClaims that are kept until what they need is applied. One comes each second.
const CLAIMS_MAX: usize = 8;

/// Every write at or below `version` is in the log at or below `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedClaim {
    pub version: Timestamp,
    pub index: u64,
}

/// The claims that one replica has heard of, in the order of their versions.
#[derive(Default)]
pub struct ClosedClaims {
    heard: Mutex<VecDeque<ClosedClaim>>,
}

impl ClosedClaims {
    /// Takes in a claim. `applied` is what the replica has applied: what that has made obsolete goes.
    pub fn hear(&self, claim: ClosedClaim, applied: u64) {
        let mut heard = self.heard.lock();
        if heard.back().is_some_and(|last| last.version >= claim.version) {
            return;
        }
        if heard.back().is_some_and(|last| last.index >= claim.index) {
            heard.pop_back();
        }
        heard.push_back(claim);
        while heard.len() > 1 && heard[1].index <= applied {
            heard.pop_front();
        }
        // The first may be in use, and the last is what it gets to.
        if heard.len() > CLAIMS_MAX {
            heard.remove(1);
        }
    }

    /// The greatest version that is closed for a state in which so much is applied; zero: none is known.
    #[must_use]
    pub fn at(&self, applied: u64) -> Timestamp {
        let heard = self.heard.lock();
        let closed = heard.iter().rev().find(|claim| claim.index <= applied);
        closed.map_or(Timestamp::ZERO, |claim| claim.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(list: &[(u64, u64)], applied: u64) -> ClosedClaims {
        let claims = ClosedClaims::default();
        for (version, index) in list {
            claims.hear(ClosedClaim { version: Timestamp(*version), index: *index }, applied);
        }
        claims
    }

    #[test]
    fn a_version_is_closed_once_what_it_needs_is_applied() {
        let claims = claims(&[(10, 5), (20, 5), (30, 9)], 4);
        assert_eq!(claims.at(4), Timestamp::ZERO);
        assert_eq!(claims.at(5), Timestamp(20));
        assert_eq!(claims.at(8), Timestamp(20));
        assert_eq!(claims.at(9), Timestamp(30));
    }

    #[test]
    fn an_older_claim_takes_nothing_back() {
        let claims = claims(&[(10, 5), (9, 1), (10, 7)], 5);
        assert_eq!(claims.at(5), Timestamp(10));
        assert_eq!(claims.at(4), Timestamp::ZERO);
    }

    #[test]
    fn a_replica_that_lags_keeps_the_first_and_the_last() {
        let list: Vec<_> = (1..=40).map(|number| (number * 10, number)).collect();
        let claims = claims(&list, 1);
        assert_eq!(claims.heard.lock().len(), CLAIMS_MAX);
        assert_eq!((claims.at(1), claims.at(40)), (Timestamp(10), Timestamp(400)));
        let claims = self::claims(&list, 39);
        assert_eq!(claims.heard.lock().len(), 2, "what is obsolete is gone");
    }
}
