//! Connections to chunkservers, kept for reuse by (address, volume).
//!
//! A thread takes a connection, sends, reads the answer itself and puts the connection back; no other thread is woken.
//! A connection that failed in any way is dropped, never put back: an answer that comes late would be taken for another's.
//! A place that failed is avoided for a moment: asked last, but asked when nothing else is left.
//!
//! Timeouts are those of the socket (per read or write call), set once and kept while the purpose stays the same.

use std::collections::HashMap;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::VolumeId;
use rfs_common::socket::{QUIET_MAX, Socket, chunkserver_address};
use rfs_proto::data::{Hello, HelloReply};
use rfs_proto::data_calls::DataCall;
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::session::Failure;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};
use thiserror::Error;

use super::places::Place;
use super::settings::DataSettings;

/// Bytes that one read call may take in beyond the header: a head and its message fit, and payload goes past it.
const READ_BUFFER_BYTES: usize = 4096;
/// What both socket buffers are raised to where the system allows more than its own tuning would give.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Why a place gave no answer. Whatever it is, the connection is gone.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// No connection could be made.
    #[error("cannot connect to {address}: is the chunkserver running there?")]
    Connect {
        /// The place's address.
        address: Arc<str>,
        /// What the system said.
        source: io::Error,
    },
    /// The chunkserver refused the connection or the request.
    #[error("the chunkserver refused (errno {}): {}", .0.errno, .0.message)]
    Refused(Failure),
    /// The connection failed, or the answer did not come in time.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl CallError {
    /// The nearest error number.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            CallError::Connect { source, .. } => Errno::from_io(source),
            CallError::Refused(failure) => Errno::from_raw(failure.errno as i32),
            CallError::Wire(error) if error.is_timeout() => Errno::ETIMEDOUT,
            CallError::Wire(WireError::Io(error)) => Errno::from_io(error),
            CallError::Wire(WireError::Closed) => Errno::ECONNRESET,
            CallError::Wire(_) => Errno::EPROTO,
        }
    }

    /// Whether an idle connection turned out to be dead already: the chunkserver closed it, or restarted.
    fn is_closed(&self) -> bool {
        match self {
            CallError::Wire(WireError::Closed) => true,
            CallError::Wire(WireError::Io(error)) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            _ => false,
        }
    }
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Connections {
    settings: Arc<DataSettings>,
    clock: SharedClock,
    socket_buffer_bytes: Option<usize>,
    volumes: Mutex<HashMap<(Arc<str>, VolumeId), Volume>>,
}

/// What is known of one place.
#[derive(Debug, Default)]
struct Volume {
    idle: Vec<DataConnection>,
    avoid_until: Option<Monotonic>,
}

impl Connections {
    pub(crate) fn new(settings: Arc<DataSettings>, clock: SharedClock) -> Connections {
        let socket_buffer_bytes = allowed_socket_buffer();
        Connections { settings, clock, socket_buffer_bytes, volumes: Mutex::default() }
    }

    /// A connection to this place: an idle one or a new one.
    pub(crate) fn take(&self, place: &Place, timeout: Duration) -> Result<DataConnection, CallError> {
        let idle = self.volumes().get_mut(&key(place)).and_then(|volume| volume.idle.pop());
        let mut connection = match idle {
            Some(connection) => DataConnection { reused: true, ..connection },
            None => self.connect(place)?,
        };
        connection.set_timeout(timeout)?;
        Ok(connection)
    }

    /// Gives a connection back on which every answer has been read to its end.
    pub(crate) fn put_back(&self, place: &Place, connection: DataConnection) {
        let mut volumes = self.volumes();
        let volume = volumes.entry(key(place)).or_default();
        volume.avoid_until = None;
        if volume.idle.len() < self.settings.idle_connections_max {
            volume.idle.push(connection);
        }
    }

    /// The place failed: its idle connections are dropped and it is avoided for a moment.
    pub(crate) fn failed(&self, place: &Place) {
        let until = self.clock.monotonic() + self.settings.avoid_time;
        let mut volumes = self.volumes();
        let volume = volumes.entry(key(place)).or_default();
        volume.avoid_until = Some(until);
        let dropped = std::mem::take(&mut volume.idle);
        drop(volumes);
        drop(dropped);
    }

