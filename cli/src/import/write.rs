//! Writes the records of a source, many at a time.
//!
//! Owns: what is sent when, and saving the progress. Must not know: files' formats, gRPC. Invariant:
//! after a failure nothing new is sent, and what is under way is waited for, so that the saved
//! progress counts all that can be counted.

use super::ledger::Ledger;
use super::records::Record;
use super::resume::{Progress, StateFile};
use super::source::Batch;
use crate::exit::Failure;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the progress is saved.
const SAVE_INTERVAL: Duration = Duration::from_millis(250);

/// Sends every record to `write`; gives the number of records acknowledged from the file's start
/// on, and why it ended before the end of the file.
pub async fn write_all<W, F>(
    mut source: mpsc::Receiver<Result<Batch, Failure>>,
    mut ledger: Ledger,
    state: Option<&StateFile>,
    write: W,
    show: impl Fn(u64),
) -> (u64, Result<(), Failure>)
where
    W: Fn(Record) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let mut flying = FuturesUnordered::new();
    let mut waiting: VecDeque<Record> = VecDeque::new();
    let mut save = Saver::new(state);
    let mut ended = false;
    let mut failure = None;
    loop {
        if failure.is_some() {
            waiting.clear();
        }
        while let Some(record) = waiting.pop_front_if(|record| ledger.admits(record)) {
            let number = ledger.sent(&record);
            let answer = write(record.clone());
            flying.push(async move { (number, record, answer.await) });
        }
        let read = waiting.is_empty() && !ended && failure.is_none();
        if !read && waiting.is_empty() && flying.is_empty() {
            break;
        }
        tokio::select! {
            batch = source.recv(), if read => match batch {
                Some(Ok(batch)) => {
                    show(batch.file_bytes);
                    waiting.extend(batch.records);
                }
                Some(Err(why)) => failure = Some(why),
                None => ended = true,
            },
            Some((number, record, result)) = flying.next(), if !flying.is_empty() => {
                ledger.answered(number, &record, result.is_ok());
                if let Err(why) = result {
                    failure.get_or_insert(why);
                }
            }
            () = save.due() => {
                if let Err(why) = save.save(ledger.progress()).await {
                    failure.get_or_insert(why);
                }
            }
        }
    }
    if let Err(why) = save.save(ledger.progress()).await {
        failure.get_or_insert(why);
    }
    (ledger.acknowledged(), failure.map_or(Ok(()), Err))
}

/// Saves the progress now and then.
struct Saver {
    state: Option<StateFile>,
    saved: Option<Progress>,
    next: tokio::time::Instant,
}

impl Saver {
    fn new(state: Option<&StateFile>) -> Self {
        let next = tokio::time::Instant::now() + SAVE_INTERVAL;
        Self { state: state.cloned(), saved: None, next }
    }

    async fn due(&self) {
        if self.state.is_none() {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.next).await;
    }

    async fn save(&mut self, progress: Option<Progress>) -> Result<(), Failure> {
        self.next = tokio::time::Instant::now() + SAVE_INTERVAL;
        let (Some(state), Some(progress)) = (self.state.clone(), progress) else { return Ok(()) };
        if self.saved.as_ref() == Some(&progress) {
            return Ok(());
        }
        let saved = progress.clone();
        tokio::task::spawn_blocking(move || state.save(&progress))
            .await
            .map_err(|error| Failure::other(format!("saving the progress failed: {error}")))??;
        self.saved = Some(saved);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::import::records::Format;
    use crate::import::source::Source;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::path::Path;

    type Database = RefCell<HashMap<String, String>>;

    /// Imports a file into a map; writing `refused` fails while it is set.
    async fn import(
        path: &Path,
        database: &Database,
        refused: Option<&str>,
    ) -> (u64, Result<(), Failure>) {
        let state = StateFile::beside(path);
        let done = state.load().unwrap();
        let ledger = Ledger::new(done.as_ref().map_or(0, |done| done.records), 16);
        let source = Source { path: Some(path.to_owned()), format: Format::Tsv };
        let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let write = |record: Record| async move {
            // Answers come in another order than requests.
            for _ in 0..record.key.len() % 3 {
                tokio::task::yield_now().await;
            }
            if refused == Some(text(&record.key).as_str()) {
                return Err(Failure::new(Exit::Unavailable, "refused"));
            }
            database.borrow_mut().insert(text(&record.key), text(&record.value));
            Ok(())
        };
        write_all(source.read(done).unwrap(), ledger, Some(&state), write, |_| {}).await
    }

    #[tokio::test]
    async fn an_import_that_failed_is_resumed_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let lines: String = (0..2000).map(|n| format!("key{n}\tvalue{n}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let database = Database::default();
        let (count, result) = import(&path, &database, Some("key700")).await;
        assert_eq!((count, result.unwrap_err().exit), (700, Exit::Unavailable));
        assert_eq!(StateFile::beside(&path).load().unwrap().unwrap().records, 700);
        database.borrow_mut().retain(|key, _| key.as_str() == "key0");
        let (count, result) = import(&path, &database, None).await;
        assert_eq!((count, result), (2000, Ok(())));
        let database = database.borrow();
        assert!((700..2000).all(|n| database[&format!("key{n}")] == format!("value{n}")));
        assert_eq!(database.len(), 1301, "records that were acknowledged are not sent again");
    }

    #[tokio::test]
    async fn a_bad_line_ends_the_import_behind_what_came_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "a\t1\nb\t2\nbad\nc\t3\n").unwrap();
        let database = Database::default();
        let (count, result) = import(&path, &database, None).await;
        let failure = result.unwrap_err();
        assert_eq!((count, failure.exit), (2, Exit::Usage));
        assert!(failure.message.starts_with("line 3: "));
        std::fs::write(&path, "a\t1\nb\t2\nmended\t0\nc\t3\n").unwrap();
        assert_eq!(import(&path, &database, None).await, (4, Ok(())));
        assert_eq!(database.borrow().len(), 4);
    }

    #[tokio::test]
    async fn the_last_record_of_a_key_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let lines: String = (0..300).map(|n| format!("k{}\t{n}\n", "x".repeat(n % 4))).collect();
        std::fs::write(&path, lines).unwrap();
        let database = Database::default();
        assert_eq!(import(&path, &database, None).await, (300, Ok(())));
        assert_eq!(database.borrow()["k"], "296");
        assert_eq!(database.borrow()["kxxx"], "299");
    }
}
