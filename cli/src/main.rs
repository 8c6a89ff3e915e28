//! The command-line client's process: memory allocator, arguments, exit code.

use clap::Parser as _;
use rangedb_cli::Arguments;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Wrong arguments end the process here with code 2, as clap has it.
    let arguments = Arguments::parse();
    match rangedb_cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
