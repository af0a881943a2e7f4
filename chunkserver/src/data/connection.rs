//! One data connection: reads a request, forwards it down the chain, does it, collects the chain's answer, replies.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rfs_common::clock::SharedClock;
use rfs_common::ids::{ServerId, VolumeId};
use rfs_common::socket::Socket;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::data::{
    ChangeReply, DataRange, Digest, DigestReply, Hello, HelloReply, NextCopy, Read, ReadReply, Status, SyncChunk,
    Write, Zero,
};
use rfs_proto::data_calls::DataCall;
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::session::Failure;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError, cut_foreign_text, shrink_buffer};

use crate::chunk::change::{Action, Terms};
use crate::chunk::fault::Fault;
use crate::volume::store::{Sync, Volume};
use crate::volumes::Volumes;

use super::peers::{Own, Peers};
use super::requests::{self, copy_result, results_behind, unreached};
use super::stream::{BufferedStream, Waited};

/// How long a stranger may take to say hello before its connection is given up.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long a request may take from its first byte to its last.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long a peer may take to accept an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Memory for a payload of which nothing has come yet.
const PAYLOAD_BYTES_FIRST: usize = 256 << 10;

const REQUEST: Awaited = Awaited {
    what: "a request of a data connection",
    admits: |header| {
        use FrameType::{Digest, Read, SyncChunk, Write, Zero};
        !header.is_reply() && matches!(header.frame_type, Write | Zero | SyncChunk | Read | Digest)
    },
};

/// What connections share.
#[derive(Debug)]
pub struct Shared {
    /// The volumes.
    pub volumes: Volumes,
    /// Connections to other chunkservers.
    pub peers: Peers,
}

impl Shared {
    /// Whether a hello is for this chunkserver, and who that is.
    ///
    /// # Errors
    /// The refusal, with its error number.
    pub(super) fn check_hello(&self, hello: &Hello) -> Result<Own, (rfs_common::errno::Errno, String)> {
        use rfs_common::errno::Errno;
        if hello.protocol_version != PROTOCOL_VERSION {
            let from = cut_foreign_text(hello.from.clone());
            let versions = format!("protocol version {} of {from}", hello.protocol_version);
            let message = format!(
                "{versions} is not {PROTOCOL_VERSION} of this chunkserver; use the same release of rfs on both"
            );
            return Err((Errno::EPROTO, message));
        }
        let Some((cluster, server)) = self.volumes.owner() else {
            return Err((Errno::ENODEV, "no volume of this chunkserver is readable".to_owned()));
        };
        let own = Own { cluster, server };
        if !hello.cluster.is_empty() && hello.cluster != cluster_bytes(own) {
            return Err((
                Errno::ESTALE,
                format!("this chunkserver belongs to cluster {cluster}, not to the one asked for"),
            ));
        }
        if hello.server != 0 && hello.server != server.get() {
            let wanted = ServerId::new(hello.server);
            return Err((Errno::ESTALE, format!("this is chunkserver {server}, not {wanted}; ask the master again")));
        }
        Ok(own)
    }
}

/// A connection and its buffers, which grow to what it needs and are reused.
#[derive(Debug)]
pub(super) struct Served {
    shared: Arc<Shared>,
    connection: Connection<BufferedStream>,
    /// From the hello.
    own: Option<Own>,
    volume: u64,
    payload: Vec<u8>,
    chain_payload: Vec<u8>,
}

impl Served {
    /// # Errors
    /// Those of the socket.
    pub(super) fn new(shared: Arc<Shared>, stream: Socket, clock: SharedClock) -> io::Result<Served> {
        let connection = Connection::new(BufferedStream::new(stream, clock, HELLO_LIMIT)?);
        Ok(Served { shared, connection, own: None, volume: 0, payload: Vec::new(), chain_payload: Vec::new() })
    }

