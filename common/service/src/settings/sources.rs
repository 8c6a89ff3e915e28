//! Where settings come from. Owns: reading each source into one nested table. Must not know: which
//! keys exist. Invariant: a source holds only what was given in it; "not given" is absent.

use super::{ENVIRONMENT_PREFIX, SettingsError};
use crate::text::one_line;
use figment::providers::{Format, Json, Toml, Yaml};
use figment::value::{Dict, Value};
use serde::Serialize;
use std::path::Path;

/// Variables with our prefix that are no settings of a server: the command-line client's.
const FOREIGN_VARIABLES: [&str; 2] = ["RANGEDB_ENDPOINTS", "RANGEDB_OUTPUT"];
/// Prefixes of variables that scripts and tests around the servers use.
const FOREIGN_PREFIXES: [&str; 4] =
    ["RANGEDB_TEST_", "RANGEDB_BENCH_", "RANGEDB_DEMO_", "RANGEDB_CLUSTER_"];

/// A TOML, YAML or JSON file, told apart by its name.
pub(super) fn file(path: &Path) -> Result<Dict, SettingsError> {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    if !matches!(kind, "toml" | "yaml" | "yml" | "json") {
        return Err(SettingsError::FileKindUnknown { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::FileUnreadable { path: path.to_owned(), source })?;
    let parsed = match kind {
        "toml" => Toml::from_str(&text).map_err(|error| error.to_string()),
        "json" => Json::from_str(&text).map_err(|error| error.to_string()),
        // An empty YAML file is "null", which is as good as no key at all.
        _ if text.trim().is_empty() => Ok(Dict::new()),
        _ => Yaml::from_str(&text).map_err(|error| error.to_string()),
    };
    parsed.map_err(|why| SettingsError::FileInvalid { path: path.to_owned(), why: one_line(&why) })
}

/// Variables such as `RANGEDB_LOG__FORMAT=json`, which is `log.format`.
pub(super) fn environment(variables: impl IntoIterator<Item = (String, String)>) -> Dict {
    let mut table = Dict::new();
    // Sorted, so that the outcome does not depend on the order of the environment.
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        if key.is_empty() || is_foreign(&name) {
            continue;
        }
        let key = key.to_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        // Parsing never fails: what is no number, boolean or list is text.
        let value = value.parse::<Value>().unwrap_or_else(|never| match never {});
        insert(&mut table, &path, value);
    }
    table
}

fn is_foreign(name: &str) -> bool {
    FOREIGN_VARIABLES.contains(&name)
        || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn insert(table: &mut Dict, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let slot = table.entry((*key).to_owned()).or_insert_with(|| Dict::new().into());
            if !matches!(slot, Value::Dict(..)) {
                *slot = Dict::new().into();
            }
            if let Value::Dict(_, inner) = slot {
                insert(inner, rest, value);
            }
        }
    }
}

/// What the command line gave, without what it did not give.
pub(super) fn flags(overrides: &impl Serialize) -> Result<Dict, SettingsError> {
    let refused = |why: String| SettingsError::Flags { why: one_line(&why) };
    match Value::serialize(overrides).map_err(|error| refused(error.to_string()))? {
        Value::Dict(_, table) => Ok(table.into_iter().filter_map(given).collect()),
        Value::Empty(..) => Ok(Dict::new()),
        other => Err(refused(format!("expected a table, found {}", other.to_actual()))),
    }
}

/// Drops `None`, empty lists and tables that hold nothing else.
fn given((key, value): (String, Value)) -> Option<(String, Value)> {
    match value {
        Value::Empty(..) => None,
        Value::Array(_, list) if list.is_empty() => None,
        Value::Dict(tag, table) => {
            let table: Dict = table.into_iter().filter_map(given).collect();
            (!table.is_empty()).then_some((key, Value::Dict(tag, table)))
        }
        value => Some((key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_underscores_open_a_level() {
        let table = environment([
            ("RANGEDB_LOG__FORMAT".to_owned(), "json".to_owned()),
            ("RANGEDB_LOG__FILTER".to_owned(), "debug".to_owned()),
            ("RANGEDB_DATA_DIR".to_owned(), "/x".to_owned()),
            ("RANGEDB_ENDPOINTS".to_owned(), "ignored".to_owned()),
            ("RANGEDB_TEST_SEED".to_owned(), "ignored".to_owned()),
            ("PATH".to_owned(), "ignored".to_owned()),
        ]);
        let keys: Vec<_> = table.keys().cloned().collect();
        assert_eq!(keys, ["data_dir", "log"]);
        let log = table["log"].as_dict().unwrap();
        assert_eq!(log["format"].as_str(), Some("json"));
        assert_eq!(log["filter"].as_str(), Some("debug"));
    }

    #[test]
    fn flags_not_given_are_absent() {
        #[derive(Serialize)]
        struct Inner {
            format: Option<String>,
        }
        #[derive(Serialize)]
        struct Flags {
            listen: Option<String>,
            placement: Vec<String>,
            id: Option<u64>,
            log: Inner,
        }
        let given = flags(&Flags {
            listen: None,
            placement: Vec::new(),
            id: Some(3),
            log: Inner { format: None },
        })
        .unwrap();
        assert_eq!(given.keys().cloned().collect::<Vec<_>>(), ["id"]);
    }

    #[test]
    fn a_missing_file_is_no_empty_file() {
        assert!(file(Path::new("/nonexistent/settings.toml")).is_err());
    }
}
