//! Reading leaves of a chunk from its copies: every leaf is verified against its BLAKE3 hash, and a copy that fails is
//! passed over for the next.
//!
//! What always holds: a byte handed out was either verified, or lies beyond the copy's `data_length` or the chunk's
//! valid `length` and is zero.

use std::ops::Range;
use std::sync::Arc;

use rfs_common::clock::SharedClock;
use rfs_common::errno::Errno;
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, hash_leaf, leaves_of};
use rfs_proto::data::{self, Status};
use thiserror::Error;

use super::connections::{CallError, Connections, DataConnection, out_of_place};
use super::local::{LocalCopies, LocalRead};
use super::places::{ChunkPlaces, CopyFailure, FileMaster, Place};
use super::settings::DataSettings;

/// From so much on, bytes that are on the disk only are not sent where they can be read from a file of this host: two questions are
/// shorter then.
const INTO_MEMORY_BYTES_MIN: usize = 128 << 10;

/// Why no copy gave the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ReadError {
    /// Copies answered, with another version: what is known of the chunk is old.
    #[error("the chunk's copies have another version")]
    WrongVersion,
    /// No copy is live or none is good: ask the master again.
    #[error("no copy of the chunk can be read")]
    NoCopyLeft,
    /// The chunk has been written or cut here since its places were asked for: start again.
    #[error("the chunk has changed meanwhile")]
    Changed,
}

/// How a chunk may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From files of this host as well: nobody writes the chunk, this client included, as long as its lease is held.
    Any,
    /// By asking chunkservers.
    Asking,
}

/// Reads chunks.
pub(crate) struct Reader {
    pub(crate) local: LocalCopies,
    connections: Arc<Connections>,
    settings: Arc<DataSettings>,
    master: Arc<dyn FileMaster>,
}

impl Reader {
    pub(crate) fn new(
        connections: Arc<Connections>,
        settings: Arc<DataSettings>,
        master: Arc<dyn FileMaster>,
        clock: SharedClock,
    ) -> Reader {
        let local = LocalCopies::new(Arc::clone(&settings), clock);
        Reader { local, connections, settings, master }
    }

    /// Fills `buffers`, each a whole number of leaves, with the chunk's bytes from `first_leaf` on.
    ///
    /// # Errors
    /// [`ReadError`]; what `buffers` hold then means nothing.
    pub(crate) fn read_leaves(
        &self,
        chunk: &ChunkPlaces,
        first_leaf: u32,
        buffers: &mut [Vec<u8>],
        way: Way,
    ) -> Result<(), ReadError> {
        let wanted: usize = buffers.iter().map(Vec::len).sum();
        assert!(wanted.is_multiple_of(LEAF_BYTES), "{wanted} bytes are not whole leaves");
        let offset = first_leaf as usize * LEAF_BYTES;
        let end = (offset + wanted).min(leaves_of(chunk.length) as usize * LEAF_BYTES);
        // What has bytes, which a copy that is not older must have.
        let valid = (chunk.length as usize).min(end).saturating_sub(offset);
        let is_done = end <= offset || way == Way::Any && self.read_here(chunk, offset as u32, valid, buffers);
        if !is_done {
            self.read_from_copies(chunk, offset as u32, (end - offset) as u32, buffers)?;
        }
        zero_from(buffers, (chunk.length as usize).saturating_sub(offset));
        Ok(())
    }

    /// Reads from the file of a copy on this host; false if that is not possible now. Much that is on the disk only is read into
    /// memory by its chunkserver, which is shorter than sending it.
    fn read_here(&self, chunk: &ChunkPlaces, offset: u32, valid: usize, buffers: &mut [Vec<u8>]) -> bool {
        let here = |place: &&Place| !self.connections.is_avoided(place);
        let found = chunk.places.iter().filter(here).find_map(|place| Some((place, self.local.find(place, chunk)?)));
        let Some((place, copy)) = found else { return false };
        // Leaves are read whole, and the last as far as the copy has bytes.
        let wanted = valid.next_multiple_of(LEAF_BYTES).min(copy.bytes_from(offset));
        if wanted < valid {
            self.local.refuse(place, chunk);
            return false;
        }
        let mut read = copy.read(offset, wanted, buffers);
        if read == LocalRead::NotInMemory && wanted >= INTO_MEMORY_BYTES_MIN {
            let request = data::Read { into_memory: true, ..read_request(place, chunk, offset, wanted as u32) };
            let timeout = self.settings.read_timeout;
            let asked = self.connections.with(place, timeout, |connection| read_into_memory(connection, &request));
            if !matches!(asked, Ok(Status::Ok)) {
                return false;
            }
            read = copy.read(offset, wanted, buffers);
        }
        if read == LocalRead::Unusable {
            self.local.refuse(place, chunk);
        }
        read == LocalRead::Done
    }

