//! Opening: what is there is looked at first, so that the error says what is wrong with it.

use super::error::{convert, convert_open};
use super::options::Tuning;
use super::{Database, Handles};
use crate::{EngineError, Family, Result};
use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Env, Options, WriteOptions};
use std::io;
use std::path::Path;

/// The version of how this engine uses RocksDB (families, prefix function). Kept under
/// [`FORMAT_KEY`] of the default family, which holds nothing else.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"rangedb-engine-format";

pub(super) fn open(path: &Path, tuning: &Tuning) -> Result<Database> {
    std::fs::create_dir_all(path).map_err(|error| from_io(path, &error))?;
    let exists = look_at(path)?;
    if exists {
        check_families(path, &tuning.database())?;
    }
    lower_priorities()?;
    let mut families =
        vec![ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, tuning.family(Family::Meta))];
    families.extend(
        Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), tuning.family(family))),
    );
    let db = DB::open_cf_descriptors(&tuning.database(), path, families)
        .map_err(|error| convert_open(path, error))?;
    check_format(path, &db)?;
    Database::try_new(db, |db| handles(path, db))
}

/// The threads of flushes and compactions take the processor when nobody else of the process wants it: replicas
/// fill their buffers at the same time, and writes would wait for all of their flushes. Writes that get
/// too far ahead of flushes are stopped by RocksDB, which then has the processor. Of the whole process.
fn lower_priorities() -> Result<()> {
    let mut env = Env::new().map_err(convert)?;
    env.lower_high_priority_thread_pool_cpu_priority();
    env.lower_thread_pool_cpu_priority();
    Ok(())
}

fn handles<'a>(path: &Path, db: &'a DB) -> Result<Handles<'a>> {
    let mut missing = None;
    let handles = Family::ALL.map(|family| {
        db.cf_handle(family.name()).or_else(|| {
            missing = Some(family);
            None
        })
    });
    if let Some(family) = missing {
        return Err(EngineError::MissingFamily { path: path.to_owned(), family });
    }
    Ok(handles.map(|handle| handle.expect("a missing family was refused above")))
}

/// True if there is a database. A folder with a database's files but not the one that names the
/// others is damaged, not empty: creating a new one there would hide what is left.
fn look_at(path: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(path).map_err(|error| from_io(path, &error))?;
    let mut data_file = None;
    for entry in entries {
        let name = entry.map_err(|error| from_io(path, &error))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == "CURRENT" {
            return Ok(true);
        }
        if name.ends_with(".sst") {
            data_file = Some(name.to_owned());
        }
    }
    match data_file {
        None => Ok(false),
        Some(name) => Err(EngineError::Corruption {
            detail: format!("{} holds {name} but no file CURRENT", path.display()),
        }),
    }
}

/// Refuses a database without one of our families, unless its creation was interrupted: then none
/// holds anything, and the missing ones are made now.
fn check_families(path: &Path, options: &Options) -> Result<()> {
    let found = DB::list_cf(options, path).map_err(|error| convert_open(path, error))?;
    let known = |name: &String| {
        name == DEFAULT_COLUMN_FAMILY_NAME || Family::ALL.iter().any(|family| family.name() == name)
    };
    if !found.iter().all(known) {
        return Err(EngineError::NewerFormat {
            path: path.to_owned(),
            found: FORMAT + 1,
            supported: FORMAT,
        });
    }
    let missing = Family::ALL.into_iter().find(|family| !found.iter().any(|f| f == family.name()));
    let Some(family) = missing else { return Ok(()) };
    let mut options = Options::default();
    options.create_if_missing(false);
    let db = DB::open_cf_for_read_only(&options, path, &found, false)
        .map_err(|error| convert_open(path, error))?;
    match db.get(FORMAT_KEY).map_err(convert)? {
        Some(_) => Err(EngineError::MissingFamily { path: path.to_owned(), family }),
        None => Ok(()),
    }
}

/// Checks the format, or writes it where there is none yet: last, when all families exist.
fn check_format(path: &Path, db: &DB) -> Result<()> {
    let Some(record) = db.get(FORMAT_KEY).map_err(convert)? else {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        db.put_opt(FORMAT_KEY, FORMAT.to_be_bytes(), &synced).map_err(convert)?;
        // Nothing else is ever written beside it, so that its memory would not fill, and until it is written
        // out no write-ahead log can be removed.
        return db.flush().map_err(convert);
    };
    let found = record.try_into().map(u32::from_be_bytes).map_err(|_| EngineError::Corruption {
        detail: "the record of the engine's format has not four bytes".to_owned(),
    })?;
    if found > FORMAT {
        return Err(EngineError::NewerFormat { path: path.to_owned(), found, supported: FORMAT });
    }
    Ok(())
}

fn from_io(path: &Path, error: &io::Error) -> EngineError {
    let detail = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            EngineError::ReadOnly { path: path.to_owned(), detail }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::Full { detail },
        _ => EngineError::Io { detail },
    }
}
