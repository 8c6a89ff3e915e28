//! Random histories against a model that keeps every version and tombstone in a list and answers by
//! looking at all of them.

use proptest::prelude::*;
use rangedb_engine::{
    Durability, Engine, EngineKind, EngineSettings, Family, Snapshot, WriteBatch, open,
};
use rangedb_mvcc::key::versioned_key;
use rangedb_mvcc::record::{WriteKind, WriteRecord};
use rangedb_mvcc::{
    Condition, ConditionError, Mutation, ScanOptions, Seen, TombstoneSet, Value, check_condition,
    checksum, delete, delete_range, find_delete_range, find_request, get, multi_get, put, scan,
    tombstones_for_split,
};
use rangedb_types::{Epoch, RangeDescriptor, RangeId, RequestId, Span, Timestamp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Timestamps grow by this from step to step, so that there are some between them.
const STEP: u64 = 10;

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, usize),
    Delete(Vec<u8>),
    DeleteRange(Span),
    Rollback(Vec<u8>),
    Split(Vec<u8>),
    Flush,
}

/// What the model keeps.
#[derive(Clone, Debug, Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>,
    tombstones: Vec<(Span, u64)>,
}

impl Model {
    fn get(&self, key: &[u8], read_ts: u64) -> Option<(u64, &[u8])> {
        let (&version, value) = self.versions.get(key)?.range(..=read_ts).next_back()?;
        let hidden = self
            .tombstones
            .iter()
            .any(|(span, at)| span.contains(key) && *at <= read_ts && version < *at);
        value.as_deref().filter(|_| !hidden).map(|value| (version, value))
    }

    fn scan(&self, span: &Span, read_ts: u64) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
        self.versions
            .keys()
            .filter(|key| span.contains(key))
            .filter_map(|key| {
                self.get(key, read_ts).map(|(version, v)| (key.clone(), v.to_vec(), version))
            })
            .collect()
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop::sample::select(vec![0u8, 1, b'a', 0xff]);
    prop::collection::vec(byte(), 1..4)
}

fn span() -> impl Strategy<Value = Span> {
    (key(), key(), any::<bool>()).prop_map(|(a, b, bounded)| {
        let (start, end) = if a <= b { (a, b) } else { (b, a) };
        let end = if start == end || !bounded { vec![] } else { end };
        Span { start, end }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 0usize..10, 1 => Just(1024), 1 => 1025usize..1300];
    prop_oneof![
        10 => (key(), length).prop_map(|(key, length)| Step::Put(key, length)),
        3 => key().prop_map(Step::Delete),
        2 => span().prop_map(Step::DeleteRange),
        1 => key().prop_map(Step::Rollback),
        1 => key().prop_map(Step::Split),
        1 => Just(Step::Flush),
    ]
}

#[derive(Clone, Debug)]
struct Question {
    span: Span,
    keys: Vec<Vec<u8>>,
    read_ts: u64,
    limit: usize,
    bytes_max: usize,
    keys_only: bool,
}

fn question(steps: u64) -> impl Strategy<Value = Question> {
    (
        span(),
        prop::collection::vec(key(), 0..8),
        prop_oneof![3 => 0..steps * STEP + 5, 1 => Just(u64::MAX)],
        0usize..5,
        prop_oneof![0usize..20, 200usize..4_000],
        any::<bool>(),
    )
        .prop_map(|(span, keys, read_ts, limit, bytes_max, keys_only)| Question {
            span,
            keys,
            read_ts,
            limit,
            bytes_max,
            keys_only,
        })
}

fn open_at(path: &Path) -> Arc<dyn Engine> {
    open(EngineKind::RocksDb, path, &EngineSettings::default()).expect("open")
}

fn write(engine: &dyn Engine, mutations: &[Mutation]) {
    let mut batch = WriteBatch::new();
    mutations.iter().for_each(|mutation| mutation.add_to(&mut batch));
    engine.write(&batch, Durability::Buffered).expect("write");
}

fn rollback(key: &[u8], at: Timestamp) -> Mutation {
    let record = WriteRecord {
        kind: WriteKind::Rollback,
        start_ts: at,
        request_id: RequestId(0),
        expiry: None,
        encryption_key_id: None,
        open: false,
        short_value: None,
    };
    Mutation::put(Family::Write, versioned_key(key, at), record.encode())
}

/// Plays a step into the engine and the model. The step's number names its request.
fn play(engine: &dyn Engine, model: &mut Model, number: u64, step: &Step) {
    let ts = Timestamp(number * STEP);
    let id = RequestId(number.into());
    match step {
        Step::Put(key, length) => {
            let value = vec![number as u8; *length];
            write(engine, &put(key, &value, ts, id));
            model.versions.entry(key.clone()).or_default().insert(ts.0, Some(value));
        }
        Step::Delete(key) => {
            write(engine, &delete(key, ts, id));
            model.versions.entry(key.clone()).or_default().insert(ts.0, None);
        }
        Step::DeleteRange(span) => {
            write(engine, &delete_range(span, ts, id));
            model.tombstones.push((span.clone(), ts.0));
        }
        Step::Rollback(key) => write(engine, &[rollback(key, ts)]),
        Step::Split(key) => {
            let snapshot = engine.snapshot();
            let cuts = tombstones_for_split(&*snapshot, &Span::all(), key).expect("cuts");
            write(engine, &cuts);
        }
        Step::Flush => engine.flush().expect("flush"),
    }
}

fn pages(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    question: &Question,
    reverse: bool,
) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    let options = ScanOptions {
        limit: question.limit,
        bytes_max: question.bytes_max,
        reverse,
        keys_only: question.keys_only,
    };
    let mut span = question.span.clone();
    let mut all = Vec::new();
    loop {
        let page =
            scan(snapshot, tombstones, &span, Seen::at(Timestamp(question.read_ts)), &options)
                .expect("scan");
        let bytes: usize = page.entries.iter().map(|e| e.key.len() + e.value.len()).sum();
        assert!(bytes <= question.bytes_max || page.entries.len() == 1);
        assert!(question.limit == 0 || page.entries.len() <= question.limit);
        assert!(page.resume.is_none() || !page.entries.is_empty());
        all.extend(
            page.entries.into_iter().map(|e| (e.key.to_vec(), e.value.to_vec(), e.version.0)),
        );
        let Some(resume) = page.resume else { break };
        if reverse {
            span.end = resume.to_vec();
        } else {
            span.start = resume.to_vec();
        }
    }
    if reverse {
        all.reverse();
    }
    all
}