    /// The first part of the chunk at or after `offset` that is no hole, as the file of a copy knows it; nothing if none tells.
    pub(crate) fn next_data(&self, chunk: &ChunkPlaces, offset: u32) -> Option<Range<u32>> {
        let mut usable = chunk.places.iter().filter(|place| !self.connections.is_avoided(place));
        usable.find_map(|place| {
            let request = data::Read { next_data: true, ..read_request(place, chunk, offset, 0) };
            let timeout = self.settings.read_timeout;
            let answer =
                self.connections.with(place, timeout, |connection| ask_next_data(connection, &request)).ok()?;
            let data = answer.data.filter(|_| answer.result.unwrap_or_default().status() == Status::Ok)?;
            (offset <= data.start && data.start <= data.end).then_some(data.start..data.end)
        })
    }

    fn read_from_copies(
        &self,
        chunk: &ChunkPlaces,
        offset: u32,
        length: u32,
        buffers: &mut [Vec<u8>],
    ) -> Result<(), ReadError> {
        let (avoided, preferred): (Vec<&Place>, Vec<&Place>) =
            chunk.places.iter().partition(|place| self.connections.is_avoided(place));
        let mut verdict = ReadError::NoCopyLeft;
        for place in preferred.into_iter().chain(avoided) {
            let request = read_request(place, chunk, offset, length);
            let answer = self
                .connections
                .with(place, self.settings.read_timeout, |connection| exchange(connection, &request, buffers));
            match answer {
                Ok(Answer::Good) => return Ok(()),
                Ok(Answer::WrongVersion) => verdict = ReadError::WrongVersion,
                Ok(Answer::Bad(failure)) => self.master.report_bad_copy(chunk.chunk, chunk.version, failure(place)),
                Ok(Answer::Away) => self.connections.failed(place),
                Err(error) => tracing::debug!(%place.address, chunk = %chunk.chunk, %error, "a copy cannot be reached"),
            }
        }
        Err(verdict)
    }
}

/// What a copy answered.
enum Answer {
    /// The buffers hold verified bytes.
    Good,
    WrongVersion,
    /// To be reported: the copy exists on a volume in service but its bytes cannot be had.
    Bad(Box<dyn Fn(&Place) -> CopyFailure>),
    /// The volume is out of service; the master knows.
    Away,
}

fn read_request(place: &Place, chunk: &ChunkPlaces, offset: u32, length: u32) -> data::Read {
    data::Read {
        volume: place.volume.get(),
        chunk: chunk.chunk.get(),
        version: chunk.version.get(),
        offset,
        length,
        into_memory: false,
        next_data: false,
    }
}

fn bad(errno: Errno, reason: String) -> Answer {
    Answer::Bad(Box::new(move |place| place.failure(errno, reason.clone())))
}

/// Has the bytes read from the disk, and nothing sent.
fn read_into_memory(connection: &mut DataConnection, request: &data::Read) -> Result<Status, CallError> {
    let id = connection.send(request, &[])?;
    let (reply, header) = connection.receive_head::<data::Read>(id)?;
    match header.payload_bytes {
        0 => Ok(reply.result.unwrap_or_default().status()),
        _ => Err(out_of_place(header.frame_type)),
    }
}

fn ask_next_data(connection: &mut DataConnection, request: &data::Read) -> Result<data::ReadReply, CallError> {
    let id = connection.send(request, &[])?;
    let (reply, header) = connection.receive_head::<data::Read>(id)?;
    // A chunkserver that does not know the question sends bytes.
    skip_payload(connection, header.payload_bytes as usize)?;
    Ok(reply)
}

