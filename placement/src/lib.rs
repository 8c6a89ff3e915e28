//! The control plane: a quorum that keeps the cluster's metadata, hands out ids and timestamps, and
//! decides where replicas live.
//!
//! `consensus` agrees, `state` is what is agreed on, `tso` hands out timestamps; `leader` and `view`
//! exist while this member leads, `wishes` turns what was asked by hand into steps, `operator` turns
//! these and the plans of `rangedb-planner` into commands, and `server` is the wire. Must not know:
//! how nodes carry commands out, or what ranges hold.

pub mod consensus;
mod leader;
mod metrics;
mod operator;
mod process;
mod server;
pub mod settings;
pub mod state;
pub mod tso;
mod view;
mod wishes;

pub use process::{Server, ShutdownError, StartError, start};
pub use settings::Settings;
