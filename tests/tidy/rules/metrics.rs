//! Metric names: `rangedb_<component>_<thing>_<unit>`, in base units. Owns: the form. Must not
//! know: what is measured. A gauge that counts things has no unit (`rangedb_gateway_streams`).

use super::Finding;
use crate::source::Source;

/// The processes, the parts of a storage node that have metrics of their own, and shared parts.
const COMPONENTS: [&str; 14] = [
    "placement",
    "planner",
    "node",
    "store",
    "engine",
    "raft",
    "snapshot",
    "transport",
    "gateway",
    "client",
    "cli",
    "process",
    "grpc",
    "http",
];
/// Units that are not base units: seconds, bytes and ratios are.
const WRONG_UNITS: [&str; 19] = [
    "ms",
    "millis",
    "milliseconds",
    "us",
    "micros",
    "microseconds",
    "ns",
    "nanos",
    "nanoseconds",
    "sec",
    "secs",
    "second",
    "minutes",
    "hours",
    "kb",
    "mb",
    "kib",
    "mib",
    "percent",
];
/// Endings that the exposition format gives to the parts of histograms.
const RESERVED_ENDINGS: [&str; 2] = ["_sum", "_bucket"];
/// What makes a metric from the first text that follows. In the order longest first.
const MAKERS: [(&str, Kind); 10] = [
    ("register_int_counter", Kind::Counter),
    ("register_counter", Kind::Counter),
    ("register_int_gauge", Kind::Other),
    ("register_gauge", Kind::Other),
    ("register_histogram", Kind::Other),
    ("IntCounter::new", Kind::Counter),
    ("Counter::new", Kind::Counter),
    ("IntGauge::new", Kind::Other),
    ("Gauge::new", Kind::Other),
    ("HistogramOpts::new", Kind::Other),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Other,
    /// Made by some helper: only the name can be judged.
    Unknown,
}

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for literal in &source.literals {
        if source.is_test(literal.line) {
            continue;
        }
        let kind = maker(source, literal.offset);
        let looks_like_one = literal.text.starts_with("rangedb_") && !is_crate(&literal.text);
        let plain = literal.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if (kind == Kind::Unknown && !looks_like_one) || !plain {
            continue;
        }
        if let Some(what) = complaint(&literal.text, kind) {
            let what = format!("metric {}: {what}", literal.text);
            findings.push(Finding::new(&source.path, literal.line, what));
        }
    }
    findings
}

/// What stands just before the literal: `IntCounter::new(`, `register_int_counter_vec!(` …
fn maker(source: &Source, offset: usize) -> Kind {
    let before = source.code[..offset].trim_end();
    let Some(before) = before.strip_suffix('(') else { return Kind::Unknown };
    let before = before.trim_end().trim_end_matches('!');
    let before = before.strip_suffix("_vec").unwrap_or(before);
    let made = MAKERS.iter().find(|(name, _)| before.ends_with(name));
    made.map_or(Kind::Unknown, |(_, kind)| *kind)
}

/// `rangedb_storage_node` in a log filter is a crate, not a metric.
fn is_crate(name: &str) -> bool {
    const CRATES: [&str; 14] = [
        "proto",
        "types",
        "service",
        "placement_client",
        "placement",
        "planner",
        "storage_node",
        "engine",
        "mvcc",
        "gateway",
        "client",
        "cli",
        "tests",
        "",
    ];
    name.strip_prefix("rangedb_").is_some_and(|rest| CRATES.contains(&rest))
}

fn complaint(name: &str, kind: Kind) -> Option<String> {
    let Some(rest) = name.strip_prefix("rangedb_") else {
        return Some("its name must begin with rangedb_".to_owned());
    };
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("small letters only".to_owned());
    }
    let words: Vec<&str> = rest.split('_').collect();
    if words.len() < 2 || words.contains(&"") || !COMPONENTS.contains(&words[0]) {
        return Some(format!(
            "the second word must be a component ({}), and a thing must follow",
            COMPONENTS.join(", ")
        ));
    }
    let counter = words.last() == Some(&"total");
    match kind {
        Kind::Counter if !counter => return Some("a counter ends in _total".to_owned()),
        Kind::Other if counter => return Some("only a counter ends in _total".to_owned()),
        _ => {}
    }
    let unit = words[words.len() - 1 - usize::from(counter)];
    if WRONG_UNITS.contains(&unit) {
        return Some(format!("{unit} is no base unit: use seconds, bytes or a ratio"));
    }
    let reserved = RESERVED_ENDINGS.iter().find(|ending| name.ends_with(*ending));
    reserved.map(|ending| format!("{ending} belongs to the parts of histograms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(code: &str) -> Vec<String> {
        check(&Source::new("gateway/src/metrics.rs", code))
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn good_names_pass() {
        for code in [
            "register_int_counter!(\"rangedb_gateway_requests_total\", \"x\")",
            "register_int_counter_vec!(\n    \"rangedb_node_log_bytes_total\", \"x\", &[\"kind\"])",
            "HistogramOpts::new(\"rangedb_node_sync_duration_seconds\", \"x\")",
            "IntGauge::new(\"rangedb_placement_ranges\", \"x\")",
            "filter(\"rangedb_storage_node=debug\")",
            "filter(\"rangedb_storage_node\")",
        ] {
            assert!(complaints(code).is_empty(), "{code}: {:?}", complaints(code));
        }
    }

    #[test]
    fn bad_names_are_found() {
        for (code, words) in [
            ("register_int_counter!(\"requests_total\", \"x\")", "begin with rangedb_"),
            ("register_int_counter!(\"rangedb_gateway_requests\", \"x\")", "ends in _total"),
            ("IntGauge::new(\"rangedb_gateway_streams_total\", \"x\")", "only a counter"),
            ("gauge(\"rangedb_gateway_delay_ms\", \"x\")", "no base unit"),
            ("counter(\"rangedb_gateway_wait_millis_total\", \"x\")", "no base unit"),
            ("gauge(\"rangedb_requests_waiting\", \"x\")", "must be a component"),
            ("gauge(\"rangedb_node__x\", \"x\")", "must be a component"),
            ("gauge(\"rangedb_node_Raft_groups\", \"x\")", "small letters"),
            ("gauge(\"rangedb_node_streams_sum\", \"x\")", "histograms"),
        ] {
            let found = complaints(code);
            assert!(found.len() == 1 && found[0].contains(words), "{code}: {found:?}");
        }
    }
}
