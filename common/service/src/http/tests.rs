//! The endpoints over a real socket.

use super::*;
use crate::net;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Status code and body of one GET.
async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[tokio::test]
async fn health_and_metrics_are_served_until_told_to_stop() {
    let listener = net::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let health = Health::new();
    let cancel = CancellationToken::new();
    let task = serve(listener, router(&health), cancel.clone());

    assert_eq!(fetch(address, "/health/live").await.0, 200);
    let (status, body) = fetch(address, "/health/ready").await;
    assert_eq!((status, body.as_str()), (503, "not ready: starting\n"));
    health.set_ready(true);
    assert_eq!(fetch(address, "/health/ready").await.0, 200);
    health.set_not_ready("no placement leader");
    assert!(fetch(address, "/health/ready").await.1.contains("no placement leader"));

    let (status, body) = fetch(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("rangedb_process_resident_memory_bytes"), "{body}");
    assert_eq!(fetch(address, "/nothing").await.0, 404);

    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_shutdown() {
    let listener = net::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let task = serve(listener, router(Health::new()), cancel.clone());
    let _idle = TcpStream::connect(address).await.unwrap();
    cancel.cancel();
    tokio::time::timeout(DRAIN_TIMEOUT * 2, task).await.unwrap().unwrap();
}