    /// Receives and answers one request.
    ///
    /// # Errors
    /// [`WireError`]: the connection is at its end.
    pub(super) fn serve_one(&mut self) -> Result<(), WireError> {
        let Some(own) = self.own else { return self.hello() };
        self.wait_for_request()?;
        let header = self.connection.receive_head(&REQUEST)?;
        match header.frame_type {
            FrameType::Write => self.write(&header, own),
            FrameType::Zero => self.zero(&header, own),
            FrameType::SyncChunk => self.sync(&header, own),
            FrameType::Read => self.read(&header, own),
            FrameType::Digest => self.digest(&header, own),
            got => Err(WireError::OutOfPlace { expected: "a request of a data connection", got }),
        }
    }

    /// A connection may be idle for as long as its client likes; it keeps no large buffers meanwhile.
    fn wait_for_request(&mut self) -> Result<(), WireError> {
        loop {
            match self.connection.stream_mut().wait_for_bytes()? {
                Waited::Bytes => break,
                Waited::End => return Err(WireError::Closed),
                Waited::Idle => {
                    self.connection.shrink_buffers();
                    shrink_buffer(&mut self.payload);
                    shrink_buffer(&mut self.chain_payload);
                }
            }
        }
        self.connection.stream_mut().begin_deadline(REQUEST_LIMIT);
        Ok(())
    }

    /// The connection, to send an answer on.
    fn answering(&mut self) -> &mut Connection<BufferedStream> {
        self.connection.stream_mut().begin_deadline(ANSWER_LIMIT);
        &mut self.connection
    }

