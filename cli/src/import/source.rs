//! A file's records, read ahead on a thread of their own.
//!
//! Owns: opening the file, skipping what an earlier run wrote, batching. Must not know: where
//! records go. Invariant: at most [`BATCHES_AHEAD_MAX`] batches of about [`BATCH_BYTES`] wait.

use super::records::{Format, Record, RecordError, Records};
use super::resume::Progress;
use crate::exit::{Exit, Failure};
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Batches that were read and not yet taken.
const BATCHES_AHEAD_MAX: usize = 2;
/// Records in a batch.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Bytes of values after which a batch is full; one value may be larger.
const BATCH_BYTES: usize = 1 << 20;

/// Records that stand one behind the other in a file.
#[derive(Debug, Default)]
pub struct Batch {
    pub records: Vec<Record>,
    /// Bytes of the file up to and with the last record.
    pub file_bytes: u64,
}

/// Which file, and how it is written.
#[derive(Clone, Debug)]
pub struct Source {
    /// `None` for stdin.
    pub path: Option<PathBuf>,
    pub format: Format,
}

impl Source {
    /// Starts to read behind what `done` counts. The end of the channel is the end of the file; an
    /// error is the last that comes. The thread ends when the receiver is dropped.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn read(
        &self,
        done: Option<Progress>,
    ) -> Result<mpsc::Receiver<Result<Batch, Failure>>, Failure> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
        let format = self.format;
        match &self.path {
            None => {
                tokio::task::spawn_blocking(move || {
                    send_all(Records::new(stdin().lock(), format), done, &sender);
                });
            }
            Some(path) => {
                let file = open(path)?;
                tokio::task::spawn_blocking(move || {
                    let input = BufReader::with_capacity(BATCH_BYTES, file);
                    send_all(Records::new(input, format), done, &sender);
                });
            }
        }
        Ok(receiver)
    }

    /// The file's length, where it has one.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let metadata = std::fs::metadata(self.path.as_ref()?).ok()?;
        metadata.is_file().then_some(metadata.len())
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let refused = |why: &str| Failure::usage(format!("cannot read {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| refused(&error.to_string()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(refused("it is a folder"));
    }
    Ok(file)
}

fn send_all<R: BufRead>(
    mut records: Records<R>,
    done: Option<Progress>,
    sender: &mpsc::Sender<Result<Batch, Failure>>,
) {
    if let Err(failure) = skip(&mut records, done.as_ref()) {
        let _ = sender.blocking_send(Err(failure));
        return;
    }
    loop {
        let (batch, error) = next_batch(&mut records);
        let last = error.is_some() || batch.records.is_empty();
        if !batch.records.is_empty() && sender.blocking_send(Ok(batch)).is_err() {
            return; // Nobody listens any more.
        }
        if let Some(error) = error {
            let _ = sender.blocking_send(Err(failure_of(&error)));
        }
        if last {
            return;
        }
    }
}

/// What can be read now, and why no more can be.
fn next_batch<R: BufRead>(records: &mut Records<R>) -> (Batch, Option<RecordError>) {
    let mut batch = Batch::default();
    let mut bytes = 0;
    let mut error = None;
    while batch.records.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES {
        match records.next() {
            Ok(Some(record)) => {
                bytes += record.value.len();
                batch.records.push(record);
            }
            Ok(None) => break,
            Err(why) => {
                error = Some(why);
                break;
            }
        }
    }
    batch.file_bytes = records.bytes();
    (batch, error)
}

/// Passes over what an earlier run wrote.
fn skip<R: BufRead>(records: &mut Records<R>, done: Option<&Progress>) -> Result<(), Failure> {
    let Some(done) = done else { return Ok(()) };
    let other = || {
        Failure::usage(
            "the import state is of another file: record numbers and keys do not match; \
             delete the state file to import from the start",
        )
    };
    for number in 1..=done.records {
        let record = records.next().map_err(|error| failure_of(&error))?.ok_or_else(other)?;
        if number == done.records && !done.ends_with(&record.key) {
            return Err(other());
        }
    }
    Ok(())
}

fn failure_of(error: &RecordError) -> Failure {
    match error {
        RecordError::Bad { .. } => Failure::usage(error.to_string()),
        RecordError::Io { .. } => Failure::new(Exit::Other, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// The first record's key, and the number of records.
    async fn read(text: String, done: Option<Progress>) -> Result<(Bytes, usize), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, &text).unwrap();
        let source = Source { path: Some(path), format: Format::Tsv };
        let mut batches = source.read(done)?;
        let mut records = Vec::new();
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            assert!(batch.file_bytes <= text.len() as u64);
            records.extend(batch.records);
        }
        Ok((records.first().map(|record| record.key.clone()).unwrap_or_default(), records.len()))
    }

    fn lines(count: usize) -> String {
        (0..count).map(|number| format!("k{number}\tv\n")).collect()
    }

    #[tokio::test]
    async fn every_record_comes_once() {
        assert_eq!(read(lines(1000), None).await.unwrap(), ("k0".into(), 1000));
        assert_eq!(read(String::new(), None).await.unwrap(), ("".into(), 0));
    }

    #[tokio::test]
    async fn a_resumed_file_begins_behind_what_is_done() {
        let done = Progress::new(600, b"k599");
        assert_eq!(read(lines(1000), Some(done)).await.unwrap(), ("k600".into(), 400));
    }

    #[tokio::test]
    async fn the_state_of_another_file_is_refused() {
        for (count, key) in [(600, &b"x"[..]), (2000, b"k1999")] {
            let error = read(lines(1000), Some(Progress::new(count, key))).await.unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
        }
    }

    #[tokio::test]
    async fn records_before_a_bad_line_are_delivered() {
        let error = read(lines(3) + "bad\n" + &lines(3), None).await.unwrap_err();
        assert!(error.message.starts_with("line 4: "), "{error}");
    }
}
