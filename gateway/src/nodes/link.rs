//! One connection to one storage node: a bidirectional stream with many requests in flight.
//!
//! Owns: the queue, the pending table, reconnecting, and the circuit breaker. Must not know: routes
//! or the meaning of errors. Invariants: every accepted request ends in exactly one [`Outcome`]; one
//! that was never handed to the stream ends as `NotSent`; requests leave in the order they came. No
//! lock is held while a waiter is told.

#[cfg(test)]
mod by_hand;

use super::pending::{Pending, PendingTable};
use super::waiter::{Waiter, Wakes};
use super::{LinkLimits, Outcome};
use crate::backoff::Backoff;
use crate::metrics::Metrics;
use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{DataRequest, DataRequests, DataResponses};
use rangedb_service::grpc::Endpoint;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Most requests and bytes in one message to a node; one request may be larger than the bytes.
const MESSAGE_REQUESTS_MAX: usize = 512;
const MESSAGE_BYTES_SOFT_MAX: usize = 512 << 10;
/// Largest message accepted from a node. A node cuts its answers at a few MiB, but one message may
/// hold several of them.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// How often requests are checked for having run out of time.
const SWEEP_PERIOD: Duration = Duration::from_millis(20);
/// Connecting and opening the stream together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_LONGEST: Duration = Duration::from_secs(1);
/// A node that is away for longer did not just stop or start again.
const OUTAGE_WARNED_AFTER: Duration = Duration::from_secs(10);
/// A stream that lived this long was healthy: the next reconnect starts from the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// A request for a link.
pub struct Submission {
    pub request: DataRequest,
    pub waiter: Box<dyn Waiter>,
    pub expires: Instant,
    pub cost_bytes: usize,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("could not connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("the node did not open the stream in time")]
    OpenTimeout,
    #[error("the stream broke: {0}")]
    Stream(tonic::Status),
    #[error("the node ended the stream")]
    Ended,
    #[error("the node answers nothing")]
    Stalled,
}

struct State {
    /// False while the breaker is open: from a failure until the stream stands again.
    accepts: bool,
    up: bool,
    /// Numbers the streams, so that the output of an old one ends.
    stream: u64,
    table: PendingTable,
    queue: VecDeque<u64>,
    queued_bytes: usize,
    heard: Instant,
}

/// The shared half of a link.
pub struct Link {
    state: Mutex<State>,
    output: AtomicWaker,
    limits: LinkLimits,
    metrics: Arc<Metrics>,
}

impl Link {
    #[must_use]
    pub fn new(limits: LinkLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State {
            accepts: true,
            up: false,
            stream: 0,
            table: PendingTable::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            heard: Instant::now(),
        };
        Arc::new(Self { state: Mutex::new(state), output: AtomicWaker::new(), limits, metrics })
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Queues requests, under one lock. What cannot be queued ends at once.
    pub fn submit(&self, batch: impl IntoIterator<Item = Submission>) {
        let mut refused = Vec::new();
        let (mut accepted, mut bytes) = (0_i64, 0_usize);
        {
            let mut state = self.state.lock();
            for submission in batch {
                let outcome = if !state.accepts {
                    Outcome::NotSent
                } else if self.is_full(&state, submission.cost_bytes) {
                    Outcome::Overloaded
                } else {
                    bytes += submission.cost_bytes;
                    accepted += 1;
                    enqueue(&mut state, submission);
                    continue;
                };
                refused.push((submission.waiter, outcome));
            }
        }
        if accepted > 0 {
            self.metrics.in_flight.add(accepted);
            self.metrics.queue_bytes.add(to_i64(bytes));
            self.output.wake();
        }
        let mut wakes = Wakes::default();
        for (waiter, outcome) in refused {
            waiter.done(outcome, &mut wakes);
        }
        wakes.fire();
    }

    /// One request always fits into an empty queue, however large.
    fn is_full(&self, state: &State, cost_bytes: usize) -> bool {
        state.table.len() >= self.limits.requests_max
            || (state.queued_bytes > 0 && state.queued_bytes + cost_bytes > self.limits.bytes_max)
    }

    /// Keeps the link connected until it is cancelled; then everything pending ends.
    pub async fn run(
        self: Arc<Self>,
        address: String,
        endpoint: Endpoint,
        cancel: CancellationToken,
    ) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_LONGEST);
        let mut lost: Option<Instant> = None;
        let mut warned = false;
        while !cancel.is_cancelled() {
            let began = Instant::now();
            let error = tokio::select! {
                () = cancel.cancelled() => break,
                error = self.serve(&endpoint) => error,
                error = self.sweep() => error,
            };
            self.close();
            if began.elapsed() > HEALTHY_AFTER {
                backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_LONGEST);
                (lost, warned) = (None, false);
            }
            // News once, a warning if it lasts, and not a line at every attempt.
            if lost.is_none() {
                tracing::info!(%address, %error, "lost the stream to a storage node");
            } else if !warned && lost.is_some_and(|lost| lost.elapsed() >= OUTAGE_WARNED_AFTER) {
                warned = true;
                tracing::warn!(%address, %error, "storage node stays unreachable");
            } else {
                tracing::debug!(%address, %error, "storage node is still unreachable");
            }
            lost.get_or_insert_with(Instant::now);
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
        self.close();
    }

