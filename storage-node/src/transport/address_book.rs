//! Where the other nodes are. Placement tells; the node's own reports bring it here.

use rangedb_types::NodeId;
use std::collections::HashMap;
use tokio::sync::watch;

/// The addresses (`HOST:PORT`) of nodes, and a way to learn of changes.
#[derive(Debug)]
pub struct AddressBook {
    addresses: watch::Sender<HashMap<NodeId, String>>,
}

impl Default for AddressBook {
    fn default() -> Self {
        Self { addresses: watch::channel(HashMap::new()).0 }
    }
}

impl AddressBook {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all addresses. True if anything changed.
    pub fn set(&self, addresses: HashMap<NodeId, String>) -> bool {
        self.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        })
    }

    #[must_use]
    pub fn get(&self, node_id: NodeId) -> Option<String> {
        self.addresses.borrow().get(&node_id).cloned()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<HashMap<NodeId, String>> {
        self.addresses.subscribe()
    }
}
