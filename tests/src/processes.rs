//! A cluster of real processes on loopback, which can be killed.

use crate::child::Child;
use crate::logs::Threshold;
use crate::{admin, http, logs, ports, wait};
use anyhow::{Context as _, Result, ensure};
use rangedb_client::{Client, Options};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// From the start of a process until it can serve, on a busy machine.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// A clean stop takes at most ten seconds by promise; a busy machine gets a little more.
pub const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What a storage node may fill, as a line of its settings: how full the disk of this machine is
/// must not decide where replicas go.
const DISK_SHARE: &str = "disk_capacity = \"16GiB\"";

/// What kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Placement,
    Node,
    Gateway,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Placement => "rangedb-placement",
            Self::Node => "rangedb-storage-node",
            Self::Gateway => "rangedb-gateway",
        }
    }
}

/// How many of each, and what the storage nodes are told besides.
#[derive(Clone, Debug)]
pub struct Shape {
    pub placement: usize,
    pub nodes: usize,
    pub gateways: usize,
    /// Settings file of the storage nodes (TOML).
    pub node_settings: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self { placement: 3, nodes: 3, gateways: 2, node_settings: String::new() }
    }
}

/// One process and what it takes to start it again.
pub struct Part {
    pub kind: Kind,
    pub number: usize,
    /// Where it serves gRPC.
    pub grpc: String,
    /// Where it serves metrics and health.
    pub http: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    pub arguments: Vec<String>,
    child: Option<Child>,
}

impl Part {
    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:?} {}", self.kind, self.number).to_lowercase()
    }

    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} already runs", self.name());
        self.child = Some(Child::spawn(self.kind.program(), &self.arguments, &self.log)?);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let name = self.name();
        let mut child = self.child.take().with_context(|| format!("{name} does not run"))?;
        child.kill()
    }

    /// SIGTERM; it must exit with 0.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub async fn stop(&mut self) -> Result<()> {
        let name = self.name();
        let mut child = self.child.take().with_context(|| format!("{name} does not run"))?;
        let status = child.terminate(STOP_LIMIT).await?;
        ensure!(status.success(), "{name} did not stop cleanly: {status}");
        Ok(())
    }

    /// The process.
    ///
    /// # Errors
    /// It does not run.
    pub fn child(&mut self) -> Result<&mut Child> {
        let name = self.name();
        self.child.as_mut().with_context(|| format!("{name} does not run"))
    }

    /// Waits until it ended by itself, which it must not do with 0.
    ///
    /// # Errors
    /// It still runs when the limit is over, or ended as if all were well.
    pub async fn failed(&mut self, limit: Duration) -> Result<()> {
        let name = self.name();
        let mut child = self.child.take().with_context(|| format!("{name} does not run"))?;
        let status = child.ended(limit).await?;
        ensure!(!status.success(), "{name} ended well");
        Ok(())
    }

    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until it says that it can serve.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn ready(&mut self) -> Result<()> {
        let name = self.name();
        let child = self.child.as_mut().with_context(|| format!("{name} does not run"))?;
        let http = &self.http;
        wait::until(&format!("{name} is ready"), READY_LIMIT, async || {
            child.is_running()?;
            http::ready(http).await
        })
        .await
    }
}

/// The cluster.
pub struct Processes {
    folder: Option<TempDir>,
    pub placement: Vec<Part>,
    pub nodes: Vec<Part>,
    pub gateways: Vec<Part>,
    node_settings: PathBuf,
    finished: bool,
}

