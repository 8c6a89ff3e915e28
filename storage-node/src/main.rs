//! `rangedb-storage-node`: keeps replicas of ranges and serves them.

use clap::Parser;
use rangedb_service::{CommonArgs, logging, process, settings, shutdown};
use rangedb_storage_node::{Settings, start};
use serde::Serialize;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A storage node of RangeDB: keeps replicas of ranges on disk and serves them. Every setting can
/// also stand in --config or in a variable RANGEDB_<NAME>; flags win over variables, those over the
/// file.
#[derive(Parser, Serialize)]
#[command(name = "rangedb-storage-node", version)]
struct Args {
    /// Folder for data and the Raft log [default: data/storage-node]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// gRPC address [default: 127.0.0.1:8181]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Address of metrics and health [default: 127.0.0.1:8180]
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,

    /// Where others reach this node, if that is not what it listens on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// Members of placement [default: 127.0.0.1:8281]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    placement: Vec<String>,

    /// Where the node stands, so that replicas are spread
    #[arg(long, value_name = "region=R,zone=Z,rack=K")]
    locality: Option<String>,

    /// What keeps the data: rocksdb, btree or memory [default: rocksdb]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,

    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
}

fn main() {
    process::end(serve())
}

fn serve() -> u8 {
    let args = Args::parse();
    let settings: Settings = match settings::load(args.common.config.as_deref(), &args) {
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
    let signals = shutdown::signals();
    let server = match start(settings).await {
        Ok(server) => server,
        Err(error) => return process::failed(&error),
    };
    let reason = tokio::select! {
        () = signals.cancelled() => None,
        reason = server.failed() => Some(reason),
    };
    let stopped = server.shutdown().await;
    match (reason, stopped) {
        (Some(reason), _) => process::fatal(&reason),
        (None, Ok(())) => process::EXIT_CODE_DONE,
        (None, Err(error)) => process::failed(&error),
    }
}
