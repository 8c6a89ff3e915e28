//! A connection that ends with its server if its client has said nothing yet.
//!
//! A client opens HTTP/2 with a preface of 24 bytes. A server that stops waits for its connections
//! to end, and tells each of them so; one that never got the preface cannot be told, and would hold
//! up the stop as long as its client likes. There are such connections: of load balancers that
//! connect in advance, and of clients that gave a call up while they were connecting.
//!
//! Owns: when such a connection ends. Must not know: what is said after the preface.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Bytes of the preface, RFC 9113, section 3.4.
const PREFACE_BYTES: usize = 24;

/// See the module.
#[derive(Debug)]
pub struct Prefaced<T> {
    io: T,
    /// Bytes of the preface that are still to come.
    missing: usize,
    /// None once the preface is there.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<T> Prefaced<T> {
    #[must_use]
    pub fn new(io: T, stop: CancellationToken) -> Self {
        Self { io, missing: PREFACE_BYTES, stop: Some(Box::pin(stop.cancelled_owned())) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefaced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, into);
        let Some(stop) = &mut self.stop else { return read };
        if read.is_pending() {
            // Nothing was read: the end.
            return stop.as_mut().poll(cx).map(Ok);
        }
        self.missing = self.missing.saturating_sub(into.filled().len() - before);
        if self.missing == 0 {
            self.stop = None;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefaced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: Connected> Connected for Prefaced<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn without_the_whole_preface_it_ends_with_the_server() {
        for said in [0, 1, PREFACE_BYTES - 1] {
            let (mut client, server) = duplex(64);
            let stop = CancellationToken::new();
            let mut server = Prefaced::new(server, stop.clone());
            client.write_all(&vec![7; said]).await.unwrap();
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                server.read_to_end(&mut read).await.map(|_| read.len())
            });
            tokio::task::yield_now().await;
            assert!(!reading.is_finished());
            stop.cancel();
            assert_eq!(reading.await.unwrap().unwrap(), said);
        }
    }

    #[tokio::test]
    async fn after_the_preface_it_goes_on_though_the_server_stops() {
        let (mut client, server) = duplex(64);
        let stop = CancellationToken::new();
        let mut server = Prefaced::new(server, stop.clone());
        // Before the stop it may come in parts; what is there when it stops is read.
        client.write_all(&[7; 5]).await.unwrap();
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), 5);
        client.write_all(&[7; PREFACE_BYTES - 5]).await.unwrap();
        stop.cancel();
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), PREFACE_BYTES - 5);
        let reading = tokio::spawn(async move { server.read(&mut [0; 64]).await });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        client.write_all(b"more").await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), 4);
    }
}
