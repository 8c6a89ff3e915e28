//! Why a data folder was refused. Owns: the words. Must not know: how it is opened.

use rangedb_types::ClusterId;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A data folder that must not or cannot be used. Every variant is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "data folder {} is in use by another process; stop it or choose another folder with --data-dir",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "data folder {} is not writable; mount it read-write, correct its owner, or choose another with --data-dir",
        path.display()
    )]
    NotWritable { path: PathBuf },
    #[error("no space left in data folder {}; free some or choose another with --data-dir", path.display())]
    Full { path: PathBuf },
    #[error("data folder {} is not a folder; choose another path with --data-dir", path.display())]
    NotAFolder { path: PathBuf },
    #[error(
        "folder {} holds files that are not RangeDB's; choose an empty folder with --data-dir",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "data folder {} belongs to a {found}, not to a {wanted}; choose the right one with --data-dir",
        path.display()
    )]
    OtherKind { path: PathBuf, found: String, wanted: String },
    #[error(
        "data folder {} has format {found}, and this program knows formats up to {known}; run a newer RangeDB",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error(
        "data folder {} belongs to cluster {found}, not to {wanted}; use this cluster's folder or an empty one",
        path.display()
    )]
    OtherCluster { path: PathBuf, found: ClusterId, wanted: ClusterId },
    #[error(
        "data folder {} belongs to node {found}, not to node {wanted}; use this node's folder or an empty one",
        path.display()
    )]
    OtherNode { path: PathBuf, found: u64, wanted: u64 },
    #[error(
        "file {} is damaged: {why}; restore the folder from a copy, or start with an empty one",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("cannot use data folder {}: {source}; correct it or choose another with --data-dir", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl DataDirError {
    pub(super) fn from_io(path: &Path, error: std::io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                Self::NotWritable { path }
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path },
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Self::NotAFolder { path },
            _ => Self::Io { path, source: error },
        }
    }
}
