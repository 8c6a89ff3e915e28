//! `dev`: the whole database in one process, for development and for trying it out.
//!
//! Owns: the order in which the parts start and stop, and the line that says it serves. Must not
//! know: how a part works inside. Invariants: the data folder belongs to one process at a time; a
//! restart finds the same cluster at the same addresses.

mod cluster;
mod memory;
mod settings;

use crate::exit::{Exit, Failure};
use cluster::Cluster;
use memory::Folder;
use rangedb_service::{CommonArgs, logging, shutdown};
use serde::Serialize;
use settings::Settings;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Everything must have stopped by then; what has not is cut off, which costs no data.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(9);

#[derive(Debug, clap::Args, Serialize)]
#[command(
    after_help = "SIGTERM or Ctrl-C ends it within 10 s, a second one at once. Every setting \
                        of the parts can stand in --config under `placement`, `storage_node` and \
                        `gateway`, or in a variable such as RANGEDB_GATEWAY__REQUEST_TIMEOUT."
)]
pub struct DevArguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,

    /// Where data is kept [default: data]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,

    /// Storage nodes [default: as many as the data folder has, at first 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: Option<u32>,

    /// Where gRPC is served [default: 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where metrics and health are served over HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
}

/// Serves until a signal.
///
/// # Errors
/// Why it could not start, or had to stop by itself.
pub async fn run(arguments: DevArguments) -> Result<(), Failure> {
    let settings: Settings =
        rangedb_service::settings::load(arguments.common.config.as_deref(), &arguments)
            .map_err(|error| Failure::usage(error.to_string()))?;
    let _logging =
        logging::init_from(&settings.log).map_err(|error| Failure::usage(error.to_string()))?;
    let signals = shutdown::signals();
    // Held until the end: two processes on one folder would destroy each other's addresses.
    let mut folder = Folder::open(&settings.data_dir)?;
    let addresses = folder.addresses(settings.nodes)?;
    let cluster = Cluster::start(&settings, &addresses).await?;
    let result = tokio::select! {
        () = signals.cancelled() => Ok(()),
        reason = cluster.failed() => Err(Failure::new(Exit::Other, reason)),
        result = serve(&cluster) => result,
    };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, cluster.shutdown()).await.is_err() {
        tracing::warn!("not everything stopped in time; what is acknowledged is on disk");
    }
    result
}

/// Says when the database serves, and then never ends.
async fn serve(cluster: &Cluster) -> Result<(), Failure> {
    cluster.until_it_serves().await;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready grpc={} http={}", cluster.grpc_address(), cluster.http_address())?;
    stdout.flush()?;
    drop(stdout);
    std::future::pending().await
}
