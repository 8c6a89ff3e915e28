//! Streams on which placement tells what changes.
//!
//! Owns: finding the leader, opening the stream, opening it again with growing pauses that differ from
//! gateway to gateway. Must not know: what the messages mean.

use crate::backoff::Backoff;
use rangedb_placement_client::{PlacementClient, PlacementRpc, placement_client};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

/// How long one attempt to open a watch may take, and the pauses between attempts.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// One kind of watch.
pub trait Watch {
    type Message;

    const NAME: &'static str;

    /// Opens the stream, from where it stands.
    fn open(
        &self,
        rpc: PlacementRpc,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Message>>, Status>> + Send;

    /// Takes in one message.
    fn take_in(&mut self, message: Self::Message);

    /// The leader did not open it.
    fn refused(&mut self, _status: &Status) {}
}

/// Watches until cancelled. While placement is away, what was heard last stays.
pub async fn watch<W: Watch>(
    mut watch: W,
    placement: &PlacementClient,
    cancel: &CancellationToken,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let heard = tokio::select! {
            () = cancel.cancelled() => return,
            heard = follow(&mut watch, placement) => heard,
        };
        if heard {
            backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

/// One stream, to its end. True if at least one message came.
async fn follow<W: Watch>(watch: &mut W, placement: &PlacementClient) -> bool {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let channel = match placement.leader_channel(deadline).await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::debug!(%error, watch = W::NAME, "no leader of placement for a watch");
            return false;
        }
    };
    let opened = tokio::time::timeout_at(deadline, watch.open(placement_client(channel))).await;
    let mut messages = match opened {
        Ok(Ok(messages)) => messages.into_inner(),
        Ok(Err(status)) => {
            tracing::debug!(%status, watch = W::NAME, "placement refused a watch");
            watch.refused(&status);
            placement.leader_failed();
            return false;
        }
        Err(_) => {
            placement.leader_failed();
            return false;
        }
    };
    let mut heard = false;
    while let Ok(Some(message)) = messages.message().await {
        heard = true;
        watch.take_in(message);
    }
    placement.leader_failed();
    heard
}
