//! Reads records from a file.
//!
//! Owns: the line reader and the choice of format. Must not know: where records go. Invariants: a
//! record is read whole or refused with the number of its first line; no line grows beyond
//! [`LINE_BYTES_MAX`] in memory.

use super::{deb822, json, tsv};
use bytes::Bytes;
use rangedb_types::limits;
use std::io::{BufRead, Read as _};
use std::path::Path;

/// The longest line: the largest value as JSON, with most of its bytes escaped.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// How records are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// JSON lines: {"key": …, "value": …}, or key_base64 and value_base64
    Json,
    /// KEY, a tab, VALUE; \t \n \r \\ and \xHH stand for what they stand for in `range` output
    Tsv,
    /// A Debian package index: /packages/NAME/VERSION, and the whole record as it stands
    Deb822,
}

impl Format {
    /// The format that a file's name tells.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "tsv" => Some(Self::Tsv),
            "deb822" => Some(Self::Deb822),
            _ => None,
        }
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Bytes,
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("line {line}: {why}")]
    Bad { line: u64, why: String },
    #[error("line {line}: cannot read: {source}")]
    Io { line: u64, source: std::io::Error },
}

/// Reads lines and counts them and their bytes.
pub struct Lines<R> {
    input: R,
    line: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub const fn new(input: R) -> Self {
        Self { input, line: 0, bytes: 0 }
    }

    /// The number of the line read last, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Bytes read so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn bad(&self, why: impl Into<String>) -> RecordError {
        RecordError::Bad { line: self.line, why: why.into() }
    }

    /// Appends the next line with its line feed, if it has one, to `buffer`; false at the end.
    pub fn append(&mut self, buffer: &mut Vec<u8>) -> Result<bool, RecordError> {
        let before = buffer.len();
        let limit = LINE_BYTES_MAX.saturating_sub(before) as u64 + 1;
        let io = |source| RecordError::Io { line: self.line + 1, source };
        let read = self.input.by_ref().take(limit).read_until(b'\n', buffer).map_err(io)?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        self.bytes += read as u64;
        if buffer.len() > LINE_BYTES_MAX {
            return Err(self.bad(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)));
        }
        Ok(true)
    }

    /// The next line without its end; `None` at the end.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, RecordError> {
        buffer.clear();
        if !self.append(buffer)? {
            return Ok(None);
        }
        if buffer.last() == Some(&b'\n') {
            buffer.pop();
            if buffer.last() == Some(&b'\r') {
                buffer.pop();
            }
        }
        Ok(Some(buffer.len()))
    }
}

/// Reads the records of one file in order.
pub struct Records<R> {
    lines: Lines<R>,
    format: Format,
    buffer: Vec<u8>,
}

impl<R: BufRead> Records<R> {
    pub const fn new(input: R, format: Format) -> Self {
        Self { lines: Lines::new(input), format, buffer: Vec::new() }
    }

    /// Bytes read so far, for a progress bar.
    pub const fn bytes(&self) -> u64 {
        self.lines.bytes()
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// A line that is no record, or a file that cannot be read.
    pub fn next(&mut self) -> Result<Option<Record>, RecordError> {
        let record = match self.format {
            Format::Deb822 => deb822::next(&mut self.lines, &mut self.buffer)?,
            Format::Json => self.next_line(json::parse)?,
            Format::Tsv => self.next_line(tsv::parse)?,
        };
        let Some(record) = record else { return Ok(None) };
        // Found here, a mistake has a line number.
        limits::check_key(&record.key)
            .and_then(|()| limits::check_value(&record.value))
            .map_err(|error| self.lines.bad(error.to_string()))?;
        Ok(Some(record))
    }

    /// One record a line; empty lines are passed over.
    fn next_line(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Record, String>,
    ) -> Result<Option<Record>, RecordError> {
        while let Some(length) = self.lines.next(&mut self.buffer)? {
            if length > 0 {
                return parse(&self.buffer).map(Some).map_err(|why| self.lines.bad(why));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, text: &[u8]) -> (Vec<(String, String)>, Option<String>) {
        let mut records = Records::new(text, format);
        let mut found = Vec::new();
        loop {
            match records.next() {
                Ok(Some(record)) => found.push((
                    String::from_utf8(record.key.to_vec()).unwrap(),
                    String::from_utf8(record.value.to_vec()).unwrap(),
                )),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_bad_line_is_named_and_what_came_before_is_kept() {
        let (found, error) = read(Format::Tsv, b"a\t1\n\nb\t2\r\nbroken\nc\t3\n");
        assert_eq!(found, [pair("a", "1"), pair("b", "2")]);
        assert!(error.unwrap().starts_with("line 4: "));
        let (found, error) = read(Format::Json, b"{\"key\":\"a\",\"value\":\"1\"}\n{\n");
        assert_eq!(found, [pair("a", "1")]);
        assert!(error.unwrap().starts_with("line 2: "));
    }

    #[test]
    fn a_last_line_needs_no_line_feed() {
        assert_eq!(read(Format::Tsv, b"a\t1").0, [pair("a", "1")]);
        assert_eq!(read(Format::Tsv, b""), (Vec::new(), None));
    }

    #[test]
    fn keys_that_would_be_refused_are_found_before_they_are_sent() {
        for line in [&b"\tv\n"[..], b"_/x\tv\n", &[&[b'k'; 9000][..], b"\tv\n"].concat()] {
            assert!(read(Format::Tsv, line).1.unwrap().starts_with("line 1: "));
        }
    }

    #[test]
    fn names_tell_formats() {
        let of = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(of("a.jsonl"), Some(Format::Json));
        assert_eq!(of("a.tsv"), Some(Format::Tsv));
        assert_eq!(of("Packages.deb822"), Some(Format::Deb822));
        assert_eq!(of("a.txt"), None);
        assert_eq!(of("-"), None);
    }
}
