//! Removes old versions of the ranges this node leads, a little at a time, for ever.
//!
//! Owns: when a range is looked through, and the proposals that remove what `rangedb_mvcc::collect`
//! finds; a list of what dead transactions left, which gateways fetch and settle. Must not know: what
//! garbage is (`mvcc`), how a proposal is applied. Invariants: the range's
//! safe point is replicated before anything below it is removed; a page's removals are applied before
//! the next page is looked for; a range tombstone goes only after a whole pass was applied.

mod abandoned;
mod pass;

pub use abandoned::{Abandoned, Taken};

use crate::access::RangeStates;
use crate::heartbeat::ClusterSettings;
use crate::store::Store;
use pass::{Pass, PassEnd};
use rangedb_engine::Engine;
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1::SafePointRequest;
use rangedb_types::{RangeId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The runtime setting: how long versions are kept after they were replaced.
pub const RETENTION: &str = "gc_retention";
/// The runtime setting: how long a transaction may take. What it read, and what it left, is kept as long.
const LIFETIME: &str = "transaction_lifetime_max";
/// Shortest time between two rounds.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// How long a timestamp may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes removed since the engine was last asked to write out its memory: what is deleted gives its
/// space back only once the deletions are in files.
const FLUSH_BYTES: u64 = 16 << 20;
/// The same when nothing more is being removed.
const FLUSH_REST_BYTES: u64 = 1 << 20;

/// What is known of a range from its last pass.
#[derive(Clone, Copy)]
struct Known {
    applied_index: u64,
    more_later: bool,
}

/// Collects garbage on one node.
pub struct Collector {
    pub store: Store,
    pub engine: Arc<dyn Engine>,
    pub states: Arc<RangeStates>,
    pub placement: Arc<PlacementClient>,
    pub settings: watch::Receiver<ClusterSettings>,
    pub abandoned: Arc<Abandoned>,
}

impl Collector {
    /// Runs until it is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        metrics::register();
        let mut ticks = interval(ROUND_MIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = HashMap::new();
        let (mut last, mut flushed, mut before) = (Instant::now(), 0, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let Some(retention) = self.retention() else { continue };
            if last.elapsed() < (retention / 4).clamp(ROUND_MIN, ROUND_MAX) {
                continue;
            }
            last = Instant::now();
            let round = self.round(&mut known);
            tokio::select! {
                () = stop.cancelled() => return,
                () = round => {}
            }
            // Also for ranges that others lead: their removals are applied here, too.
            let freed = self.store.freed_bytes();
            let much = freed - flushed >= FLUSH_BYTES;
            let rest = freed == before && freed - flushed >= FLUSH_REST_BYTES;
            before = freed;
            if much || rest {
                flushed = freed;
                self.flush().await;
            }
        }
    }

    fn retention(&mut self) -> Option<Duration> {
        let settings = self.settings.borrow_and_update();
        let period = |name| parse_period(settings.get(name)?);
        Some(period(RETENTION)?.max(period(LIFETIME)?))
    }

    /// Looks through the led ranges that may hold garbage.
    async fn round(&self, known: &mut HashMap<RangeId, Known>) {
        let Some(safe_point) = self.safe_point().await else { return };
        let mut seen = HashMap::new();
        for status in self.store.statuses() {
            let range_id = status.descriptor.range_id;
            let Some(handle) = self.store.replica(range_id) else { continue };
            let Some(leadership) = handle.leadership() else { continue };
            let before = known.get(&range_id).copied();
            let idle = before.is_some_and(|before| {
                !before.more_later && before.applied_index == handle.applied_index()
            });
            if let Some(before) = before.filter(|_| idle) {
                seen.insert(range_id, before);
                continue;
            }
            let (engine, abandoned) = (&self.engine, &*self.abandoned);
            let state = self.states.of(range_id, handle.replica_id());
            let stamps = &*state.stamps;
            let pass = Pass { engine, handle: &handle, stamps, leadership, safe_point, abandoned };
            match pass.run().await {
                Ok(PassEnd { more_later }) => {
                    let applied_index = handle.applied_index();
                    seen.insert(range_id, Known { applied_index, more_later });
                }
                Err(error) => tracing::debug!(%range_id, %error, "a pass was broken off"),
            }
        }
        *known = seen;
    }

    /// The version below which nothing need be kept: placement knows what is held.
    async fn safe_point(&self) -> Option<Timestamp> {
        let ask = |mut rpc: PlacementRpc| async move { rpc.safe_point(SafePointRequest {}).await };
        match self.placement.call(ask, Instant::now() + TIMEOUT).await {
            Ok(answer) => Some(Timestamp(answer.version)),
            Err(error) => {
                tracing::debug!(%error, "the safe point is not known");
                None
            }
        }
    }

    async fn flush(&self) {
        let engine = Arc::clone(&self.engine);
        let flushed = tokio::task::spawn_blocking(move || engine.flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the engine's memory was not written out");
        }
    }
}

/// A period as runtime settings have it, such as `90s`, `10m` or `1h`.
fn parse_period(text: &str) -> Option<Duration> {
    text.parse::<rangedb_service::Period>().ok().map(|period| period.0)
}

mod metrics {
    use prometheus::IntCounter;
    use std::sync::LazyLock;

    fn counter(name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the metric's name is valid");
        prometheus::register(Box::new(counter.clone())).expect("the metric is registered once");
        counter
    }

    pub(super) static VERSIONS: LazyLock<IntCounter> = LazyLock::new(|| {
        counter(
            "rangedb_node_gc_versions_removed_total",
            "Records of old versions that were removed.",
        )
    });
    pub(super) static PASSES: LazyLock<IntCounter> = LazyLock::new(|| {
        counter("rangedb_node_gc_passes_total", "Ranges looked through for garbage.")
    });

    pub(super) static ABANDONED: LazyLock<IntCounter> = LazyLock::new(|| {
        counter(
            "rangedb_node_abandoned_found_total",
            "Intents and records of dead transactions that passes found, again in each until they are settled.",
        )
    });

    pub(super) fn register() {
        LazyLock::force(&ABANDONED);
        LazyLock::force(&VERSIONS);
        LazyLock::force(&PASSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_placement_writes_them() {
        assert_eq!(parse_period("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_period("10m"), Some(Duration::from_secs(600)));
        assert_eq!(parse_period("soon"), None);
    }
}
