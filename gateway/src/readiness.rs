//! When the gateway can serve, and keeping its recent timestamp recent.
//!
//! Owns: the meaning of `ready`. Must not know: who asks. `ready` is set by a linearizable read that
//! came back: then placement gave a timestamp and a route, and a leader with a majority answered. It
//! is withdrawn while no storage node can be reached at all.

use crate::dispatch::{Call, Dispatcher};
use crate::operation::{Operation, Place};
use bytes::Bytes;
use rangedb_proto::v1::admin_server::AdminServer;
use rangedb_proto::v1::key_value_server::KeyValueServer;
use rangedb_service::Health;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often the gateway looks whether it can serve, before and after it could.
const PROBE_PERIOD: Duration = Duration::from_millis(100);
const WATCH_PERIOD: Duration = Duration::from_millis(1000);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a timestamp is fetched only to have a recent one, and how long that may take.
const TIMESTAMP_PERIOD: Duration = Duration::from_secs(1);
const TIMESTAMP_TIMEOUT: Duration = Duration::from_millis(900);
/// The key that the probe reads. It need not exist.
const PROBE_KEY: &[u8] = b"\0";

/// Keeps `health` true to what the gateway can do, until cancelled.
pub async fn watch(
    dispatcher: Arc<Dispatcher>,
    health: Health,
    reporter: HealthReporter,
    cancel: CancellationToken,
) {
    loop {
        let was_ready = health.is_ready();
        let problem = if was_ready { reachable(&dispatcher) } else { probe(&dispatcher).await };
        match &problem {
            Ok(()) if !was_ready => {
                tracing::info!("ready to serve");
                health.set_ready(true);
                report(&reporter, ServingStatus::Serving).await;
            }
            Ok(()) => {}
            Err(reason) => {
                health.set_not_ready(reason.clone());
                if was_ready {
                    tracing::warn!(reason, "no longer ready to serve");
                    report(&reporter, ServingStatus::NotServing).await;
                }
            }
        }
        let period = if problem.is_ok() { WATCH_PERIOD } else { PROBE_PERIOD };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(period) => {}
        }
    }
    health.set_not_ready("stopping");
    report(&reporter, ServingStatus::NotServing).await;
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    let named = [
        <KeyValueServer<()> as tonic::server::NamedService>::NAME,
        <AdminServer<()> as tonic::server::NamedService>::NAME,
    ];
    for service in named {
        reporter.set_service_status(service, status).await;
    }
}

/// True ability: a read through the leader of the first range.
async fn probe(dispatcher: &Arc<Dispatcher>) -> Result<(), String> {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    if dispatcher.timestamps.latest_seen().is_zero() {
        dispatcher.timestamp(deadline).await.map_err(|failure| failure.to_string())?;
    }
    let key = Bytes::from_static(PROBE_KEY);
    let found = dispatcher.routes.find(&Place::At(key.clone()), deadline).await;
    found.map_err(|error| format!("no route to the first range: {error}"))?;
    let operation = Operation::get(vec![key]);
    match dispatcher.execute(&operation, Call::new(Instant::now(), deadline, false)).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.to_string()),
    }
}

/// The cheap look afterwards.
fn reachable(dispatcher: &Dispatcher) -> Result<(), String> {
    if dispatcher.nodes.any_up() {
        Ok(())
    } else {
        Err("no storage node can be reached".to_owned())
    }
}

/// Keeps the newest known timestamp about a second old, until cancelled. While placement is away
/// the last one stays.
pub async fn keep_timestamp_recent(dispatcher: Arc<Dispatcher>, cancel: CancellationToken) {
    loop {
        let deadline = Instant::now() + TIMESTAMP_TIMEOUT;
        match dispatcher.timestamps.get(deadline).await {
            Ok(timestamp) => {
                let seconds = timestamp.physical_ms() / 1000;
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                dispatcher.metrics.recent_timestamp.set(seconds);
            }
            Err(error) => tracing::debug!(%error, "no timestamp"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(TIMESTAMP_PERIOD) => {}
        }
    }
}
