//! A chunkserver for tests: real sockets, chunks in memory, the version rules of docs/protocol.md, and faults on order.

use std::collections::{HashMap, VecDeque};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message;
use rfs_common::ids::{ServerId, VolumeId};
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, hash_leaf, hash_leaves, split_at_leaves};
use rfs_proto::data::{self, ChangeReply, CopyResult, NextCopy, Status};
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};

use crate::data::Place;

/// What is to go wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The answer to a read carries a wrong hash.
    WrongHash,
    /// The payload of a write is said not to match.
    BadHashSent,
    /// The copy is said to have another version.
    WrongVersion,
    /// The connection ends before the request is carried out.
    Drop,
    /// The connection ends after it was carried out.
    DropAfter,
    /// Nothing happens for so many milliseconds.
    Stall(u64),
    /// The volume is full.
    NoSpace,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) version: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) synced: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ServerState {
    pub(crate) copies: HashMap<u64, Copy>,
    pub(crate) read_faults: VecDeque<Fault>,
    pub(crate) change_faults: VecDeque<Fault>,
    /// Every change fails so.
    pub(crate) broken: Option<Fault>,
    pub(crate) requests: HashMap<u16, u32>,
    pub(crate) connections: u32,
}

pub(crate) struct FakeChunkserver {
    pub(crate) place: Place,
    state: Arc<Mutex<ServerState>>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl FakeChunkserver {
    pub(crate) fn start(number: u64) -> FakeChunkserver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let place =
            Place { server: ServerId::new(number), volume: VolumeId::new(number * 10), address: address.into() };
        let state = Arc::new(Mutex::new(ServerState::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let accepting = std::thread::spawn({
            let (state, stop, place) = (Arc::clone(&state), Arc::clone(&stop), place.clone());
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let server = Server { place: place.clone(), state: Arc::clone(&state), next: None };
                    let stream = stream.unwrap();
                    std::thread::spawn(move || server.serve(stream));
                }
            }
        });
        FakeChunkserver { place, state, stop, accepting: Some(accepting) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn count(&self, frame_type: FrameType) -> u32 {
        self.state().requests.get(&(frame_type as u16)).copied().unwrap_or(0)
    }
}

impl Drop for FakeChunkserver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.place.address.as_ref()));
        self.accepting.take().map(JoinHandle::join);
    }
}

/// One connection's side of the server.
struct Server {
    place: Place,
    state: Arc<Mutex<ServerState>>,
    next: Option<(String, Connection<TcpStream>)>,
}

/// The connection is to be closed.
struct Close;

impl From<WireError> for Close {
    fn from(_: WireError) -> Close {
        Close
    }
}

/// A write, a zeroing or a sync, as far as they are alike.
struct Change {
    chunk: u64,
    version_from: u32,
    version: u32,
    cut_to: Option<u32>,
    sync: bool,
}

impl Server {
    fn serve(mut self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        self.state.lock().unwrap().connections += 1;
        let mut connection = Connection::new(stream);
        while self.answer(&mut connection).is_ok() {}
    }

