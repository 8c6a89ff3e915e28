//! What the gateway counts. One set a process, in the default registry.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    exponential_buckets,
};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tonic::Code;

/// The public data methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    BatchGet,
    Put,
    Delete,
    DeleteRange,
    Range,
    CommitStatus,
    Begin,
    Commit,
    Rollback,
    Batch,
    Acquire,
    TakeSnapshot,
    Renew,
    Conditional,
}

impl Method {
    const ALL: [Self; 15] = [
        Self::Get,
        Self::BatchGet,
        Self::Put,
        Self::Delete,
        Self::DeleteRange,
        Self::Range,
        Self::CommitStatus,
        Self::Begin,
        Self::Commit,
        Self::Rollback,
        Self::Batch,
        Self::Acquire,
        Self::TakeSnapshot,
        Self::Renew,
        Self::Conditional,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::BatchGet => "batch_get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::DeleteRange => "delete_range",
            Self::Range => "range",
            Self::CommitStatus => "commit_status",
            Self::Begin => "begin",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Batch => "batch",
            Self::Acquire => "acquire",
            Self::TakeSnapshot => "take_snapshot",
            Self::Renew => "renew",
            Self::Conditional => "conditional",
        }
    }
}

/// Handles that are resolved once, so that the hot path looks nothing up.
pub struct Metrics {
    requests: IntCounterVec,
    requests_ok: [IntCounter; Method::ALL.len()],
    durations: [Histogram; Method::ALL.len()],
    pub retries: IntCounterVec,
    pub replica_reads: IntCounterVec,
    pub routes_found: IntCounter,
    pub routes_missed: IntCounter,
    pub abandoned_settled: IntCounter,
    pub routes_fetched: IntCounterVec,
    pub routes_told: IntCounter,
    pub routes_cached: IntGauge,
    pub node_streams_up: IntGauge,
    pub node_streams_broken: IntCounter,
    pub node_messages: IntCounter,
    pub in_flight: IntGauge,
    pub queue_bytes: IntGauge,
    pub pipeline_streams: IntGauge,
    pub pipeline_operations: IntCounter,
    pub pipeline_messages: IntCounterVec,
    pub range_pages: IntCounter,
    pub recent_timestamp: IntGauge,
}

static SHARED: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::register()));

