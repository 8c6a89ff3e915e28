//! Executes one operation: find the route, send, judge the answer, try again inside the deadline.
//!
//! Owns: attempts. Must not know: the public wire. Invariants: no attempt outlives its own time
//! limit; a write is repeated only under the same request id, and flagged as a repetition once an
//! earlier attempt may have been applied.

mod call;
mod elsewhere;
mod interpret;

pub use call::{Call, Reason, Retry};
pub use interpret::{Verdict, interpret};

use crate::errors::Failure;
use crate::metrics::Metrics;
use crate::nodes::waiter::{Waiter, oneshot_waiter};
use crate::nodes::{Link, Nodes, Outcome, Submission};
use crate::operation::{Operation, Place, Reach};
use crate::routing::{Route, Routes};
use crate::transaction::Obstacle;
use bytes::Bytes;
use rangedb_placement_client::{PlacementError, TimestampClient};
use rangedb_proto::internal::v1::DataRequest;
use rangedb_proto::internal::v1::data_request::Operation as WireOperation;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_types::{NodeId, RangeId, Span, Timestamp};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What operations are executed with.
pub struct Dispatcher {
    after: After,
    pub routes: Arc<Routes>,
    pub nodes: Arc<Nodes>,
    pub timestamps: Arc<TimestampClient>,
    pub metrics: Arc<Metrics>,
    attempt_timeout: Duration,
}

/// What goes on after an answer: the clean-up behind transactions.
#[derive(Clone)]
pub struct After {
    /// Owns the tasks.
    pub tasks: TaskTracker,
    /// Ends them.
    pub end: CancellationToken,
}

/// An answer and the route it came by.
#[derive(Debug)]
pub struct Answered {
    pub answer: Answer,
    pub route: Arc<Route>,
}

impl Dispatcher {
    #[must_use]
    pub fn new(
        routes: Arc<Routes>,
        nodes: Arc<Nodes>,
        timestamps: Arc<TimestampClient>,
        metrics: Arc<Metrics>,
        after: After,
        attempt_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { after, routes, nodes, timestamps, metrics, attempt_timeout })
    }

    /// Goes on with something behind an answer, for as long as this gateway runs.
    pub fn do_after(&self, work: impl Future<Output = ()> + Send + 'static) {
        let end = self.after.end.clone();
        self.after.tasks.spawn(async move { end.run_until_cancelled(work).await });
    }

    /// Does something to its end, though its caller goes away.
    ///
    /// # Errors
    /// What it returns; `Internal` if it panicked.
    pub async fn do_whole<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let done = self.after.tasks.spawn(work).await;
        done.map_err(|error| Failure::Internal { message: error.to_string() })?
    }

    /// A fresh timestamp of the oracle.
    ///
    /// # Errors
    /// `PlacementUnavailable` at the deadline, `Overloaded` if too many wait.
    pub async fn timestamp(&self, deadline: Instant) -> Result<Timestamp, Failure> {
        self.timestamps.get(deadline).await.map_err(|error| match error {
            PlacementError::Overloaded => Failure::Overloaded,
            error => Failure::PlacementUnavailable { why: error.to_string() },
        })
    }

    /// When an attempt that starts now has to end.
    #[must_use]
    pub fn attempt_end(&self, now: Instant, deadline: Instant) -> Instant {
        deadline.min(now + self.attempt_timeout)
    }

    /// Executes an operation to its end.
    ///
    /// # Errors
    /// Why it failed; see [`Failure`] for what each means.
    pub async fn execute(
        &self,
        operation: &Operation,
        mut call: Call,
    ) -> Result<Answered, Failure> {
        if let Some(answered) = self.elsewhere(operation, call.deadline).await {
            return Ok(answered);
        }
        // A read that passes over an intent says so from then on.
        let mut operation = Cow::Borrowed(operation);
        let mut obstacle = Obstacle::new(call.deadline);
        loop {
            let retry = match self.attempt(&operation, &call).await {
                (Verdict::Done(answer), Some(route)) => return Ok(Answered { answer, route }),
                (Verdict::Failed(failure), _) => return Err(failure),
                (Verdict::Again(retry), _) => retry,
                (Verdict::Locked(intent), _) => {
                    let passed = obstacle.pass(self, operation.to_mut(), &intent);
                    if let Err(failure) = Box::pin(passed).await {
                        // What was sent before may still be on its way.
                        let is_retry = operation.identity().is_some_and(|it| it.retry);
                        let unknown = call.maybe_applied() || is_retry;
                        return Err(if unknown { call.give_up(&operation) } else { failure });
                    }
                    continue;
                }
                (Verdict::Done(_), None) => unreachable!("an answer came by some route"),
            };
            self.prepare(&operation, &mut call, retry).await?;
        }
    }

    /// Goes on with an operation whose first attempt, made elsewhere, has to be repeated.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn resume(
        &self,
        operation: &Operation,
        mut call: Call,
        retry: Retry,
    ) -> Result<Answered, Failure> {
        self.prepare(operation, &mut call, retry).await?;
        self.execute(operation, call).await
    }

    /// Waits and refreshes as the retry rules say.
    pub async fn prepare(
        &self,
        operation: &Operation,
        call: &mut Call,
        retry: Retry,
    ) -> Result<(), Failure> {
        let next = call.after(operation, retry, Instant::now())?;
        self.metrics.retries.with_label_values(&[retry.reason.label()]).inc();
        let (range_id, reason, pause) = (retry.range_id, retry.reason.label(), next.pause);
        tracing::debug!(%range_id, reason, ?pause, "another attempt");
        if !next.pause.is_zero() {
            tokio::time::sleep(next.pause).await;
        }
        if next.refresh {
            self.routes.refresh(&operation.place(), call.deadline).await;
        }
        Ok(())
    }

    /// One attempt: at most one request to one node.
    pub async fn attempt(
        &self,
        operation: &Operation,
        call: &Call,
    ) -> (Verdict, Option<Arc<Route>>) {
        let again = |reason, range_id| {
            (Verdict::Again(Retry { reason, range_id, redirected: false }), None)
        };
        let route = match self.routes.find(&operation.place(), call.deadline).await {
            Ok(route) => route,
            Err(error) => {
                tracing::debug!(%error, "no route");
                return again(Reason::NoRoute, RangeId(0));
            }
        };
        if let Some(failure) = outside(operation, &route) {
            // The range may have been split between two attempts, after the first was applied.
            let failure = if call.maybe_applied() { call.give_up(operation) } else { failure };
            return (Verdict::Failed(failure), Some(route));
        }
        let Some(node) = route.target() else {
            return again(Reason::NoRoute, route.descriptor.range_id);
        };
        let (waiter, answer) = oneshot_waiter();
        let outcome = match self.nodes.get(node) {
            Some(listed) => {
                let submission =
                    self.submission(operation, &route, call.maybe_applied(), call.deadline, waiter);
                listed.link().submit([submission]);
                // The link tells every waiter; if it was dropped with the process's end, the
                // request may have been on its way.
                answer.await.unwrap_or(Outcome::Lost)
            }
            None => Outcome::NotSent,
        };
        (interpret(&self.routes, &route, node, operation, outcome), Some(route))
    }

    /// The request of one attempt.
    #[must_use]
    pub fn submission(
        &self,
        operation: &Operation,
        route: &Route,
        repeated: bool,
        deadline: Instant,
        waiter: Box<dyn Waiter>,
    ) -> Submission {
        let now = Instant::now();
        let expires = self.attempt_end(now, deadline);
        Submission {
            request: request(route, inside(operation, route, repeated), expires - now),
            waiter,
            expires,
            cost_bytes: operation.cost_bytes(),
        }
    }

    /// The end of the range at a place, as far as is known.
    ///
    /// # Errors
    /// `PlacementUnavailable`.
    pub async fn range_end(&self, place: &Place, deadline: Instant) -> Result<Bytes, Failure> {
        let route = self
            .routes
            .find(place, deadline)
            .await
            .map_err(|error| Failure::PlacementUnavailable { why: error.to_string() })?;
        Ok(Bytes::copy_from_slice(&route.descriptor.span.end))
    }

    /// The link to a node, if the address book lists it.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.nodes.get(node).map(|node| Arc::clone(node.link()))
    }
}

