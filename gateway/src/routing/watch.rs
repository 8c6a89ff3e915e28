//! Routes kept fresh by what placement tells.
//!
//! Owns: how far the watch has come. Invariants: it only changes what is cached, so that a gateway that
//! serves ten ranges does not fill its cache with the others; it never makes a lookup, so that a change
//! that every gateway hears of at once brings no calls upon placement.

use super::Routes;
use super::route::Route;
use crate::watch::Watch;
use rangedb_placement_client::PlacementRpc;
use rangedb_proto::internal::v1::{RangeChanges, WatchRangesRequest};
use std::sync::Arc;
use tonic::{Code, Response, Status, Streaming};

pub(super) struct RouteWatch {
    routes: Arc<Routes>,
    /// Changes up to this revision were heard of; 0: of none.
    heard: u64,
}

impl RouteWatch {
    pub(super) const fn new(routes: Arc<Routes>) -> Self {
        Self { routes, heard: 0 }
    }
}

impl Watch for RouteWatch {
    type Message = RangeChanges;

    const NAME: &'static str = "changes of ranges";

    async fn open(
        &self,
        mut rpc: PlacementRpc,
    ) -> Result<Response<Streaming<RangeChanges>>, Status> {
        rpc.watch_ranges(WatchRangesRequest { after_revision: self.heard }).await
    }

    fn take_in(&mut self, changes: RangeChanges) {
        self.routes.changed(changes.routes.iter().filter_map(|route| {
            Route::from_wire(route)
                .inspect_err(|error| tracing::warn!(%error, "placement sent a bad route"))
                .ok()
        }));
        self.heard = self.heard.max(changes.revision);
    }

    fn refused(&mut self, status: &Status) {
        if status.code() == Code::OutOfRange {
            // Away for too long. What is stale is found by asking, as without a watch.
            self.heard = 0;
        }
    }
}
