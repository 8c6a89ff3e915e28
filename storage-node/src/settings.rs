//! What a storage node is told at start.

use crate::raft_log::{LogSettings as RaftLogSettings, LogSettingsError};
use crate::snapshot::{SnapshotSettings, SnapshotSettingsError};
use crate::store::StoreSettings;
use crate::transport::TransportSettings;
use rangedb_engine::{EngineKind, EngineSettings};
use rangedb_service::logging::LogSettings;
use rangedb_service::settings::{Bytes, Period, comma_list};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Settings of `rangedb-storage-node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// gRPC, for gateways and other nodes.
    pub listen: String,
    /// Metrics and health.
    pub http_listen: String,
    /// Where others reach this node, if it is not what it listens on.
    pub advertise: Option<String>,
    /// Members of placement, `HOST:PORT`.
    #[serde(deserialize_with = "comma_list")]
    pub placement: Vec<String>,
    /// Where the node stands: `region=R,zone=Z,rack=K`, each optional. Replicas of a range are
    /// spread over different ones.
    pub locality: String,
    /// `rocksdb`, `btree` or `memory`.
    pub engine: String,
    /// How much of the disk the node may fill, for disks that are shared; 0: all of it. Near the
    /// limit the node gets no more replicas, and gives some away; writes go on until the disk is full.
    pub disk_capacity: Bytes,
    /// Memory for blocks of data read from disk.
    pub block_cache: Bytes,
    /// Memory for writes of one family before they go to files, and of all families together.
    pub write_buffer: Bytes,
    pub write_buffer_total: Bytes,
    /// Threads for flushes and compactions.
    pub background_jobs: u32,
    pub open_files_max: u32,
    /// Threads that read for requests; 0: as many as processors, at least 2.
    pub read_threads: usize,
    /// Threads that drive Raft, each with its own fsync.
    pub raft_threads: usize,
    /// The unit of Raft's time. A leader beats every two ticks; followers wait for ten.
    pub raft_tick: Period,
    /// What a leader keeps of its log for followers that are behind; beyond either, they get a
    /// snapshot.
    pub raft_retain: Bytes,
    pub raft_retain_entries: u64,
    pub raft_log: RaftLogSettings,
    pub snapshots: SnapshotSettings,
    pub transport: TransportSettings,
    /// Threads that serve the network; 0 means half of the machine's processors.
    pub async_threads: usize,
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let engine = EngineSettings::default();
        let store = StoreSettings::default();
        Self {
            data_dir: PathBuf::from("data/storage-node"),
            listen: "127.0.0.1:8181".to_owned(),
            http_listen: "127.0.0.1:8180".to_owned(),
            advertise: None,
            placement: vec!["127.0.0.1:8281".to_owned()],
            locality: String::new(),
            engine: EngineKind::default().to_string(),
            disk_capacity: Bytes(0),
            block_cache: Bytes(engine.block_cache_bytes),
            write_buffer: Bytes(engine.write_buffer_bytes),
            write_buffer_total: Bytes(engine.write_buffer_total_bytes),
            background_jobs: engine.background_jobs,
            open_files_max: engine.open_files_max,
            read_threads: 0,
            raft_threads: store.raft_threads,
            raft_tick: Period(store.replica.tick),
            raft_retain: Bytes(store.replica.log_budget.retain_bytes),
            raft_retain_entries: store.replica.log_budget.retain_entries,
            raft_log: RaftLogSettings::default(),
            snapshots: SnapshotSettings::default(),
            transport: TransportSettings::default(),
            async_threads: 0,
            log: LogSettings::default(),
        }
    }
}

/// Settings that cannot be served with. Every variant is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("no address of placement; give --placement HOST:PORT,…")]
    NoPlacement,
    #[error("--placement: {0}")]
    Placement(rangedb_service::grpc::InvalidAddress),
    #[error("--advertise: {0}")]
    Advertise(rangedb_service::grpc::InvalidAddress),
    #[error("others cannot dial {0}; say where they reach this node with --advertise HOST:PORT")]
    NotDiallable(SocketAddr),
    #[error(
        "--locality: `{0}` is not KEY=VALUE with region, zone or rack, each once; write for example region=eu,zone=eu-1,rack=7"
    )]
    Locality(String),
    #[error("--engine: {0}")]
    Engine(String),
    #[error("{0}")]
    RaftLog(#[from] LogSettingsError),
    #[error("{0}")]
    Snapshots(#[from] SnapshotSettingsError),
    #[error("setting `{name}` must be {bounds}")]
    Bounds { name: &'static str, bounds: &'static str },
}

/// The parts of a locality; empty where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub rack: String,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first setting that is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        if self.placement.is_empty() {
            return Err(InvalidSettings::NoPlacement);
        }
        for address in &self.placement {
            rangedb_service::grpc::endpoint(address).map_err(InvalidSettings::Placement)?;
        }
        if let Some(address) = &self.advertise {
            rangedb_service::grpc::endpoint(address).map_err(InvalidSettings::Advertise)?;
        }
        self.locality()?;
        self.engine_kind()?;
        self.raft_log.check()?;
        self.snapshots.check()?;
        let bounds = [
            ("raft_threads", (1..=64).contains(&self.raft_threads), "from 1 to 64"),
            ("read_threads", self.read_threads <= 256, "at most 256"),
            ("background_jobs", (1..=64).contains(&self.background_jobs), "from 1 to 64"),
            ("open_files_max", self.open_files_max >= 64, "at least 64"),
            ("write_buffer", self.write_buffer.0 >= 1 << 20, "at least 1MiB"),
            (
                "write_buffer_total",
                self.write_buffer_total.0 >= self.write_buffer.0,
                "at least as large as write_buffer",
            ),
            (
                "raft_tick",
                (Duration::from_millis(5)..=Duration::from_secs(10)).contains(&self.raft_tick.0),
                "from 5ms to 10s",
            ),
            ("raft_retain_entries", self.raft_retain_entries > 0, "at least 1"),
        ];
        match bounds.iter().find(|(_, holds, _)| !holds) {
            Some((name, _, bounds)) => Err(InvalidSettings::Bounds { name, bounds }),
            None => Ok(()),
        }
    }

    /// # Errors
    /// `Locality`.
    pub fn locality(&self) -> Result<Locality, InvalidSettings> {
        let mut locality = Locality::default();
        for part in self.locality.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let refused = || InvalidSettings::Locality(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(refused)?;
            let slot = match key.trim() {
                "region" => &mut locality.region,
                "zone" => &mut locality.zone,
                "rack" => &mut locality.rack,
                _ => return Err(refused()),
            };
            if !slot.is_empty() || value.trim().is_empty() {
                return Err(refused());
            }
            value.trim().clone_into(slot);
        }
        Ok(locality)
    }

    /// # Errors
    /// `Engine`.
    pub fn engine_kind(&self) -> Result<EngineKind, InvalidSettings> {
        self.engine.parse().map_err(|error: <EngineKind as FromStr>::Err| {
            InvalidSettings::Engine(error.to_string())
        })
    }

    /// Where others reach this node, which listens at `listening`.
    ///
    /// # Errors
    /// `NotDiallable`.
    pub fn advertised(&self, listening: SocketAddr) -> Result<String, InvalidSettings> {
        match &self.advertise {
            Some(address) => Ok(address.clone()),
            None if listening.ip().is_unspecified() => {
                Err(InvalidSettings::NotDiallable(listening))
            }
            None => Ok(listening.to_string()),
        }
    }

    pub(crate) fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            block_cache_bytes: self.block_cache.0,
            write_buffer_bytes: self.write_buffer.0,
            write_buffer_total_bytes: self.write_buffer_total.0,
            background_jobs: self.background_jobs,
            open_files_max: self.open_files_max,
            ..EngineSettings::default()
        }
    }

    pub(crate) fn store_settings(&self) -> StoreSettings {
        let mut settings = StoreSettings { raft_threads: self.raft_threads, ..Default::default() };
        settings.replica.tick = self.raft_tick.0;
        settings.replica.log_budget.retain_bytes = self.raft_retain.0;
        settings.replica.log_budget.retain_entries = self.raft_retain_entries;
        settings
    }

    pub(crate) fn read_threads(&self) -> usize {
        match self.read_threads {
            0 => std::thread::available_parallelism().map_or(2, |count| count.get().max(2)),
            threads => threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_wrong_values_are_named() {
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        let refused = |bad: Settings, word: &str| {
            let words = bad.check().expect_err("refused").to_string();
            assert!(words.contains(word) && !words.contains('\n'), "{words}");
        };
        refused(Settings { placement: Vec::new(), ..good.clone() }, "--placement");
        refused(Settings { placement: vec!["nowhere".into()], ..good.clone() }, "--placement");
        refused(Settings { engine: "redb".into(), ..good.clone() }, "rocksdb");
        refused(Settings { locality: "planet=mars".into(), ..good.clone() }, "region");
        refused(Settings { raft_threads: 0, ..good.clone() }, "raft_threads");
        refused(Settings { write_buffer: Bytes(1), ..good.clone() }, "write_buffer");
        let anywhere: SocketAddr = "0.0.0.0:1".parse().unwrap();
        assert!(good.advertised(anywhere).unwrap_err().to_string().contains("--advertise"));
    }

    #[test]
    fn localities_are_read() {
        let settings = Settings { locality: "region=eu, rack=7".into(), ..Settings::default() };
        let locality = settings.locality().unwrap();
        assert_eq!((&*locality.region, &*locality.zone, &*locality.rack), ("eu", "", "7"));
        for text in ["region", "region=", "region=a,region=b", "zone:1"] {
            let settings = Settings { locality: text.into(), ..Settings::default() };
            assert!(settings.locality().is_err(), "{text}");
        }
    }
}
