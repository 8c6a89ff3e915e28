//! A cluster in memory: one placement member and some storage nodes, behind real gRPC servers, that
//! misbehave on demand. No Raft: all nodes share one map of keys.

mod node;
mod placement;
mod store;

pub use store::{Fault, Store};

use rangedb_gateway::{Server, Settings};
use rangedb_proto::internal::v1 as wire;
use rangedb_service::grpc;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a test waits for something that must happen.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Fake servers; they end when this is dropped.
pub struct Fake {
    pub store: Arc<Store>,
    pub placement_address: String,
    cancel: CancellationToken,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Fake {
    /// Nodes 1..=`nodes`, and one range over everything that node 1 leads.
    pub async fn start(nodes: u64) -> Self {
        let cancel = CancellationToken::new();
        let mut addresses = Vec::new();
        let store = Store::new(nodes);
        for node_id in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            addresses.push(wire::NodeAddress { node_id, address });
            let service = node::service(node_id, Arc::clone(&store), cancel.clone());
            let server = grpc::server_builder().add_service(service);
            tokio::spawn(grpc::serve(server, listener, cancel.clone()));
        }
        store.set_addresses(addresses);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let placement_address = listener.local_addr().unwrap().to_string();
        let service =
            placement::service(placement_address.clone(), Arc::clone(&store), cancel.clone());
        let server = grpc::server_builder().add_service(service);
        tokio::spawn(grpc::serve(server, listener, cancel.clone()));
        Self { store, placement_address, cancel }
    }

    /// Settings of a gateway for this cluster, on free ports.
    pub fn settings(&self) -> Settings {
        Settings {
            listen: "127.0.0.1:0".to_owned(),
            http_listen: "127.0.0.1:0".to_owned(),
            placement: vec![self.placement_address.clone()],
            ..Settings::default()
        }
    }

    /// A gateway that is ready.
    pub async fn gateway(&self, settings: Settings) -> Server {
        let server = rangedb_gateway::start(settings).await.unwrap();
        until("the gateway is ready", async || server.is_ready()).await;
        server
    }
}

/// A client of one gateway.
pub async fn client(server: &Server) -> rangedb_client::Client {
    rangedb_client::Client::connect([server.grpc_address().to_string()]).await.unwrap()
}

/// Waits for a condition; fails the test if it does not come.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(LIMIT, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !condition().await {
            ticks.tick().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
