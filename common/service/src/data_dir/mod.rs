//! A process's folder on disk: one owner at a time, and always the same one.
//!
//! Owns: the lock (`LOCK`), the identity file (`RANGEDB`) and the checks made before anything else
//! is opened. Must not know: what is stored beside them. Invariants: two processes never hold one
//! folder; the kind, the store id and, once set, the cluster and node ids never change; the
//! identity file is replaced whole and synced, so a crash leaves the old or the new one.

mod error;
mod identity;

pub use error::DataDirError;

use identity::Identity;
use parking_lot::Mutex;
use rangedb_types::{ClusterId, NodeId};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The file whose lock is the right to use the folder. Its content means nothing.
pub const LOCK_FILE: &str = "LOCK";
/// The file that says whose folder it is.
pub const IDENTITY_FILE: &str = "RANGEDB";

/// An open data folder. Dropping it gives the lock back.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// Held for its lock: the operating system releases it when the file is closed, whatever way
    /// the process ends.
    _lock: File,
}

impl DataDir {
    /// Opens the folder, creating it if need be. `kind` is "placement" or "storage-node";
    /// `format_version` is the newest format this program can read and write.
    ///
    /// # Errors
    /// The folder cannot be made or written, is in use, holds something else, or is of another
    /// kind or a newer format.
    pub fn open(
        path: impl AsRef<Path>,
        kind: &str,
        format_version: u32,
    ) -> Result<Self, DataDirError> {
        let path = path.as_ref().to_owned();
        std::fs::create_dir_all(&path).map_err(|error| DataDirError::from_io(&path, error))?;
        // Before the lock file is made: somebody else's folder is left as it was.
        if !path.join(IDENTITY_FILE).exists() && identity::foreign_content(&path)? {
            return Err(DataDirError::Foreign { path });
        }
        let lock = lock(&path)?;
        let identity = match identity::read(&path, kind, format_version)? {
            Some(identity) => identity,
            None => Identity::new(kind, format_version),
        };
        // Written at every start, changed or not: it proves that the folder can be written, and
        // refuses a full or read-only one before anything is served.
        identity::write(&path, &identity)?;
        Ok(Self { path, identity: Mutex::new(identity), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder or file inside it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// 128 random bits, drawn when the folder was made: the identity of this store for good.
    #[must_use]
    pub fn store_id(&self) -> u128 {
        self.identity.lock().store_id
    }

    /// The format the folder was made with.
    #[must_use]
    pub fn format_version(&self) -> u32 {
        self.identity.lock().format_version
    }

    /// The cluster it belongs to, once known.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.identity.lock().cluster_id
    }

    /// Binds the folder to a cluster, durably. Doing so again with the same one is fine.
    ///
    /// # Errors
    /// It belongs to another cluster, or cannot be written.
    pub fn set_cluster_id(&self, id: ClusterId) -> Result<(), DataDirError> {
        self.change(|identity| match identity.cluster_id {
            Some(known) if known != id => Err(DataDirError::OtherCluster {
                path: self.path.clone(),
                found: known,
                wanted: id,
            }),
            _ => {
                identity.cluster_id = Some(id);
                Ok(())
            }
        })
    }

    /// The node it belongs to, once placement gave it one.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        self.identity.lock().node_id.map(NodeId)
    }

    /// Binds the folder to a node, durably. Doing so again with the same one is fine.
    ///
    /// # Errors
    /// It belongs to another node, or cannot be written.
    pub fn set_node_id(&self, id: NodeId) -> Result<(), DataDirError> {
        self.change(|identity| match identity.node_id {
            Some(known) if known != id.get() => Err(DataDirError::OtherNode {
                path: self.path.clone(),
                found: known,
                wanted: id.get(),
            }),
            _ => {
                identity.node_id = Some(id.get());
                Ok(())
            }
        })
    }

    /// Changes the identity on disk first, then in memory. Blocks on the disk.
    fn change(
        &self,
        edit: impl FnOnce(&mut Identity) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let mut current = self.identity.lock();
        let mut next = current.clone();
        edit(&mut next)?;
        if next != *current {
            identity::write(&self.path, &next)?;
            *current = next;
        }
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(|error| DataDirError::from_io(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(DataDirError::from_io(path, error)),
    }
}

#[cfg(test)]
mod tests;
