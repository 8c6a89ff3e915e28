//! Keeps a pipeline's stream open.

use super::state::State;
use crate::client::{Shared, key_value};
use crate::endpoints::Gateway;
use rangedb_types::{Random as _, SystemRandom};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const SWEEP_PERIOD: Duration = Duration::from_millis(20);
const RECONNECT_FIRST: Duration = Duration::from_millis(10);
const RECONNECT_LONGEST: Duration = Duration::from_millis(500);

/// Runs until the pipeline is closed and its last operation ended.
pub async fn run(state: Arc<State>, shared: Arc<Shared>) {
    let mut pause = RECONNECT_FIRST;
    while !state.is_closed() || state.is_busy() {
        let gateway = shared.endpoints.current();
        let began = Instant::now();
        let ended = tokio::select! {
            ended = serve(&state, &gateway) => ended,
            never = sweep(&state) => never,
        };
        state.broke();
        if state.is_closed() {
            // Callers are gone with the handle; nothing that is left has anybody waiting.
            return;
        }
        if let Err(status) = ended {
            tracing::debug!(gateway = gateway.address, %status, "the pipeline's stream broke");
        }
        shared.endpoints.failed(&gateway);
        if began.elapsed() > RECONNECT_LONGEST * 2 {
            pause = RECONNECT_FIRST;
        }
        tokio::select! {
            () = sleep(pause / 2 + SystemRandom.jitter(pause / 2)) => {}
            () = state.closed() => {}
        }
        state.expire(Instant::now());
        pause = (pause * 2).min(RECONNECT_LONGEST);
    }
}

/// One stream, to its end.
async fn serve(state: &Arc<State>, gateway: &Gateway) -> Result<(), Status> {
    let mut rpc = key_value(gateway);
    let opened = timeout(OPEN_TIMEOUT, rpc.pipeline(state.open())).await;
    let opened = opened.map_err(|_| Status::unavailable("the gateway did not open the stream"))?;
    let mut answers = opened?.into_inner();
    while let Some(message) = answers.message().await? {
        state.finish(message.results);
    }
    Ok(())
}

async fn sweep(state: &State) -> Result<(), Status> {
    let mut ticks = interval(SWEEP_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        if state.is_busy() {
            state.expire(now);
        }
    }
}