    /// All of it within the time since the connection began.
    fn hello(&mut self) -> Result<(), WireError> {
        let header = &self.connection.receive_head(&Awaited::DATA_HELLO)?;
        let hello: Hello = self.connection.message(header)?;
        match self.shared.check_hello(&hello) {
            Ok(own) => {
                self.own = Some(own);
                self.volume = hello.volume;
                let reply = HelloReply {
                    cluster: cluster_bytes(own).into(),
                    server: own.server.get(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                self.answering().send(Envelope::reply_to(header), &reply, &[])
            }
            Err((errno, message)) => {
                let failure = Failure { errno: errno.raw() as u32, message };
                self.answering().send(Envelope::failure_of(header), &failure, &[])
            }
        }
    }

    fn write(&mut self, header: &Header, own: Own) -> Result<(), WireError> {
        let request: Write = self.connection.message(header)?;
        self.receive_payload(header)?;
        let payload = std::mem::take(&mut self.payload);
        let bytes = &payload[..header.payload_bytes as usize];
        let checked = self
            .check_change(request.volume, &request.next, request.version_from, request.version, request.cut_to)
            .and_then(|terms| {
                let pieces = requests::pieces(&request, bytes)?;
                Ok((terms, pieces, requests::chunk(request.chunk)?))
            });
        let onward = |first: &NextCopy, rest: &[NextCopy]| Write {
            volume: first.volume,
            next: rest.to_vec(),
            ..Write { next: Vec::new(), hashes: request.hashes.clone(), more: request.more.clone(), ..request }
        };
        let result = match checked {
            Err(fault) => self.refuse(header, own, request.volume, &fault),
            Ok((terms, pieces, chunk)) => {
                self.change(header, own, request.volume, &request.next, onward, bytes, |volume| {
                    let action = if pieces.is_empty() { Action::Nothing } else { Action::Write(&pieces) };
                    let sync = if request.sync { Sync::BeforeAnswer } else { Sync::Later };
                    volume.change(chunk, &terms, action, sync)
                })
            }
        };
        self.payload = payload;
        result
    }

    fn zero(&mut self, header: &Header, own: Own) -> Result<(), WireError> {
        let request: Zero = self.connection.message(header)?;
        let checked = self
            .check_change(request.volume, &request.next, request.version_from, request.version, request.cut_to)
            .and_then(|terms| {
                requests::check_range(request.offset, request.length)?;
                Ok((terms, requests::chunk(request.chunk)?))
            });
        let onward = |first: &NextCopy, rest: &[NextCopy]| Zero {
            volume: first.volume,
            next: rest.to_vec(),
            ..Zero { next: Vec::new(), ..request }
        };
        match checked {
            Err(fault) => self.refuse(header, own, request.volume, &fault),
            Ok((terms, chunk)) => self.change(header, own, request.volume, &request.next, onward, &[], |volume| {
                let action = Action::Zero { offset: request.offset, length: request.length };
                volume.change(chunk, &terms, action, Sync::Later)
            }),
        }
    }

    fn sync(&mut self, header: &Header, own: Own) -> Result<(), WireError> {
        let request: SyncChunk = self.connection.message(header)?;
        let checked = self
            .check_change(request.volume, &request.next, request.version, request.version, None)
            .and_then(|terms| Ok((terms, requests::chunk(request.chunk)?)));
        let onward = |first: &NextCopy, rest: &[NextCopy]| SyncChunk {
            volume: first.volume,
            next: rest.to_vec(),
            ..SyncChunk { next: Vec::new(), ..request }
        };
        match checked {
            Err(fault) => self.refuse(header, own, request.volume, &fault),
            Ok((terms, chunk)) => self.change(header, own, request.volume, &request.next, onward, &[], |volume| {
                volume.sync(chunk, terms.version)
            }),
        }
    }

    fn check_change(
        &self,
        volume: u64,
        next: &[NextCopy],
        version_from: u32,
        version: u32,
        cut_to: Option<u32>,
    ) -> Result<Terms, Fault> {
        self.check_volume(volume)?;
        requests::check_chain(next)?;
        requests::terms(version_from, version, cut_to)
    }

    /// Forwards first, then applies here, so that all copies of the chain work at the same time.
    #[allow(
        clippy::too_many_arguments,
        reason = "one request's parts; a struct of them would be made and taken apart here"
    )]
    fn change<R: DataCall<Reply = ChangeReply>>(
        &mut self,
        header: &Header,
        own: Own,
        volume: u64,
        next: &[NextCopy],
        onward: impl FnOnce(&NextCopy, &[NextCopy]) -> R,
        bytes: &[u8],
        apply: impl FnOnce(&Volume) -> Result<u32, Fault>,
    ) -> Result<(), WireError> {
        let shared = Arc::clone(&self.shared);
        let pending = next
            .split_first()
            .map(|(first, rest)| (first, shared.peers.begin(own, first, &onward(first, rest), bytes, rest.len())));
        let applied = shared.volumes.find(VolumeId::new(volume)).and_then(|volume| apply(&volume));
        let mut reply = ChangeReply { data_length: *applied.as_ref().unwrap_or(&0), ..ChangeReply::default() };
        reply.results.push(copy_result(own.server, VolumeId::new(volume), applied.as_ref().err()));
        if let Some((first, pending)) = pending {
            match pending.and_then(|pending| pending.finish::<R>(&mut self.chain_payload)) {
                Ok(behind) => reply.results.extend(results_behind(behind.results, next.len())),
                Err(error) => reply.results.push(unreached(first, &error)),
            }
            let all_good = reply.results[1..].iter().all(|result| result.status() == Status::Ok);
            if !all_good && reply.results[0].status() == Status::Ok {
                reply.results[0].set_status(Status::NextFailed);
            }
        }
        self.answering().send(Envelope::reply_to(header), &reply, &[])
    }

    fn refuse(&mut self, header: &Header, own: Own, volume: u64, fault: &Fault) -> Result<(), WireError> {
        let results = vec![copy_result(own.server, VolumeId::new(volume), Some(fault))];
        self.answering().send(Envelope::reply_to(header), &ChangeReply { results, data_length: 0 }, &[])
    }

