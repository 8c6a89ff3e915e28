//! The epoch of a range: which bounds and which replicas a message was made for.

use serde::{Deserialize, Serialize};
use std::fmt;

/// `version` grows whenever the bounds change (split, merge); `conf_version` whenever the set of
/// replicas or a role changes. A request whose epoch differs from the replica's is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    pub version: u64,
    pub conf_version: u64,
}

impl Epoch {
    /// True when neither part is behind `other`'s.
    #[must_use]
    pub const fn at_least(self, other: Self) -> bool {
        self.version >= other.version && self.conf_version >= other.conf_version
    }

    /// True when this epoch is a later state of the range than `other`. Both parts only grow, so
    /// two epochs of one range are always comparable.
    #[must_use]
    pub const fn newer_than(self, other: Self) -> bool {
        self.at_least(other)
            && (self.version > other.version || self.conf_version > other.conf_version)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.conf_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_needs_both_parts() {
        let old = Epoch { version: 1, conf_version: 1 };
        let new = Epoch { version: 1, conf_version: 2 };
        assert!(new.newer_than(old) && !old.newer_than(new) && !old.newer_than(old));
        assert!(old.at_least(old) && !old.at_least(new));
    }
}
