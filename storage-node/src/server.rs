//! One storage node: everything it runs, from opening its folder to a clean stop.
//!
//! Owns: the order in which the parts start and stop. Must not know: what they do. Invariants: no
//! part of Raft runs before the node knows its id; nothing is served from a store that failed; at
//! the end the engine is closed, whatever happened before.

mod open;
mod running;

use crate::heartbeat::{ClusterSettings, Link, NodeInfo, register_first};
use crate::raft_log::{EngineLog, LogError, LogSettings, RaftLog};
use crate::settings::{InvalidSettings, Settings};
use crate::snapshot::RecoverError;
use crate::store::StoreError;
use open::{Opened, open};
use rangedb_engine::EngineError;
use rangedb_placement_client::PlacementClient;
use rangedb_service::data_dir::DataDirError;
use rangedb_service::net::BindError;
use rangedb_service::{Health, http, net};
use running::{Running, bring_up};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A clean stop may take this long; what is not done by then is cut off.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(9);

/// Opens the Raft log in a folder. Tests give one that runs on a disk that fails.
pub type OpenLog =
    Box<dyn FnOnce(&Path, &LogSettings) -> Result<Arc<dyn RaftLog>, LogError> + Send>;

/// Why a storage node did not start. One line each, which says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the address of a listener cannot be read: {0}")]
    Address(#[source] std::io::Error),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the data in {path} cannot be opened: {source}")]
    Engine { path: String, source: EngineError },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshot(#[from] RecoverError),
    #[error("the replicas in {path} cannot be loaded: {source}")]
    Store { path: String, source: StoreError },
    #[error("no thread could be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What did not end in time at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not stop in time and was cut off; nothing acknowledged is lost")]
pub struct ShutdownError;

/// A running storage node.
pub struct Server {
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    health: Health,
    cluster_settings: watch::Receiver<ClusterSettings>,
    failure: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    life: JoinHandle<()>,
    http: JoinHandle<()>,
    http_stop: CancellationToken,
}

/// What the parts share from the first moment on.
struct Context {
    settings: Settings,
    health: Health,
    placement: Arc<PlacementClient>,
    info: NodeInfo,
    cluster_settings: watch::Sender<ClusterSettings>,
    stop: CancellationToken,
}

impl Context {
    fn link(&self, opened: &Opened) -> Link {
        Link {
            client: Arc::clone(&self.placement),
            data_dir: Arc::clone(&opened.data_dir),
            info: self.info.clone(),
        }
    }
}

/// Binds, recovers what is on disk, and serves in the background. Returns once both ports listen,
/// which is before the node is ready: that takes placement.
///
/// # Errors
/// One line that says what to change.
pub async fn start(settings: Settings) -> Result<Server, StartError> {
    start_with(settings, Box::new(|path, settings| Ok(Arc::new(EngineLog::open(path, settings)?))))
        .await
}

/// As [`start`], with the Raft log opened by the caller.
///
/// # Errors
/// As `start`.
pub async fn start_with(settings: Settings, open_log: OpenLog) -> Result<Server, StartError> {
    settings.check()?;
    let grpc_listener = net::bind_for(&settings.listen, "--listen")?;
    let http_listener = net::bind_for(&settings.http_listen, "--http-listen")?;
    let grpc_address = grpc_listener.local_addr().map_err(StartError::Address)?;
    let http_address = http_listener.local_addr().map_err(StartError::Address)?;
    let locality = settings.locality()?;
    let info = NodeInfo {
        address: settings.advertised(grpc_address)?,
        region: locality.region,
        zone: locality.zone,
        rack: locality.rack,
    };
    let opened = open(&settings, open_log).await?;

    let (cluster_settings, told_settings) = watch::channel(ClusterSettings::default());
    let (failed, failure) = watch::channel(None);
    let context = Context {
        placement: PlacementClient::new(settings.placement.clone()),
        health: Health::new(),
        stop: CancellationToken::new(),
        settings,
        info,
        cluster_settings,
    };
    let (health, stop) = (context.health.clone(), context.stop.clone());
    let http_stop = CancellationToken::new();
    let life = match opened.data_dir.node_id() {
        // Everything that can be wrong on disk is found before `start` returns.
        Some(_) => {
            let running = bring_up(&context, opened, grpc_listener).await?;
            tokio::spawn(live(context, running, failed))
        }
        None => tokio::spawn(live_from_first_registration(context, opened, grpc_listener, failed)),
    };
    let http = http::serve(http_listener, http::router(&health), http_stop.clone());
    tracing::info!(grpc = %grpc_address, http = %http_address, "storage node listens");
    Ok(Server {
        grpc_address,
        http_address,
        health,
        cluster_settings: told_settings,
        failure,
        stop,
        life,
        http,
        http_stop,
    })
}

async fn live_from_first_registration(
    context: Context,
    opened: Opened,
    listener: TcpListener,
    failed: watch::Sender<Option<String>>,
) {
    context.health.set_not_ready("waiting for placement to give this node its id");
    let registered = register_first(&context.link(&opened), &context.stop).await;
    if let Err(error) = registered {
        failed.send_replace(Some(error.to_string()));
        opened.close().await;
        return;
    }
    if context.stop.is_cancelled() {
        opened.close().await;
        return;
    }
    match bring_up(&context, opened, listener).await {
        Ok(running) => live(context, running, failed).await,
        Err(error) => {
            failed.send_replace(Some(error.to_string()));
        }
    }
}

/// Runs until told to stop, or until something fails that the process must not survive.
async fn live(context: Context, mut running: Running, failed: watch::Sender<Option<String>>) {
    let reason = tokio::select! {
        () = context.stop.cancelled() => None,
        reason = running.failed() => Some(reason),
    };
    if let Some(reason) = reason {
        context.health.set_not_ready(reason.clone());
        failed.send_replace(Some(reason));
        context.stop.cancelled().await;
        running.stop(false).await;
    } else {
        context.health.set_not_ready("stopping");
        running.stop(true).await;
    }
}

impl Server {
    /// Where gRPC is served; the actual port if 0 was asked for.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where metrics and health are served.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// True once placement knows the node and while it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.is_ready()
    }

    /// Why the node is not ready; `None` while it is.
    #[must_use]
    pub fn not_ready_reason(&self) -> Option<String> {
        self.health.reason()
    }

    /// The cluster's runtime settings, and every change.
    #[must_use]
    pub fn cluster_settings(&self) -> watch::Receiver<ClusterSettings> {
        self.cluster_settings.clone()
    }

    /// Resolves with the reason if the node has to stop by itself.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(reason) => reason.unwrap_or_default(),
            // It ended without a failure: there is none to wait for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops: hands leaders away, finishes what is under way, closes the store.
    ///
    /// # Errors
    /// It took too long and was cut off.
    pub async fn shutdown(mut self) -> Result<(), ShutdownError> {
        self.stop.cancel();
        let stopped = timeout(SHUTDOWN_LIMIT, &mut self.life).await;
        self.http_stop.cancel();
        self.http.abort();
        if stopped.is_err() {
            self.life.abort();
            return Err(ShutdownError);
        }
        Ok(())
    }
}
