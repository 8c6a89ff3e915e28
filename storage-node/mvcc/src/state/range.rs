//! The records that belong to one range.

use super::{
    APPLIED_STATE, FORMAT, FREEZE_STATE, GC_STATE, INSTALL_INTENT, RANGE_STATE, REPLICA_TOMBSTONE,
    RangeRecord, key_of, open, range_key,
};
use crate::codec::{Reader, put_bytes, seal};
use crate::{MvccError, Result};
use rangedb_types::{
    Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span, Timestamp,
};

/// Which replica of a range this store holds, and what the range is, as of the applied index.
/// The Raft configuration follows from the roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeState {
    pub replica_id: ReplicaId,
    pub descriptor: RangeDescriptor,
}

/// How far the log is applied; always in the same batch as what it says is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedState {
    pub index: u64,
    pub term: u64,
    /// The largest commit timestamp applied, and nothing below it is missing that is applied.
    pub max_version: Timestamp,
}

/// The range is frozen, to become part of its left neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreezeState {
    pub left_range_id: RangeId,
    /// The left range's version when the merge began; once that is larger, it cannot happen.
    pub left_version: u64,
    /// The freeze's own place in the log.
    pub index: u64,
    pub term: u64,
}

/// Below which version reads are promised nothing: written before anything there is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcState {
    pub safe_point: Timestamp,
}

/// Replicas of the range that were on this store and must never come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaTombstone {
    /// The newest of them; every replica with an id up to this one is gone.
    pub replica_id: ReplicaId,
}

/// A snapshot is being installed: whatever the range's span holds is to be cleared and loaded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallIntent {
    pub replica_id: ReplicaId,
    /// As of the snapshot.
    pub descriptor: RangeDescriptor,
    pub index: u64,
    pub term: u64,
    /// The folder of the staged snapshot, below the store's own.
    pub staged: String,
}

impl RangeRecord for RangeState {
    fn key(range_id: RangeId) -> Vec<u8> {
        range_key(range_id, RANGE_STATE)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        record.extend_from_slice(&self.replica_id.0.to_be_bytes());
        put_descriptor(&mut record, &self.descriptor);
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let replica_id = ReplicaId(reader.u64()?);
        let descriptor = read_descriptor(&mut reader)?;
        reader.end()?;
        Ok(Self { replica_id, descriptor })
    }
}

impl RangeRecord for AppliedState {
    fn key(range_id: RangeId) -> Vec<u8> {
        range_key(range_id, APPLIED_STATE)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(1 + 24 + 4);
        record.push(FORMAT);
        for number in [self.index, self.term, self.max_version.0] {
            record.extend_from_slice(&number.to_be_bytes());
        }
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let (index, term) = (reader.u64()?, reader.u64()?);
        let max_version = Timestamp(reader.u64()?);
        reader.end()?;
        Ok(Self { index, term, max_version })
    }
}

impl RangeRecord for FreezeState {
    fn key(range_id: RangeId) -> Vec<u8> {
        range_key(range_id, FREEZE_STATE)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        for number in [self.left_range_id.0, self.left_version, self.index, self.term] {
            record.extend_from_slice(&number.to_be_bytes());
        }
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let (left_range_id, left_version) = (RangeId(reader.u64()?), reader.u64()?);
        let (index, term) = (reader.u64()?, reader.u64()?);
        reader.end()?;
        Ok(Self { left_range_id, left_version, index, term })
    }
}

impl RangeRecord for GcState {
    fn key(range_id: RangeId) -> Vec<u8> {
        range_key(range_id, GC_STATE)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        record.extend_from_slice(&self.safe_point.0.to_be_bytes());
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let safe_point = Timestamp(reader.u64()?);
        reader.end()?;
        Ok(Self { safe_point })
    }
}

impl RangeRecord for ReplicaTombstone {
    fn key(range_id: RangeId) -> Vec<u8> {
        key_of(REPLICA_TOMBSTONE, range_id)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        record.extend_from_slice(&self.replica_id.0.to_be_bytes());
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let replica_id = ReplicaId(reader.u64()?);
        reader.end()?;
        Ok(Self { replica_id })
    }
}

