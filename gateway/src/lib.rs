//! The gateway: the stateless front of RangeDB.
//!
//! Owns: the public interface, finding the right range and node for a request, retries inside the
//! caller's deadline, timestamps for reads over several ranges. Must not know: Raft, storage
//! formats, how placement decides. Invariants: it keeps nothing that matters, so any gateway can be
//! killed at any time; a write is never reported as unavailable once it may have been applied.
//!
//! The way of a request: `service` or `pipeline` (public wire) → `validation` → `dispatch` (attempts)
//! → `routing` (which node) → `nodes` (streams to nodes).

mod admin;
mod backoff;
mod batch_get;
mod conditional;
mod consistency;
mod deadline;
mod delete_range;
mod dispatch;
mod errors;
mod metrics;
mod nodes;
mod operation;
mod pipeline;
mod range_read;
mod readiness;
mod routing;
mod server;
mod service;
mod settings;
mod transaction;
mod transactions;
mod validation;
mod verify;
mod watch;

pub use server::{Server, ShutdownError, StartError, start};
pub use service::SEEN_VERSION_METADATA;
pub use settings::{InvalidSetting, Settings};
