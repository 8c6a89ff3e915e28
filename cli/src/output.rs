//! What stands on stdout: values as lines or tables for people, JSON for scripts.
//!
//! Owns: the form of values. Must not know: where they come from. Invariants: words never go to
//! stdout; a reader that closed the pipe early is no failure.

use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use std::io::{self, BufWriter, StdoutLock, Write};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document, or one a line for streams.
    Json,
}

/// Stdout, buffered; `finish` must be called at the end.
pub struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Default for Output {
    fn default() -> Self {
        Self { stdout: BufWriter::new(io::stdout().lock()) }
    }
}

impl Output {
    /// One JSON document on a line.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        self.stdout.write_all(b"\n")?;
        Ok(())
    }

    /// Bytes as they are, and an end of line.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn line(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(bytes)?;
        self.stdout.write_all(b"\n")?;
        Ok(())
    }

    /// Shows what was written so far.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}

/// Writes one document: JSON, or what `table` makes of it.
///
/// # Errors
/// Stdout cannot be written.
pub fn print<T: Serialize>(
    format: OutputFormat,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let mut output = Output::default();
    match format {
        OutputFormat::Json => output.json(value)?,
        OutputFormat::Table => output.line(table(value).as_bytes())?,
    }
    output.flush()
}

/// Rows under a head line, aligned, without rulers.
#[must_use]
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Bytes as two JSON fields of which one is set: text where it is valid UTF-8, else base64.
#[must_use]
pub fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

/// Bytes on one line that a person can read and `import --format tsv` can take back: a backslash,
/// control characters and bytes that are no UTF-8 are escaped.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\t' => line.push_str("\\t"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                control if control.is_ascii_control() => {
                    line.push_str(&format!("\\x{:02x}", u32::from(control)));
                }
                plain => line.push(plain),
            }
        }
        for byte in chunk.invalid() {
            line.push_str(&format!("\\x{byte:02x}"));
        }
    }
    line
}

/// An entry of the database as JSON.
#[derive(Debug, Serialize)]
pub struct EntryJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    version: String,
}

impl EntryJson {
    /// Without a value for keys-only reads.
    #[must_use]
    pub fn new(key: &[u8], value: Option<&[u8]>, version: u64) -> Self {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = value.map_or((None, None), text_or_base64);
        Self { key, key_base64, value, value_base64, version: version.to_string() }
    }
}

/// The version of a write as JSON.
#[derive(Debug, Serialize)]
pub struct VersionJson {
    pub version: String,
}

impl VersionJson {
    #[must_use]
    pub fn new(version: u64) -> Self {
        Self { version: version.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_text_where_they_can_be() {
        let json = |key: &[u8], value| {
            serde_json::to_string(&EntryJson::new(key, value, 1 << 60)).unwrap()
        };
        assert_eq!(
            json(b"k", Some(b"v")),
            r#"{"key":"k","value":"v","version":"1152921504606846976"}"#
        );
        assert_eq!(
            json(b"\xff", Some(b"\xfe\n")),
            r#"{"key_base64":"/w==","value_base64":"/go=","version":"1152921504606846976"}"#
        );
        assert_eq!(json(b"k", None), r#"{"key":"k","version":"1152921504606846976"}"#);
        assert_eq!(serde_json::to_string(&VersionJson::new(7)).unwrap(), r#"{"version":"7"}"#);
    }

    #[test]
    fn lines_are_escaped() {
        assert_eq!(escape("a\tb\\\né\x01".as_bytes()), "a\\tb\\\\\\né\\x01");
        assert_eq!(escape(b"\xff\x80x"), "\\xff\\x80x");
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(&["a", "long name"], [vec!["1".into(), "2".into()]]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