impl Processes {
    /// Starts the shape and waits until every process is ready.
    ///
    /// # Errors
    /// A process that does not get ready.
    pub async fn start(shape: Shape) -> Result<Self> {
        let mut cluster = Self::prepare(&shape)?;
        for part in cluster.parts() {
            part.start()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Chooses folders and addresses; starts nothing.
    ///
    /// # Errors
    /// No folder or no ports.
    pub fn prepare(shape: &Shape) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("rangedb-test-").tempdir()?;
        let node_settings = folder.path().join("node.toml");
        let settings = format!("{DISK_SHARE}\n{}", shape.node_settings);
        std::fs::write(&node_settings, settings)?;
        let mut cluster = Self {
            folder: Some(folder),
            placement: Vec::new(),
            nodes: Vec::new(),
            gateways: Vec::new(),
            node_settings,
            finished: false,
        };
        for _ in 0..shape.placement {
            let part = cluster.part(Kind::Placement, cluster.placement.len() + 1)?;
            cluster.placement.push(part);
        }
        let peers: Vec<String> =
            cluster.placement.iter().map(|part| format!("{}={}", part.number, part.grpc)).collect();
        for part in &mut cluster.placement {
            let id = part.number.to_string();
            part.arguments.extend(["--id".to_owned(), id, "--peers".to_owned(), peers.join(",")]);
        }
        for _ in 0..shape.nodes {
            cluster.add_node()?;
        }
        for _ in 0..shape.gateways {
            let mut part = cluster.part(Kind::Gateway, cluster.gateways.len() + 1)?;
            part.arguments.extend(["--placement".to_owned(), cluster.placement_addresses()]);
            cluster.gateways.push(part);
        }
        Ok(cluster)
    }

    /// One more storage node, not started yet.
    ///
    /// # Errors
    /// No port.
    pub fn add_node(&mut self) -> Result<&mut Part> {
        let mut part = self.part(Kind::Node, self.nodes.len() + 1)?;
        let settings = self.node_settings.display().to_string();
        part.arguments.extend(["--placement".to_owned(), self.placement_addresses()]);
        part.arguments.extend(["--config".to_owned(), settings]);
        self.nodes.push(part);
        self.nodes.last_mut().context("just added")
    }

    fn part(&self, kind: Kind, number: usize) -> Result<Part> {
        let name = format!("{}-{number}", kind.program());
        let (grpc, http) = (ports::free_address()?, ports::free_address()?);
        let data_dir = self.folder().join(&name);
        let mut arguments: Vec<String> =
            ["--listen", &grpc, "--http-listen", &http, "--log-format", "json"]
                .map(str::to_owned)
                .to_vec();
        if kind != Kind::Gateway {
            arguments.extend(["--data-dir".to_owned(), data_dir.display().to_string()]);
        }
        let log = self.folder().join(format!("{name}.log"));
        Ok(Part { kind, number, grpc, http, data_dir, log, arguments, child: None })
    }

    /// The folder that holds everything of this cluster.
    ///
    /// # Panics
    /// Never: the folder is there until the cluster is dropped.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("there until the drop").path()
    }

    /// Addresses of all placement members, as a flag takes them.
    #[must_use]
    pub fn placement_addresses(&self) -> String {
        self.placement.iter().map(|part| part.grpc.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Every part, in the order in which they are started.
    pub fn parts(&mut self) -> impl Iterator<Item = &mut Part> {
        self.placement.iter_mut().chain(&mut self.nodes).chain(&mut self.gateways)
    }

    /// Waits until every started process is ready.
    ///
    /// # Errors
    /// One is not, in time.
    pub async fn ready(&mut self) -> Result<()> {
        for part in self.parts().filter(|part| part.is_started()) {
            part.ready().await?;
        }
        Ok(())
    }

    /// Waits until every range has its copies on all nodes of this cluster (at most three).
    ///
    /// # Errors
    /// It does not happen in time.
    pub async fn replicated(&self) -> Result<()> {
        let voters = self.nodes.iter().filter(|node| node.is_started()).count().min(3);
        admin::replicated(&self.client().await?, voters).await
    }

    /// The gateways' addresses.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.gateways.iter().map(|part| part.grpc.clone()).collect()
    }

    /// A client of all gateways.
    ///
    /// # Errors
    /// None answers.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.endpoints()).await?)
    }

    /// A client of one gateway.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn client_of(&self, gateway: usize) -> Result<Client> {
        let endpoint = self.gateways[gateway].grpc.clone();
        Ok(Client::connect_with([endpoint], Options::default()).await?)
    }

    /// Judges the logs (a WARN or ERROR that contains none of `allowed` fails), then stops
    /// everything that runs; each must exit with 0, without an ERROR.
    ///
    /// # Errors
    /// What was found.
    pub async fn finish(mut self, allowed: &[&str]) -> Result<()> {
        self.judge_logs(Threshold::Warn, allowed)?;
        let started = self.gateways.iter_mut().chain(&mut self.nodes).chain(&mut self.placement);
        for part in started.filter(|part| part.is_started()) {
            part.stop().await?;
        }
        self.judge_logs(Threshold::Error, allowed)?;
        self.finished = true;
        Ok(())
    }

    fn judge_logs(&mut self, threshold: Threshold, allowed: &[&str]) -> Result<()> {
        let trouble = self.trouble(threshold, allowed)?;
        ensure!(trouble.is_empty(), "unexpected in the logs:\n{}", trouble.join("\n"));
        Ok(())
    }

    fn trouble(&mut self, threshold: Threshold, allowed: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for part in self.parts().filter(|part| part.log.exists()) {
            let name = part.name();
            let lines = logs::trouble(&part.log, threshold, allowed)?;
            found.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
        }
        Ok(found)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Ok(trouble) = self.trouble(Threshold::Warn, &[]) {
            eprintln!("trouble in the logs:\n{}", trouble.join("\n"));
        }
        if let Some(folder) = self.folder.take() {
            eprintln!("the cluster's folder is kept: {}", folder.keep().display());
        }
    }
}
