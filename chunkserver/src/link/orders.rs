//! What the master orders: delete, raise, replicate, check. Each volume has two threads for them with bounded queues: a raise, for
//! which a writer waits, never stands behind a replication. A full queue refuses, and the master asks again.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rfs_common::background;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, hash_leaves, hash_zero_leaf, leaf_length, leaves_of};
use rfs_proto::cluster::command::Order;
use rfs_proto::cluster::from_chunkserver::Message;
use rfs_proto::cluster::{Check, Command, CommandResult, Delete, FromChunkserver, Raise, Replicate, Source};
use rfs_proto::data::{NextCopy, Read, ReadReply, Status};
use rfs_proto::frame::PAYLOAD_BYTES_MAX;
use rfs_proto::wire::cut_foreign_text;
use tokio::sync::mpsc;

use crate::chunk::change::{Action, Piece, Terms};
use crate::chunk::check::RaiseOf;
use crate::chunk::copy::{ChunkCopy, Held};
use crate::chunk::fault::Fault;
use crate::data::connection::Shared;
use crate::data::peers::Own;
use crate::volume::identity::with_sources;
use crate::volume::store::Volume;

use super::messages::message;

/// Orders that may wait for one thread.
const QUEUE_MAX: usize = 4096;

/// An order, and the stream that wants to know.
struct Job {
    command: u64,
    order: Order,
    reply: mpsc::Sender<FromChunkserver>,
}

/// The threads, made as volumes get orders.
#[derive(Debug)]
pub(super) struct Orders {
    shared: Arc<Shared>,
    queues: Mutex<HashMap<(u64, Lane), SyncSender<Job>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Quick,
    Copying,
}

impl Orders {
    pub(super) fn new(shared: Arc<Shared>) -> Orders {
        Orders { shared, queues: Mutex::default() }
    }

    /// Queues an order. Gives the answer right away if it cannot be.
    pub(super) fn take(&self, command: Command, reply: mpsc::Sender<FromChunkserver>) -> Option<FromChunkserver> {
        let number = command.command;
        let Some(order) = command.order else {
            return Some(result(
                number,
                Err(Failed::new(Errno::EINVAL, "the order is of a kind this chunkserver does not know")),
            ));
        };
        let (volume, lane) = match &order {
            Order::Delete(delete) => (delete.volume, Lane::Quick),
            Order::Raise(raise) => (raise.volume, Lane::Quick),
            Order::Replicate(replicate) => (replicate.volume, Lane::Copying),
            Order::Check(check) => (check.volume, Lane::Quick),
        };
        let queued = self.queue(volume, lane).and_then(|queue| {
            queue
                .try_send(Job { command: number, order, reply })
                .map_err(|_| Failed::new(Errno::EAGAIN, "too many orders wait for this volume; ask again"))
        });
        queued.err().map(|failed| result(number, Err(failed)))
    }

    fn queue(&self, volume: u64, lane: Lane) -> Result<SyncSender<Job>, Failed> {
        if !self
            .shared
            .volumes
            .slots()
            .iter()
            .any(|slot| slot.identity().is_some_and(|known| known.volume.get() == volume))
        {
            return Err(Failed::new(Errno::ENODEV, "the volume is not here"));
        }
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&(volume, lane)) {
            return Ok(queue.clone());
        }
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let shared = Arc::clone(&self.shared);
        let name = if lane == Lane::Quick { "orders" } else { "replicate" };
        background::spawn(name, move || work(&shared, &receiver))
            .map_err(|error| Failed::new(Errno::from_io(&error), "no thread for orders can be started"))?;
        queues.insert((volume, lane), sender.clone());
        Ok(sender)
    }
}

/// Why an order was not carried out.
#[derive(Debug)]
struct Failed {
    errno: Errno,
    message: String,
    version: u32,
}

