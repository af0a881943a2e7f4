//! The listening sockets of the data port, TCP and the one for the same host, and the threads of their connections.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown as Direction, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::shutdown::Shutdown;
use rfs_common::socket::{Peer, Socket};
use rfs_proto::wire::WireError;
use rustix::event::{PollFd, PollFlags, poll};

use super::connection::{Served, Shared};

const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The log is told of what strangers send at most this often.
const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// A data port in service.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    inner: Arc<Inner>,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    connections: Mutex<HashMap<u64, Socket>>,
    connections_max: usize,
    next: AtomicU64,
    stop: Shutdown,
    clock: SharedClock,
    /// When the log was last told of a connection that was closed for what came on it.
    refusal_told: Mutex<Option<Monotonic>>,
}

impl Port {
    /// Takes the listening sockets and begins to serve.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(
        listener: TcpListener,
        local: Option<UnixListener>,
        shared: Arc<Shared>,
        connections_max: usize,
        clock: SharedClock,
    ) -> io::Result<Port> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let inner = Arc::new(Inner {
            shared,
            connections: Mutex::default(),
            connections_max,
            next: AtomicU64::new(0),
            stop: Shutdown::new(),
            clock,
            refusal_told: Mutex::default(),
        });
        let accepting = Arc::clone(&inner);
        let accept = move || {
            accepting.accept(&listener, || {
                let (stream, from) = listener.accept()?;
                Ok((Socket::tcp(stream)?, Peer::Address(from)))
            });
        };
        let mut acceptors = vec![background::spawn("data-port", accept)?];
        if let Some(local) = local {
            local.set_nonblocking(true)?;
            let accepting = Arc::clone(&inner);
            let accept = move || accepting.accept(&local, || Ok((Socket::local(local.accept()?.0)?, Peer::SameHost)));
            acceptors.push(background::spawn("data-port-local", accept)?);
        }
        Ok(Port { address, inner, acceptors: Mutex::new(acceptors) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connections and requests, and waits for those under way.
    pub fn stop(&self) {
        self.inner.stop.request();
        for acceptor in std::mem::take(&mut *self.acceptors.lock().unwrap_or_else(PoisonError::into_inner)) {
            if acceptor.join().is_err() {
                tracing::debug!("a thread of the data port had ended by itself");
            }
        }
        for stream in self.inner.connections().values() {
            // Ends the wait for the next request; an answer under way is still sent.
            if let Err(error) = stream.shutdown(Direction::Read) {
                tracing::trace!(%error, "a connection had ended by itself");
            }
        }
        let deadline = self.inner.clock.monotonic() + STOP_LIMIT;
        while !self.inner.connections().is_empty() && self.inner.clock.monotonic() < deadline {
            self.inner.clock.sleep(Duration::from_millis(1));
        }
    }
}

impl Inner {
    fn accept(self: &Arc<Self>, listener: impl AsFd, accept: impl Fn() -> io::Result<(Socket, Peer)>) {
        while !self.stop.is_requested() {
            match accept() {
                Ok((stream, from)) => {
                    if let Err(error) = self.take(stream, from) {
                        tracing::warn!(%from, %error, "a data connection could not be served");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_connection(&listener),
                // Some other user's program: it is closed, and costs nobody else anything.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::debug!(%error, "a local connection was closed");
                }
                Err(error) => {
                    tracing::warn!(%error, "the data port could not accept a connection; trying again");
                    self.clock.sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn wait_for_connection(&self, listener: &impl AsFd) {
        let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut waiting = [PollFd::new(listener, PollFlags::IN)];
        if let Err(error) = poll(&mut waiting, Some(&limit)) {
            tracing::trace!(%error, "the wait for connections was interrupted");
        }
    }

    fn take(self: &Arc<Self>, stream: Socket, from: Peer) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = stream.try_clone()?;
        let served = Served::new(Arc::clone(&self.shared), stream, Arc::clone(&self.clock))?;
        {
            let mut connections = self.connections();
            if connections.len() >= self.connections_max {
                return Err(io::Error::other("too many data connections; raise connections_max"));
            }
            connections.insert(number, handle);
        }
        let inner = Arc::clone(self);
        let spawned = background::spawn("data", move || inner.serve(number, served, from));
        if spawned.is_err() {
            self.connections().remove(&number);
        }
        spawned.map(|_| ())
    }

    fn serve(&self, number: u64, mut served: Served, from: Peer) {
        while !self.stop.is_requested() {
            match served.serve_one() {
                Ok(()) => {}
                Err(WireError::Closed) => break,
                Err(error) => {
                    self.note_end(&error, from);
                    break;
                }
            }
        }
        self.connections().remove(&number);
    }

    /// What breaks off is everyday. What is no frame of ours comes from a stranger or a mistake, which somebody should look
    /// for; once in a while, so that a stranger does not fill the log.
    fn note_end(&self, error: &WireError, from: Peer) {
        let reason = crate::volume::identity::with_sources(error);
        if matches!(error, WireError::Closed | WireError::Io(_)) {
            tracing::debug!(%from, reason, "a data connection ended");
            return;
        }
        let now = self.clock.monotonic();
        let mut told = self.refusal_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.since(told) >= REFUSALS_TOLD_EVERY) {
            *told = Some(now);
            tracing::warn!(%from, reason, "a data connection was closed: what came on it is not of this protocol");
        } else {
            tracing::debug!(%from, reason, "a data connection was closed: what came on it is not of this protocol");
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Socket>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
