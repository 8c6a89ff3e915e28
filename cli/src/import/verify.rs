//! Reads every record of a file back and compares it byte by byte.
//!
//! Owns: the comparison. Must not know: files' formats, gRPC. Invariant: where a key stands in the
//! file several times, its last value is the one that must be there, as `import` leaves it.

use super::records::Record;
use super::source::{Batch, Source};
use crate::exit::Failure;
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt as _};
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::future::Future;
use std::hash::{Hash as _, Hasher as _};
use tokio::sync::mpsc;

/// Batches being read at once.
const BATCHES_MAX: usize = 4;
/// Keys that differ; the comparison ends there, since something is thoroughly wrong.
const DIFFERENT_MAX: usize = 100_000;

/// The outcome of a comparison.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub records: u64,
    pub bytes: u64,
    pub missing: u64,
    pub different: u64,
    /// Some of the keys that are missing or different, escaped.
    pub examples: Vec<String>,
}

/// Examples shown.
const EXAMPLES_MAX: usize = 5;

/// What stands in the database under a key that does not match; a hash stands for the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Value(u64),
}

impl Found {
    fn of(value: Option<&Bytes>) -> Self {
        value.map_or(Self::Nothing, |value| {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            Self::Value(hasher.finish())
        })
    }
}

/// Compares a file with what `read` finds, which gives one value a key, in order.
///
/// # Errors
/// The file or the database cannot be read.
pub async fn compare<R, F>(
    source: &Source,
    read: R,
    show: impl Fn(u64),
) -> Result<Comparison, Failure>
where
    R: Fn(Vec<Bytes>) -> F,
    F: Future<Output = Result<Vec<Option<Bytes>>, Failure>>,
{
    let mut comparison = Comparison::default();
    let suspects = first_pass(source.read(None)?, &mut comparison, read, show).await?;
    // A key may be there several times; only its last record counts.
    let suspects = match &source.path {
        Some(_) if !suspects.is_empty() => second_pass(source.read(None)?, suspects).await?,
        _ => suspects,
    };
    for (key, found) in suspects {
        match found {
            Found::Nothing => comparison.missing += 1,
            Found::Value(_) => comparison.different += 1,
        }
        if comparison.examples.len() < EXAMPLES_MAX {
            comparison.examples.push(crate::output::escape(&key));
        }
    }
    Ok(comparison)
}

type Suspects = HashMap<Bytes, Found>;

async fn first_pass<R, F>(
    mut batches: mpsc::Receiver<Result<Batch, Failure>>,
    comparison: &mut Comparison,
    read: R,
    show: impl Fn(u64),
) -> Result<Suspects, Failure>
where
    R: Fn(Vec<Bytes>) -> F,
    F: Future<Output = Result<Vec<Option<Bytes>>, Failure>>,
{
    let mut suspects = Suspects::new();
    let mut reading = FuturesOrdered::new();
    let mut ended = false;
    while !ended || !reading.is_empty() {
        tokio::select! {
            batch = batches.recv(), if !ended && reading.len() < BATCHES_MAX => {
                let Some(batch) = batch else { ended = true; continue };
                let batch = batch?;
                let keys = batch.records.iter().map(|record| record.key.clone()).collect();
                let answer = read(keys);
                reading.push_back(async move { (batch, answer.await) });
            }
            Some((batch, values)) = reading.next(), if !reading.is_empty() => {
                check(&batch.records, &values?, comparison, &mut suspects)?;
                show(batch.file_bytes);
            }
        }
    }
    Ok(suspects)
}

fn check(
    records: &[Record],
    values: &[Option<Bytes>],
    comparison: &mut Comparison,
    suspects: &mut Suspects,
) -> Result<(), Failure> {
    if values.len() != records.len() {
        return Err(Failure::other("the gateway answered fewer keys than were asked"));
    }
    for (record, value) in records.iter().zip(values) {
        comparison.records += 1;
        comparison.bytes += record.value.len() as u64;
        if value.as_ref() != Some(&record.value) {
            suspects.insert(record.key.clone(), Found::of(value.as_ref()));
        }
    }
    if suspects.len() > DIFFERENT_MAX {
        let message = format!("more than {DIFFERENT_MAX} records are missing or different");
        return Err(Failure::not_met(message));
    }
    Ok(())
}

/// Keeps the suspects whose last record does not match either.
async fn second_pass(
    mut batches: mpsc::Receiver<Result<Batch, Failure>>,
    suspects: Suspects,
) -> Result<Suspects, Failure> {
    let mut wrong: HashMap<Bytes, bool> = HashMap::new();
    while let Some(batch) = batches.recv().await {
        for record in batch?.records {
            if let Some(found) = suspects.get(&record.key) {
                wrong.insert(record.key.clone(), Found::of(Some(&record.value)) != *found);
            }
        }
    }
    Ok(suspects.into_iter().filter(|(key, _)| wrong.get(key) != Some(&false)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::records::Format;

    async fn of(file: &str, database: &[(&str, &str)]) -> Comparison {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, file).unwrap();
        let source = Source { path: Some(path), format: Format::Tsv };
        let read = |keys: Vec<Bytes>| async move {
            let value = |key: &Bytes| {
                let entry = database.iter().find(|(name, _)| name.as_bytes() == key)?;
                Some(Bytes::copy_from_slice(entry.1.as_bytes()))
            };
            Ok(keys.iter().map(value).collect())
        };
        compare(&source, read, |_| {}).await.unwrap()
    }

    #[tokio::test]
    async fn equal_files_have_no_differences() {
        let comparison = of("a\t1\nb\t\n", &[("a", "1"), ("b", ""), ("c", "extra")]).await;
        assert_eq!(comparison, Comparison { records: 2, bytes: 1, ..Comparison::default() });
    }

    #[tokio::test]
    async fn every_difference_is_counted() {
        let comparison = of("a\t1\nb\t2\nc\t3\n", &[("a", "1"), ("b", "x")]).await;
        assert_eq!((comparison.missing, comparison.different), (1, 1));
        assert_eq!(comparison.examples.len(), 2);
    }

    #[tokio::test]
    async fn only_the_last_record_of_a_key_counts() {
        let file = "a\t1\na\t2\n";
        assert_eq!(of(file, &[("a", "2")]).await.different, 0);
        assert_eq!(of(file, &[("a", "1")]).await.different, 1);
        assert_eq!(of(file, &[]).await.missing, 1);
    }
}
