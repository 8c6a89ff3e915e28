//! Records as `KEY<tab>VALUE` lines with backslash escapes, the form that `range` prints. Owns:
//! the escapes. Invariant: a backslash that starts no known escape is refused, never guessed at.

use super::records::Record;
use bytes::Bytes;

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<Record, String> {
    let tab = line.iter().position(|&byte| byte == b'\t').ok_or("no tab between key and value")?;
    let (key, value) = (&line[..tab], &line[tab + 1..]);
    if value.contains(&b'\t') {
        return Err("more than one tab; write \\t for a tab in a value".to_owned());
    }
    Ok(Record { key: unescape(key)?, value: unescape(value)? })
}

fn unescape(text: &[u8]) -> Result<Bytes, String> {
    if !text.contains(&b'\\') {
        return Ok(Bytes::copy_from_slice(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'\\') => b'\\',
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(hex));
                match digits {
                    [Some(high), Some(low)] => high << 4 | low,
                    _ => return Err("\\x needs two hexadecimal digits".to_owned()),
                }
            }
            _ => return Err("a backslash begins \\\\, \\t, \\n, \\r or \\xHH".to_owned()),
        });
    }
    Ok(bytes.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::escape;

    #[test]
    fn what_range_prints_can_be_taken_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&all[..], b"plain", b"", "é\u{1f600}".as_bytes(), b"a\\tb\t\r\n"] {
            let line = format!("k\t{}", escape(bytes));
            assert!(!line.contains('\n'));
            assert_eq!(&parse(line.as_bytes()).unwrap().value[..], bytes);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in ["key", "a\tb\tc", "a\tb\\", "a\tb\\q", "a\tb\\x1", "a\tb\\xzz"] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
