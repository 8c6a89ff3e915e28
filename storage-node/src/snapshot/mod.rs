//! Snapshots of ranges: streamed in checksummed chunks, staged on disk, installed so that a crash at
//! any step is finished at the next start.
//!
//! Owns: the chunk format, sending, staging, installing. Must not run on a Raft thread and must not
//! know Raft beyond carrying its message. States, steps and what a crash at each of them leaves are
//! told in docs/snapshots.md.

#[cfg(test)]
pub(crate) mod by_hand;
mod chunk;
mod inbox;
mod install;
mod metrics;
mod parked;
mod send;
mod settings;
mod stage;
#[cfg(test)]
mod tests;
mod throttle;
mod worker;

pub use inbox::SnapshotInbox;
pub use install::{RecoverError, finish_recovery, recover};
pub use settings::{SnapshotSettings, SnapshotSettingsError};
pub use worker::{SnapshotOptions, SnapshotWorker};

use crate::raft_log::LogPosition;
use raft::eraftpb::Message;
use rangedb_engine::Snapshot;
use rangedb_types::{NodeId, RangeDescriptor, RangeId, ReplicaId};
use std::path::PathBuf;
use std::sync::Arc;

/// A snapshot to be sent. The engine snapshot holds the range as of `position`.
pub struct SendJob {
    pub to_node: NodeId,
    pub to_replica: ReplicaId,
    pub from_replica: ReplicaId,
    pub descriptor: Arc<RangeDescriptor>,
    pub position: LogPosition,
    pub data: Arc<dyn Snapshot>,
    /// The MsgSnapshot.
    pub message: Message,
}

/// A snapshot that arrived whole and was verified.
#[derive(Debug)]
pub struct StagedSnapshot {
    pub from_node: NodeId,
    pub to_replica: ReplicaId,
    pub from_replica: ReplicaId,
    /// As of the snapshot.
    pub descriptor: RangeDescriptor,
    pub position: LogPosition,
    pub message: Message,
    /// The folder of the staged chunks.
    pub path: PathBuf,
}

/// Called once, on any thread, with whether the peer installed the snapshot.
pub type SendDone = Box<dyn FnOnce(bool) + Send>;

/// Called once with the outcome of an installation.
pub type InstallDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the store asks of the snapshot workers. Calls return at once.
pub trait Snapshots: Send + Sync {
    /// Sends; bounded in bandwidth and in how many run at once; calls `done` in every case.
    fn send(&self, job: SendJob, done: SendDone);

    /// Installs a staged snapshot into the data engine, durably: intent, clear, load, range state;
    /// then removes the staged files and calls `done`. The intent stays until [`Snapshots::finish`].
    fn install(&self, staged: StagedSnapshot, done: InstallDone);

    /// The log of an installed range is cut to its snapshot, durably: the intent can go. (Before
    /// that, a log that ends too early would be taken for damage at the next start.)
    fn finish(&self, range_id: RangeId);

    /// Throws a staged snapshot away.
    fn discard(&self, staged: StagedSnapshot);
}

/// Where staged snapshots go. `done` gets `Ok(())` when it is installed and durable, or why it was
/// not taken.
pub trait SnapshotReceiver: Send + Sync {
    fn deliver_snapshot(&self, staged: StagedSnapshot, done: InstallDone);
}
