//! Which engine, and how it is tuned.

use crate::rocks::RocksEngine;
use crate::{Engine, EngineError, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// The engines there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineKind {
    #[default]
    RocksDb,
    BTree,
    Memory,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RocksDb => "rocksdb",
            Self::BTree => "btree",
            Self::Memory => "memory",
        })
    }
}

/// A name that is no engine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no engine; there are rocksdb, btree and memory")]
pub struct UnknownEngine(String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        match name {
            "rocksdb" => Ok(Self::RocksDb),
            "btree" => Ok(Self::BTree),
            "memory" => Ok(Self::Memory),
            _ => Err(UnknownEngine(name.to_owned())),
        }
    }
}

/// How an engine is tuned. Nothing here changes the format on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Memory for blocks read from disk, with their indexes and filters.
    pub block_cache_bytes: u64,
    /// Memory for writes that are not in files yet, of one family before it is flushed.
    pub write_buffer_bytes: u64,
    /// The same of all families together.
    pub write_buffer_total_bytes: u64,
    /// Writes go to a log first and survive the process. Without it they survive only a `flush`,
    /// and the caller must be able to write again whatever came after.
    pub wal: bool,
    /// Threads for flushes and compactions.
    pub background_jobs: u32,
    /// Files held open at once.
    pub open_files_max: u32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 32 << 20,
            write_buffer_total_bytes: 256 << 20,
            wal: true,
            background_jobs: 2,
            open_files_max: 1024,
        }
    }
}

/// Opens the engine in `path`, which is created if it is absent, and recovers what a crash left.
///
/// # Errors
/// `NotAvailable` for kinds that cannot be opened yet; `Locked`, `ReadOnly`, `Corruption`,
/// `MissingFamily`, `NewerFormat`, `Full` or `Io` as what is found there demands.
pub fn open(kind: EngineKind, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn Engine>> {
    match kind {
        EngineKind::RocksDb => Ok(Arc::new(RocksEngine::open(path, settings)?)),
        EngineKind::BTree | EngineKind::Memory => Err(EngineError::NotAvailable(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_not_there_yet_say_so() {
        for kind in [EngineKind::BTree, EngineKind::Memory] {
            let error = open(kind, Path::new("/nonexistent"), &EngineSettings::default())
                .err()
                .expect("refused");
            assert_eq!(error, EngineError::NotAvailable(kind));
            assert!(error.to_string().contains("not yet available"), "{error}");
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("redb".parse::<EngineKind>().is_err());
    }
}
