//! Cuts ranges that are too large or too busy.

use crate::planning::Planning;
use crate::{Policy, RangeView, SplitAt, Step};
use rangedb_types::ReplicaRole;
use std::cmp::Reverse;

/// Asks for the most urgent splits.
pub(crate) fn split(planning: &mut Planning<'_>) {
    let mut due = Vec::new();
    for (index, range) in planning.view.ranges.iter().enumerate() {
        let Some((percent, at)) = excess(range, planning.policy) else { continue };
        if !planning.is_busy(index) && can_split(planning, index) {
            due.push((Reverse(percent), range.descriptor.range_id, index, at));
        }
    }
    due.sort_unstable_by_key(|(percent, range_id, ..)| (*percent, *range_id));
    let most = planning.policy.splits_max;
    for (_, range_id, _, _) in due.iter().skip(most) {
        planning.explanation.wait(|| {
            format!("range {range_id} is to be split, and waits for others ({most} at once)")
        });
    }
    for (Reverse(percent), _, index, at) in due.into_iter().take(most) {
        let why = match at {
            SplitAt::Size => format!("its size is {percent} % of the largest wanted"),
            SplitAt::Load | SplitAt::Key(_) => {
                format!("its load is {percent} % of the highest wanted")
            }
        };
        planning.ask(index, Step::Split { at }, why);
    }
}

/// By how much a range is over its limits, in percent of them.
fn excess(range: &RangeView, policy: &Policy) -> Option<(u64, SplitAt)> {
    let percent = |value: u64, limit: u64| match limit {
        0 => 0,
        _ => u64::try_from(u128::from(value) * 100 / u128::from(limit)).unwrap_or(u64::MAX),
    };
    let size_bytes = range.size_bytes.unwrap_or(0);
    if policy.split_size_bytes > 0 && size_bytes > policy.split_size_bytes {
        return Some((percent(size_bytes, policy.split_size_bytes), SplitAt::Size));
    }
    let load = percent(range.requests(), policy.split_requests_per_second)
        .max(percent(range.bytes_written_per_second, policy.split_bytes_per_second));
    (range.load_splittable && load > 100).then_some((load, SplitAt::Load))
}

/// True if nothing else is under way, and every learner has its data.
fn can_split(planning: &Planning<'_>, index: usize) -> bool {
    let range = planning.range(index);
    range.leader.is_some()
        && range.merging.is_none()
        && !planning.pairs.is_frozen(index)
        && !range.descriptor.is_joint()
        && !planning.victims.contains_key(&index)
        && range
            .descriptor
            .with_role(ReplicaRole::Learner)
            .all(|learner| range.caught_up.contains(&learner.replica_id))
}
