//! `put`, `get`, `delete`, `range`, and the connection they share with `import`.
//!
//! Owns: their arguments and output. Must not know: retries, failover (the SDK's).

use crate::arguments::{Options, timeout};
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{self, EntryJson, Output, OutputFormat, VersionJson, escape};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt as _;
use rangedb_client::{Client, Condition, Consistency, Entry, Pipeline, RangeQuery, Version};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Entries of a range read that are written out together.
const ENTRIES_PER_FLUSH: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct PutArguments {
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    key: OsString,
    #[arg(
        value_name = "VALUE",
        allow_negative_numbers = true,
        required_unless_present = "value_file",
        conflicts_with = "value_file"
    )]
    value: Option<OsString>,
    /// Take the value from this file, byte for byte; - is stdin
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the key's version is this one
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    if_version: Option<u64>,
    #[command(flatten)]
    coding: Coding,
}

#[derive(Debug, clap::Args)]
pub struct GetArguments {
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    key: OsString,
    /// As it was at this version
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    #[command(flatten)]
    freshness: Freshness,
    #[command(flatten)]
    coding: Coding,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArguments {
    #[arg(
        value_name = "KEY",
        allow_negative_numbers = true,
        required_unless_present = "range",
        conflicts_with = "range"
    )]
    key: Option<OsString>,
    /// Every key from START up to, and without, END; an empty END is unbounded
    #[arg(long, num_args = 2, value_names = ["START", "END"])]
    range: Vec<OsString>,
    /// Only if the key's version is this one
    #[arg(
        long,
        value_name = "VERSION",
        conflicts_with = "range",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    if_version: Option<u64>,
    #[command(flatten)]
    coding: Coding,
}

#[derive(Debug, clap::Args)]
pub struct RangeArguments {
    /// The first key
    #[arg(allow_negative_numbers = true)]
    start: OsString,
    /// The key after the last one; empty for no bound
    #[arg(allow_negative_numbers = true)]
    end: OsString,
    /// At most so many entries
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: Option<u32>,
    /// From the end to the start
    #[arg(long)]
    reverse: bool,
    /// Without values
    #[arg(long)]
    keys_only: bool,
    /// As it was at this version
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    #[command(flatten)]
    freshness: Freshness,
    #[command(flatten)]
    coding: Coding,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Freshness {
    /// As of at most so long ago, from any replica
    #[arg(long, value_name = "TIME", value_parser = timeout, conflicts_with_all = ["at", "follower"])]
    max_age: Option<Duration>,
    /// As fresh as ever, but from a replica that does not lead, if one can answer
    #[arg(long, conflicts_with = "at")]
    follower: bool,
}

impl Freshness {
    const fn consistency(self) -> Consistency {
        match self.max_age {
            Some(age) => Consistency::Stale(age),
            None if self.follower => Consistency::Follower,
            None => Consistency::Linearizable,
        }
    }
}

/// How keys and values stand on the command line.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Coding {
    /// Keys and values on the command line are base64
    #[arg(long)]
    base64: bool,
}

impl Coding {
    pub(crate) fn bytes(self, text: OsString) -> Result<Bytes, Failure> {
        let bytes = text.into_vec();
        if !self.base64 {
            return Ok(bytes.into());
        }
        BASE64
            .decode(bytes)
            .map(Bytes::from)
            .map_err(|error| Failure::usage(format!("an argument is no base64: {error}")))
    }
}

/// A client of the cluster, as the commands use it.
pub struct Database {
    client: Client,
    pipeline: Pipeline,
}

impl Database {
    /// Connects to the first gateway that answers.
    ///
    /// # Errors
    /// `Unavailable` if none does.
    pub async fn open(options: &Options) -> Result<Self, Failure> {
        let client = client(options).await?;
        Ok(Self { pipeline: client.pipeline(), client })
    }

    /// Writes one of many keys over an open stream.
    ///
    /// # Errors
    /// As the client's.
    pub async fn put_pipelined(&self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        self.pipeline.put(key, value).await?;
        Ok(())
    }

    /// Reads many keys, in their order.
    ///
    /// # Errors
    /// As the client's.
    pub async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, Failure> {
        let values = self.client.batch_get(keys).await?;
        Ok(values.into_iter().map(|value| value.map(|value| value.value)).collect())
    }
}

/// A client of the gateways that the options name.
pub(crate) async fn client(options: &Options) -> Result<Client, Failure> {
    let client_options =
        rangedb_client::Options { timeout: options.timeout(), ..Default::default() };
    let failure = match Client::connect_with(options.gateways(), client_options).await {
        Ok(client) => return Ok(client),
        Err(error) => Failure::from(error),
    };
    if failure.exit == Exit::Unavailable {
        // If not even a connection can be made, this has the better words.
        connect::any(options).await?;
    }
    Err(failure)
}

