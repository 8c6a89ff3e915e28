//! What is measured of every request.

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, exponential_buckets,
    register_histogram, register_histogram_vec, register_int_counter_vec, register_int_gauge,
};
use std::sync::LazyLock;

const ONCE: &str = "registered once, under a name nobody else has";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Put,
    Delete,
    DeleteRange,
    Scan,
    CommitStatus,
    Action,
    Claim,
    /// What could not be read.
    Invalid,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::DeleteRange,
        Self::Scan,
        Self::CommitStatus,
        Self::Action,
        Self::Claim,
        Self::Invalid,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::DeleteRange => "delete_range",
            Self::Scan => "scan",
            Self::CommitStatus => "commit_status",
            Self::Action => "action",
            Self::Claim => "claim",
            Self::Invalid => "invalid",
        }
    }
}

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rangedb_node_requests_total",
        "Data requests by what they ask for and how they went",
        &["kind", "result"]
    )
    .expect(ONCE)
});

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rangedb_node_request_seconds",
        "Time from a data request's receipt to its answer",
        &["kind"],
        exponential_buckets(0.000_05, 2.5, 14).expect("start, factor and count are positive")
    )
    .expect(ONCE)
});

/// The metrics of one kind, looked up once.
pub struct OfKind {
    pub done: IntCounter,
    pub seconds: Histogram,
    label: &'static str,
}

impl OfKind {
    pub fn refused(&self, result: &str) {
        REQUESTS.with_label_values(&[self.label, result]).inc();
    }
}

static KINDS: LazyLock<Vec<OfKind>> = LazyLock::new(|| {
    let of = |kind: &Kind| OfKind {
        done: REQUESTS.with_label_values(&[kind.label(), "ok"]),
        seconds: SECONDS.with_label_values(&[kind.label()]),
        label: kind.label(),
    };
    Kind::ALL.iter().map(of).collect()
});

/// The metrics of a kind.
#[must_use]
pub fn of(kind: Kind) -> &'static OfKind {
    &KINDS[kind as usize]
}

pub static STREAMS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_data_streams", "Open data streams of gateways").expect(ONCE)
});

pub static UNDER_WAY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_requests_under_way", "Data requests that are not settled yet")
        .expect(ONCE)
});

/// How well answers share messages.
pub static ANSWERS_PER_MESSAGE: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_answers_per_message_count",
        "Answers that went out in one message",
        vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
    )
    .expect(ONCE)
});

pub static REQUESTS_PER_MESSAGE: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_requests_per_message_count",
        "Requests that came in one message",
        vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
    )
    .expect(ONCE)
});

/// Shows every metric from the start, at zero.
pub fn register() {
    LazyLock::force(&KINDS);
    LazyLock::force(&STREAMS);
    LazyLock::force(&UNDER_WAY);
    LazyLock::force(&ANSWERS_PER_MESSAGE);
    LazyLock::force(&REQUESTS_PER_MESSAGE);
}
