//! The small HTTP server every process has beside its gRPC one.
//!
//! Owns: `/metrics`, `/health/live`, `/health/ready`, and how an HTTP listener is served and
//! stopped. Must not know: what makes the process ready.

mod health;
mod serve;

pub use health::Health;
pub use serve::{DRAIN_TIMEOUT, serve};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, TextEncoder};

/// The routes every process answers; merge it with the process's own.
pub fn router(health: impl Into<Health>) -> Router {
    crate::process_metrics::register();
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(health.into())
}

/// The process answers at all: it is alive.
async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(health): State<Health>) -> Response {
    match health.reason() {
        None => "ready\n".into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
        }
    }
}

async fn metrics() -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
