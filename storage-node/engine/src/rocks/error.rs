//! RocksDB's errors, told apart.

use crate::EngineError;
use rocksdb::ErrorKind;
use std::path::Path;

/// The error of a running engine.
pub(super) fn convert(error: rocksdb::Error) -> EngineError {
    let kind = error.kind();
    classify(kind, error.into_string())
}

fn classify(kind: ErrorKind, detail: String) -> EngineError {
    if detail.contains("No space left on device") || detail.contains("Disk quota exceeded") {
        return EngineError::Full { detail };
    }
    match kind {
        ErrorKind::Corruption => EngineError::Corruption { detail },
        ErrorKind::ShutdownInProgress => EngineError::Closed,
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => EngineError::Invalid { detail },
        _ => EngineError::Io { detail },
    }
}

/// The error of opening the engine in `path`.
pub(super) fn convert_open(path: &Path, error: rocksdb::Error) -> EngineError {
    let kind = error.kind();
    classify_open(path, kind, error.into_string())
}

fn classify_open(path: &Path, kind: ErrorKind, detail: String) -> EngineError {
    let path = path.to_owned();
    if detail.contains("lock hold by current process") || detail.contains("While lock file") {
        return EngineError::Locked { path };
    }
    if detail.contains("Permission denied") || detail.contains("Read-only file system") {
        return EngineError::ReadOnly { path, detail };
    }
    // A file that the engine's own records name is gone.
    if detail.contains("No such file or directory") {
        return EngineError::Corruption { detail };
    }
    match classify(kind, detail) {
        // While opening, an argument can only be wrong because a file says so.
        EngineError::Invalid { detail } => EngineError::Corruption { detail },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_errors_are_told_apart() {
        let open = |kind, detail: &str| classify_open(Path::new("/d"), kind, detail.to_owned());
        let path = || Path::new("/d").to_owned();
        let locked = "IO error: While lock file: /d/LOCK: Resource temporarily unavailable";
        assert_eq!(open(ErrorKind::IOError, locked), EngineError::Locked { path: path() });
        let denied = "IO error: While mkdir if missing: /d: Permission denied";
        let detail = denied.to_owned();
        assert_eq!(
            open(ErrorKind::IOError, denied),
            EngineError::ReadOnly { path: path(), detail }
        );
        let gone = "IO error: No such file or directory: /d/000009.sst";
        assert!(open(ErrorKind::IOError, gone).is_corruption());
        let full = "IO error: No space left on device: While appending to file: /d/1.log";
        assert!(matches!(open(ErrorKind::IOError, full), EngineError::Full { .. }));
        assert!(matches!(open(ErrorKind::IOError, "IO error: x"), EngineError::Io { .. }));
    }
}
