//! A cluster inside this process, whose storage nodes write their Raft logs to disks that tests can
//! cut off.

use crate::logs::Threshold;
use crate::{admin, logs, ports, wait};
use anyhow::{Context as _, Result, bail, ensure};
use rangedb_client::Client;
use rangedb_service::settings::Bytes;
use rangedb_storage_node::OpenLog;
use rangedb_storage_node::raft_log::fault::{FaultFileSystem, Unsynced};
use rangedb_storage_node::raft_log::{EngineLog, FatalHook};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

const READY_LIMIT: Duration = Duration::from_secs(60);
/// What a storage node may fill: how full the disk of this machine is must not decide where replicas
/// go.
const DISK_SHARE: Bytes = Bytes(16 << 30);
/// Where a storage node keeps its data engine, beside the Raft log.
const ENGINE_FOLDER: &str = "engine";

/// One at a time in a process: they share its metrics, its log and its two processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A storage node that may run, and its disk.
pub struct Node {
    settings: rangedb_storage_node::Settings,
    /// What its Raft log is written to.
    pub disk: FaultFileSystem,
    server: Option<rangedb_storage_node::Server>,
}

/// The cluster. Stop it with [`InProcess::finish`].
pub struct InProcess {
    folder: TempDir,
    placement: Vec<rangedb_placement::Server>,
    pub nodes: Vec<Node>,
    gateways: Vec<rangedb_gateway::Server>,
    _turn: MutexGuard<'static, ()>,
}

impl InProcess {
    /// A cluster of three nodes and as many gateways, whose ranges begin at these keys for good; and a client of it.
    ///
    /// # Errors
    /// A part that does not start, a split that does not come about.
    pub async fn cut_at(gateways: usize, keys: &[&str]) -> Result<(Self, Client)> {
        let cluster = Self::start(1, 3, gateways).await?;
        cluster.replicated().await?;
        let client = cluster.client().await?;
        admin::set_config(&client, "range_merge_size", "0B").await?;
        for key in keys {
            admin::split_at(&client, key.as_bytes()).await?;
        }
        Ok((cluster, client))
    }

