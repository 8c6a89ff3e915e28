//! Operations of a pipeline between their callers and its stream.
//!
//! Owns: tags, the queue, the bound on what is under way. Must not know: connections. Invariants:
//! every operation ends exactly once; an operation that was not handed to a stream stays queued when
//! a stream breaks; an abandoned operation counts until it ends.

use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rangedb_proto::v1::pipeline_operation::Operation;
use rangedb_proto::v1::pipeline_result::Result as Answer;
use rangedb_proto::v1::{PipelineOperation, PipelineRequest, PipelineResult};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// Most operations and bytes in one message; one operation may be larger than the bytes.
const MESSAGE_OPERATIONS_MAX: usize = 512;
const MESSAGE_BYTES_SOFT_MAX: usize = 512 << 10;

/// Part of an operation's time that is kept for the way back, so that the gateway's typed answer
/// arrives before the caller gives up.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(50);

/// How one attempt of an operation ended.
#[derive(Debug)]
pub enum Finished {
    Answered(Option<Answer>),
    /// Its time ended before any stream took it.
    NotSent,
    /// The stream that had it broke.
    Lost,
    TimedOut,
}

#[derive(Debug)]
struct Pending {
    /// Present until it is handed to a stream.
    operation: Option<Operation>,
    caller: oneshot::Sender<Finished>,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Inner {
    next_tag: u64,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<u64>,
    /// Numbers the streams, so that the output of an old one ends.
    stream: u64,
    closed: bool,
}

/// The shared half of a pipeline.
#[derive(Debug)]
pub struct State {
    inner: Mutex<Inner>,
    output: AtomicWaker,
    room: Arc<Semaphore>,
    closing: Notify,
}

impl State {
    pub fn new(operations_max: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            output: AtomicWaker::new(),
            room: Arc::new(Semaphore::new(operations_max.max(1))),
            closing: Notify::new(),
        })
    }

    /// Queues an operation and waits for its end.
    pub async fn submit(&self, operation: Operation, deadline: Instant) -> Finished {
        let room = Arc::clone(&self.room);
        let permit = match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout_at(deadline, room.acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Finished::NotSent,
            },
        };
        let (caller, answer) = oneshot::channel();
        {
            let mut inner = self.inner.lock();
            let tag = inner.next_tag;
            inner.next_tag += 1;
            let pending = Pending { operation: Some(operation), caller, deadline, _permit: permit };
            inner.pending.insert(tag, pending);
            inner.queue.push_back(tag);
        }
        self.output.wake();
        answer.await.unwrap_or(Finished::Lost)
    }

    /// Starts a new stream's output; an older one ends.
    pub fn open(self: &Arc<Self>) -> Output {
        let mut inner = self.inner.lock();
        inner.stream += 1;
        Output { state: Arc::clone(self), stream: inner.stream }
    }

    /// Ends the operations that these results are for.
    pub fn finish(&self, results: Vec<PipelineResult>) {
        let mut ended = Vec::with_capacity(results.len());
        {
            let mut inner = self.inner.lock();
            for result in results {
                if let Some(pending) = inner.pending.remove(&result.tag) {
                    ended.push((pending, Finished::Answered(result.result)));
                }
            }
        }
        tell(ended);
    }

    /// The stream broke: what it had taken is lost, the rest waits for the next one.
    pub fn broke(&self) {
        let mut inner = self.inner.lock();
        inner.stream += 1;
        let lost: Vec<_> =
            inner.pending.extract_if(|_, pending| pending.operation.is_none()).collect();
        drop(inner);
        self.output.wake();
        tell(lost.into_iter().map(|(_, pending)| (pending, Finished::Lost)));
    }

    /// Ends operations whose time is over.
    pub fn expire(&self, now: Instant) {
        let expired: Vec<_> = {
            let mut inner = self.inner.lock();
            inner.pending.extract_if(|_, pending| pending.deadline <= now).collect()
        };
        tell(expired.into_iter().map(|(_, pending)| {
            let finished =
                if pending.operation.is_some() { Finished::NotSent } else { Finished::TimedOut };
            (pending, finished)
        }));
    }

    /// True while operations wait that no stream has taken, or for answers.
    pub fn is_busy(&self) -> bool {
        !self.inner.lock().pending.is_empty()
    }

    /// No further operations come.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.output.wake();
        self.closing.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Resolves when the pipeline was closed.
    pub async fn closed(&self) {
        if !self.is_closed() {
            self.closing.notified().await;
        }
    }
}

