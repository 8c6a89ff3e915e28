//! How large the node's ranges and disk are.

use super::metrics;
use crate::raft_log::RaftLog;
use rangedb_engine::Engine;
use rangedb_types::{RangeId, Span};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What measuring asks.
pub struct Measures {
    pub engine: Arc<dyn Engine>,
    pub log: Arc<dyn RaftLog>,
    /// The data folder, for the size of its disk.
    pub path: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub range_bytes: HashMap<RangeId, u64>,
}

impl Measures {
    /// Measures now. Blocks.
    pub(super) fn take(&self, ranges: &[(RangeId, Span)]) -> Measured {
        let range_bytes = ranges.iter().map(|(range_id, span)| {
            let bounds = rangedb_mvcc::bounds(span);
            (*range_id, self.engine.approximate_size(&bounds.lower, &bounds.upper))
        });
        let usage = self.engine.disk_usage();
        let mut measured = Measured {
            used_bytes: usage.file_bytes + usage.log_bytes + self.log.size_bytes(),
            range_bytes: range_bytes.collect(),
            ..Measured::default()
        };
        match rustix::fs::statvfs(&self.path) {
            Ok(disk) => {
                measured.capacity_bytes = disk.f_blocks * disk.f_frsize;
                measured.available_bytes = disk.f_bavail * disk.f_frsize;
            }
            Err(error) => tracing::warn!(%error, "the size of the disk cannot be read"),
        }
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics::DISK.with_label_values(&["used"]).set(gauge(measured.used_bytes));
        metrics::DISK.with_label_values(&["available"]).set(gauge(measured.available_bytes));
        metrics::DISK.with_label_values(&["capacity"]).set(gauge(measured.capacity_bytes));
        measured
    }
}
