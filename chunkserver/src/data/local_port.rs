//! The socket for clients of the same host, which are given the files of copies to read from them by themselves. One thread
//! per connection; a connection is for one volume.
//!
//! What always holds: who is not root or this user is given nothing; a file that is given away can only be read from; when a
//! volume goes out of service, or the daemon ends, its connections end, which is the client's sign to close what it was given, so
//! that the filesystem can be unmounted. What was given away says nothing about whether bytes are right: the reader
//! has the hashes, and the lease under which the chunk is not written (docs/protocol.md, "Copies on the client's own host").

use std::collections::HashMap;
use std::io;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::SharedClock;
use rfs_common::descriptor_stream::DescriptorStream;
use rfs_common::ids::VolumeId;
use rfs_common::shutdown::Shutdown;
use rfs_proto::data::{Hello, HelloReply, OpenCopy, OpenCopyReply};
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::session::Failure;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};
use rustix::event::{PollFd, PollFlags, poll};

use super::connection::Shared;
use super::requests::{self, copy_result};
use crate::chunk::fault::Fault;
use crate::chunk::format::data_at;
use crate::volume::store::Volume;

/// Clients of one host, each with one connection per volume.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take for a request once it has begun, or to take the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the daemon waits for clients to close files.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// How often a connection without requests looks whether its volume is still in service.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const REQUEST: Awaited = Awaited {
    what: "a request of a local connection",
    admits: |header| !header.is_reply() && header.frame_type == FrameType::OpenCopy,
};

/// The socket, in service.
#[derive(Debug)]
pub struct LocalPort {
    inner: Arc<Inner>,
    listener: Arc<UnixListener>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    connections: Mutex<HashMap<u64, UnixStream>>,
    next: AtomicU64,
    stop: Shutdown,
    clock: SharedClock,
}

impl LocalPort {
    /// Takes the name and begins to serve.
    ///
    /// # Errors
    /// Those of the system: `AddrInUse` if another process has the name.
    pub fn start(address: &SocketAddr, shared: Arc<Shared>, clock: SharedClock) -> io::Result<LocalPort> {
        let listener = Arc::new(rfs_common::socket::listen(address)?);
        let inner = Arc::new(Inner {
            shared,
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            stop: Shutdown::new(),
            clock,
        });
        let (acceptor, accepted) = (Arc::clone(&inner), Arc::clone(&listener));
        background::spawn("local-port", move || acceptor.accept(&accepted))?;
        Ok(LocalPort { inner, listener })
    }

    /// Takes no more connections, and ends those there are: each client has a moment to close the files that it was given.
    pub fn stop(&self) {
        self.inner.stop.request();
        // Wakes the thread that accepts.
        if let Err(error) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "the local socket had ended by itself");
        }
        for stream in self.inner.connections().values() {
            // The client's end comes back when it has closed the files.
            if let Err(error) = stream.shutdown(std::net::Shutdown::Write) {
                tracing::trace!(%error, "a local connection had ended by itself");
            }
        }
        let deadline = self.inner.clock.monotonic() + STOP_LIMIT;
        while !self.inner.connections().is_empty() && self.inner.clock.monotonic() < deadline {
            self.inner.clock.sleep(Duration::from_millis(1));
        }
    }
}

