//! The records of the families that hold keys and versions.

mod lock;
mod tombstone;
mod value;
mod write;

pub use lock::{LockKind, LockRecord};
pub use tombstone::TombstoneRecord;
pub use value::{decode_value, encode_value};
pub use write::{WriteKind, WriteRecord};
