//! Identifiers. Each is a newtype so that two of them can never be confused.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number, for the wire and the disk.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl From<u64> for $name {
            fn from(id: u64) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A range, and the Raft group that serves it. Never used twice in a cluster; 0 is "none".
    RangeId
);
id!(
    /// A storage node. Given by placement at first registration; 0 is "none".
    NodeId
);
id!(
    /// One incarnation of a range on one node. Unique in the cluster and never used twice: a
    /// replica that lost its state comes back under a new id. It is also the Raft peer id.
    ReplicaId
);
id!(
    /// A member of the placement quorum, chosen by the operator (`--id`).
    PlacementId
);

/// The cluster a process belongs to: 128 random bits, written as 32 hexadecimal digits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u128);

/// Identifies one logical write over all its retries: 128 random bits; 0 is "none".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(pub u128);

/// Text or bytes that are not a 128-bit identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 bytes or 32 hexadecimal digits")]
pub struct InvalidId;

macro_rules! wide_id {
    ($name:ident) => {
        impl $name {
            /// True for the absent identifier.
            #[must_use]
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }

            /// Sixteen bytes, big-endian.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// Reads sixteen bytes; no bytes at all is the absent identifier.
            ///
            /// # Errors
            /// `InvalidId` for any other length.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
                if bytes.is_empty() {
                    return Ok(Self(0));
                }
                bytes
                    .try_into()
                    .map(|bytes| Self(u128::from_be_bytes(bytes)))
                    .map_err(|_| InvalidId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if text.len() != 32 {
                    return Err(InvalidId);
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidId)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

wide_id!(ClusterId);
wide_id!(RequestId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_ids_survive_text_and_bytes() {
        let id = ClusterId(0x00ff_1234);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ClusterId::from_bytes(&id.to_bytes()), Ok(id));
        assert_eq!(RequestId::from_bytes(&[]), Ok(RequestId(0)));
        assert_eq!(RequestId::from_bytes(&[1, 2]), Err(InvalidId));
        assert_eq!("xyz".parse::<RequestId>(), Err(InvalidId));
    }
}