    async fn serve(self: &Arc<Self>, endpoint: &Endpoint) -> LinkError {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, async {
            let channel = endpoint.connect().await.map_err(LinkError::Connect)?;
            let mut client = NodeClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            let answers = client.data(self.open()).await.map_err(LinkError::Stream)?;
            Ok(answers.into_inner())
        });
        let mut answers = match opened.await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return error,
            Err(_) => return LinkError::OpenTimeout,
        };
        {
            let mut state = self.state.lock();
            state.accepts = true;
            state.up = true;
            state.heard = Instant::now();
        }
        self.metrics.node_streams_up.inc();
        tracing::info!("stream to a storage node is up");
        loop {
            match answers.message().await {
                Ok(Some(message)) => self.receive(message),
                Ok(None) => return LinkError::Ended,
                Err(status) => return LinkError::Stream(status),
            }
        }
    }

    /// Starts a new output stream; an older one ends.
    fn open(self: &Arc<Self>) -> LinkOutput {
        let mut state = self.state.lock();
        state.stream += 1;
        LinkOutput { link: Arc::clone(self), stream: state.stream }
    }

    fn receive(&self, message: DataResponses) {
        let mut ended = Vec::with_capacity(message.responses.len());
        {
            let mut state = self.state.lock();
            state.heard = Instant::now();
            for response in message.responses {
                // Nothing is found for a request that ran out of time.
                if let Some(pending) = state.table.remove(response.tag) {
                    ended.push((pending, Outcome::Answered(response.result)));
                }
            }
        }
        self.tell(ended);
    }

    /// Ends requests whose time is over; returns if the node seems to be dead.
    async fn sweep(&self) -> LinkError {
        let mut ticks = tokio::time::interval(SWEEP_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let (expired, heard, up) = {
                let mut state = self.state.lock();
                if state.table.is_empty() {
                    continue;
                }
                (state.table.take_expired(now), state.heard, state.up)
            };
            if expired.is_empty() {
                continue;
            }
            let unanswered = expired.iter().any(|pending| pending.request.is_none());
            self.tell(expired.into_iter().map(|pending| {
                let outcome = pending.expired();
                (pending, outcome)
            }));
            if up && unanswered && now.duration_since(heard) > self.limits.stall_timeout {
                return LinkError::Stalled;
            }
        }
    }

    /// Opens the breaker and ends everything pending.
    fn close(&self) {
        let (ended, was_up) = {
            let mut state = self.state.lock();
            state.accepts = false;
            state.stream += 1;
            state.queue.clear();
            (state.table.take_all(), std::mem::take(&mut state.up))
        };
        if was_up {
            self.metrics.node_streams_up.dec();
            self.metrics.node_streams_broken.inc();
        }
        // The old output notices that its stream is over.
        self.output.wake();
        self.tell(ended.into_iter().map(|pending| {
            let outcome = pending.broken();
            (pending, outcome)
        }));
    }

    fn tell(&self, ended: impl IntoIterator<Item = (Pending, Outcome)>) {
        let mut wakes = Wakes::default();
        let (mut count, mut unsent_bytes) = (0_i64, 0_usize);
        for (pending, outcome) in ended {
            count += 1;
            if pending.request.is_some() {
                unsent_bytes += pending.cost_bytes;
            }
            pending.waiter.done(outcome, &mut wakes);
        }
        self.metrics.in_flight.sub(count);
        if unsent_bytes > 0 {
            self.metrics.queue_bytes.sub(to_i64(unsent_bytes));
            let mut state = self.state.lock();
            state.queued_bytes -= unsent_bytes;
        }
        wakes.fire();
    }
}

fn enqueue(state: &mut State, submission: Submission) {
    if state.table.is_empty() {
        // Silence only counts while an answer is due.
        state.heard = Instant::now();
    }
    state.queued_bytes += submission.cost_bytes;
    let tag = state.table.insert(Pending {
        request: Some(submission.request),
        waiter: submission.waiter,
        expires: submission.expires,
        cost_bytes: submission.cost_bytes,
    });
    state.queue.push_back(tag);
}

fn to_i64(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The requests of one stream, as the transport asks for them: what queued up while it was busy
/// leaves as one message.
struct LinkOutput {
    link: Arc<Link>,
    stream: u64,
}

impl Stream for LinkOutput {
    type Item = DataRequests;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<DataRequests>> {
        self.link.output.register(context.waker());
        let mut state = self.link.state.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        let (requests, bytes) = drain(&mut state);
        drop(state);
        if requests.is_empty() {
            return Poll::Pending;
        }
        self.link.metrics.queue_bytes.sub(to_i64(bytes));
        self.link.metrics.node_messages.inc();
        Poll::Ready(Some(DataRequests { requests }))
    }
}

/// Takes the next message's requests off the queue. From here on they count as sent.
fn drain(state: &mut State) -> (Vec<DataRequest>, usize) {
    let mut requests = Vec::with_capacity(state.queue.len().min(MESSAGE_REQUESTS_MAX));
    let mut bytes = 0;
    while requests.len() < MESSAGE_REQUESTS_MAX && bytes < MESSAGE_BYTES_SOFT_MAX {
        let Some(tag) = state.queue.pop_front() else { break };
        // Absent if its time ran out in the queue.
        let Some(pending) = state.table.get_mut(tag) else { continue };
        let Some(mut request) = pending.request.take() else { continue };
        bytes += pending.cost_bytes;
        request.tag = tag;
        requests.push(request);
    }
    state.queued_bytes -= bytes;
    (requests, bytes)
}
