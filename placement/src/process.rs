//! One placement member as a whole: what is started in which order, and stopped in which.

use crate::consensus::{self, Consensus, Options};
use crate::leader;
use crate::server::Services;
use crate::settings::{InvalidSettings, Settings};
use crate::tso::TimestampService;
use rangedb_service::data_dir::{DataDir, DataDirError};
use rangedb_service::net::{BindError, bind_for};
use rangedb_service::{Health, grpc, http};
use rangedb_types::SystemClock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DATA_DIR_KIND: &str = "placement";
const DATA_DIR_FORMAT: u32 = 1;
/// How often readiness is looked at.
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// How long connections and streams may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a member could not start, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Consensus(#[from] consensus::StartError),
    #[error("the socket has no address: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the data folder could not be opened: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A member that did not stop cleanly. Everything acknowledged is on disk all the same.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error("connections were still open {} s after the stop", DRAIN_TIMEOUT.as_secs())]
    StillOpen,
}

/// A running member.
pub struct Server {
    consensus: Arc<Consensus>,
    timestamps: Arc<TimestampService>,
    health: Health,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    /// Ends the office, then the streams.
    serving: CancellationToken,
    /// Ends the listeners.
    listening: CancellationToken,
    streams: TaskTracker,
    leading: JoinHandle<()>,
    watching: JoinHandle<()>,
    grpc: JoinHandle<()>,
    http: JoinHandle<()>,
}

/// Binds, recovers and starts a member. Returns once it listens; it is ready when the quorum is
/// formed and has a leader.
///
/// # Errors
/// `StartError`, in one line that says what to do.
pub async fn start(settings: Settings) -> Result<Server, StartError> {
    crate::metrics::show_all();
    let id = settings.member_id()?;
    let mut peers = settings.peer_map()?;
    let path = settings.data_dir.clone();
    let open = move || DataDir::open(&path, DATA_DIR_KIND, DATA_DIR_FORMAT);
    let data_dir = Arc::new(tokio::task::spawn_blocking(open).await??);
    let grpc_listener = bind_for(&settings.listen, "--listen")?;
    let http_listener = bind_for(&settings.http_listen, "--http-listen")?;
    let (grpc_address, http_address) = (grpc_listener.local_addr()?, http_listener.local_addr()?);
    let advertise = settings.advertised(peers.get(&id), grpc_address)?;
    if peers.is_empty() {
        peers.insert(id, advertise.clone());
    }
    let serving = CancellationToken::new();
    let listening = CancellationToken::new();
    let tuning = settings.tuning();
    let options =
        Options { id, peers, advertise, data_dir, tuning, cancel: CancellationToken::new() };
    let consensus = Consensus::start(options).await?;
    let clock = SystemClock::new();
    let timestamps = TimestampService::start(
        consensus.clone(),
        Arc::new(clock),
        Arc::new(clock),
        &CancellationToken::new(),
    );
    let (office, current) = watch::channel(None);
    let leading = tokio::spawn(leader::run(consensus.clone(), clock, office, serving.clone()));
    let streams = TaskTracker::new();
    let services =
        Services::new(id, consensus.clone(), timestamps.clone(), current, streams.clone());
    let health = Health::new();
    let grpc = serve_grpc(grpc_listener, &services, &consensus, listening.clone());
    let http = http::serve(http_listener, http::router(health.clone()), listening.clone());
    let watching =
        tokio::spawn(watch_readiness(consensus.clone(), health.clone(), serving.clone()));
    tracing::info!(%id, grpc = %grpc_address, http = %http_address, "placement member started");
    Ok(Server {
        consensus,
        timestamps,
        health,
        grpc_address,
        http_address,
        serving,
        listening,
        streams,
        leading,
        watching,
        grpc,
        http,
    })
}

fn serve_grpc(
    listener: TcpListener,
    services: &Services,
    consensus: &Consensus,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let server = grpc::server_builder()
        .add_service(services.placement_server())
        .add_service(services.admin_server())
        .add_service(consensus.grpc_service());
    tokio::spawn(async move {
        if let Err(error) = grpc::serve(server, listener, stop).await {
            tracing::error!(%error, "gRPC server stopped");
        }
    })
}

async fn watch_readiness(consensus: Arc<Consensus>, health: Health, stop: CancellationToken) {
    loop {
        let led = consensus.leadership().borrow().leader_id.is_some();
        match (consensus.is_formed(), led) {
            (false, _) => health.set_not_ready("the quorum is not formed yet"),
            (true, false) => health.set_not_ready("placement has no leader"),
            (true, true) => health.set_ready(true),
        }
        tokio::select! {
            () = stop.cancelled() => return health.set_not_ready("stopping"),
            () = tokio::time::sleep(READY_INTERVAL) => {}
        }
    }
}

impl Server {
    /// What it listens on for gRPC.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// What it listens on for metrics and health.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// True while the quorum is formed and has a leader.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.is_ready()
    }

    /// True while this member leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.consensus.leadership().borrow().is_leader
    }

    /// Resolves with the reason if the member must stop by itself.
    pub async fn failed(&self) -> consensus::Failure {
        self.consensus.failed().await
    }

    /// Stops: ends its streams so that nodes and gateways move to the next leader, then consensus,
    /// then the listeners.
    ///
    /// # Errors
    /// `StillOpen` if connections did not end in time; they were cut off.
    pub async fn shutdown(self) -> Result<(), ShutdownError> {
        self.serving.cancel();
        join(self.leading, "leader").await;
        join(self.watching, "readiness").await;
        self.streams.close();
        let drained = timeout(DRAIN_TIMEOUT, self.streams.wait()).await.is_ok();
        self.timestamps.shutdown().await;
        self.consensus.shutdown().await;
        self.listening.cancel();
        let abort = self.grpc.abort_handle();
        let closed = timeout(DRAIN_TIMEOUT, join(self.grpc, "grpc")).await.is_ok();
        abort.abort();
        join(self.http, "http").await;
        if drained && closed { Ok(()) } else { Err(ShutdownError::StillOpen) }
    }
}

async fn join(task: JoinHandle<()>, name: &str) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(task = name, "a task of this member panicked");
    }
}
