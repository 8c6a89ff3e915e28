//! Whole placement members in one process, with storage nodes that are only their streams.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod nodes;
mod services;
mod support;
