//! One connection to the master: TCP, or for the slots a Unix socket where it is on this host, then Hello and its answer.
//!
//! The endpoints are tried in their order and each of their addresses in the resolver's order; the error told is that of
//! the last one tried. A stream is shared ([`Stream`]), so that another thread can break it while its owner reads.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rfs_common::clock::Monotonic;
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};
use rfs_common::errno::Errno;
use rfs_common::ids::ClusterId;
use rfs_common::socket::{Socket, master_address};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::frame::FrameType;
use rfs_proto::session::{Answered, ClientInfo, ConnectionRole, Failure, Hello, HelloReply};
use rfs_proto::wire::{Connection, Envelope};
use tracing::debug;

use super::error::{ConnectError, shown};
use super::{Identity, SessionOptions};

/// A stream that one thread uses and others may break.
#[derive(Clone, Debug)]
pub(super) struct Stream(Arc<Socket>);

impl Stream {
    /// Ends the stream for whoever reads or writes it.
    pub(super) fn break_off(&self) {
        // An error means that it is broken already.
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Closes the sending side: what was sent arrives, nothing follows.
    pub(super) fn finish(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self.0).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        (&*self.0).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

/// A connection that was greeted.
pub(super) struct Greeted {
    pub(super) connection: Connection<Stream>,
    pub(super) reply: HelloReply,
    /// When the Hello was sent.
    pub(super) asked_at: Monotonic,
}

/// Begins a session.
pub(super) fn begin_session(options: &SessionOptions, cluster: Option<ClusterId>) -> Result<Greeted, ConnectError> {
    let client = ClientInfo {
        host: options.host.clone(),
        mount_point: options.mount_point.clone(),
        process_id: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        read_only: options.read_only,
    };
    let hello = Hello {
        role: ConnectionRole::Push.into(),
        client: Some(client),
        subdirectory: options.subdirectory.clone().into(),
        ..hello(cluster)
    };
    greet_any(options, &hello)
}

/// Joins a session as its push connection; it was told of the master's log up to this position.
pub(super) fn join_push(
    options: &SessionOptions,
    cluster: ClusterId,
    identity: &Identity,
    log_position: u64,
) -> Result<Greeted, ConnectError> {
    let hello = Hello { master_start: identity.master_start, log_position, ..joining(cluster, identity) };
    greet_any(options, &Hello { role: ConnectionRole::Push.into(), ..hello })
}

/// Joins a session as the connection of a slot.
pub(super) fn join_slot(
    options: &SessionOptions,
    cluster: ClusterId,
    identity: &Identity,
    slot: u32,
) -> Result<Greeted, ConnectError> {
    let hello = Hello { role: ConnectionRole::Operations.into(), slot, ..joining(cluster, identity) };
    if options.local
        && let Ok(socket) =
            master_address(cluster, identity.master_start).and_then(|address| Socket::connect_local(&address))
    {
        match greet_over(options, Stream(Arc::new(socket)), "the master on this host", &hello) {
            Ok(greeted) => return Ok(greeted),
            // Who does not answer here would not over TCP, and the wait would be twice as long.
            Err(ConnectError::NotMaster { endpoint, source }) if source.is_timeout() => {
                return Err(ConnectError::NotMaster { endpoint, source });
            }
            // What a refusal means is for the master to say that the endpoint names.
            Err(error) => debug!(%error, "the master is asked over TCP"),
        }
    }
    greet_any(options, &hello)
}

fn joining(cluster: ClusterId, identity: &Identity) -> Hello {
    Hello { session: identity.session, secret: identity.secret.clone(), ..hello(Some(cluster)) }
}

fn hello(cluster: Option<ClusterId>) -> Hello {
    let expected_cluster =
        cluster.map(|cluster| prost::bytes::Bytes::copy_from_slice(&cluster.get().to_be_bytes())).unwrap_or_default();
    Hello { protocol_version: PROTOCOL_VERSION, expected_cluster, ..Hello::default() }
}

/// The cluster of a HelloReply.
pub(super) fn cluster_of(bytes: &[u8]) -> ClusterId {
    let number = <[u8; 16]>::try_from(bytes).map_or(0, u128::from_be_bytes);
    ClusterId::new(number)
}

fn greet_any(options: &SessionOptions, hello: &Hello) -> Result<Greeted, ConnectError> {
    let mut last = ConnectError::NoEndpoint;
    for endpoint in &options.endpoints {
        match greet(options, endpoint, hello) {
            Ok(greeted) => return Ok(greeted),
            Err(error @ (ConnectError::Expired { .. } | ConnectError::LogLost { .. })) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn greet(options: &SessionOptions, endpoint: &Endpoint, hello: &Hello) -> Result<Greeted, ConnectError> {
    let stream = connect(options, endpoint)?;
    let endpoint = shown(&endpoint.clone().with_default_port(CLIENT_TO_MASTER_PORT));
    greet_over(options, stream, &endpoint, hello)
}

fn greet_over(
    options: &SessionOptions,
    stream: Stream,
    endpoint: &str,
    hello: &Hello,
) -> Result<Greeted, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { endpoint: endpoint.to_owned(), source };
    // Whoever listens on a port of his own may say nothing at all.
    stream.set_read_timeout(Some(options.connect_timeout.max(Duration::from_secs(5)))).map_err(unreachable)?;
    let mut connection = Connection::new(stream);
    let asked_at = options.clock.monotonic();
    let not_master = |source| ConnectError::NotMaster { endpoint: endpoint.to_owned(), source };
    connection.send(Envelope::request(FrameType::Hello, 0), hello, &[]).map_err(not_master)?;
    let reply = connection.receive_reply::<HelloReply>(FrameType::Hello, 0).map_err(not_master)?;
    let reply = reply.map_err(|failure| {
        let recovered = Answered::decode(connection.message_bytes()).map_or(0, |answered| answered.log_position);
        refusal(endpoint, hello, &failure, recovered)
    })?;
    connection.stream().set_read_timeout(None).map_err(unreachable)?;
    check_cluster(endpoint, hello, &reply)?;
    Ok(Greeted { connection, reply, asked_at })
}

fn check_cluster(endpoint: &str, hello: &Hello, reply: &HelloReply) -> Result<(), ConnectError> {
    if hello.expected_cluster.is_empty() || hello.expected_cluster == reply.cluster {
        return Ok(());
    }
    Err(ConnectError::WrongCluster {
        endpoint: endpoint.to_owned(),
        found: format!("this is the master of cluster {}", cluster_of(&reply.cluster)),
        expected: cluster_of(&hello.expected_cluster),
    })
}

/// What a refused Hello means.
fn refusal(endpoint: &str, hello: &Hello, failure: &Failure, recovered: u64) -> ConnectError {
    let errno = Errno::from_raw(i32::try_from(failure.errno).unwrap_or(0));
    let endpoint = endpoint.to_owned();
    let message = failure.message.clone();
    match errno {
        Errno::ESTALE => ConnectError::Expired { endpoint },
        Errno::ENOTRECOVERABLE => ConnectError::LogLost { endpoint, recovered },
        Errno::EPROTO => ConnectError::WrongVersion { endpoint, ours: PROTOCOL_VERSION, message },
        Errno::EXDEV if !hello.expected_cluster.is_empty() => {
            ConnectError::WrongCluster { endpoint, found: message, expected: cluster_of(&hello.expected_cluster) }
        }
        Errno::ENOENT | Errno::ENOTDIR if !hello.subdirectory.is_empty() => {
            ConnectError::NoSubdirectory { path: String::from_utf8_lossy(&hello.subdirectory).into_owned() }
        }
        _ => ConnectError::Rejected { endpoint, errno, message },
    }
}

fn connect(options: &SessionOptions, endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    let addresses = endpoint.resolve(CLIENT_TO_MASTER_PORT).map_err(ConnectError::Unresolved)?;
    let endpoint = shown(&endpoint.clone().with_default_port(CLIENT_TO_MASTER_PORT));
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, options.connect_timeout) {
            Ok(stream) => {
                let socket = Socket::tcp(stream)
                    .map_err(|source| ConnectError::Unreachable { endpoint: endpoint.clone(), source })?;
                return Ok(Stream(Arc::new(socket)));
            }
            Err(error) => last = error,
        }
    }
    Err(match last.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(endpoint),
        _ => ConnectError::Unreachable { endpoint, source: last },
    })
}
