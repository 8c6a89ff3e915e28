//! The control plane: a quorum that keeps the cluster's metadata, hands out ids and timestamps, and
//! decides where replicas live.

pub mod consensus;
pub mod state;
pub mod tso;
