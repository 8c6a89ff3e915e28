//! Reads: of the latest state under the leader's lease or after a ReadIndex round, and of the state
//! at a timestamp.
//!
//! Owns: the threads that read the engine, the rules by which a snapshot of the engine may be shown
//! to anybody. Must not know: the wire, latches. Invariants:
//!
//! * A snapshot is shown only if this replica was surely the leader after the snapshot was taken
//!   (lease, checked again) or after the request came (ReadIndex), and the bounds were still those
//!   of the request.
//! * Before a read at T is served, the range promises to stamp no write at or below T any more, and
//!   the writes that have such a stamp already have ended. So every page at T shows the same.
//! * Fences and range tombstones used with a snapshot are those of that very snapshot.
//! * Nothing here blocks the async runtime.

pub mod metrics;
mod pool;
mod reader;
mod replica;
mod view;

pub use pool::ReadPool;
pub use reader::{Get, GetResult, ReadAt, Reader, Scan, ScanResult};
pub use replica::AtReplica;
pub use view::{IntentHint, Specials, SpecialsCache, View};
