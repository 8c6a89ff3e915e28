//! What the fake nodes know together, and how they misbehave.

use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::watch;
use wire::data_request::Operation;
use wire::data_response::Result as Answer;
use wire::node_error::Kind;

/// What a node does with its next request of a kind, instead of serving it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers so.
    Refuse(Kind),
    /// Applies it and breaks the stream.
    ApplyAndBreak,
    /// Breaks the stream.
    Break,
    /// Applies it and never answers.
    ApplyAndHang,
    /// Never answers.
    Hang,
}

#[derive(Clone)]
struct Range {
    descriptor: wire::RangeDescriptor,
    leader: u64,
}

impl Range {
    fn route(&self) -> wire::Route {
        wire::Route {
            range: Some(self.descriptor.clone()),
            leader_replica_id: self.descriptor.range_id * 10 + self.leader,
        }
    }
}

/// The state behind all fakes.
pub struct Store {
    ranges: Mutex<Vec<Range>>,
    data: Mutex<BTreeMap<Bytes, (Bytes, u64)>>,
    applied: Mutex<HashMap<Bytes, u64>>,
    clock: AtomicU64,
    faults: Mutex<HashMap<u64, VecDeque<Fault>>>,
    /// Requests seen, by node, if they are kept.
    requests: Mutex<Vec<(u64, wire::DataRequest)>>,
    pub keeps_requests: AtomicBool,
    pub lookups: AtomicUsize,
    pub placement_down: AtomicBool,
    pub addresses: watch::Sender<wire::NodeAddresses>,
    pub changes: watch::Sender<wire::RangeChanges>,
    nodes: u64,
}

impl Store {
    pub fn new(nodes: u64) -> std::sync::Arc<Self> {
        let all = Range { descriptor: descriptor(1, b"", b"", 1, nodes), leader: 1 };
        std::sync::Arc::new(Self {
            ranges: Mutex::new(vec![all]),
            data: Mutex::new(BTreeMap::new()),
            applied: Mutex::new(HashMap::new()),
            clock: AtomicU64::new(Timestamp::new(1_700_000_000_000, 0).0),
            faults: Mutex::new(HashMap::new()),
            requests: Mutex::new(Vec::new()),
            keeps_requests: AtomicBool::new(true),
            lookups: AtomicUsize::new(0),
            placement_down: AtomicBool::new(false),
            addresses: watch::channel(wire::NodeAddresses::default()).0,
            changes: watch::channel(wire::RangeChanges::default()).0,
            nodes,
        })
    }

    pub fn set_addresses(&self, nodes: Vec<wire::NodeAddress>) {
        self.addresses.send_replace(wire::NodeAddresses { nodes, revision: 1 });
    }

    pub fn timestamps(&self, count: u32) -> u64 {
        self.clock.fetch_add(u64::from(count.max(1)), Ordering::SeqCst)
    }

    /// Splits the map at these keys. Range i is led by node i (in turn); versions grow.
    pub fn split(&self, keys: &[&str]) {
        let mut ranges = self.ranges.lock();
        let version = ranges.iter().map(|r| r.descriptor.epoch.unwrap().version).max().unwrap() + 1;
        let mut bounds = vec![""];
        bounds.extend(keys);
        bounds.push("");
        *ranges = bounds
            .windows(2)
            .enumerate()
            .map(|(index, pair)| {
                let (id, leader) = (index as u64 + 1, index as u64 % self.nodes + 1);
                let (start, end) = (pair[0].as_bytes(), pair[1].as_bytes());
                Range { descriptor: descriptor(id, start, end, version, self.nodes), leader }
            })
            .collect();
    }

    pub fn set_leader(&self, range_id: u64, node: u64) {
        for range in self.ranges.lock().iter_mut() {
            if range.descriptor.range_id == range_id {
                range.leader = node;
            }
        }
    }

    /// The next requests at a node meet these.
    pub fn inject(&self, node: u64, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().entry(node).or_default().extend(faults);
    }

    pub fn clear_faults(&self) {
        self.faults.lock().clear();
    }

