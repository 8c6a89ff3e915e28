//! How large the node's ranges and disk are, and how much is asked of them.

use super::metrics;
use crate::access::{RangeStates, Totals};
use crate::raft_log::RaftLog;
use parking_lot::Mutex;
use rangedb_engine::Engine;
use rangedb_types::{RangeId, Span};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// In the data folder; holds nothing.
const PROBE_FILE: &str = "PROBE";
const PROBE_BYTES: usize = 512;

/// What measuring asks.
pub struct Measures {
    engine: Arc<dyn Engine>,
    log: Arc<dyn RaftLog>,
    states: Arc<RangeStates>,
    /// The data folder, for the size of its disk.
    path: PathBuf,
    /// How much of the disk is the node's; 0: all of it.
    disk_capacity: u64,
    before: Mutex<HashMap<RangeId, (Totals, Instant)>>,
    disk_sync: Mutex<SyncTimes>,
}

/// How long synced writes took at the last few looks.
#[derive(Default)]
struct SyncTimes {
    last: [Duration; 3],
    told: Duration,
}

impl SyncTimes {
    /// One slow look says nothing, so the fastest of the last few counts; and what was slow is told for
    /// a while, so that a node does not get its leaderships back at once.
    fn add(&mut self, now: Duration) -> Duration {
        self.last.rotate_left(1);
        self.last[2] = now;
        let steady = self.last.into_iter().min().unwrap_or_default();
        self.told = steady.max(self.told * 9 / 10);
        self.told
    }
}

/// What a range was asked lately, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub reads: u64,
    pub writes: u64,
    pub bytes_written: u64,
    /// A key is known that halves the load.
    pub splittable: bool,
}

/// A range to be measured.
pub struct Subject {
    pub range_id: RangeId,
    pub span: Span,
    /// False if it was never measured how large it is.
    pub size_known: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    /// How long a synced write takes lately.
    pub disk_sync: Duration,
    /// Of those ranges whose size was not known.
    pub range_bytes: HashMap<RangeId, u64>,
    pub rates: HashMap<RangeId, Rates>,
}

/// What a disk holds, whoever put it there, and what more may be put there.
#[derive(Clone, Copy)]
struct Disk {
    taken: u64,
    available: u64,
}

impl Disk {
    /// Capacity and what is left of it, for a node that holds `used` bytes and may hold `limit`; 0: no
    /// limit. What the file system keeps back for its administrator is no part of either.
    fn share(self, limit: u64, used: u64) -> (u64, u64) {
        let capacity = self.taken.saturating_add(self.available);
        if limit == 0 || limit >= capacity {
            return (capacity, self.available);
        }
        (limit, limit.saturating_sub(used).min(self.available))
    }
}

impl Measures {
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        log: Arc<dyn RaftLog>,
        states: Arc<RangeStates>,
        path: PathBuf,
        disk_capacity: u64,
    ) -> Self {
        Self {
            engine,
            log,
            states,
            path,
            disk_capacity,
            before: Mutex::default(),
            disk_sync: Mutex::default(),
        }
    }

    /// Measures now. Blocks.
    pub(super) fn take(&self, ranges: &[Subject]) -> Measured {
        let unknown = ranges.iter().filter(|range| !range.size_known);
        let range_bytes = unknown.map(|range| {
            let bounds = rangedb_mvcc::bounds(&range.span);
            (range.range_id, self.engine.approximate_size(&bounds.lower, &bounds.upper))
        });
        let usage = self.engine.disk_usage();
        let mut measured = Measured {
            used_bytes: usage.file_bytes + usage.log_bytes + self.log.size_bytes(),
            range_bytes: range_bytes.collect(),
            rates: self.rates(ranges),
            disk_sync: self.sync_time(),
            ..Measured::default()
        };
        match rustix::fs::statvfs(&self.path) {
            Ok(disk) => {
                let blocks = |count: u64| count.saturating_mul(disk.f_frsize);
                let disk = Disk {
                    taken: blocks(disk.f_blocks.saturating_sub(disk.f_bfree)),
                    available: blocks(disk.f_bavail),
                };
                (measured.capacity_bytes, measured.available_bytes) =
                    disk.share(self.disk_capacity, measured.used_bytes);
            }
            Err(error) => tracing::warn!(%error, "the size of the disk cannot be read"),
        }
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics::DISK.with_label_values(&["used"]).set(gauge(measured.used_bytes));
        metrics::DISK.with_label_values(&["available"]).set(gauge(measured.available_bytes));
        metrics::DISK.with_label_values(&["capacity"]).set(gauge(measured.capacity_bytes));
        measured
    }

    /// What synced writes take: those of the log, or a probe, whichever is slower.
    fn sync_time(&self) -> Duration {
        let probe = match probe(&self.path) {
            Ok(time) => time,
            Err(error) => {
                tracing::warn!(%error, "the disk cannot be probed");
                Duration::ZERO
            }
        };
        let now = self.log.take_sync_time().unwrap_or_default().max(probe);
        self.disk_sync.lock().add(now)
    }

    fn rates(&self, ranges: &[Subject]) -> HashMap<RangeId, Rates> {
        let now = Instant::now();
        let mut before = self.before.lock();
        let mut after = HashMap::with_capacity(ranges.len());
        let mut rates = HashMap::new();
        for range in ranges {
            let Some(state) = self.states.get(range.range_id) else { continue };
            let totals = state.traffic.totals();
            after.insert(range.range_id, (totals, now));
            let Some((old, then)) = before.get(&range.range_id) else { continue };
            let seconds = now.duration_since(*then).as_secs_f64();
            if seconds <= 0.0 || *old == totals {
                continue;
            }
            let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds) as u64;
            let rate = Rates {
                reads: rate(totals.reads, old.reads),
                writes: rate(totals.writes, old.writes),
                bytes_written: rate(totals.bytes_written, old.bytes_written),
                splittable: state.traffic.split_key(&range.span).is_some(),
            };
            rates.insert(range.range_id, rate);
        }
        *before = after;
        rates
    }
}

/// Writes a little, and waits until it is on the disk.
fn probe(folder: &Path) -> std::io::Result<Duration> {
    let begun = Instant::now();
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(false).write(true).open(folder.join(PROBE_FILE))?;
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_data()?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_once_it_stays_so_and_for_a_while_after() {
        let millis = Duration::from_millis;
        let mut times = SyncTimes::default();
        assert_eq!(
            times.add(millis(900)),
            Duration::ZERO,
            "the first look is not to be relied upon"
        );
        times.add(millis(4));
        assert_eq!(times.add(millis(5)), millis(4));
        times.add(millis(500));
        times.add(millis(300));
        assert_eq!(times.add(millis(400)), millis(300));
        assert_eq!(times.add(millis(1)), millis(270));
    }

    #[test]
    fn a_node_has_the_disk_or_its_share_of_it() {
        let disk = Disk { taken: 70, available: 20 };
        assert_eq!(disk.share(0, 5), (90, 20), "all of it");
        assert_eq!(disk.share(1_000, 5), (90, 20), "more than there is");
        assert_eq!(disk.share(30, 18), (30, 12));
        assert_eq!(disk.share(30, 5), (30, 20), "others have taken the rest");
        assert_eq!(disk.share(30, 40), (30, 0));
    }
}
