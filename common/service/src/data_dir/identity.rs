//! The identity file. Owns: its JSON form, and writing it so that a crash cannot damage it. Must
//! not know: the lock.

use super::{DataDirError, IDENTITY_FILE, LOCK_FILE};
use crate::text::one_line;
use rangedb_types::{ClusterId, Random, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The next identity while it is being written; a leftover of a crash means nothing.
const IDENTITY_FILE_NEXT: &str = "RANGEDB.next";
/// What an otherwise empty folder may hold: ours from a first start that was cut short, and what
/// a fresh file system brings along.
const HARMLESS_CONTENT: [&str; 3] = [LOCK_FILE, IDENTITY_FILE_NEXT, "lost+found"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    kind: String,
    pub(super) format_version: u32,
    /// Drawn once, when the folder is made.
    #[serde(with = "hexadecimal")]
    pub(super) store_id: u128,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) node_id: Option<u64>,
}

/// The part of an identity that every format has, so that a newer one is recognised even if the
/// rest of it cannot be read.
#[derive(Deserialize)]
struct Header {
    kind: String,
    format_version: u32,
}

impl Identity {
    pub(super) fn new(kind: &str, format_version: u32) -> Self {
        Self {
            kind: kind.to_owned(),
            format_version,
            store_id: SystemRandom.next_id(),
            cluster_id: None,
            node_id: None,
        }
    }
}

/// True if the folder has files that RangeDB did not make before it had an identity.
pub(super) fn foreign_content(path: &Path) -> Result<bool, DataDirError> {
    let from_io = |error| DataDirError::from_io(path, error);
    for entry in std::fs::read_dir(path).map_err(from_io)? {
        let name = entry.map_err(from_io)?.file_name();
        if !HARMLESS_CONTENT.iter().any(|harmless| name == *harmless) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The identity, if the folder has one; refuses another kind and a format above `known`.
pub(super) fn read(path: &Path, kind: &str, known: u32) -> Result<Option<Identity>, DataDirError> {
    let file = path.join(IDENTITY_FILE);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataDirError::from_io(path, error)),
    };
    let damaged = |error: serde_json::Error| DataDirError::Damaged {
        path: file.clone(),
        why: one_line(&error.to_string()),
    };
    let header: Header = serde_json::from_slice(&bytes).map_err(damaged)?;
    check(path, &header, kind, known)?;
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn check(path: &Path, header: &Header, kind: &str, known: u32) -> Result<(), DataDirError> {
    if header.kind != kind {
        return Err(DataDirError::OtherKind {
            path: path.to_owned(),
            found: header.kind.clone(),
            wanted: kind.to_owned(),
        });
    }
    if header.format_version > known {
        return Err(DataDirError::NewerFormat {
            path: path.to_owned(),
            found: header.format_version,
            known,
        });
    }
    Ok(())
}

/// Next file, sync, rename, sync of the folder.
pub(super) fn write(path: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let from_io = |error| DataDirError::from_io(path, error);
    let mut text = serde_json::to_vec_pretty(identity).map_err(|error| from_io(error.into()))?;
    text.push(b'\n');
    let next = path.join(IDENTITY_FILE_NEXT);
    let mut file = File::create(&next).map_err(from_io)?;
    file.write_all(&text).map_err(from_io)?;
    file.sync_all().map_err(from_io)?;
    std::fs::rename(&next, path.join(IDENTITY_FILE)).map_err(from_io)?;
    File::open(path).and_then(|folder| folder.sync_all()).map_err(from_io)
}

mod hexadecimal {
    //! 128 bits as 32 hexadecimal digits, for JSON numbers cannot hold them.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{id:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