impl Inner {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        while !self.stop.is_requested() {
            let accepted = listener.accept().map(|(stream, _)| DescriptorStream::new(stream));
            if accepted.as_ref().is_ok_and(|stream| !stream.is_trusted().unwrap_or(false)) {
                tracing::debug!("a local connection of another user was closed");
                continue;
            }
            if let Err(error) = accepted.and_then(|stream| self.take(stream))
                && !self.stop.is_requested()
            {
                tracing::warn!(%error, "a local connection could not be served");
                self.clock.sleep(Duration::from_millis(50));
            }
        }
    }

    fn take(self: &Arc<Self>, stream: DescriptorStream) -> io::Result<()> {
        let (number, handle) = (self.next.fetch_add(1, Ordering::Relaxed), stream.try_clone()?);
        stream.set_timeout(REQUEST_LIMIT)?;
        {
            let mut connections = self.connections();
            if connections.len() >= CONNECTIONS_MAX {
                return Err(io::Error::other("there are too many of them; the client reads through the data port"));
            }
            connections.insert(number, handle);
        }
        let inner = Arc::clone(self);
        let spawned = background::spawn("local", move || inner.serve(number, stream));
        if spawned.is_err() {
            self.connections().remove(&number);
        }
        spawned.map(drop)
    }

    fn serve(&self, number: u64, stream: DescriptorStream) {
        if let Err(error) = (Serving { shared: &self.shared, stop: &self.stop }).serve(Connection::new(stream)) {
            tracing::debug!(%error, "a local connection ended");
        }
        self.connections().remove(&number);
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, UnixStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Serving<'port> {
    shared: &'port Shared,
    stop: &'port Shutdown,
}

impl Serving<'_> {
    fn serve(&self, mut connection: Connection<DescriptorStream>) -> Result<(), WireError> {
        let Some(volume) = self.hello(&mut connection)? else { return Ok(()) };
        loop {
            let came = wait_for_request(connection.stream())?;
            if volume.upgrade().is_none_or(|volume| volume.is_out()) || !came && self.stop.is_requested() {
                return Ok(());
            }
            if came {
                let header = connection.receive_head(&REQUEST)?;
                self.open_copy(&mut connection, &header, &volume)?;
            }
        }
    }

    /// The volume that the connection is for. It is not held: one that is out is to be let go of.
    fn hello(&self, connection: &mut Connection<DescriptorStream>) -> Result<Option<Weak<Volume>>, WireError> {
        let header = connection.receive_head(&Awaited::DATA_HELLO)?;
        let hello: Hello = connection.message(&header)?;
        let found = self.shared.check_hello(&hello).and_then(|own| {
            let volume = self.shared.volumes.find(VolumeId::new(hello.volume));
            let volume = volume.map_err(|fault| (fault.errno(), fault.to_string()))?;
            Ok((own, volume))
        });
        match found {
            Ok((own, volume)) => {
                let reply = HelloReply {
                    cluster: super::connection::cluster_bytes(own).into(),
                    server: own.server.get(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                connection.send(Envelope::reply_to(&header), &reply, &[])?;
                Ok(Some(Arc::downgrade(&volume)))
            }
            Err((errno, message)) => {
                let failure = Failure { errno: errno.raw() as u32, message };
                connection.send(Envelope::failure_of(&header), &failure, &[])?;
                Ok(None)
            }
        }
    }

    fn open_copy(
        &self,
        connection: &mut Connection<DescriptorStream>,
        header: &Header,
        volume: &Weak<Volume>,
    ) -> Result<(), WireError> {
        let request: OpenCopy = connection.message(header)?;
        let opened = volume
            .upgrade()
            .filter(|volume| volume.id().get() == request.volume)
            .ok_or(Fault::BadRequest("another volume than the connection was made for"))
            .and_then(|volume| {
                let (chunk, version) = (requests::chunk(request.chunk)?, requests::version(request.version)?);
                volume.open_for_reader(chunk, version)
            });
        let server = self.shared.volumes.owner().map_or(rfs_common::ids::ServerId::new(0), |(_, server)| server);
        let result = Some(copy_result(server, VolumeId::new(request.volume), opened.as_ref().err()));
        match opened {
            Ok(opened) => {
                let (data_length, data_offset) = (opened.data_length, data_at(0) as u32);
                connection.stream_mut().attach(opened.file.into());
                let reply = OpenCopyReply { result, data_length, data_offset };
                connection.send(Envelope::reply_to(header), &reply, &[&opened.hashes])
            }
            Err(_) => {
                connection.send(Envelope::reply_to(header), &OpenCopyReply { result, ..OpenCopyReply::default() }, &[])
            }
        }
    }
}

/// Whether something came (or the connection ended) before it is time to look after the volume.
fn wait_for_request(stream: &DescriptorStream) -> io::Result<bool> {
    let limit = rustix::time::Timespec { tv_sec: LOOK_INTERVAL.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
