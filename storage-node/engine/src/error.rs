//! Why an engine refused, in one line that says what to do.

use crate::{EngineKind, Family};
use std::path::PathBuf;

/// An error of the engine. None of them may be ignored: a write that failed may be half way to the
/// disk, and the only safe continuation after [`EngineError::is_fatal`] is to end the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error(
        "stored data is damaged: {detail}; remove this node's replicas and let the cluster rebuild them, or restore a backup"
    )]
    Corruption { detail: String },
    #[error("the disk failed: {detail}; check the device and the file system's permissions")]
    Io { detail: String },
    #[error("the disk is full: {detail}; free some space and start again")]
    Full { detail: String },
    #[error("the engine in {path} is in use by another process; stop that one first")]
    Locked { path: PathBuf },
    #[error("the engine in {path} cannot be written: {detail}; make it writable for this user")]
    ReadOnly { path: PathBuf, detail: String },
    #[error(
        "the engine in {path} has lost its family `{family}`; the folder was tampered with: restore it, or wipe the node and let the cluster rebuild it"
    )]
    MissingFamily { path: PathBuf, family: Family },
    #[error(
        "the engine in {path} was written by a newer version (format {found}, this one reads up to {supported}); start that version instead"
    )]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("the engine `{0}` is not yet available; start with `--engine rocksdb` (the default)")]
    NotAvailable(EngineKind),
    #[error("the engine is closed")]
    Closed,
    #[error("the engine was misused: {detail}")]
    Invalid { detail: String },
}

impl EngineError {
    /// True if the engine must not be written any more: the process has to end, and whatever was
    /// not acknowledged has to be taken as unknown. A failed sync is never retried.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Closed | Self::Invalid { .. } | Self::NotAvailable(_))
    }

    /// True if stored bytes are wrong, as against a device that does not work.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corruption { .. } | Self::MissingFamily { .. })
    }
}
