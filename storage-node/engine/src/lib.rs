//! Key-value engines: ordered maps of bytes in a few families, with atomic batches and snapshots.
//!
//! Owns: files of one engine on disk, their recovery, and the typed errors of both. Must not know:
//! Raft, ranges, versions of values, protobuf, async runtimes. Invariants: a batch is applied whole
//! or not at all, also across a crash; what a snapshot shows never changes; an iterator that stops
//! because of an error says so and is never taken for one that reached its end.

mod batch;
mod engine;
mod error;
mod family;
mod rocks;
mod settings;

pub use batch::{BatchOp, WriteBatch};
pub use engine::{
    BulkLoader, DiskUsage, Durability, Engine, Iter, Snapshot, VerifyReport, VersionEntry,
};
pub use error::EngineError;
pub use family::{Family, VERSION_BYTES};
pub use settings::{EngineKind, EngineSettings, open};

/// What every call of an engine returns.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
