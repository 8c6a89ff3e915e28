//! Who is told how the first attempt of a Pipeline operation ended: the result goes to its stream,
//! and what has to be tried again gets a task of its own.
//!
//! Owns: the way from a node's answer to a result. Must not know: how attempts are sent. Invariant:
//! every operation pushes exactly one result.

use super::results::Results;
use crate::batch_get::{batch_get, unexpected};
use crate::dispatch::{Call, Dispatcher, Retry, Verdict, interpret};
use crate::errors::Failure;
use crate::metrics::Method;
use crate::nodes::Outcome;
use crate::nodes::waiter::{Waiter, Wake as _, Wakes};
use crate::operation::{Operation, ReadAt};
use crate::routing::Route;
use crate::service::get_response;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::v1::pipeline_result::Result as Public;
use rangedb_proto::v1::{BatchGetResponse, DeleteResponse, PutResponse};
use rangedb_types::NodeId;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Code;

/// Keys of one failed group that are read again at the same time.
const GROUP_RETRIES_MAX: usize = 32;

/// What the operations of one stream share.
pub struct StreamContext {
    pub dispatcher: Arc<Dispatcher>,
    pub results: Arc<Results>,
    pub tasks: TaskTracker,
}

/// One operation of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub tag: u64,
    pub method: Method,
    pub began: Instant,
    pub deadline: Instant,
    pub cost_bytes: usize,
}

impl Ticket {
    /// Its attempts. They count from its beginning: the first one may have been made by then.
    fn call(&self) -> Call {
        Call::new(self.began, self.deadline, true)
    }
}

impl StreamContext {
    /// Keeps an operation's result.
    pub fn finish(&self, ticket: &Ticket, result: Result<Public, Failure>, now: Instant) {
        let (code, outcome) = match result {
            Ok(outcome) => (Code::Ok, outcome),
            Err(failure) => (failure.code(), Public::Error(failure.to_pipeline())),
        };
        let took = now.saturating_duration_since(ticket.began);
        self.dispatcher.metrics.finished(ticket.method, code, took);
        self.results.push(ticket.tag, outcome, ticket.cost_bytes);
    }

    /// Finishes an operation that needs more than one request.
    pub fn run(
        self: &Arc<Self>,
        ticket: Ticket,
        operation: impl Future<Output = Result<Public, Failure>> + Send + 'static,
    ) {
        let context = Arc::clone(self);
        self.tasks.spawn(async move {
            let result = operation.await;
            context.finish(&ticket, result, Instant::now());
            context.results.wake();
        });
    }

    /// Executes an operation from its first attempt on, or goes on after a failed one.
    pub fn run_operation(
        self: &Arc<Self>,
        ticket: Ticket,
        operation: Operation,
        failed: Option<Retry>,
    ) {
        let dispatcher = Arc::clone(&self.dispatcher);
        self.run(ticket, async move {
            let call = ticket.call();
            let answered = match failed {
                Some(retry) => dispatcher.resume(&operation, call, retry).await?,
                None => dispatcher.execute(&operation, call).await?,
            };
            public(ticket.method, answered.answer)
        });
    }

    /// Executes a BatchGet.
    pub fn run_batch_get(self: &Arc<Self>, ticket: Ticket, keys: Vec<Bytes>) {
        let dispatcher = Arc::clone(&self.dispatcher);
        self.run(ticket, async move {
            let values =
                batch_get(&dispatcher, &keys, ReadAt::default(), ticket.deadline, true).await?;
            Ok(Public::BatchGet(BatchGetResponse { values }))
        });
    }
}

/// A node's answer as the stream's client gets it.
fn public(method: Method, answer: Answer) -> Result<Public, Failure> {
    match (method, answer) {
        (Method::Put, Answer::Write(written)) => {
            Ok(Public::Put(PutResponse { version: written.version }))
        }
        (Method::Delete, Answer::Write(written)) => {
            Ok(Public::Delete(DeleteResponse { version: written.version }))
        }
        (Method::Get, Answer::Get(mut page)) => {
            page.values.pop().map(|value| Public::Get(get_response(value))).ok_or_else(unexpected)
        }
        _ => Err(unexpected()),
    }
}

