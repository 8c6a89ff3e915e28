//! Compares the replicas of one range.
//!
//! Owns: asking the leader to mark a point of its log, and every replica for its checksum there.
//! Must not know: how checksums are made.

use crate::dispatch::{Call, Dispatcher, Reason, Retry, Verdict, interpret};
use crate::errors::Failure;
use crate::nodes::Outcome;
use crate::operation::Operation;
use crate::routing::Route;
use bytes::Bytes;
use futures::future::join_all;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{ReplicaChecksumRequest, StartConsistencyCheckRequest};
use rangedb_proto::v1::{ReplicaChecksum, VerifyRangeResponse};
use rangedb_types::{Random, RangeDescriptor, RangeId, Replica, SystemRandom};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Verifies one range.
///
/// # Errors
/// `NotFound` if there is no such range; `RangeUnavailable` if its leader cannot be reached. A replica
/// that does not answer is no error: its row says so.
pub async fn verify_range(
    dispatcher: &Dispatcher,
    range: RangeId,
    deadline: Instant,
) -> Result<VerifyRangeResponse, Failure> {
    let check_id = SystemRandom.next_u64();
    let (descriptor, index) = start(dispatcher, range, check_id, deadline).await?;
    let check = Check { dispatcher, range, check_id, index, deadline };
    let asked = descriptor.replicas.iter().map(|replica| check.checksum(*replica));
    let replicas = join_all(asked).await;
    let consistent = replicas.iter().all(|replica| {
        replica.error.is_empty()
            && replica.checksum == replicas[0].checksum
            && replica.applied_index == replicas[0].applied_index
    });
    Ok(VerifyRangeResponse { consistent: consistent && !replicas.is_empty(), replicas })
}

/// A check that has begun.
struct Check<'a> {
    dispatcher: &'a Dispatcher,
    range: RangeId,
    check_id: u64,
    /// Its place in the range's log; 0 if that is not known.
    index: u64,
    deadline: Instant,
}

/// Has the leader begin a check; gives the range as it is at that point, and that point in its log.
async fn start(
    dispatcher: &Dispatcher,
    range: RangeId,
    check_id: u64,
    deadline: Instant,
) -> Result<(RangeDescriptor, u64), Failure> {
    let mut call = Call::new(Instant::now(), deadline, false);
    loop {
        let found = dispatcher.routes.find_range(range, deadline).await;
        let route = found
            .map_err(|error| Failure::PlacementUnavailable { why: error.to_string() })?
            .ok_or_else(|| Failure::NotFound(format!("there is no range {range}")))?;
        let operation = Operation::get(vec![Bytes::copy_from_slice(&route.descriptor.span.start)]);
        let retry = match start_once(dispatcher, &route, &operation, check_id, deadline).await {
            Ok(begun) => return Ok(begun),
            Err(Verdict::Failed(failure)) => return Err(failure),
            Err(Verdict::Again(retry)) => retry,
            Err(Verdict::Done(_) | Verdict::Locked(_)) => {
                return Err(crate::batch_get::unexpected());
            }
        };
        dispatcher.prepare(&operation, &mut call, retry).await?;
    }
}

async fn start_once(
    dispatcher: &Dispatcher,
    route: &Arc<Route>,
    operation: &Operation,
    check_id: u64,
    deadline: Instant,
) -> Result<(RangeDescriptor, u64), Verdict> {
    let range_id = route.descriptor.range_id;
    let Some(node_id) = route.target() else {
        return Err(Verdict::Again(Retry { reason: Reason::NoRoute, range_id, redirected: false }));
    };
    let judge = |outcome| interpret(&dispatcher.routes, route, node_id, operation, outcome);
    let Some(node) = dispatcher.nodes.get(node_id) else { return Err(judge(Outcome::NotSent)) };
    let request = StartConsistencyCheckRequest { range_id: range_id.get(), check_id };
    let mut rpc = NodeClient::new(node.channel());
    let limit = dispatcher.attempt_end(Instant::now(), deadline);
    match timeout_at(limit, rpc.start_consistency_check(request)).await {
        Ok(Ok(response)) => {
            let response = response.into_inner();
            if let Some(error) = response.error {
                return Err(judge(Outcome::Answered(Some(Answer::Error(error)))));
            }
            let descriptor = response.range.as_ref().map(RangeDescriptor::try_from);
            match descriptor {
                Some(Ok(descriptor)) => Ok((descriptor, response.index)),
                _ => Err(Verdict::Failed(crate::batch_get::unexpected())),
            }
        }
        // A check that began twice does no harm.
        Ok(Err(_)) => Err(judge(Outcome::Lost)),
        Err(_) => Err(judge(Outcome::TimedOut)),
    }
}

impl Check<'_> {
    /// One replica's row.
    async fn checksum(&self, replica: Replica) -> ReplicaChecksum {
        let row = ReplicaChecksum {
            node_id: replica.node_id.get(),
            replica_id: replica.replica_id.get(),
            applied_index: 0,
            checksum: 0,
            entries: 0,
            error: String::new(),
        };
        let failed = |error: String| ReplicaChecksum { error, ..row.clone() };
        let Some(node) = self.dispatcher.nodes.get(replica.node_id) else {
            return failed("the node is not known".to_owned());
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let request = ReplicaChecksumRequest {
            range_id: self.range.get(),
            check_id: self.check_id,
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            index: self.index,
        };
        let mut rpc = NodeClient::new(node.channel());
        match timeout_at(self.deadline, rpc.replica_checksum(request)).await {
            Ok(Ok(response)) => {
                let found = response.into_inner();
                if found.replica_id != replica.replica_id.get() {
                    return failed(format!("the node holds replica {} instead", found.replica_id));
                }
                ReplicaChecksum {
                    applied_index: found.applied_index,
                    checksum: found.checksum,
                    entries: found.entries,
                    ..row
                }
            }
            Ok(Err(status)) => failed(status.message().to_owned()),
            Err(_) => failed("no answer in time".to_owned()),
        }
    }
}
