//! The settings of snapshots.

use rangedb_service::settings::{Bytes, Period};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Below this a chunk would take longer than a stall may last.
const BANDWIDTH_MIN: u64 = 1 << 20;

/// How snapshots are sent and received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSettings {
    /// Bytes a second of all snapshots that this node sends.
    pub bandwidth: Bytes,
    /// Snapshots sent at once.
    pub sends_max: usize,
    /// Snapshots received at once.
    pub receives_max: usize,
    /// A peer that takes or sends nothing for so long is given up.
    pub stall_timeout: Period,
    /// How long the peer may take to install.
    pub receipt_timeout: Period,
    /// A snapshot is refused if the disk has less space left.
    pub disk_reserve: Bytes,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            bandwidth: Bytes(100 << 20),
            sends_max: 2,
            receives_max: 2,
            stall_timeout: Period(Duration::from_secs(20)),
            receipt_timeout: Period(Duration::from_secs(120)),
            disk_reserve: Bytes(256 << 20),
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotSettingsError {
    #[error("snapshots.bandwidth is {0} a second; set it to 1MiB at least")]
    Bandwidth(Bytes),
    #[error("snapshots.sends_max and snapshots.receives_max must be 1 at least")]
    Concurrency,
}

impl SnapshotSettings {
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), SnapshotSettingsError> {
        if self.bandwidth.0 < BANDWIDTH_MIN {
            return Err(SnapshotSettingsError::Bandwidth(self.bandwidth));
        }
        if self.sends_max == 0 || self.receives_max == 0 {
            return Err(SnapshotSettingsError::Concurrency);
        }
        Ok(())
    }
}
