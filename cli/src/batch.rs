//! `batch`: many writes, of which all come about or none.
//!
//! Owns: their arguments, the lines of `batch apply`. Must not know: how they are committed.

use crate::arguments::Options;
use crate::data::{Coding, client, print_version};
use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct BatchArguments {
    #[command(subcommand)]
    command: BatchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BatchCommand {
    /// Write keys
    Put {
        #[arg(required = true, num_args = 2.., value_names = ["KEY", "VALUE"])]
        pairs: Vec<OsString>,
        #[command(flatten)]
        coding: Coding,
    },
    /// Remove keys
    Delete {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<OsString>,
        #[command(flatten)]
        coding: Coding,
    },
    /// What a file says, a JSON object a line: {"op":"put","key":"k","value":"v"} or
    /// {"op":"delete","key":"k"}; for other bytes key_base64 and value_base64
    Apply {
        /// - is stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

type Write = (Bytes, Option<Bytes>);

pub async fn run(arguments: BatchArguments, options: &Options) -> Result<(), Failure> {
    let writes = match arguments.command {
        BatchCommand::Put { pairs, coding } => puts(pairs, coding)?,
        BatchCommand::Delete { keys, coding } => keys
            .into_iter()
            .map(|key| Ok((coding.bytes(key)?, None)))
            .collect::<Result<_, Failure>>()?,
        BatchCommand::Apply { file } => read(file).await?,
    };
    check_twice(&writes, "argument")?;
    let version = client(options).await?.batch(writes).await?;
    print_version(options, version)
}

fn puts(pairs: Vec<OsString>, coding: Coding) -> Result<Vec<Write>, Failure> {
    if !pairs.len().is_multiple_of(2) {
        return Err(Failure::usage("the last key has no value; give KEY VALUE for each"));
    }
    let mut words = pairs.into_iter();
    let mut writes = Vec::new();
    while let Some((key, value)) = words.next().zip(words.next()) {
        writes.push((coding.bytes(key)?, Some(coding.bytes(value)?)));
    }
    Ok(writes)
}

/// The server would refuse it, too, but does not know where the second one stands.
fn check_twice(writes: &[Write], what: &str) -> Result<(), Failure> {
    let mut first = HashMap::new();
    for (at, (key, _)) in writes.iter().enumerate() {
        if let Some(before) = first.insert(key, at) {
            let (key, before, at) = (key.escape_ascii(), before + 1, at + 1);
            let words = format!("the key `{key}` is written twice, by {what} {before} and {at}");
            return Err(Failure::usage(words));
        }
    }
    Ok(())
}

async fn read(file: PathBuf) -> Result<Vec<Write>, Failure> {
    let read = move || -> Result<Vec<Write>, Failure> {
        if file.as_os_str() == "-" {
            return parse(std::io::stdin().lock());
        }
        let opened = std::fs::File::open(&file);
        let opened = opened
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
        parse(BufReader::new(opened))
    };
    let writes = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Failure::other(error.to_string()))??;
    check_twice(&writes, "write")?;
    Ok(writes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    op: Op,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Op {
    Put,
    Delete,
}

/// Reads all lines; an error names the line.
fn parse(lines: impl BufRead) -> Result<Vec<Write>, Failure> {
    let mut writes = Vec::new();
    for (at, line) in lines.lines().enumerate() {
        let wrong = |words: String| Failure::usage(format!("line {}: {words}", at + 1));
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        writes.push(write_of(&line).map_err(wrong)?);
    }
    if writes.is_empty() {
        return Err(Failure::usage("there is nothing to write"));
    }
    Ok(writes)
}

fn write_of(line: &str) -> Result<Write, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        format!("{text} (column {})", error.column())
    })?;
    let key = one("key", line.key, line.key_base64)?.ok_or("no `key` and no `key_base64`")?;
    let value = one("value", line.value, line.value_base64)?;
    match (line.op, value) {
        (Op::Put, Some(value)) => Ok((key, Some(value))),
        (Op::Put, None) => Err("a put without `value` or `value_base64`".to_owned()),
        (Op::Delete, None) => Ok((key, None)),
        (Op::Delete, Some(_)) => Err("a delete with a value".to_owned()),
    }
}

fn one(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64`")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(text)) => {
            let decoded = BASE64.decode(text).map(Bytes::from).map(Some);
            decoded.map_err(|error| format!("{name}_base64 is no base64: {error}"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Write>, String> {
        parse(text.as_bytes()).map_err(|failure| failure.message)
    }

    #[test]
    fn lines_say_what_to_write() {
        let text = r#"{"op":"put","key":"k","value":"v"}

{"op":"delete","key_base64":"/w=="}"#;
        let expected = vec![("k".into(), Some("v".into())), (Bytes::from_static(b"\xff"), None)];
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (line, words) in [
            (r#"{"op":"put","key":"k"}"#, "line 2: a put without `value`"),
            (r#"{"op":"delete","key":"k","value":"v"}"#, "line 2: a delete with a value"),
            (r#"{"op":"move","key":"k"}"#, "line 2: unknown variant"),
            (r#"{"op":"delete"}"#, "line 2: no `key`"),
            (r#"{"op":"delete","key":"k","key_base64":"aw=="}"#, "line 2: both `key`"),
            (r#"{"op":"delete","key_base64":"!"}"#, "line 2: key_base64 is no base64"),
            ("{", "line 2: EOF"),
        ] {
            let text = format!("{{\"op\":\"delete\",\"key\":\"a\"}}\n{line}\n");
            let found = parsed(&text).unwrap_err();
            assert!(found.starts_with(words), "{found}");
        }
        assert!(parsed("").is_err());
    }

    #[test]
    fn a_key_is_written_once() {
        let twice = vec![("k".into(), None), ("l".into(), None), ("k".into(), Some("v".into()))];
        let words = check_twice(&twice, "write").unwrap_err().message;
        assert!(words.contains("by write 1 and 3"), "{words}");
    }
}