pub async fn put(arguments: PutArguments, options: &Options) -> Result<(), Failure> {
    let key = arguments.coding.bytes(arguments.key)?;
    let value = match (arguments.value, arguments.value_file) {
        (Some(value), _) => arguments.coding.bytes(value)?,
        (None, Some(path)) => read_value(path).await?,
        (None, None) => return Err(Failure::usage("give a value or --value-file")),
    };
    let client = client(options).await?;
    let version = match (arguments.if_absent, arguments.if_version) {
        (true, _) => client.put_if(key, value, Condition::Absent).await?,
        (false, Some(version)) => {
            client.put_if(key, value, Condition::VersionIs(Version(version))).await?
        }
        (false, None) => client.put(key, value).await?,
    };
    print_version(options, version)
}

async fn read_value(path: PathBuf) -> Result<Bytes, Failure> {
    // One byte more than is allowed, so that the server refuses what is too large.
    let limit = rangedb_types::limits::VALUE_BYTES_MAX as u64 + 1;
    let read = move || {
        let mut value = Vec::new();
        if path.as_os_str() == "-" {
            std::io::stdin().lock().take(limit).read_to_end(&mut value)?;
        } else {
            std::fs::File::open(&path)?.take(limit).read_to_end(&mut value)?;
        }
        Ok(Bytes::from(value))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Failure::other(error.to_string()))?
        .map_err(|error: std::io::Error| Failure::usage(format!("cannot read the value: {error}")))
}

pub async fn get(arguments: GetArguments, options: &Options) -> Result<(), Failure> {
    let key = arguments.coding.bytes(arguments.key)?;
    let client = client(options).await?;
    let found = match arguments.at {
        Some(version) => client.get_at(key.clone(), Version(version)).await?,
        None => client.get_with(key.clone(), arguments.freshness.consistency()).await?,
    };
    let Some(found) = found else {
        return Err(Failure::not_met("the key does not exist"));
    };
    let mut output = Output::default();
    match options.output {
        OutputFormat::Json => {
            output.json(&EntryJson::new(&key, Some(&found.value), found.version.0))?;
        }
        OutputFormat::Table => output.line(&found.value)?,
    }
    output.flush()
}

pub async fn delete(arguments: DeleteArguments, options: &Options) -> Result<(), Failure> {
    let coding = arguments.coding;
    let mut bounds = arguments.range.into_iter().map(|bound| coding.bytes(bound));
    let key = arguments.key.map(|key| coding.bytes(key)).transpose()?;
    let range = bounds.next().zip(bounds.next());
    let client = client(options).await?;
    let version = match (key, range, arguments.if_version) {
        (Some(key), _, None) => client.delete(key).await?,
        (Some(key), _, Some(version)) => {
            client.delete_if(key, Condition::VersionIs(Version(version))).await?
        }
        (None, Some((start, end)), _) => client.delete_range(start?, end?).await?,
        (None, None, _) => return Err(Failure::usage("give a key or --range")),
    };
    print_version(options, version)
}

pub async fn range(arguments: RangeArguments, options: &Options) -> Result<(), Failure> {
    let (start, end) =
        (arguments.coding.bytes(arguments.start)?, arguments.coding.bytes(arguments.end)?);
    let consistency = arguments.freshness.consistency();
    let mut query = RangeQuery::between(start, end).consistency(consistency);
    if let Some(limit) = arguments.limit {
        query = query.limit(limit);
    }
    if arguments.reverse {
        query = query.reverse();
    }
    if arguments.keys_only {
        query = query.keys_only();
    }
    if let Some(version) = arguments.at {
        query = query.at(Version(version));
    }
    let client = client(options).await?;
    let entries = client.range(query).await?;
    let mut chunks = entries.ready_chunks(ENTRIES_PER_FLUSH);
    let mut output = Output::default();
    while let Some(chunk) = chunks.next().await {
        for entry in chunk {
            write_entry(&mut output, options.output, &entry?, arguments.keys_only)?;
        }
        output.flush()?;
    }
    Ok(())
}

/// One line of a range.
pub(crate) fn write_entry(
    output: &mut Output,
    format: OutputFormat,
    entry: &Entry,
    keys_only: bool,
) -> Result<(), Failure> {
    let value = (!keys_only).then_some(&entry.value[..]);
    match (format, value) {
        (OutputFormat::Json, value) => {
            output.json(&EntryJson::new(&entry.key, value, entry.version.0))
        }
        (OutputFormat::Table, None) => output.line(escape(&entry.key).as_bytes()),
        (OutputFormat::Table, Some(value)) => {
            let line = format!("{}\t{}", escape(&entry.key), escape(value));
            output.line(line.as_bytes())
        }
    }
}

pub(crate) fn print_version(options: &Options, version: Version) -> Result<(), Failure> {
    output::print(options.output, &VersionJson::new(version.0), |json| json.version.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_may_be_any_bytes() {
        let plain = Coding { base64: false };
        let raw = OsString::from_vec(vec![0xff, b'/']);
        assert_eq!(&plain.bytes(raw).unwrap()[..], b"\xff/");
        let base64 = Coding { base64: true };
        assert_eq!(&base64.bytes("/w==".into()).unwrap()[..], b"\xff");
        assert_eq!(base64.bytes("!".into()).unwrap_err().exit, Exit::Usage);
    }
}
