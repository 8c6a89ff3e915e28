//! The parts of a node that run, from the moment it knows its id.

use super::open::{Opened, SNAPSHOT_DIR};
use super::{Context, StartError};
use crate::access::{RangeStates, Ranges, Timestamps};
use crate::closed::Closer;
use crate::deadlock::{Detector, Reporter, Way};
use crate::gc::{Abandoned, Collector};
use crate::heartbeat::{self, Heartbeat, Host, Hosted, LinkError, Measures, Orders};
use crate::merge::Merger;
use crate::read::{self, ReadPool, Reader};
use crate::service::{self, DataPlane, NodeService};
use crate::snapshot::{self, SnapshotInbox, SnapshotOptions, SnapshotWorker};
use crate::split::Splitter;
use crate::store::{Store, StoreOptions};
use crate::transport::{
    AddressBook, Identity, Outbox, RaftTransportService, known_addresses, raft_transport_service,
};
use crate::txn::{Actor, Edges};
use crate::write::{self, Writer};
use rangedb_placement_client::TimestampClient;
use rangedb_proto::internal::v1::node_server::NodeServer;
use rangedb_proto::internal::v1::raft_transport_server::RaftTransportServer;
use rangedb_service::{Health, grpc};
use rangedb_types::SystemClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

/// The parts of a shutdown, which together stay below ten seconds.
const HAND_AWAY_LIMIT: Duration = Duration::from_millis(2500);
const REQUESTS_LIMIT: Duration = Duration::from_millis(1500);
const LINKS_LIMIT: Duration = Duration::from_secs(1);
/// How often the states of ranges that are gone are forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// A node that serves.
pub(super) struct Running {
    opened: Opened,
    store: Store,
    pool: Arc<ReadPool>,
    outbox: Arc<Outbox>,
    snapshots: Arc<SnapshotWorker>,
    timestamps: Arc<TimestampClient>,
    /// Data requests and what they started.
    requests: TaskTracker,
    requests_stop: CancellationToken,
    /// The little tasks of the node itself.
    background: TaskTracker,
    background_stop: CancellationToken,
    heartbeat: Option<JoinHandle<Result<(), LinkError>>>,
    heartbeat_stop: CancellationToken,
    grpc: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    grpc_stop: CancellationToken,
}

/// What carries Raft between nodes.
struct Links {
    identity: Identity,
    addresses: Arc<AddressBook>,
    outbox: Arc<Outbox>,
    snapshots: Arc<SnapshotWorker>,
}

/// Starts everything. The folder holds the node's id by now.
// tidy: long because it is one list: which part is started after which.
pub(super) async fn bring_up(
    context: &Context,
    opened: Opened,
    listener: TcpListener,
) -> Result<Running, StartError> {
    heartbeat::metrics::register();
    read::metrics::register();
    service::metrics::register();
    write::metrics::register();
    let links = links(context, &opened)?;
    let store = start_store(context, &opened, &links).await?;
    let pool = ReadPool::start(context.settings.read_threads()).map_err(StartError::Thread)?;
    let pool = Arc::new(pool);
    let (background, background_stop) = (TaskTracker::new(), CancellationToken::new());
    let timestamps =
        TimestampClient::start(Arc::clone(&context.placement), background_stop.clone());

    let (requests, requests_stop) = (TaskTracker::new(), CancellationToken::new());
    let states = Arc::new(RangeStates::default());
    let oracle = Arc::clone(&timestamps) as Arc<dyn Timestamps>;
    let reader = Reader::new(
        Arc::clone(&opened.engine),
        Arc::clone(&pool),
        Arc::clone(&oracle),
        requests.clone(),
    );
    let reporter = Arc::new(Reporter::default());
    let ranges = Arc::new(store.clone()) as Arc<dyn Ranges>;
    let detector = Detector::new(Arc::clone(&ranges), background.clone(), background_stop.clone());
    background.spawn(tell_of_waits(context, &links, &ranges, &states, &reporter, &background_stop));
    let data = DataPlane::new(
        ranges,
        Arc::clone(&states),
        Arc::clone(&reader),
        Writer::new(Arc::clone(&reader), Arc::clone(&oracle)),
        Actor::new(reader, oracle, Arc::clone(&reporter) as Arc<dyn Edges>),
        requests.clone(),
        requests_stop.clone(),
    );
    background.spawn(known_addresses::keep(
        &links.addresses,
        opened.data_dir.path().to_owned(),
        background_stop.clone(),
    ));
    background.spawn(tidy(Arc::clone(&states), store.clone(), background_stop.clone()));
    let closer = Closer::new(
        store.clone(),
        Arc::clone(&states),
        Arc::clone(&timestamps) as Arc<dyn Timestamps>,
        links.identity,
        Arc::clone(&links.addresses),
    );
    background.spawn(closer.run(background_stop.clone()));

    let (reporter, health_service) = tonic_health::server::health_reporter();
    let grpc_stop = CancellationToken::new();
    let raft = raft_service(context, &opened, &links, &store, &grpc_stop);
    let abandoned = Arc::new(Abandoned::default());
    let of_node =
        NodeService::new(data, store.clone(), detector, Arc::clone(&abandoned), links.identity);
    let node = NodeServer::new(of_node)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
    let server =
        grpc::server_builder().add_service(node).add_service(raft).add_service(health_service);
    let grpc = tokio::spawn(grpc::serve(server, listener, grpc_stop.clone()));

    let heartbeat_stop = CancellationToken::new();
    let (registered, told) = watch::channel(false);
    let engine = Arc::clone(&opened.engine);
    let splitter = Splitter::new(store.clone(), engine, Arc::clone(&states), background.clone());
    let merger = Merger::new(store.clone(), background.clone());
    background.spawn(merger.clone().thaw_forsaken(background_stop.clone()));
    let collector = Collector {
        store: store.clone(),
        engine: Arc::clone(&opened.engine),
        states: Arc::clone(&states),
        placement: Arc::clone(&context.placement),
        settings: context.cluster_settings.subscribe(),
        abandoned,
    };
    background.spawn(collector.run(background_stop.clone()));
    let host = Host { store: store.clone(), splitter, merger };
    let heartbeat = link_to_placement(
        context,
        &opened,
        host,
        states,
        &links,
        registered,
        heartbeat_stop.clone(),
    );
    let heartbeat = tokio::spawn(heartbeat.run());
    context.health.set_not_ready("waiting for placement");
    background.spawn(become_ready(told, context.health.clone(), reporter, background_stop.clone()));
    Ok(Running {
        opened,
        store,
        pool,
        outbox: links.outbox,
        snapshots: links.snapshots,
        timestamps,
        requests,
        requests_stop,
        background,
        background_stop,
        heartbeat: Some(heartbeat),
        heartbeat_stop,
        grpc: Some(grpc),
        grpc_stop,
    })
}

