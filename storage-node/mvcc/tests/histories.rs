//! Runs the histories in `testdata/`: scripts of writes and reads with the expected output inline.
//!
//! A history is a text file of blocks. A block is some commands, a line `----`, and the output, up
//! to an empty line. `REWRITE=1 cargo test -p rangedb-mvcc --test histories` writes the output that
//! the code gives; read the difference before you commit it.
//!
//! Commands, one a line; `ts=` is a commit or read timestamp, `id=` a request id:
//!
//! | | |
//! |---|---|
//! | `put K V ts= [id=] [if_version=N] [if_absent]` | `delete K …` with the same options |
//! | `put_long K BYTE LENGTH ts=` | a value of that many equal bytes |
//! | `delete_range START END ts= [id=]` | an END of `-` is unbounded |
//! | `rollback K ts=` | a rollback mark |
//! | `lock K ts= [kind=] [least=] [tentative]` · `unlock K` | an intent |
//! | `get K [ts=]` · `multi_get K… [ts=]` | without `ts=`: the latest |
//! | `scan START END [ts=] [limit=] [bytes=] [reverse] [keys_only] [pages]` | `pages` follows the resume key |
//! | `find K id= [above=]` · `find_range START END id= [above=]` | what a retry looks for |
//! | `fence id= ts=` · `unfence id=` · `fences [now=]` | |
//! | `split K` · `split_fences` | what a split writes: tombstones cut at K, fences copied |
//! | `prewrite ID K… [snapshot=] [primary=] [least=] [sequence=] [async]` | firm intents; `k:v` puts, `k!` deletes, `k?` checks |
//! | `once ID K… at= [snapshot=]` | a commit in one round |
//! | `acquire ID K… [snapshot=] [sequence=] [least=]` · `firm ID START END [least=]` | tentative intents, made firm |
//! | `commit ID K… at= [open]` · `finish ID K at=` · `abort ID K…` | of single keys |
//! | `resolve ID START END [at=] [limit=]` · `settle ID K… [at=]` | of all keys of a span, of some keys |
//! | `status ID PRIMARY [now=] [push=] [roll_back_absent]` · `states ID K… [roll_back_absent]` | |
//! | `renew ID PRIMARY lifetime=` · `check ID K… [from= to=] snapshot= at=` · `intents START END ts=` | |
//! | `collect ts=` | one page of garbage collection; says whose primaries are open |
//! | `dump` · `checksum` | every record; whether the checksum changed since the last time |

use bytes::Bytes;
use rangedb_engine::{
    Durability, Engine, EngineKind, EngineSettings, Family, Snapshot, WriteBatch, open,
};
use rangedb_mvcc::collect::{CollectLimits, collect};
use rangedb_mvcc::key::{bounds, decode_key, encode_key, split_version, versioned_key};
use rangedb_mvcc::record::{LockKind, LockRecord, TombstoneRecord, WriteKind, WriteRecord};
use rangedb_mvcc::txn::ActionError;
use rangedb_mvcc::{
    Condition, ConditionError, Entry, FenceSet, Mutation, MvccError, ScanOptions, Seen,
    TombstoneSet, Value, check_condition, checksum, delete, delete_range, fence, find_delete_range,
    find_request, get, multi_get, put, scan, tombstones_for_split,
};
use rangedb_types::{Epoch, RangeDescriptor, RangeId, RequestId, Span, Timestamp};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

#[path = "histories/transactions.rs"]
mod transactions;

const RANGE: RangeId = RangeId(1);
/// What a split makes of its right half.
const RIGHT: RangeId = RangeId(2);

struct History {
    engine: Arc<dyn Engine>,
    checksum: Option<u64>,
}

/// A command's words: bare ones in order, and `name=value` or bare flags by name.
struct Words<'a> {
    bare: Vec<&'a str>,
    named: HashMap<&'a str, &'a str>,
}

const FLAGS: [&str; 8] = [
    "if_absent",
    "reverse",
    "keys_only",
    "pages",
    "tentative",
    "async",
    "roll_back_absent",
    "open",
];

