//! What can be asked of the state machine, and what it answers.
//!
//! Commands and responses are stored in the log as JSON: fields may be added with a default, never
//! renamed or given another meaning.

use super::hold::Hold;
use super::records::{Locality, NodeRecord, NodeState, StoreId};
use super::wish::Wish;
use rangedb_types::{ClusterId, NodeId, PlacementId, RangeDescriptor, RangeId, Timestamp};
use serde::{Deserialize, Serialize};

/// Most ids one `AllocateIds` hands out.
pub const IDS_PER_CALL_MAX: u32 = 10_000;
/// Most range descriptors one `ReportRanges` may carry; the leader splits longer reports.
pub const RANGES_PER_REPORT_MAX: usize = 1_000;

/// A change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Gives the cluster its id. The first one wins; later ones learn it.
    InitCluster { cluster_id: ClusterId },
    /// Gives the cluster the secret that gateways sign transactions' tokens with: 64 hexadecimal digits. The
    /// first one wins.
    SetTokenKey { key: String },
    /// A storage node came up. Without an id it is given one, the same one again if its store id is
    /// known already; with an id it must be the node that was given it.
    RegisterNode {
        node_id: Option<NodeId>,
        store_id: StoreId,
        address: String,
        locality: Locality,
        software_version: String,
    },
    /// Hands out ids that were never handed out before.
    AllocateIds { count: u32 },
    /// Creates the descriptor of the first range, with one voter on this node; if it exists already,
    /// changes nothing and answers with it as it is now.
    BootstrapFirstRange { node_id: NodeId },
    /// What leaders say of their ranges. Descriptors that are not newer are dropped.
    ReportRanges(Vec<RangeDescriptor>),
    /// Allows the oracle to hand out timestamps below `until`. Never goes back.
    ExtendTimestamps { until: Timestamp },
    /// Changes a runtime setting. `expected_version` 0 means whatever its version is.
    SetConfig { name: String, value: String, expected_version: u64 },
    /// Writes metadata that no other command owns. `value` is JSON.
    PutMeta { key: String, value: String },
    /// Removes metadata that no other command owns.
    DeleteMeta { key: String },
    /// Makes a member of the placement quorum visible, or moves it to another address.
    SetPlacementMember { id: PlacementId, store_id: StoreId, address: String },
    /// Forgets a member of the placement quorum.
    RemovePlacementMember { id: PlacementId },
    /// What the operator wants of a node.
    SetNodeState { node_id: NodeId, state: NodeState },
    /// What the operator asks of ranges by hand: all of it or, if one of the ranges has another wish
    /// already, nothing. A wish that is there already changes nothing.
    AddWishes(Vec<Wish>),
    /// Keeps a version from being removed. Id 0 makes a new hold; any other renews the one that is there, with
    /// its version. `now` is of the oracle: holds that have ended by then go.
    PutHold { hold: Hold, now: Timestamp },
    /// A hold is given up. One that is not there is passed over.
    EndHold { hold_id: u64 },
    /// These wishes have ended. Those that are no longer there are passed over.
    EndWishes(Vec<Wish>),
}

/// The answer to a command. The same on every member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// For entries of the log that hold no command.
    Nothing,
    Cluster {
        cluster_id: ClusterId,
    },
    Node(NodeRecord),
    /// The ids `first`, `first + 1`, … as many as were asked for.
    Ids {
        first: u64,
    },
    /// The first range as it is now; `created` tells whether this command made it.
    FirstRange {
        range: RangeDescriptor,
        created: bool,
    },
    /// How many of the reported descriptors were news.
    Ranges {
        accepted: u32,
    },
    /// The end of the window as it is now.
    Timestamps {
        until: Timestamp,
    },
    Config(super::SettingView),
    /// As it is stored now.
    Hold(Hold),
    /// The metadata revision after the command.
    Done {
        revision: u64,
    },
    Rejected(Rejection),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("node {node_id} is not known to this cluster; it was removed or belongs to another")]
    UnknownNode { node_id: NodeId },
    #[error(
        "node {node_id} is known with another data folder (store {known}); a node that lost its data must start with an empty folder and take a new id"
    )]
    StoreMismatch { node_id: NodeId, known: StoreId },
    #[error(
        "node {node_id} was removed from the cluster; start it with an empty data folder to add it again"
    )]
    NodeRemoved { node_id: NodeId },
    #[error(
        "node {node_id} has replicas of {ranges} ranges, range {first} among them; drain it first, or wait until they are repaired elsewhere"
    )]
    NodeHoldsReplicas { node_id: NodeId, ranges: usize, first: RangeId },
    #[error("range {range_id} is not known; list the ranges to see what there is")]
    UnknownRange { range_id: RangeId },
    #[error(
        "range {range_id} is busy with a command given before: {wish}; wait until it has ended"
    )]
    WishUnderWay { range_id: RangeId, wish: String },
    #[error("too many commands wait already; at most {} can", super::WISHES_MAX)]
    TooManyWishes,
    #[error("too many versions are held already; at most {} can be", super::HOLDS_MAX)]
    TooManyHolds,
    #[error("there is no hold {hold_id}, or it has ended; what it held may be gone")]
    UnknownHold { hold_id: u64 },
    #[error("the version {version} may be gone already; the oldest that can be held is {oldest}")]
    TooOldToHold { version: Timestamp, oldest: Timestamp },
    #[error("at most {IDS_PER_CALL_MAX} ids can be allocated at once")]
    TooManyIds,
    #[error("at most {RANGES_PER_REPORT_MAX} ranges can be reported at once")]
    TooManyRanges,
    #[error("unknown setting `{name}`; known are {known}")]
    UnknownSetting { name: String, known: String },
    #[error("`{name}` cannot be `{value}`: {why}")]
    InvalidSetting { name: String, value: String, why: String },
    #[error("`{name}` has version {actual}, not {expected}; read it again and retry")]
    ConfigVersion { name: String, expected: u64, actual: u64 },
    #[error("the key `{key}` is not free: it must begin with `_/` and belong to no other command")]
    ReservedKey { key: String },
    #[error("the value of `{key}` is not JSON")]
    NotJson { key: String },
    #[error(
        "the value of `{key}` has {size_bytes} bytes; at most {} are allowed",
        super::META_VALUE_BYTES_MAX
    )]
    ValueTooLong { key: String, size_bytes: usize },
}
