//! Logs on stderr, and traces to an OpenTelemetry collector where one is named.
//!
//! Owns: the process's one subscriber. Must not know: what is logged. Invariant: it is set up at
//! most once a process, by `main`; libraries and tests only emit.

use crate::text;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// What is logged unless a filter says otherwise: our own news, and only trouble from libraries.
/// openraft calls every time-out of a peer an error; what ends a member is logged by placement itself.
pub const DEFAULT_FILTER: &str =
    "info,openraft=off,h2=warn,hyper=warn,tonic=warn,tower=warn,opentelemetry=warn";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// One line for people.
    #[default]
    Text,
}

/// The part of every process's settings that is about logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
    /// Directives such as `info,rangedb_storage_node=debug`.
    pub filter: String,
    /// A collector's OTLP/gRPC endpoint, such as `http://127.0.0.1:4317`.
    pub otlp_endpoint: Option<String>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: DEFAULT_FILTER.to_owned(),
            otlp_endpoint: None,
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "log filter `{filter}` is not valid: {why}; write for example info,rangedb_gateway=debug"
    )]
    Filter { filter: String, why: String },
    #[error(
        "OTLP endpoint `{endpoint}` cannot be used: {why}; write for example http://127.0.0.1:4317"
    )]
    Otlp { endpoint: String, why: String },
    #[error("logging was already set up in this process; set it up once, in main")]
    AlreadySet,
}

/// Keeps the export of traces alive; what is still unsent is sent when it is dropped.
#[must_use = "traces stop when the guard is dropped"]
#[derive(Debug)]
pub struct LoggingGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for LoggingGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "last traces were not sent");
        }
    }
}

/// Sets up the process's logs (stderr) and, with an endpoint, its traces. With an endpoint it
/// must be called on a tokio runtime.
///
/// # Errors
/// A bad filter or endpoint, or a second call.
pub fn init(
    format: LogFormat,
    filter: &str,
    otlp: Option<&str>,
) -> Result<LoggingGuard, LoggingError> {
    let filter = parse_filter(filter)?;
    let lines = match format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .boxed(),
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_writer(std::io::stderr)
            .boxed(),
    };
    let provider = otlp.map(trace_provider).transpose()?;
    let traces = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("rangedb")));
    Registry::default()
        .with(filter)
        .with(lines)
        .with(traces)
        .try_init()
        .map_err(|_| LoggingError::AlreadySet)?;
    Ok(LoggingGuard { provider })
}

/// As `init`, from the settings.
///
/// # Errors
/// As `init`.
pub fn init_from(settings: &LogSettings) -> Result<LoggingGuard, LoggingError> {
    init(settings.format, &settings.filter, settings.otlp_endpoint.as_deref())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    let filter = if filter.trim().is_empty() { DEFAULT_FILTER } else { filter };
    EnvFilter::builder().parse(filter).map_err(|error| LoggingError::Filter {
        filter: filter.to_owned(),
        why: text::chain(&error),
    })
}

fn trace_provider(endpoint: &str) -> Result<SdkTracerProvider, LoggingError> {
    let refused = |why: String| LoggingError::Otlp { endpoint: endpoint.to_owned(), why };
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(refused("it must begin with http:// or https://".to_owned()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| refused(text::chain(&error)))?;
    let service = crate::process::program_name();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_refused_with_an_example() {
        let error = parse_filter("info,rangedb=loudly").unwrap_err().to_string();
        assert!(error.contains("rangedb_gateway=debug"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn an_empty_filter_is_the_default() {
        assert_eq!(
            parse_filter("").unwrap().to_string(),
            parse_filter(DEFAULT_FILTER).unwrap().to_string()
        );
    }

    #[tokio::test]
    async fn a_bad_endpoint_is_refused() {
        let error = trace_provider("collector:4317").unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:4317"), "{error}");
    }

    #[tokio::test]
    async fn a_collector_that_is_away_does_not_stop_the_start() {
        // Nothing listens there: the exporter connects only when it has spans to send.
        let provider = trace_provider("http://127.0.0.1:9").unwrap();
        assert!(provider.shutdown_with_timeout(std::time::Duration::from_secs(5)).is_ok());
    }

    #[tokio::test]
    async fn the_second_set_up_is_refused() {
        let _guard = init(LogFormat::Json, "warn", None);
        let second = init(LogFormat::Text, "warn", None);
        assert!(matches!(second, Err(LoggingError::AlreadySet)));
    }
}
