//! The harness: whole clusters, as processes that can be killed or inside one process, a workload
//! that remembers what was promised to it, and the checks of those promises.
//!
//! Owns: how tests start, hurt and judge a cluster. Must not know: how the servers work inside; it
//! uses what an operator and an application have (programs, flags, gRPC, HTTP), and the fault
//! injection of the Raft log. Invariants: nothing is waited for without a limit; only processes that
//! a test started are ever killed; a cluster that was not [`finished`](Processes::finish) leaves its
//! folder and the trouble in its logs behind.

pub mod admin;
pub mod child;
pub mod http;
pub mod in_process;
pub mod isolation;
pub mod logs;
pub mod ports;
pub mod processes;
pub mod usage;
pub mod wait;
pub mod workload;

pub use in_process::InProcess;
pub use processes::{Part, Processes, Shape};
pub use workload::Workload;

/// How many rounds (or how much of the full figures) a test does: `RANGEDB_TEST_ROUNDS`, or what
/// fits continuous integration.
#[must_use]
pub fn rounds(default: usize) -> usize {
    let given = std::env::var("RANGEDB_TEST_ROUNDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// True if the full figures are asked for.
#[must_use]
pub fn full() -> bool {
    std::env::var_os("RANGEDB_TEST_ROUNDS").is_some()
}

/// A seed, printed so that a failure can be replayed with `RANGEDB_TEST_SEED`.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("RANGEDB_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("seed: RANGEDB_TEST_SEED={seed}");
    seed
}
