//! The storage node: hosts the replicas of many ranges, each a Raft group, on one RocksDB.

pub mod raft_log;
pub mod replica;
pub mod snapshot;
pub mod store;
pub mod transport;
