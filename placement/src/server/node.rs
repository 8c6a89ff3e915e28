//! The stream of one storage node: registration, then reports up and commands down.

use super::{Services, not_leader, unexpected};
use crate::leader::{Office, Session};
use crate::metrics::REGISTRATIONS;
use crate::state::{Command, Locality, NodeRecord, NodeState, Response, StoreId};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command as NodeCommand;
use rangedb_proto::internal::v1::node_report::Report;
use rangedb_service::grpc;
use rangedb_types::NodeId;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

/// How long a node may take to register after it opened its stream.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

type Outgoing = mpsc::Sender<Result<wire::NodeCommand, Status>>;

/// Serves the stream until it ends. An error is what the node is told last.
pub(super) async fn serve(
    services: &Services,
    office: &Office,
    mut reports: Streaming<wire::NodeReport>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let registered = tokio::select! {
        () = office.ended().cancelled() => return Err(not_leader(&services.consensus)),
        registered = register(services, &mut reports) => registered,
    };
    let outcome = if registered.is_ok() { "accepted" } else { "refused" };
    REGISTRATIONS.with_label_values(&[outcome]).inc();
    let node = match registered {
        Ok(Some(node)) => node,
        Ok(None) => return Ok(()),
        Err(status) => {
            tracing::warn!(reason = status.message(), "refused a storage node");
            return Err(status);
        }
    };
    let cluster_id = services.consensus.cluster_id().map(|id| id.to_string()).unwrap_or_default();
    let welcome = wire::Registered { cluster_id, node_id: node.node_id.get() };
    send(outgoing, NodeCommand::Registered(welcome))?;
    let session = office.connected(node.node_id, outgoing.clone());
    tracing::info!(node_id = %node.node_id, address = node.address, "a storage node connected");
    let result = converse(services, office, &session, &mut reports, outgoing).await;
    office.disconnected(&session);
    tracing::info!(node_id = %node.node_id, "a storage node disconnected");
    result
}

async fn converse(
    services: &Services,
    office: &Office,
    session: &Session,
    reports: &mut Streaming<wire::NodeReport>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut config = office.config();
    let mut nodes = office.nodes();
    config.mark_changed();
    nodes.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = office.ended().cancelled() => return Err(not_leader(&services.consensus)),
            () = session.ended.cancelled() => {
                return Err(Status::aborted(
                    "the stream was ended: the node opened another, did not read its commands, or was removed",
                ));
            }
            Ok(()) = config.changed() => {
                send(outgoing, NodeCommand::Config(latest(&mut config)))?;
            }
            Ok(()) = nodes.changed() => {
                send(outgoing, NodeCommand::Nodes(latest(&mut nodes)))?;
            }
            report = reports.message() => {
                let Ok(Some(report)) = report else { return Ok(()) };
                take_in(office, session, report)?;
            }
        }
    }
}

fn latest<T: Clone>(told: &mut watch::Receiver<T>) -> T {
    told.borrow_and_update().clone()
}

fn send(outgoing: &Outgoing, command: NodeCommand) -> Result<(), Status> {
    outgoing
        .try_send(Ok(wire::NodeCommand { command: Some(command) }))
        .map_err(|_| Status::aborted("the node does not read its commands"))
}

fn take_in(office: &Office, session: &Session, report: wire::NodeReport) -> Result<(), Status> {
    match report.report {
        Some(Report::Heartbeat(beat)) => Ok(office.heartbeat(session, &beat)?),
        Some(Report::BootstrapDone(done)) => {
            // The range counts as created once a beat shows it.
            tracing::info!(node_id = %session.node_id, range_id = done.range_id, "created the first range");
            Ok(())
        }
        Some(Report::Register(_)) => {
            Err(Status::invalid_argument("a node registers once, at the beginning of its stream"))
        }
        None => Err(Status::invalid_argument("malformed message: an empty report")),
    }
}

/// Waits for the registration and executes it. `None` if the node went away first.
async fn register(
    services: &Services,
    reports: &mut Streaming<wire::NodeReport>,
) -> Result<Option<NodeRecord>, Status> {
    let first = tokio::time::timeout(REGISTER_TIMEOUT, reports.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the node did not register in time"))?;
    let Ok(Some(first)) = first else { return Ok(None) };
    let Some(Report::Register(request)) = first.report else {
        return Err(Status::invalid_argument("the first report must be a registration"));
    };
    let command = command(services, &request)?;
    // A node that comes back as it was needs no place in the log.
    if let Some(known) = unchanged(services, &command) {
        return Ok(Some(known));
    }
    match services.propose(command).await? {
        Response::Node(node) => Ok(Some(node)),
        other => Err(unexpected(&other)),
    }
}

fn command(services: &Services, request: &wire::RegisterNode) -> Result<Command, Status> {
    let own = services.consensus.cluster_id().map(|id| id.to_string()).unwrap_or_default();
    let theirs = &request.cluster_id;
    if !theirs.is_empty() && *theirs != own {
        return Err(Status::failed_precondition(format!(
            "the node belongs to cluster {theirs}, this is cluster {own}; correct --placement, or give the node an empty data folder"
        )));
    }
    let store_id: StoreId =
        request.store_id.parse().map_err(|error: crate::state::InvalidStoreId| {
            Status::invalid_argument(error.to_string())
        })?;
    grpc::endpoint(&request.address)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let node_id = (request.node_id != 0).then_some(NodeId(request.node_id));
    Ok(Command::RegisterNode {
        node_id,
        store_id,
        address: request.address.clone(),
        locality: Locality {
            region: request.region.clone(),
            zone: request.zone.clone(),
            rack: request.rack.clone(),
        },
        software_version: request.software_version.clone(),
    })
}

/// The node's record, if registering it would change nothing.
fn unchanged(services: &Services, command: &Command) -> Option<NodeRecord> {
    let Command::RegisterNode { node_id: Some(node_id), store_id, .. } = command else {
        return None;
    };
    services.consensus.read(|state| {
        let known = state.node(*node_id).filter(|node| node.store_id == *store_id)?;
        let removed = known.state == NodeState::Removed;
        (!removed && !state.would_change(command)).then(|| known.clone())
    })
}
