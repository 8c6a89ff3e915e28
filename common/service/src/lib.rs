//! What every RangeDB process needs besides its own work: settings, logs, metrics and health over
//! HTTP, gRPC (of a crate of its own), the lock and identity of a data folder, and shutdown.
//!
//! Owns: how a process is configured, observed, started and stopped. Must not know: ranges, Raft,
//! storage engines, or what the process serves. Invariant: every error a starting process can
//! meet here is one line that says what to do next.

pub mod cli_common;
pub mod data_dir;
pub mod http;
pub mod logging;
pub mod net;
pub mod process;
pub mod process_metrics;
pub mod settings;
pub mod shutdown;
mod text;

pub use cli_common::CommonArgs;
pub use data_dir::DataDir;
pub use http::Health;
pub use logging::{LogFormat, LoggingGuard};
pub use rangedb_grpc as grpc;
pub use settings::{Bytes, Period};
