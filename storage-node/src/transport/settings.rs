//! The settings of the transport.

use rangedb_service::settings::Bytes;
use serde::{Deserialize, Serialize};

/// How messages are queued for other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportSettings {
    /// Bytes queued for one node; what does not fit is dropped, and Raft sends it again.
    pub queue_bytes: Bytes,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self { queue_bytes: Bytes(64 << 20) }
    }
}
