//! The whole state as bytes: magic, format, checksum, then the metadata as JSON in key order. Equal
//! states give equal bytes.

use super::{CorruptState, META_PREFIX, MetaEntry, State};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 4] = b"RDPS";
const FORMAT: u32 = 1;
/// Magic, format, CRC-32 of the body.
const HEADER_BYTES: usize = 12;

#[derive(Serialize, Deserialize)]
struct Body {
    revision: u64,
    entries: Vec<MetaEntry>,
}

/// Bytes that are not a whole snapshot of a known format.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("this is not a placement snapshot")]
    NotASnapshot,
    #[error("the snapshot has format {0}; this version reads format {FORMAT}")]
    UnknownFormat(u32),
    #[error("the snapshot is damaged: its checksum is wrong")]
    Checksum,
    #[error("the body of the snapshot cannot be read")]
    Body(#[source] serde_json::Error),
    #[error(transparent)]
    Corrupt(#[from] CorruptState),
}

impl State {
    /// The state as bytes.
    #[must_use]
    pub fn to_snapshot(&self) -> Vec<u8> {
        let body =
            Body { revision: self.revision(), entries: self.meta_list(META_PREFIX, "").collect() };
        let body = serde_json::to_vec(&body).expect("plain records serialise");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The state that these bytes hold.
    ///
    /// # Errors
    /// `SnapshotError` if they are damaged or of another format.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let word = |at: usize| -> Option<u32> {
            bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
        };
        if !bytes.starts_with(MAGIC) || bytes.len() < HEADER_BYTES {
            return Err(SnapshotError::NotASnapshot);
        }
        match word(4) {
            Some(FORMAT) => {}
            other => return Err(SnapshotError::UnknownFormat(other.unwrap_or_default())),
        }
        let body = &bytes[HEADER_BYTES..];
        if word(8) != Some(crc32fast::hash(body)) {
            return Err(SnapshotError::Checksum);
        }
        let body: Body = serde_json::from_slice(body).map_err(SnapshotError::Body)?;
        Ok(Self::restore(body.revision, body.entries)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;
    use rangedb_types::ClusterId;

    #[test]
    fn every_damaged_byte_is_noticed() {
        let mut state = State::default();
        state.apply(&Command::InitCluster { cluster_id: ClusterId(7) });
        let bytes = state.to_snapshot();
        assert_eq!(State::from_snapshot(&bytes).unwrap().to_snapshot(), bytes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(State::from_snapshot(&damaged).is_err(), "byte {at}");
            assert!(State::from_snapshot(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
