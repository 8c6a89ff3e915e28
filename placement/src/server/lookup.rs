//! Routes: which ranges hold a span, and who leads them.

use crate::leader::Office;
use crate::metrics::LOOKUPS;
use crate::state::State;
use crate::view::View;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{MonotonicTime, RangeDescriptor, Span};
use tonic::Status;

/// Most routes in one answer, and how many are given if the caller does not say.
const ROUTES_MAX: usize = 1_000;

pub(super) fn routes(
    office: &Office,
    request: &wire::LookupRangesRequest,
) -> Result<Vec<wire::Route>, Status> {
    let span = Span::new(request.start.to_vec(), request.end.to_vec())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let limit = match request.limit as usize {
        0 => ROUTES_MAX,
        limit => limit.min(ROUTES_MAX),
    };
    LOOKUPS.inc();
    Ok(office.look(|state, view, now| {
        state.ranges_overlapping(&span).take(limit).map(|range| route(view, range, now)).collect()
    }))
}

/// The route of a stored range, with its leader if that was heard from lately.
pub(super) fn route(view: &View, stored: &RangeDescriptor, now: MonotonicTime) -> wire::Route {
    let range = freshest(view, stored);
    let leader = view
        .leader_of(range.range_id, now)
        .and_then(|node_id| range.replica_on(node_id))
        .map_or(0, |replica| replica.replica_id.get());
    wire::Route { range: Some(range.into()), leader_replica_id: leader }
}

/// The newer of what is stored and what was reported, as long as the bounds are the same: only the
/// stored ones are known not to overlap.
pub(super) fn freshest<'a>(view: &'a View, stored: &'a RangeDescriptor) -> &'a RangeDescriptor {
    view.range(stored.range_id)
        .map(|reported| &reported.descriptor)
        .filter(|reported| {
            reported.epoch.version == stored.epoch.version && reported.epoch.at_least(stored.epoch)
        })
        .unwrap_or(stored)
}

/// One page of ranges that overlap a span, and whether there are more.
pub(super) fn page<'a>(
    state: &'a State,
    span: &'a Span,
    limit: usize,
) -> (Vec<&'a RangeDescriptor>, Option<&'a RangeDescriptor>) {
    let mut ranges = state.ranges_overlapping(span);
    let page: Vec<_> = ranges.by_ref().take(limit).collect();
    (page, ranges.next())
}
