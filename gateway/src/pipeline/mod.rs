//! The public Pipeline stream: many operations a message, results as they finish.
//!
//! Owns: one client's stream. Must not know: retries. The stream is a state machine that the
//! transport polls, with no task of its own: a message is decoded, checked, routed and handed to the
//! nodes' links in one go, and whatever finished meanwhile leaves as one message. Invariants: each
//! operation has exactly one result; a full stream reads no further input (back-pressure, never an
//! error); a client that reads no results is not read from either.

mod batch;
mod results;
mod waiters;

use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::metrics::Method;
use crate::operation::Operation;
use crate::routing::Route;
use crate::validation;
use batch::Batch;
use futures::Stream;
use rangedb_proto::v1::pipeline_operation::Operation as Public;
use rangedb_proto::v1::{
    DeleteRequest, GetRequest, PipelineOperation, PipelineRequest, PipelineResponse, PutRequest,
};
use rangedb_types::{NodeId, Timestamp};
use results::Results;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use waiters::{StreamContext, Ticket};

/// What an operation costs beside its keys and values.
const OPERATION_OVERHEAD_BYTES: usize = 64;

/// Bounds of one stream.
#[derive(Clone, Copy, Debug)]
pub struct PipelineLimits {
    pub operations_max: usize,
    pub bytes_max: usize,
    pub request_timeout: Duration,
}

/// What is left of the client's half.
enum Input {
    Open,
    /// Over, and how the stream ends after the last result.
    Ended(Option<Status>),
}

/// One client's stream of results.
pub struct PipelineStream {
    requests: Streaming<PipelineRequest>,
    input: Input,
    /// Operations of the last message that did not fit yet.
    backlog: std::vec::IntoIter<PipelineOperation>,
    context: Arc<StreamContext>,
    limits: PipelineLimits,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl PipelineStream {
    #[must_use]
    pub fn new(
        requests: Streaming<PipelineRequest>,
        dispatcher: Arc<Dispatcher>,
        limits: PipelineLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        dispatcher.metrics.pipeline_streams.inc();
        let results = Arc::new(Results::default());
        Self {
            requests,
            input: Input::Open,
            backlog: Vec::new().into_iter(),
            context: Arc::new(StreamContext { dispatcher, results, tasks }),
            limits,
            stopped: Box::pin(stop.cancelled_owned()),
        }
    }

    fn room(&self) -> usize {
        self.context.results.room(self.limits.operations_max, self.limits.bytes_max)
    }

    /// Reads and starts operations while there is room for them.
    fn advance(&mut self, context: &mut Context<'_>) {
        loop {
            let room = self.room();
            if room == 0 {
                return;
            }
            if self.backlog.len() > 0 {
                self.start(room);
                continue;
            }
            if !matches!(self.input, Input::Open) {
                return;
            }
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => {
                    let metrics = &self.context.dispatcher.metrics;
                    metrics.pipeline_messages.with_label_values(&["in"]).inc();
                    metrics.pipeline_operations.inc_by(message.operations.len() as u64);
                    self.backlog = message.operations.into_iter();
                }
                Poll::Ready(Some(Err(status))) => self.input = Input::Ended(Some(status)),
                Poll::Ready(None) => self.input = Input::Ended(None),
                Poll::Pending => return,
            }
        }
    }

    /// Starts up to `room` operations of the backlog.
    fn start(&mut self, room: usize) {
        let now = Instant::now();
        let recent = self.context.dispatcher.timestamps.latest_seen();
        let mut batch = Batch::default();
        let (mut count, mut bytes) = (0, 0);
        while count < room && bytes < self.limits.bytes_max {
            let Some(operation) = self.backlog.next() else { break };
            let ticket = self.ticket(&operation, now);
            count += 1;
            bytes += ticket.cost_bytes;
            // Before its result can be pushed.
            self.context.results.admit(1, ticket.cost_bytes);
            if let Err(failure) = self.route(&mut batch, ticket, operation, recent) {
                self.context.finish(&ticket, Err(failure), now);
            }
        }
        batch.send(&self.context);
    }

