//! Whole quorums in one process, over real gRPC on loopback.

use crate::consensus::types::Vote;
use crate::consensus::witness::{Testimony, Witnesses};
use crate::consensus::{
    Consensus, LeadershipError, MemberRole, Options, ProposeError, StartError, Tuning,
};
use crate::state::{Command, Response, State};
use crate::tso::{TimestampError, TimestampService};
use rangedb_service::data_dir::DataDirError;
use rangedb_service::{DataDir, grpc};
use rangedb_types::{PlacementId, SystemClock, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes this long on a machine that is not stuck.
const LIMIT: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + LIMIT
}

fn tuning() -> Tuning {
    Tuning {
        heartbeat: Duration::from_millis(80),
        election_timeout_min: Duration::from_millis(200),
        election_timeout_max: Duration::from_millis(400),
        entries_per_snapshot: 40,
        entries_kept: 10,
    }
}

struct Running {
    consensus: Arc<Consensus>,
    timestamps: Arc<TimestampService>,
    cancel: CancellationToken,
    server: JoinHandle<()>,
}

struct Quorum {
    folder: tempfile::TempDir,
    addresses: BTreeMap<PlacementId, String>,
    /// Kept until a member first starts, so that nobody else takes the port.
    listeners: BTreeMap<PlacementId, TcpListener>,
    running: BTreeMap<u64, Running>,
}

