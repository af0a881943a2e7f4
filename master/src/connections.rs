//! Connections of the gRPC and HTTP services: so many at a time, and none that says nothing.
//!
//! Whoever reaches a port can open connections; without a bound they would take all descriptors of the process, which the
//! metadata's own files need as well. More than the bound wait in the kernel's queue until one of those that are open ends;
//! one that has not said anything within [`FIRST_BYTE_WITHIN`] is closed, so that idle strangers do not hold the others up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A connection that has said nothing for so long after it was opened is closed.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept, as without descriptors.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A listening socket that gives out at most so many connections at a time.
pub(crate) struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    first_byte_within: Duration,
}

impl Limited {
    /// Of this socket.
    pub(crate) fn new(listener: TcpListener, connections_max: usize) -> Limited {
        Limited { listener, permits: Arc::new(Semaphore::new(connections_max)), first_byte_within: FIRST_BYTE_WITHIN }
    }

    /// The next connection, once there is room for it.
    pub(crate) async fn accept(&self) -> LimitedConnection {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // Nobody closes the semaphore.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let deadline = Some(Box::pin(sleep(self.first_byte_within)));
                    return LimitedConnection { stream, deadline, _permit: permit };
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted; tried again");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

/// One connection, which counts until it is dropped.
pub(crate) struct LimitedConnection {
    stream: TcpStream,
    /// Until something was read.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for LimitedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl AsyncWrite for LimitedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for LimitedConnection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn more_connections_wait_until_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limited = Limited::new(listener, 1);
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let first = limited.accept().await;
        assert!(tokio::time::timeout(Duration::from_millis(50), limited.accept()).await.is_err());
        drop(first);
        limited.accept().await;
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limited = Limited { first_byte_within: Duration::from_millis(20), ..Limited::new(listener, 1) };
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut connection = limited.accept().await;
        let error = connection.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
