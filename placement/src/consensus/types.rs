//! The names by which openraft knows our types.

use crate::state::{Command, Response, StoreId};
use rangedb_types::PlacementId;
use serde::{Deserialize, Serialize};
use std::io::Cursor;

openraft::declare_raft_types!(
    /// Commands and responses of the state machine, snapshots as bytes.
    pub TypeConfig:
        D = Command,
        R = Response,
        NodeId = PlacementId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// What the quorum's membership says of a member: where it listens, and which incarnation of its
/// data folder it is. Never changes for one id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub address: String,
    pub store_id: StoreId,
}

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<PlacementId>;
pub(super) type Vote = openraft::Vote<PlacementId>;
pub(super) type EffectiveMembership = openraft::EffectiveMembership<PlacementId, Member>;
pub(super) type Membership = openraft::Membership<PlacementId, Member>;
pub(super) type StoredMembership = openraft::StoredMembership<PlacementId, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<PlacementId, Member>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<PlacementId>;
pub(super) type RaftError<E = openraft::error::Infallible> =
    openraft::error::RaftError<PlacementId, E>;
