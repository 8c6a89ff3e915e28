//! Flags that every server has. Owns: their names and help. Must not know: other flags.

use crate::logging::LogFormat;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::path::PathBuf;

/// Flatten it into a server's own arguments with `#[command(flatten)]` and `#[serde(flatten)]`.
/// Serialised, it is an override of `log: LogSettings` for `settings::load`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonArgs {
    /// Settings file (.toml, .yaml or .json)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How log lines look [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged, for example info,rangedb_storage_node=debug
    #[arg(long, value_name = "DIRECTIVES")]
    pub log_filter: Option<String>,

    /// Send traces to this OTLP/gRPC collector, for example http://127.0.0.1:4317
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

#[derive(Serialize)]
struct LogOverrides<'a> {
    format: Option<LogFormat>,
    filter: Option<&'a str>,
    otlp_endpoint: Option<&'a str>,
}

impl Serialize for CommonArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(
            "log",
            &LogOverrides {
                format: self.log_format,
                filter: self.log_filter.as_deref(),
                otlp_endpoint: self.otlp_endpoint.as_deref(),
            },
        )?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::LogSettings;
    use crate::settings;
    use clap::Parser;
    use serde::Deserialize;

    #[derive(Parser, Serialize)]
    struct Args {
        #[command(flatten)]
        #[serde(flatten)]
        common: CommonArgs,
        #[arg(long)]
        listen: Option<String>,
    }

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        listen: String,
        log: LogSettings,
    }

    #[test]
    fn flags_reach_the_log_settings() {
        let args = Args::parse_from(["x", "--log-format", "json", "--listen", "a:1"]);
        let settings: Settings = settings::load_from(None, Vec::new(), &args).unwrap();
        assert_eq!(settings.listen, "a:1");
        assert_eq!(settings.log, LogSettings { format: LogFormat::Json, ..LogSettings::default() });
    }

    #[test]
    fn flags_not_given_leave_the_environment_alone() {
        let args = Args::parse_from(["x"]);
        let environment = vec![("RANGEDB_LOG__FILTER".to_owned(), "debug".to_owned())];
        let settings: Settings = settings::load_from(None, environment, &args).unwrap();
        assert_eq!(settings.log.filter, "debug");
    }
}
