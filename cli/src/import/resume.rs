//! The state of an import that was interrupted.
//!
//! Owns: the state file beside the imported one. Must not know: how records are written. Invariant:
//! it never counts a record that was not acknowledged, nor one behind a record that was not.

use crate::exit::Failure;
use crate::output::text_or_base64;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// How far an import came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// So many records, from the first on, are acknowledged.
    pub records: u64,
    /// The key of the last one, to notice another file under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_key_base64: Option<String>,
}

impl Progress {
    #[must_use]
    pub fn new(records: u64, last_key: &[u8]) -> Self {
        let (last_key, last_key_base64) = text_or_base64(last_key);
        Self { records, last_key, last_key_base64 }
    }

    /// True if the last acknowledged record had this key.
    #[must_use]
    pub fn ends_with(&self, key: &[u8]) -> bool {
        let (text, base64) = text_or_base64(key);
        (text, base64) == (self.last_key.clone(), self.last_key_base64.clone())
    }
}

/// Where the state of an import is kept.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The file beside the imported one.
    #[must_use]
    pub fn beside(imported: &Path) -> Self {
        let mut name = imported.as_os_str().to_owned();
        name.push(".import-state");
        Self(name.into())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// How far the last run came; `None` if there was none.
    ///
    /// # Errors
    /// The file is there and is no state.
    pub fn load(&self) -> Result<Option<Progress>, Failure> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failure("cannot read", &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            self.failure("delete it to import from the start; no import state in", &error)
        })
    }

    /// Replaces the state, durably and at once.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, progress: &Progress) -> Result<(), Failure> {
        let mut new = self.0.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let write = || {
            let mut file = std::fs::File::create(&new)?;
            serde_json::to_writer(&mut file, progress)?;
            file.write_all(b"\n")?;
            file.sync_data()?;
            std::fs::rename(&new, &self.0)
        };
        write().map_err(|error: std::io::Error| self.failure("cannot write", &error))
    }

    /// Forgets the state of an import that is done.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.failure("cannot remove", &error))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self, what: &str, error: &dyn std::error::Error) -> Failure {
        Failure::other(format!("{what} {}: {error}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFile::beside(&folder.path().join("a.tsv"));
        assert_eq!(state.load().unwrap(), None);
        for key in [&b"k"[..], b"\xff"] {
            let progress = Progress::new(12, key);
            state.save(&progress).unwrap();
            assert_eq!(state.load().unwrap(), Some(progress.clone()));
            assert!(progress.ends_with(key) && !progress.ends_with(b"other"));
        }
        state.remove().unwrap();
        state.remove().unwrap();
        assert_eq!(state.load().unwrap(), None);
    }

    #[test]
    fn a_damaged_state_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFile::at(folder.path().join("s"));
        std::fs::write(state.path(), "").unwrap();
        assert!(state.load().unwrap_err().message.contains("delete it"));
    }
}
