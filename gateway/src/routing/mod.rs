//! Which range holds a key, and which node leads it.
//!
//! Owns: the route cache and its lookups at placement. Must not know: links, operations' results.
//! Invariants: at most one lookup is in flight for one unknown stretch of keys, however many callers
//! wait; a failed lookup removes nothing, so known routes outlive placement.

mod cache;
mod route;
mod watch;

pub use cache::RouteCache;
pub use route::Route;

use crate::metrics::Metrics;
use crate::operation::Place;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::{Mutex, RwLock};
use rangedb_placement_client::{PlacementClient, PlacementError};
use rangedb_proto::internal::v1::{LookupRangesRequest, LookupRangesResponse};
use rangedb_types::{NodeId, RangeDescriptor, RangeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Routes asked for in one lookup.
const LOOKUP_ROUTES_MAX: u32 = 256;
/// Lookups in one search for a place: enough to walk a large gap before a bound, and an end.
const LOOKUPS_MAX: usize = 4096;
/// One lookup at placement; callers wait no longer than their own deadline.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// A refresh of a known route waits this long at most: the old route may still serve.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);

/// What a lookup in flight is about: the unknown keys after a known range, or that range again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stretch {
    After(Vec<u8>),
    EndingAt(Vec<u8>),
}

type Lookup = Shared<BoxFuture<'static, Result<Bytes, PlacementError>>>;

/// The gateway's view of the range map.
pub struct Routes {
    cache: RwLock<RouteCache>,
    lookups: Mutex<HashMap<Stretch, Lookup>>,
    placement: Arc<PlacementClient>,
    metrics: Arc<Metrics>,
}

