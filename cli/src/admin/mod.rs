//! `admin`: the operator's commands. Owns: their arguments and output. Must not know: placement;
//! a gateway passes these calls on.

mod changes;
mod cluster;
mod config;
mod holds;
mod meta;
mod nodes;
mod placement;
mod plans;
mod ranges;
mod wait;

use crate::arguments::Options;
use crate::connect;
use crate::exit::{Effect, Failure};
use crate::output::OutputFormat;
use rangedb_proto::v1::admin_client::AdminClient;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

#[derive(Debug, clap::Args)]
pub struct AdminArguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// The whole cluster at a glance
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Storage nodes
    #[command(subcommand)]
    Nodes(nodes::Action),
    /// Ranges and their replicas
    #[command(subcommand)]
    Ranges(ranges::Action),
    /// Settings of the running cluster
    #[command(subcommand)]
    Config(config::Action),
    /// Versions that are kept for long readers
    #[command(subcommand)]
    Holds(holds::Action),
    /// The system's metadata, keys that begin with `_/`
    #[command(subcommand)]
    Meta(meta::Action),
    /// Members of the placement quorum
    #[command(subcommand)]
    Placement(placement::Action),
}

/// Runs one administrative command.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(arguments: AdminArguments, options: &Options) -> Result<(), Failure> {
    let admin = Admin {
        client: AdminClient::new(connect::any(options).await?)
            .max_decoding_message_size(connect::ANSWER_BYTES_MAX),
        timeout: options.timeout(),
        wait_limit: options.timeout,
        output: options.output,
    };
    match arguments.subject {
        Subject::Cluster(action) => cluster::run(action, admin).await,
        Subject::Nodes(action) => nodes::run(action, admin).await,
        Subject::Ranges(action) => ranges::run(action, admin).await,
        Subject::Config(action) => config::run(action, admin).await,
        Subject::Holds(action) => holds::run(action, admin).await,
        Subject::Meta(action) => meta::run(action, admin).await,
        Subject::Placement(action) => placement::run(action, admin).await,
    }
}

/// An open connection, and how to use it.
struct Admin {
    client: AdminClient<Channel>,
    timeout: Duration,
    /// How long to wait for what was begun, if that was said.
    wait_limit: Option<Duration>,
    output: OutputFormat,
}

impl Admin {
    fn request<T>(&self, message: T) -> Request<T> {
        connect::request(message, self.timeout)
    }

    /// When to stop waiting for what is begun now.
    fn wait_until(&self, unless_told: Duration) -> Instant {
        Instant::now() + self.wait_limit.unwrap_or(unless_told)
    }
}

/// The answer of a call that changes nothing.
fn read<T>(answer: Result<Response<T>, Status>) -> Result<T, Failure> {
    answer.map(Response::into_inner).map_err(|status| Failure::of_status(&status, Effect::Read))
}

/// The answer of a call that changes something.
fn written<T>(answer: Result<Response<T>, Status>) -> Result<T, Failure> {
    answer.map(Response::into_inner).map_err(|status| Failure::of_status(&status, Effect::Write))
}