    pub fn next_fault(&self, node: u64) -> Option<Fault> {
        let mut faults = self.faults.lock();
        if faults.is_empty() { None } else { faults.get_mut(&node)?.pop_front() }
    }

    pub fn saw(&self, node: u64, request: &wire::DataRequest) {
        if self.keeps_requests.load(Ordering::Relaxed) {
            self.requests.lock().push((node, request.clone()));
        }
    }

    /// The requests seen so far; forgets them.
    pub fn take_requests(&self) -> Vec<(u64, wire::DataRequest)> {
        std::mem::take(&mut self.requests.lock())
    }

    /// The write identities seen so far, with their nodes; forgets the requests.
    pub fn take_writes(&self) -> Vec<(u64, wire::WriteIdentity)> {
        let requests = self.take_requests();
        requests
            .into_iter()
            .filter_map(|(node, request)| {
                let identity = match request.operation? {
                    Operation::Put(put) => put.identity,
                    Operation::Delete(delete) => delete.identity,
                    Operation::DeleteRange(delete) => delete.identity,
                    _ => None,
                };
                Some((node, identity?))
            })
            .collect()
    }

    pub fn routes(&self, start: &[u8], limit: u32) -> Vec<wire::Route> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let ranges = self.ranges.lock();
        let from =
            ranges.iter().filter(|r| r.descriptor.end.is_empty() || *r.descriptor.end > *start);
        from.take(limit as usize).map(Range::route).collect()
    }

    /// Tells every watcher of all ranges.
    pub fn tell_changes(&self) {
        let routes = self.ranges.lock().iter().map(Range::route).collect();
        self.changes.send_replace(wire::RangeChanges { revision: 2, routes });
    }

    /// What a well-behaved node answers.
    pub fn serve(&self, node: u64, request: wire::DataRequest) -> Answer {
        match self.check(node, &request) {
            Ok(range) => self.execute(&range, request),
            Err(kind) => refusal(kind),
        }
    }

    fn check(&self, node: u64, request: &wire::DataRequest) -> Result<wire::RangeDescriptor, Kind> {
        let ranges = self.ranges.lock();
        let epoch = request.epoch.unwrap();
        let found = ranges.iter().find(|range| range.descriptor.range_id == request.range_id);
        let Some(range) = found else {
            return Err(Kind::RangeNotFound(wire::RangeNotFound { range_id: request.range_id }));
        };
        if range.descriptor.epoch.unwrap().version != epoch.version {
            let ranges = ranges.iter().map(|range| range.descriptor.clone()).collect();
            return Err(Kind::EpochMismatch(wire::EpochMismatch { ranges }));
        }
        if range.leader != node {
            let leader = range.descriptor.replicas.iter().find(|r| r.node_id == range.leader);
            return Err(Kind::NotLeader(wire::NotLeader {
                range_id: request.range_id,
                leader: leader.copied(),
                range: Some(range.descriptor.clone()),
            }));
        }
        Ok(range.descriptor.clone())
    }

    fn execute(&self, range: &wire::RangeDescriptor, request: wire::DataRequest) -> Answer {
        match request.operation.unwrap() {
            Operation::Get(get) => {
                let data = self.data.lock();
                let values = get.keys.iter().map(|key| value(data.get(key))).collect();
                Answer::Get(wire::NodeGetResult { values })
            }
            Operation::Put(put) => {
                self.write(put.key, Some(put.value), put.condition, &put.identity.unwrap())
            }
            Operation::Delete(delete) => {
                self.write(delete.key, None, delete.condition, &delete.identity.unwrap())
            }
            Operation::DeleteRange(delete) => {
                let version = self.timestamps(1);
                let end = delete.end;
                self.data
                    .lock()
                    .retain(|key, _| *key < delete.start || (!end.is_empty() && *key >= end));
                Answer::Write(wire::NodeWriteResult { version })
            }
            Operation::Scan(scan) => Answer::Scan(self.scan(range, &scan)),
            Operation::Action(_) => refusal(Kind::Invalid(wire::node_error::Invalid::default())),
            Operation::Claim(_) => Answer::Claim(wire::NodeClaimResult { index: 0 }),
            Operation::CommitStatus(status) => {
                let version = self.applied.lock().get(&status.request_id).copied();
                Answer::CommitStatus(wire::NodeCommitStatusResult {
                    committed: version.is_some(),
                    version: version.unwrap_or_default(),
                })
            }
        }
    }

    fn write(
        &self,
        key: Bytes,
        new: Option<Bytes>,
        condition: Option<wire::WriteCondition>,
        identity: &wire::WriteIdentity,
    ) -> Answer {
        assert_eq!(identity.request_id.len(), 16);
        assert_ne!(identity.seen_version, 0);
        let mut applied = self.applied.lock();
        if identity.retry
            && let Some(version) = applied.get(&identity.request_id)
        {
            return Answer::Write(wire::NodeWriteResult { version: *version });
        }
        let mut data = self.data.lock();
        let current = data.get(&key);
        let holds = match condition.and_then(|condition| condition.must) {
            Some(wire::write_condition::Must::Absent(_)) => current.is_none(),
            Some(wire::write_condition::Must::VersionIs(version)) => {
                current.is_some_and(|(_, known)| *known == version)
            }
            None => true,
        };
        if !holds {
            let current = Some(value(current));
            return refusal(Kind::ConditionFailed(wire::NodeConditionFailed { current }));
        }
        let version = self.timestamps(1);
        match new {
            Some(new) => data.insert(key, (new, version)),
            None => data.remove(&key),
        };
        if self.keeps_requests.load(Ordering::Relaxed) {
            applied.insert(identity.request_id.clone(), version);
        }
        Answer::Write(wire::NodeWriteResult { version })
    }

    fn scan(&self, range: &wire::RangeDescriptor, scan: &wire::NodeScan) -> wire::NodeScanResult {
        let start = scan.start.clone().max(range.start.clone());
        let end = match (scan.end.is_empty(), range.end.is_empty()) {
            (true, _) => range.end.clone(),
            (_, true) => scan.end.clone(),
            _ => scan.end.clone().min(range.end.clone()),
        };
        let data = self.data.lock();
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let inside = data.range((Bound::Included(start), upper));
        let mut inside: Vec<_> = inside.collect();
        if scan.reverse {
            inside.reverse();
        }
        let (mut entries, mut bytes, mut resume) = (Vec::new(), 0, None);
        for (key, (value, version)) in inside {
            let full =
                bytes >= scan.bytes_max || (scan.limit > 0 && entries.len() as u64 >= scan.limit);
            if full && !entries.is_empty() {
                let last: &wire::NodeEntry = entries.last().unwrap();
                resume = Some(if scan.reverse { last.key.clone() } else { key.clone() });
                break;
            }
            bytes += (key.len() + value.len()) as u64;
            let value = if scan.keys_only { Bytes::new() } else { value.clone() };
            entries.push(wire::NodeEntry { key: key.clone(), value, version: *version });
        }
        let read_version = if scan.read_version == 0 {
            self.clock.load(Ordering::SeqCst)
        } else {
            scan.read_version
        };
        wire::NodeScanResult { entries, resume, read_version }
    }
}

fn value(found: Option<&(Bytes, u64)>) -> wire::NodeValue {
    found.map_or_else(wire::NodeValue::default, |(value, version)| wire::NodeValue {
        found: true,
        value: value.clone(),
        version: *version,
    })
}

pub fn refusal(kind: Kind) -> Answer {
    Answer::Error(wire::NodeError { message: "a fake refusal".to_owned(), kind: Some(kind) })
}

fn descriptor(
    id: u64,
    start: &[u8],
    end: &[u8],
    version: u64,
    nodes: u64,
) -> wire::RangeDescriptor {
    let replicas = (1..=nodes)
        .map(|node_id| wire::Replica { replica_id: id * 10 + node_id, node_id, role: 0 })
        .collect();
    wire::RangeDescriptor {
        range_id: id,
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
        epoch: Some(wire::Epoch { version, conf_version: 1 }),
        replicas,
    }
}
