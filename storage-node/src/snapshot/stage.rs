//! Staged snapshots: folders of verified chunks.
//!
//! A folder holds `chunks` (per chunk: family, length, checksum as 32-bit big-endian, then the
//! entries) and, once it is whole and durable, `complete` (totals of 64, 64 and 32 bits, then their
//! CRC-32).

use super::chunk::{ChunkRef, Totals, Verifier};
use rangedb_engine::Family;
use rangedb_types::RangeDescriptor;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const CHUNKS: &str = "chunks";
const COMPLETE: &str = "complete";
const HEAD_BYTES: usize = 12;
/// Buffers of files.
const BUFFER_BYTES: usize = 1 << 20;
/// No chunk is longer: the longest entry and then some.
const CHUNK_BYTES_MAX: usize = 32 << 20;

/// A folder that is being filled. Dropped before `finish`, it is removed.
pub(super) struct Staging {
    path: PathBuf,
    chunks: Option<BufWriter<File>>,
    verifier: Verifier,
}

impl Staging {
    pub fn begin(path: PathBuf, range: &RangeDescriptor) -> Result<Self, String> {
        std::fs::create_dir_all(&path).map_err(|error| failed(&path, &error))?;
        let file = File::create(path.join(CHUNKS)).map_err(|error| failed(&path, &error))?;
        let chunks = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { path, chunks, verifier: Verifier::new(range) })
    }

    pub fn add(&mut self, chunk: &ChunkRef<'_>) -> Result<(), String> {
        self.verifier.check(chunk, |_, _, _| Ok(()))?;
        if chunk.entries.len() > CHUNK_BYTES_MAX {
            return Err(format!("chunk {} is too long", chunk.sequence));
        }
        let length = u32::try_from(chunk.entries.len()).expect("checked above");
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&chunk.family.to_be_bytes());
        head[4..8].copy_from_slice(&length.to_be_bytes());
        head[8..].copy_from_slice(&chunk.checksum.to_be_bytes());
        let chunks = self.chunks.as_mut().expect("open until it is finished");
        chunks
            .write_all(&head)
            .and_then(|()| chunks.write_all(chunk.entries))
            .map_err(|error| failed(&self.path, &error))
    }

    /// How many chunks it holds.
    pub fn chunks_count(&self) -> u64 {
        self.verifier.totals().chunks
    }

    /// Makes the folder durable, if it is what the sender says it sent.
    pub fn finish(mut self, totals: Totals) -> Result<Whole, String> {
        if self.verifier.totals() != totals {
            return Err("what arrived is not what was sent".to_owned());
        }
        self.sync(totals).map_err(|error| failed(&self.path, &error))?;
        self.chunks = None;
        Ok(Whole(std::mem::take(&mut self.path)))
    }

    fn sync(&mut self, totals: Totals) -> std::io::Result<()> {
        if let Some(chunks) = &mut self.chunks {
            chunks.flush()?;
            chunks.get_ref().sync_all()?;
        }
        let mut complete = File::create(self.path.join(COMPLETE))?;
        complete.write_all(&encode(totals))?;
        complete.sync_all()?;
        sync_folder(&self.path)?;
        self.path.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove(&self.path);
        }
    }
}

/// A folder that is whole and durable. Removed unless somebody keeps it.
pub(super) struct Whole(PathBuf);

impl Whole {
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            remove(&self.0);
        }
    }
}

/// Reads a staged folder again, checking everything.
///
/// # Errors
/// In words: it is not whole, or what `each` says.
pub(super) fn read(
    path: &Path,
    range: &RangeDescriptor,
    mut each: impl FnMut(Family, &[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let complete = std::fs::read(path.join(COMPLETE)).map_err(|error| failed(path, &error))?;
    let totals = decode(&complete).ok_or_else(|| format!("{} is damaged", path.display()))?;
    let file = File::open(path.join(CHUNKS)).map_err(|error| failed(path, &error))?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut verifier = Verifier::new(range);
    let mut entries = Vec::new();
    for sequence in 0..totals.chunks {
        let mut head = [[0; 4]; 3];
        file.read_exact(head.as_flattened_mut()).map_err(|error| failed(path, &error))?;
        let [family, length, checksum] = head.map(u32::from_be_bytes);
        if length as usize > CHUNK_BYTES_MAX {
            return Err(format!("{} is damaged", path.display()));
        }
        entries.resize(length as usize, 0);
        file.read_exact(&mut entries).map_err(|error| failed(path, &error))?;
        let chunk = ChunkRef { sequence, family, entries: &entries, checksum };
        verifier.check(&chunk, &mut each)?;
    }
    if verifier.totals() == totals { Ok(()) } else { Err(format!("{} is damaged", path.display())) }
}

/// Removes a folder that is needed no more. What cannot be removed is tried again at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a staged snapshot");
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn encode(totals: Totals) -> Vec<u8> {
    let mut record = Vec::with_capacity(24);
    record.extend_from_slice(&totals.chunks.to_be_bytes());
    record.extend_from_slice(&totals.bytes.to_be_bytes());
    record.extend_from_slice(&totals.checksum.to_be_bytes());
    record.extend_from_slice(&crc32fast::hash(&record).to_be_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Totals> {
    let (body, checksum) = record.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (chunks, rest) = body.split_first_chunk::<8>()?;
    let (bytes, rest) = rest.split_first_chunk::<8>()?;
    let checksum: [u8; 4] = rest.try_into().ok()?;
    Some(Totals {
        chunks: u64::from_be_bytes(*chunks),
        bytes: u64::from_be_bytes(*bytes),
        checksum: u32::from_be_bytes(checksum),
    })
}
