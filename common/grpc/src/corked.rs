//! A connection that writes once for all that is ready together.
//!
//! Over HTTP/2 each call wakes the task that owns its connection, and Tokio runs a task that was
//! just woken before those that waited longer. So a hundred answers that are ready together would
//! leave one by one, each with a system call here and a wake-up there. A [`Corked`] connection
//! answers the first wish to flush by going to the end of the queue of tasks, and writes when it is
//! its turn again: by then the others have added theirs. No clock is involved; with no other task
//! to run its turn is at once. The name is that of Linux' `TCP_CORK`.
//!
//! Owns: when to write. Must not know: what is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that wait at most; more are written at once. As many as HTTP/2 itself gathers.
const BYTES_MAX: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct Corked<T> {
    io: BufWriter<T>,
    /// True from the first wish to flush until it is done.
    waited: bool,
}

impl<T: AsyncWrite> Corked<T> {
    #[must_use]
    pub fn new(io: T) -> Self {
        Self { io: BufWriter::with_capacity(BYTES_MAX, io), waited: false }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
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
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waited && !self.io.buffer().is_empty() {
            self.waited = true;
            // A task that wakes itself goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Connected> Connected for Corked<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.get_ref().connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};
    use tokio::io::AsyncWriteExt as _;

    /// Keeps each write apart; takes no more than so many bytes at a time.
    #[derive(Clone, Debug)]
    struct Writes {
        all: Arc<Mutex<Vec<Vec<u8>>>>,
        most: usize,
    }

    impl Writes {
        fn new(most: usize) -> Self {
            Self { all: Arc::default(), most }
        }

        fn lengths(&self) -> Vec<usize> {
            self.all.lock().unwrap().iter().map(Vec::len).collect()
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.most);
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.all.lock().unwrap().push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// As HTTP/2 does it: callers hand their bytes to the task that owns the connection, and wake it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn callers_that_are_ready_together_share_a_write() {
        let writes = Writes::new(usize::MAX);
        let mut corked = Corked::new(writes.clone());
        let (sender, mut bytes) = tokio::sync::mpsc::channel::<[u8; 3]>(16);
        let owner = tokio::spawn(poll_fn(move |cx| {
            loop {
                match bytes.poll_recv(cx) {
                    Poll::Ready(Some(bytes)) => {
                        let written = Pin::new(&mut corked).poll_write(cx, &bytes);
                        assert!(matches!(written, Poll::Ready(Ok(3))));
                    }
                    Poll::Ready(None) => return Pin::new(&mut corked).poll_flush(cx),
                    Poll::Pending => {
                        ready!(Pin::new(&mut corked).poll_flush(cx))?;
                        return Poll::Pending;
                    }
                }
            }
        }));
        // On the one worker, so that none runs before all are there.
        tokio::spawn(async move {
            for _ in 0..10 {
                let sender = sender.clone();
                tokio::spawn(async move { sender.send(*b"abc").await.unwrap() });
            }
        });
        owner.await.unwrap().unwrap();
        assert_eq!(writes.lengths(), [30]);
    }

    #[tokio::test]
    async fn what_was_flushed_or_shut_down_is_written_whole_and_in_order() {
        let writes = Writes::new(1000);
        let mut corked = Corked::new(writes.clone());
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        for part in bytes[..90_000].chunks(777) {
            corked.write_all(part).await.unwrap();
        }
        corked.flush().await.unwrap();
        assert_eq!(writes.all.lock().unwrap().concat(), bytes[..90_000]);
        corked.write_all(&bytes[90_000..]).await.unwrap();
        corked.shutdown().await.unwrap();
        assert_eq!(writes.all.lock().unwrap().concat(), bytes);
    }

    #[tokio::test]
    async fn each_flush_waits_one_turn() {
        let writes = Writes::new(usize::MAX);
        let mut corked = Corked::new(writes.clone());
        for turn in 1..4 {
            corked.write_all(b"abc").await.unwrap();
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                Pin::new(&mut corked).poll_flush(cx)
            })
            .await
            .unwrap();
            assert_eq!((polls, writes.lengths()), (2, vec![3; turn]));
        }
    }

    #[tokio::test]
    async fn an_error_reaches_who_flushes() {
        let mut corked = Corked::new(Writes::new(0));
        corked.write_all(b"abc").await.unwrap();
        assert_eq!(corked.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