impl Quorum {
    /// Addresses for some members, none of which runs yet.
    async fn prepare(ids: impl IntoIterator<Item = u64>) -> Self {
        let mut quorum = Self {
            folder: tempfile::tempdir().unwrap(),
            addresses: BTreeMap::new(),
            listeners: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        for id in ids {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let id = PlacementId(id);
            quorum.addresses.insert(id, listener.local_addr().unwrap().to_string());
            quorum.listeners.insert(id, listener);
        }
        quorum
    }

    async fn formed(ids: impl IntoIterator<Item = u64> + Clone) -> Self {
        let mut quorum = Self::prepare(ids.clone()).await;
        for id in ids {
            quorum.start(id).await;
        }
        quorum.leader().await;
        quorum
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    async fn start(&mut self, id: u64) {
        let peers = self.addresses.clone();
        self.start_with(id, peers).await.unwrap();
    }

    async fn start_with(
        &mut self,
        id: u64,
        peers: BTreeMap<PlacementId, String>,
    ) -> Result<(), StartError> {
        let address = self.addresses[&PlacementId(id)].clone();
        // openraft's own tasks end on their own time after a stop, and hold the lock until then; the
        // end of a process would take them along.
        let opened = until("the folder's lock is free", || {
            match DataDir::open(self.path(id), "placement", 1) {
                Err(DataDirError::InUse { .. }) => None,
                opened => Some(opened.unwrap()),
            }
        });
        let data_dir = Arc::new(opened.await);
        let cancel = CancellationToken::new();
        let consensus = Consensus::start(Options {
            id: PlacementId(id),
            peers,
            advertise: address.clone(),
            data_dir,
            tuning: tuning(),
            cancel: cancel.clone(),
        })
        .await?;
        let listener = match self.listeners.remove(&PlacementId(id)) {
            Some(listener) => listener,
            None => TcpListener::bind(&address).await.unwrap(),
        };
        let service = consensus.grpc_service();
        let serving = grpc::server_builder().add_service(service);
        let serving = grpc::serve(serving, listener, cancel.clone());
        let server = tokio::spawn(async move { serving.await.unwrap() });
        let clock = Arc::new(SystemClock::new());
        let timestamps =
            TimestampService::start(Arc::clone(&consensus), clock.clone(), clock, &cancel);
        self.running.insert(id, Running { consensus, timestamps, cancel, server });
        Ok(())
    }

    /// As a kill: nobody is told.
    async fn stop(&mut self, id: u64) {
        let running = self.running.remove(&id).unwrap();
        running.cancel.cancel();
        running.server.abort();
        let _aborted = running.server.await;
        running.timestamps.shutdown().await;
        running.consensus.shutdown().await;
    }

    fn consensus(&self, id: u64) -> &Arc<Consensus> {
        &self.running[&id].consensus
    }

    /// The member that leads, once one does and has confirmed it.
    async fn leader(&self) -> u64 {
        let found = async {
            loop {
                for (id, running) in &self.running {
                    let deadline = Instant::now() + Duration::from_secs(1);
                    if running.consensus.leadership().borrow().is_leader
                        && running.consensus.confirm_leadership(deadline).await.is_ok()
                    {
                        return *id;
                    }
                }
                pause().await;
            }
        };
        tokio::time::timeout(LIMIT, found).await.expect("a leader is elected")
    }

    /// Proposes to whoever leads, until it surely is done.
    async fn propose(&self, command: Command) -> Response {
        let deadline = soon();
        loop {
            let leader = self.leader().await;
            match self.consensus(leader).propose(command.clone(), deadline).await {
                Ok(response) => return response,
                Err(ProposeError::NotLeader { .. }) => pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn allocate(&self) -> u64 {
        match self.propose(Command::AllocateIds { count: 1 }).await {
            Response::Ids { first } => first,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until all running members have applied the same.
    async fn converge(&self) -> Vec<u8> {
        until("members converge", || {
            let states: BTreeSet<Vec<u8>> =
                self.running.values().map(|one| one.consensus.read(State::to_snapshot)).collect();
            (states.len() == 1).then(|| states.into_iter().next().unwrap())
        })
        .await
    }

    async fn shutdown(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

/// Between two looks at a condition.
async fn pause() {
    // tidy: the pause between two looks; every caller has a limit
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = soon();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in time: {what}");
        pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_form_one_quorum_in_whatever_order_they_start() {
    let mut quorum = Quorum::prepare(1..=3).await;
    for id in [3, 1, 2] {
        assert!(quorum.running.values().all(|one| !one.consensus.is_formed()));
        quorum.start(id).await;
    }
    let leader = quorum.leader().await;
    until("the metadata names the members", || {
        quorum.consensus(leader).read(|state| state.members().count() == 3).then_some(())
    })
    .await;
    quorum.converge().await;
    let clusters: BTreeSet<_> = quorum
        .running
        .values()
        .map(|one| (one.consensus.cluster_id(), one.consensus.read(State::cluster_id)))
        .collect();
    assert_eq!(clusters.len(), 1);
    let (own, replicated) = clusters.into_iter().next().unwrap();
    assert!(own.is_some() && own == replicated);
    let roles: Vec<_> =
        quorum.consensus(leader).members().iter().map(|member| member.role).collect();
    assert_eq!(roles.iter().filter(|role| **role == MemberRole::Leader).count(), 1);
    assert_eq!(roles.len(), 3);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut quorum = Quorum::formed(1..=3).await;
    let mut ids = BTreeSet::from([quorum.allocate().await]);
    for _ in 0..2 {
        let old = quorum.leader().await;
        quorum.stop(old).await;
        assert!(ids.insert(quorum.allocate().await), "an id came twice");
        quorum.start(old).await;
        assert!(ids.insert(quorum.allocate().await), "an id came twice");
        quorum.converge().await;
    }
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_returns_does_not_depose_the_leader() {
    let mut quorum = Quorum::formed(1..=3).await;
    let leader = quorum.leader().await;
    let before = quorum.consensus(leader).confirm_leadership(soon()).await.unwrap();
    let follower = quorum.running.keys().copied().find(|id| *id != leader).unwrap();
    quorum.stop(follower).await;
    quorum.allocate().await;
    quorum.start(follower).await;
    quorum.converge().await;
    // Long enough for an election, had it wanted one.
    let end = Instant::now() + 4 * tuning().election_timeout_max;
    while Instant::now() < end {
        let term = quorum.consensus(leader).confirm_leadership(soon()).await;
        assert_eq!(term, Ok(before));
    }
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_member_forms_its_quorum_and_leads_in_a_new_term_after_a_restart() {
    let mut quorum = Quorum::formed([1]).await;
    let first = quorum.allocate().await;
    let term = quorum.consensus(1).confirm_leadership(soon()).await.unwrap();
    let cluster = quorum.consensus(1).cluster_id();
    quorum.stop(1).await;
    quorum.start(1).await;
    assert_eq!(quorum.allocate().await, first + 1);
    let again = quorum.consensus(1).confirm_leadership(soon()).await.unwrap();
    assert!(again > term, "a restarted leader must hold an election");
    assert_eq!(quorum.consensus(1).cluster_id(), cluster);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_quorum_restarts_with_everything_it_answered() {
    let mut quorum = Quorum::formed(1..=3).await;
    let last = quorum.allocate().await;
    let before = quorum.converge().await;
    for id in 1..=3 {
        quorum.stop(id).await;
    }
    for id in 1..=3 {
        quorum.start(id).await;
    }
    assert_eq!(quorum.allocate().await, last + 1);
    assert_ne!(quorum.converge().await, before);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_is_refused_under_its_old_id() {
    let mut quorum = Quorum::formed(1..=3).await;
    quorum.allocate().await;
    quorum.converge().await;
    let follower = {
        let leader = quorum.leader().await;
        quorum.running.keys().copied().find(|id| *id != leader).unwrap()
    };
    quorum.stop(follower).await;
    std::fs::remove_dir_all(quorum.path(follower)).unwrap();
    quorum.start(follower).await;
    let failure = tokio::time::timeout(LIMIT, quorum.consensus(follower).failed()).await.unwrap();
    let text = failure.to_string();
    assert!(text.contains("wiped") && text.contains("placement remove"), "{text}");
    assert!(!quorum.consensus(follower).is_formed());
    quorum.stop(follower).await;
    quorum.allocate().await;
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_catches_up_by_snapshot() {
    let mut quorum = Quorum::formed(1..=3).await;
    let leader = quorum.leader().await;
    let follower = quorum.running.keys().copied().find(|id| *id != leader).unwrap();
    quorum.stop(follower).await;
    for _ in 0..120 {
        quorum.allocate().await;
    }
    let leader = quorum.leader().await;
    until("the leader's log is cut off", || {
        let purged = quorum.consensus(leader).core.raft.metrics().borrow().purged;
        purged.filter(|purged| purged.index > 60).map(|_| ())
    })
    .await;
    quorum.start(follower).await;
    quorum.converge().await;
    let installed = quorum.consensus(follower).core.raft.metrics().borrow().snapshot;
    assert!(installed.is_some(), "the log alone could not have helped it");
    // And the member is whole: it may be restarted, and lead.
    quorum.stop(follower).await;
    quorum.start(follower).await;
    quorum.allocate().await;
    quorum.converge().await;
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_confirmed_and_nothing_hangs() {
    let mut quorum = Quorum::formed(1..=3).await;
    let leader = quorum.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        quorum.stop(id).await;
    }
    let deadline = || Instant::now() + Duration::from_millis(300);
    let consensus = quorum.consensus(leader);
    let command = Command::AllocateIds { count: 1 };
    let error = consensus.propose(command, deadline()).await.unwrap_err();
    assert_eq!(error, ProposeError::OutcomeUnknown);
    assert!(!error.surely_not_applied());
    let error = consensus.confirm_leadership(deadline()).await.unwrap_err();
    assert!(matches!(error, LeadershipError::Timeout | LeadershipError::NotLeader { .. }));
    let error = quorum.running[&leader].timestamps.batch(1, deadline()).await.unwrap_err();
    assert!(matches!(error, TimestampError::Timeout | TimestampError::NotLeader { .. }));
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_not_confirmed_by_members_that_voted_for_another_since() {
    let quorum = Quorum::formed(1..=3).await;
    let leader = quorum.leader().await;
    let core = Arc::clone(&quorum.consensus(leader).core);
    let (vote, members) = core
        .raft
        .with_raft_state(|state| {
            (*state.vote_ref(), state.membership_state.effective().membership().clone())
        })
        .await
        .unwrap();
    let mut witnesses = Witnesses::new(Arc::clone(&core));
    assert_eq!(witnesses.ask(&vote, &members, soon()).await, Testimony::Held);
    // As if both had just given their vote to member 3 in the next term, and not told anybody yet.
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let newer = Vote::new(vote.leader_id.term + 1, PlacementId(3));
    quorum.consensus(others[0]).core.promise.give(newer);
    assert_eq!(witnesses.ask(&vote, &members, soon()).await, Testimony::Held, "two still hold it");
    quorum.consensus(others[1]).core.promise.give(newer);
    let limit = Instant::now() + 2 * tuning().heartbeat;
    assert_eq!(witnesses.ask(&vote, &members, limit).await, Testimony::Silence);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_quorum_writes_nothing() {
    let quorum = Quorum::formed(1..=3).await;
    let leader = quorum.leader().await;
    let consensus = quorum.consensus(leader);
    until("the leader has done its duties", || {
        consensus.read(|state| state.members().count() == 3).then_some(())
    })
    .await;
    let last = || consensus.core.raft.metrics().borrow().last_log_index;
    let before = last();
    let end = Instant::now() + 8 * tuning().heartbeat;
    while Instant::now() < end {
        consensus.confirm_leadership(soon()).await.unwrap();
    }
    assert_eq!(last(), before);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_and_removed() {
    let mut quorum = Quorum::formed(1..=3).await;
    let newcomer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = newcomer.local_addr().unwrap().to_string();
    let id = PlacementId(4);
    let leader = quorum.leader().await;
    let missing = quorum.consensus(leader).add_member(id, "127.0.0.1:1".to_owned(), soon()).await;
    assert!(missing.unwrap_err().to_string().contains("nothing answers"));

    quorum.addresses.insert(id, address.clone());
    quorum.listeners.insert(id, newcomer);
    quorum.start(4).await;
    quorum.consensus(leader).add_member(id, address, soon()).await.unwrap();
    until("the metadata names the newcomer", || {
        let named = |state: &State| state.members().any(|member| member.id == id);
        quorum.consensus(4).read(named).then_some(())
    })
    .await;
    let member = quorum.consensus(leader).members().into_iter().find(|one| one.id == id);
    assert_eq!(member.unwrap().role, MemberRole::Follower);

    quorum.consensus(leader).remove_member(id, soon()).await.unwrap();
    quorum.stop(4).await;
    until("the metadata forgets it", || {
        quorum.consensus(leader).read(|state| state.members().count() == 3).then_some(())
    })
    .await;
    let unknown = quorum.consensus(leader).remove_member(PlacementId(9), soon()).await;
    assert!(unknown.unwrap_err().to_string().contains("no member 9"));
    quorum.allocate().await;
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_error_stops_the_member_with_a_reason() {
    let quorum = Quorum::formed([1]).await;
    let consensus = quorum.consensus(1);
    let store = consensus.core.store().unwrap();
    let damage = store.blocking(|store| {
        let mut batch = store.batch();
        batch.put_entry(u64::MAX - 1, &"no entry");
        store.write(batch)
    });
    damage.await.unwrap();
    drop(store);
    let deadline = Instant::now() + Duration::from_secs(2);
    consensus.propose(Command::AllocateIds { count: 1 }, deadline).await.unwrap_err();
    let failure = tokio::time::timeout(LIMIT, consensus.failed()).await.unwrap();
    assert!(failure.to_string().contains("start the process again"), "{failure}");
    quorum.shutdown().await;
}

#[test]
fn openraft_is_configured_as_the_guards_demand() {
    let tuning = Tuning::default();
    let config = tuning.config().unwrap();
    assert!(!config.enable_elect, "only the election guard campaigns");
    // A leader must not cut off what a member needs that is being sent a snapshot.
    assert!(config.max_in_snapshot_log_to_keep >= tuning.entries_per_snapshot);
    assert!(config.replication_lag_threshold > tuning.entries_per_snapshot);
    assert!(tuning.election_timeout_min >= 3 * tuning.heartbeat);
    let workspace = include_str!("../../../../Cargo.toml");
    assert!(!workspace.contains("loosen-follower-log-revert"));
    let wrong = Tuning { election_timeout_min: tuning.heartbeat, ..tuning };
    assert!(matches!(wrong.config(), Err(StartError::Timing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_refused_at_once() {
    let mut quorum = Quorum::prepare(1..=3).await;
    let others: BTreeMap<_, _> =
        quorum.addresses.clone().into_iter().filter(|(id, _)| id.get() != 1).collect();
    let error = quorum.start_with(1, others).await.unwrap_err();
    assert!(matches!(error, StartError::NotInPeers { id: PlacementId(1) }));
    let mut bad = quorum.addresses.clone();
    bad.insert(PlacementId(2), "nowhere".to_owned());
    let error = quorum.start_with(1, bad).await.unwrap_err();
    assert!(error.to_string().contains("member 2 a bad address"), "{error}");
    // The folder of another member.
    quorum.start(1).await;
    quorum.stop(1).await;
    std::fs::rename(quorum.path(1), quorum.path(2)).unwrap();
    let peers = quorum.addresses.clone();
    let error = quorum.start_with(2, peers).await.unwrap_err();
    assert!(matches!(error, StartError::DataDir(_)), "{error}");
}

/// Asks whoever leads for timestamps, until told to stop; every batch must lie above all before it.
async fn ask_for_timestamps(
    services: tokio::sync::watch::Receiver<Vec<Arc<TimestampService>>>,
    stop: CancellationToken,
) -> u64 {
    let mut end = Timestamp::ZERO;
    let mut batches = 0;
    while !stop.is_cancelled() {
        let asked = services.borrow().clone();
        for service in asked {
            let deadline = Instant::now() + Duration::from_millis(500);
            if let Ok((first, count)) = service.batch(10, deadline).await {
                assert!(first >= end, "{first} after {end}");
                end = Timestamp(first.0 + u64::from(count));
                batches += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_never_go_back_over_elections() {
    let mut quorum = Quorum::formed(1..=3).await;
    let all = |quorum: &Quorum| {
        quorum.running.values().map(|one| Arc::clone(&one.timestamps)).collect::<Vec<_>>()
    };
    let (services, watched) = tokio::sync::watch::channel(all(&quorum));
    let stop = CancellationToken::new();
    let client = tokio::spawn(ask_for_timestamps(watched, stop.clone()));
    for _ in 0..3 {
        let leader = quorum.leader().await;
        let batch = quorum.running[&leader].timestamps.batch(1, soon()).await;
        batch.unwrap();
        let old = quorum.running[&leader].timestamps.clone();
        services.send_modify(|services| services.retain(|one| !Arc::ptr_eq(one, &old)));
        drop(old);
        quorum.stop(leader).await;
        quorum.leader().await;
        quorum.start(leader).await;
        services.send_replace(all(&quorum));
    }
    stop.cancel();
    assert!(client.await.unwrap() > 0);
    services.send_replace(Vec::new());
    quorum.shutdown().await;
}
