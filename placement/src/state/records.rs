//! What the values of the metadata mean, and how they are written as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rangedb_types::{
    Epoch, NodeId, PlacementId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One incarnation of a data folder: 128 random bits, written as 32 hexadecimal digits. A process
/// that lost its folder comes back with another one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(pub u128);

/// Text that is no store id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a store id has 32 hexadecimal digits")]
pub struct InvalidStoreId;

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for StoreId {
    type Err = InvalidStoreId;

    fn from_str(text: &str) -> Result<Self, InvalidStoreId> {
        if text.len() != 32 {
            return Err(InvalidStoreId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidStoreId)
    }
}

impl TryFrom<String> for StoreId {
    type Error = InvalidStoreId;

    fn try_from(text: String) -> Result<Self, InvalidStoreId> {
        text.parse()
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> Self {
        id.to_string()
    }
}

/// Where a node stands, from wide to narrow. Empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub rack: String,
}

/// What the operator wants of a node. Whether it is up is not stored: only its stream tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    #[default]
    Active,
    /// Its replicas are to be moved away.
    Draining,
    /// It holds no replica any more.
    Drained,
    /// It may not come back.
    Removed,
}

/// `_/cluster/nodes/<id>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub node_id: NodeId,
    pub store_id: StoreId,
    pub address: String,
    pub locality: Locality,
    pub software_version: String,
    pub state: NodeState,
}

/// `_/cluster/placement/<id>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub id: PlacementId,
    pub store_id: StoreId,
    pub address: String,
}

/// `_/partitions/<id>`: a descriptor whose bounds are text where they are UTF-8.
#[derive(Serialize, Deserialize)]
pub(super) struct RangeRecord {
    range_id: RangeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_base64: Option<String>,
    version: u64,
    conf_version: u64,
    replicas: Vec<ReplicaRecord>,
}

#[derive(Serialize, Deserialize)]
struct ReplicaRecord {
    node_id: NodeId,
    replica_id: ReplicaId,
    role: ReplicaRole,
}

pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

pub(super) fn bytes_of(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64.decode(base64).map_err(|error| error.to_string()),
        _ => Err("a bound must be given once, as text or base64".to_owned()),
    }
}

impl From<&RangeDescriptor> for RangeRecord {
    fn from(range: &RangeDescriptor) -> Self {
        let (start, start_base64) = text_or_base64(&range.span.start);
        let (end, end_base64) = text_or_base64(&range.span.end);
        Self {
            range_id: range.range_id,
            start,
            start_base64,
            end,
            end_base64,
            version: range.epoch.version,
            conf_version: range.epoch.conf_version,
            replicas: range
                .replicas
                .iter()
                .map(|replica| ReplicaRecord {
                    node_id: replica.node_id,
                    replica_id: replica.replica_id,
                    role: replica.role,
                })
                .collect(),
        }
    }
}

impl TryFrom<RangeRecord> for RangeDescriptor {
    type Error = String;

    fn try_from(record: RangeRecord) -> Result<Self, String> {
        let start = bytes_of(record.start, record.start_base64)?;
        let end = bytes_of(record.end, record.end_base64)?;
        Ok(Self {
            range_id: record.range_id,
            span: Span::new(start, end).map_err(|error| error.to_string())?,
            epoch: Epoch { version: record.version, conf_version: record.conf_version },
            replicas: record
                .replicas
                .into_iter()
                .map(|replica| Replica {
                    replica_id: replica.replica_id,
                    node_id: replica.node_id,
                    role: replica.role,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_their_record() {
        let range = RangeDescriptor {
            range_id: RangeId(4),
            span: Span { start: b"caf\xc3\xa9".to_vec(), end: vec![0xff, 0x00] },
            epoch: Epoch { version: 2, conf_version: 5 },
            replicas: vec![Replica {
                replica_id: ReplicaId(9),
                node_id: NodeId(1),
                role: ReplicaRole::Learner,
            }],
        };
        let json = serde_json::to_string(&RangeRecord::from(&range)).unwrap();
        assert!(json.contains("\"start\":\"café\"") && json.contains("end_base64"), "{json}");
        let record: RangeRecord = serde_json::from_str(&json).unwrap();
        assert_eq!(RangeDescriptor::try_from(record), Ok(range));
    }

    #[test]
    fn store_ids_survive_text() {
        let id = StoreId(0xabc);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("abc".parse::<StoreId>(), Err(InvalidStoreId));
    }
}