fn exchange(
    connection: &mut DataConnection,
    request: &data::Read,
    buffers: &mut [Vec<u8>],
) -> Result<Answer, CallError> {
    let id = connection.send(request, &[])?;
    let (reply, header) = connection.receive_head::<data::Read>(id)?;
    let result = reply.result.clone().unwrap_or_default();
    let payload = header.payload_bytes as usize;
    if result.status() == Status::Ok && payload <= request.length as usize {
        receive_parts(connection, payload, buffers)?;
        return Ok(judge(&reply, request, payload, buffers));
    }
    skip_payload(connection, payload)?;
    Ok(match result.status() {
        // The master has it settled, or knows of a better one.
        Status::WrongVersion | Status::Suspect => Answer::WrongVersion,
        Status::VolumeOut | Status::Timeout => Answer::Away,
        Status::Ok => bad(Errno::EPROTO, format!("sent {payload} bytes instead of {}", request.length)),
        Status::NoChunk => bad(Errno::ENOENT, "the volume has no such chunk".to_owned()),
        Status::BadCopy => bad(Errno::EBADMSG, result.message),
        _ => bad(Errno::from_raw(result.errno as i32), result.message),
    })
}

/// Verifies what came and zeroes what lies beyond the copy's end.
fn judge(reply: &data::ReadReply, request: &data::Read, payload: usize, buffers: &mut [Vec<u8>]) -> Answer {
    let in_copy = (reply.data_length.saturating_sub(request.offset)).min(request.length) as usize;
    if reply.offset != request.offset || payload != in_copy {
        let what = format!("sent {payload} bytes at {}, not {in_copy} at {}", reply.offset, request.offset);
        return bad(Errno::EPROTO, what);
    }
    if reply.hashes.len() != payload.div_ceil(LEAF_BYTES) * LEAF_HASH_BYTES {
        return bad(Errno::EPROTO, format!("sent {} bytes of hashes for {payload} of data", reply.hashes.len()));
    }
    let first_leaf = request.offset / LEAF_BYTES as u32;
    if let Some(leaf_index) = first_wrong_leaf(first_leaf, buffers, payload, &reply.hashes) {
        return bad(Errno::EBADMSG, format!("leaf {leaf_index} does not match its hash"));
    }
    zero_from(buffers, payload);
    Answer::Good
}

/// The first leaf that does not match its hash, of the first `length` bytes of `buffers`, which begin with leaf `first_leaf`.
pub(crate) fn first_wrong_leaf(first_leaf: u32, buffers: &[Vec<u8>], length: usize, hashes: &[u8]) -> Option<u32> {
    let leaves = buffers.iter().flat_map(|buffer| buffer.chunks(LEAF_BYTES));
    let mut rest = length;
    for ((leaf_index, leaf), hash) in (first_leaf..).zip(leaves).zip(hashes.chunks(LEAF_HASH_BYTES)) {
        let part = rest.min(LEAF_BYTES);
        if part == 0 {
            break;
        }
        if hash_leaf(leaf_index, &leaf[..part]).as_bytes() != hash {
            return Some(leaf_index);
        }
        rest -= part;
    }
    None
}

fn receive_parts(connection: &mut DataConnection, payload: usize, buffers: &mut [Vec<u8>]) -> Result<(), CallError> {
    let mut rest = payload;
    for buffer in buffers {
        let length = rest.min(buffer.len());
        if length > 0 {
            connection.receive_payload(&mut buffer[..length])?;
        }
        rest -= length;
    }
    Ok(())
}

/// An answer that is of no use still has to be read off the connection.
fn skip_payload(connection: &mut DataConnection, payload: usize) -> Result<(), CallError> {
    if payload > 0 {
        connection.receive_payload(&mut vec![0; payload])?;
    }
    Ok(())
}

/// Zeroes all bytes of `buffers`, taken as one, from `start` on.
pub(crate) fn zero_from(buffers: &mut [Vec<u8>], start: usize) {
    let mut rest = start;
    for buffer in buffers {
        let kept = rest.min(buffer.len());
        buffer[kept..].fill(0);
        rest -= kept;
    }
}