/// Tells the detector of deadlocks who waits here.
fn tell_of_waits(
    context: &Context,
    links: &Links,
    ranges: &Arc<dyn Ranges>,
    states: &Arc<RangeStates>,
    reporter: &Arc<Reporter>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let way = Way {
        own: links.identity.node_id,
        ranges: Arc::clone(ranges),
        placement: Arc::clone(&context.placement),
        addresses: Arc::clone(&links.addresses),
        states: Arc::clone(states),
    };
    let (reporter, stop) = (Arc::clone(reporter), stop.clone());
    async move { reporter.run(way, stop).await }
}

/// What other nodes call: Raft messages and snapshots.
fn raft_service(
    context: &Context,
    opened: &Opened,
    links: &Links,
    store: &Store,
    stop: &CancellationToken,
) -> RaftTransportServer<RaftTransportService> {
    let inbox = Arc::new(SnapshotInbox::new(
        links.identity,
        opened.data_dir.join(SNAPSHOT_DIR),
        context.settings.snapshots.clone(),
        Arc::new(store.clone()),
    ));
    raft_transport_service(links.identity, Arc::new(store.clone()), inbox, stop.clone())
}

fn links(context: &Context, opened: &Opened) -> Result<Links, StartError> {
    let identity = Identity {
        cluster_id: opened.data_dir.cluster_id().expect("set before the node's id"),
        node_id: opened.data_dir.node_id().expect("the caller waited for it"),
    };
    let addresses = Arc::new(AddressBook::new());
    addresses.set(opened.addresses.clone());
    let runtime = Handle::current();
    let settings = &context.settings.transport;
    let outbox = Outbox::new(identity, settings, Arc::clone(&addresses), runtime.clone());
    outbox.beat();
    let options = SnapshotOptions {
        identity,
        engine: Arc::clone(&opened.engine),
        addresses: Arc::clone(&addresses),
        settings: context.settings.snapshots.clone(),
        runtime,
    };
    let snapshots = SnapshotWorker::start(options).map_err(StartError::Thread)?;
    Ok(Links { identity, addresses, outbox, snapshots })
}

/// Finishes interrupted snapshots, then loads and starts every replica.
async fn start_store(
    context: &Context,
    opened: &Opened,
    links: &Links,
) -> Result<Store, StartError> {
    let (engine, log) = (Arc::clone(&opened.engine), Arc::clone(&opened.log));
    let (sender, snapshots) = (Arc::clone(&links.outbox), Arc::clone(&links.snapshots));
    let staged = opened.data_dir.join(SNAPSHOT_DIR);
    let path = opened.data_dir.path().display().to_string();
    let settings = context.settings.store_settings();
    let node_id = links.identity.node_id;
    let starting = tokio::task::spawn_blocking(move || {
        let installed = snapshot::recover(&*engine, &staged)?;
        let recovered: Vec<_> = installed.keys().copied().collect();
        let store = Store::start(StoreOptions {
            node_id,
            engine: Arc::clone(&engine),
            log,
            sender,
            snapshots,
            clock: Arc::new(SystemClock::new()),
            settings,
            installed,
        })
        .map_err(|source| StartError::Store { path, source })?;
        snapshot::finish_recovery(&*engine, recovered)?;
        Ok(store)
    });
    match starting.await {
        Ok(store) => store,
        Err(panic) => Err(StartError::Thread(std::io::Error::other(panic))),
    }
}

