//! Serves batches of timestamps on the leader: confirms leadership for each, and keeps the window
//! committed ahead of the clock while anybody asks. Without requests it does nothing.

use super::clock::JumpGuard;
use super::oracle::{BATCH_MAX, NeedWindow, Oracle};
use crate::consensus::{Consensus, LeadershipError, Term};
use crate::state::{Command, Response};
use parking_lot::Mutex;
use prometheus::{IntCounter, register};
use rangedb_types::{MonotonicClock, Timestamp, WallClock};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long one extension of the window may take.
const EXTENSION_TIMEOUT: Duration = Duration::from_secs(2);

static CLOCK_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    let counter = IntCounter::new(
        "rangedb_placement_clock_refused_total",
        "Times at which the wall clock was too far ahead to be believed.",
    )
    .expect("the metric's name is valid");
    register(Box::new(counter.clone())).expect("the metric is registered once");
    counter
});

/// No timestamps were handed out; asking again, here or elsewhere, is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    #[error("this placement member is not the leader")]
    NotLeader { address: Option<String> },
    #[error("the quorum did not answer in time")]
    Timeout,
    #[error("this placement member has stopped")]
    Stopped,
}

impl From<LeadershipError> for TimestampError {
    fn from(error: LeadershipError) -> Self {
        match error {
            LeadershipError::NotLeader { address } => Self::NotLeader { address },
            LeadershipError::Timeout => Self::Timeout,
            LeadershipError::Stopped => Self::Stopped,
        }
    }
}

struct Current {
    guard: JumpGuard,
    clock_refused: bool,
    /// The oracle of the last term this member was confirmed in.
    oracle: Option<(Term, Oracle)>,
    /// The window somebody needs in that term.
    wanted: Option<NeedWindow>,
}

/// Hands out timestamps.
pub struct TimestampService {
    consensus: Arc<Consensus>,
    wall: Arc<dyn WallClock>,
    monotonic: Arc<dyn MonotonicClock>,
    current: Mutex<Current>,
    extend: Notify,
    /// Counts finished extensions, successful or not.
    extended: watch::Sender<u64>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

enum Attempt {
    Done(Timestamp),
    /// A window is needed; wait for the extension after this one.
    Window,
    /// Another caller was confirmed in a later term.
    Again,
}

impl TimestampService {
    /// Starts the service; `cancel` stops its background work.
    #[must_use]
    pub fn start(
        consensus: Arc<Consensus>,
        wall: Arc<dyn WallClock>,
        monotonic: Arc<dyn MonotonicClock>,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let guard = JumpGuard::new(wall.now_ms(), monotonic.now());
        let current = Current { guard, clock_refused: false, oracle: None, wanted: None };
        let service = Arc::new(Self {
            consensus,
            wall,
            monotonic,
            current: Mutex::new(current),
            extend: Notify::new(),
            extended: watch::channel(0).0,
            cancel: cancel.child_token(),
            tasks: TaskTracker::new(),
        });
        let extender = Arc::clone(&service);
        service.tasks.spawn(async move { extender.run().await });
        service.tasks.close();
        service
    }

    /// Hands out `count` timestamps (at least one, at most [`BATCH_MAX`]): returns the first and how
    /// many there are. All are above every timestamp that anybody had been given before the call.
    ///
    /// # Errors
    /// `TimestampError`; nothing was handed out.
    pub async fn batch(
        &self,
        count: u32,
        deadline: Instant,
    ) -> Result<(Timestamp, u32), TimestampError> {
        let count = count.clamp(1, BATCH_MAX);
        loop {
            let term = self.consensus.confirm_leadership(deadline).await?;
            let mut extended = self.extended.subscribe();
            match self.attempt(term, count) {
                Attempt::Done(first) => return Ok((first, count)),
                Attempt::Again => continue,
                Attempt::Window => {}
            }
            match tokio::time::timeout_at(deadline, extended.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(TimestampError::Stopped),
                Err(_) if self.cancel.is_cancelled() => return Err(TimestampError::Stopped),
                Err(_) => return Err(TimestampError::Timeout),
            }
            // The confirmation still holds: it came after the call. If the extension failed, go
            // round again, for leadership may be lost.
            if let Attempt::Done(first) = self.attempt(term, count) {
                return Ok((first, count));
            }
        }
    }

    /// Tries to allocate, leadership in `term` having been confirmed after the caller asked.
    fn attempt(&self, term: Term, count: u32) -> Attempt {
        let mut current = self.current.lock();
        let current = &mut *current;
        let now_ms = current.now_ms(&*self.wall, &*self.monotonic);
        let oracle = match &mut current.oracle {
            Some((known, oracle)) if *known == term => oracle,
            Some((known, _)) if *known > term => return Attempt::Again,
            slot => {
                // Confirmation made sure that every window of earlier terms is applied here.
                let window_end = self.consensus.read(|state| state.timestamps_until());
                current.wanted = None;
                &mut slot.insert((term, Oracle::new_term(window_end, now_ms))).1
            }
        };
        let allocated = oracle.allocate(count, now_ms);
        let wanted = allocated.err().or_else(|| oracle.wants_window(now_ms));
        if wanted.is_some() && current.wanted.is_none() {
            current.wanted = wanted;
            self.extend.notify_one();
        }
        allocated.map_or(Attempt::Window, Attempt::Done)
    }

    /// Extends the window when it is wanted, one extension at a time.
    async fn run(&self) {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = self.extend.notified() => {}
            }
            let wanted = self.current.lock().wanted;
            if let Some(NeedWindow { until }) = wanted {
                self.extend_to(until).await;
            }
            self.current.lock().wanted = None;
            self.extended.send_modify(|count| *count += 1);
        }
    }

    async fn extend_to(&self, until: Timestamp) {
        let command = Command::ExtendTimestamps { until };
        let deadline = Instant::now() + EXTENSION_TIMEOUT;
        match self.consensus.propose_in_term(command, deadline).await {
            Ok((Response::Timestamps { until }, term)) => {
                // A window committed in another term than the oracle's belongs to that term.
                if let Some((known, oracle)) = &mut self.current.lock().oracle
                    && *known == term
                {
                    oracle.window_committed(until);
                }
            }
            Ok((other, _)) => tracing::warn!(?other, "unexpected answer to a window extension"),
            Err(error) => tracing::debug!(%error, "the timestamp window was not extended"),
        }
    }

    /// Waits for the background work to end after its token was cancelled.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}

impl Current {
    fn now_ms(&mut self, wall: &dyn WallClock, monotonic: &dyn MonotonicClock) -> u64 {
        let time = self.guard.check(wall.now_ms(), monotonic.now());
        if time.refused {
            CLOCK_REFUSED.inc();
        }
        if time.refused != self.clock_refused {
            self.clock_refused = time.refused;
            if time.refused {
                tracing::error!("the machine's clock jumped far ahead; counting on without it");
            } else {
                tracing::info!("the machine's clock is believed again");
            }
        }
        time.now_ms
    }
}
