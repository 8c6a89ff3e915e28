//! `admin ranges`. Owns: ranges as a list and one by one, and the comparison of their replicas.

use super::changes::{self, Change};
use super::{Admin, read};
use crate::exit::Failure;
use crate::output::{self, escape, text_or_base64};
use bytes::Bytes;
use rangedb_proto::v1::{
    GetRangeRequest, GetRangeResponse, ListRangesRequest, RangeStatus, ReplicaChecksum,
    VerifyRangeRequest, VerifyRangeResponse, wish_status,
};
use serde::Serialize;
use std::time::Duration;

/// Comparing reads all data of a range: a call gets this long at least.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Every range in key order, with its replicas
    List,
    /// One range, with what is being done about it
    Show {
        #[arg(value_name = "ID")]
        range_id: u64,
    },
    #[command(flatten)]
    Change(Change),
    /// Compare the contents of all replicas; exit code 1 if any differs or does not answer
    Verify {
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        range_id: Option<u64>,
        /// Every range
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Serialize)]
struct RangeJson {
    range_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_base64: Option<String>,
    /// The epoch; small counters, so numbers, unlike versions of values.
    version: u64,
    conf_version: u64,
    leader_node_id: u64,
    size_bytes: u64,
    replicas: Vec<ReplicaJson>,
}

#[derive(Debug, Serialize)]
struct ReplicaJson {
    node_id: u64,
    replica_id: u64,
    role: String,
}

