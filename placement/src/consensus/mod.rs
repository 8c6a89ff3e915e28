//! The placement quorum: one replicated state machine over openraft.
//!
//! Owns: log, vote and state on disk, messages between members, formation, elections, membership,
//! and confirmation of leadership. Must not know: what commands mean (`state`), timestamps (`tso`),
//! nodes, gateways. Invariants: what was answered is on disk on a majority; a member acts only for
//! the cluster and the data folder it was taken in with; it leads only after an election.
//!
//! The guards against faults of openraft 0.9 are named in `docs/placement.md`; each has a test.

mod confirm;
mod core;
mod duties;
mod error;
mod formation;
mod guard;
mod identity;
mod log_store;
mod members;
mod metrics;
mod network;
mod service;
mod state_machine;
mod store;
mod types;
mod witness;

#[cfg(test)]
mod tests;

pub use self::error::{Failure, LeadershipError, MembershipError, ProposeError, StartError};
pub use self::members::{MemberRole, QuorumMember};
pub use self::service::Service;
pub use self::store::StoreError;
pub use self::types::{Member, TypeConfig};

use self::confirm::Confirmer;
use self::core::Core;
use self::identity::Identity;
use self::log_store::LogStore;
use self::network::Network;
use self::state_machine::{OpenError, StateMachine};
use self::store::Store;
use self::types::Raft;
use self::witness::Promise;
use crate::state::{Command, Response, State, StoreId};
use openraft::SnapshotPolicy;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use parking_lot::Mutex;
use rangedb_proto::internal::v1::consensus_server::ConsensusServer;
use rangedb_service::{DataDir, grpc};
use rangedb_types::{NodeId, PlacementId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most members a quorum may have.
pub const MEMBERS_MAX: usize = 9;
/// How long a stopping member waits for its database to be let go of.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest snapshot transfer step.
const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(10);
const SNAPSHOT_CHUNK_BYTES: u64 = 512 << 10;
const ENTRIES_PER_MESSAGE_MAX: u64 = 256;

/// A term of the quorum: at most one member leads in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// Times and amounts.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Leaders speak up this often; also how long one message to a member may take.
    pub heartbeat: Duration,
    /// Members wait between these two for a leader before they campaign. The longer one is also the
    /// lease that a voter grants a leader.
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    /// A snapshot is built after this many entries …
    pub entries_per_snapshot: u64,
    /// … and this many entries before it are kept, so that a member that lags a little, or is being
    /// sent a snapshot, still finds them.
    pub entries_kept: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1_000),
            entries_per_snapshot: 5_000,
            entries_kept: 10_000,
        }
    }
}

impl Tuning {
    pub(in crate::consensus) fn config(&self) -> Result<openraft::Config, StartError> {
        let ms = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "placement".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_timeout_min),
            election_timeout_max: ms(self.election_timeout_max),
            install_snapshot_timeout: ms(SNAPSHOT_STEP_TIMEOUT),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_payload_entries: ENTRIES_PER_MESSAGE_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.entries_per_snapshot),
            max_in_snapshot_log_to_keep: self.entries_kept,
            replication_lag_threshold: self.entries_per_snapshot + self.entries_kept,
            // The election guard campaigns, not openraft's timer.
            enable_elect: false,
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| StartError::Timing(error.to_string()))
    }
}

/// What a member needs to start.
pub struct Options {
    pub id: PlacementId,
    /// All members of the first quorum, this one included.
    pub peers: BTreeMap<PlacementId, String>,
    /// Where other members reach this one; wins over its own line in `peers`.
    pub advertise: String,
    pub data_dir: Arc<DataDir>,
    pub tuning: Tuning,
    /// Stops the member's background work when cancelled.
    pub cancel: CancellationToken,
}

/// Who leads, as far as this member knows. Only `confirm_leadership` tells for sure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader_id: Option<PlacementId>,
    pub leader_address: Option<String>,
    pub is_leader: bool,
    pub term: Term,
}

/// One member of the quorum.
pub struct Consensus {
    pub(in crate::consensus) core: Arc<Core>,
    confirmer: Confirmer,
    leadership: watch::Receiver<Leadership>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Two changes of the membership never run at once.
    changing: tokio::sync::Mutex<()>,
    stopped: Mutex<bool>,
}