    /// Whether the place failed a moment ago.
    pub(crate) fn is_avoided(&self, place: &Place) -> bool {
        let volumes = self.volumes();
        let until = volumes.get(&key(place)).and_then(|volume| volume.avoid_until);
        until.is_some_and(|until| self.clock.monotonic() < until)
    }

    /// Runs `exchange` on a connection to `place`; once more on a new one if an idle one was dead. What is exchanged must
    /// bear repetition.
    pub(crate) fn with<T>(
        &self,
        place: &Place,
        timeout: Duration,
        mut exchange: impl FnMut(&mut DataConnection) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        loop {
            let attempt = self.take(place, timeout).and_then(|mut connection| match exchange(&mut connection) {
                Err(error) if connection.died_idle(&error) => Ok(None),
                outcome => outcome.map(|value| Some((value, connection))),
            });
            match attempt {
                Ok(Some((value, connection))) => {
                    self.put_back(place, connection);
                    return Ok(value);
                }
                Ok(None) => self.drop_idle(place),
                Err(error) => {
                    self.failed(place);
                    return Err(error);
                }
            }
        }
    }

    /// The place's idle connections have died with its server.
    pub(crate) fn drop_idle(&self, place: &Place) {
        let dropped = self.volumes().get_mut(&key(place)).map(|volume| std::mem::take(&mut volume.idle));
        drop(dropped);
    }

