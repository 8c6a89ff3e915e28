//! Every replica of this node: the Raft threads that drive them, the apply threads behind those, and
//! the handles by which the rest of the process reaches them.

pub mod handle;

pub use handle::{Leadership, ProposeError, ReadError, ReplicaHandle, ReplicaStatus, Store};
