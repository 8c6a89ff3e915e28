//! Whose store this is.

use super::{FORMAT, STORE, open};
use crate::Result;
use crate::codec::seal;
use rangedb_engine::{Family, Snapshot, WriteBatch};
use rangedb_types::{ClusterId, NodeId};

/// The store's own record: written once, when the node has its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// The newest format of any record this store may hold.
    pub format_version: u32,
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    /// Random; tells this disk from another that was given the same node id.
    pub store_id: u128,
}

impl StoreRecord {
    /// The format that this version writes.
    pub const FORMAT_VERSION: u32 = 1;

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        record.extend_from_slice(&self.format_version.to_be_bytes());
        record.extend_from_slice(&self.cluster_id.to_bytes());
        record.extend_from_slice(&self.node_id.0.to_be_bytes());
        record.extend_from_slice(&self.store_id.to_be_bytes());
        seal(record)
    }

    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let format_version = reader.u32()?;
        let cluster_id = ClusterId(reader.u128()?);
        let node_id = NodeId(reader.u64()?);
        let store_id = reader.u128()?;
        reader.end()?;
        Ok(Self { format_version, cluster_id, node_id, store_id })
    }

    /// # Errors
    /// Engine errors and damage.
    pub fn load(snapshot: &dyn Snapshot) -> Result<Option<Self>> {
        snapshot.get(Family::Meta, &[STORE])?.map(|record| Self::decode(&record)).transpose()
    }

    /// Appends the record to a batch.
    pub fn put(&self, batch: &mut WriteBatch) {
        batch.put(Family::Meta, &[STORE], &self.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_comes_back() {
        let record = StoreRecord {
            format_version: StoreRecord::FORMAT_VERSION,
            cluster_id: ClusterId(1),
            node_id: NodeId(2),
            store_id: 3,
        };
        assert_eq!(StoreRecord::decode(&record.encode()), Ok(record));
        assert!(StoreRecord::decode(&record.encode()[1..]).is_err());
    }
}
