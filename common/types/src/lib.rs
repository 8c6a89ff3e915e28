//! The words every RangeDB process shares: identifiers, keys, range descriptors, epochs,
//! timestamps, and the sources of time and randomness.
//!
//! Owns: meaning and validity of these values. Must not know: tokio, tonic, RocksDB, Raft, files or
//! sockets. Invariant: every value here is plain data; equality and order mean what the field's
//! literature says they mean.

pub mod clock;
pub mod epoch;
pub mod ids;
pub mod key;
pub mod limits;
pub mod random;
pub mod range;
pub mod timestamp;

pub use clock::{ManualClock, MonotonicClock, MonotonicTime, SystemClock, WallClock};
pub use epoch::Epoch;
pub use ids::{ClusterId, NodeId, PlacementId, RangeId, ReplicaId, RequestId};
pub use key::{KeyError, Span};
pub use random::{Random, SeededRandom, SystemRandom};
pub use range::{RangeDescriptor, Replica, ReplicaRole};
pub use timestamp::Timestamp;
