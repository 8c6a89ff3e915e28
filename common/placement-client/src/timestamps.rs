//! Timestamps of the oracle, fetched in batches over one stream.

use crate::client::PlacementClient;
use crate::error::PlacementError;
use crate::fetcher;
use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Most requests that may wait for a fetch to be sent.
const WAITERS_MAX: usize = 200_000;

/// Where the answer to one request goes.
pub(crate) type Waiter = oneshot::Sender<Timestamp>;

/// Hands out timestamps. A request joins the next fetch that is sent, never one that is under way:
/// the oracle may have made those timestamps before the request arrived. Share one per process.
///
/// It also keeps [`Self::latest_seen`] fresh: while it is idle it fetches one timestamp every
/// two minutes.
pub struct TimestampClient {
    pub(crate) queue: Mutex<Queue>,
    pub(crate) arrived: Notify,
    latest_seen: AtomicU64,
    /// The newest that was fetched, and when its fetch was sent.
    fetched: Mutex<Option<(Timestamp, Instant)>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
pub(crate) struct Queue {
    /// In order of arrival.
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) stopped: bool,
}

impl TimestampClient {
    /// Starts the task that keeps the stream. It ends when `cancel` fires, and every request with it.
    #[must_use]
    pub fn start(client: Arc<PlacementClient>, cancel: CancellationToken) -> Arc<Self> {
        let this = Self::by_hand();
        let task = tokio::spawn(fetcher::run(this.clone(), client, cancel));
        if let Ok(mut slot) = this.task.try_lock() {
            *slot = Some(task);
        }
        this
    }

    /// One without a stream, for tests that stand in for the oracle: they answer what [`Self::take_requests`]
    /// gives them.
    #[must_use]
    pub fn by_hand() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Queue::default()),
            arrived: Notify::new(),
            latest_seen: AtomicU64::new(0),
            fetched: Mutex::new(None),
            task: tokio::sync::Mutex::new(None),
        })
    }

    /// The requests that wait, in the order in which they came.
    pub fn take_requests(&self) -> Vec<oneshot::Sender<Timestamp>> {
        std::mem::take(&mut self.queue.lock().waiters)
    }

    /// A timestamp that the oracle made after this call began.
    ///
    /// # Errors
    /// `NoLeader` at the deadline, `Overloaded` if too many wait, `Stopped` after shutdown.
    pub async fn get(&self, deadline: Instant) -> Result<Timestamp, PlacementError> {
        let (waiter, answer) = oneshot::channel();
        let first = {
            let mut queue = self.queue.lock();
            if queue.stopped {
                return Err(PlacementError::Stopped);
            }
            if queue.waiters.len() >= WAITERS_MAX {
                return Err(PlacementError::Overloaded);
            }
            queue.waiters.push(waiter);
            queue.waiters.len() == 1
        };
        // Whoever empties the queue takes all of it, so only the first needs to say that it came.
        if first {
            self.arrived.notify_one();
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(timestamp)) => Ok(timestamp),
            Ok(Err(_)) => Err(PlacementError::Stopped),
            Err(_) => Err(PlacementError::NoLeader {
                reason: "no timestamp arrived before the deadline".to_owned(),
            }),
        }
    }

    /// The largest timestamp this process ever received; 0 before the first.
    #[must_use]
    pub fn latest_seen(&self) -> Timestamp {
        Timestamp(self.latest_seen.load(Ordering::Acquire))
    }

    /// The oracle's time now, by this process's clock since its last fetch: never earlier than the oracle
    /// would say, as long as the two clocks run alike. `None` before the first fetch.
    #[must_use]
    pub fn estimate(&self) -> Option<Timestamp> {
        let (fetched, sent) = (*self.fetched.lock())?;
        let elapsed = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(Timestamp::new(fetched.physical_ms().saturating_add(elapsed).saturating_add(1), 0))
    }

    pub(crate) fn fetched(&self, timestamp: Timestamp, sent: Instant) {
        self.saw(timestamp);
        let mut fetched = self.fetched.lock();
        if fetched.is_none_or(|(before, _)| before < timestamp) {
            *fetched = Some((timestamp, sent));
        }
    }

    /// Raises [`Self::latest_seen`] to a timestamp that arrived by another way.
    pub fn saw(&self, timestamp: Timestamp) {
        self.latest_seen.fetch_max(timestamp.0, Ordering::AcqRel);
    }

    /// Waits until the task has ended, after its token was cancelled.
    pub async fn stopped(&self) {
        if let Some(task) = self.task.lock().await.take() {
            // A panic of the task was reported where it happened.
            let _ = task.await;
        }
    }
}