    fn connect(&self, place: &Place) -> Result<DataConnection, CallError> {
        if self.settings.local
            && let Ok(stream) = chunkserver_address(place.server).and_then(|address| Socket::connect_local(&address))
        {
            match self.greet(place, stream) {
                // Who does not answer here would not over TCP, and the wait would be twice as long.
                Err(CallError::Wire(error)) if error.is_timeout() => return Err(error.into()),
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, %place.address, "a chunkserver on this host is asked over TCP"),
            }
        }
        let stream = self
            .connect_stream(&place.address)
            .map_err(|source| CallError::Connect { address: Arc::clone(&place.address), source })?;
        self.greet(place, stream)
    }

    fn greet(&self, place: &Place, stream: Socket) -> Result<DataConnection, CallError> {
        let stream = BufferedStream(BufReader::with_capacity(READ_BUFFER_BYTES, stream));
        let mut connection =
            DataConnection { connection: Connection::new(stream), last_request: 0, timeout: None, reused: false };
        connection.set_timeout(self.settings.connect_timeout)?;
        let hello = self.settings.hello(place);
        let request = connection.send(&hello, &[])?;
        let reply: HelloReply = connection.receive::<Hello>(request)?;
        if reply.server != place.server.get() {
            let message = format!("{} is chunkserver {:016x}, not {}", place.address, reply.server, place.server);
            return Err(CallError::Refused(Failure { errno: Errno::ESTALE.raw() as u32, message }));
        }
        let is_local = connection.connection.stream().0.get_ref().is_local();
        let (place, way) = (place.clone(), if is_local { Way::Local } else { Way::Tcp });
        let lives = Box::new(move || lives(&place, &hello, way));
        connection.connection.stream().0.get_ref().ask_while_waiting(lives);
        connection.timeout = None;
        Ok(connection)
    }

    fn connect_stream(&self, address: &str) -> io::Result<Socket> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for candidate in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&candidate, self.settings.connect_timeout) {
                Ok(stream) => {
                    if let Some(bytes) = self.socket_buffer_bytes {
                        rustix::net::sockopt::set_socket_send_buffer_size(&stream, bytes)?;
                        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, bytes)?;
                    }
                    return Socket::tcp(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn volumes(&self) -> MutexGuard<'_, HashMap<(Arc<str>, VolumeId), Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a chunkserver is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the same host.
    Local,
    /// Over the network.
    Tcp,
}

/// Whether the chunkserver of a place greets a new connection, well or badly: a stopped one does not, nor one that is cut off.
pub(crate) fn lives(place: &Place, hello: &Hello, way: Way) -> bool {
    let tcp = || {
        let mut addresses = place.address.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Socket::tcp(TcpStream::connect_timeout(&address, QUIET_MAX)?)
    };
    let local = || chunkserver_address(place.server).and_then(|address| Socket::connect_local(&address));
    let asked = || -> Result<(), WireError> {
        let stream = if way == Way::Local { local()? } else { tcp()? };
        stream.set_read_timeout(Some(QUIET_MAX))?;
        let mut connection = Connection::new(stream);
        connection.send(Envelope::request(Hello::FRAME_TYPE, 1), hello, &[])?;
        connection.receive_reply::<HelloReply>(Hello::FRAME_TYPE, 1).map(drop)
    };
    asked().is_ok()
}

fn key(place: &Place) -> (Arc<str>, VolumeId) {
    (Arc::clone(&place.address), place.volume)
}

/// Setting a buffer's size ends the kernel's own tuning, which reaches several MiB, and is capped by `rmem_max` and
/// `wmem_max`, often 208 KiB: so only where the administrator has raised those.
fn allowed_socket_buffer() -> Option<usize> {
    let limit = |name: &str| -> Option<usize> {
        std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok()
    };
    let allowed = limit("rmem_max")?.min(limit("wmem_max")?);
    (allowed >= SOCKET_BUFFER_BYTES).then_some(SOCKET_BUFFER_BYTES)
}

/// One connection, past its handshake.
#[derive(Debug)]
pub(crate) struct DataConnection {
    connection: Connection<BufferedStream>,
    last_request: u64,
    timeout: Option<Duration>,
    /// It was idle before: the server may have closed it meanwhile.
    reused: bool,
}

impl DataConnection {
    /// Sends a request; its id.
    pub(crate) fn send<C: DataCall>(&mut self, request: &C, payload: &[&[u8]]) -> Result<u64, CallError> {
        self.last_request += 1;
        self.connection.send(Envelope::request(C::FRAME_TYPE, self.last_request), request, payload)?;
        Ok(self.last_request)
    }

    /// The answer to the oldest unanswered request.
    pub(crate) fn receive<C: DataCall>(&mut self, request: u64) -> Result<C::Reply, CallError> {
        let (reply, _) = self.receive_head::<C>(request)?;
        Ok(reply)
    }

    /// The same where a payload may follow, which must be read next.
    pub(crate) fn receive_head<C: DataCall>(&mut self, request: u64) -> Result<(C::Reply, Header), CallError> {
        let header = self.connection.receive_head(&Awaited::REPLY)?;
        if header.frame_type != C::FRAME_TYPE || header.request_id != request {
            return Err(out_of_place(header.frame_type));
        }
        if header.is_error() {
            return Err(CallError::Refused(self.connection.message(&header)?));
        }
        Ok((self.connection.message(&header)?, header))
    }

    /// Reads payload.
    pub(crate) fn receive_payload(&mut self, into: &mut [u8]) -> Result<(), CallError> {
        Ok(self.connection.receive_payload(into)?)
    }

    /// Whether a failure of the first exchange may only mean that the connection had died while idle.
    pub(crate) fn died_idle(&self, error: &CallError) -> bool {
        self.reused && error.is_closed()
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<(), CallError> {
        if self.timeout != Some(timeout) {
            let stream = self.connection.stream().0.get_ref();
            stream.set_read_timeout(Some(timeout)).map_err(WireError::Io)?;
            stream.set_write_timeout(Some(timeout)).map_err(WireError::Io)?;
            self.timeout = Some(timeout);
        }
        Ok(())
    }
}

/// An answer that is not the one awaited.
pub(crate) fn out_of_place(got: FrameType) -> CallError {
    WireError::OutOfPlace { expected: "the reply to the oldest request", got }.into()
}

/// A stream whose reads take in a whole head at once; large reads and all writes go past the buffer.
#[derive(Debug)]
struct BufferedStream(BufReader<Socket>);

impl Read for BufferedStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for BufferedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
