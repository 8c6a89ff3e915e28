//! The command-line client's process: memory allocator, arguments, exit code.

use clap::Parser as _;
use rangedb_cli::Arguments;
use rangedb_service::process;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // Wrong arguments end the process here with code 2, as clap has it.
    let arguments = Arguments::parse();
    process::end(match rangedb_cli::run(arguments) {
        Ok(()) => process::EXIT_CODE_DONE,
        Err(failure) => failure.report(),
    })
}
