//! Records of a Debian package index (`apt-cache dumpavail`, `Packages`): paragraphs of
//! `Field: value` lines, separated by empty lines.
//!
//! Owns: the key of a paragraph, `/packages/NAME/VERSION`. Invariant: the value is the paragraph's
//! own bytes, line feeds included, without the empty line that ends it.

use super::records::{Lines, Record, RecordError};
use bytes::Bytes;
use std::io::BufRead;

/// Reads one paragraph.
pub fn next<R: BufRead>(
    lines: &mut Lines<R>,
    buffer: &mut Vec<u8>,
) -> Result<Option<Record>, RecordError> {
    buffer.clear();
    let (mut name, mut version) = (None, None);
    let mut first_line = 0;
    loop {
        let start = buffer.len();
        if !lines.append(buffer)? || buffer[start..].trim_ascii().is_empty() {
            let ended = buffer.len() == start;
            buffer.truncate(start);
            match (start, ended) {
                (0, true) => return Ok(None),
                (0, false) => continue,
                _ => break,
            }
        }
        if start == 0 {
            first_line = lines.line();
        }
        let line = &buffer[start..];
        for (field, place) in [(&b"Package:"[..], &mut name), (b"Version:", &mut version)] {
            if let Some(value) = line.strip_prefix(field) {
                *place = Some(value.trim_ascii().to_vec());
            }
        }
    }
    let (Some(name), Some(version)) = (name, version) else {
        let why = "a paragraph without Package or Version".to_owned();
        return Err(RecordError::Bad { line: first_line, why });
    };
    let key = [&b"/packages/"[..], &name, b"/", &version].concat();
    Ok(Some(Record { key: key.into(), value: Bytes::copy_from_slice(buffer) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<(String, String)>, RecordError> {
        let mut lines = Lines::new(text.as_bytes());
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        while let Some(record) = next(&mut lines, &mut buffer)? {
            found.push((
                String::from_utf8(record.key.to_vec()).unwrap(),
                String::from_utf8(record.value.to_vec()).unwrap(),
            ));
        }
        Ok(found)
    }

    #[test]
    fn paragraphs_keep_their_bytes() {
        let first = "Package: a\nVersion: 1:2~x\nDescription: long\n text: Package: b\n .\n";
        let second = "Version: 3\nPackage: b";
        let found = all(&format!("\n{first}\n\n{second}")).unwrap();
        assert_eq!(
            found,
            [
                ("/packages/a/1:2~x".to_owned(), first.to_owned()),
                ("/packages/b/3".to_owned(), second.to_owned()),
            ]
        );
        assert!(all("").unwrap().is_empty());
        assert!(all("\n\n").unwrap().is_empty());
    }

    #[test]
    fn a_paragraph_without_a_name_is_refused_with_its_line() {
        let error = all("Package: a\nVersion: 1\n\nVersion: 2\nX: y\n").unwrap_err();
        assert!(error.to_string().starts_with("line 4: "), "{error}");
    }
}
