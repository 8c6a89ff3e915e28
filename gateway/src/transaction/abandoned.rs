//! What dead transactions left behind and nobody meets: nodes find it, a gateway settles it.
//!
//! Owns: fetching it from the nodes in turn, and settling it piece by piece. Must not know: how nodes find it.
//! Invariant: nothing is ended that may still go on; what fails is found again by its node.

use super::obstacle;
use super::ranges::walk;
use super::steps::finish;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::nodes::Node;
use bytes::Bytes;
use rangedb_proto::internal::v1::node_action::{self, Kind};
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{OpenPrimary, TakeAbandonedRequest, TakeAbandonedResponse};
use rangedb_types::Timestamp;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// Time between two rounds over the nodes.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a node may take to say what it has found.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer accepted: some hundred keys, twice each.
const FOUND_BYTES_MAX: usize = 16 << 20;
/// How long settling one intent may take, and one transaction's keys in all ranges.
const INTENT_TIMEOUT: Duration = Duration::from_secs(5);
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Of what one node has found, how many transactions may fail before the rest of its intents, or of its primaries,
/// is left.
const FAILURES_MAX: usize = 8;

/// Settles what nodes find, one piece at a time, until it is cancelled.
pub async fn settle_abandoned(dispatcher: Arc<Dispatcher>, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            ticks.tick().await;
            for node in dispatcher.nodes.all() {
                let Some(found) = fetch(&node).await else { continue };
                settle(&dispatcher, found).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds => {}
    }
}

async fn fetch(node: &Node) -> Option<TakeAbandonedResponse> {
    let mut rpc = NodeClient::new(node.channel()).max_decoding_message_size(FOUND_BYTES_MAX);
    match timeout(FETCH_TIMEOUT, rpc.take_abandoned(TakeAbandonedRequest {})).await {
        Ok(Ok(found)) => Some(found.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%status, "a node does not say what transactions left");
            None
        }
        Err(_) => None,
    }
}

/// Settles one by one. Where ranges are away it leaves off soon, for the sake of other nodes' finds.
async fn settle(dispatcher: &Dispatcher, found: TakeAbandonedResponse) {
    let mut failed = HashSet::new();
    for intent in &found.intents {
        if failed.len() >= FAILURES_MAX {
            break;
        }
        // What failed for one intent fails for the next of its transaction: its primary is away.
        if !failed.contains(&intent.id) {
            let deadline = Instant::now() + INTENT_TIMEOUT;
            let settled = obstacle::settle_if_over(dispatcher, intent, deadline).await;
            note(dispatcher, intent.id, settled, &mut failed);
        }
    }
    failed.clear();
    for primary in &found.primaries {
        if failed.len() >= FAILURES_MAX {
            break;
        }
        let settled = close(dispatcher, primary).await.map(|()| true);
        note(dispatcher, primary.id, settled, &mut failed);
    }
}

/// Counts what was settled, and remembers what was not.
fn note(
    dispatcher: &Dispatcher,
    id: u64,
    settled: Result<bool, Failure>,
    failed: &mut HashSet<u64>,
) {
    match settled {
        Ok(true) => dispatcher.metrics.abandoned_settled.inc(),
        Ok(false) => {}
        Err(error) => {
            tracing::debug!(%error, id, "what a transaction left is not settled yet");
            failed.insert(id);
        }
    }
}

/// Settles a committed transaction wherever it has intents, so that nobody asks its primary any more.
async fn close(dispatcher: &Dispatcher, primary: &OpenPrimary) -> Result<(), Failure> {
    let deadline = Instant::now() + TRANSACTION_TIMEOUT;
    let resolve = |start: &Bytes, end: &Bytes| {
        Kind::Resolve(node_action::Resolve {
            id: primary.id,
            commit_version: primary.commit_version,
            start: start.clone(),
            end: end.clone(),
            keys: Vec::new(),
        })
    };
    let everything = [(Bytes::new(), Bytes::new())];
    walk(dispatcher, &everything, deadline, &resolve).await?;
    let (id, version) = (Timestamp(primary.id), Timestamp(primary.commit_version));
    finish(dispatcher, id, &primary.key, version, deadline).await
}