    fn ticket(&self, operation: &PipelineOperation, now: Instant) -> Ticket {
        let timeout = match operation.timeout_ms {
            0 => self.limits.request_timeout,
            millis => Duration::from_millis(millis.into()),
        };
        let (method, bytes) = match &operation.operation {
            Some(Public::Get(get)) => (Method::Get, get.key.len()),
            Some(Public::Put(put)) => (Method::Put, put.key.len() + put.value.len()),
            Some(Public::Delete(delete)) => (Method::Delete, delete.key.len()),
            Some(Public::BatchGet(batch)) => {
                (Method::BatchGet, batch.keys.iter().map(bytes::Bytes::len).sum())
            }
            None => (Method::Get, 0),
        };
        let cost_bytes = OPERATION_OVERHEAD_BYTES + bytes;
        Ticket { tag: operation.tag, method, began: now, deadline: now + timeout, cost_bytes }
    }

    /// Checks an operation and puts it on its way.
    fn route(
        &self,
        batch: &mut Batch,
        ticket: Ticket,
        operation: PipelineOperation,
        recent: Timestamp,
    ) -> Result<(), Failure> {
        let (operation, key) = match operation.operation {
            None => {
                return Err(Failure::invalid("operation", "the operation is absent or unknown"));
            }
            Some(Public::BatchGet(request)) => {
                validation::batch_get(&request)?;
                validation::no_transaction(request.context.as_ref())?;
                self.context.run_batch_get(ticket, request.keys);
                return Ok(());
            }
            Some(Public::Get(request)) => {
                let key = checked_get(request)?;
                match self.target(&key) {
                    Some((route, node)) => batch.get(route, node, ticket, key),
                    None => {
                        let operation = Operation::get(vec![key]);
                        self.context.run_operation(ticket, operation, None);
                    }
                }
                return Ok(());
            }
            Some(Public::Put(request)) => {
                let key = request.key.clone();
                (checked_put(request, recent)?, key)
            }
            Some(Public::Delete(request)) => {
                let key = request.key.clone();
                (checked_delete(request, recent)?, key)
            }
        };
        match self.target(&key) {
            Some((route, node)) => batch.write(&self.context, route, node, ticket, operation),
            // A route must be fetched first: off the hot path.
            None => self.context.run_operation(ticket, operation, None),
        }
        Ok(())
    }

    fn target(&self, key: &[u8]) -> Option<(Arc<Route>, NodeId)> {
        let route = self.context.dispatcher.routes.cached_at(key)?;
        let node = route.target()?;
        Some((route, node))
    }
}

fn checked_get(request: GetRequest) -> Result<bytes::Bytes, Failure> {
    validation::key("get.key", &request.key)?;
    validation::no_transaction(request.context.as_ref())?;
    Ok(request.key)
}

fn checked_put(request: PutRequest, recent: Timestamp) -> Result<Operation, Failure> {
    validation::key("put.key", &request.key)?;
    validation::value(&request.value)?;
    let condition = validation::condition(request.condition)?;
    let identity = validation::write_context(request.context.as_ref(), known(recent)?)?;
    Ok(Operation::Put { key: request.key, value: request.value, condition, identity })
}

fn checked_delete(request: DeleteRequest, recent: Timestamp) -> Result<Operation, Failure> {
    validation::key("delete.key", &request.key)?;
    let condition = validation::condition(request.condition)?;
    let identity = validation::write_context(request.context.as_ref(), known(recent)?)?;
    Ok(Operation::Delete { key: request.key, condition, identity })
}

/// A gateway that never heard from the oracle is not ready and cannot write.
fn known(recent: Timestamp) -> Result<Timestamp, Failure> {
    if recent.is_zero() {
        let why = "no timestamp was seen since the gateway started".to_owned();
        return Err(Failure::PlacementUnavailable { why });
    }
    Ok(recent)
}

impl Stream for PipelineStream {
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.context.results.register(context.waker());
        if matches!(this.input, Input::Open) && this.stopped.as_mut().poll(context).is_ready() {
            // The gateway stops: what was read is finished, the rest the client sends elsewhere.
            this.input = Input::Ended(None);
        }
        this.advance(context);
        let results = this.context.results.take();
        if !results.is_empty() {
            let metrics = &this.context.dispatcher.metrics;
            metrics.pipeline_messages.with_label_values(&["out"]).inc();
            return Poll::Ready(Some(Ok(PipelineResponse { results })));
        }
        let Input::Ended(end) = &mut this.input else { return Poll::Pending };
        if this.backlog.len() > 0 || !this.context.results.is_idle() {
            return Poll::Pending;
        }
        Poll::Ready(end.take().map(Err))
    }
}

impl Drop for PipelineStream {
    fn drop(&mut self) {
        self.context.dispatcher.metrics.pipeline_streams.dec();
    }
}