impl Consensus {
    /// Recovers the member's state and starts it. Returns before the quorum is formed: that needs
    /// the service of every member to be reachable.
    ///
    /// # Errors
    /// `StartError`, in one line that says what to do.
    pub async fn start(options: Options) -> Result<Arc<Self>, StartError> {
        let Options { id, mut peers, advertise, data_dir, tuning, cancel } = options;
        check_peers(id, &peers)?;
        peers.insert(id, advertise);
        let config = Arc::new(tuning.config()?);
        data_dir.set_node_id(NodeId(id.get()))?;
        let path = data_dir.join("consensus");
        let had_cluster = data_dir.cluster_id().is_some();
        let own = Arc::new(Identity::new(id, peers, data_dir));
        let store_id = own.store_id;
        let opened = tokio::task::spawn_blocking(move || open(&path, id, store_id, had_cluster));
        let (store, machine) =
            opened.await.map_err(|error| StartError::Raft(error.to_string()))??;
        let shared = machine.shared();
        let network = Network::new(Arc::clone(&own));
        let promise = Promise::default();
        let log = LogStore::new(store.clone(), id, promise.clone());
        let raft = Raft::new(id, config, network.clone(), log, machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        let core = Arc::new(Core::new(own, raft, shared, network, tuning, store, promise));
        Ok(Self::spawn(core, cancel.child_token()))
    }

    fn spawn(core: Arc<Core>, cancel: CancellationToken) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let (confirmer, confirming) = Confirmer::new(Arc::clone(&core), cancel.clone());
        tasks.spawn(confirming);
        let (publish, leadership) = watch::channel(core.leadership());
        {
            let (core, cancel) = (Arc::clone(&core), cancel.clone());
            tasks.spawn(async move { follow_leadership(&core, &publish, &cancel).await });
        }
        {
            let (core, cancel) = (Arc::clone(&core), cancel.clone());
            tasks.spawn(async move { formation::run(&core, &cancel).await });
        }
        {
            let (core, cancel) = (Arc::clone(&core), cancel.clone());
            tasks.spawn(async move { guard::run(&core, &cancel).await });
        }
        {
            let (core, cancel) = (Arc::clone(&core), cancel.clone());
            tasks.spawn(async move { duties::run(&core, &cancel).await });
        }
        {
            let (core, cancel) = (Arc::clone(&core), cancel.clone());
            tasks.spawn(async move { supervise(&core, &cancel).await });
        }
        tasks.close();
        let changing = tokio::sync::Mutex::new(());
        let stopped = Mutex::new(false);
        Arc::new(Self { core, confirmer, leadership, tasks, cancel, changing, stopped })
    }

    /// The service that other members call; the process's gRPC server must serve it.
    #[must_use]
    pub fn grpc_service(&self) -> ConsensusServer<Service> {
        ConsensusServer::new(Service::new(Arc::clone(&self.core), self.cancel.clone()))
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX)
    }

    /// Executes a command through the quorum. Ask `State::would_change` first: a command that
    /// changes nothing still takes a place in the log.
    ///
    /// # Errors
    /// `ProposeError`, which tells whether the command may yet take effect.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Response, ProposeError> {
        propose(&self.core, command, deadline).await.map(|(response, _)| response)
    }

    /// As `propose`, and tells in which term the command was put in the log.
    pub(crate) async fn propose_in_term(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(Response, Term), ProposeError> {
        propose(&self.core, command, deadline).await
    }

    /// Confirms that this member leads at some moment after the call, and that `read` now sees
    /// everything that was answered to anybody before the call. Callers share quorum rounds.
    ///
    /// # Errors
    /// `LeadershipError`; asking again is always safe.
    pub async fn confirm_leadership(&self, deadline: Instant) -> Result<Term, LeadershipError> {
        self.confirmer.confirm(deadline).await
    }

    /// Looks at the applied state. Keep it short: commands wait meanwhile.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.core.shared.read(read)
    }

    /// Who leads, now and from now on.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The metadata revision of the applied state, as it grows. The changes themselves are read
    /// with `State::meta_events`, which tells a reader that fell too far behind to list again.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.core.shared.revisions()
    }

    /// True once this member belongs to a formed quorum.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.core.is_formed() && self.core.own.cluster_id().is_some()
    }

    /// The cluster this member belongs to, once it does.
    #[must_use]
    pub fn cluster_id(&self) -> Option<rangedb_types::ClusterId> {
        self.core.own.cluster_id()
    }

    /// Resolves with the reason when the member must stop by itself.
    pub async fn failed(&self) -> Failure {
        let mut failures = self.core.failures();
        let reason = match failures.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone(),
            Err(_) => None,
        };
        match reason {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Stops the member and closes its database. openraft 0.9 cannot hand leadership over, so the
    /// others elect a new leader after the lease has run out.
    pub async fn shutdown(&self) {
        let first = !std::mem::replace(&mut *self.stopped.lock(), true);
        self.cancel.cancel();
        self.tasks.wait().await;
        if !first {
            return;
        }
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
        let Some(store) = self.core.take_store() else { return };
        // openraft's own tasks end on their own time; the next start needs the database's lock.
        let closed = async {
            while !store.is_last_handle() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::warn!("the database is still in use by a task that does not end");
        }
        // Closing waits for the disk. Should it fail, the process is ending anyway.
        let _closed = tokio::task::spawn_blocking(move || drop(store)).await;
    }
}

