//! One placement member, some storage nodes and a gateway in this process.
//!
//! Owns: their composition. Must not know: signals, the command line. Invariant: parts stop in the
//! reverse order, so that none waits for one that is gone.

use super::memory::{Addresses, Ports};
use super::settings::Settings;
use crate::exit::Failure;
use futures::future::{BoxFuture, FutureExt as _, join_all, select_all};
use rangedb_client::{Client, Condition, Error, Version};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

/// How often it is tried whether a write can be served.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A start that takes this long is worth a word.
const SLOW_START: Duration = Duration::from_secs(10);
/// The probe asks for a write that its condition forbids, so nothing is ever stored here.
const PROBE_KEY: &str = "\0rangedb-dev-probe";

/// The parts, all running.
pub struct Cluster {
    placement: rangedb_placement::Server,
    nodes: Vec<rangedb_storage_node::Server>,
    gateway: rangedb_gateway::Server,
}

impl Cluster {
    /// Starts every part.
    ///
    /// # Errors
    /// The first part that cannot start; those before it are stopped again.
    pub async fn start(settings: &Settings, addresses: &Addresses) -> Result<Self, Failure> {
        let placement_address = loopback(addresses.placement.grpc);
        let placement = rangedb_placement::start(rangedb_placement::Settings {
            id: 1,
            data_dir: settings.data_dir.join("placement"),
            listen: placement_address.clone(),
            http_listen: loopback(addresses.placement.http),
            peers: vec![format!("1={placement_address}")],
            advertise: None,
            ..settings.placement.clone()
        })
        .await
        .map_err(|error| failed_to_start("placement", &error))?;
        let mut nodes = Vec::with_capacity(addresses.nodes.len());
        for (number, ports) in (1..).zip(&addresses.nodes) {
            match start_node(settings, number, *ports, &placement_address).await {
                Ok(node) => nodes.push(node),
                Err(failure) => {
                    stop_nodes(nodes).await;
                    report("placement", placement.shutdown().await);
                    return Err(failure);
                }
            }
        }
        let gateway = rangedb_gateway::start(rangedb_gateway::Settings {
            listen: settings.listen.clone(),
            http_listen: settings.http_listen.clone(),
            placement: vec![placement_address],
            advertise: None,
            ..settings.gateway.clone()
        })
        .await;
        match gateway {
            Ok(gateway) => Ok(Self { placement, nodes, gateway }),
            Err(error) => {
                stop_nodes(nodes).await;
                report("placement", placement.shutdown().await);
                Err(failed_to_start("gateway", &error))
            }
        }
    }

    pub const fn grpc_address(&self) -> SocketAddr {
        self.gateway.grpc_address()
    }

    pub const fn http_address(&self) -> SocketAddr {
        self.gateway.http_address()
    }

    /// Resolves once a write can be served.
    pub async fn until_it_serves(&self) {
        let started = tokio::time::Instant::now();
        let mut said = false;
        loop {
            if self.gateway.is_ready() && self.serves_a_write().await {
                return;
            }
            if !said && started.elapsed() > SLOW_START {
                said = true;
                let reason = self.gateway.not_ready_reason().unwrap_or_default();
                tracing::warn!(reason, "the start takes long");
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    /// A write whose condition cannot hold goes all the way to the leader and changes nothing.
    async fn serves_a_write(&self) -> bool {
        let mut address = self.grpc_address();
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let options = rangedb_client::Options { timeout: PROBE_TIMEOUT, ..Default::default() };
        let Ok(client) = Client::connect_with([address.to_string()], options).await else {
            return false;
        };
        let condition = Condition::VersionIs(Version(1));
        let answer = client.put_if(PROBE_KEY, "", condition).await;
        matches!(answer, Err(Error::ConditionFailed { .. }))
    }

    /// Resolves with the reason if a part has to stop by itself.
    pub async fn failed(&self) -> String {
        let reason = |part: String, reason: &dyn Display| format!("{part} stopped: {reason}");
        let mut parts: Vec<BoxFuture<'_, String>> = vec![
            async move { reason("placement".into(), &self.placement.failed().await) }.boxed(),
            async move { reason("the gateway".into(), &self.gateway.failed().await) }.boxed(),
        ];
        for (number, node) in (1..).zip(&self.nodes) {
            let name = format!("storage node {number}");
            parts.push(async move { reason(name, &node.failed().await) }.boxed());
        }
        select_all(parts).await.0
    }

    /// Stops the gateway, then the nodes, then placement.
    pub async fn shutdown(self) {
        report("gateway", self.gateway.shutdown().await);
        stop_nodes(self.nodes).await;
        report("placement", self.placement.shutdown().await);
    }
}

async fn start_node(
    settings: &Settings,
    number: usize,
    ports: Ports,
    placement: &str,
) -> Result<rangedb_storage_node::Server, Failure> {
    rangedb_storage_node::start(rangedb_storage_node::Settings {
        data_dir: settings.data_dir.join(format!("node-{number}")),
        listen: loopback(ports.grpc),
        http_listen: loopback(ports.http),
        placement: vec![placement.to_owned()],
        advertise: None,
        ..settings.storage_node.clone()
    })
    .await
    .map_err(|error| failed_to_start(&format!("storage node {number}"), &error))
}

async fn stop_nodes(nodes: Vec<rangedb_storage_node::Server>) {
    join_all(nodes.into_iter().map(|node| async {
        report("storage node", node.shutdown().await);
    }))
    .await;
}

fn report(part: &str, result: Result<(), impl Display>) {
    if let Err(error) = result {
        tracing::warn!(part, %error, "shutdown was not clean");
    }
}

fn failed_to_start(part: &str, error: &dyn std::error::Error) -> Failure {
    let mut words = format!("{part}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
        source = error.source();
    }
    Failure::other(words)
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
