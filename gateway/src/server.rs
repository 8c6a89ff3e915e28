//! One gateway: everything it runs, from listening to shutdown.

use crate::admin::AdminService;
use crate::dispatch::{After, Dispatcher};
use crate::metrics::Metrics;
use crate::nodes::{LinkLimits, Nodes};
use crate::pipeline::PipelineLimits;
use crate::readiness;
use crate::routing::Routes;
use crate::service::{KeyValueService, ServiceLimits};
use crate::settings::{InvalidSetting, Settings};
use crate::transaction::{Tokens, settle_abandoned};
use crate::transactions::TransactionsService;
use rangedb_placement_client::{PlacementClient, TimestampClient};
use rangedb_proto::v1::FILE_DESCRIPTOR_SET;
use rangedb_proto::v1::admin_server::AdminServer;
use rangedb_proto::v1::key_value_server::KeyValueServer;
use rangedb_proto::v1::transactions_server::TransactionsServer;
use rangedb_service::net::BindError;
use rangedb_service::{Health, grpc, http, net};
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes as Services;

/// How long open calls may take to finish at shutdown, and then what runs behind them.
const CALLS_DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
const OPERATIONS_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const TASKS_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the address of a listener cannot be read")]
    Address(#[source] std::io::Error),
    #[error("the reflection service could not be built")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// What did not end in time at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShutdownError {
    #[error("calls that were still open were cut off")]
    CallsCutOff,
    #[error("background tasks did not end in time")]
    TasksRunning,
}

/// A running gateway.
pub struct Server {
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    health: Health,
    /// Ends what clients see: listeners and open streams.
    stop: CancellationToken,
    /// Ends what the calls need, after them.
    background: CancellationToken,
    timestamps: Arc<TimestampClient>,
    /// Operations of Pipeline streams that outlive one attempt.
    operations: TaskTracker,
    tasks: TaskTracker,
    grpc: JoinHandle<()>,
    http: JoinHandle<()>,
    failure: watch::Receiver<Option<String>>,
}

