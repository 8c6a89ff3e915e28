//! What a measurement says. Owns: the form of the report. Must not know: how it was measured.

use super::load::{Load, Measured};
use super::{Api, LoadArguments, Peer};
use serde::Serialize;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Put,
    Get,
}

impl What {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// The figures, and what was run to get them.
#[derive(Debug, Serialize)]
pub struct Report {
    ops_per_second: f64,
    errors: u64,
    latency_us: LatencyJson,
    operations: u64,
    seconds: f64,
    command: &'static str,
    target: &'static str,
    api: &'static str,
    clients: usize,
    /// Connections or streams that the clients share.
    connections: u32,
    keys: u64,
    value_bytes: usize,
    endpoints: Vec<String>,
    /// CPU time of this process while it measured.
    client_cpu_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct LatencyJson {
    p50: u64,
    p95: u64,
    p99: u64,
    p999: u64,
    max: u64,
    mean: f64,
}

impl Report {
    pub(super) fn new(
        load: &Load,
        measured: &Measured,
        arguments: &LoadArguments,
        endpoints: &[String],
    ) -> Self {
        let seconds = load.measured.as_secs_f64();
        let operations = measured.latency.len();
        let at = |quantile| measured.latency.value_at_quantile(quantile);
        Self {
            ops_per_second: ((operations as f64 / seconds) * 10.0).round() / 10.0,
            errors: measured.errors,
            latency_us: LatencyJson {
                p50: at(0.5),
                p95: at(0.95),
                p99: at(0.99),
                p999: at(0.999),
                max: measured.latency.max(),
                mean: measured.latency.mean().round(),
            },
            operations,
            seconds,
            command: load.what.name(),
            target: match arguments.target {
                Peer::Rangedb => "rangedb",
                Peer::Etcd => "etcd",
            },
            api: arguments.api.name(),
            clients: load.clients,
            connections: match arguments.api {
                Api::Unary => arguments.channels,
                Api::Stream => arguments.streams,
            },
            keys: load.keys,
            value_bytes: load.value_bytes,
            endpoints: endpoints.to_vec(),
            client_cpu_seconds: measured.cpu_seconds.map(|cpu| (cpu * 100.0).round() / 100.0),
        }
    }

    pub fn text(&self) -> String {
        let latency = &self.latency_us;
        [
            format!(
                "{} {} over {}, {} clients on {} connections, {} keys, {} B values, {} s",
                self.target,
                self.command,
                self.api,
                self.clients,
                self.connections,
                self.keys,
                self.value_bytes,
                self.seconds
            ),
            format!("operations a second  {:.0}", self.ops_per_second),
            format!("errors               {}", self.errors),
            format!(
                "latency, µs          p50 {}  p95 {}  p99 {}  p999 {}  max {}",
                latency.p50, latency.p95, latency.p99, latency.p999, latency.max
            ),
        ]
        .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use crate::bench::{BenchArguments, Workload};
    use clap::Parser as _;
    use std::time::Duration;

    #[test]
    fn the_report_has_the_promised_fields() {
        let line = ["x", "bench", "get", "--seconds", "2", "--clients", "3", "--api", "stream"];
        let Command::Bench(BenchArguments { workload: Workload::Get(arguments) }) =
            Arguments::parse_from(line).command
        else {
            panic!("it is a get");
        };
        let load = Load {
            what: What::Get,
            clients: 3,
            keys: 4,
            fill: true,
            value_bytes: 5,
            warmup: Duration::from_secs(1),
            measured: arguments.seconds,
            timeout: Duration::from_secs(1),
        };
        let mut measured = Measured { errors: 1, ..Measured::default() };
        for value in 1..=1000 {
            measured.latency.record(value).unwrap();
        }
        let report = Report::new(&load, &measured, &arguments, &["h:1".to_owned()]);
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["ops_per_second"], 500.0);
        assert_eq!(json["errors"], 1);
        for (field, value) in [("p50", 500), ("p95", 950), ("p99", 990), ("max", 1000)] {
            assert_eq!(json["latency_us"][field], value, "{field}");
        }
        assert!(json["latency_us"]["p999"].is_u64());
        assert_eq!(json["api"], "stream");
        assert!(report.text().contains("p999"));
    }
}
