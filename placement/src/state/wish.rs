//! What an operator of the cluster asked of a range by hand, as it is stored under
//! `_/operators/<range id>`.

use super::records::{bytes_of, text_or_base64};
use rangedb_types::{NodeId, RangeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most wishes at one time.
pub const WISHES_MAX: usize = 10_000;
/// Most wishes that one command may add.
pub const WISHES_PER_CALL_MAX: usize = 1_000;

/// A change of one range that is to be carried out step by step, whoever leads placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub range_id: RangeId,
    pub goal: Goal,
}

/// What a range is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Cut in two. `version` is the range's when this was asked for: a larger one shows that it was
    /// done.
    Split { at: WishedKey, version: u64 },
    /// One with its right neighbour. The left range's `version` as above.
    Merge { right: RangeId, version: u64 },
    /// A replica on one node in the place of the one on another.
    Move { from: NodeId, to: NodeId },
    /// Led from this node.
    TransferLeader { to: NodeId },
}

/// Where a range is to be cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WishedKey {
    Key(StoredKey),
    Size,
    Load,
}

/// A key that is written as text where it is UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "KeyRecord", into = "KeyRecord")]
pub struct StoredKey(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

impl From<StoredKey> for KeyRecord {
    fn from(key: StoredKey) -> Self {
        let (key, key_base64) = text_or_base64(&key.0);
        Self { key, key_base64 }
    }
}

impl TryFrom<KeyRecord> for StoredKey {
    type Error = String;

    fn try_from(record: KeyRecord) -> Result<Self, String> {
        bytes_of(record.key, record.key_base64).map(Self)
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range_id = self.range_id;
        match &self.goal {
            Goal::Split { at: WishedKey::Key(key), .. } => {
                write!(f, "split range {range_id} at {}", key.0.escape_ascii())
            }
            Goal::Split { at: WishedKey::Size, .. } => {
                write!(f, "split range {range_id} into halves of equal size")
            }
            Goal::Split { at: WishedKey::Load, .. } => {
                write!(f, "split range {range_id} into halves of equal load")
            }
            Goal::Merge { right, .. } => {
                write!(f, "merge range {right} into range {range_id} on its left")
            }
            Goal::Move { from, to } => {
                write!(f, "move the replica of range {range_id} from node {from} to node {to}")
            }
            Goal::TransferLeader { to } => {
                write!(f, "hand the lead of range {range_id} to node {to}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_where_they_can_be() {
        let wish = |key: &[u8]| Wish {
            range_id: RangeId(4),
            goal: Goal::Split { at: WishedKey::Key(StoredKey(key.to_vec())), version: 7 },
        };
        let json = serde_json::to_string(&wish(b"m")).unwrap();
        assert_eq!(
            json,
            r#"{"range_id":4,"goal":{"split":{"at":{"key":{"key":"m"}},"version":7}}}"#
        );
        let json = serde_json::to_string(&wish(b"\xff")).unwrap();
        assert_eq!(serde_json::from_str::<Wish>(&json).unwrap(), wish(b"\xff"));
    }
}
