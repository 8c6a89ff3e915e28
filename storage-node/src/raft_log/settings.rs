//! The settings of the Raft log store.

use rangedb_service::settings::Bytes;
use serde::{Deserialize, Serialize};

/// Files larger than this make purging coarse.
const FILE_BYTES_MAX: u64 = 64 << 20;
const FILE_BYTES_MIN: u64 = 64 << 10;

/// How the log of a node is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Size of one log file, at most 64 MiB.
    pub file_bytes: Bytes,
    /// Once the files take more than this, old ones are given back: what is still needed of them is
    /// written again, and replicas that keep much of them are asked to truncate. The disk may hold
    /// one and a half times as much.
    pub purge_threshold: Bytes,
    /// Write the files out before they are used: faster appends for one and a half times
    /// `purge_threshold` of disk from the start.
    pub prefill: bool,
    /// Memory for recent entries of all replicas.
    pub cache_bytes: Bytes,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            // What an idle node keeps of its log, nobody else can use: it is to be little.
            file_bytes: Bytes(16 << 20),
            purge_threshold: Bytes(96 << 20),
            prefill: false,
            cache_bytes: Bytes(64 << 20),
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogSettingsError {
    #[error("raft_log.file_bytes is {0}; set it to 64KiB at least and 64MiB at most")]
    FileBytes(Bytes),
    #[error("raft_log.purge_threshold is {0}; set it to four times raft_log.file_bytes at least")]
    PurgeThreshold(Bytes),
}

impl LogSettings {
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), LogSettingsError> {
        if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&self.file_bytes.0) {
            return Err(LogSettingsError::FileBytes(self.file_bytes));
        }
        if self.purge_threshold.0 / 4 < self.file_bytes.0 {
            return Err(LogSettingsError::PurgeThreshold(self.purge_threshold));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_nonsense_is_refused() {
        let settings = LogSettings::default();
        assert_eq!(settings.check(), Ok(()));
        let big = LogSettings { file_bytes: Bytes(65 << 20), ..settings.clone() };
        assert!(matches!(big.check(), Err(LogSettingsError::FileBytes(_))));
        let tight = LogSettings { purge_threshold: Bytes(32 << 20), ..settings };
        assert!(matches!(tight.check(), Err(LogSettingsError::PurgeThreshold(_))));
    }
}