/// Binds, and serves in the background. Returns once both ports listen, which is before the gateway
/// is ready.
///
/// # Errors
/// One line that says what to change.
pub async fn start(settings: Settings) -> Result<Server, StartError> {
    settings.check()?;
    let grpc_listener = net::bind_for(&settings.listen, "--listen")?;
    let http_listener = net::bind_for(&settings.http_listen, "--http-listen")?;
    let grpc_address = grpc_listener.local_addr().map_err(StartError::Address)?;
    let http_address = http_listener.local_addr().map_err(StartError::Address)?;

    let (stop, background) = (CancellationToken::new(), CancellationToken::new());
    let (operations, tasks) = (TaskTracker::new(), TaskTracker::new());
    let placement = PlacementClient::new(settings.placement.clone());
    let timestamps = TimestampClient::start(Arc::clone(&placement), background.clone());
    let dispatcher =
        dispatcher(&settings, &placement, &timestamps, (&tasks, &operations), &background);

    let health = Health::new();
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let watch_nodes = Arc::clone(&dispatcher.nodes).watch(Arc::clone(&placement));
    tasks.spawn(watch_nodes);
    tasks.spawn(Arc::clone(&dispatcher.routes).watch(background.clone()));
    tasks.spawn(readiness::keep_timestamp_recent(Arc::clone(&dispatcher), background.clone()));
    tasks.spawn(settle_abandoned(Arc::clone(&dispatcher), background.clone()));
    let watch = readiness::watch(Arc::clone(&dispatcher), health.clone(), reporter, stop.clone());
    tasks.spawn(watch);

    let request_timeout = settings.request_timeout.get();
    let tokens = Arc::new(Tokens::new(Arc::clone(&placement)));
    let transactions =
        TransactionsService::new(Arc::clone(&dispatcher), Arc::clone(&tokens), request_timeout);
    let key_value = KeyValueService::new(
        Arc::clone(&dispatcher),
        tokens,
        service_limits(&settings),
        operations.clone(),
        stop.clone(),
    );
    let admin = AdminService::new(placement, dispatcher, request_timeout, stop.clone());
    let services = Services::default()
        .add_service(
            KeyValueServer::new(key_value)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            TransactionsServer::new(transactions).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(AdminServer::new(admin))
        .add_service(health_service)
        .add_service(reflection()?.build_v1().map_err(StartError::Reflection)?)
        .add_service(reflection()?.build_v1alpha().map_err(StartError::Reflection)?);

    let (failed, failure) = watch::channel(None);
    let grpc = tokio::spawn(serve_grpc(grpc_listener, services, stop.clone(), failed));
    let http = http::serve(http_listener, http::router(&health), stop.clone());
    tracing::info!(grpc = %grpc_address, http = %http_address, "gateway listens");
    Ok(Server {
        grpc_address,
        http_address,
        health,
        stop,
        background,
        timestamps,
        operations,
        tasks,
        grpc,
        http,
        failure,
    })
}

fn dispatcher(
    settings: &Settings,
    placement: &Arc<PlacementClient>,
    timestamps: &Arc<TimestampClient>,
    (tasks, operations): (&TaskTracker, &TaskTracker),
    background: &CancellationToken,
) -> Arc<Dispatcher> {
    let metrics = Metrics::shared();
    let limits = LinkLimits {
        requests_max: settings.link_requests_max,
        bytes_max: settings.link_bytes_max.as_usize(),
        stall_timeout: settings.stall_timeout.get(),
    };
    let nodes = Nodes::new(
        limits,
        settings.links_per_node,
        Arc::clone(&metrics),
        tasks.clone(),
        background.clone(),
    );
    let routes = Routes::new(Arc::clone(placement), settings.routes_max, Arc::clone(&metrics));
    let timestamps = Arc::clone(timestamps);
    let attempt_timeout = settings.attempt_timeout.get();
    let after = After { tasks: operations.clone(), end: background.clone() };
    Dispatcher::new(routes, nodes, timestamps, metrics, after, attempt_timeout)
}

fn service_limits(settings: &Settings) -> ServiceLimits {
    let request_timeout = settings.request_timeout.get();
    ServiceLimits {
        request_timeout,
        page_bytes: settings.page_bytes.get(),
        pipeline: PipelineLimits {
            operations_max: settings.pipeline_operations_max,
            bytes_max: settings.pipeline_bytes_max.as_usize(),
            request_timeout,
        },
    }
}

fn reflection() -> Result<tonic_reflection::server::Builder<'static>, StartError> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

async fn serve_grpc(
    listener: TcpListener,
    services: Services,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
) {
    let server = grpc::server_builder().add_routes(services);
    if let Err(error) = grpc::serve(server, listener, stop.clone()).await {
        tracing::error!(%error, "gRPC server stopped");
        failed.send_replace(Some(format!("the gRPC server stopped: {error}")));
    } else if !stop.is_cancelled() {
        failed.send_replace(Some("the gRPC server stopped by itself".to_owned()));
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

    /// True while the gateway can serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.is_ready()
    }

    /// Why the gateway is not ready; `None` while it is.
    #[must_use]
    pub fn not_ready_reason(&self) -> Option<String> {
        self.health.reason()
    }

    /// Resolves with the reason if the gateway has to stop by itself.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(reason) => reason.unwrap_or_default(),
            // The server ended without a failure: there is none to wait for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops: takes no new calls, lets open ones finish, ends its tasks. At most about 10 s.
    ///
    /// # Errors
    /// What did not end in time and was cut off.
    pub async fn shutdown(mut self) -> Result<(), ShutdownError> {
        self.stop.cancel();
        let mut result = Ok(());
        if timeout(CALLS_DRAIN_TIMEOUT, &mut self.grpc).await.is_err() {
            self.grpc.abort();
            result = Err(ShutdownError::CallsCutOff);
        }
        // What is left to be done behind answers gets a moment, while the nodes can still be reached.
        self.operations.close();
        let _late = timeout(OPERATIONS_DRAIN_TIMEOUT, self.operations.wait()).await;
        self.background.cancel();
        self.tasks.close();
        let ended = timeout(TASKS_DRAIN_TIMEOUT, async {
            self.operations.wait().await;
            self.tasks.wait().await;
            self.timestamps.stopped().await;
        });
        if ended.await.is_err() {
            result = Err(ShutdownError::TasksRunning);
        }
        // An HTTP server drains by itself, in time that was already spent above.
        if timeout(TASKS_DRAIN_TIMEOUT, &mut self.http).await.is_err() {
            self.http.abort();
        }
        result
    }
}
