//! Records as JSON lines, the form that `range --output json` prints. Owns: their fields.

use super::records::Record;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    /// Printed by `range`; the cluster that imports gives its own.
    #[serde(rename = "version")]
    _version: Option<serde::de::IgnoredAny>,
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<Record, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // The line number inside this one line only confuses.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        format!("not a record: {text} (column {})", error.column())
    })?;
    Ok(Record {
        key: one("key", line.key, line.key_base64)?,
        value: one("value", line.value, line.value_base64)?,
    })
}

fn one(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => BASE64
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| format!("{name}_base64 is no base64: {error}")),
        (None, None) => Err(format!("no `{name}` and no `{name}_base64`")),
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_base64() {
        let record = parse(br#"{"key":"\u00e9","value_base64":"/wA=","version":"7"}"#).unwrap();
        assert_eq!(&record.key[..], "é".as_bytes());
        assert_eq!(&record.value[..], b"\xff\0");
        let empty = parse(br#"{"key":"k","value":""}"#).unwrap();
        assert!(empty.value.is_empty());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"key":"k"}"#,
            r#"{"value":"v"}"#,
            r#"{"key":"k","key_base64":"aw==","value":"v"}"#,
            r#"{"key":"k","value_base64":"!"}"#,
            r#"{"key":"k","value":1}"#,
            r#"{"key":"k","vlaue":"v"}"#,
            r#"{"key":"k","value":"v"} x"#,
        ] {
            let why = parse(line.as_bytes()).unwrap_err();
            assert!(!why.contains(" at line "), "{why}");
        }
    }
}