impl Failed {
    fn new(errno: Errno, message: &str) -> Failed {
        Failed { errno, message: message.to_owned(), version: 0 }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Failed {
        Failed { errno: fault.errno(), message: fault.to_string(), version: fault.have() }
    }
}

fn result(command: u64, done: Result<Option<Held>, Failed>) -> FromChunkserver {
    let mut told = CommandResult { command, ..CommandResult::default() };
    match done {
        Ok(held) => {
            told.done = true;
            told.version = held.map_or(0, |held| held.version.get());
            told.length = held.map_or(0, |held| held.data_length);
        }
        Err(failed) => {
            told.errno = failed.errno.raw() as u32;
            told.message = cut_foreign_text(failed.message);
            told.version = failed.version;
        }
    }
    message(Message::Result(told))
}

fn work(shared: &Shared, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let done = match &job.order {
            Order::Delete(delete) => carry_out_delete(shared, delete),
            Order::Raise(raise) => carry_out_raise(shared, raise),
            Order::Check(check) => carry_out_check(shared, *check),
            Order::Replicate(replicate) => carry_out_replicate(shared, replicate, job.command),
        };
        if let Err(failed) = &done {
            tracing::info!(order = ?job.order, errno = %failed.errno, "an order was not carried out: {}", failed.message);
        }
        if job.reply.blocking_send(result(job.command, done)).is_err() {
            tracing::debug!(command = job.command, "the master that gave an order is gone");
        }
    }
}

fn carry_out_delete(shared: &Shared, delete: &Delete) -> Result<Option<Held>, Failed> {
    let volume = shared.volumes.find(VolumeId::new(delete.volume))?;
    volume.delete(ChunkId::new(delete.chunk), delete.version)?;
    Ok(None)
}

fn carry_out_raise(shared: &Shared, raise: &Raise) -> Result<Option<Held>, Failed> {
    let volume = shared.volumes.find(VolumeId::new(raise.volume))?;
    if raise.to == 0 {
        return Err(Failed::new(Errno::EINVAL, "version 0 does not exist"));
    }
    let (chunk, from, to) = (ChunkId::new(raise.chunk), ChunkVersion::new(raise.from), ChunkVersion::new(raise.to));
    Ok(Some(match (raise.settles, raise.from) {
        (true, 0) => volume.make_empty(chunk, to)?,
        (true, _) => volume.raise(chunk, from, to, RaiseOf::Whatever)?,
        (false, _) => volume.raise(chunk, from, to, RaiseOf::Sound)?,
    }))
}

/// The scrub does it, which tells what it finds.
fn carry_out_check(shared: &Shared, check: Check) -> Result<Option<Held>, Failed> {
    shared.volumes.find(VolumeId::new(check.volume))?.ask_to_check(ChunkId::new(check.chunk));
    Ok(None)
}

/// Fetches from each source in turn until one gives the whole chunk.
fn carry_out_replicate(shared: &Shared, replicate: &Replicate, number: u64) -> Result<Option<Held>, Failed> {
    let volume = shared.volumes.find(VolumeId::new(replicate.volume))?;
    let own = shared.volumes.owner().map(|(cluster, server)| Own { cluster, server });
    let own = own.ok_or_else(|| Failed::new(Errno::ENODEV, "no volume is readable"))?;
    if replicate.version == 0 || replicate.chunk == 0 {
        return Err(Failed::new(Errno::EINVAL, "chunk 0 and version 0 do not exist"));
    }
    let (chunk, version) = (ChunkId::new(replicate.chunk), ChunkVersion::new(replicate.version));
    let mut last = Failed::new(Errno::EINVAL, "the order names no source");
    for source in &replicate.sources {
        let incoming = match volume.begin_incoming(chunk, version, number) {
            // A repeated order, or one that was overtaken.
            Err(Fault::Exists { have }) if have == version => return Ok(Some(volume.held(chunk)?)),
            other => other?,
        };
        let fetched = fetch(shared, own, source, &volume, &incoming)
            .and_then(|()| volume.adopt(&incoming, number).map_err(Failed::from));
        match fetched {
            Ok(held) => return Ok(Some(held)),
            Err(failed) => last = failed,
        }
        volume.abandon_incoming(chunk, number);
    }
    Err(last)
}

