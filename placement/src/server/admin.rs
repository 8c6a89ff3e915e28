//! The `PlacementAdmin` service: what gateways pass on for operators.

use super::holds;
use super::refusal::of_membership;
use super::{
    Answers, CALL_TIMEOUT, MEMBERSHIP_TIMEOUT, Services, commands, convert, drain, meta_watch,
    unexpected,
};
use crate::leader::Office;
use crate::metrics::OpenStream;
use crate::state::{
    Command, META_PREFIX, NodeState, Rejection, Response as Outcome, SettingView, State, Wish,
    is_secret, settings,
};
use rangedb_proto::internal::v1::placement_admin_server::PlacementAdmin;
use rangedb_proto::v1 as wire;
use rangedb_types::{NodeId, PlacementId, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Ranges or metadata entries in one page, unless the caller wants fewer.
const PAGE_MAX: usize = 1_000;
/// Most bytes of metadata in one page; it holds at least one entry.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Changes of metadata that wait for a watcher to read them.
const EVENTS_MAX: usize = 256;

const fn page_size(limit: u32) -> usize {
    let limit = limit as usize;
    if limit == 0 || limit > PAGE_MAX { PAGE_MAX } else { limit }
}

fn known_setting(state: &State, name: &str) -> Result<SettingView, Status> {
    state.setting(name).ok_or_else(|| {
        let known = settings::names().collect::<Vec<_>>().join(", ");
        super::of_rejection(&Rejection::UnknownSetting { name: name.to_owned(), known })
    })
}

/// A prefix or key of metadata as operators write it.
fn meta_name(text: String) -> Result<String, Status> {
    if text.is_empty() {
        return Ok(META_PREFIX.to_owned());
    }
    if text.starts_with(META_PREFIX) {
        return Ok(text);
    }
    Err(Status::invalid_argument(format!("metadata keys begin with `{META_PREFIX}`")))
}

fn member_id(id: u64) -> Result<PlacementId, Status> {
    if id == 0 {
        return Err(Status::invalid_argument("the id of a placement member must be at least 1"));
    }
    Ok(PlacementId(id))
}

impl Services {
    fn list_of_members(&self) -> Response<wire::ListPlacementResponse> {
        Response::new(wire::ListPlacementResponse { members: self.members() })
    }

    /// Keeps wishes, unless this was only a rehearsal.
    async fn begin(&self, wishes: Vec<Wish>, dry_run: bool) -> Result<(), Status> {
        if dry_run || wishes.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = wishes.iter().map(|wish| wish.range_id).collect();
        match self.propose(Command::AddWishes(wishes)).await? {
            Outcome::Done { .. } => {
                for range_id in told {
                    tracing::info!(%range_id, "took a command given by hand");
                }
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn begin_one(
        &self,
        checked: commands::Checked,
        dry_run: bool,
    ) -> Result<Response<wire::RangePlan>, Status> {
        self.begin(checked.wish.into_iter().collect(), dry_run).await?;
        Ok(Response::new(checked.plan))
    }

    async fn set_node_state(
        &self,
        office: &Office,
        checked: drain::Checked,
        dry_run: bool,
    ) -> Result<Response<wire::NodePlan>, Status> {
        let node_id = NodeId(checked.plan.node_id);
        if let Some(state) = checked.state.filter(|_| !dry_run) {
            match self.propose(Command::SetNodeState { node_id, state }).await? {
                Outcome::Done { .. } => tracing::info!(%node_id, ?state, "a node's state was set"),
                other => return Err(unexpected(&other)),
            }
            if state == NodeState::Removed {
                office.expel(node_id);
            }
        }
        Ok(Response::new(checked.plan))
    }
}

#[tonic::async_trait]
impl PlacementAdmin for Services {
    type WatchMetaStream = Answers<wire::MetaEvent>;

    async fn cluster_status(
        &self,
        _request: Request<wire::ClusterStatusRequest>,
    ) -> Result<Response<wire::ClusterStatusResponse>, Status> {
        let office = self.confirmed_office().await?;
        let (operators, pending) = convert::operators(&office);
        let cluster_id = self.consensus.cluster_id();
        Ok(Response::new(wire::ClusterStatusResponse {
            cluster_id: cluster_id.map(|id| id.to_string()).unwrap_or_default(),
            placement: self.members(),
            nodes: convert::nodes(&office),
            ranges: self.consensus.read(State::range_count) as u64,
            operators,
            pending,
        }))
    }

    async fn list_nodes(
        &self,
        _request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let office = self.confirmed_office().await?;
        Ok(Response::new(wire::ListNodesResponse { nodes: convert::nodes(&office) }))
    }

    async fn list_ranges(
        &self,
        request: Request<wire::ListRangesRequest>,
    ) -> Result<Response<wire::ListRangesResponse>, Status> {
        let office = self.confirmed_office().await?;
        let request = request.into_inner();
        let span = Span::new(request.start.to_vec(), request.end.to_vec())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let limit = page_size(request.limit);
        Ok(Response::new(office.look(|state, view, now| {
            let (page, next) = super::lookup::page(state, &span, limit);
            wire::ListRangesResponse {
                ranges: page.into_iter().map(|range| convert::range(view, range, now)).collect(),
                next_start: next.map(|next| next.span.start.clone().into()).unwrap_or_default(),
                more: next.is_some(),
            }
        })))
    }

    async fn get_range(
        &self,
        request: Request<wire::GetRangeRequest>,
    ) -> Result<Response<wire::GetRangeResponse>, Status> {
        let office = self.confirmed_office().await?;
        Ok(Response::new(commands::shown(&office, request.get_ref())?))
    }

    async fn split_range(
        &self,
        request: Request<wire::SplitRangeRequest>,
    ) -> Result<Response<wire::RangePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        self.begin_one(commands::split(&office, &request)?, request.dry_run).await
    }

    async fn merge_range(
        &self,
        request: Request<wire::MergeRangeRequest>,
    ) -> Result<Response<wire::RangePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        self.begin_one(commands::merge(&office, &request)?, request.dry_run).await
    }

    async fn move_replica(
        &self,
        request: Request<wire::MoveReplicaRequest>,
    ) -> Result<Response<wire::RangePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        self.begin_one(commands::move_replica(&office, &request)?, request.dry_run).await
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::RangePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        self.begin_one(commands::transfer(&office, &request)?, request.dry_run).await
    }

    async fn scatter_ranges(
        &self,
        request: Request<wire::ScatterRangesRequest>,
    ) -> Result<Response<wire::ScatterPlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        let (wishes, plan) = commands::scattered(&office, &request)?;
        self.begin(wishes, request.dry_run).await?;
        Ok(Response::new(plan))
    }

    async fn drain_node(
        &self,
        request: Request<wire::DrainNodeRequest>,
    ) -> Result<Response<wire::NodePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        let checked = drain::drain(&office, NodeId(request.node_id))?;
        self.set_node_state(&office, checked, request.dry_run).await
    }

    async fn undrain_node(
        &self,
        request: Request<wire::UndrainNodeRequest>,
    ) -> Result<Response<wire::NodePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        let checked = drain::undrain(&office, NodeId(request.node_id))?;
        self.set_node_state(&office, checked, request.dry_run).await
    }

    async fn remove_node(
        &self,
        request: Request<wire::RemoveNodeRequest>,
    ) -> Result<Response<wire::NodePlan>, Status> {
        let (office, request) = (self.confirmed_office().await?, request.into_inner());
        let checked = drain::remove(&office, NodeId(request.node_id))?;
        self.set_node_state(&office, checked, request.dry_run).await
    }

    async fn get_config(
        &self,
        request: Request<wire::GetConfigRequest>,
    ) -> Result<Response<wire::ConfigEntry>, Status> {
        self.confirmed_office().await?;
        let name = request.into_inner().name;
        let view = self.consensus.read(|state| known_setting(state, &name))?;
        Ok(Response::new(convert::setting(view)))
    }

    async fn set_config(
        &self,
        request: Request<wire::SetConfigRequest>,
    ) -> Result<Response<wire::ConfigEntry>, Status> {
        self.office()?;
        let wire::SetConfigRequest { name, value, expected_version } = request.into_inner();
        let command = Command::SetConfig { name, value, expected_version };
        match self.propose(command).await? {
            Outcome::Config(view) => {
                tracing::info!(name = view.name, value = view.value, "a setting was changed");
                Ok(Response::new(convert::setting(view)))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn list_config(
        &self,
        _request: Request<wire::ListConfigRequest>,
    ) -> Result<Response<wire::ListConfigResponse>, Status> {
        self.confirmed_office().await?;
        let settings: Vec<_> = self.consensus.read(|state| state.settings().collect());
        let settings = settings.into_iter().map(convert::setting).collect();
        Ok(Response::new(wire::ListConfigResponse { settings }))
    }

    async fn hold_version(
        &self,
        request: Request<wire::HoldVersionRequest>,
    ) -> Result<Response<wire::VersionHold>, Status> {
        self.office()?;
        Ok(Response::new(holds::hold(self, request.into_inner()).await?))
    }

    async fn release_version(
        &self,
        request: Request<wire::ReleaseVersionRequest>,
    ) -> Result<Response<wire::ReleaseVersionResponse>, Status> {
        self.office()?;
        let hold_id = request.into_inner().hold_id;
        self.propose(Command::EndHold { hold_id }).await?;
        Ok(Response::new(wire::ReleaseVersionResponse {}))
    }

    async fn list_holds(
        &self,
        _request: Request<wire::ListHoldsRequest>,
    ) -> Result<Response<wire::ListHoldsResponse>, Status> {
        self.confirmed_office().await?;
        let holds = self.consensus.read(|state| state.holds().map(holds::to_wire).collect());
        Ok(Response::new(wire::ListHoldsResponse { holds }))
    }

    async fn get_meta(
        &self,
        request: Request<wire::GetMetaRequest>,
    ) -> Result<Response<wire::MetaEntry>, Status> {
        self.confirmed_office().await?;
        let key = meta_name(request.into_inner().key)?;
        match self.consensus.read(|state| state.meta(&key).filter(|_| !is_secret(&key))) {
            Some(entry) => Ok(Response::new(convert::meta(entry))),
            None => Err(Status::not_found(format!("there is no metadata under `{key}`"))),
        }
    }

    async fn list_meta(
        &self,
        request: Request<wire::ListMetaRequest>,
    ) -> Result<Response<wire::ListMetaResponse>, Status> {
        self.confirmed_office().await?;
        let request = request.into_inner();
        let prefix = meta_name(request.prefix)?;
        let limit = page_size(request.limit);
        let (revision, entries, more) = self.consensus.read(|state| {
            let listed = state.meta_list(&prefix, &request.after);
            let mut listed = listed.filter(|entry| !is_secret(&entry.key)).peekable();
            let (mut entries, mut bytes) = (Vec::new(), 0);
            while let Some(entry) = listed.next_if(|entry| {
                let fits = bytes + entry.key.len() + entry.value.len() <= PAGE_BYTES_MAX;
                entries.is_empty() || (entries.len() < limit && fits)
            }) {
                bytes += entry.key.len() + entry.value.len();
                entries.push(entry);
            }
            let more = listed.peek().is_some();
            (state.revision(), entries, more)
        });
        let entries = entries.into_iter().map(convert::meta).collect();
        Ok(Response::new(wire::ListMetaResponse { entries, revision, more }))
    }

    async fn watch_meta(
        &self,
        request: Request<wire::WatchMetaRequest>,
    ) -> Result<Response<Self::WatchMetaStream>, Status> {
        let office = self.confirmed_office().await?;
        let wire::WatchMetaRequest { prefix, from_revision } = request.into_inner();
        let prefix = meta_name(prefix)?;
        let from = meta_watch::first_revision(&self.consensus, from_revision)?;
        let (outgoing, events) = mpsc::channel(EVENTS_MAX);
        let consensus = self.consensus.clone();
        self.tasks.spawn(async move {
            let _open = OpenStream::new("watch_meta");
            let refused = meta_watch::serve(&consensus, &office, &prefix, from, &outgoing).await;
            if let Err(status) = refused {
                let _gone = outgoing.send_timeout(Err(status), CALL_TIMEOUT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn list_placement(
        &self,
        _request: Request<wire::ListPlacementRequest>,
    ) -> Result<Response<wire::ListPlacementResponse>, Status> {
        self.confirmed_office().await?;
        Ok(self.list_of_members())
    }

    async fn add_placement(
        &self,
        request: Request<wire::AddPlacementRequest>,
    ) -> Result<Response<wire::ListPlacementResponse>, Status> {
        self.office()?;
        let wire::AddPlacementRequest { id, address } = request.into_inner();
        let (id, deadline) = (member_id(id)?, Instant::now() + MEMBERSHIP_TIMEOUT);
        let added = self.consensus.add_member(id, address, deadline).await;
        added.map_err(|error| of_membership(&self.consensus, &error))?;
        Ok(self.list_of_members())
    }

    async fn remove_placement(
        &self,
        request: Request<wire::RemovePlacementRequest>,
    ) -> Result<Response<wire::ListPlacementResponse>, Status> {
        self.office()?;
        let id = member_id(request.into_inner().id)?;
        let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
        let removed = self.consensus.remove_member(id, deadline).await;
        removed.map_err(|error| of_membership(&self.consensus, &error))?;
        Ok(self.list_of_members())
    }
}