/// Waits for one write.
pub struct WriteWaiter {
    pub context: Arc<StreamContext>,
    pub ticket: Ticket,
    pub operation: Operation,
    pub route: Arc<Route>,
    pub node: NodeId,
}

impl Waiter for WriteWaiter {
    fn done(self: Box<Self>, outcome: Outcome, wakes: &mut Wakes) {
        let Self { context, ticket, operation, route, node } = *self;
        let result = match interpret(&context.dispatcher.routes, &route, node, &operation, outcome)
        {
            Verdict::Done(answer) => public(ticket.method, answer),
            Verdict::Failed(failure) => Err(failure),
            Verdict::Again(retry) => return context.run_operation(ticket, operation, Some(retry)),
            Verdict::Locked(_) => {
                return context.run_operation(ticket, operation, Some(Retry::locked()));
            }
        };
        context.finish(&ticket, result, Instant::now());
        wakes.add(&context.results);
    }
}

/// Waits for several keys of one range that were read by one request.
pub struct GetWaiter {
    pub context: Arc<StreamContext>,
    /// In the order of the operation's keys.
    pub tickets: Vec<Ticket>,
    pub operation: Operation,
    pub route: Arc<Route>,
    pub node: NodeId,
}

impl Waiter for GetWaiter {
    fn done(self: Box<Self>, outcome: Outcome, wakes: &mut Wakes) {
        let Self { context, tickets, operation, route, node } = *self;
        let now = Instant::now();
        let verdict = interpret(&context.dispatcher.routes, &route, node, &operation, outcome);
        match verdict {
            Verdict::Done(Answer::Get(page)) => {
                let found = page.values.len();
                for (ticket, value) in tickets.iter().zip(page.values) {
                    context.finish(ticket, Ok(Public::Get(get_response(value))), now);
                }
                if found < tickets.len() {
                    // The node cut a large answer short; it holds at least one value.
                    read_rest(&context, tickets, operation, found, None);
                }
            }
            Verdict::Done(_) => fail_all(&context, &tickets, &unexpected(), now),
            Verdict::Failed(failure) => fail_all(&context, &tickets, &failure, now),
            Verdict::Again(retry) => {
                return read_rest(&context, tickets, operation, 0, Some(retry));
            }
            Verdict::Locked(_) => return read_rest(&context, tickets, operation, 0, None),
        }
        wakes.add(&context.results);
    }
}

fn fail_all(context: &StreamContext, tickets: &[Ticket], failure: &Failure, now: Instant) {
    for ticket in tickets {
        context.finish(ticket, Err(failure.clone()), now);
    }
}

/// Reads the keys of a group from `from` on, each by itself: they may lie in several ranges by now,
/// and one that fails fails alone.
fn read_rest(
    context: &Arc<StreamContext>,
    tickets: Vec<Ticket>,
    operation: Operation,
    from: usize,
    failed: Option<Retry>,
) {
    let Operation::Get { keys, .. } = &operation else { return };
    let rest: Vec<(Ticket, Bytes)> =
        tickets.into_iter().zip(keys.iter().cloned()).skip(from).collect();
    let Some((first, _)) = rest.first() else { return };
    let mut call = first.call();
    let owner = Arc::clone(context);
    context.tasks.spawn(async move {
        if let Some(retry) = failed
            && let Err(failure) = owner.dispatcher.prepare(&operation, &mut call, retry).await
        {
            let tickets: Vec<_> = rest.into_iter().map(|(ticket, _)| ticket).collect();
            fail_all(&owner, &tickets, &failure, Instant::now());
            owner.results.wake();
            return;
        }
        let owner = &owner;
        stream::iter(rest)
            .for_each_concurrent(GROUP_RETRIES_MAX, |(ticket, key)| async move {
                let operation = Operation::get(vec![key]);
                let call = ticket.call();
                let answered = owner.dispatcher.execute(&operation, call).await;
                let result = answered.and_then(|answered| public(Method::Get, answered.answer));
                owner.finish(&ticket, result, Instant::now());
                owner.results.wake();
            })
            .await;
    });
}