impl RangeRecord for InstallIntent {
    fn key(range_id: RangeId) -> Vec<u8> {
        key_of(INSTALL_INTENT, range_id)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT];
        for number in [self.replica_id.0, self.index, self.term] {
            record.extend_from_slice(&number.to_be_bytes());
        }
        put_bytes(&mut record, self.staged.as_bytes());
        put_descriptor(&mut record, &self.descriptor);
        seal(record)
    }

    fn decode(record: &[u8]) -> Result<Self> {
        let mut reader = open(record)?;
        let replica_id = ReplicaId(reader.u64()?);
        let (index, term) = (reader.u64()?, reader.u64()?);
        let staged = std::str::from_utf8(reader.bytes()?)
            .map_err(|_| reader.damaged("a folder's name is not text"))?
            .to_owned();
        let descriptor = read_descriptor(&mut reader)?;
        reader.end()?;
        Ok(Self { replica_id, descriptor, index, term, staged })
    }
}

fn put_descriptor(record: &mut Vec<u8>, range: &RangeDescriptor) {
    for number in [range.range_id.0, range.epoch.version, range.epoch.conf_version] {
        record.extend_from_slice(&number.to_be_bytes());
    }
    put_bytes(record, &range.span.start);
    put_bytes(record, &range.span.end);
    let count = u32::try_from(range.replicas.len()).expect("a range has a handful of replicas");
    record.extend_from_slice(&count.to_be_bytes());
    for replica in &range.replicas {
        record.extend_from_slice(&replica.replica_id.0.to_be_bytes());
        record.extend_from_slice(&replica.node_id.0.to_be_bytes());
        record.push(match replica.role {
            ReplicaRole::Voter => 1,
            ReplicaRole::Learner => 2,
            ReplicaRole::IncomingVoter => 3,
            ReplicaRole::DemotingVoter => 4,
        });
    }
}

fn read_descriptor(reader: &mut Reader<'_>) -> Result<RangeDescriptor, MvccError> {
    let range_id = RangeId(reader.u64()?);
    let epoch = Epoch { version: reader.u64()?, conf_version: reader.u64()? };
    let span = Span { start: reader.bytes()?.to_vec(), end: reader.bytes()?.to_vec() };
    let count = reader.u32()? as usize;
    const REPLICA_BYTES: usize = 17;
    if count > reader.left() / REPLICA_BYTES {
        return Err(reader.damaged("a count points behind its end"));
    }
    let mut replicas = Vec::with_capacity(count);
    for _ in 0..count {
        let replica_id = ReplicaId(reader.u64()?);
        let node_id = NodeId(reader.u64()?);
        let role = match reader.u8()? {
            1 => ReplicaRole::Voter,
            2 => ReplicaRole::Learner,
            3 => ReplicaRole::IncomingVoter,
            4 => ReplicaRole::DemotingVoter,
            _ => return Err(reader.damaged("a role is unknown")),
        };
        replicas.push(Replica { replica_id, node_id, role });
    }
    Ok(RangeDescriptor { range_id, span, epoch, replicas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> RangeDescriptor {
        RangeDescriptor {
            range_id: RangeId(7),
            span: Span { start: b"a\0".to_vec(), end: vec![] },
            epoch: Epoch { version: 3, conf_version: 4 },
            replicas: [
                (ReplicaRole::Voter, 1),
                (ReplicaRole::Learner, 2),
                (ReplicaRole::IncomingVoter, 3),
                (ReplicaRole::DemotingVoter, 4),
            ]
            .map(|(role, id)| Replica { replica_id: ReplicaId(id), node_id: NodeId(id + 10), role })
            .to_vec(),
        }
    }

    /// Every record comes back, and no single flipped bit and no cut goes unnoticed.
    fn check<R: RangeRecord + PartialEq + std::fmt::Debug>(record: &R) {
        let bytes = record.encode();
        assert_eq!(R::decode(&bytes).as_ref(), Ok(record));
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(R::decode(&broken).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(R::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn records_come_back_and_damage_shows() {
        check(&RangeState { replica_id: ReplicaId(1), descriptor: descriptor() });
        check(&AppliedState { index: 11, term: 2, max_version: Timestamp(99) });
        check(&ReplicaTombstone { replica_id: ReplicaId(5) });
        check(&InstallIntent {
            replica_id: ReplicaId(6),
            descriptor: descriptor(),
            index: 20,
            term: 3,
            staged: "snapshots/7-6".to_owned(),
        });
    }
}
