//! How storage nodes and gateways talk to placement.
//!
//! Owns: finding placement's leader and staying with it ([`PlacementClient`]), and fetching
//! timestamps in batches ([`TimestampClient`]). Must not know: what the calls are for, ranges,
//! storage. Invariants: every wait ends at the caller's deadline; a batch of timestamps serves only
//! requests that arrived before its fetch was sent.

mod client;
mod discovery;
mod error;
mod fetcher;
mod timestamps;

pub use client::{AdminRpc, Leader, PlacementClient, PlacementRpc, admin_client, placement_client};
pub use error::PlacementError;
pub use timestamps::TimestampClient;

/// Metadata of a refusal by a member that does not lead: the leader's address, or nothing.
pub const LEADER_METADATA: &str = "rangedb-placement-leader";
