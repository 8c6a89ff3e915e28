//! Serving a router until told to stop. Owns: the drain. Must not know: the routes.

use axum::Router;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long open requests may take to finish once the server is told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `cancel`, then lets open requests finish for at most `DRAIN_TIMEOUT`. The caller
/// owns the task and awaits it at shutdown. Must be called on a tokio runtime.
pub fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let told = cancel.clone();
        let server = axum::serve(listener, router)
            .with_graceful_shutdown(async move { told.cancelled().await });
        let drained = async {
            cancel.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            ended = server.into_future() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "HTTP server stopped");
                }
            }
            () = drained => tracing::warn!("open HTTP requests were cut off at shutdown"),
        }
    })
}