/// Copies all bytes of a source's copy into a new file; every leaf is compared with its hash on the way.
fn fetch(shared: &Shared, own: Own, source: &Source, volume: &Volume, incoming: &ChunkCopy) -> Result<(), Failed> {
    let to = NextCopy { server: source.server, volume: source.volume, address: source.address.clone() };
    let version = incoming.held().version;
    let terms = Terms { version_from: Some(version), version, cut_to: None };
    let mut payload = Vec::new();
    let mut offset = 0;
    volume.change_incoming(incoming, &terms, Action::Nothing)?;
    loop {
        let read = Read {
            volume: source.volume,
            chunk: incoming.chunk().get(),
            version: version.get(),
            offset,
            length: PAYLOAD_BYTES_MAX.min(rfs_common::leaf::CHUNK_BYTES as u32 - offset),
            into_memory: false,
            next_data: false,
        };
        let reply: ReadReply = shared
            .peers
            .begin(own, &to, &read, &[], 0)
            .and_then(|pending| pending.finish::<Read>(&mut payload))
            .map_err(|error| Failed { errno: error.errno(), message: with_sources(&error), version: 0 })?;
        let result = reply.result.clone().unwrap_or_default();
        if result.status() != Status::Ok {
            let message =
                format!("the source {} answered {}: {}", source.address, result.status().as_str_name(), result.message);
            return Err(Failed { errno: Errno::from_raw(result.errno as i32), message, version: 0 });
        }
        check_source(&reply, offset, &payload, source)?;
        let pieces = pieces_but_holes(offset, &payload, &reply);
        // An empty chunk has nothing to write.
        if !pieces.is_empty() {
            volume.change_incoming(incoming, &terms, Action::Write(&pieces))?;
        }
        offset += payload.len() as u32;
        if offset >= reply.data_length {
            return Ok(());
        }
    }
}

/// What has to be written of fetched bytes: leaves of zeros become holes, but for the chunk's last leaf, which makes it as long as
/// it is.
fn pieces_but_holes<'a>(offset: u32, payload: &'a [u8], reply: &'a ReadReply) -> Vec<Piece<'a>> {
    let first = offset / LEAF_BYTES as u32;
    let hashes = || (first..).zip(reply.hashes.chunks_exact(LEAF_HASH_BYTES));
    let last = leaves_of(reply.data_length).saturating_sub(1);
    let is_hole = |leaf: u32, hash: &[u8]| {
        let zeros = hash_zero_leaf(leaf, leaf_length(leaf, reply.data_length));
        leaf != last && hash == &zeros.as_bytes()[..]
    };
    let filled: Vec<usize> =
        hashes().filter(|(leaf, hash)| !is_hole(*leaf, hash)).map(|(leaf, _)| (leaf - first) as usize).collect();
    let runs = filled.chunk_by(|one, next| one + 1 == *next).filter_map(|run| Some((*run.first()?, *run.last()? + 1)));
    runs.map(|(start, end)| Piece {
        offset: offset + (start * LEAF_BYTES) as u32,
        bytes: &payload[start * LEAF_BYTES..(end * LEAF_BYTES).min(payload.len())],
        hashes: &reply.hashes[start * LEAF_HASH_BYTES..end * LEAF_HASH_BYTES],
    })
    .collect()
}

fn check_source(reply: &ReadReply, offset: u32, payload: &[u8], source: &Source) -> Result<(), Failed> {
    let wrong = |what: &str| Failed::new(Errno::EIO, &format!("the source {} gave {what}", source.address));
    let whole =
        payload.len().is_multiple_of(LEAF_BYTES) || offset as usize + payload.len() == reply.data_length as usize;
    let more_than_fits = u64::from(offset) + payload.len() as u64 > rfs_common::leaf::CHUNK_BYTES;
    if reply.offset != offset || !whole || more_than_fits || (payload.is_empty() && offset < reply.data_length) {
        return Err(wrong("another range than asked for"));
    }
    if reply.hashes.len() != payload.len().div_ceil(LEAF_BYTES) * LEAF_HASH_BYTES {
        return Err(wrong("not one hash for each leaf"));
    }
    let mut hashes = reply.hashes.chunks_exact(LEAF_HASH_BYTES);
    let good = hash_leaves(offset / LEAF_BYTES as u32, payload).all(|leaf| hashes.next() == Some(&leaf.as_bytes()[..]));
    if good { Ok(()) } else { Err(wrong("bytes that do not match their hashes")) }
}
