//! `bench`: a closed loop of clients, each with one request under way.
//!
//! Owns: its arguments and its report. Must not know: how a server answers. Invariants: what
//! happens in the warm-up is not counted; a failed operation is an error and never an operation.

mod cpu;
mod load;
mod report;
mod target;

use crate::arguments::Options;
use crate::exit::{Exit, Failure};
use load::Load;
use rangedb_service::Bytes as Size;
use rangedb_types::limits::VALUE_BYTES_MAX;
use report::{Report, What};
use std::time::Duration;
use target::Target;

/// Where etcd is unless told otherwise.
const DEFAULT_ETCD_ENDPOINT: &str = "127.0.0.1:2379";

#[derive(Debug, clap::Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, clap::Subcommand)]
enum Workload {
    /// Overwrite random keys
    Put(LoadArguments),
    /// Read random keys; all of them are written first
    Get(LoadArguments),
}

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Api {
    /// One gRPC call a request, over --channels connections
    Unary,
    /// Many requests a message, over --streams open streams
    Stream,
}

impl Api {
    const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Stream => "stream",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    Rangedb,
    /// etcd's v3 API, to compare with: the same clients over the same kind of calls
    Etcd,
}

#[derive(Debug, clap::Args)]
struct LoadArguments {
    /// Clients; each has one request under way
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,

    /// How long to measure
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    seconds: Duration,

    /// How long to run before measuring, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    warmup: Duration,

    #[arg(long, value_enum, default_value_t = Api::Unary)]
    api: Api,

    /// Bytes of a value, such as 256 or 4KiB
    #[arg(long, value_name = "B", default_value = "256", value_parser = value_size)]
    value_size: usize,

    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,

    /// For get: the keys are there already, from an earlier run with the same --keys
    #[arg(long)]
    no_fill: bool,

    /// Connections of unary calls
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    channels: u32,

    /// Open streams
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,

    /// What the endpoints are [etcd: default endpoint 127.0.0.1:2379]
    #[arg(long, value_enum, default_value_t = Peer::Rangedb)]
    target: Peer,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let refused = || "a number of seconds above 0, at most 86400".to_owned();
    let seconds: f64 = text.parse().map_err(|_| refused())?;
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err(refused());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn value_size(text: &str) -> Result<usize, String> {
    let size: Size = text.parse().map_err(|error| format!("{error}"))?;
    if size.as_usize() > VALUE_BYTES_MAX {
        return Err(format!("a value has at most {VALUE_BYTES_MAX} bytes"));
    }
    Ok(size.as_usize())
}

/// Runs `bench`.
///
/// # Errors
/// No server answers, or no operation succeeded.
pub async fn run(arguments: BenchArguments, options: &Options) -> Result<(), Failure> {
    let (what, arguments) = match arguments.workload {
        Workload::Put(arguments) => (What::Put, arguments),
        Workload::Get(arguments) => (What::Get, arguments),
    };
    let endpoints = match arguments.target {
        Peer::Rangedb => options.gateways(),
        Peer::Etcd => options.endpoints_or(DEFAULT_ETCD_ENDPOINT),
    };
    let (channels, streams) = (arguments.channels as usize, arguments.streams as usize);
    let target = match (arguments.target, arguments.api) {
        (Peer::Rangedb, Api::Unary) => Target::unary(&endpoints, channels).await?,
        (Peer::Rangedb, Api::Stream) => {
            Target::stream(&endpoints, streams, options.timeout()).await?
        }
        (Peer::Etcd, Api::Unary) => Target::etcd(&endpoints, channels).await?,
        (Peer::Etcd, Api::Stream) => {
            return Err(Failure::usage("etcd has no such stream; use --api unary"));
        }
    };
    let load = Load {
        what,
        clients: arguments.clients as usize,
        keys: arguments.keys,
        fill: what == What::Get && !arguments.no_fill,
        value_bytes: arguments.value_size,
        warmup: arguments.warmup,
        measured: arguments.seconds,
        timeout: options.timeout(),
    };
    let measured = load::run(load.clone(), target).await?;
    let report = Report::new(&load, &measured, &arguments, &endpoints);
    crate::output::print(options.output, &report, Report::text)?;
    match measured.first_error {
        Some(why) if measured.latency.is_empty() => Err(Failure::new(
            Exit::Unavailable,
            format!("no operation succeeded; the first error was: {why}"),
        )),
        Some(why) => {
            eprintln!("rangedb-cli: {} errors; the first was: {why}", measured.errors);
            Ok(())
        }
        None => Ok(()),
    }
}
