//! The timestamp oracle.
//!
//! Owns: which timestamp is handed out next, and the window that a leader may serve. Must not know:
//! Raft, sockets, clocks (`oracle` and `clock` are pure; `service` drives them).
//! Invariants: no timestamp is handed out twice, and none is smaller than one handed out before it
//! by anybody, whatever members crash, elections happen and clocks do.

mod clock;
mod oracle;
mod service;

pub use clock::{CLOCK_JUMP_MAX, JumpGuard};
pub use oracle::{BATCH_MAX, NeedWindow, Oracle, WINDOW_MS};
pub use service::{TimestampError, TimestampService};
