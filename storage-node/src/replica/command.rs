//! How commands become log entries and back. The format on disk is that of `raft_command.proto`.

use crate::raft_log::LogPosition;
use bytes::Bytes;
use prost::Message as _;
use rangedb_proto::internal::v1::{
    ConsistencyCheck, RaftCommand, RaiseVersion, RangeFreeze, RangeMerge, RangeSplit, RangeThaw,
    ReplicaChangeContext, WriteCommand,
};
use rangedb_types::{Epoch, RangeDescriptor, RangeId, Replica, ReplicaId};

/// The context of entries that change more than data: what came before them is written out before
/// they are applied.
pub const BOUNDARY: &[u8] = b"b";

/// Where and into what a range is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPlan {
    /// The first key of the right part.
    pub key: Vec<u8>,
    pub new_range_id: RangeId,
    /// One for each replica, in the descriptor's order.
    pub new_replica_ids: Vec<ReplicaId>,
    /// What the leader measured on either side: estimates, for reports alone.
    pub left_bytes: u64,
    pub right_bytes: u64,
}

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
    RaftCommand { epoch_version, writes, ..RaftCommand::default() }.encode_to_vec()
}

#[must_use]
pub fn encode_check(epoch_version: u64, check_id: u64) -> Vec<u8> {
    let consistency_check = Some(ConsistencyCheck { check_id });
    RaftCommand { epoch_version, consistency_check, ..RaftCommand::default() }.encode_to_vec()
}

/// For which merge a range is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeName {
    pub left_range_id: RangeId,
    /// The left range's version when the merge began.
    pub left_version: u64,
}

/// What a left range takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePlan {
    pub right: RangeDescriptor,
    /// Where the right range's log froze it.
    pub freeze: LogPosition,
}

/// A change of bounds, or a step towards one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundaryChange {
    Split(SplitPlan),
    Freeze(MergeName),
    Thaw(MergeName),
    Merge(MergePlan),
    /// Raises the version, if it is still this one.
    RaiseVersion(u64),
}

/// The entry for a change that was decided at `epoch`.
#[must_use]
pub fn encode_boundary(epoch: Epoch, change: &BoundaryChange) -> Vec<u8> {
    let command = RaftCommand { epoch_version: epoch.version, ..RaftCommand::default() };
    let command = match change {
        BoundaryChange::Split(plan) => return encode_split(epoch, plan),
        BoundaryChange::Freeze(name) => RaftCommand {
            freeze: Some(RangeFreeze {
                epoch: Some(epoch.into()),
                left_range_id: name.left_range_id.get(),
                left_version: name.left_version,
            }),
            ..command
        },
        BoundaryChange::Thaw(name) => RaftCommand {
            thaw: Some(RangeThaw {
                left_range_id: name.left_range_id.get(),
                left_version: name.left_version,
            }),
            ..command
        },
        BoundaryChange::Merge(plan) => RaftCommand {
            merge: Some(RangeMerge {
                epoch: Some(epoch.into()),
                right: Some((&plan.right).into()),
                freeze_index: plan.freeze.index,
                freeze_term: plan.freeze.term,
            }),
            ..command
        },
        BoundaryChange::RaiseVersion(version) => {
            RaftCommand { raise_version: Some(RaiseVersion { version: *version }), ..command }
        }
    };
    command.encode_to_vec()
}

/// The change that a command holds, with the epoch it was decided at; `None` if it changes no bounds.
///
/// # Errors
/// `DamagedEntry`.
pub fn decode_boundary(
    index: u64,
    command: &mut RaftCommand,
) -> Result<Option<(Epoch, BoundaryChange)>, DamagedEntry> {
    let damaged = |detail: &str| DamagedEntry { index, detail: detail.to_owned() };
    let needed = |epoch: Option<rangedb_proto::internal::v1::Epoch>| {
        epoch.map(Epoch::from).ok_or_else(|| damaged("no epoch"))
    };
    let at_version = Epoch { version: command.epoch_version, conf_version: 0 };
    if let Some(split) = command.split.take() {
        let (epoch, plan) = decode_split(index, split)?;
        return Ok(Some((epoch, BoundaryChange::Split(plan))));
    }
    if let Some(freeze) = command.freeze.take() {
        let left_range_id = RangeId(freeze.left_range_id);
        let name = MergeName { left_range_id, left_version: freeze.left_version };
        return Ok(Some((needed(freeze.epoch)?, BoundaryChange::Freeze(name))));
    }
    if let Some(thaw) = command.thaw.take() {
        let left_range_id = RangeId(thaw.left_range_id);
        let name = MergeName { left_range_id, left_version: thaw.left_version };
        return Ok(Some((at_version, BoundaryChange::Thaw(name))));
    }
    if let Some(merge) = command.merge.take() {
        let right = merge.right.as_ref().ok_or_else(|| damaged("no right range"))?;
        let right = right.try_into().map_err(|_| damaged("the right range cannot be read"))?;
        let freeze = LogPosition { index: merge.freeze_index, term: merge.freeze_term };
        let plan = MergePlan { right, freeze };
        return Ok(Some((needed(merge.epoch)?, BoundaryChange::Merge(plan))));
    }
    let raise = command.raise_version.take();
    Ok(raise.map(|raise| (at_version, BoundaryChange::RaiseVersion(raise.version))))
}

fn encode_split(epoch: Epoch, plan: &SplitPlan) -> Vec<u8> {
    let split = RangeSplit {
        epoch: Some(epoch.into()),
        key: plan.key.clone().into(),
        new_range_id: plan.new_range_id.get(),
        new_replica_ids: plan.new_replica_ids.iter().map(|id| id.get()).collect(),
        left_bytes: plan.left_bytes,
        right_bytes: plan.right_bytes,
    };
    let command =
        RaftCommand { epoch_version: epoch.version, split: Some(split), ..RaftCommand::default() };
    command.encode_to_vec()
}

fn decode_split(index: u64, split: RangeSplit) -> Result<(Epoch, SplitPlan), DamagedEntry> {
    let epoch = split.epoch.ok_or_else(|| DamagedEntry { index, detail: "no epoch".to_owned() })?;
    let plan = SplitPlan {
        key: split.key.into(),
        new_range_id: RangeId(split.new_range_id),
        new_replica_ids: split.new_replica_ids.into_iter().map(ReplicaId).collect(),
        left_bytes: split.left_bytes,
        right_bytes: split.right_bytes,
    };
    Ok((epoch.into(), plan))
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