    fn read(&mut self, header: &Header, own: Own) -> Result<(), WireError> {
        let request: Read = self.connection.message(header)?;
        if request.next_data {
            return self.next_data(header, own, &request);
        }
        let volume = VolumeId::new(request.volume);
        let served = self.check_volume(request.volume).and_then(|()| {
            requests::check_range(request.offset, request.length)?;
            let (chunk, version) = (requests::chunk(request.chunk)?, requests::version(request.version)?);
            let volume = self.shared.volumes.find(volume)?;
            volume.read(chunk, version, request.offset, request.length, &mut self.payload)
        });
        match served {
            Err(fault) => {
                let result = Some(copy_result(own.server, volume, Some(&fault)));
                self.answering().send(Envelope::reply_to(header), &ReadReply { result, ..ReadReply::default() }, &[])
            }
            Ok(served) => {
                let reply = ReadReply {
                    result: Some(copy_result(own.server, volume, None)),
                    offset: served.offset,
                    data_length: served.data_length,
                    hashes: if request.into_memory { Default::default() } else { served.hashes.into() },
                    data: None,
                };
                let payload = if request.into_memory { 0 } else { served.length };
                self.connection.stream_mut().begin_deadline(ANSWER_LIMIT);
                self.connection.send(Envelope::reply_to(header), &reply, &[&self.payload[..payload]])
            }
        }
    }

    fn next_data(&mut self, header: &Header, own: Own, request: &Read) -> Result<(), WireError> {
        let volume = VolumeId::new(request.volume);
        let found = self.check_volume(request.volume).and_then(|()| {
            requests::check_range(request.offset, 0)?;
            let (chunk, version) = (requests::chunk(request.chunk)?, requests::version(request.version)?);
            self.shared.volumes.find(volume)?.next_data(chunk, version, request.offset)
        });
        let result = Some(copy_result(own.server, volume, found.as_ref().err()));
        let data = found.ok().map(|found| DataRange { start: found.start, end: found.end });
        self.answering().send(Envelope::reply_to(header), &ReadReply { result, data, ..ReadReply::default() }, &[])
    }

    fn digest(&mut self, header: &Header, own: Own) -> Result<(), WireError> {
        let request: Digest = self.connection.message(header)?;
        let volume = VolumeId::new(request.volume);
        let digest = self.check_volume(request.volume).and_then(|()| {
            let (chunk, version) = (requests::chunk(request.chunk)?, requests::version(request.version)?);
            self.shared.volumes.find(volume)?.digest(chunk, version)
        });
        let result = Some(copy_result(own.server, volume, digest.as_ref().err()));
        let reply = match digest {
            Ok((data_length, digest)) => DigestReply { result, data_length, digest: digest.to_vec().into() },
            Err(_) => DigestReply { result, ..DigestReply::default() },
        };
        self.answering().send(Envelope::reply_to(header), &reply, &[])
    }

    /// A connection is for one volume, so that one that hangs stops nobody else's; a hello with 0 leaves it open.
    fn check_volume(&self, volume: u64) -> Result<(), Fault> {
        if self.volume != 0 && self.volume != volume {
            return Err(Fault::BadRequest("another volume than the connection was made for"));
        }
        Ok(())
    }

    fn receive_payload(&mut self, header: &Header) -> Result<(), WireError> {
        let length = header.payload_bytes as usize;
        let mut filled = 0;
        // Memory comes with the bytes, twice as much each time.
        while self.payload.len() < length {
            self.payload.resize(length.min((2 * filled).max(PAYLOAD_BYTES_FIRST)), 0);
            self.connection.receive_payload(&mut self.payload[filled..])?;
            filled = self.payload.len();
        }
        self.connection.receive_payload(&mut self.payload[filled..length])
    }
}

/// The cluster's id as it goes over the wire.
pub(super) fn cluster_bytes(own: Own) -> Vec<u8> {
    own.cluster.get().to_be_bytes().to_vec()
}
