//! What a beat says: everything at first, then what changed. Ranges that nobody uses are not even
//! looked at.

use super::measure::{Measured, Subject};
use super::metrics;
use crate::store::ReplicaStatus;
use rangedb_proto::internal::v1::{Heartbeat, MergeIntent, RangeReport};
use rangedb_types::{RangeId, ReplicaId};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Every so many beats all ranges are looked at, whatever is listed: should anything ever have been
/// missed, it is told then.
const BEATS_BETWEEN_ALL: u32 = 60;

/// The node's replicas at a glance.
pub trait Replicas {
    fn replicas_count(&self) -> usize;
    fn range_ids(&self) -> Vec<RangeId>;
    /// The ranges that may have changed since the last call, or are gone.
    fn take_listed(&self) -> Vec<RangeId>;
    /// The range's replica, which is listed again once it changes.
    fn look(&self, range_id: RangeId) -> Option<ReplicaStatus>;
}

/// What placement was told on this stream.
#[derive(Default)]
pub(super) struct Delta {
    told: HashMap<RangeId, RangeReport>,
    /// To be looked at for the next beat.
    due: BTreeSet<RangeId>,
    /// Listed since they were measured last, or never measured.
    used: BTreeSet<RangeId>,
    beats: u32,
}

impl Delta {
    /// The next beat. It counts as told.
    pub(super) fn beat(
        &mut self,
        hosted: &(impl Replicas + ?Sized),
        measured: &Measured,
    ) -> Heartbeat {
        self.collect(hosted);
        if self.beats.is_multiple_of(BEATS_BETWEEN_ALL) {
            self.due.extend(hosted.range_ids());
            self.due.extend(self.told.keys());
        }
        self.beats = self.beats.wrapping_add(1);
        let (mut ranges, mut lost) = (Vec::new(), Vec::new());
        for range_id in std::mem::take(&mut self.due) {
            let status = hosted.look(range_id);
            if status.as_ref().is_some_and(|status| status.size_bytes.is_none()) {
                self.used.insert(range_id);
            }
            let Some(status) = status.filter(|status| status.is_leader) else {
                lost.extend(self.told.remove(&range_id).map(|_| range_id.get()));
                continue;
            };
            let report = report(&status, measured);
            // What was told stays the measure: small steps must add up.
            if self.told.get(&range_id).is_none_or(|known| differs(known, &report)) {
                ranges.push(report.clone());
                self.told.insert(range_id, report);
            }
        }
        let replicas = hosted.replicas_count();
        metrics::REPLICAS.set(i64::try_from(replicas).unwrap_or(i64::MAX));
        metrics::LEADERS.set(i64::try_from(self.told.len()).unwrap_or(i64::MAX));
        Heartbeat {
            capacity_bytes: measured.capacity_bytes,
            available_bytes: measured.available_bytes,
            used_bytes: measured.used_bytes,
            replicas: replicas as u64,
            leaders: self.told.len() as u64,
            ranges,
            lost_leaderships: lost,
            disk_sync_micros: micros(measured.disk_sync),
        }
    }

    fn collect(&mut self, hosted: &(impl Replicas + ?Sized)) {
        for range_id in hosted.take_listed() {
            self.due.insert(range_id);
            self.used.insert(range_id);
        }
    }

    /// The load that was measured may have to be told, or that there is none any more.
    pub(super) fn measured(&mut self, before: &Measured, now: &Measured) {
        self.due.extend(before.rates.keys().chain(now.rates.keys()));
    }

