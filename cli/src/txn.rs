//! `txn`: one transaction over several calls of this program.
//!
//! Owns: their arguments, and the file a transaction is kept in between calls. Must not know: what a token
//! is. The files lie in the user's state folder and are for the user's eyes only.

use crate::arguments::Options;
use crate::data::{Coding, client, print_version, write_entry};
use crate::exit::Failure;
use crate::output::{self, EntryJson, Output, OutputFormat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rangedb_client::{
    Entry, Error, Isolation, PessimisticTransaction, RangeQuery, SavedKeys, SavedTransaction,
    Transaction, TransactionOptions, Version,
};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct TxnArguments {
    #[command(subcommand)]
    command: TxnCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TxnCommand {
    /// Begin a transaction, which may take as long as --timeout says [default: 60s]; prints its id
    Begin {
        /// How it is kept apart from others
        #[arg(long, value_enum, default_value_t)]
        isolation: Level,
        /// Take keys as they are written, and wait for who has them. They are held for ten seconds after each
        /// call
        #[arg(long)]
        pessimistic: bool,
    },
    /// Write one key at the commit
    Put {
        #[arg(value_name = "KEY", allow_negative_numbers = true)]
        key: OsString,
        #[arg(value_name = "VALUE", allow_negative_numbers = true)]
        value: OsString,
        #[command(flatten)]
        of: Of,
    },
    /// Read one key as the transaction sees it
    Get {
        #[arg(value_name = "KEY", allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        of: Of,
    },
    /// Remove one key at the commit
    Delete {
        #[arg(value_name = "KEY", allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        of: Of,
    },
    /// Read the keys of a range as the transaction sees them
    Range {
        /// The first key
        #[arg(allow_negative_numbers = true)]
        start: OsString,
        /// The key after the last one; empty for no bound
        #[arg(allow_negative_numbers = true)]
        end: OsString,
        /// At most so many entries
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// From the end to the start
        #[arg(long)]
        reverse: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Commit it
    Commit {
        #[command(flatten)]
        of: Of,
    },
    /// Give it up
    Rollback {
        #[command(flatten)]
        of: Of,
    },
}

/// Which transaction, and how keys stand on the command line.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Of {
    /// Which transaction [default: the one begun last]
    #[arg(long, value_name = "ID")]
    id: Option<u64>,
    #[command(flatten)]
    coding: Coding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    #[value(name = "read_committed")]
    ReadCommitted,
    #[default]
    Snapshot,
    Serializable,
}

impl From<Level> for Isolation {
    fn from(level: Level) -> Self {
        match level {
            Level::ReadCommitted => Self::ReadCommitted,
            Level::Snapshot => Self::Snapshot,
            Level::Serializable => Self::Serializable,
        }
    }
}

impl From<Isolation> for Level {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::ReadCommitted => Self::ReadCommitted,
            Isolation::Snapshot => Self::Snapshot,
            Isolation::Serializable => Self::Serializable,
        }
    }
}

#[derive(Serialize)]
struct BegunJson {
    id: String,
}

pub async fn run(arguments: TxnArguments, options: &Options) -> Result<(), Failure> {
    let folder = folder()?;
    match arguments.command {
        TxnCommand::Begin { isolation, pessimistic } => {
            let timeout = options.timeout.unwrap_or_default();
            let wanted = TransactionOptions { isolation: isolation.into(), timeout };
            let client = client(options).await?;
            let begun = if pessimistic {
                client.begin_pessimistic(wanted).await?.save()
            } else {
                client.begin(wanted).await?.save()
            };
            store(&folder, &begun)?;
            let json = BegunJson { id: begun.id.0.to_string() };
            output::print(options.output, &json, |json| json.id.clone())
        }
        TxnCommand::Put { key, value, of } => {
            let (key, value) = (of.coding.bytes(key)?, of.coding.bytes(value)?);
            write(&folder, of.id, key, Some(value), options).await
        }
        TxnCommand::Delete { key, of } => {
            write(&folder, of.id, of.coding.bytes(key)?, None, options).await
        }
        TxnCommand::Get { key, of } => {
            let key = of.coding.bytes(key)?;
            let transaction = Open::load(&folder, of.id, options).await?;
            let found = transaction.get(key.clone()).await;
            // Also after a failure: the key may be taken.
            store(&folder, &transaction.save())?;
            let value = found?.ok_or_else(|| Failure::not_met("the key does not exist"))?;
            let mut output = Output::default();
            match options.output {
                OutputFormat::Json => output.json(&EntryJson::new(&key, Some(&value), 0))?,
                OutputFormat::Table => output.line(&value)?,
            }
            output.flush()
        }
        TxnCommand::Range { start, end, limit, reverse, of } => {
            let (start, end) = (of.coding.bytes(start)?, of.coding.bytes(end)?);
            let mut query = RangeQuery::between(start, end).limit(limit.unwrap_or(0));
            if reverse {
                query = query.reverse();
            }
            let transaction = Open::load(&folder, of.id, options).await?;
            let entries = transaction.range(query).await?;
            store(&folder, &transaction.save())?;
            let mut output = Output::default();
            for entry in &entries {
                write_entry(&mut output, options.output, entry, false)?;
            }
            output.flush()
        }
        TxnCommand::Commit { of } => {
            let transaction = Open::load(&folder, of.id, options).await?;
            let id = transaction.save().id;
            let committed = transaction.commit().await;
            if !matches!(committed, Err(rangedb_client::Error::Unavailable { .. })) {
                // Else it may be tried again.
                forget(&folder, id)?;
            }
            print_version(options, committed?)
        }
        TxnCommand::Rollback { of } => {
            let transaction = Open::load(&folder, of.id, options).await?;
            let id = transaction.save().id;
            transaction.rollback().await?;
            forget(&folder, id)
        }
    }
}

