//! What a beat says: everything at first, then what changed.

use super::measure::Measured;
use super::metrics;
use crate::store::ReplicaStatus;
use rangedb_proto::internal::v1::{Heartbeat, MergeIntent, RangeReport};
use rangedb_types::{RangeId, ReplicaId};
use std::collections::HashMap;

/// What placement was told on this stream.
#[derive(Default)]
pub(super) struct Delta {
    told: HashMap<RangeId, RangeReport>,
}

impl Delta {
    /// The next beat. It counts as told.
    pub(super) fn beat(&mut self, statuses: &[ReplicaStatus], measured: &Measured) -> Heartbeat {
        let mut ranges = Vec::new();
        let mut led = HashMap::new();
        for status in statuses.iter().filter(|status| status.is_leader) {
            let range_id = status.descriptor.range_id;
            let report = report(status, measured);
            match self.told.remove(&range_id) {
                // What was told stays the measure: small steps must add up.
                Some(known) if !differs(&known, &report) => led.insert(range_id, known),
                _ => {
                    ranges.push(report.clone());
                    led.insert(range_id, report)
                }
            };
        }
        let mut lost: Vec<u64> = self.told.keys().map(|range_id| range_id.get()).collect();
        lost.sort_unstable();
        self.told = led;
        metrics::REPLICAS.set(i64::try_from(statuses.len()).unwrap_or(i64::MAX));
        metrics::LEADERS.set(i64::try_from(self.told.len()).unwrap_or(i64::MAX));
        Heartbeat {
            capacity_bytes: measured.capacity_bytes,
            available_bytes: measured.available_bytes,
            used_bytes: measured.used_bytes,
            replicas: statuses.len() as u64,
            leaders: self.told.len() as u64,
            ranges,
            lost_leaderships: lost,
        }
    }
}

fn report(status: &ReplicaStatus, measured: &Measured) -> RangeReport {
    let ids = |ids: &[ReplicaId]| ids.iter().map(|id| id.get()).collect();
    let range_id = status.descriptor.range_id;
    let rates = measured.rates.get(&range_id).copied().unwrap_or_default();
    RangeReport {
        range: Some((&*status.descriptor).into()),
        term: status.term,
        size_bytes: status
            .size_bytes
            .or_else(|| measured.range_bytes.get(&range_id).copied())
            .unwrap_or(0),
        caught_up_replica_ids: ids(&status.caught_up),
        down_replica_ids: ids(&status.down),
        applied_index: status.applied_index,
        reads_per_second: rates.reads,
        writes_per_second: rates.writes,
        bytes_written_per_second: rates.bytes_written,
        load_splittable: rates.splittable,
        merging: status.frozen.map(|freeze| MergeIntent {
            left_range_id: freeze.name.left_range_id.get(),
            left_version: freeze.name.left_version,
        }),
    }
}

/// What moves with every write is worth a report only once it has moved far: the applied index
/// never, sizes and rates by a tenth and a bit.
fn differs(told: &RangeReport, now: &RangeReport) -> bool {
    let far = |told: u64, now: u64, bit: u64| told.abs_diff(now) > told.max(now) / 10 + bit;
    let comparable = RangeReport {
        applied_index: now.applied_index,
        size_bytes: now.size_bytes,
        reads_per_second: now.reads_per_second,
        writes_per_second: now.writes_per_second,
        bytes_written_per_second: now.bytes_written_per_second,
        ..told.clone()
    };
    comparable != *now
        || far(told.size_bytes, now.size_bytes, 64 << 10)
        || far(told.reads_per_second, now.reads_per_second, 10)
        || far(told.writes_per_second, now.writes_per_second, 10)
        || far(told.bytes_written_per_second, now.bytes_written_per_second, 64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{Epoch, RangeDescriptor, Span};
    use std::sync::Arc;

    fn status(range_id: u64, is_leader: bool, applied_index: u64) -> ReplicaStatus {
        let descriptor = RangeDescriptor {
            range_id: RangeId(range_id),
            span: Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas: Vec::new(),
        };
        ReplicaStatus {
            descriptor: Arc::new(descriptor),
            replica_id: ReplicaId(range_id),
            leader: None,
            is_leader,
            term: 6,
            applied_index,
            last_index: applied_index,
            caught_up: Vec::new(),
            down: Vec::new(),
            size_bytes: None,
            frozen: None,
            slowest_match: 0,
        }
    }

    fn told(beat: &Heartbeat) -> Vec<u64> {
        let id = |report: &RangeReport| report.range.as_ref().map_or(0, |range| range.range_id);
        beat.ranges.iter().map(id).collect()
    }

    #[test]
    fn only_changes_are_told_after_the_first_beat() {
        let mut delta = Delta::default();
        let mut measured = Measured::default();
        let first =
            delta.beat(&[status(1, true, 5), status(2, true, 5), status(3, false, 5)], &measured);
        assert_eq!((told(&first), first.replicas, first.leaders), (vec![1, 2], 3, 2));
        let same = delta.beat(&[status(1, true, 99), status(2, true, 5)], &measured);
        assert!(told(&same).is_empty() && same.lost_leaderships.is_empty());
        measured.range_bytes.insert(RangeId(2), 100_000);
        let mut caught_up = status(1, true, 99);
        caught_up.caught_up.push(ReplicaId(8));
        assert_eq!(told(&delta.beat(&[caught_up.clone(), status(2, true, 5)], &measured)), [1, 2]);
        let lost = delta.beat(&[caught_up.clone(), status(2, false, 5)], &measured);
        assert_eq!((told(&lost), lost.lost_leaderships.clone()), (vec![], vec![2]));
        let none = delta.beat(&[caught_up, status(2, false, 5)], &measured);
        assert!(none.lost_leaderships.is_empty());
    }
}
