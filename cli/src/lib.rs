//! The operator's tool: one command a call, for people and for scripts.
//!
//! Owns: arguments, output, exit codes, and the composition of a whole database in one process
//! (`dev`). Must not know: how servers work inside; everything but `dev` talks to a gateway like
//! any other client. Invariants: values and nothing else on stdout, words on stderr; exit codes as
//! in [`exit::Exit`].

mod admin;
mod arguments;
mod batch;
mod bench;
mod connect;
mod data;
mod dev;
pub mod exit;
mod import;
mod output;
mod txn;

pub use arguments::Arguments;

use arguments::{Command, Options};
use exit::Failure;

/// Runs one command to its end.
///
/// # Errors
/// Why it did not do what was asked, with the exit code.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(dispatch(arguments));
    // A reader of a pipe that never ends must not keep the process alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(Arguments { options, command }: Arguments) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => dev::run(arguments).await,
        command => on_a_gateway(command, &options).await,
    }
}

async fn on_a_gateway(command: Command, options: &Options) -> Result<(), Failure> {
    match command {
        Command::Put(arguments) => data::put(arguments, options).await,
        Command::Get(arguments) => data::get(arguments, options).await,
        Command::Delete(arguments) => data::delete(arguments, options).await,
        Command::Range(arguments) => data::range(arguments, options).await,
        Command::Batch(arguments) => batch::run(arguments, options).await,
        Command::Txn(arguments) => txn::run(arguments, options).await,
        Command::Import(arguments) => import::run(arguments, options).await,
        Command::Bench(arguments) => bench::run(arguments, options).await,
        Command::Admin(arguments) => admin::run(arguments, options).await,
        Command::Dev(arguments) => dev::run(arguments).await,
    }
}
