//! How commands become log entries and back. The format on disk is that of `raft_command.proto`.

use bytes::Bytes;
use prost::Message as _;
use rangedb_proto::internal::v1::{
    ConsistencyCheck, RaftCommand, ReplicaChangeContext, WriteCommand,
};
use rangedb_types::{Epoch, Replica};

/// An entry that cannot be read is damage: every replica would apply something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log entry {index} cannot be decoded: {detail}")]
pub struct DamagedEntry {
    pub index: u64,
    pub detail: String,
}

/// One entry for writes that were proposed together.
#[must_use]
pub fn encode_writes(epoch_version: u64, writes: Vec<WriteCommand>) -> Vec<u8> {
    RaftCommand { epoch_version, writes, consistency_check: None }.encode_to_vec()
}

#[must_use]
pub fn encode_check(epoch_version: u64, check_id: u64) -> Vec<u8> {
    let consistency_check = Some(ConsistencyCheck { check_id });
    RaftCommand { epoch_version, writes: Vec::new(), consistency_check }.encode_to_vec()
}

/// # Errors
/// `DamagedEntry`.
pub fn decode(index: u64, data: &Bytes) -> Result<RaftCommand, DamagedEntry> {
    RaftCommand::decode(data.clone())
        .map_err(|error| DamagedEntry { index, detail: error.to_string() })
}

#[must_use]
pub fn encode_change_context(epoch: Epoch, replicas: &[Replica]) -> Vec<u8> {
    ReplicaChangeContext {
        epoch: Some(epoch.into()),
        replicas: replicas.iter().map(Into::into).collect(),
    }
    .encode_to_vec()
}

/// # Errors
/// `DamagedEntry`.
pub fn decode_change_context(
    index: u64,
    data: &Bytes,
) -> Result<(Epoch, Vec<Replica>), DamagedEntry> {
    let damaged = |detail: String| DamagedEntry { index, detail };
    let context =
        ReplicaChangeContext::decode(data.clone()).map_err(|error| damaged(error.to_string()))?;
    let epoch = context.epoch.ok_or_else(|| damaged("no epoch".to_owned()))?;
    let replicas = context.replicas.iter().map(Replica::try_from).collect::<Result<_, _>>();
    Ok((epoch.into(), replicas.map_err(|error| damaged(error.to_string()))?))
}