impl RangeJson {
    fn new(range: &RangeStatus) -> Self {
        let (start, start_base64) = text_or_base64(&range.start);
        let (end, end_base64) = text_or_base64(&range.end);
        let replica = |replica: &rangedb_proto::v1::ReplicaStatus| ReplicaJson {
            node_id: replica.node_id,
            replica_id: replica.replica_id,
            role: replica.role.clone(),
        };
        Self {
            range_id: range.range_id,
            start,
            start_base64,
            end,
            end_base64,
            version: range.version,
            conf_version: range.conf_version,
            leader_node_id: range.leader_node_id,
            size_bytes: range.size_bytes,
            replicas: range.replicas.iter().map(replica).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct ShownJson {
    #[serde(flatten)]
    range: RangeJson,
    /// The step that is under way.
    operator: Option<StepJson>,
    /// The command by hand that is under way, or the last one if it ended lately.
    command: Option<CommandJson>,
}

#[derive(Debug, Serialize)]
struct StepJson {
    what: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct CommandJson {
    /// under_way | done | given_up
    state: &'static str,
    what: String,
    why: String,
}

impl ShownJson {
    fn new(range: &RangeStatus, answer: &GetRangeResponse) -> Self {
        use wish_status::State;
        let operator = answer.operator.as_ref();
        Self {
            range: RangeJson::new(range),
            operator: operator
                .map(|step| StepJson { what: step.what.clone(), why: step.why.clone() }),
            command: answer.wish.as_ref().map(|wish| CommandJson {
                state: match wish.state() {
                    State::Done => "done",
                    State::GivenUp => "given_up",
                    State::UnderWay | State::Unspecified => "under_way",
                },
                what: wish.what.clone(),
                why: wish.why.clone(),
            }),
        }
    }
}

#[derive(Debug, Serialize)]
struct VerdictJson {
    range_id: u64,
    consistent: bool,
    replicas: Vec<ChecksumJson>,
}

#[derive(Debug, Serialize)]
struct ChecksumJson {
    node_id: u64,
    replica_id: u64,
    applied_index: u64,
    checksum: String,
    entries: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl VerdictJson {
    fn new(range_id: u64, answer: &VerifyRangeResponse) -> Self {
        let checksum = |replica: &ReplicaChecksum| ChecksumJson {
            node_id: replica.node_id,
            replica_id: replica.replica_id,
            applied_index: replica.applied_index,
            checksum: format!("{:016x}", replica.checksum),
            entries: replica.entries,
            error: replica.error.clone(),
        };
        Self {
            range_id,
            consistent: answer.consistent,
            replicas: answer.replicas.iter().map(checksum).collect(),
        }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    match action {
        Action::List => {
            let ranges = all(&mut admin).await?;
            let json: Vec<_> = ranges.iter().map(RangeJson::new).collect();
            output::print(admin.output, &json, |_| list_text(&ranges))
        }
        Action::Show { range_id } => show(range_id, admin).await,
        Action::Change(change) => changes::run(change, admin).await,
        Action::Verify { range_id, .. } => {
            let range_ids = match range_id {
                Some(range_id) => vec![range_id],
                None => all(&mut admin).await?.iter().map(|range| range.range_id).collect(),
            };
            verify(range_ids, admin).await
        }
    }
}

async fn show(range_id: u64, mut admin: Admin) -> Result<(), Failure> {
    let request = admin.request(GetRangeRequest { range_id });
    let answer = read(admin.client.get_range(request).await)?;
    let Some(range) = &answer.range else {
        return Err(Failure::other("the answer holds no range"));
    };
    output::print(admin.output, &ShownJson::new(range, &answer), |shown| {
        let mut parts = vec![list_text(std::slice::from_ref(range))];
        if let Some(step) = &shown.operator {
            parts.push(format!("under way: {} ({})", step.what, step.why));
        }
        if let Some(command) = &shown.command {
            let (what, why) = (&command.what, &command.why);
            parts.push(format!("command: {what}: {} ({why})", command.state.replace('_', " ")));
        }
        parts.join("\n")
    })
}

/// Every range, page by page.
async fn all(admin: &mut Admin) -> Result<Vec<RangeStatus>, Failure> {
    let mut ranges = Vec::new();
    let mut start = Bytes::new();
    loop {
        let request = admin.request(ListRangesRequest { start, end: Bytes::new(), limit: 0 });
        let page = read(admin.client.list_ranges(request).await)?;
        let empty = page.ranges.is_empty();
        ranges.extend(page.ranges);
        if !page.more || empty {
            return Ok(ranges);
        }
        start = page.next_start;
    }
}

async fn verify(range_ids: Vec<u64>, mut admin: Admin) -> Result<(), Failure> {
    admin.timeout = admin.timeout.max(VERIFY_TIMEOUT);
    let mut verdicts = Vec::with_capacity(range_ids.len());
    for range_id in range_ids {
        let request = admin.request(VerifyRangeRequest { range_id });
        let answer = read(admin.client.verify_range(request).await)?;
        verdicts.push(VerdictJson::new(range_id, &answer));
    }
    output::print(admin.output, &verdicts, |verdicts| verify_text(verdicts))?;
    let differing = verdicts.iter().filter(|verdict| !verdict.consistent).count();
    if differing > 0 {
        let total = verdicts.len();
        return Err(Failure::not_met(format!("{differing} of {total} ranges are not consistent")));
    }
    Ok(())
}

fn list_text(ranges: &[RangeStatus]) -> String {
    let head = ["RANGE", "START", "END", "EPOCH", "LEADER", "SIZE", "REPLICAS (NODE:ROLE)"];
    let row = |range: &RangeStatus| {
        let replicas: Vec<_> = range
            .replicas
            .iter()
            .map(|replica| format!("{}:{}", replica.node_id, replica.role))
            .collect();
        vec![
            range.range_id.to_string(),
            escape(&range.start),
            escape(&range.end),
            format!("{}.{}", range.version, range.conf_version),
            range.leader_node_id.to_string(),
            indicatif::BinaryBytes(range.size_bytes).to_string(),
            replicas.join(" "),
        ]
    };
    output::table(&head, ranges.iter().map(row))
}

fn verify_text(verdicts: &[VerdictJson]) -> String {
    let rows = verdicts.iter().flat_map(|verdict| {
        verdict.replicas.iter().map(move |replica| {
            vec![
                verdict.range_id.to_string(),
                if verdict.consistent { "equal" } else { "DIFFERENT" }.to_owned(),
                replica.node_id.to_string(),
                replica.replica_id.to_string(),
                replica.applied_index.to_string(),
                replica.checksum.clone(),
                replica.entries.to_string(),
                replica.error.clone(),
            ]
        })
    });
    let head = ["RANGE", "VERDICT", "NODE", "REPLICA", "APPLIED", "CHECKSUM", "ENTRIES", "ERROR"];
    output::table(&head, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::v1::ReplicaStatus;

    #[test]
    fn a_range_has_the_promised_shape() {
        let range = RangeStatus {
            range_id: 1,
            start: Bytes::from_static(b"\xff"),
            end: Bytes::new(),
            version: 2,
            conf_version: 3,
            leader_node_id: 4,
            size_bytes: 5,
            replicas: vec![ReplicaStatus { node_id: 4, replica_id: 6, role: "voter".into() }],
        };
        assert_eq!(
            serde_json::to_string(&[RangeJson::new(&range)]).unwrap(),
            concat!(
                r#"[{"range_id":1,"start_base64":"/w==","end":"","version":2,"conf_version":3,"#,
                r#""leader_node_id":4,"size_bytes":5,"#,
                r#""replicas":[{"node_id":4,"replica_id":6,"role":"voter"}]}]"#
            )
        );
    }

    #[test]
    fn a_range_is_shown_with_its_command() {
        let range = RangeStatus { range_id: 1, ..RangeStatus::default() };
        let wish = rangedb_proto::v1::WishStatus {
            state: wish_status::State::GivenUp.into(),
            what: "w".into(),
            why: "y".into(),
        };
        let answer = GetRangeResponse { range: None, operator: None, wish: Some(wish) };
        let json = serde_json::to_string(&ShownJson::new(&range, &answer)).unwrap();
        assert!(json.starts_with(r#"{"range_id":1,"start":"","#), "{json}");
        assert!(
            json.ends_with(
                r#""operator":null,"command":{"state":"given_up","what":"w","why":"y"}}"#
            ),
            "{json}"
        );
    }

    #[test]
    fn a_verdict_shows_every_checksum() {
        let replica = ReplicaChecksum { node_id: 1, checksum: 0xab, ..ReplicaChecksum::default() };
        let answer = VerifyRangeResponse { replicas: vec![replica], consistent: true };
        let verdict = VerdictJson::new(7, &answer);
        assert_eq!(
            serde_json::to_string(&verdict).unwrap(),
            concat!(
                r#"{"range_id":7,"consistent":true,"replicas":[{"node_id":1,"replica_id":0,"#,
                r#""applied_index":0,"checksum":"00000000000000ab","entries":0}]}"#
            )
        );
        assert!(verify_text(&[verdict]).contains("00000000000000ab"));
    }
}