/// A transaction that was begun by an earlier call.
enum Open {
    Optimistic(Transaction),
    Pessimistic(PessimisticTransaction),
}

impl Open {
    async fn load(folder: &Path, id: Option<u64>, options: &Options) -> Result<Self, Failure> {
        let saved = load(folder, id)?;
        let client = client(options).await?;
        if saved.held.is_none() {
            return Ok(Self::Optimistic(client.resume(saved)));
        }
        let transaction = client.resume_pessimistic(saved);
        transaction.renew().await?;
        Ok(Self::Pessimistic(transaction))
    }

    fn save(&self) -> SavedTransaction {
        match self {
            Self::Optimistic(transaction) => transaction.save(),
            Self::Pessimistic(transaction) => transaction.save(),
        }
    }

    /// A pessimistic one takes the key, so that what was read stays as it is.
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Optimistic(transaction) => transaction.get(key).await,
            Self::Pessimistic(transaction) => transaction.get_for_update(key).await,
        }
    }

    async fn range(&self, query: RangeQuery) -> Result<Vec<Entry>, Error> {
        match self {
            Self::Optimistic(transaction) => transaction.range(query).await,
            Self::Pessimistic(transaction) => transaction.range(query).await,
        }
    }

    async fn commit(&self) -> Result<Version, Error> {
        match self {
            Self::Optimistic(transaction) => transaction.commit().await,
            Self::Pessimistic(transaction) => transaction.commit().await,
        }
    }

    async fn rollback(&self) -> Result<(), Error> {
        match self {
            Self::Optimistic(transaction) => transaction.rollback().await,
            Self::Pessimistic(transaction) => transaction.rollback().await,
        }
    }
}

/// Writes a key: a pessimistic transaction takes it now.
async fn write(
    folder: &Path,
    id: Option<u64>,
    key: Bytes,
    value: Option<Bytes>,
    options: &Options,
) -> Result<(), Failure> {
    if load(folder, id)?.held.is_none() {
        return buffer(folder, id, key, value);
    }
    let Open::Pessimistic(transaction) = Open::load(folder, id, options).await? else {
        return Err(Failure::other("the transaction has changed meanwhile"));
    };
    let written = match value {
        Some(value) => transaction.put(key, value).await,
        None => transaction.delete(key).await,
    };
    // Also after a failure: the key may be taken.
    store(folder, &transaction.save())?;
    Ok(written?)
}

/// Adds a write; nothing is sent before the commit.
fn buffer(folder: &Path, id: Option<u64>, key: Bytes, value: Option<Bytes>) -> Result<(), Failure> {
    let mut saved = load(folder, id)?;
    saved.writes.retain(|(written, _)| *written != key);
    saved.writes.push((key, value));
    store(folder, &saved)
}

/// A transaction's file. Bytes are base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJson {
    token: String,
    isolation: Level,
    writes: Vec<(String, Option<String>)>,
    keys_read: Vec<String>,
    spans_read: Vec<(String, String)>,
    #[serde(default)]
    held: Option<HeldJson>,
}

/// What a pessimistic transaction has taken.
#[derive(Serialize, Deserialize)]
struct HeldJson {
    has_snapshot: bool,
    first: Option<String>,
    #[serde(default)]
    unfinished: Option<String>,
}

fn folder() -> Result<PathBuf, Failure> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => {
            let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
            let words = "there is no folder to keep the transaction in; set HOME or XDG_STATE_HOME";
            PathBuf::from(home.ok_or_else(|| Failure::usage(words))?).join(".local/state")
        }
    };
    Ok(state.join("rangedb/transactions"))
}

fn path_of(folder: &Path, id: Version) -> PathBuf {
    folder.join(format!("{}.json", id.0))
}

