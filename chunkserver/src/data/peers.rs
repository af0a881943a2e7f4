//! Connections to other chunkservers, kept for reuse: the next copy of a chain, and the source of a replication.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::{ClusterId, ServerId};
use rfs_common::socket::{QUIET_MAX, Socket, chunkserver_address};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::data::{Hello, HelloReply, NextCopy};
use rfs_proto::data_calls::DataCall;
use rfs_proto::frame::Header;
use rfs_proto::session::Failure;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError, cut_foreign_text};
use rustix::net::RecvFlags;
use thiserror::Error;

/// Idle connections kept to one volume of another chunkserver.
const IDLE_OF_ONE_MAX: usize = 32;
/// Idle connections kept to all of them together. Where they lead is what requests named, right or wrong.
const IDLE_MAX: usize = 512;

/// Why another chunkserver did not answer.
#[derive(Debug, Error)]
pub enum PeerError {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// To where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or no answer came in time.
    #[error("{address} did not answer")]
    Wire {
        /// Who.
        address: String,
        /// Why.
        source: WireError,
    },
    /// It refused.
    #[error("{address} refused: {message}")]
    Refused {
        /// Who.
        address: String,
        /// Its errno.
        errno: u32,
        /// Its words.
        message: String,
    },
}

impl PeerError {
    /// The error number that fits best.
    pub fn errno(&self) -> Errno {
        match self {
            PeerError::Connect { source, .. } => Errno::from_io(source),
            PeerError::Wire { source, .. } if source.is_timeout() => Errno::ETIMEDOUT,
            PeerError::Wire { source: WireError::Io(error), .. } => Errno::from_io(error),
            PeerError::Wire { .. } => Errno::ECONNRESET,
            PeerError::Refused { errno, .. } => Errno::from_raw(*errno as i32),
        }
    }
}

/// How much longer a hop of a chain waits for each copy that the next one waits for: it hears which of them stalls before it
/// gives up itself.
const LONGER_PER_COPY_BEHIND: Duration = Duration::from_millis(200);

/// Who this chunkserver is.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its server id.
    pub server: ServerId,
}

type Key = (String, u64);

/// The pool.
#[derive(Debug)]
pub struct Peers {
    /// The one used last stands last.
    idle: Mutex<Vec<(Key, Connection<Socket>)>>,
    connect_deadline: Duration,
    answer_deadline: Duration,
}

/// A request that was sent.
#[derive(Debug)]
pub struct Pending<'peers> {
    peers: &'peers Peers,
    key: Key,
    connection: Connection<Socket>,
}

impl Peers {
    /// An empty pool.
    pub fn new(connect_deadline: Duration, answer_deadline: Duration) -> Peers {
        Peers { idle: Mutex::default(), connect_deadline, answer_deadline }
    }

