//! How gRPC travels between our processes, and from applications to them.
//!
//! Owns: connecting, keepalive, flow-control windows and limits, the same on both ends, and when a
//! connection writes or ends unspoken. Must not know: services and messages.

mod corked;
mod prefaced;

use corked::Corked;
use prefaced::Prefaced;

use futures::TryStreamExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Channel, Error, Server};
use tower::ServiceExt as _;

/// Connecting takes this long at most: a machine that is off must not hold up a caller.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An HTTP/2 ping is sent after this much silence …
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and the connection is dead if no answer came for this long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same asked of TCP, for the case that nothing runs above it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes in flight on one stream. Streams carry many requests a message, and the window must not
/// be what limits them.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes in flight on one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Streams (calls) open at once on one connection.
pub const CONCURRENT_STREAMS_MAX: u32 = 4096;
/// The largest message accepted. A value may have 8 MiB, a Raft entry 16 MiB, a batch 64 MiB.
pub const MESSAGE_BYTES_MAX: usize = 80 << 20;

/// Text that is no address of a gRPC server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address; write HOST:PORT, for example 127.0.0.1:8081")]
pub struct InvalidAddress(pub String);

/// A server with our transport settings and no services yet.
#[must_use]
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
}

/// Serves what comes to `listener` until `stop`, then lets open calls finish: what does not end must
/// be cut off by whoever waits.
///
/// # Errors
/// The server failed.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), Error> {
    let stopping = stop.clone();
    // The server's own setting for Nagle's algorithm does not reach listeners bound elsewhere.
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .map_ok(move |io| Corked::new(Prefaced::new(io, stopping.clone())));
    router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await
}

/// Where a server is, and how to connect to it.
#[derive(Clone, Debug)]
pub struct Endpoint(tonic::transport::Endpoint);

impl Endpoint {
    /// A connection that is there.
    ///
    /// # Errors
    /// Nobody answers there within [`CONNECT_TIMEOUT`].
    pub async fn connect(&self) -> Result<Channel, Error> {
        let Self(endpoint) = self;
        endpoint.connect_with_connector(connector().map_response(cork)).await
    }

    /// Connects when first used, and again by itself.
    #[must_use]
    pub fn connect_lazy(&self) -> Channel {
        self.0.connect_with_connector_lazy(connector().map_response(cork))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector
}

fn cork(io: TokioIo<TcpStream>) -> TokioIo<Corked<TcpStream>> {
    TokioIo::new(Corked::new(io.into_inner()))
}

/// A link to a server at `HOST:PORT` (or `http://…`, `https://…`).
///
/// # Errors
/// The address cannot be one.
pub fn endpoint(address: &str) -> Result<Endpoint, InvalidAddress> {
    let refused = || InvalidAddress(address.to_owned());
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = tonic::transport::Endpoint::from_shared(uri).map_err(|_| refused())?;
    let parts = endpoint.uri();
    if parts.host().is_none_or(str::is_empty) || parts.port_u16().is_none_or(|port| port == 0) {
        return Err(refused());
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(Endpoint(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tonic::service::Routes;

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_hold_up_a_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = server_builder().add_routes(Routes::default());
        let server = tokio::spawn(serve(server, listener, stop.clone()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        // Connections are accepted in turn, so that one is served when this one is answered.
        let speaking = endpoint(&address.to_string()).unwrap().connect().await.unwrap();
        // The server's own settings: it waits for the preface.
        assert!(silent.read(&mut [0; 64]).await.unwrap() > 0);
        stop.cancel();
        server.await.unwrap().unwrap();
        drop((silent, speaking));
    }

    #[test]
    fn host_and_port_make_an_endpoint() {
        for address in ["127.0.0.1:8081", "node-1.example:1", "http://h:2", "[::1]:8081"] {
            let Endpoint(endpoint) = endpoint(address).unwrap();
            assert_eq!(endpoint.get_connect_timeout(), Some(CONNECT_TIMEOUT), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for address in ["", "8081", "host", "host:0", "host:99999", "a b:1", ":8081"] {
            assert!(endpoint(address).is_err(), "{address}");
        }
    }
}
