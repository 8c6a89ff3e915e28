//! The runtime settings of a cluster: what there is, what is allowed, what it means.
//!
//! The parsers are here and nowhere else: a replayed log must accept and refuse the same values for
//! ever, whatever the rest of the workspace does with sizes and durations.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many copies of a range there are to be.
pub const REPLICATION_FACTOR: &str = "replication_factor";
/// How long a silent node keeps its replicas before they are rebuilt elsewhere.
pub const NODE_DEAD_AFTER: &str = "node_dead_after";
/// The size above which a range is split.
pub const RANGE_SPLIT_SIZE: &str = "range_split_size";
/// The size below which neighbouring ranges are merged.
pub const RANGE_MERGE_SIZE: &str = "range_merge_size";

/// Requests a second above which a range is split.
pub const RANGE_SPLIT_REQUESTS: &str = "range_split_requests_per_second";
/// Bytes written a second above which a range is split.
pub const RANGE_SPLIT_BYTES: &str = "range_split_bytes_per_second";
/// New replicas that one node may send or receive at the same time.
pub const REPLICA_MOVES: &str = "replica_moves_per_node";

/// How long versions are kept after they were replaced.
pub const GC_RETENTION: &str = "gc_retention";
/// How long a transaction may take.
pub const TRANSACTION_LIFETIME: &str = "transaction_lifetime_max";

enum Kind {
    Integer { min: u64, max: u64 },
    Period { min: Duration, max: Duration },
    Bytes { min: u64, max: u64 },
}

struct Setting {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    description: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: GC_RETENTION,
        default: "10m",
        kind: Kind::Period { min: Duration::from_secs(10), max: Duration::from_secs(30 * 86_400) },
        description: "how long versions are kept after they were replaced or deleted; 10s to 720h",
    },
    Setting {
        name: NODE_DEAD_AFTER,
        default: "5m",
        kind: Kind::Period { min: Duration::from_secs(1), max: Duration::from_secs(86_400) },
        description: "how long a silent node keeps its replicas before they are rebuilt elsewhere; 1s to 24h",
    },
    Setting {
        name: RANGE_MERGE_SIZE,
        default: "64MiB",
        kind: Kind::Bytes { min: 0, max: 8 << 30 },
        description: "neighbouring ranges below this size are merged; 0B to 8GiB, at most half of range_split_size",
    },
    Setting {
        name: RANGE_SPLIT_BYTES,
        default: "16MiB",
        kind: Kind::Bytes { min: 0, max: 16 << 30 },
        description: "ranges with more bytes written a second are split where that halves the load; 0B (never) to 16GiB",
    },
    Setting {
        name: RANGE_SPLIT_REQUESTS,
        default: "25000",
        kind: Kind::Integer { min: 0, max: 10_000_000 },
        description: "ranges with more requests a second are split where that halves the load; 0 (never) to 10000000",
    },
    Setting {
        name: RANGE_SPLIT_SIZE,
        default: "256MiB",
        kind: Kind::Bytes { min: 1 << 20, max: 16 << 30 },
        description: "ranges above this size are split; 1MiB to 16GiB",
    },
    Setting {
        name: REPLICA_MOVES,
        default: "4",
        kind: Kind::Integer { min: 1, max: 64 },
        description: "how many new replicas one node may send or receive at the same time; 1 to 64",
    },
    Setting {
        name: REPLICATION_FACTOR,
        default: "3",
        kind: Kind::Integer { min: 1, max: 9 },
        description: "how many copies of each range there are to be; 1 to 9, better odd",
    },
    Setting {
        name: TRANSACTION_LIFETIME,
        default: "10m",
        kind: Kind::Period { min: Duration::from_secs(10), max: Duration::from_secs(86_400) },
        description: "how long a transaction may take; versions are kept at least as long; 10s to 24h",
    },
];

/// A setting as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingView {
    pub name: String,
    pub value: String,
    /// Metadata revision of its last change; 0 while it has its default.
    pub version: u64,
    pub default_value: String,
    pub description: String,
    /// Not empty if the value is allowed and unwise.
    pub warning: String,
}

