//! What another node claims of the ranges it leads.

use crate::store::Store;
use crate::store::closed::ClosedClaim;
use rangedb_proto::internal::v1::{ClosedRange, ClosedTimestamps};
use rangedb_types::{RangeId, Timestamp};

/// Takes a message in.
pub fn hear(store: &Store, message: &ClosedTimestamps) {
    let version = Timestamp(message.version);
    for range in &message.ranges {
        if let Some(handle) = store.replica(RangeId(range.range_id)) {
            let claim = ClosedClaim { version, index: range.index };
            handle.closed().hear(claim, handle.applied_index());
        }
    }
    for range in &message.asleep {
        hear_of_sleep(store, version, range);
    }
}

/// The leader proved nothing: it takes this replica's own sleep to know that nobody else was elected.
fn hear_of_sleep(store: &Store, version: Timestamp, range: &ClosedRange) {
    let Some(handle) = store.replica(RangeId(range.range_id)) else { return };
    let agrees = handle.nap().is_some_and(|nap| {
        !nap.leads && nap.sleep.term == range.term && nap.sleep.index == range.index
    });
    if agrees {
        let claim = ClosedClaim { version, index: range.index };
        handle.closed().hear(claim, handle.applied_index());
    }
}