impl<'a> Words<'a> {
    fn parse(line: &'a str) -> Self {
        let (mut bare, mut named) = (Vec::new(), HashMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(named.insert(name, value)),
                None if FLAGS.contains(&word) => drop(named.insert(word, "")),
                None => bare.push(word),
            }
        }
        Self { bare, named }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.named.get(name).map(|value| value.parse().expect("a number"))
    }

    fn ts(&self) -> Timestamp {
        Timestamp(self.number("ts").expect("ts="))
    }

    fn read_ts(&self) -> Timestamp {
        self.number("ts").map_or(Timestamp::MAX, Timestamp)
    }

    fn id(&self) -> RequestId {
        RequestId(self.number("id").unwrap_or(0).into())
    }

    fn above(&self) -> Timestamp {
        Timestamp(self.number("above").unwrap_or(0))
    }

    fn has(&self, flag: &str) -> bool {
        self.named.contains_key(flag)
    }

    fn key(&self, n: usize) -> &'a [u8] {
        self.bare[n].as_bytes()
    }

    fn span(&self) -> Span {
        let end = if self.bare[2] == "-" { vec![] } else { self.key(2).to_vec() };
        Span { start: self.key(1).to_vec(), end }
    }

    fn condition(&self) -> Condition {
        match self.number("if_version") {
            Some(version) => Condition::VersionIs(Timestamp(version)),
            None if self.has("if_absent") => Condition::Absent,
            None => Condition::None,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 20 && bytes.iter().all(|byte| *byte == bytes[0]) {
        return format!("{}×{}", bytes[0] as char, bytes.len());
    }
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(value: Option<&Value>) -> String {
    value.map_or("none".to_owned(), |value| format!("{} @{}", text(&value.bytes), value.version))
}

fn error(error: &MvccError) -> String {
    match error {
        MvccError::KeyLocked { key, lock } => {
            format!("error: {} is locked by {}", text(key), lock.start_ts)
        }
        other => format!("error: {other}"),
    }
}

fn action_error(error_: &ActionError) -> String {
    match error_ {
        ActionError::KeyLocked { key, lock } => {
            format!("refused: {} is locked by {}", text(key), lock.start_ts)
        }
        ActionError::WriteConflict { key, version } => {
            format!("refused: {} was written @{version}", text(key))
        }
        ActionError::Aborted { key } => format!("refused: rolled back at {}", text(key)),
        ActionError::Committed { version } => format!("refused: committed @{version}"),
        ActionError::NotPrimary { key } => format!("refused: {} does not decide", text(key)),
        ActionError::OutOfTurn { key } => format!("refused: out of turn at {}", text(key)),
        ActionError::CommitTooEarly { least } => format!("refused: not below {least}"),
        ActionError::Mvcc(failed) => error(failed),
    }
}

impl History {
    fn snapshot(&self) -> (Arc<dyn Snapshot>, TombstoneSet) {
        let snapshot = self.engine.snapshot();
        let tombstones = TombstoneSet::load(&*snapshot, &Span::all()).expect("tombstones");
        (snapshot, tombstones)
    }

    fn write(&self, mutations: &[Mutation]) -> String {
        let mut batch = WriteBatch::new();
        mutations.iter().for_each(|mutation| mutation.add_to(&mut batch));
        self.engine.write(&batch, Durability::Buffered).expect("write");
        "ok".to_owned()
    }

    fn conditional(&self, words: &Words<'_>, mutations: &[Mutation]) -> String {
        let (snapshot, tombstones) = self.snapshot();
        match check_condition(&*snapshot, &tombstones, words.key(1), words.condition()) {
            Ok(()) => self.write(mutations),
            Err(ConditionError::Failed { current }) => {
                format!("refused: {}", show(current.as_ref()))
            }
            Err(ConditionError::Mvcc(failed)) => error(&failed),
        }
    }

    fn run(&mut self, line: &str) -> String {
        let words = Words::parse(line);
        match words.bare[0] {
            "put" => {
                let changes = put(words.key(1), words.key(2), words.ts(), words.id());
                self.conditional(&words, &changes)
            }
            "put_long" => {
                let value = words.bare[2].repeat(words.bare[3].parse().expect("a length"));
                self.write(&put(words.key(1), value.as_bytes(), words.ts(), words.id()))
            }
            "delete" => self.conditional(&words, &delete(words.key(1), words.ts(), words.id())),
            "delete_range" => self.write(&delete_range(&words.span(), words.ts(), words.id())),
            "rollback" => self.rollback(&words),
            "lock" => self.lock(&words),
            "unlock" => self.write(&[Mutation::remove(Family::Lock, encode_key(words.key(1)))]),
            "get" | "multi_get" => self.get(&words),
            "scan" => self.scan(&words),
            "find" | "find_range" => self.find(&words),
            "fence" => self.write(&[fence::fence(RANGE, words.id(), words.ts())]),
            "unfence" => self.write(&[fence::remove_fence(RANGE, words.id())]),
            "fences" => self.fences(&words, RANGE),
            "split" => {
                let (snapshot, _) = self.snapshot();
                let changes = tombstones_for_split(&*snapshot, &Span::all(), words.key(1));
                self.write(&changes.expect("tombstones"))
            }
            "split_fences" => {
                let (snapshot, _) = self.snapshot();
                let copies = fence::fences_for_split(&*snapshot, RANGE, RIGHT).expect("fences");
                self.write(&copies);
                self.fences(&words, RIGHT)
            }
            "prewrite" | "once" | "acquire" | "firm" | "commit" | "abort" | "resolve"
            | "settle" | "finish" | "status" | "states" | "renew" | "check" | "intents" => {
                transactions::run(self, &words).unwrap_or_else(|failed| action_error(&failed))
            }
            "collect" => self.collect(&words),
            "dump" => self.dump(),
            "checksum" => self.checksum(),
            other => panic!("no such command: {other}"),
        }
    }

    fn collect(&self, words: &Words<'_>) -> String {
        let (snapshot, tombstones) = self.snapshot();
        let limits = CollectLimits { versions_max: 1_000, removals_max: 1_000 };
        let found = collect(&*snapshot, &tombstones, &Span::all(), words.ts(), limits);
        let found = found.expect("a page");
        let open = found.open.iter().map(|primary| {
            let key = String::from_utf8_lossy(&primary.key);
            format!("open: {key} of {} @{}", primary.id.0, primary.version.0)
        });
        let open: Vec<_> = open.collect();
        let written = self.write(&found.removals);
        if open.is_empty() { written } else { open.join("\n") }
    }

    fn rollback(&self, words: &Words<'_>) -> String {
        let record = WriteRecord {
            kind: WriteKind::Rollback,
            start_ts: words.ts(),
            request_id: RequestId(0),
            expiry: None,
            encryption_key_id: None,
            open: false,
            short_value: None,
        };
        let key = versioned_key(words.key(1), words.ts());
        self.write(&[Mutation::put(Family::Write, key, record.encode())])
    }

    fn lock(&self, words: &Words<'_>) -> String {
        let record = LockRecord {
            kind: match words.named.get("kind").copied() {
                None | Some("put") => LockKind::Put,
                Some("delete") => LockKind::Delete,
                Some("check") => LockKind::Check,
                Some(other) => panic!("no such kind: {other}"),
            },
            tentative: words.has("tentative"),
            start_ts: words.ts(),
            min_commit_ts: Timestamp(words.number("least").unwrap_or(words.ts().0)),
            lifetime_ms: 3_000,
            sequence: 1,
            primary: words.key(1).to_vec(),
            short_value: None,
            secondaries: None,
        };
        self.write(&[Mutation::put(Family::Lock, encode_key(words.key(1)), record.encode())])
    }

    fn get(&self, words: &Words<'_>) -> String {
        let (snapshot, tombstones) = self.snapshot();
        let keys: Vec<&[u8]> = words.bare[1..].iter().map(|key| key.as_bytes()).collect();
        let many = multi_get(&*snapshot, &tombstones, &keys, Seen::at(words.read_ts()));
        let single: Result<Vec<_>, _> = keys
            .iter()
            .map(|key| get(&*snapshot, &tombstones, key, Seen::at(words.read_ts())))
            .collect();
        assert_eq!(many, single, "one by one is the same as together");
        match many {
            Err(failed) => error(&failed),
            Ok(values) => {
                values.iter().map(|value| show(value.as_ref())).collect::<Vec<_>>().join("\n")
            }
        }
    }

    fn scan(&self, words: &Words<'_>) -> String {
        let (snapshot, tombstones) = self.snapshot();
        let options = ScanOptions {
            limit: words.number("limit").unwrap_or(0) as usize,
            bytes_max: words.number("bytes").unwrap_or(1 << 20) as usize,
            reverse: words.has("reverse"),
            keys_only: words.has("keys_only"),
        };
        let line = |entry: &Entry| {
            let value = text(&entry.value);
            let gap = if value.is_empty() { "" } else { " " };
            format!("{}:{gap}{value} @{}", text(&entry.key), entry.version)
        };
        let mut span = words.span();
        let mut out = Vec::new();
        loop {
            let page =
                match scan(&*snapshot, &tombstones, &span, Seen::at(words.read_ts()), &options) {
                    Ok(page) => page,
                    Err(failed) => {
                        out.push(error(&failed));
                        break;
                    }
                };
            out.extend(page.entries.iter().map(line));
            let Some(resume) = page.resume else {
                out.push("end".to_owned());
                break;
            };
            assert!(!page.entries.is_empty(), "a page with a resume key has entries");
            out.push(format!("resume {}", String::from_utf8_lossy(&resume).replace('\0', "\\0")));
            if !words.has("pages") {
                break;
            }
            if options.reverse {
                span.end = resume.to_vec();
            } else {
                span.start = resume.to_vec();
            }
        }
        out.join("\n")
    }

    fn find(&self, words: &Words<'_>) -> String {
        let (snapshot, _) = self.snapshot();
        let found = if words.bare[0] == "find" {
            find_request(&*snapshot, words.key(1), words.id(), words.above())
        } else {
            find_delete_range(&*snapshot, &words.span(), words.id(), words.above())
        };
        found.expect("find").map_or("not found".to_owned(), |version| format!("@{version}"))
    }

    fn fences(&self, words: &Words<'_>, range_id: RangeId) -> String {
        let (snapshot, _) = self.snapshot();
        let set = FenceSet::load(&*snapshot, range_id).expect("fences");
        let mut ids: Vec<u128> = match words.number("now") {
            Some(now) => set.expired(Timestamp(now)).map(|id| id.0).collect(),
            None => (1..100).filter(|&id| set.get(RequestId(id)).is_some()).collect(),
        };
        ids.sort_unstable();
        format!("{ids:?}")
    }

    fn checksum(&mut self) -> String {
        let (snapshot, _) = self.snapshot();
        let range = RangeDescriptor {
            range_id: RANGE,
            span: Span::all(),
            epoch: Epoch::default(),
            replicas: vec![],
        };
        let sum = checksum(&*snapshot, &range).expect("checksum");
        let before = self.checksum.replace(sum.checksum);
        let how = if before == Some(sum.checksum) { "the same" } else { "new" };
        format!("{how}, {} entries", sum.entries)
    }

    fn dump(&self) -> String {
        let snapshot = self.engine.snapshot();
        let held = bounds(&Span::all());
        let mut out = String::new();
        for family in [Family::Data, Family::Lock, Family::Write, Family::RangeTombstone] {
            let mut iter = snapshot.iterator(family, &held.lower, &held.upper).expect("iterator");
            let mut valid = iter.seek_to_first().expect("seek");
            while valid {
                let (key, at) = if family.is_versioned() {
                    let (encoded, version) = split_version(family, iter.key()).expect("a version");
                    (decode_key(family, encoded).expect("a key"), format!(" @{version}"))
                } else {
                    (decode_key(family, iter.key()).expect("a key"), String::new())
                };
                let what = match family {
                    Family::Write => {
                        let record = WriteRecord::decode(iter.value()).expect("a record");
                        let inline = record.short_value.map(|v| format!(" {}", text(v)));
                        let open = if record.open { " (open)" } else { "" };
                        format!("{:?}{}{open}", record.kind, inline.unwrap_or_default())
                    }
                    Family::RangeTombstone => {
                        let record = TombstoneRecord::decode(iter.value()).expect("a record");
                        let end = if record.end.is_empty() { b"-" } else { record.end };
                        format!("to {}", text(end))
                    }
                    _ => format!("{} bytes", iter.value().len()),
                };
                writeln!(out, "{family} {}{at}: {what}", text(&key)).expect("a string");
                valid = iter.next().expect("next");
            }
        }
        out.trim_end().to_owned()
    }
}

/// Runs one history and gives it back with the output it has now.
fn run(script: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open(EngineKind::RocksDb, dir.path(), &EngineSettings::default()).expect("open");
    let mut history = History { engine, checksum: None };
    let mut out = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string");
            continue;
        }
        let mut block = vec![line];
        block.extend(lines.by_ref().take_while(|line| *line != "----"));
        for _ in lines.by_ref().take_while(|line| !line.trim().is_empty()) {}
        let mut results = Vec::new();
        for line in &block {
            writeln!(out, "{line}").expect("a string");
            let result = history.run(line);
            // Writes that went through are not worth a line.
            if result != "ok" && !result.is_empty() {
                results.push(result);
            }
        }
        if results.is_empty() {
            results.push("ok".to_owned());
        }
        writeln!(out, "----\n{}\n", results.join("\n")).expect("a string");
    }
    format!("{}\n", out.trim_end())
}

