//! Opening the stream: find the leader, register, keep what it says about who we are.

use super::is_refusal_for_good;
use rangedb_placement_client::{Leader, PlacementClient, placement_client};
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::internal::v1::node_report::Report;
use rangedb_proto::internal::v1::{NodeCommand, NodeReport, RegisterNode, Registered};
use rangedb_service::DataDir;
use rangedb_service::data_dir::DataDirError;
use rangedb_types::{ClusterId, NodeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// One attempt to register, from the search for the leader to its answer.
const OPEN_LIMIT: Duration = Duration::from_secs(3);
/// Reports that wait for the transport.
const REPORTS_QUEUED_MAX: usize = 16;

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Where others reach it.
    pub address: String,
    pub region: String,
    pub zone: String,
    pub rack: String,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("placement refused this node: {0}")]
    Refused(String),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("{0}")]
    Unreachable(String),
}

impl LinkError {
    /// True if another attempt would end the same way: the process must not go on.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::DataDir(_))
    }

    pub(super) fn of_status(status: &Status) -> Self {
        if is_refusal_for_good(status) {
            Self::Refused(status.message().to_owned())
        } else {
            Self::Unreachable(format!("placement: {}", status.message()))
        }
    }
}

/// How streams are opened.
pub struct Link {
    pub client: Arc<PlacementClient>,
    pub data_dir: Arc<DataDir>,
    pub info: NodeInfo,
}

/// An open stream on which this node is registered.
pub struct Session {
    pub(super) reports: mpsc::Sender<NodeReport>,
    pub(super) commands: Streaming<NodeCommand>,
    leader: Leader,
}

impl Session {
    pub(super) fn address(&self) -> &str {
        &self.leader.address
    }
}

impl Link {
    /// Opens a stream and registers on it; the identity is on disk when it returns.
    ///
    /// # Errors
    /// See [`LinkError::is_final`].
    pub(super) async fn open(&self) -> Result<Session, LinkError> {
        let deadline = Instant::now() + OPEN_LIMIT;
        let leader = self
            .client
            .leader(deadline)
            .await
            .map_err(|error| LinkError::Unreachable(error.to_string()))?;
        let opened = timeout_at(deadline, self.register(&leader)).await;
        let (reports, commands) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(OpenError::Status(status))) => {
                self.client.forget(&leader, Some(&status));
                return Err(LinkError::of_status(&status));
            }
            Ok(Err(OpenError::Link(error))) => return Err(error),
            Err(_) => {
                self.client.forget(&leader, None);
                let why = format!("{} did not answer the registration", leader.address);
                return Err(LinkError::Unreachable(why));
            }
        };
        Ok(Session { reports, commands, leader })
    }

    /// The stream broke.
    pub(super) fn failed(&self, session: &Session, status: &Status) {
        self.client.forget(&session.leader, Some(status));
    }

    async fn register(
        &self,
        leader: &Leader,
    ) -> Result<(mpsc::Sender<NodeReport>, Streaming<NodeCommand>), OpenError> {
        let (reports, outgoing) = mpsc::channel(REPORTS_QUEUED_MAX);
        let register = Report::Register(self.registration());
        let queued = reports.try_send(NodeReport { report: Some(register) });
        queued.expect("the queue is new and has room");
        let mut client = placement_client(leader.channel.clone());
        let mut commands = client.node(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = commands.message().await?.and_then(|command| command.command);
        let Some(Command::Registered(registered)) = first else {
            return Err(Status::unavailable("the stream ended before the registration").into());
        };
        self.keep(&registered).await?;
        Ok((reports, commands))
    }

    fn registration(&self) -> RegisterNode {
        let NodeInfo { address, region, zone, rack } = self.info.clone();
        RegisterNode {
            cluster_id: self.data_dir.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            node_id: self.data_dir.node_id().map(NodeId::get).unwrap_or_default(),
            store_id: format!("{:032x}", self.data_dir.store_id()),
            address,
            region,
            zone,
            rack,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    async fn keep(&self, registered: &Registered) -> Result<(), LinkError> {
        let cluster_id: ClusterId = registered.cluster_id.parse().map_err(|_| {
            LinkError::Unreachable("placement named a cluster id that is none".to_owned())
        })?;
        let node_id = NodeId(registered.node_id);
        if self.data_dir.cluster_id() == Some(cluster_id)
            && self.data_dir.node_id() == Some(node_id)
        {
            return Ok(());
        }
        let data_dir = Arc::clone(&self.data_dir);
        let kept = tokio::task::spawn_blocking(move || {
            data_dir.set_cluster_id(cluster_id)?;
            data_dir.set_node_id(node_id)
        });
        match kept.await {
            Ok(kept) => Ok(kept?),
            Err(error) => Err(LinkError::Unreachable(error.to_string())),
        }
    }
}

/// A status still holds its metadata, which names the next leader.
enum OpenError {
    Status(Status),
    Link(LinkError),
}

impl From<Status> for OpenError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<LinkError> for OpenError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}
