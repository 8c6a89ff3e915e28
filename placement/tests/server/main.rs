//! Whole placement members in one process, with storage nodes that are only their streams.

mod nodes;
mod services;
mod support;
