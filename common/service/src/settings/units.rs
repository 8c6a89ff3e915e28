//! Sizes and times with their units written out. Owns: their text form. Must not know: settings.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Text that is no size or no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("`{0}` is not a size; write for example 64KiB, 96MiB or 1GiB")]
    Size(String),
    #[error("`{0}` is not a time; write for example 500ms, 10s or 5m")]
    Time(String),
}

/// A size in bytes, written `96MiB`, `64KiB`, `1GiB`, `1500B` or as a plain number of bytes.
/// Decimal units (`kB`, `MB`, `GB`) are accepted too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Longest unit first, so that a suffix is not taken for a shorter one.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most what this machine can address.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError::Size(text.to_owned());
        let trimmed = text.trim();
        let (number, unit) = SIZE_UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((trimmed.strip_suffix(suffix)?, *unit)))
            .unwrap_or((trimmed, 1));
        let number: u64 = number.trim().parse().map_err(|_| refused())?;
        number.checked_mul(unit).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Binary units only, and only where nothing is lost.
        let (suffix, unit) = SIZE_UNITS[..4]
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
            .copied()
            .unwrap_or(("B", 1));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 96MiB")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bytes, E> {
                Ok(Bytes(number))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bytes, E> {
                u64::try_from(number)
                    .map(Bytes)
                    .map_err(|_| E::custom(UnitError::Size(number.to_string())))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A length of time, written with its unit: `500ms`, `10s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

impl Period {
    /// The time as the standard library has it.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| UnitError::Time(text.to_owned()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time with its unit, such as 10s")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// For fields of type `Vec<String>`: accepts a list, or one text with commas, as flags and
/// environment variables have it. Use with `#[serde(deserialize_with = "settings::comma_list")]`.
///
/// # Errors
/// Those of the deserializer.
pub fn comma_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ListOrText {
        List(Vec<String>),
        Text(String),
    }
    let items = match ListOrText::deserialize(deserializer)? {
        ListOrText::List(items) => items,
        ListOrText::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    let trimmed = items.iter().map(|item| item.trim().to_owned());
    Ok(trimmed.filter(|item| !item.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_text() {
        for (text, bytes) in [
            ("96MiB", 96 << 20),
            ("64KiB", 64 << 10),
            ("1GiB", 1 << 30),
            ("1500B", 1500),
            ("0B", 0),
            ("2TiB", 2 << 40),
        ] {
            let size: Bytes = text.parse().unwrap();
            assert_eq!(size, Bytes(bytes));
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("1500".parse(), Ok(Bytes(1500)));
        assert_eq!("2 MB".parse(), Ok(Bytes(2_000_000)));
    }

    #[test]
    fn nonsense_sizes_are_refused_with_an_example() {
        for text in ["", "MiB", "-1MiB", "1.5GiB", "12 parsecs", "99999999999TiB"] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.to_string().contains("96MiB"), "{error}");
        }
    }

    #[test]
    fn times_survive_text() {
        for (text, millis) in [("10s", 10_000), ("500ms", 500), ("5m", 300_000)] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period, Period(Duration::from_millis(millis)));
            assert_eq!(period.to_string(), text);
        }
    }

    #[test]
    fn a_time_without_unit_is_refused() {
        assert!("10".parse::<Period>().is_err());
        assert!(serde_json::from_str::<Period>("10").is_err());
        assert_eq!(serde_json::from_str::<Period>("\"10s\"").unwrap().0, Duration::from_secs(10));
    }

    #[test]
    fn a_size_may_be_a_number_in_a_file() {
        assert_eq!(serde_json::from_str::<Bytes>("4096").unwrap(), Bytes(4096));
        assert!(serde_json::from_str::<Bytes>("-1").is_err());
    }

    #[test]
    fn lists_may_be_one_text() {
        #[derive(Deserialize)]
        struct Holder {
            #[serde(deserialize_with = "comma_list")]
            list: Vec<String>,
        }
        let one: Holder = serde_json::from_str(r#"{"list":"a:1, b:2,"}"#).unwrap();
        let two: Holder = serde_json::from_str(r#"{"list":["a:1","b:2"]}"#).unwrap();
        assert_eq!(one.list, ["a:1", "b:2"]);
        assert_eq!(one.list, two.list);
    }
}
