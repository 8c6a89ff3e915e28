//! The cluster as the planner sees it.

use rangedb_types::{NodeId, RangeDescriptor, RangeId, ReplicaId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether a node was heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    Up,
    /// Missed a few beats: gets nothing new, keeps what it has.
    Suspect,
    /// Silent for so long that its replicas count as lost.
    Down,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub node_id: NodeId,
    pub liveness: Liveness,
    /// To be emptied: its replicas and leaderships go elsewhere.
    pub draining: bool,
    /// False if the operator wants nothing new on it.
    pub accepts_replicas: bool,
    /// Just came back and is behind: gets no leaderships yet.
    pub catching_up: bool,
    pub region: String,
    pub zone: String,
    pub rack: String,
    /// Size of the disk; 0 if unknown.
    pub capacity_bytes: u64,
    /// What is left of it; means nothing while the capacity is unknown.
    pub available_bytes: u64,
    /// How long it takes to sync a write, lately; zero if unknown.
    pub disk_sync: Duration,
}

impl NodeView {
    /// A node that is up and empty, with nothing known of its place and its disk.
    #[must_use]
    pub const fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            liveness: Liveness::Up,
            draining: false,
            accepts_replicas: true,
            catching_up: false,
            region: String::new(),
            zone: String::new(),
            rack: String::new(),
            capacity_bytes: 0,
            available_bytes: 0,
            disk_sync: Duration::ZERO,
        }
    }
}

/// What a frozen range is frozen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeIntent {
    /// The range that it is to become part of: its left neighbour.
    pub left_range_id: RangeId,
    /// The left range's version when the merge began; once that is larger, the merge cannot happen.
    pub left_version: u64,
}

/// A range as its leader reported it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeView {
    /// The newest descriptor known.
    pub descriptor: RangeDescriptor,
    /// The node of the leader; `None` if none was heard from lately.
    pub leader: Option<NodeId>,
    /// Replicas that hold a snapshot and are at most a few entries behind, the leader's included.
    pub caught_up: BTreeSet<ReplicaId>,
    /// Replicas that the leader does not hear from.
    pub down: BTreeSet<ReplicaId>,
    /// `None` until the leader has reported it; an empty range has 0.
    pub size_bytes: Option<u64>,
    pub reads_per_second: u64,
    pub writes_per_second: u64,
    pub bytes_written_per_second: u64,
    /// The leader knows a key at which a split halves the load.
    pub load_splittable: bool,
    /// Set while the range is frozen, to become part of its left neighbour.
    pub merging: Option<MergeIntent>,
    /// For how long it has been frozen; zero if it is not.
    pub frozen_for: Duration,
}

impl RangeView {
    /// A range of which only the descriptor is known.
    #[must_use]
    pub const fn new(descriptor: RangeDescriptor) -> Self {
        Self {
            descriptor,
            leader: None,
            caught_up: BTreeSet::new(),
            down: BTreeSet::new(),
            size_bytes: None,
            reads_per_second: 0,
            writes_per_second: 0,
            bytes_written_per_second: 0,
            load_splittable: false,
            merging: None,
            frozen_for: Duration::ZERO,
        }
    }

    /// Requests a second.
    pub(crate) const fn requests(&self) -> u64 {
        self.reads_per_second.saturating_add(self.writes_per_second)
    }
}

/// Everything a plan is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// In any order, each once. Replicas on nodes that are not listed count as lost.
    pub nodes: Vec<NodeView>,
    /// In the order of their keys, so that neighbours stand side by side.
    pub ranges: Vec<RangeView>,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub replication_factor: usize,
    /// Most new replicas that one node may send or receive at the same time.
    pub moves_per_node_max: usize,
    /// A range larger than this is split.
    pub split_size_bytes: u64,
    /// Neighbours that are both smaller than this are merged; 0: none ever.
    pub merge_size_bytes: u64,
    /// A range with more requests a second is split, if a key is known that halves them; 0: never.
    pub split_requests_per_second: u64,
    /// The same for bytes written a second; 0: never.
    pub split_bytes_per_second: u64,
    /// Most splits at the same time.
    pub splits_max: usize,
    /// Most merges being prepared or carried out at the same time.
    pub merges_max: usize,
    /// How long a range may be frozen before its merge is given up.
    pub merge_patience: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            moves_per_node_max: 4,
            split_size_bytes: 256 << 20,
            merge_size_bytes: 64 << 20,
            split_requests_per_second: 2_500,
            split_bytes_per_second: 16 << 20,
            splits_max: 16,
            merges_max: 8,
            merge_patience: Duration::from_secs(10),
        }
    }
}