    /// Sends a request to a copy, over a connection that is there or a new one. The copy waits for those `behind` it.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn begin<R: DataCall>(
        &self,
        own: Own,
        to: &NextCopy,
        request: &R,
        payload: &[u8],
        behind: usize,
    ) -> Result<Pending<'_>, PeerError> {
        let key = (to.address.clone(), to.volume);
        let wait = self.answer_deadline + LONGER_PER_COPY_BEHIND * behind as u32;
        let (mut connection, wait) = match self.take_idle(&key) {
            Some(connection) => (connection, wait),
            // The time that connecting may have taken is part of it.
            None => (self.connect(own, to)?, wait.saturating_sub(self.connect_deadline).max(self.connect_deadline)),
        };
        let limited = connection.stream().set_read_timeout(Some(wait)).and_then(|()| {
            // Set again: from its greeting on the limit is for a peer that lives.
            connection.stream().set_write_timeout(Some(self.answer_deadline))
        });
        limited.map_err(|source| PeerError::Connect { address: key.0.clone(), source })?;
        connection
            .send(Envelope::request(R::FRAME_TYPE, 1), request, &[payload])
            .map_err(|source| PeerError::Wire { address: key.0.clone(), source })?;
        Ok(Pending { peers: self, key, connection })
    }

    /// A connection that the peer has not closed meanwhile.
    fn take_idle(&self, key: &Key) -> Option<Connection<Socket>> {
        loop {
            let connection = {
                let mut idle = self.idle();
                let at = idle.iter().rposition(|(of, _)| of == key)?;
                idle.remove(at).1
            };
            let mut byte = [0];
            let seen = rustix::net::recv(connection.stream(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
            if matches!(seen, Err(rustix::io::Errno::AGAIN)) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next use, instead of the one that was used least recently if there are too many.
    fn keep(&self, key: Key, connection: Connection<Socket>) {
        let dropped = {
            let mut idle = self.idle();
            let of_this = idle.iter().filter(|(of, _)| *of == key).count();
            let too_many = if of_this >= IDLE_OF_ONE_MAX {
                idle.iter().position(|(of, _)| *of == key)
            } else {
                (idle.len() >= IDLE_MAX).then_some(0)
            };
            let dropped = too_many.map(|at| idle.remove(at));
            idle.push((key, connection));
            dropped
        };
        // Closed without the lock.
        drop(dropped);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Key, Connection<Socket>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, own: Own, to: &NextCopy) -> Result<Connection<Socket>, PeerError> {
        if let Ok(local) = self.connect_locally(to) {
            match greet(own, to, local) {
                // Who does not answer here would not over TCP, and the wait would be twice as long.
                Err(PeerError::Wire { address, source }) if source.is_timeout() => {
                    return Err(PeerError::Wire { address, source });
                }
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "a chunkserver on this host is asked over TCP"),
            }
        }
        let connected = connect_in_time(&to.address, self.connect_deadline, self.answer_deadline).and_then(Socket::tcp);
        let stream = connected.map_err(|source| PeerError::Connect { address: to.address.clone(), source })?;
        greet(own, to, stream)
    }

    /// A peer on this host, such as one with volumes of its own.
    fn connect_locally(&self, to: &NextCopy) -> io::Result<Socket> {
        let stream = Socket::connect_local(&chunkserver_address(ServerId::new(to.server))?)?;
        stream.set_read_timeout(Some(self.answer_deadline))?;
        stream.set_write_timeout(Some(self.answer_deadline))?;
        Ok(stream)
    }
}

fn greet(own: Own, to: &NextCopy, stream: Socket) -> Result<Connection<Socket>, PeerError> {
    let address = to.address.clone();
    let is_local = stream.is_local();
    let mut connection = Connection::new(stream);
    let (high, low) = own.cluster.to_halves();
    let cluster: Vec<u8> = [high.to_be_bytes(), low.to_be_bytes()].concat();
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster: cluster.into(),
        server: to.server,
        volume: to.volume,
        from: format!("chunkserver {}", own.server),
    };
    let wire = |source| PeerError::Wire { address: address.clone(), source };
    connection.send(Envelope::request(Hello::FRAME_TYPE, 0), &hello, &[]).map_err(wire)?;
    match connection.receive_reply::<HelloReply>(Hello::FRAME_TYPE, 0).map_err(wire)? {
        Ok(_) => {}
        Err(failure) => return Err(refused(address, failure)),
    }
    let server = ServerId::new(to.server);
    connection.stream().ask_while_waiting(Box::new(move || lives(&address, server, &hello, is_local)));
    Ok(connection)
}

/// Whether the peer greets a new connection, well or badly: a stopped one does not, nor one that is cut off.
fn lives(address: &str, server: ServerId, hello: &Hello, is_local: bool) -> bool {
    let local = || chunkserver_address(server).and_then(|address| Socket::connect_local(&address));
    let asked = || -> Result<(), WireError> {
        let stream = if is_local { local()? } else { Socket::tcp(connect_in_time(address, QUIET_MAX, QUIET_MAX)?)? };
        stream.set_read_timeout(Some(QUIET_MAX))?;
        let mut connection = Connection::new(stream);
        connection.send(Envelope::request(Hello::FRAME_TYPE, 0), hello, &[])?;
        connection.receive_reply::<HelloReply>(Hello::FRAME_TYPE, 0).map(drop)
    };
    asked().is_ok()
}

/// Connects with time limits for the connection and for each answer.
///
/// # Errors
/// Those of the system; that of the last address tried.
pub fn connect_in_time(address: &str, connect: Duration, answer: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, connect) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(answer))?;
                stream.set_write_timeout(Some(answer))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn refused(address: String, failure: Failure) -> PeerError {
    PeerError::Refused { address, errno: failure.errno, message: cut_foreign_text(failure.message) }
}

impl Pending<'_> {
    /// Receives the answer, its payload into `payload`, and gives the connection back.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn finish<R: DataCall>(mut self, payload: &mut Vec<u8>) -> Result<R::Reply, PeerError> {
        let address = self.key.0.clone();
        let reply =
            self.receive::<R>(payload).map_err(|source| PeerError::Wire { address: address.clone(), source })?;
        self.peers.keep(self.key, self.connection);
        reply.map_err(|failure| refused(address, failure))
    }

    fn receive<R: DataCall>(&mut self, payload: &mut Vec<u8>) -> Result<Result<R::Reply, Failure>, WireError> {
        let header: Header = self.connection.receive_head(&Awaited::REPLY)?;
        if header.frame_type != R::FRAME_TYPE {
            return Err(WireError::OutOfPlace { expected: "the reply to a request", got: header.frame_type });
        }
        if header.is_error() {
            return Ok(Err(self.connection.message(&header)?));
        }
        let reply = self.connection.message(&header)?;
        payload.resize(header.payload_bytes as usize, 0);
        self.connection.receive_payload(payload)?;
        Ok(Ok(reply))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn idle_connections_are_bounded_wherever_they_lead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peers = Peers::new(Duration::from_secs(1), Duration::from_secs(1));
        let keep = |volume: u64| {
            let connection = Connection::new(Socket::tcp(TcpStream::connect(address).unwrap()).unwrap());
            drop(listener.accept().unwrap());
            peers.keep((address.to_string(), volume), connection);
        };
        (0..IDLE_OF_ONE_MAX as u64 + 5).for_each(|_| keep(0));
        assert_eq!(peers.idle().len(), IDLE_OF_ONE_MAX);
        (1..=IDLE_MAX as u64 + 5).for_each(keep);
        let idle = peers.idle();
        assert_eq!(idle.len(), IDLE_MAX);
        assert_eq!(idle.last().map(|(key, _)| key.1), Some(IDLE_MAX as u64 + 5));
    }
}