fn tell(ended: impl IntoIterator<Item = (Pending, Finished)>) {
    for (pending, finished) in ended {
        // The caller may have gone away.
        let _ = pending.caller.send(finished);
    }
}

/// The operations of one stream, as the transport asks for them.
pub struct Output {
    state: Arc<State>,
    stream: u64,
}

impl Stream for Output {
    type Item = PipelineRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PipelineRequest>> {
        self.state.output.register(context.waker());
        let mut inner = self.state.inner.lock();
        if inner.stream != self.stream {
            return Poll::Ready(None);
        }
        let operations = drain(&mut inner);
        if !operations.is_empty() {
            return Poll::Ready(Some(PipelineRequest { operations }));
        }
        if inner.closed { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// Takes the next message's operations. From here on they count as sent.
fn drain(inner: &mut Inner) -> Vec<PipelineOperation> {
    let now = Instant::now();
    let mut operations = Vec::with_capacity(inner.queue.len().min(MESSAGE_OPERATIONS_MAX));
    let mut bytes = 0;
    while operations.len() < MESSAGE_OPERATIONS_MAX && bytes < MESSAGE_BYTES_SOFT_MAX {
        let Some(tag) = inner.queue.pop_front() else { break };
        let Some(pending) = inner.pending.get_mut(&tag) else { continue };
        let Some(operation) = pending.operation.take() else { continue };
        bytes += cost_bytes(&operation);
        let left = pending.deadline.saturating_duration_since(now);
        let served = left - (left / 20).min(ANSWER_MARGIN_MAX);
        let timeout_ms = u32::try_from(served.as_millis()).unwrap_or(u32::MAX).max(1);
        operations.push(PipelineOperation { tag, timeout_ms, operation: Some(operation) });
    }
    operations
}

fn cost_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Get(get) => get.key.len(),
        Operation::Put(put) => put.key.len() + put.value.len(),
        Operation::Delete(delete) => delete.key.len(),
        Operation::BatchGet(batch) => batch.keys.iter().map(bytes::Bytes::len).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use rangedb_proto::v1::GetRequest;

    fn get() -> Operation {
        Operation::Get(GetRequest { key: "k".into(), context: None })
    }

    #[tokio::test]
    async fn what_was_sent_is_lost_and_what_was_queued_goes_on() {
        let state = State::new(10);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut output = state.open();
        let first = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.submit(get(), deadline).await }
        });
        let sent = output.next().await.unwrap();
        assert_eq!(sent.operations.len(), 1);
        state.broke();
        assert!(matches!(first.await.unwrap(), Finished::Lost));
        assert!(output.next().await.is_none(), "the old stream's output ends");
        let second = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.submit(get(), deadline).await }
        });
        let mut output = state.open();
        let sent = output.next().await.unwrap();
        let result = PipelineResult { tag: sent.operations[0].tag, result: None };
        state.finish(vec![result]);
        assert!(matches!(second.await.unwrap(), Finished::Answered(None)));
        assert!(!state.is_busy());
    }

    #[tokio::test]
    async fn time_ends_waiting_for_room_and_for_answers() {
        let state = State::new(1);
        let soon = Instant::now() + Duration::from_millis(20);
        let mut output = state.open();
        let first = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.submit(get(), soon).await }
        });
        output.next().await.unwrap();
        assert!(matches!(state.submit(get(), soon).await, Finished::NotSent), "no room in time");
        state.expire(soon);
        assert!(matches!(first.await.unwrap(), Finished::TimedOut));
    }
}
