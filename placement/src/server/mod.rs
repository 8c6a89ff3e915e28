//! The services of a placement member for nodes, gateways and operators.
//!
//! Owns: the wire at this edge: checks of requests, streams, and how refusals look. Must not know:
//! how decisions are made (`view`, `operator`, the planner) or agreed on (`consensus`).
//! Invariants: only the leader answers anything but Hello; every other member, and one that stops
//! leading in the middle of a stream, answers FAILED_PRECONDITION with the leader's address in
//! `rangedb-placement-leader`; every call ends in bounded time.

mod admin;
mod commands;
mod convert;
mod drain;
mod holds;
mod lookup;
mod meta_watch;
mod node;
mod placement;
mod range_watch;
mod refusal;
mod timestamps;

use crate::consensus::Consensus;
use crate::leader::{CurrentOffice, Office};
use crate::state::{Command, Response};
use crate::tso::TimestampService;
use rangedb_proto::internal::v1::placement_admin_server::PlacementAdminServer;
use rangedb_proto::internal::v1::placement_server::PlacementServer;
use rangedb_service::grpc::MESSAGE_BYTES_MAX;
use rangedb_types::PlacementId;
use refusal::{not_leader, of_leadership, of_propose, of_rejection};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::task::TaskTracker;
use tonic::Status;

/// How long one call may wait for the quorum.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change of the quorum's members may take: the new one learns the log first.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(60);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers calls. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    id: PlacementId,
    consensus: Arc<Consensus>,
    timestamps: Arc<TimestampService>,
    office: CurrentOffice,
    /// The tasks of open streams; they end with the office.
    tasks: TaskTracker,
}

impl Services {
    pub(crate) const fn new(
        id: PlacementId,
        consensus: Arc<Consensus>,
        timestamps: Arc<TimestampService>,
        office: CurrentOffice,
        tasks: TaskTracker,
    ) -> Self {
        Self { id, consensus, timestamps, office, tasks }
    }

    pub(crate) fn placement_server(&self) -> PlacementServer<Self> {
        PlacementServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin_server(&self) -> PlacementAdminServer<Self> {
        PlacementAdminServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The term of office, if this member leads.
    fn office(&self) -> Result<Arc<Office>, Status> {
        let office = self.office.borrow().clone();
        office.ok_or_else(|| not_leader(&self.consensus))
    }

    /// The term of office, confirmed after the call began: what is read next is up to date.
    async fn confirmed_office(&self) -> Result<Arc<Office>, Status> {
        let office = self.office()?;
        let deadline = Instant::now() + CALL_TIMEOUT;
        match self.consensus.confirm_leadership(deadline).await {
            Ok(_) => Ok(office),
            Err(error) => Err(of_leadership(&self.consensus, &error)),
        }
    }

    /// Executes a command; a rejection becomes a status.
    async fn propose(&self, command: Command) -> Result<Response, Status> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        match self.consensus.propose(command, deadline).await {
            Ok(Response::Rejected(rejection)) => Err(of_rejection(&rejection)),
            Ok(response) => Ok(response),
            Err(error) => Err(of_propose(&self.consensus, &error)),
        }
    }
}

/// The state machine answered a command with what belongs to another one.
fn unexpected(response: &Response) -> Status {
    tracing::error!(?response, "unexpected response of the state machine");
    Status::internal("placement gave an unexpected answer; its log says which")
}
