//! The session port: accepts connections, gives each a thread of its own, and ends them all at a shutdown.
//!
//! What always holds: at most so many connections as configured; a connection has five seconds for its whole handshake; an
//! answer that is being worked on when the master stops is still sent.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message;
use rfs_common::background::spawn;
use rfs_common::errno::Errno;
use rfs_common::socket::{Peer, Socket};
use rfs_proto::frame::{FLAG_ERROR, FLAG_REPLY, FrameError, HEADER_BYTES, Header};
use rfs_proto::session;
use rfs_proto::session_calls::slot_and_sequence;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};

use super::calls;
use super::handshake::{Purpose, welcome};
use super::push::{self, failure_message};
use super::stream::SessionStream;
use crate::chunks::Severity;
use crate::engine::{Engine, Failure, Refusal, Request};
use crate::strangers::{Strangers, with_sources};

/// How a connection is treated.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Connections at the same time.
    pub connections_max: usize,
    /// For a whole handshake.
    pub handshake_timeout: Duration,
    /// For one message on a push connection to be taken by the peer's kernel.
    pub push_send_timeout: Duration,
    /// For one answer to be taken by the peer's kernel.
    pub answer_timeout: Duration,
}

impl Default for ListenerConfig {
    fn default() -> ListenerConfig {
        ListenerConfig {
            connections_max: 4_096,
            handshake_timeout: Duration::from_secs(5),
            push_send_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(30),
        }
    }
}

/// What clients are told of the other services.
#[derive(Clone, Copy, Debug, Default)]
pub struct Announced {
    /// Port of the cluster service and the administration.
    pub cluster_port: u16,
    /// Port of the status page.
    pub web_port: u16,
}

/// The running session port.
#[derive(Debug)]
pub struct SessionServer {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    local: Option<Arc<UnixListener>>,
    acceptors: Vec<JoinHandle<()>>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    config: ListenerConfig,
    announced: Announced,
    stopping: AtomicBool,
    next_connection: AtomicU64,
    /// The sockets of all connections, to end them.
    open: Mutex<HashMap<u64, Socket>>,
    one_closed: Condvar,
    nonsense_told: AtomicBool,
    strangers: Strangers,
}