#[test]
fn histories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("testdata")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the histories are gone");
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let script = std::fs::read_to_string(&file).expect("read");
        let now = run(&script);
        if rewrite {
            std::fs::write(&file, now).expect("write");
        } else if now != script {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let line = now.lines().zip(script.lines()).take_while(|(a, b)| a == b).count() + 1;
            wrong.push(format!("{name} from line {line}; it is now:\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_key_may_hold_any_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open(EngineKind::RocksDb, dir.path(), &EngineSettings::default()).expect("open");
    let keys: [&[u8]; 5] = [b"\0", b"\0\0", b"\0\xff", b"a\0b", b"\xff\xff"];
    let mut batch = WriteBatch::new();
    for (n, key) in keys.iter().enumerate() {
        for mutation in put(key, key, Timestamp(n as u64 + 1), RequestId(0)) {
            mutation.add_to(&mut batch);
        }
    }
    engine.write(&batch, Durability::Buffered).expect("write");
    let snapshot = engine.snapshot();
    let none = TombstoneSet::empty();
    for reverse in [false, true] {
        let options = ScanOptions { reverse, ..ScanOptions::default() };
        let page = scan(&*snapshot, &none, &Span::all(), Seen::LATEST, &options).expect("scan");
        let mut found: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.key).collect();
        if reverse {
            found.reverse();
        }
        assert_eq!(found, keys);
    }
}
