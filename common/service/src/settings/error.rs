//! Why settings were refused. Owns: the words. Must not know: where the values are used.

use crate::text::one_line;
use figment::error::Kind;
use std::path::PathBuf;

/// Settings that cannot be used. Every variant is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read settings file {}: {source}; give another path with --config", path.display())]
    FileUnreadable { path: PathBuf, source: std::io::Error },
    #[error("settings file {} has an unknown kind; name it .toml, .yaml, .yml or .json", path.display())]
    FileKindUnknown { path: PathBuf },
    #[error("settings file {} is not valid: {why}; correct it and start again", path.display())]
    FileInvalid { path: PathBuf, why: String },
    #[error("unknown setting `{key}` in the {source_name}; known here: {known}")]
    UnknownKey { key: String, source_name: String, known: String },
    #[error("setting `{key}` in the {source_name} is not valid: {why}; correct it and start again")]
    InvalidValue { key: String, source_name: String, why: String },
    #[error("command line cannot be turned into settings: {why}; see --help")]
    Flags { why: String },
}

impl SettingsError {
    /// The first complaint of an extraction that failed after `source_name` was added.
    pub(super) fn invalid(source_name: String, error: figment::Error) -> Self {
        let Some(first) = error.into_iter().next() else {
            return Self::InvalidValue {
                key: String::new(),
                source_name,
                why: "no reason given".to_owned(),
            };
        };
        let mut path = first.path.clone();
        if let Kind::UnknownField(key, known) = &first.kind {
            // The key itself may or may not be the last part of the path already.
            if path.last() != Some(key) {
                path.push(key.clone());
            }
            return Self::UnknownKey { key: path.join("."), source_name, known: known.join(", ") };
        }
        Self::InvalidValue {
            key: path.join("."),
            source_name,
            why: one_line(&first.kind.to_string()),
        }
    }
}