fn store(folder: &Path, saved: &SavedTransaction) -> Result<(), Failure> {
    let text = |bytes: &Bytes| BASE64.encode(bytes);
    let file = FileJson {
        token: text(&saved.token),
        isolation: saved.isolation.into(),
        writes: saved.writes.iter().map(|(k, v)| (text(k), v.as_ref().map(text))).collect(),
        keys_read: saved.keys_read.iter().map(text).collect(),
        spans_read: saved.spans_read.iter().map(|(a, b)| (text(a), text(b))).collect(),
        held: saved.held.as_ref().map(|held| HeldJson {
            has_snapshot: held.has_snapshot,
            first: held.first.as_ref().map(text),
            unfinished: held.unfinished.as_ref().map(text),
        }),
    };
    let path = path_of(folder, saved.id);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let temporary = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut opened =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        opened.write_all(&serde_json::to_vec(&file)?)?;
        opened.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|error| Failure::other(format!("cannot keep {}: {error}", path.display())))
}

fn load(folder: &Path, id: Option<u64>) -> Result<SavedTransaction, Failure> {
    let id = match id {
        Some(id) => Version(id),
        None => last(folder)?,
    };
    let path = path_of(folder, id);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let words =
                format!("there is no transaction {id} here, or it is over; `txn begin` one");
            return Err(Failure::usage(words));
        }
        Err(error) => {
            return Err(Failure::other(format!("cannot read {}: {error}", path.display())));
        }
    };
    let damaged =
        || Failure::other(format!("{} cannot be read; remove it and begin again", path.display()));
    let file: FileJson = serde_json::from_slice(&text).map_err(|_| damaged())?;
    let bytes = |text: &String| BASE64.decode(text).map(Bytes::from).map_err(|_| damaged());
    Ok(SavedTransaction {
        token: bytes(&file.token)?,
        id,
        isolation: file.isolation.into(),
        writes: file
            .writes
            .iter()
            .map(|(key, value)| Ok((bytes(key)?, value.as_ref().map(bytes).transpose()?)))
            .collect::<Result<_, Failure>>()?,
        checks: Vec::new(),
        keys_read: file.keys_read.iter().map(bytes).collect::<Result<_, _>>()?,
        spans_read: file
            .spans_read
            .iter()
            .map(|(start, end)| Ok((bytes(start)?, bytes(end)?)))
            .collect::<Result<_, Failure>>()?,
        held: file
            .held
            .map(|held| {
                let first = held.first.as_ref().map(bytes).transpose()?;
                let unfinished = held.unfinished.as_ref().map(bytes).transpose()?;
                let has_snapshot = held.has_snapshot;
                Ok::<_, Failure>(SavedKeys { has_snapshot, first, unfinished })
            })
            .transpose()?,
    })
}

/// The transaction begun last: ids grow.
fn last(folder: &Path) -> Result<Version, Failure> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| {
        let path = entry.path();
        let json = path.extension().is_some_and(|extension| extension == "json");
        json.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten()
    });
    ids.max().map(Version).ok_or_else(|| Failure::usage("no transaction is open; `txn begin` one"))
}

fn forget(folder: &Path, id: Version) -> Result<(), Failure> {
    let path = path_of(folder, id);
    std::fs::remove_file(&path)
        .map_err(|error| Failure::other(format!("cannot remove {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_kept_between_calls() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("rangedb");
        assert!(load(&folder, None).is_err());
        let saved = |id| SavedTransaction {
            token: Bytes::from_static(b"\x01token"),
            id: Version(id),
            isolation: Isolation::Serializable,
            writes: vec![("k".into(), Some("v".into())), ("l".into(), None)],
            checks: Vec::new(),
            keys_read: vec![Bytes::from_static(b"\xff")],
            spans_read: vec![("a".into(), Bytes::new())],
            held: (id == 7).then(|| SavedKeys {
                has_snapshot: true,
                first: Some(Bytes::from_static(b"k")),
                unfinished: Some(Bytes::from_static(b"\xfe")),
            }),
        };
        store(&folder, &saved(5)).unwrap();
        store(&folder, &saved(7)).unwrap();
        assert_eq!(load(&folder, None).unwrap(), saved(7), "the one begun last");
        assert_eq!(load(&folder, Some(5)).unwrap(), saved(5));
        buffer(&folder, Some(5), "k".into(), None).unwrap();
        let writes = load(&folder, Some(5)).unwrap().writes;
        assert_eq!(writes, [("l".into(), None), ("k".into(), None)]);
        forget(&folder, Version(7)).unwrap();
        assert_eq!(load(&folder, None).unwrap().id, Version(5));
        assert!(load(&folder, Some(7)).unwrap_err().message.contains("txn begin"));
    }
}
