//! The task behind [`TimestampClient`]: keeps one stream to the leader and a few fetches in flight.
//!
//! Invariant: the waiters of a fetch were taken from the queue before it was sent.

use crate::client::{Leader, PlacementClient, pause, placement_client};
use crate::timestamps::{TimestampClient, Waiter};
use rangedb_proto::internal::v1::{TimestampBatch, TimestampRequest};
use rangedb_types::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

/// Fetches under way at once. Each costs placement a quorum round: one at a time makes the batches
/// large under load, where the rounds are what limits writes.
const FETCHES_MAX: usize = 1;
/// Most timestamps asked for at once.
const BATCH_MAX: usize = 10_000;
/// A fetch older than this means that the stream is dead.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a timestamp is fetched though nobody asked.
const REFRESH_INTERVAL: Duration = Duration::from_secs(120);
/// How long one attempt to find the leader may take before expired waiters are swept.
const SEARCH_STEP: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(10);

/// One request of the stream that was not answered yet.
struct Fetch {
    tag: u64,
    sent: Instant,
    waiters: Vec<Waiter>,
}

pub(crate) async fn run(
    client: Arc<TimestampClient>,
    placement: Arc<PlacementClient>,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = fetch_forever(&client, &placement) => {}
    }
    let mut queue = client.queue.lock();
    queue.stopped = true;
    queue.waiters.clear();
}

async fn fetch_forever(client: &TimestampClient, placement: &PlacementClient) {
    let mut next_tag = 1;
    let mut backoff = BACKOFF_FIRST;
    loop {
        client.sweep();
        let Ok(leader) = placement.leader(Instant::now() + SEARCH_STEP).await else { continue };
        let mut session = match Session::open(&leader, next_tag).await {
            Ok(session) => session,
            Err(status) => {
                debug!(address = %leader.address, %status, "no timestamps from this member");
                placement.forget(&leader, Some(&status));
                // The deadline is far away: the pause always ends first.
                let _ = pause(&mut backoff, Instant::now() + REFRESH_INTERVAL).await;
                continue;
            }
        };
        let status = session.serve(client, &mut backoff).await;
        debug!(address = %leader.address, %status, "timestamp stream ended");
        placement.forget(&leader, Some(&status));
        next_tag = session.next_tag;
        client.take_back(session.fetches);
        let _ = pause(&mut backoff, Instant::now() + REFRESH_INTERVAL).await;
    }
}

/// One stream to one leader.
struct Session {
    requests: mpsc::Sender<TimestampRequest>,
    replies: Streaming<TimestampBatch>,
    fetches: VecDeque<Fetch>,
    next_tag: u64,
}

impl Session {
    async fn open(leader: &Leader, next_tag: u64) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(FETCHES_MAX);
        let mut rpc = placement_client(leader.channel.clone());
        let opened = timeout(FETCH_TIMEOUT, rpc.timestamps(ReceiverStream::new(outgoing))).await;
        let replies =
            opened.map_err(|_| Status::unavailable("the stream did not open"))??.into_inner();
        Ok(Self { requests, replies, fetches: VecDeque::new(), next_tag })
    }

    /// Fetches until the stream fails; returns why.
    async fn serve(&mut self, client: &TimestampClient, backoff: &mut Duration) -> Status {
        let mut refresh_at = Instant::now();
        loop {
            let idle = self.fetches.is_empty();
            if let Err(status) = self.send(client, idle && refresh_at <= Instant::now()) {
                return status;
            }
            let oldest = self.fetches.front().map(|fetch| fetch.sent + FETCH_TIMEOUT);
            let wake_at = oldest.unwrap_or(refresh_at);
            tokio::select! {
                biased;
                reply = self.replies.message() => match reply {
                    Ok(Some(batch)) => {
                        self.hand_out(client, batch);
                        refresh_at = Instant::now() + REFRESH_INTERVAL;
                        *backoff = BACKOFF_FIRST;
                    }
                    Ok(None) => return Status::unavailable("the member ended the stream"),
                    Err(status) => return status,
                },
                () = client.arrived.notified(), if self.fetches.len() < FETCHES_MAX => {}
                () = sleep_until(wake_at) => {
                    if oldest.is_some() {
                        return Status::unavailable("a fetch was not answered in time");
                    }
                }
            }
        }
    }

    /// Sends fetches for whoever waits now, or one for nobody to refresh what was seen.
    fn send(&mut self, client: &TimestampClient, mut refresh: bool) -> Result<(), Status> {
        while self.fetches.len() < FETCHES_MAX {
            let waiters = client.take_waiters();
            if waiters.is_empty() && !refresh {
                return Ok(());
            }
            refresh = false;
            let tag = self.next_tag;
            self.next_tag += 1;
            let count = u32::try_from(waiters.len().max(1)).unwrap_or(u32::MAX);
            self.fetches.push_back(Fetch { tag, sent: Instant::now(), waiters });
            // The channel has room for every fetch that may be in flight.
            self.requests
                .try_send(TimestampRequest { tag, count })
                .map_err(|_| Status::unavailable("the stream takes no requests"))?;
        }
        Ok(())
    }

    /// Gives a batch to the waiters of its fetch. What is left over is thrown away: it must not
    /// serve requests that arrived after the fetch was sent.
    fn hand_out(&mut self, client: &TimestampClient, batch: TimestampBatch) {
        let Some(place) = self.fetches.iter().position(|fetch| fetch.tag == batch.tag) else {
            warn!(tag = batch.tag, "dropped a batch of timestamps nobody asked for");
            return;
        };
        let Some(mut fetch) = self.fetches.remove(place) else { return };
        let count = (batch.count as usize).min(fetch.waiters.len());
        if batch.count > 0 {
            let last = Timestamp(batch.first + u64::from(batch.count) - 1);
            client.fetched(last, fetch.sent);
        }
        let unserved = fetch.waiters.split_off(count);
        for (timestamp, waiter) in (batch.first..).zip(fetch.waiters) {
            // A request that gave up wastes its timestamp.
            let _ = waiter.send(Timestamp(timestamp));
        }
        if !unserved.is_empty() {
            client.put_back(unserved);
        }
    }
}

impl TimestampClient {
    /// Takes those who wait now, oldest first.
    fn take_waiters(&self) -> Vec<Waiter> {
        let mut queue = self.queue.lock();
        if queue.waiters.len() <= BATCH_MAX {
            return std::mem::take(&mut queue.waiters);
        }
        let rest = queue.waiters.split_off(BATCH_MAX);
        std::mem::replace(&mut queue.waiters, rest)
    }

    /// Puts waiters that got nothing back before all others; they join the next fetch.
    fn put_back(&self, mut waiters: Vec<Waiter>) {
        waiters.retain(|waiter| !waiter.is_closed());
        let mut queue = self.queue.lock();
        waiters.append(&mut queue.waiters);
        queue.waiters = waiters;
    }

    fn take_back(&self, fetches: VecDeque<Fetch>) {
        self.put_back(fetches.into_iter().flat_map(|fetch| fetch.waiters).collect());
    }

    /// Forgets requests whose deadline has passed.
    fn sweep(&self) {
        self.queue.lock().waiters.retain(|waiter| !waiter.is_closed());
    }
}