impl Metrics {
    /// The process's metrics; several gateways in one process share them.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::clone(&SHARED)
    }

    /// Counts one finished call or operation.
    pub fn finished(&self, method: Method, code: Code, took: Duration) {
        if code == Code::Ok {
            self.requests_ok[method as usize].inc();
        } else {
            self.requests.with_label_values(&[method.name(), code_name(code)]).inc();
        }
        self.durations[method as usize].observe(took.as_secs_f64());
    }

    // tidy: long because it is one list: every metric.
    fn register() -> Self {
        let requests = counters(
            "rangedb_gateway_requests_total",
            "Finished calls and Pipeline operations.",
            &["method", "code"],
        );
        let durations = histograms(
            "rangedb_gateway_request_duration_seconds",
            "From receipt to answer; a Range counts until its last page.",
            &["method"],
        );
        Self {
            requests_ok: Method::ALL
                .map(|method| requests.with_label_values(&[method.name(), code_name(Code::Ok)])),
            requests,
            durations: Method::ALL.map(|method| durations.with_label_values(&[method.name()])),
            retries: counters("rangedb_gateway_retries_total", "Repeated attempts.", &["reason"]),
            replica_reads: counters(
                "rangedb_gateway_replica_reads_total",
                "Stale and follower reads by who answered them.",
                &["answered_by"],
            ),
            routes_found: counter("rangedb_gateway_route_hits_total", "Routes found in the cache."),
            abandoned_settled: counter(
                "rangedb_gateway_abandoned_settled_total",
                "Intents and records of dead transactions that nobody met and this gateway settled.",
            ),
            routes_missed: counter(
                "rangedb_gateway_route_misses_total",
                "Routes that had to be fetched or waited for.",
            ),
            routes_fetched: counters(
                "rangedb_gateway_route_fetches_total",
                "Lookups at placement.",
                &["result"],
            ),
            routes_told: counter(
                "rangedb_gateway_routes_told_total",
                "Outdated routes that placement told of before a request met one.",
            ),
            routes_cached: gauge("rangedb_gateway_routes_cached", "Ranges in the route cache."),
            node_streams_up: gauge(
                "rangedb_gateway_node_streams_up",
                "Open streams to storage nodes.",
            ),
            node_streams_broken: counter(
                "rangedb_gateway_node_streams_broken_total",
                "Streams to storage nodes that ended.",
            ),
            node_messages: counter(
                "rangedb_gateway_node_messages_total",
                "Messages sent to storage nodes; each holds many requests.",
            ),
            in_flight: gauge(
                "rangedb_gateway_node_requests_in_flight",
                "Requests queued for or sent to storage nodes.",
            ),
            queue_bytes: gauge(
                "rangedb_gateway_node_queue_bytes",
                "Bytes of requests not yet handed to a stream.",
            ),
            pipeline_streams: gauge("rangedb_gateway_pipeline_streams", "Open Pipeline streams."),
            pipeline_operations: counter(
                "rangedb_gateway_pipeline_operations_total",
                "Operations received on Pipeline streams.",
            ),
            pipeline_messages: counters(
                "rangedb_gateway_pipeline_messages_total",
                "Messages on Pipeline streams.",
                &["direction"],
            ),
            range_pages: counter("rangedb_gateway_range_pages_total", "Pages of range reads sent."),
            recent_timestamp: gauge(
                "rangedb_gateway_recent_timestamp_seconds",
                "Physical part of the newest timestamp known, seconds since 1970.",
            ),
        }
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

fn registered<C: Collector + Clone + 'static>(collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("metric names and labels are constants");
    prometheus::register(Box::new(collector.clone())).expect("registered once a process");
    collector
}

fn counter(name: &str, help: &str) -> IntCounter {
    registered(IntCounter::new(name, help))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    registered(IntGauge::new(name, help))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let buckets = exponential_buckets(0.000_1, 2.0, 17).expect("start, factor and count are valid");
    registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_metrics_is_known() {
        let metrics = Metrics::shared();
        metrics.finished(Method::Get, Code::Unavailable, Duration::from_millis(1));
        metrics.retries.with_label_values(&["lost"]).inc();
        metrics.routes_fetched.with_label_values(&["ok"]).inc();
        metrics.pipeline_messages.with_label_values(&["in"]).inc();
        let mut names: Vec<_> = prometheus::gather()
            .iter()
            .map(|family| family.get_name().to_owned())
            .filter(|name| name.starts_with("rangedb_gateway_"))
            .collect();
        names.sort();
        let expected = [
            "rangedb_gateway_abandoned_settled_total",
            "rangedb_gateway_node_messages_total",
            "rangedb_gateway_node_queue_bytes",
            "rangedb_gateway_node_requests_in_flight",
            "rangedb_gateway_node_streams_broken_total",
            "rangedb_gateway_node_streams_up",
            "rangedb_gateway_pipeline_messages_total",
            "rangedb_gateway_pipeline_operations_total",
            "rangedb_gateway_pipeline_streams",
            "rangedb_gateway_range_pages_total",
            "rangedb_gateway_recent_timestamp_seconds",
            "rangedb_gateway_request_duration_seconds",
            "rangedb_gateway_requests_total",
            "rangedb_gateway_retries_total",
            "rangedb_gateway_route_fetches_total",
            "rangedb_gateway_route_hits_total",
            "rangedb_gateway_route_misses_total",
            "rangedb_gateway_routes_cached",
            "rangedb_gateway_routes_told_total",
        ];
        assert_eq!(names, expected);
    }
}
