//! The examples of `docs/storage-format.md` are what the code writes.
//!
//! `REWRITE=1 cargo test -p rangedb-mvcc --test format` writes them anew: only ever to add some. A
//! line that changes is data on disk that can no longer be read.

use rangedb_mvcc::key::{KEY_SPACE_END, bounds, encode_key, versioned_key};
use rangedb_mvcc::record::{LockKind, LockRecord, TombstoneRecord, WriteKind, WriteRecord};
use rangedb_mvcc::state::{
    AppliedState, InstallIntent, RangeRecord, RangeState, ReplicaTombstone, StoreRecord,
};
use rangedb_mvcc::{Mutation, delete, delete_range, fence, put};
use rangedb_types::{
    ClusterId, Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, RequestId,
    Span, Timestamp,
};
use std::fmt::Write as _;
use std::path::Path;

const REQUEST: RequestId = RequestId(0xaa);

fn hex(bytes: &[u8]) -> String {
    // A long run at the end says nothing that its length does not.
    let tail = bytes.iter().rev().take_while(|byte| Some(*byte) == bytes.last()).count();
    let shown = if tail > 40 { &bytes[..bytes.len() - tail + 1] } else { bytes };
    let mut text: Vec<String> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    if shown.len() < bytes.len() {
        text.push(format!("… ({tail} times)"));
    }
    text.join(" ")
}

fn descriptor() -> RangeDescriptor {
    RangeDescriptor {
        range_id: RangeId(7),
        span: Span { start: b"a".to_vec(), end: b"m".to_vec() },
        epoch: Epoch { version: 2, conf_version: 3 },
        replicas: vec![
            Replica { replica_id: ReplicaId(21), node_id: NodeId(1), role: ReplicaRole::Voter },
            Replica { replica_id: ReplicaId(22), node_id: NodeId(2), role: ReplicaRole::Learner },
        ],
    }
}

fn mutations(out: &mut String, what: &str, mutations: &[Mutation]) {
    for mutation in mutations {
        let value = mutation.value.as_deref().expect("these examples put");
        line(out, &format!("{what}: {} key", mutation.family), &mutation.key);
        line(out, &format!("{what}: {} value", mutation.family), value);
    }
}

fn line(out: &mut String, what: &str, bytes: &[u8]) {
    writeln!(out, "{what}\n    {}", hex(bytes)).expect("a string");
}

fn examples() -> String {
    let mut out = String::new();
    let at = Timestamp(0x0102_0304_0506_0708);
    line(&mut out, "encoded key: user", &encode_key(b"user"));
    line(&mut out, "encoded key: 61 00 62", &encode_key(b"a\0b"));
    line(&mut out, "encoded key: nothing (the start of the first range)", &encode_key(b""));
    line(&mut out, "bound above every key", &bounds(&Span::all()).upper);
    assert_eq!(bounds(&Span::all()).upper, [KEY_SPACE_END]);
    line(&mut out, "key: k at 0102030405060708", &versioned_key(b"k", at));
    mutations(&mut out, "put k = value, request aa", &put(b"k", b"value", at, REQUEST));
    mutations(&mut out, "put k = 1025 times ee", &put(b"k", &[0xee; 1025], at, REQUEST));
    mutations(&mut out, "delete k, no request id", &delete(b"k", at, RequestId(0)));
    let span = Span { start: b"a".to_vec(), end: b"m".to_vec() };
    mutations(&mut out, "delete range a to m", &delete_range(&span, at, REQUEST));
    mutations(&mut out, "fence of request aa in range 7", &[fence::fence(RangeId(7), REQUEST, at)]);
    reserved(&mut out, at);
    state(&mut out, at);
    out
}

/// Formats that nothing writes yet.
fn reserved(out: &mut String, at: Timestamp) {
    let record = WriteRecord {
        kind: WriteKind::Put,
        start_ts: Timestamp(5),
        request_id: REQUEST,
        expiry: Some(at),
        encryption_key_id: Some(9),
        open: true,
        short_value: Some(b"v"),
    };
    line(out, "write record: all fields", &record.encode());
    let record = WriteRecord {
        kind: WriteKind::Rollback,
        start_ts: at,
        request_id: RequestId(0),
        expiry: None,
        encryption_key_id: None,
        open: false,
        short_value: None,
    };
    line(out, "write record: rollback", &record.encode());
    let record = TombstoneRecord { request_id: RequestId(0), end: b"" };
    line(out, "range tombstone: no request id, no end", &record.encode());
    let record = LockRecord {
        kind: LockKind::Put,
        tentative: true,
        start_ts: at,
        min_commit_ts: at.next(),
        lifetime_ms: 3_000,
        sequence: 1,
        primary: b"k".to_vec(),
        short_value: Some(b"v".to_vec()),
        secondaries: Some(vec![b"l".to_vec()]),
    };
    line(out, "lock: all fields", &record.encode());
}

fn state(out: &mut String, at: Timestamp) {
    let store = StoreRecord {
        format_version: 1,
        cluster_id: ClusterId(0xc1),
        node_id: NodeId(1),
        store_id: 0x51,
    };
    line(out, "store", &store.encode());
    let range = RangeId(7);
    line(out, "range state: key", &RangeState::key(range));
    let state = RangeState { replica_id: ReplicaId(21), descriptor: descriptor() };
    line(out, "range state", &state.encode());
    line(out, "applied state: key", &AppliedState::key(range));
    line(out, "applied state", &AppliedState { index: 11, term: 2, max_version: at }.encode());
    line(out, "replica tombstone: key", &ReplicaTombstone::key(range));
    line(out, "replica tombstone", &ReplicaTombstone { replica_id: ReplicaId(20) }.encode());
    line(out, "install intent: key", &InstallIntent::key(range));
    let intent = InstallIntent {
        replica_id: ReplicaId(22),
        descriptor: descriptor(),
        index: 11,
        term: 2,
        staged: "snapshots/22".to_owned(),
    };
    line(out, "install intent", &intent.encode());
}

#[test]
fn the_examples_of_the_format_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/storage-format.md");
    let document = std::fs::read_to_string(&path).expect("docs/storage-format.md");
    let (before, rest) = document.split_once("```examples\n").expect("an examples block");
    let (stored, after) = rest.split_once("```").expect("the block's end");
    let examples = examples();
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, format!("{before}```examples\n{examples}```{after}")).expect("write");
    } else {
        assert_eq!(stored, examples, "the format on disk changed");
    }
}
