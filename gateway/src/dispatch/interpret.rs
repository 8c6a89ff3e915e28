//! What a node's answer means: the result, the end, or another attempt elsewhere.
//!
//! Owns: the meaning of `NodeError`, and what it teaches about routes. Must not know: deadlines,
//! pauses.

use super::call::{Reason, Retry};
use crate::errors::Failure;
use crate::nodes::Outcome;
use crate::operation::{Operation, Source};
use crate::routing::{Route, Routes};
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::node_error::{Invalid, Kind};
use rangedb_proto::internal::v1::{EpochMismatch, Intent, NodeError, NotLeader};
use rangedb_types::{NodeId, RangeDescriptor, Timestamp};
use std::sync::Arc;

/// The meaning of one attempt's end.
#[derive(Debug)]
pub enum Verdict {
    Done(Answer),
    Failed(Failure),
    Again(Retry),
    /// A transaction that is not decided, as far as its intent tells, is in the way.
    Locked(Box<Intent>),
}

/// Judges the end of an attempt that went to `node` by way of `route`.
#[must_use]
pub fn interpret(
    routes: &Routes,
    route: &Arc<Route>,
    node: NodeId,
    operation: &Operation,
    outcome: Outcome,
) -> Verdict {
    let again = |reason, redirected| {
        Verdict::Again(Retry { reason, range_id: route.descriptor.range_id, redirected })
    };
    match outcome {
        Outcome::Answered(Some(Answer::Error(error))) => {
            let judged = judge(routes, route, node, operation, error);
            judged.unwrap_or_else(|(reason, redirected)| again(reason, redirected))
        }
        Outcome::Answered(Some(answer)) => {
            if route.leader() != Some(node) {
                route.set_leader(node);
            }
            Verdict::Done(answer)
        }
        // A newer node's result that this gateway cannot read: a write may have happened.
        Outcome::Answered(None) => again(Reason::OutcomeUnknown, false),
        Outcome::Overloaded => again(Reason::Overloaded, false),
        Outcome::NotSent => {
            route.leader_failed(node);
            again(Reason::NotSent, true)
        }
        Outcome::Lost => {
            route.leader_failed(node);
            again(Reason::Lost, false)
        }
        Outcome::TimedOut => {
            route.leader_failed(node);
            again(Reason::TimedOut, false)
        }
    }
}

fn is_of_transaction(operation: &Operation) -> bool {
    matches!(operation, Operation::Action(_))
        || operation.source().is_some_and(|(_, source)| source == Source::LeaderOfSnapshot)
}

/// A definite end, or why to try again and whether elsewhere.
fn judge(
    routes: &Routes,
    route: &Arc<Route>,
    node: NodeId,
    operation: &Operation,
    error: NodeError,
) -> Result<Verdict, (Reason, bool)> {
    let message = error.message;
    let failure = match error.kind {
        Some(Kind::NotLeader(news)) => {
            return Err((Reason::NotLeader, follow_leader(routes, route, node, &news)));
        }
        Some(Kind::EpochMismatch(news)) => {
            return Err((
                Reason::EpochMismatch,
                learn_ranges(routes, route, node, operation, &news),
            ));
        }
        Some(Kind::RangeNotFound(_)) => {
            route.leader_failed(node);
            return Err((Reason::RangeNotFound, false));
        }
        Some(Kind::NotReady(_)) => return Err((Reason::NotReady, false)),
        Some(Kind::Overloaded(_)) => return Err((Reason::Overloaded, false)),
        Some(Kind::NoTimestamp(_)) => return Err((Reason::NoTimestamp, false)),
        Some(Kind::OutcomeUnknown(_)) | None => return Err((Reason::OutcomeUnknown, false)),
        Some(Kind::ConditionFailed(failed)) => {
            let current = failed.current.filter(|current| current.found);
            Failure::ConditionFailed {
                current: current.map(|current| (current.value, Timestamp(current.version))),
            }
        }
        Some(Kind::KeyLocked(intent)) => return Ok(Verdict::Locked(Box::new(intent))),
        Some(Kind::WriteConflict(conflict)) => {
            Failure::WriteConflict { key: conflict.key, version: Timestamp(conflict.version) }
        }
        Some(Kind::Deadlock(deadlock)) => {
            Failure::Deadlock { cycle: deadlock.cycle.into_iter().map(Timestamp).collect() }
        }
        Some(Kind::Aborted(_)) => Failure::Aborted,
        Some(Kind::Committed(committed)) => {
            Failure::Committed { version: Timestamp(committed.version) }
        }
        Some(Kind::CommitTooEarly(early)) => {
            Failure::CommitTooEarly { least: Timestamp(early.least) }
        }
        // Its snapshot is gone: it took too long, and may be run again.
        Some(Kind::Invalid(Invalid { too_old: true })) if is_of_transaction(operation) => {
            Failure::Expired
        }
        Some(Kind::Invalid(_)) => Failure::Invalid { field: "request", message },
        Some(Kind::Fenced(_)) => Failure::Fenced { message },
        Some(Kind::Corrupt(_)) => {
            tracing::error!(range_id = %route.descriptor.range_id, %node, message, "damaged data");
            Failure::Corrupt { message }
        }
    };
    Ok(Verdict::Failed(failure))
}

/// True if the answer names another node to ask.
fn follow_leader(routes: &Routes, route: &Arc<Route>, node: NodeId, news: &NotLeader) -> bool {
    let named = news.leader.as_ref().map(|leader| NodeId(leader.node_id)).filter(|id| *id != node);
    let descriptor = news.range.as_ref().map(RangeDescriptor::try_from);
    if let Some(Ok(descriptor)) = descriptor
        && descriptor.epoch.newer_than(route.descriptor.epoch)
    {
        routes.learn(descriptor, named);
    }
    match named {
        Some(leader) => {
            route.set_leader(leader);
            true
        }
        None => {
            route.leader_failed(node);
            false
        }
    }
}

/// True if the descriptors give the operation a new route.
fn learn_ranges(
    routes: &Routes,
    route: &Arc<Route>,
    node: NodeId,
    operation: &Operation,
    news: &EpochMismatch,
) -> bool {
    for range in &news.ranges {
        match RangeDescriptor::try_from(range) {
            Ok(descriptor) => {
                // The replica that answered led the old range, so it probably leads the new ones.
                let leader = descriptor.replica_on(node).map(|replica| replica.node_id);
                routes.learn(descriptor, leader);
            }
            Err(error) => tracing::warn!(%error, %node, "a node sent a bad descriptor"),
        }
    }
    let renewed = routes.cached(&operation.place()).is_some_and(|now| {
        now.descriptor.epoch.version != route.descriptor.epoch.version
            || now.descriptor.range_id != route.descriptor.range_id
    });
    if !renewed {
        // The replica is behind what is known here.
        route.leader_failed(node);
    }
    renewed
}
