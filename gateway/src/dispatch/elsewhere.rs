//! Reads that need not go to the leader: see `docs/closed-timestamps.md`.

use super::{Answered, Call, Dispatcher, inside, outside, request};
use crate::nodes::waiter::oneshot_waiter;
use crate::nodes::{Outcome, Submission};
use crate::operation::{Operation, Source};
use crate::routing::Route;
use rangedb_proto::internal::v1::ReplicaRead;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_types::{NodeId, Timestamp};
use tokio::time::Instant;

/// Replicas that are asked before the leader is.
const REPLICAS_ASKED_MAX: usize = 2;

impl Dispatcher {
    /// Asks replicas that do not lead, if the read allows it. `None`: the leader has to be asked, at the
    /// same version.
    pub async fn elsewhere(&self, operation: &Operation, deadline: Instant) -> Option<Answered> {
        let (version, source) = operation.source()?;
        if matches!(source, Source::Leader | Source::LeaderOfSnapshot) {
            return None;
        }
        let answered = self.ask_replicas(operation, version, source, deadline).await;
        let answerer = if answered.is_some() { "replica" } else { "leader" };
        self.metrics.replica_reads.with_label_values(&[answerer]).inc();
        answered
    }

    async fn ask_replicas(
        &self,
        operation: &Operation,
        version: Timestamp,
        source: Source,
        deadline: Instant,
    ) -> Option<Answered> {
        let route = self.routes.find(&operation.place(), deadline).await.ok()?;
        if outside(operation, &route).is_some() {
            return None;
        }
        let index = match source {
            Source::Claimed => self.claim(operation, &route, version, deadline).await?,
            Source::Leader | Source::LeaderOfSnapshot | Source::Closed => 0,
        };
        for node in route.others().into_iter().take(REPLICAS_ASKED_MAX) {
            if let Some(answer) = self.ask_replica(operation, &route, node, index, deadline).await {
                return Some(Answered { answer, route });
            }
        }
        None
    }

    /// What a replica has to have applied, says the leader.
    async fn claim(
        &self,
        operation: &Operation,
        route: &Route,
        version: Timestamp,
        deadline: Instant,
    ) -> Option<u64> {
        let claim = Operation::Claim { place: operation.place(), version };
        let answered = Box::pin(self.execute(&claim, Call::new(Instant::now(), deadline, false)))
            .await
            .ok()?;
        let (here, there) = (&route.descriptor, &answered.route.descriptor);
        let same = here.range_id == there.range_id && here.epoch.version == there.epoch.version;
        match answered.answer {
            Answer::Claim(claim) if same => Some(claim.index),
            _ => None,
        }
    }

    /// One replica; whatever it cannot do, the leader can.
    async fn ask_replica(
        &self,
        operation: &Operation,
        route: &Route,
        node: NodeId,
        index: u64,
        deadline: Instant,
    ) -> Option<Answer> {
        let link = self.link(node)?;
        let now = Instant::now();
        let expires = self.attempt_end(now, deadline);
        let mut request = request(route, inside(operation, route, false), expires - now);
        request.replica = Some(ReplicaRead { index });
        let (waiter, answer) = oneshot_waiter();
        let cost_bytes = operation.cost_bytes();
        link.submit([Submission { request, waiter, expires, cost_bytes }]);
        match answer.await {
            Ok(Outcome::Answered(Some(answer @ (Answer::Get(_) | Answer::Scan(_))))) => {
                Some(answer)
            }
            Ok(Outcome::Answered(Some(Answer::Error(error)))) => {
                tracing::debug!(%node, error = error.message, "a replica did not answer a read");
                None
            }
            _ => None,
        }
    }
}