    fn answer(&mut self, connection: &mut Connection<TcpStream>) -> Result<(), Close> {
        let header = connection.receive_head(&Awaited::ANY)?;
        *self.state.lock().unwrap().requests.entry(header.frame_type as u16).or_default() += 1;
        match header.frame_type {
            FrameType::DataHello => {
                let reply = data::HelloReply { server: self.place.server.get(), ..Default::default() };
                connection.send(Envelope::reply_to(&header), &reply, &[])?;
            }
            FrameType::Read => self.read(connection, &header)?,
            FrameType::Write => {
                let request: data::Write = connection.message(&header)?;
                let mut payload = Vec::new();
                connection.receive_payload_into(&header, &mut payload)?;
                self.write(connection, &header, &request, &payload)?;
            }
            FrameType::Zero => {
                let request: data::Zero = connection.message(&header)?;
                let data::Zero { chunk, version_from, version, cut_to, offset, length, .. } = request;
                let change = Change { chunk, version_from, version, cut_to, sync: false };
                let zero = |copy: &mut Copy| put(copy, offset, &vec![0; length as usize]);
                let forwarded = |next: &NextCopy, rest: &[NextCopy]| data::Zero {
                    volume: next.volume,
                    next: rest.to_vec(),
                    ..request.clone()
                };
                self.change(connection, &header, &change, zero, (&request.next, &forwarded), &[])?;
            }
            FrameType::SyncChunk => {
                let request: data::SyncChunk = connection.message(&header)?;
                let data::SyncChunk { chunk, version, .. } = request;
                let change = Change { chunk, version_from: version, version, cut_to: None, sync: true };
                let forwarded = |next: &NextCopy, rest: &[NextCopy]| data::SyncChunk {
                    volume: next.volume,
                    next: rest.to_vec(),
                    ..request.clone()
                };
                self.change(connection, &header, &change, |_| {}, (&request.next, &forwarded), &[])?;
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn write(
        &mut self,
        connection: &mut Connection<TcpStream>,
        header: &Header,
        request: &data::Write,
        payload: &[u8],
    ) -> Result<(), Close> {
        let first = data::Piece { offset: request.offset, length: request.length };
        let pieces: Vec<data::Piece> = std::iter::once(first).chain(request.more.iter().copied()).collect();
        assert_eq!(payload.len(), pieces.iter().map(|piece| piece.length as usize).sum::<usize>());
        let mut rest = payload;
        let mut hashes = Vec::new();
        for part in pieces.iter().flat_map(|piece| split_at_leaves(piece.offset, piece.length)) {
            hashes.extend_from_slice(&hash_leaf(part.leaf_index, &rest[..part.length]).0);
            rest = &rest[part.length..];
        }
        assert_eq!(hashes, request.hashes, "hashes of a write of {pieces:?}");
        let change = Change {
            chunk: request.chunk,
            version_from: request.version_from,
            version: request.version,
            cut_to: request.cut_to,
            sync: request.sync,
        };
        let forwarded = |next: &NextCopy, rest: &[NextCopy]| data::Write {
            volume: next.volume,
            next: rest.to_vec(),
            ..request.clone()
        };
        let apply = |copy: &mut Copy| {
            let mut rest = payload;
            for piece in &pieces {
                let (bytes, after) = rest.split_at(piece.length as usize);
                put(copy, piece.offset, bytes);
                rest = after;
            }
        };
        self.change(connection, header, &change, apply, (&request.next, &forwarded), payload)
    }

    #[allow(clippy::type_complexity, reason = "one use: what follows in the chain and how it is asked")]
    fn change<M: Message>(
        &mut self,
        connection: &mut Connection<TcpStream>,
        header: &Header,
        change: &Change,
        apply: impl FnOnce(&mut Copy),
        (next, forwarded): (&[NextCopy], &dyn Fn(&NextCopy, &[NextCopy]) -> M),
        payload: &[u8],
    ) -> Result<(), Close> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.broken.or_else(|| state.change_faults.pop_front())
        };
        match fault {
            Some(Fault::Drop) => return Err(Close),
            Some(Fault::Stall(milliseconds)) => std::thread::sleep(Duration::from_millis(milliseconds)),
            _ => {}
        }
        let mut own = match fault {
            Some(Fault::BadHashSent) => Status::BadHashSent,
            Some(Fault::WrongVersion) => Status::WrongVersion,
            Some(Fault::NoSpace) => Status::NoSpace,
            _ => self.apply(change, apply),
        };
        let mut behind = Vec::new();
        if let (Status::Ok, Some((first, rest))) = (own, next.split_first()) {
            behind = self.forward(header.frame_type, first, &forwarded(first, rest), payload);
            if behind.iter().any(|result| result.status() != Status::Ok) {
                own = Status::NextFailed;
            }
        }
        if fault == Some(Fault::DropAfter) {
            return Err(Close);
        }
        let result = self.result(own);
        let results = std::iter::once(result).chain(behind).collect();
        connection.send(Envelope::reply_to(header), &ChangeReply { results, data_length: 0 }, &[])?;
        Ok(())
    }

    fn apply(&self, change: &Change, apply: impl FnOnce(&mut Copy)) -> Status {
        let mut state = self.state.lock().unwrap();
        if change.version_from == 0 {
            let fresh = Copy { version: change.version, ..Copy::default() };
            state.copies.entry(change.chunk).or_insert(fresh);
        }
        let Some(copy) = state.copies.get_mut(&change.chunk) else { return Status::NoChunk };
        if copy.version != change.version && copy.version != change.version_from {
            return Status::WrongVersion;
        }
        copy.version = change.version;
        if let Some(length) = change.cut_to {
            copy.data.truncate(length as usize);
        }
        apply(copy);
        copy.synced = change.sync;
        Status::Ok
    }

    fn forward(
        &mut self,
        frame_type: FrameType,
        next: &NextCopy,
        request: &impl Message,
        payload: &[u8],
    ) -> Vec<CopyResult> {
        if self.next.as_ref().is_none_or(|(address, _)| *address != next.address) {
            let stream = TcpStream::connect(&next.address).unwrap();
            stream.set_nodelay(true).unwrap();
            self.next = Some((next.address.clone(), Connection::new(stream)));
        }
        let Some((_, connection)) = &mut self.next else { return Vec::new() };
        let reply = connection
            .send(Envelope::request(frame_type, 1), request, &[payload])
            .and_then(|()| connection.receive_reply::<ChangeReply>(frame_type, 1));
        match reply {
            Ok(reply) => reply.unwrap().results,
            Err(_) => {
                self.next = None;
                let status = Status::Timeout as i32;
                vec![CopyResult { server: next.server, volume: next.volume, status, ..Default::default() }]
            }
        }
    }

    fn read(&self, connection: &mut Connection<TcpStream>, header: &Header) -> Result<(), Close> {
        let request: data::Read = connection.message(header)?;
        let fault = self.state.lock().unwrap().read_faults.pop_front();
        match fault {
            Some(Fault::Drop | Fault::DropAfter) => return Err(Close),
            Some(Fault::Stall(milliseconds)) => std::thread::sleep(Duration::from_millis(milliseconds)),
            _ => {}
        }
        let state = self.state.lock().unwrap();
        let copy = state.copies.get(&request.chunk);
        let status = match copy {
            None => Status::NoChunk,
            Some(copy) if copy.version != request.version || fault == Some(Fault::WrongVersion) => Status::WrongVersion,
            Some(_) => Status::Ok,
        };
        let (Status::Ok, Some(copy)) = (status, copy) else {
            let reply = data::ReadReply { result: Some(self.result(status)), ..Default::default() };
            connection.send(Envelope::reply_to(header), &reply, &[])?;
            return Ok(());
        };
        let leaf = LEAF_BYTES as u32;
        let start = (request.offset / leaf * leaf) as usize;
        let end = ((request.offset + request.length).div_ceil(leaf) * leaf) as usize;
        let bytes = &copy.data[start.min(copy.data.len())..end.min(copy.data.len())];
        let mut hashes = Vec::with_capacity(bytes.len() / LEAF_BYTES * LEAF_HASH_BYTES);
        hash_leaves(start as u32 / leaf, bytes).for_each(|hash| hashes.extend_from_slice(&hash.0));
        if fault == Some(Fault::WrongHash) && !hashes.is_empty() {
            hashes[7] ^= 1;
        }
        let reply = data::ReadReply {
            result: Some(self.result(Status::Ok)),
            offset: start as u32,
            data_length: copy.data.len() as u32,
            hashes: hashes.into(),
            data: None,
        };
        connection.send(Envelope::reply_to(header), &reply, &[bytes])?;
        Ok(())
    }

    fn result(&self, status: Status) -> CopyResult {
        let (server, volume) = (self.place.server.get(), self.place.volume.get());
        CopyResult { server, volume, status: status as i32, ..Default::default() }
    }
}

fn put(copy: &mut Copy, offset: u32, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if copy.data.len() < end && !bytes.is_empty() {
        copy.data.resize(end, 0);
    }
    if !bytes.is_empty() {
        copy.data[offset as usize..end].copy_from_slice(bytes);
    }
}