/// The operation as its node gets it. A scan is cut to the route: of a range that was cut, a node may
/// still have all of it, and the rest has a route of its own.
fn inside(operation: &Operation, route: &Route, repeated: bool) -> WireOperation {
    let mut wire = operation.to_wire(repeated);
    if let WireOperation::Scan(scan) = &mut wire {
        let Span { start, end } = &route.descriptor.span;
        if scan.start[..] < start[..] {
            scan.start = Bytes::copy_from_slice(start);
        }
        if !end.is_empty() && (scan.end.is_empty() || scan.end[..] > end[..]) {
            scan.end = Bytes::copy_from_slice(end);
        }
    }
    wire
}

/// The wire form of a request; the link adds its tag.
#[must_use]
pub fn request(
    route: &Route,
    operation: rangedb_proto::internal::v1::data_request::Operation,
    timeout: Duration,
) -> DataRequest {
    DataRequest {
        tag: 0,
        range_id: route.descriptor.range_id.get(),
        epoch: Some(route.descriptor.epoch.into()),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        operation: Some(operation),
        replica: None,
    }
}

/// A DeleteRange or an action that leaves its range: who sent it cuts it at the range's end.
fn outside(operation: &Operation, route: &Route) -> Option<Failure> {
    let range_end = &route.descriptor.span.end;
    let reaches = |end: &Bytes| {
        range_end.is_empty() || (!end.is_empty() && end.as_ref() <= range_end.as_slice())
    };
    if let Operation::Action(action) = operation {
        let inside = match &action.reach {
            Reach::Key(last) => route.descriptor.span.contains(last),
            Reach::Below(end) => reaches(end),
        };
        return (!inside).then_some(Failure::SeveralRanges);
    }
    let Operation::DeleteRange { end, .. } = operation else { return None };
    (!reaches(end)).then(|| Failure::NotImplemented {
        feature: "delete_range over several ranges",
        message:
            "the span lies in more than one range, and DeleteRange is served inside one range \
                  only; delete its keys one by one, or in smaller spans"
                .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Scan;
    use rangedb_types::{Epoch, RangeDescriptor};

    #[test]
    fn a_scan_is_cut_to_the_route_it_goes_by() {
        let span = Span { start: b"m".to_vec(), end: b"t".to_vec() };
        let descriptor = RangeDescriptor {
            range_id: RangeId(1),
            span,
            epoch: Epoch::default(),
            replicas: vec![],
        };
        let route = Route::new(descriptor, None);
        let scan = Scan {
            start: Bytes::from_static(b"a"),
            end: Bytes::new(),
            limit: 0,
            bytes_max: 1,
            reverse: true,
            keys_only: false,
            at: crate::operation::ReadAt::default(),
        };
        let cut = |scan: Scan| match inside(&Operation::Scan(scan), &route, false) {
            WireOperation::Scan(scan) => (scan.start, scan.end),
            other => panic!("{other:?}"),
        };
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(cut(scan.clone()), (bytes("m"), bytes("t")));
        let within = Scan { start: bytes("n"), end: bytes("o"), ..scan };
        assert_eq!(cut(within), (bytes("n"), bytes("o")));
    }
}