    /// Starts as many of each and waits until every gateway is ready.
    ///
    /// # Errors
    /// A part that does not start.
    pub async fn start(placement: usize, nodes: usize, gateways: usize) -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().await;
        logs::Collected::get().clear();
        let folder = tempfile::Builder::new().prefix("rangedb-test-").tempdir()?;
        let mut cluster = Self {
            folder,
            placement: Vec::new(),
            nodes: Vec::new(),
            gateways: Vec::new(),
            _turn: turn,
        };
        let peers = (1..=placement)
            .map(|id| Ok(format!("{id}={}", ports::free_address()?)))
            .collect::<Result<Vec<_>>>()?;
        for (id, peer) in (1..).zip(&peers) {
            let (_, address) = peer.split_once('=').context("made above")?;
            let settings = rangedb_placement::Settings {
                id,
                data_dir: cluster.folder.path().join(format!("placement-{id}")),
                listen: address.to_owned(),
                http_listen: "127.0.0.1:0".to_owned(),
                peers: peers.clone(),
                ..Default::default()
            };
            cluster.placement.push(rangedb_placement::start(settings).await?);
        }
        for _ in 0..nodes {
            cluster.add_node().await?;
        }
        for _ in 0..gateways {
            let settings = rangedb_gateway::Settings {
                listen: "127.0.0.1:0".to_owned(),
                http_listen: "127.0.0.1:0".to_owned(),
                placement: cluster.placement_addresses(),
                ..Default::default()
            };
            cluster.gateways.push(rangedb_gateway::start(settings).await?);
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// One more storage node.
    ///
    /// # Errors
    /// It does not start.
    pub async fn add_node(&mut self) -> Result<()> {
        let number = self.nodes.len() + 1;
        let settings = rangedb_storage_node::Settings {
            data_dir: self.folder.path().join(format!("node-{number}")),
            listen: ports::free_address()?,
            http_listen: "127.0.0.1:0".to_owned(),
            placement: self.placement_addresses(),
            disk_capacity: DISK_SHARE,
            ..Default::default()
        };
        let mut node = Node { settings, disk: FaultFileSystem::new(), server: None };
        node.start().await?;
        self.nodes.push(node);
        Ok(())
    }

    fn placement_addresses(&self) -> Vec<String> {
        self.placement.iter().map(|server| server.grpc_address().to_string()).collect()
    }

    /// Waits until every part that runs is ready.
    ///
    /// # Errors
    /// One is not, in time.
    pub async fn ready(&self) -> Result<()> {
        for gateway in &self.gateways {
            wait::until("the gateway is ready", READY_LIMIT, async || {
                let reason = gateway.not_ready_reason();
                ensure!(reason.is_none(), "{reason:?}");
                Ok(())
            })
            .await?;
        }
        for node in self.nodes.iter().filter_map(|node| node.server.as_ref()) {
            wait::until("the node is ready", READY_LIMIT, async || {
                let reason = node.not_ready_reason();
                ensure!(reason.is_none(), "{reason:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every range has its copies on all nodes (at most three).
    ///
    /// # Errors
    /// It does not happen in time.
    pub async fn replicated(&self) -> Result<()> {
        let voters = self.nodes.iter().filter(|node| node.server.is_some()).count().min(3);
        admin::replicated(&self.client().await?, voters).await
    }

    /// The gateways' addresses.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.gateways.iter().map(|gateway| gateway.grpc_address().to_string()).collect()
    }

    /// A client of all gateways.
    ///
    /// # Errors
    /// None answers.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.endpoints()).await?)
    }

    /// Stops the node at an index.
    ///
    /// # Errors
    /// It does not run, or did not stop cleanly.
    pub async fn stop_node(&mut self, index: usize) -> Result<()> {
        let server = self.nodes[index].server.take().context("it does not run")?;
        server.shutdown().await?;
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It refused.
    pub async fn start_node(&mut self, index: usize) -> Result<()> {
        self.nodes[index].start().await
    }

    /// Cuts the power of all nodes at the same moment, and takes away what is left of them.
    ///
    /// # Errors
    /// A node that does not notice.
    pub async fn power_off(&mut self) -> Result<()> {
        for node in &self.nodes {
            node.disk.power_off();
        }
        for node in &mut self.nodes {
            // It cannot stop cleanly any more: its disk is gone.
            if let Some(server) = node.server.take() {
                let _ = server.shutdown().await;
            }
        }
        Ok(())
    }

    /// Gives the power back; what was not synced is as `unsynced` says. The nodes are not started.
    ///
    /// # Errors
    /// The disk under it.
    pub fn power_on(&self, unsynced: Unsynced) -> Result<()> {
        for node in &self.nodes {
            node.disk.power_on(unsynced)?;
        }
        Ok(())
    }

    /// Judges what was logged (a WARN or ERROR that contains none of `allowed` fails), then stops
    /// everything, without an ERROR.
    ///
    /// # Errors
    /// What was found.
    pub async fn finish(self, allowed: &[&str]) -> Result<()> {
        judge_logs(Threshold::Warn, allowed)?;
        for gateway in self.gateways {
            gateway.shutdown().await?;
        }
        for server in self.nodes.into_iter().filter_map(|node| node.server) {
            server.shutdown().await?;
        }
        for member in self.placement {
            member.shutdown().await?;
        }
        judge_logs(Threshold::Error, allowed)
    }
}

fn judge_logs(threshold: Threshold, allowed: &[&str]) -> Result<()> {
    let trouble = logs::Collected::get().trouble(threshold, allowed);
    ensure!(trouble.is_empty(), "unexpected in the logs:\n{}", trouble.join("\n"));
    Ok(())
}

impl Node {
    /// Where it serves gRPC.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.settings.listen
    }

    async fn start(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("it already runs");
        }
        let disk = self.disk.clone();
        let open: OpenLog = Box::new(move |path, settings| {
            // The process must outlive a disk that dies: the write's error stops the node.
            let hook: FatalHook = Arc::new(|_| {});
            Ok(Arc::new(EngineLog::open_with(path, settings, Arc::new(disk), hook)?))
        });
        let server = rangedb_storage_node::start_with(self.settings.clone(), open).await?;
        self.server = Some(server);
        Ok(())
    }

    /// Where its data engine lies.
    #[must_use]
    pub fn engine_folder(&self) -> PathBuf {
        self.settings.data_dir.join(ENGINE_FOLDER)
    }
}

/// Copies a folder of files.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