/// Why a connection that had a purpose ended.
enum Ended {
    Failed(WireError),
    NotOurs(&'static str),
}

impl From<WireError> for Ended {
    fn from(error: WireError) -> Ended {
        Ended::Failed(error)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Failed(error.into())
    }
}

/// Whether the error is for what came, and not for the network.
fn is_nonsense(error: &WireError) -> bool {
    matches!(error, WireError::Frame(_) | WireError::Message { .. } | WireError::OutOfPlace { .. })
}

impl SessionServer {
    /// Begins to accept, also who comes from this host if there is a socket for that.
    ///
    /// # Errors
    /// If the socket's address cannot be had or no thread can be started.
    pub fn start(
        listener: TcpListener,
        local: Option<UnixListener>,
        engine: Arc<Engine>,
        config: ListenerConfig,
        announced: Announced,
    ) -> io::Result<SessionServer> {
        let address = listener.local_addr()?;
        let strangers = Strangers::new("clients", engine.clock().clone());
        let shared = Arc::new(Shared {
            strangers,
            engine,
            config,
            announced,
            stopping: AtomicBool::new(false),
            next_connection: AtomicU64::new(0),
            open: Mutex::new(HashMap::new()),
            one_closed: Condvar::new(),
            nonsense_told: AtomicBool::new(false),
        });
        let (listener, local) = (Arc::new(listener), local.map(Arc::new));
        let (accepting, accepted) = (Arc::clone(&listener), Arc::clone(&shared));
        let accept = move || {
            let (stream, address) = accepting.accept()?;
            Ok((Socket::tcp(stream)?, Peer::Address(address)))
        };
        let mut acceptors = vec![spawn("session-accept", move || accepted.accept_all(accept))?];
        if let Some(accepting) = local.clone() {
            let accepted = Arc::clone(&shared);
            let accept = move || Ok((Socket::local(accepting.accept()?.0)?, Peer::SameHost));
            acceptors.push(spawn("session-local", move || accepted.accept_all(accept))?);
        }
        Ok(SessionServer { shared, listener, local, acceptors, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets answers under way go, and waits for the connections to end, not longer than this.
    pub fn stop(self, patience: Duration) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // An accept that is waiting returns with an error then.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Read);
        if let Some(local) = &self.local {
            let _ = rustix::net::shutdown(&**local, rustix::net::Shutdown::Both);
        }
        for acceptor in self.acceptors {
            let _ = acceptor.join();
        }
        let open = self.shared.open();
        for socket in open.values() {
            let _ = socket.shutdown(Shutdown::Read);
        }
        let waited = self.shared.one_closed.wait_timeout_while(open, patience, |open| !open.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for socket in open.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, accept: impl Fn() -> io::Result<(Socket, Peer)>) {
        loop {
            let accepted = accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                // Some other user's program: it is closed, and costs nobody else anything.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::debug!(%error, "a local connection was closed");
                }
                Err(error) => {
                    // Out of descriptors, most likely: connections that end will free some.
                    self.engine.report(Severity::Warning, format!("a client connection was not accepted: {error}"));
                    self.engine.clock().sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Socket, peer: Peer) {
        let Ok(registered) = stream.try_clone() else { return };
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open();
        if open.len() >= self.config.connections_max {
            drop(open);
            self.engine.metrics().connections_refused.add_one();
            let most = self.config.connections_max;
            let message =
                format!("a connection from {peer} was refused: there are {most} already (setting connections_max)");
            return self.engine.report(Severity::Warning, message);
        }
        open.insert(number, registered);
        drop(open);
        self.engine.metrics().connections.add_one();
        let shared = Arc::clone(self);
        let serving = spawn("session", move || {
            shared.serve(stream, peer);
            shared.close(number);
        });
        if let Err(error) = serving {
            self.close(number);
            self.engine.report(Severity::Error, format!("no thread for the connection from {peer}: {error}"));
        }
    }

    fn close(&self, number: u64) {
        self.open().remove(&number);
        self.one_closed.notify_all();
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Socket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: Socket, peer: Peer) {
        let Ok(socket) = stream.try_clone() else { return };
        let Ok(stream) = SessionStream::new(stream, self.engine.clock().clone()) else { return };
        let mut connection = Connection::new(stream);
        let purpose = match self.shake_hands(&mut connection) {
            Ok(Some(purpose)) => purpose,
            Ok(None) => return,
            Err(error) => return self.log_stranger(&error, peer),
        };
        let ended = match purpose {
            Purpose::Ask => Ok(()),
            Purpose::Operations { session, slot } => {
                rename_thread(&format!("ops-{session}-{slot}"));
                let timeout = self.config.answer_timeout;
                connection
                    .stream()
                    .end_deadline(timeout)
                    .map_err(|error| Ended::Failed(error.into()))
                    .and_then(|()| serve_operations(&self.engine, session, slot, &mut connection))
            }
            Purpose::Push { session } => {
                rename_thread(&format!("push-{session}"));
                let timeout = self.config.push_send_timeout;
                connection
                    .stream()
                    .end_deadline(timeout)
                    .map_err(WireError::from)
                    .and_then(|()| push::serve(&self.engine, session, &mut connection, (socket, peer)))
                    .map_err(Ended::Failed)
            }
        };
        match ended {
            Err(Ended::NotOurs(reason)) => self.strangers.note(peer.address(), &reason),
            Err(Ended::Failed(error)) if is_nonsense(&error) => {
                self.strangers.note(peer.address(), &with_sources(&error));
            }
            Err(Ended::Failed(error)) => {
                tracing::debug!(%peer, ?purpose, error = &error as &dyn std::error::Error, "a client connection ended");
            }
            Ok(()) => {}
        }
    }

    /// What the connection is for, or nothing if it was refused with a reason.
    fn shake_hands(&self, connection: &mut Connection<SessionStream>) -> Result<Option<Purpose>, WireError> {
        connection.stream().begin_deadline(self.config.handshake_timeout);
        let header = connection.receive_head(&Awaited::HELLO)?;
        let hello: session::Hello = connection.message(&header)?;
        match welcome(&self.engine, &hello, &self.announced) {
            Ok((purpose, reply)) => {
                connection.send(Envelope::reply_to(&header), &reply, &[])?;
                Ok(Some(purpose))
            }
            Err(failure) => {
                if failure.errno != Errno::ESTALE {
                    self.engine.metrics().connections_refused.add_one();
                }
                let position = self.engine.recovered_after(hello.master_start).unwrap_or(0);
                send_failure(connection.stream(), &header, &failure, position)?;
                Ok(None)
            }
        }
    }

    /// A peer that is no client is an event once: port scanners and health checks come again and again.
    fn log_stranger(&self, error: &WireError, peer: Peer) {
        self.engine.metrics().connections_refused.add_one();
        if !is_nonsense(error) {
            return;
        }
        if self.nonsense_told.swap(true, Ordering::Relaxed) {
            self.strangers.note(peer.address(), &with_sources(error));
        } else {
            let what = match error {
                WireError::Frame(FrameError::Magic(_)) => {
                    "something that is not rfs (a browser, a health check?)".to_owned()
                }
                WireError::Frame(frame) => frame.to_string(),
                other => other.to_string(),
            };
            let web = self.announced.web_port;
            let message = format!(
                "{peer} sent {what} to the client port and was cut off; the status page is on port {web}. \
                 The log tells of others"
            );
            self.engine.report(Severity::Warning, message);
        }
    }
}

/// Answers one request after the other until the connection ends.
fn serve_operations(
    engine: &Engine,
    session: rfs_common::ids::SessionId,
    slot: u32,
    connection: &mut Connection<SessionStream>,
) -> Result<(), Ended> {
    // Read after the operation has run: it may be more than the answer rests on, never less.
    let position = || engine.storage().position().get();
    loop {
        // A large request is seldom followed by another one.
        connection.shrink_buffers();
        let header = match connection.receive_head(&Awaited::REQUEST) {
            Ok(header) => header,
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (of_slot, sequence) = slot_and_sequence(header.request_id);
        if header.is_reply() || of_slot != slot || header.payload_bytes > 0 {
            let expected = "a request of the connection's slot";
            return Err(WireError::OutOfPlace { expected, got: header.frame_type }.into());
        }
        let request = Request { session, slot, sequence };
        match calls::answer(engine, request, header.frame_type, connection.message_bytes()) {
            Ok(reply) if reply.len() + ANSWERED_BYTES <= header.frame_type.reply_limits().message_bytes as usize => {
                send_answer(connection.stream(), &header, FLAG_REPLY, reply, position())?;
            }
            Ok(_) => {
                let failure = Failure::new(Errno::EOVERFLOW, "the answer is longer than a frame may be: ask for less");
                send_failure(connection.stream(), &header, &failure, position())?;
            }
            Err(Refusal::Failed(failure)) => send_failure(connection.stream(), &header, &failure, position())?,
            Err(Refusal::NotOurs(reason)) => return Err(Ended::NotOurs(reason)),
            Err(Refusal::Close(reason)) => {
                tracing::debug!(%session, slot, reason, "an operations connection is closed");
                return Ok(());
            }
        }
    }
}

/// Bytes of [`session::Answered`]: a tag and a number of fixed size.
const ANSWERED_BYTES: usize = 9;

/// Sends an answer that is encoded already, in one write, with the position of the log that it rests on.
fn send_answer(
    stream: &SessionStream,
    request: &Header,
    flags: u16,
    answer: impl AsRef<[u8]>,
    log_position: u64,
) -> io::Result<()> {
    let (answer, answered) = (answer.as_ref(), session::Answered { log_position });
    let message_bytes = answer.len() + answered.encoded_len();
    let header = Header { flags, message_bytes: message_bytes as u32, payload_bytes: 0, ..*request };
    let mut frame = Vec::with_capacity(HEADER_BYTES + message_bytes);
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(answer);
    answered.encode_raw(&mut frame);
    stream.socket().write_all(&frame)
}

fn send_failure(stream: &SessionStream, request: &Header, failure: &Failure, log_position: u64) -> io::Result<()> {
    let message = failure_message(failure).encode_to_vec();
    send_answer(stream, request, FLAG_REPLY | FLAG_ERROR, message, log_position)
}

/// Shows in `top` and `ps` what the thread is for.
fn rename_thread(name: &str) {
    let short: String = name.chars().take(rfs_common::background::THREAD_NAME_BYTES_MAX).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        // A name that cannot be set is not worth more than this.
        let _ = rustix::thread::set_name(&name);
    }
}

#[cfg(test)]
#[path = "listener_test.rs"]
mod tests;
