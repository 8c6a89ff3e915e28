//! `rangedb-placement`: one member of the placement quorum.

use clap::Parser;
use rangedb_placement::Settings;
use rangedb_service::{CommonArgs, logging, process, settings, shutdown};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A clean stop may take this long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// A member of RangeDB's placement quorum: metadata, timestamps, and where replicas live
#[derive(Parser, Serialize)]
#[command(name = "rangedb-placement", version)]
struct Args {
    /// This member's id; every member has its own [default: 1]
    #[arg(long, value_name = "ID")]
    id: Option<u64>,

    /// Folder for the quorum's log and metadata [default: data/placement]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// gRPC address [default: 127.0.0.1:8281]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Address of metrics and health [default: 127.0.0.1:8280]
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,

    /// All members, this one included; without it, a quorum of one
    #[arg(long, value_name = "ID=HOST:PORT,…", value_delimiter = ',')]
    peers: Vec<String>,

    /// Where others reach this member, if that is not what it listens on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,

    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
}

fn main() {
    process::end(serve())
}

fn serve() -> u8 {
    let args = Args::parse();
    let loaded: Result<Settings, _> = settings::load(args.common.config.as_deref(), &args);
    let settings = match loaded {
        Ok(settings) => settings,
        Err(error) => return process::failed(&error),
    };
    let runtime = match process::runtime(settings.async_threads) {
        Ok(runtime) => runtime,
        Err(error) => return process::failed(&error),
    };
    let code = runtime.block_on(run(settings));
    // Whatever still hangs in a system call must not keep the process.
    runtime.shutdown_background();
    code
}

async fn run(settings: Settings) -> u8 {
    let _logging = match logging::init_from(&settings.log) {
        Ok(guard) => guard,
        Err(error) => return process::failed(&error),
    };
    let stop = shutdown::signals();
    let started = tokio::select! {
        () = stop.cancelled() => return process::EXIT_CODE_DONE,
        started = rangedb_placement::start(settings) => started,
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => return process::failed(&error),
    };
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        failure = server.failed() => Some(failure),
    };
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, server.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the stop was not clean"),
        Err(_) => tracing::warn!("the stop took too long"),
    }
    match failure {
        Some(failure) => process::failed(&failure),
        None => process::EXIT_CODE_DONE,
    }
}
