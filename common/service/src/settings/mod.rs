//! Settings from defaults, a file, the environment and flags.
//!
//! Owns: the order of the sources, the refusal of unknown keys, and the units. Must not know: what
//! any setting means. Invariants: a later source wins key by key (defaults < file < environment <
//! flags); a key that the component does not know is refused, whatever source it came from.
//!
//! A settings struct derives `Serialize`, `Deserialize` and `Default`, and is marked
//! `#[serde(default, deny_unknown_fields)]` at every level.

mod error;
mod sources;
mod units;

pub use error::SettingsError;
pub use units::{Bytes, Period, UnitError, comma_list};

use figment::Figment;
use figment::providers::Serialized;
use figment::value::Dict;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The start of every environment variable that is a setting; `__` separates levels.
pub const ENVIRONMENT_PREFIX: &str = "RANGEDB_";

/// Loads a component's settings.
///
/// `flag_overrides` is what the command line gave: a struct or map with the shape of `T`, where
/// `None` and empty lists mean "not given".
///
/// # Errors
/// One line that names the source, the key and what is accepted there.
pub fn load<T>(
    config_file: Option<&Path>,
    flag_overrides: impl Serialize,
) -> Result<T, SettingsError>
where
    T: Default + Serialize + DeserializeOwned,
{
    // Variables that are no Unicode cannot be settings of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(config_file, environment, flag_overrides)
}

/// As `load`, with the environment passed in.
///
/// # Errors
/// As `load`.
pub fn load_from<T>(
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flag_overrides: impl Serialize,
) -> Result<T, SettingsError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    let mut layers: Vec<(String, Dict)> = Vec::with_capacity(3);
    if let Some(path) = config_file {
        layers.push((format!("settings file {}", path.display()), sources::file(path)?));
    }
    layers.push(("environment".to_owned(), sources::environment(environment)));
    layers.push(("command line".to_owned(), sources::flags(&flag_overrides)?));

    // One source at a time, so that a refusal can name the source that is to blame.
    for (source, values) in layers {
        figment = figment.merge(Serialized::defaults(values));
        figment.extract::<T>().map_err(|error| SettingsError::invalid(source, error))?;
    }
    figment.extract().map_err(|error| SettingsError::invalid("built-in defaults".to_owned(), error))
}

#[cfg(test)]
mod tests;
