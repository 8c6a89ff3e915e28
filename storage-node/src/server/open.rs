//! Opening what is on disk, before anything runs.

use super::{OpenLog, StartError};
use crate::raft_log::{CachedLog, RaftLog};
use crate::settings::Settings;
use crate::transport::known_addresses;
use rangedb_engine::Engine;
use rangedb_service::DataDir;
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;

/// The newest format of a data folder that this program reads and writes.
const FORMAT_VERSION: u32 = 1;
/// The kind of the data folder.
const KIND: &str = "storage-node";
/// The folders in it.
const ENGINE_DIR: &str = "engine";
const LOG_DIR: &str = "raft-log";
pub(super) const SNAPSHOT_DIR: &str = "snapshots";

/// What was opened.
pub(super) struct Opened {
    pub data_dir: Arc<DataDir>,
    pub engine: Arc<dyn Engine>,
    pub log: Arc<dyn RaftLog>,
    /// Where the other nodes were when this one last heard of them.
    pub addresses: HashMap<NodeId, String>,
}

/// Opens the folder, the engine and the Raft log.
pub(super) async fn open(settings: &Settings, open_log: OpenLog) -> Result<Opened, StartError> {
    let settings = settings.clone();
    let opening = tokio::task::spawn_blocking(move || open_blocking(&settings, open_log));
    match opening.await {
        Ok(opened) => opened,
        Err(panic) => Err(StartError::Thread(std::io::Error::other(panic))),
    }
}

fn open_blocking(settings: &Settings, open_log: OpenLog) -> Result<Opened, StartError> {
    let kind = settings.engine_kind()?;
    let data_dir = Arc::new(DataDir::open(&settings.data_dir, KIND, FORMAT_VERSION)?);
    let path = data_dir.join(ENGINE_DIR);
    let engine = rangedb_engine::open(kind, &path, &settings.engine_settings())
        .map_err(|source| StartError::Engine { path: path.display().to_string(), source })?;
    let log = open_log(&data_dir.join(LOG_DIR), &settings.raft_log)?;
    let log = Arc::new(CachedLog::new(log, settings.raft_log.cache_bytes.0));
    let addresses = known_addresses::load(data_dir.path());
    Ok(Opened { data_dir, engine, log, addresses })
}

impl Opened {
    /// Closes the engine; the rest closes with its last owner.
    pub(super) async fn close(self) {
        let closing = tokio::task::spawn_blocking(move || self.engine.close());
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the engine could not be closed"),
            Err(error) => tracing::error!(%error, "closing the engine panicked"),
        }
    }
}
