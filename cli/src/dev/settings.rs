//! Settings of `dev`. Owns: what is common to the parts; each part's own are nested.

use rangedb_service::logging::LogSettings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that can be set. Addresses, data folders and logs of the parts are `dev`'s business:
/// what is given for them is not looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub nodes: Option<u32>,
    pub listen: String,
    pub http_listen: String,
    pub log: LogSettings,
    pub placement: rangedb_placement::Settings,
    pub storage_node: rangedb_storage_node::Settings,
    pub gateway: rangedb_gateway::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            nodes: None,
            listen: "127.0.0.1:8081".to_owned(),
            http_listen: "127.0.0.1:8080".to_owned(),
            log: LogSettings::default(),
            placement: rangedb_placement::Settings::default(),
            storage_node: rangedb_storage_node::Settings::default(),
            gateway: rangedb_gateway::Settings::default(),
        }
    }
}