/// Names of all settings, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name)
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The value a setting has until it is changed.
#[must_use]
pub fn default_of(name: &str) -> Option<&'static str> {
    find(name).map(|setting| setting.default)
}

/// Why this value is not allowed; `None` if it is. The setting must exist.
pub(super) fn refusal(name: &str, value: &str) -> Option<String> {
    let setting = find(name)?;
    let allowed = match setting.kind {
        Kind::Integer { min, max } => {
            parse_integer(value).map(|number| (min..=max).contains(&number))
        }
        Kind::Period { min, max } => {
            parse_period(value).map(|period| (min..=max).contains(&period))
        }
        Kind::Bytes { min, max } => parse_bytes(value).map(|bytes| (min..=max).contains(&bytes)),
    };
    match (allowed, &setting.kind) {
        (Some(true), _) => None,
        (Some(false), _) => Some(format!("out of bounds ({})", setting.description)),
        (None, Kind::Integer { .. }) => Some("expected a whole number".to_owned()),
        (None, Kind::Period { .. }) => Some("expected a duration such as 90s, 5m or 1h".to_owned()),
        (None, Kind::Bytes { .. }) => Some("expected a size such as 64MiB or 1GiB".to_owned()),
    }
}

/// What is unwise about an allowed value; empty if nothing is.
fn warning(name: &str, value: &str) -> String {
    if name == REPLICATION_FACTOR
        && let Some(factor) = parse_integer(value)
    {
        if factor == 1 {
            return "one copy: a node that is lost takes its data along".to_owned();
        }
        if factor.is_multiple_of(2) {
            return format!(
                "an even number of copies survives no more failures than {}, and costs one copy more",
                factor - 1
            );
        }
    }
    String::new()
}

/// The view of a setting; `stored` is its changed value with the revision of the change.
pub(super) fn view(name: &str, stored: Option<(&str, u64)>) -> Option<SettingView> {
    let setting = find(name)?;
    let (value, version) = stored.unwrap_or((setting.default, 0));
    Some(SettingView {
        name: name.to_owned(),
        value: value.to_owned(),
        version,
        default_value: setting.default.to_owned(),
        description: setting.description.to_owned(),
        warning: warning(name, value),
    })
}

/// A whole number.
#[must_use]
pub fn parse_integer(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A number with `ms`, `s`, `m`, `h` or `d`.
#[must_use]
pub fn parse_period(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// A number with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit_bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_wise() {
        for name in names() {
            let default = default_of(name).unwrap();
            assert_eq!(refusal(name, default), None, "{name}");
            assert_eq!(warning(name, default), "", "{name}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_a_reason() {
        assert!(refusal(REPLICATION_FACTOR, "0").unwrap().contains("1 to 9"));
        assert!(refusal(REPLICATION_FACTOR, "-3").unwrap().contains("whole number"));
        assert!(refusal(REPLICATION_FACTOR, "").is_some());
        assert!(refusal(NODE_DEAD_AFTER, "5").unwrap().contains("duration"));
        assert!(refusal(NODE_DEAD_AFTER, "999ms").unwrap().contains("out of bounds"));
        assert!(refusal(REPLICA_MOVES, "0").unwrap().contains("1 to 64"));
        assert!(refusal(RANGE_SPLIT_SIZE, "99999999999GiB").unwrap().contains("size"));
        assert_eq!(refusal(RANGE_SPLIT_REQUESTS, "0"), None);
        assert_eq!(refusal(RANGE_SPLIT_BYTES, "0B"), None);
    }

    #[test]
    fn an_even_replication_factor_is_allowed_with_a_warning() {
        assert_eq!(refusal(REPLICATION_FACTOR, "4"), None);
        assert!(view(REPLICATION_FACTOR, Some(("4", 7))).unwrap().warning.contains("than 3"));
    }

    #[test]
    fn units() {
        assert_eq!(parse_period("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_period("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_bytes("3KiB"), Some(3072));
        assert_eq!(parse_bytes("3"), None);
    }
}