fn check_peers(id: PlacementId, peers: &BTreeMap<PlacementId, String>) -> Result<(), StartError> {
    if !peers.contains_key(&id) {
        return Err(StartError::NotInPeers { id });
    }
    if peers.len() > MEMBERS_MAX {
        return Err(StartError::TooManyPeers { count: peers.len(), max: MEMBERS_MAX });
    }
    for (peer, address) in peers.iter().filter(|(peer, _)| **peer != id) {
        grpc::endpoint(address).map_err(|source| StartError::Address { id: *peer, source })?;
    }
    if peers.len().is_multiple_of(2) {
        tracing::warn!(
            members = peers.len(),
            "an even number of placement members survives no more failures than one less"
        );
    }
    Ok(())
}

fn open(
    path: &std::path::Path,
    id: PlacementId,
    store_id: StoreId,
    had_cluster: bool,
) -> Result<(Store, StateMachine), StartError> {
    let store = Store::open(path, id, store_id, had_cluster).map_err(|error| error.at(path))?;
    let machine = StateMachine::open(store.clone()).map_err(|error| match error {
        OpenError::Store(error) => StartError::Store(error.at(path)),
        OpenError::Snapshot(error) => StartError::Snapshot(error),
    })?;
    Ok((store, machine))
}

async fn propose(
    core: &Core,
    command: Command,
    deadline: Instant,
) -> Result<(Response, Term), ProposeError> {
    // openraft may hang in rare cases, so nothing waits for it without a limit.
    let result = match tokio::time::timeout_at(deadline, core.raft.client_write(command)).await {
        Err(_) => Err(ProposeError::OutcomeUnknown),
        Ok(Ok(written)) => Ok((written.data, Term(written.log_id.leader_id.term))),
        // openraft says this only of commands that did not enter the log, or were cut off it.
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            Err(ProposeError::NotLeader { address: core.leader_address() })
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)))) => {
            Err(ProposeError::OutcomeUnknown)
        }
        Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
    };
    let outcome = match &result {
        Ok(_) => "done",
        Err(ProposeError::NotLeader { .. }) => "not_leader",
        Err(_) => "unknown",
    };
    metrics::PROPOSALS.with_label_values(&[outcome]).inc();
    result
}

async fn follow_leadership(
    core: &Core,
    publish: &watch::Sender<Leadership>,
    cancel: &CancellationToken,
) {
    let mut changes = core.raft.server_metrics();
    loop {
        changes.mark_unchanged();
        let now = core.leadership();
        publish.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                let leader = now.leader_id.map_or(0, PlacementId::get);
                tracing::info!(leader, term = now.term.0, is_leader = now.is_leader, "leadership");
                *before = now;
            }
            changed
        });
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    publish.send_modify(|before| before.is_leader = false);
}

/// openraft stops at the first storage error; then the process must end, and start again.
async fn supervise(core: &Core, cancel: &CancellationToken) {
    let mut metrics = core.raft.metrics();
    let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err());
    let reason = tokio::select! {
        () = cancel.cancelled() => return,
        stopped = stopped => match stopped {
            Ok(metrics) => metrics.running_state.clone().err(),
            Err(_) => Some(Fatal::Panicked),
        },
    };
    let reason = reason.map(|fatal| fatal.to_string()).unwrap_or_default();
    core.fail(Failure(format!(
        "placement's consensus stopped ({reason}); start the process again"
    )));
}
