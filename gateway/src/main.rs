//! `rangedb-gateway`: the stateless front of RangeDB.

use clap::Parser;
use rangedb_gateway::{Settings, start};
use rangedb_service::{CommonArgs, logging, process, settings, shutdown};
use serde::Serialize;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The stateless front of RangeDB: serves applications over gRPC. Every setting can also stand in
/// --config or in a variable RANGEDB_<NAME>; flags win over variables, those over the file.
#[derive(Parser, Serialize)]
#[command(name = "rangedb-gateway", version)]
struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,

    /// Where gRPC is served [default: 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where metrics and health are served over HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,

    /// What clients dial, where it is not what is listened on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// Members of placement [default: 127.0.0.1:8281]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    placement: Vec<String>,
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
    let log = settings.log.clone();
    let _logging = match logging::init_from(&log) {
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
    if let Err(error) = server.shutdown().await {
        tracing::warn!(%error, "shutdown was not clean");
    }
    match reason {
        None => process::EXIT_CODE_DONE,
        Some(reason) => process::fatal(&reason),
    }
}
