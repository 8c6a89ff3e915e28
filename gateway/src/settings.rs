//! The gateway's settings and their defaults.

use rangedb_service::logging::LogSettings;
use rangedb_service::settings::{Bytes, Period, comma_list};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything an operator can set. Flags, environment (`RANGEDB_…`), file and these defaults, in
/// that order of precedence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where gRPC is served.
    pub listen: String,
    /// Where metrics and health are served over HTTP.
    pub http_listen: String,
    /// What clients dial, where it is not what is listened on.
    pub advertise: Option<String>,
    /// Members of placement, `HOST:PORT`.
    #[serde(deserialize_with = "comma_list")]
    pub placement: Vec<String>,
    /// Time of a call that names no deadline.
    pub request_timeout: Period,
    /// Time of one attempt at a node; shorter than a call, so that a node that hangs leaves time
    /// for another one.
    pub attempt_timeout: Period,
    /// Silence of a node, while answers are due, after which its stream is opened anew.
    pub stall_timeout: Period,
    /// Streams to each storage node.
    pub links_per_node: usize,
    /// Requests queued for or sent to one node, a stream; more are refused as overload.
    pub link_requests_max: usize,
    /// Bytes queued for one node, a stream; more are refused as overload.
    pub link_bytes_max: Bytes,
    /// Operations of one Pipeline stream that are under way; more wait in the client's stream.
    pub pipeline_operations_max: usize,
    /// Bytes of operations and results that one Pipeline stream holds before it reads no more.
    pub pipeline_bytes_max: Bytes,
    /// Ranges whose routes are remembered.
    pub routes_max: usize,
    /// Size of a page of a range read.
    pub page_bytes: Bytes,
    /// Threads that serve the network; 0 means half of the machine's processors.
    pub async_threads: usize,
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8081".to_owned(),
            http_listen: "127.0.0.1:8080".to_owned(),
            advertise: None,
            placement: vec!["127.0.0.1:8281".to_owned()],
            request_timeout: Period(Duration::from_secs(5)),
            attempt_timeout: Period(Duration::from_secs(2)),
            stall_timeout: Period(Duration::from_millis(1500)),
            links_per_node: 1,
            link_requests_max: 65_536,
            link_bytes_max: Bytes(64 << 20),
            pipeline_operations_max: 4096,
            pipeline_bytes_max: Bytes(32 << 20),
            routes_max: 100_000,
            page_bytes: Bytes(1 << 20),
            async_threads: 0,
            log: LogSettings::default(),
        }
    }
}

/// A setting that cannot be served with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{name}`: {problem}")]
pub struct InvalidSetting {
    pub name: &'static str,
    pub problem: String,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first setting that is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let refuse =
            |name, problem: &str| Err(InvalidSetting { name, problem: problem.to_owned() });
        if self.placement.is_empty() {
            return refuse("placement", "no address; give --placement HOST:PORT,…");
        }
        for address in &self.placement {
            if let Err(error) = rangedb_service::grpc::endpoint(address) {
                return refuse("placement", &error.to_string());
            }
        }
        if let Some(address) = &self.advertise
            && let Err(error) = rangedb_service::grpc::endpoint(address)
        {
            return refuse("advertise", &error.to_string());
        }
        for (name, period) in [
            ("request_timeout", self.request_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("stall_timeout", self.stall_timeout),
        ] {
            if period.get().is_zero() {
                return refuse(name, "must be longer than nothing, for example 5s");
            }
        }
        for (name, count) in [
            ("links_per_node", self.links_per_node),
            ("link_requests_max", self.link_requests_max),
            ("link_bytes_max", self.link_bytes_max.as_usize()),
            ("pipeline_operations_max", self.pipeline_operations_max),
            ("pipeline_bytes_max", self.pipeline_bytes_max.as_usize()),
            ("routes_max", self.routes_max),
            ("page_bytes", self.page_bytes.as_usize()),
        ] {
            if count == 0 {
                return refuse(name, "must be at least 1");
            }
        }
        if self.page_bytes.as_usize() > rangedb_types::limits::PAGE_BYTES_MAX {
            return refuse("page_bytes", "at most 4MiB");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_wrong_values_are_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let none = Settings { placement: Vec::new(), ..Settings::default() };
        assert_eq!(none.check().unwrap_err().name, "placement");
        let bad = Settings { placement: vec!["nowhere".into()], ..Settings::default() };
        assert_eq!(bad.check().unwrap_err().name, "placement");
        let zero = Settings { links_per_node: 0, ..Settings::default() };
        assert_eq!(zero.check().unwrap_err().name, "links_per_node");
        let page = Settings { page_bytes: Bytes(8 << 20), ..Settings::default() };
        assert_eq!(page.check().unwrap_err().name, "page_bytes");
    }
}