fn check(snapshot: &dyn Snapshot, model: &Model, question: &Question) {
    let tombstones = TombstoneSet::load(snapshot, &Span::all()).expect("tombstones");
    let read_ts = Timestamp(question.read_ts);
    let mut expected = model.scan(&question.span, question.read_ts);
    if question.keys_only {
        expected.iter_mut().for_each(|(_, value, _)| value.clear());
    }
    assert_eq!(pages(snapshot, &tombstones, question, false), expected);
    assert_eq!(pages(snapshot, &tombstones, question, true), expected);

    let keys: Vec<&[u8]> = question.keys.iter().map(Vec::as_slice).collect();
    let many = multi_get(snapshot, &tombstones, &keys, Seen::at(read_ts)).expect("multi_get");
    for (key, value) in keys.into_iter().zip(many) {
        assert_eq!(get(snapshot, &tombstones, key, Seen::at(read_ts)).expect("get"), value);
        let expected = model.get(key, question.read_ts);
        let found = value.as_ref().map(|value| (value.version.0, &value.bytes[..]));
        assert_eq!(found, expected);

        let latest = model.get(key, u64::MAX).map(|(version, _)| Timestamp(version));
        let holds = |condition| match check_condition(snapshot, &tombstones, key, condition) {
            Ok(()) => true,
            Err(ConditionError::Failed { current }) => {
                assert_eq!(current.as_ref().map(|value: &Value| value.version), latest);
                false
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(holds(Condition::Absent), latest.is_none());
        assert_eq!(holds(Condition::VersionIs(read_ts)), latest == Some(read_ts));
        assert!(holds(Condition::None) && latest.is_none_or(|at| holds(Condition::VersionIs(at))));
    }
}

/// Every request is found above every timestamp before its own, and by no other key or number.
fn check_requests(snapshot: &dyn Snapshot, steps: &[Step]) {
    for (number, step) in (1u64..).zip(steps) {
        let (id, ts) = (RequestId(number.into()), Timestamp(number * STEP));
        let find = |id, above| match step {
            Step::Put(key, _) | Step::Delete(key) => find_request(snapshot, key, id, above),
            Step::DeleteRange(span) => find_delete_range(snapshot, span, id, above),
            Step::Rollback(_) | Step::Split(_) | Step::Flush => Ok(None),
        };
        let expected =
            matches!(step, Step::Put(..) | Step::Delete(_) | Step::DeleteRange(_)).then_some(ts);
        assert_eq!(find(id, Timestamp::ZERO).expect("find"), expected);
        assert_eq!(find(id, ts.prev()).expect("find"), expected);
        assert_eq!(find(id, ts).expect("find"), None);
        assert_eq!(find(RequestId(9_999), Timestamp::ZERO).expect("find"), None);
    }
}

fn whole(span: Span) -> RangeDescriptor {
    RangeDescriptor { range_id: RangeId(1), span, epoch: Epoch::default(), replicas: vec![] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn reads_are_what_the_history_says(
        steps in prop::collection::vec(step(), 1..60),
        questions in prop::collection::vec(question(60), 1..30),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let engine = open_at(dir.path());
        let mut model = Model::default();
        let half = steps.len() / 2;
        let mut middle = None;
        for (number, step) in (1u64..).zip(&steps) {
            play(&*engine, &mut model, number, step);
            if number as usize == half {
                middle = Some((engine.snapshot(), model.clone()));
            }
        }
        for question in &questions {
            check(&*engine.snapshot(), &model, question);
            if let Some((snapshot, model)) = &middle {
                check(&**snapshot, model, question);
            }
        }
        check_requests(&*engine.snapshot(), &steps);
    }

    #[test]
    fn replicas_with_one_history_have_one_checksum(
        steps in prop::collection::vec(step(), 1..30), odd in key(), at in 1u64..30,
    ) {
        let (dir_a, dir_b) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
        let (a, b) = (open_at(dir_a.path()), open_at(dir_b.path()));
        for (number, step) in (1u64..).zip(&steps) {
            play(&*a, &mut Model::default(), number, step);
            play(&*b, &mut Model::default(), number, step);
        }
        b.flush().expect("flush");
        let sum = |engine: &dyn Engine, span| {
            checksum(&*engine.snapshot(), &whole(span)).expect("checksum")
        };
        prop_assert_eq!(sum(&*a, Span::all()), sum(&*b, Span::all()));
        // One more record, however old, makes the difference, and only where it is.
        write(&*b, &put(&odd, b"odd", Timestamp(at * STEP + 1), RequestId(0)));
        prop_assert_ne!(sum(&*a, Span::all()), sum(&*b, Span::all()));
        let left = Span { start: vec![], end: odd };
        prop_assert_eq!(sum(&*a, left.clone()), sum(&*b, left));
    }
}
