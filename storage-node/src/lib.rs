//! The storage node: hosts the replicas of many ranges, each a Raft group, on one RocksDB.

pub mod access;
pub mod closed;
pub mod deadlock;
pub mod gc;
pub mod heartbeat;
pub mod latch;
pub mod merge;
pub mod raft_log;
pub mod read;
pub mod replica;
pub mod server;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod split;
pub mod store;
pub mod transport;
pub mod txn;
pub mod write;

pub use server::{OpenLog, Server, ShutdownError, StartError, start, start_with};
pub use settings::Settings;