    /// What is to be measured now: the led ranges that were used since the last time, or had any load
    /// then, and all that were never measured.
    pub(super) fn subjects(
        &mut self,
        hosted: &(impl Replicas + ?Sized),
        before: &Measured,
    ) -> Vec<Subject> {
        self.collect(hosted);
        let mut used = std::mem::take(&mut self.used);
        used.extend(before.rates.keys());
        let subjects = used.into_iter().filter_map(|range_id| {
            // What is looked at is not listed again for what it was already.
            self.due.insert(range_id);
            // Followers are measured, too, before much that is counted has reached their files.
            let wanted = |status: &ReplicaStatus| status.is_leader || status.size_bytes.is_none();
            let status = hosted.look(range_id).filter(wanted)?;
            let span = status.descriptor.span.clone();
            Some(Subject { range_id, span, size_known: status.size_bytes.is_some() })
        });
        subjects.collect()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
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
    use crate::heartbeat::measure::Rates;
    use rangedb_types::{Epoch, RangeDescriptor, Span};
    use std::cell::RefCell;
    use std::collections::BTreeMap;
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
            size_bytes: Some(0),
            frozen: None,
            slowest_match: 0,
        }
    }

    fn told(beat: &Heartbeat) -> Vec<u64> {
        let id = |report: &RangeReport| report.range.as_ref().map_or(0, |range| range.range_id);
        beat.ranges.iter().map(id).collect()
    }

    /// Replicas that say of themselves when they have changed.
    #[derive(Default)]
    struct Fake {
        statuses: RefCell<BTreeMap<RangeId, ReplicaStatus>>,
        listed: RefCell<Vec<RangeId>>,
    }

    impl Fake {
        fn set(&self, status: ReplicaStatus) {
            let range_id = status.descriptor.range_id;
            self.statuses.borrow_mut().insert(range_id, status);
            self.listed.borrow_mut().push(range_id);
        }

        fn remove(&self, range_id: RangeId) {
            self.statuses.borrow_mut().remove(&range_id);
            self.listed.borrow_mut().push(range_id);
        }
    }

    impl Replicas for Fake {
        fn replicas_count(&self) -> usize {
            self.statuses.borrow().len()
        }

        fn range_ids(&self) -> Vec<RangeId> {
            self.statuses.borrow().keys().copied().collect()
        }

        fn take_listed(&self) -> Vec<RangeId> {
            self.listed.take()
        }

        fn look(&self, range_id: RangeId) -> Option<ReplicaStatus> {
            self.statuses.borrow().get(&range_id).cloned()
        }
    }

    #[test]
    fn only_changes_are_told_after_the_first_beat() {
        let (mut delta, measured) = (Delta::default(), Measured::default());
        let here = Fake::default();
        let all = [status(1, true, 5), status(2, true, 5), status(3, false, 5)];
        here.statuses.borrow_mut().extend(all.map(|status| (status.descriptor.range_id, status)));
        let first = delta.beat(&here, &measured);
        assert_eq!((told(&first), first.replicas, first.leaders), (vec![1, 2], 3, 2));
        here.set(status(1, true, 99));
        let same = delta.beat(&here, &measured);
        assert!(told(&same).is_empty() && same.lost_leaderships.is_empty());
        here.set(ReplicaStatus { size_bytes: Some(100_000), ..status(2, true, 5) });
        let mut caught_up = status(1, true, 99);
        caught_up.caught_up.push(ReplicaId(8));
        here.set(caught_up);
        assert_eq!(told(&delta.beat(&here, &measured)), [1, 2]);
        here.set(status(2, false, 5));
        let lost = delta.beat(&here, &measured);
        assert_eq!((told(&lost), lost.lost_leaderships), (vec![], vec![2]));
        here.remove(RangeId(1));
        let gone = delta.beat(&here, &measured);
        assert_eq!((gone.replicas, gone.lost_leaderships), (2, vec![1]));
        assert!(delta.beat(&here, &measured).lost_leaderships.is_empty());
    }

    #[test]
    fn only_ranges_in_use_are_measured_and_the_end_of_their_load_is_told() {
        let mut delta = Delta::default();
        let here = Fake::default();
        let (idle, mut busy) = (Measured::default(), Measured::default());
        let all = [status(1, true, 5), status(2, true, 5), status(3, false, 5)];
        here.statuses.borrow_mut().extend(all.map(|status| (status.descriptor.range_id, status)));
        drop(delta.beat(&here, &idle));
        assert!(delta.subjects(&here, &idle).is_empty(), "nobody uses any");
        here.statuses.borrow_mut().get_mut(&RangeId(2)).unwrap().size_bytes = None;
        let mut later = Delta::default();
        drop(later.beat(&here, &idle));
        assert_eq!(later.subjects(&here, &idle).len(), 1, "nobody ever measured it");
        here.set(status(2, true, 5));
        here.listed.take();
        here.set(status(1, true, 6));
        here.set(status(3, false, 6));
        let subjects = delta.subjects(&here, &idle);
        let ids =
            |subjects: &[Subject]| subjects.iter().map(|it| it.range_id.0).collect::<Vec<_>>();
        assert_eq!(ids(&subjects), [1], "the one in use that is led here");
        let rates = Rates { writes: 50, ..Rates::default() };
        busy.rates.insert(RangeId(1), rates);
        delta.measured(&idle, &busy);
        let beat = delta.beat(&here, &busy);
        assert_eq!((told(&beat), beat.ranges[0].writes_per_second), (vec![1], 50));
        assert_eq!(ids(&delta.subjects(&here, &busy)), [1], "it had load");
        delta.measured(&busy, &idle);
        let beat = delta.beat(&here, &idle);
        assert_eq!((told(&beat), beat.ranges[0].writes_per_second), (vec![1], 0));
        assert!(delta.subjects(&here, &idle).is_empty());
    }

    #[test]
    fn now_and_then_all_are_looked_at() {
        let (mut delta, measured) = (Delta::default(), Measured::default());
        let here = Fake::default();
        drop(delta.beat(&here, &measured));
        here.statuses.borrow_mut().insert(RangeId(1), status(1, true, 5));
        let beats = (0..BEATS_BETWEEN_ALL).map(|_| told(&delta.beat(&here, &measured)).len());
        assert_eq!(beats.sum::<usize>(), 1, "though nobody listed it");
    }
}
