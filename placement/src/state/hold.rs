//! Holds: versions that must be kept for those who read at them for long, stored under
//! `_/cluster/holds/<id>`. Each has an end, so that nobody's death keeps anything for ever.

use super::{State, settings};
use rangedb_types::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most holds at one time.
pub const HOLDS_MAX: usize = 1_000;
/// Longest time for which one may be held without being renewed.
pub const HOLD_TTL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of the words that say what a hold is for.
pub const HOLD_WORDS_MAX: usize = 200;

/// Everything at or above a version is kept until the oracle's time comes to `expires`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub hold_id: u64,
    pub version: Timestamp,
    pub expires: Timestamp,
    /// What it is for.
    pub what: String,
}

impl State {
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }

    #[must_use]
    pub fn hold(&self, hold_id: u64) -> Option<&Hold> {
        self.holds.get(&hold_id)
    }

    /// Below this version nothing need be kept at the oracle's time `now`.
    #[must_use]
    pub fn safe_point(&self, now: Timestamp) -> Timestamp {
        let held = self.holds.values().filter(|hold| hold.expires > now);
        let kept = self.kept_since(now);
        held.map(|hold| hold.version).min().map_or(kept, |held| held.min(kept))
    }

    /// The oldest version that a new hold may name: anything older may be gone already.
    #[must_use]
    pub fn oldest_to_hold(&self, now: Timestamp) -> Timestamp {
        self.kept_since(now).max(self.safe_point_floor)
    }

    fn kept_since(&self, now: Timestamp) -> Timestamp {
        before(now, self.kept())
    }

    /// How long versions are kept without a hold.
    pub(super) fn kept(&self) -> Duration {
        [settings::GC_RETENTION, settings::TRANSACTION_LIFETIME]
            .into_iter()
            .filter_map(|name| settings::parse_period(&self.setting_text(name)))
            .max()
            .unwrap_or_default()
    }
}

pub(super) fn before(now: Timestamp, time: Duration) -> Timestamp {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Timestamp::new(now.physical_ms().saturating_sub(millis), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, HOLDS, Rejection, Response};

    fn put_hold(state: &mut State, hold_id: u64, version: u64, now: u64, ttl: u64) -> Response {
        let at = |millis| Timestamp::new(millis, 0);
        let (version, expires) = (at(version), at(now + ttl));
        let hold = Hold { hold_id, version, expires, what: "a test".to_owned() };
        state.apply(&Command::PutHold { hold, now: at(now) }).0
    }

    fn configure(state: &mut State, name: &str, value: &str) {
        let (name, value) = (name.to_owned(), value.to_owned());
        let (response, _) = state.apply(&Command::SetConfig { name, value, expected_version: 0 });
        assert!(matches!(response, Response::Config(_)), "{response:?}");
    }

    #[test]
    fn what_is_held_is_kept_until_it_ends() {
        let at = |millis| Timestamp::new(millis, 0);
        let mut state = State::default();
        configure(&mut state, "gc_retention", "10s");
        configure(&mut state, "transaction_lifetime_max", "20s");
        assert_eq!(state.safe_point(at(100_000)), at(80_000), "the longer of the two");
        let Response::Hold(hold) = put_hold(&mut state, 0, 90_000, 100_000, 30_000) else {
            panic!()
        };
        assert_eq!(state.safe_point(at(105_000)), at(85_000), "it is not in the way yet");
        assert_eq!(state.safe_point(at(129_999)), at(90_000));
        assert_eq!(state.safe_point(at(130_000)), at(110_000), "it has ended");
        let renewed = put_hold(&mut state, hold.hold_id, 0, 129_000, 30_000);
        assert!(matches!(renewed, Response::Hold(hold) if hold.version == at(90_000)));
        assert_eq!(state.safe_point(at(150_000)), at(90_000));
        let late = put_hold(&mut state, hold.hold_id, 0, 160_000, 30_000);
        let unknown = Rejection::UnknownHold { hold_id: hold.hold_id };
        assert_eq!(late, Response::Rejected(unknown));
        assert!(put_hold(&mut state, 0, 150_000, 160_000, 1) != late);
        assert_eq!(state.holds().count(), 1, "what has ended is gone");
        state.apply(&Command::EndHold { hold_id: 7_777 });
        let stored: Vec<_> = state.meta_list(HOLDS, "").collect();
        let restored = State::restore(9, stored).unwrap();
        assert!(restored.holds().eq(state.holds()));
    }

    #[test]
    fn what_may_be_gone_cannot_be_held() {
        let at = |millis| Timestamp::new(millis, 0);
        let mut state = State::default();
        configure(&mut state, "gc_retention", "10s");
        configure(&mut state, "transaction_lifetime_max", "10s");
        state.apply(&Command::ExtendTimestamps { until: at(103_000) });
        let (version, oldest) = (at(89_999), at(90_000));
        let refused = Response::Rejected(Rejection::TooOldToHold { version, oldest });
        assert_eq!(put_hold(&mut state, 0, 89_999, 100_000, 1_000), refused);
        assert!(matches!(put_hold(&mut state, 0, 90_000, 100_000, 1_000), Response::Hold(_)));
        // More is kept from now on; what was not may be gone, up to the end of the oracle's window.
        configure(&mut state, "gc_retention", "1h");
        let (version, oldest) = (at(92_999), at(93_000));
        let refused = Response::Rejected(Rejection::TooOldToHold { version, oldest });
        assert_eq!(put_hold(&mut state, 0, 92_999, 101_000, 1_000), refused);
        assert!(matches!(put_hold(&mut state, 0, 93_000, 101_000, 1_000), Response::Hold(_)));
        configure(&mut state, "gc_retention", "10s");
        assert_eq!(state.oldest_to_hold(at(101_500)), at(93_000), "it never goes back");
        assert_eq!(state.oldest_to_hold(at(110_000)), at(100_000));
    }

    #[test]
    fn holds_are_bounded() {
        let mut state = State::default();
        for _ in 0..HOLDS_MAX {
            assert!(matches!(put_hold(&mut state, 0, 5_000_000, 5_000_000, 1), Response::Hold(_)));
        }
        let one_more = put_hold(&mut state, 0, 5_000_000, 5_000_000, 1);
        assert_eq!(one_more, Response::Rejected(Rejection::TooManyHolds));
        assert!(matches!(put_hold(&mut state, 0, 5_000_001, 5_000_001, 1), Response::Hold(_)));
        assert_eq!(state.holds().count(), 1);
    }
}
