//! Loading sorted keys as files that are linked into the database.

use super::Database;
use super::error::convert;
use super::options::Tuning;
use crate::{BulkLoader, EngineError, Family, Result};
use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};
use self_cell::self_cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file is ended once it has this size.
const FILE_BYTES: u64 = 64 << 20;

type RawWriter<'a> = SstFileWriter<'a>;

self_cell!(
    /// A writer of one file with the options it borrows.
    struct Writer {
        owner: Options,
        #[covariant]
        dependent: RawWriter,
    }
);

pub(super) struct RocksBulkLoader {
    database: Arc<Database>,
    tuning: Tuning,
    dir: PathBuf,
    files: u64,
    bytes: u64,
    families: [Load; Family::ALL.len()],
}

/// What is loaded into one family.
#[derive(Default)]
struct Load {
    writer: Option<Writer>,
    /// Finished files and the one being written, in key order.
    paths: Vec<PathBuf>,
    last_key: Vec<u8>,
}

impl RocksBulkLoader {
    pub(super) fn new(database: Arc<Database>, tuning: Tuning, dir: &Path) -> Self {
        Self {
            database,
            tuning,
            dir: dir.to_owned(),
            files: 0,
            bytes: 0,
            families: Default::default(),
        }
    }

    fn begin_file(&mut self, family: Family) -> Result<()> {
        self.files += 1;
        let path = self.dir.join(format!("{}-{:06}.sst", family.name(), self.files));
        let writer =
            Writer::try_new(self.tuning.family(family), |options| -> Result<RawWriter<'_>> {
                let writer = SstFileWriter::create(options);
                writer.open(&path).map_err(convert)?;
                Ok(writer)
            })?;
        let load = &mut self.families[family.index()];
        load.writer = Some(writer);
        load.paths.push(path);
        Ok(())
    }
}

impl Load {
    fn end_file(&mut self) -> Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.with_dependent_mut(|_, writer| writer.finish()).map_err(convert)
    }
}

impl BulkLoader for RocksBulkLoader {
    fn add(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<()> {
        let load = &mut self.families[family.index()];
        if !load.paths.is_empty() && key <= load.last_key.as_slice() {
            return Err(EngineError::Invalid {
                detail: format!("the keys loaded into {family} do not ascend"),
            });
        }
        if load.writer.as_ref().is_some_and(|w| w.borrow_dependent().file_size() >= FILE_BYTES) {
            load.end_file()?;
        }
        if load.writer.is_none() {
            self.begin_file(family)?;
        }
        let load = &mut self.families[family.index()];
        let writer = load.writer.as_mut().expect("a file was begun above");
        writer.with_dependent_mut(|_, writer| writer.put(key, value)).map_err(convert)?;
        load.last_key.clear();
        load.last_key.extend_from_slice(key);
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn byte_size(&self) -> u64 {
        self.bytes
    }

    fn ingest(mut self: Box<Self>) -> Result<()> {
        for load in &mut self.families {
            load.end_file()?;
        }
        for family in Family::ALL {
            let paths = std::mem::take(&mut self.families[family.index()].paths);
            if paths.is_empty() {
                continue;
            }
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let handle = self.database.handle(family);
            self.database
                .db()
                .ingest_external_file_cf_opts(handle, &options, paths)
                .map_err(convert)?;
        }
        Ok(())
    }
}