impl Routes {
    #[must_use]
    pub fn new(
        placement: Arc<PlacementClient>,
        routes_max: usize,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cache: RwLock::new(RouteCache::new(routes_max)),
            lookups: Mutex::new(HashMap::new()),
            placement,
            metrics,
        })
    }

    /// A cached route.
    #[must_use]
    pub fn cached(&self, place: &Place) -> Option<Arc<Route>> {
        let found = self.cache.read().find(place).cloned();
        self.count(found.is_some());
        found
    }

    /// The cached route of a key.
    #[must_use]
    pub fn cached_at(&self, key: &[u8]) -> Option<Arc<Route>> {
        let cache = self.cache.read();
        let found = cache.at(key);
        if let Some(route) = found {
            route.mark_used();
        }
        self.count(found.is_some());
        found.cloned()
    }

    fn count(&self, found: bool) {
        if found {
            self.metrics.routes_found.inc();
        } else {
            self.metrics.routes_missed.inc();
        }
    }

    /// The cached route of a range.
    #[must_use]
    pub fn by_range(&self, range: RangeId) -> Option<Arc<Route>> {
        self.cache.read().by_range(range).cloned()
    }

    /// The route for a place, from the cache or from placement.
    ///
    /// # Errors
    /// Placement's, at the deadline.
    pub async fn find(
        self: &Arc<Self>,
        place: &Place,
        deadline: Instant,
    ) -> Result<Arc<Route>, PlacementError> {
        if let Some(route) = self.cached(place) {
            return Ok(route);
        }
        for _ in 0..LOOKUPS_MAX {
            let from = self.lookup_start(place);
            let end = self.lookup(from.clone(), false, deadline).await?;
            if let Some(route) = self.cache.read().find(place).cloned() {
                return Ok(route);
            }
            // A search below a bound walks on through a gap of many ranges; anything else that is
            // not there after a lookup is not in the map yet.
            let walks_on = matches!(place, Place::Below(_)) && end > from;
            if !walks_on {
                break;
            }
        }
        Err(PlacementError::NoLeader { reason: "the range map has no range for the key".into() })
    }

    /// The route of a range by its id: from the cache, or by walking placement's map.
    ///
    /// # Errors
    /// Placement's; `None` if the map has no such range.
    pub async fn find_range(
        self: &Arc<Self>,
        range: RangeId,
        deadline: Instant,
    ) -> Result<Option<Arc<Route>>, PlacementError> {
        let mut from = Bytes::new();
        for _ in 0..LOOKUPS_MAX {
            if let Some(route) = self.by_range(range) {
                return Ok(Some(route));
            }
            let end = self.lookup(from.clone(), true, deadline).await?;
            if end <= from {
                break; // The last range is unbounded.
            }
            from = end;
        }
        Ok(self.by_range(range))
    }

    /// Where to look up from. A key asks from itself on; a bound from the start of its gap.
    fn lookup_start(&self, place: &Place) -> Bytes {
        match place {
            Place::At(key) => key.clone(),
            Place::Below(_) => Bytes::from(self.cache.read().gap_start(place)),
        }
    }

    /// Asks placement again about a place whose route proved wrong. Keeps the old one on failure.
    pub async fn refresh(self: &Arc<Self>, place: &Place, deadline: Instant) {
        let from = match place {
            Place::At(key) => key.clone(),
            Place::Below(_) => match self.cache.read().find(place) {
                Some(route) => Bytes::copy_from_slice(&route.descriptor.span.start),
                None => return,
            },
        };
        let deadline = deadline.min(Instant::now() + REFRESH_TIMEOUT);
        if let Err(error) = self.lookup(from, true, deadline).await {
            tracing::debug!(%error, "could not refresh a route");
        }
    }

    /// Looks up the ranges from a key on, together with everybody who wants the same stretch.
    /// Gives the end of the last range found.
    async fn lookup(
        self: &Arc<Self>,
        from: Bytes,
        again: bool,
        deadline: Instant,
    ) -> Result<Bytes, PlacementError> {
        let lookup = self.join_lookup(from, again);
        tokio::time::timeout_at(deadline, lookup).await.unwrap_or_else(|_| {
            Err(PlacementError::NoLeader { reason: "no answer to a range lookup in time".into() })
        })
    }

    fn join_lookup(self: &Arc<Self>, from: Bytes, again: bool) -> Lookup {
        // Callers that miss in one gap share one lookup: the answer covers what follows its start,
        // and those it does not help ask again.
        let known_end = self.cache.read().gap_start(&Place::At(from.clone()));
        let stretch = if again { Stretch::EndingAt(known_end) } else { Stretch::After(known_end) };
        let mut lookups = self.lookups.lock();
        if let Some(lookup) = lookups.get(&stretch).filter(|lookup| lookup.peek().is_none()) {
            return lookup.clone();
        }
        let routes = Arc::clone(self);
        let key = stretch.clone();
        let lookup = async move {
            let result = routes.fetch(from).await;
            routes.lookups.lock().remove(&key);
            result
        };
        let lookup = lookup.boxed().shared();
        lookups.insert(stretch, lookup.clone());
        lookup
    }

    async fn fetch(&self, from: Bytes) -> Result<Bytes, PlacementError> {
        let request = LookupRangesRequest {
            start: from.clone(),
            end: Bytes::new(),
            limit: LOOKUP_ROUTES_MAX,
        };
        let answer = self
            .placement
            .call(
                |mut rpc| {
                    let request = request.clone();
                    async move { rpc.lookup_ranges(request).await }
                },
                Instant::now() + LOOKUP_TIMEOUT,
            )
            .await;
        let result = if answer.is_ok() { "ok" } else { "failed" };
        self.metrics.routes_fetched.with_label_values(&[result]).inc();
        answer.map(|answer| self.take_in(&answer, from))
    }

    fn take_in(&self, answer: &LookupRangesResponse, from: Bytes) -> Bytes {
        let mut end = from;
        let mut cache = self.cache.write();
        for route in &answer.routes {
            match Route::from_wire(route) {
                Ok(route) => {
                    end = Bytes::copy_from_slice(&route.descriptor.span.end);
                    let leader = route.leader();
                    cache.insert(route.descriptor, leader);
                }
                Err(error) => tracing::warn!(%error, "placement sent a bad route"),
            }
        }
        self.metrics.routes_cached.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        end
    }

    /// Follows placement's changes of ranges until cancelled.
    pub async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let placement = Arc::clone(&self.placement);
        crate::watch::watch(watch::RouteWatch::new(self), &placement, &cancel).await;
    }

    /// Placement says that these ranges changed.
    fn changed(&self, routes: impl Iterator<Item = Route>) {
        let mut cache = self.cache.write();
        // All are looked at before any is taken in: the first part of a range that was cut into three
        // leaves nothing of the last one that could be outdated.
        let news: Vec<_> = routes.filter(|route| cache.is_outdated_by(&route.descriptor)).collect();
        for route in news {
            self.metrics.routes_told.inc();
            let leader = route.leader();
            cache.insert(route.descriptor, leader);
        }
        self.metrics.routes_cached.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
    }

    /// Takes in a descriptor that a replica answered with. False if something newer was known.
    pub fn learn(&self, descriptor: RangeDescriptor, leader: Option<NodeId>) -> bool {
        let mut cache = self.cache.write();
        let taken = cache.insert(descriptor, leader);
        self.metrics.routes_cached.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        taken
    }
}