fn link_to_placement(
    context: &Context,
    opened: &Opened,
    host: Host,
    states: Arc<RangeStates>,
    links: &Links,
    registered: watch::Sender<bool>,
    stop: CancellationToken,
) -> Heartbeat {
    let outbox = Arc::clone(&links.outbox);
    let orders = Orders {
        hosted: Arc::new(host) as Arc<dyn Hosted>,
        settings: context.cluster_settings.clone(),
        addresses: Box::new(move |addresses| outbox.set_addresses(addresses)),
    };
    let measures = Measures::new(
        Arc::clone(&opened.engine),
        Arc::clone(&opened.log),
        states,
        opened.data_dir.path().to_owned(),
        context.settings.disk_capacity.0,
    );
    Heartbeat::new(context.link(opened), orders, measures, registered, stop)
}

/// Forgets what requests kept of ranges that are gone.
async fn tidy(states: Arc<RangeStates>, store: Store, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TIDY_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => states.retain(|range_id| store.replica(range_id).is_some()),
        }
    }
}

/// Ready is a node that placement knows. It stays ready while placement is away: reads go on.
async fn become_ready(
    mut registered: watch::Receiver<bool>,
    health: Health,
    reporter: HealthReporter,
    stop: CancellationToken,
) {
    let told = async {
        let registered = registered.wait_for(|registered| *registered).await;
        registered.is_ok()
    };
    tokio::select! {
        () = stop.cancelled() => {}
        registered = told => {
            if registered {
                health.set_ready(true);
                reporter.set_serving::<NodeServer<NodeService>>().await;
            }
        }
    }
}

impl Running {
    /// Resolves with the reason if something failed that the process must not survive.
    pub(super) async fn failed(&mut self) -> String {
        let reason = tokio::select! {
            reason = self.store.failed() => return format!(
                "{reason}; the node stopped so that nothing acknowledged is lost: see that the disk of {} has space and works, then start the node again",
                self.opened.data_dir.path().display()
            ),
            ended = ended(&mut self.heartbeat) => match ended {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) => "the link to placement ended by itself".to_owned(),
                Err(error) => format!("the link to placement ended: {error}"),
            },
            ended = ended(&mut self.grpc) => match ended {
                Ok(Err(error)) => format!("the gRPC server ended: {error}"),
                Ok(Ok(())) => "the gRPC server ended by itself".to_owned(),
                Err(error) => format!("the gRPC server ended: {error}"),
            },
        };
        tracing::error!(reason, "the node cannot go on");
        reason
    }

    /// Stops in the order in which nothing is missed: leaders go, requests end, then the store and
    /// what carries its messages, last the engine.
    pub(super) async fn stop(mut self, store_works: bool) {
        if store_works {
            self.store.hand_leaders_away(HAND_AWAY_LIMIT).await;
        }
        self.requests_stop.cancel();
        self.requests.close();
        if timeout(REQUESTS_LIMIT, self.requests.wait()).await.is_err() {
            tracing::info!("requests were still under way at shutdown");
        }
        self.heartbeat_stop.cancel();
        finish("the link to placement", self.heartbeat.take()).await;
        self.store.stop().await;
        self.grpc_stop.cancel();
        finish("the gRPC server", self.grpc.take()).await;
        let carriers = async {
            self.outbox.stop().await;
            self.snapshots.stop().await;
            // The store has answered whatever it still held.
            self.requests.wait().await;
        };
        if timeout(LINKS_LIMIT, carriers).await.is_err() {
            tracing::info!("links to other nodes were cut off at shutdown");
        }
        self.background_stop.cancel();
        self.background.close();
        self.background.wait().await;
        self.timestamps.stopped().await;
        let pool = Arc::clone(&self.pool);
        if let Err(error) = tokio::task::spawn_blocking(move || pool.stop()).await {
            tracing::error!(%error, "stopping the reads panicked");
        }
        self.opened.close().await;
    }
}

/// Takes the task's end, so that it is not waited for twice.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let ended = match task {
        Some(running) => running.await,
        None => std::future::pending().await,
    };
    *task = None;
    ended
}

/// Waits for a task that was told to end, and cuts it off if it takes too long.
async fn finish<T>(what: &str, task: Option<JoinHandle<T>>) {
    let Some(mut task) = task else { return };
    if timeout(LINKS_LIMIT, &mut task).await.is_err() {
        tracing::info!(what, "cut off at shutdown");
        task.abort();
        // Its parts are dropped when it has really ended.
        let _ = task.await;
    }
}
