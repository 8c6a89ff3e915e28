//! Versions of values on top of an engine: how keys, versions, deletions, intents and the state of
//! ranges are written as bytes, and how they are read back at a timestamp.
//!
//! Owns: the format of everything in the engine (`docs/storage-format.md` tells it byte by byte) and
//! its meaning. Must not do: I/O other than through a [`rangedb_engine::Snapshot`], read a clock or a
//! random source, know Raft or protobuf. Invariants: writes are computed as [`Mutation`]s and applied
//! by others, the same on every replica; a read at a timestamp never changes its answer as long as no
//! write at or below that timestamp is added; bytes that cannot be read are an error, never absent.

pub mod checksum;
mod codec;
pub mod collect;
mod condition;
mod error;
pub mod fence;
pub mod key;
mod read;
pub mod record;
mod scan;
pub mod state;
mod tombstone;
pub mod txn;
mod write;

pub use checksum::{RangeChecksum, checksum};
pub use condition::{Condition, ConditionError, check_condition, find_delete_range, find_request};
pub use error::MvccError;
pub use fence::FenceSet;
pub use key::{FamilySpan, SpanBounds, bounds, replicated_spans};
pub use read::{Seen, Value, get, multi_get};
pub use scan::{Entry, Page, ScanOptions, refuse_intents, scan};
pub use tombstone::{TombstoneSet, tombstones_for_split};
pub use write::{Mutation, SHORT_VALUE_BYTES_MAX, delete, delete_range, put};

/// What every fallible call here returns.
pub type Result<T, E = MvccError> = std::result::Result<T, E>;
