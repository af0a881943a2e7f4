//! Copies of chunkservers on this host, read from their files: a leaf that is in the system's memory costs one `preadv2`, and
//! wakes nobody.
//!
//! The chunkserver hands over the file of a copy with the hashes of its leaves (`OpenCopy` of data.proto). What always holds:
//! - A byte handed out matches the hash that the chunkserver had in memory when nobody was writing the chunk, under a
//!   lease which sees to it that nobody else does since. Before this client writes a chunk it forgets the chunk's files.
//! - Nothing here waits for bytes from a disk (`RWF_NOWAIT`): what is not in memory is asked of the chunkserver, which has
//!   deadlines. The kernel may begin to read ahead for the caller, and only hands that to the disk's queue.
//! - Files are closed when the chunkserver ends the connection, because it stops or lets its volume go, and after a while without
//!   use: the chunk may have been removed.
//!
//! Whatever is not as expected is no error: the reader asks over the network, and reports what is to be reported.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::descriptor_stream::DescriptorStream;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, leaves_of};
use rfs_common::socket::files_address;
use rfs_proto::data::{HelloReply, OpenCopy, OpenCopyReply, Status};
use rfs_proto::data_calls::DataCall;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno as SystemErrno, ReadWriteFlags, preadv2};

use super::places::{ChunkPlaces, Place};
use super::read::{first_wrong_leaf, zero_from};
use super::settings::DataSettings;

/// Smaller chunks are not worth the question: a read or two has all of them in the cache.
const CHUNK_BYTES_MIN: u32 = 2 << 20;
/// Files of one volume that are kept open.
const COPIES_MAX: usize = 128;
/// How long a chunkserver may take to hand a file over.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a volume that cannot be read so, or a copy that was refused, is not asked again.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// A file that was not read for so long is closed.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for such files.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

type VolumeKey = (ServerId, VolumeId);
type CopyKey = (ChunkId, ChunkVersion);

/// What reading from a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalRead {
    /// The buffers hold verified bytes.
    Done,
    /// Some are on the disk only.
    NotInMemory,
    /// The file is not what it should be, or cannot be read so.
    Unusable,
}

/// The files that were handed over.
#[derive(Debug)]
pub(crate) struct LocalCopies {
    settings: Arc<DataSettings>,
    clock: SharedClock,
    volumes: Arc<Mutex<HashMap<VolumeKey, Link>>>,
    /// Rises when this client is about to write a chunk: what was asked for before is not kept.
    writes: AtomicU64,
}

/// What is known of a volume.
#[derive(Debug)]
enum Link {
    /// It is not on this host, or being asked just now.
    Nothing(Monotonic),
    Connected(Arc<Connected>),
}

#[derive(Debug)]
struct Connected {
    asking: Mutex<Asking>,
    copies: Mutex<HashMap<CopyKey, Known>>,
}

#[derive(Debug)]
struct Asking {
    connection: Connection<DescriptorStream>,
    last_request: u64,
}

#[derive(Clone, Debug)]
enum Known {
    Open(Arc<LocalCopy>),
    Refused(Monotonic),
}

/// One copy's file.
#[derive(Debug)]
pub(crate) struct LocalCopy {
    file: File,
    data_offset: u32,
    data_length: u32,
    hashes: Vec<u8>,
    used_ms: AtomicU64,
}

impl LocalCopies {
    pub(crate) fn new(settings: Arc<DataSettings>, clock: SharedClock) -> LocalCopies {
        LocalCopies { settings, clock, volumes: Arc::default(), writes: AtomicU64::new(0) }
    }

    /// The file of the chunk's copy at this place, if it is on this host and can be had without waiting for others.
    pub(crate) fn find(&self, place: &Place, chunk: &ChunkPlaces) -> Option<Arc<LocalCopy>> {
        if !self.settings.local || chunk.length < CHUNK_BYTES_MIN {
            return None;
        }
        let now = self.clock.monotonic();
        let volume = self.connected(place, now)?;
        let key = (chunk.chunk, chunk.version);
        let known = locked(&volume.copies).get(&key).cloned();
        match known {
            Some(Known::Open(copy)) => {
                copy.used_ms.store(now.since_start().as_millis() as u64, Ordering::Relaxed);
                Some(copy)
            }
            Some(Known::Refused(until)) if now < until => None,
            Some(Known::Refused(_)) | None => self.open(place, &volume, key, now),
        }
    }

    /// This client is about to write the chunk: its hashes will be others, under the same version.
    pub(crate) fn forget_chunk(&self, chunk: ChunkId) {
        self.writes.fetch_add(1, Ordering::AcqRel);
        let connected: Vec<_> = locked(&self.volumes).values().filter_map(Link::connected).collect();
        for volume in connected {
            volume.drop_copies(|(of, _), _| *of == chunk);
        }
    }

    /// How often chunks were forgotten.
    #[cfg(test)]
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    /// The copy was not what it should be: the next read asks for it again, after a while.
    pub(crate) fn refuse(&self, place: &Place, chunk: &ChunkPlaces) {
        let connected = locked(&self.volumes).get(&(place.server, place.volume)).and_then(Link::connected);
        if let Some(volume) = connected {
            let until = self.clock.monotonic() + REFUSED_FOR;
            let before = locked(&volume.copies).insert((chunk.chunk, chunk.version), Known::Refused(until));
            drop(before);
        }
    }

    fn connected(&self, place: &Place, now: Monotonic) -> Option<Arc<Connected>> {
        let key = (place.server, place.volume);
        {
            let mut volumes = locked(&self.volumes);
            match volumes.get(&key) {
                Some(Link::Connected(volume)) => return Some(Arc::clone(volume)),
                Some(Link::Nothing(until)) if now < *until => return None,
                Some(Link::Nothing(_)) | None => {}
            }
            volumes.insert(key, Link::Nothing(now + REFUSED_FOR));
        }
        let connected = self.connect(place).inspect_err(|error| {
            tracing::debug!(%place.address, %error, "a chunkserver's copies are read over the network");
        });
        let (volume, watched) = connected.ok()?;
        let watch = Watch {
            key,
            volume: Arc::clone(&volume),
            volumes: Arc::clone(&self.volumes),
            clock: Arc::clone(&self.clock),
        };
        locked(&self.volumes).insert(key, Link::Connected(Arc::clone(&volume)));
        if background::spawn("local-watch", move || watch.run(&watched)).is_err() {
            locked(&self.volumes).insert(key, Link::Nothing(now + REFUSED_FOR));
            return None;
        }
        Some(volume)
    }

    fn connect(&self, place: &Place) -> Result<(Arc<Connected>, UnixStream), WireError> {
        let stream = DescriptorStream::connect(&files_address(place.server)?)?;
        if !stream.is_trusted()? {
            return Err(io::Error::other("who listens there is neither root nor this user").into());
        }
        stream.set_timeout(ANSWER_LIMIT)?;
        let watched = stream.try_clone()?;
        let mut asking = Asking { connection: Connection::new(stream), last_request: 0 };
        let hello = self.settings.hello(place);
        let (_, _): (HelloReply, _) = asking.ask(&hello)?;
        Ok((Arc::new(Connected { asking: Mutex::new(asking), copies: Mutex::default() }), watched))
    }

    fn open(&self, place: &Place, volume: &Connected, key: CopyKey, now: Monotonic) -> Option<Arc<LocalCopy>> {
        let mut asking = match volume.asking.try_lock() {
            Ok(asking) => asking,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let writes = self.writes.load(Ordering::Acquire);
        let opened = asking.open(place.volume, key);
        let Ok(Some(copy)) = opened else {
            if let Err(error) = opened {
                // The watching thread sees the end of the connection, and clears up.
                tracing::debug!(%place.address, %error, "a copy's file was not handed over");
                asking.end();
            }
            volume.keep(key, Known::Refused(now + REFUSED_FOR));
            return None;
        };
        let copy = Arc::new(LocalCopy { used_ms: AtomicU64::new(now.since_start().as_millis() as u64), ..copy });
        if self.writes.load(Ordering::Acquire) != writes {
            return None;
        }
        volume.keep(key, Known::Open(Arc::clone(&copy)));
        Some(copy)
    }
}

impl Drop for LocalCopies {
    fn drop(&mut self) {
        // Ends the watching threads.
        for link in locked(&self.volumes).values() {
            if let Link::Connected(volume) = link {
                locked(&volume.asking).end();
            }
        }
    }
}

impl Link {
    fn connected(&self) -> Option<Arc<Connected>> {
        match self {
            Link::Connected(volume) => Some(Arc::clone(volume)),
            Link::Nothing(_) => None,
        }
    }
}

/// Files are closed without the lock: a hung volume may hold up even that.
impl Connected {
    /// Keeps what is known of a copy, instead of the one that was not read for longest if there are too many.
    fn keep(&self, key: CopyKey, known: Known) {
        let used = |known: &Known| match known {
            Known::Open(copy) => copy.used_ms.load(Ordering::Relaxed),
            Known::Refused(_) => 0,
        };
        let mut copies = locked(&self.copies);
        let oldest = copies.iter().min_by_key(|(_, known)| used(known)).map(|(key, _)| *key);
        let dropped = oldest.filter(|_| copies.len() >= COPIES_MAX).and_then(|key| copies.remove(&key));
        let before = copies.insert(key, known);
        drop(copies);
        drop((dropped, before));
    }

    fn drop_copies(&self, is_to_go: impl Fn(&CopyKey, &Known) -> bool) {
        let mut copies = locked(&self.copies);
        let dropped: Vec<_> = copies.extract_if(|key, known| is_to_go(key, known)).collect();
        drop(copies);
        drop(dropped);
    }
}

impl Asking {
    fn ask<C: DataCall>(&mut self, request: &C) -> Result<(C::Reply, usize), WireError> {
        self.last_request += 1;
        self.connection.send(Envelope::request(C::FRAME_TYPE, self.last_request), request, &[])?;
        let header = self.connection.receive_head(&Awaited::REPLY)?;
        if header.frame_type != C::FRAME_TYPE || header.request_id != self.last_request || header.is_error() {
            return Err(WireError::OutOfPlace {
                expected: "the reply to the request just sent",
                got: header.frame_type,
            });
        }
        Ok((self.connection.message(&header)?, header.payload_bytes as usize))
    }

    /// The copy, or nothing if the chunkserver does not hand it over.
    fn open(&mut self, volume: VolumeId, (chunk, version): CopyKey) -> Result<Option<LocalCopy>, WireError> {
        let request = OpenCopy { volume: volume.get(), chunk: chunk.get(), version: version.get() };
        let (reply, payload_bytes): (OpenCopyReply, _) = self.ask(&request)?;
        let mut hashes = vec![0; payload_bytes];
        self.connection.receive_payload(&mut hashes)?;
        let descriptor = self.connection.stream_mut().take_received();
        let good = reply.result.as_ref().is_some_and(|result| result.status() == Status::Ok)
            && hashes.len() == leaves_of(reply.data_length) as usize * LEAF_HASH_BYTES;
        let Some(descriptor) = descriptor.filter(|_| good) else { return Ok(None) };
        let (data_offset, data_length) = (reply.data_offset, reply.data_length);
        let file = File::from(descriptor);
        Ok(Some(LocalCopy { file, data_offset, data_length, hashes, used_ms: AtomicU64::new(0) }))
    }

    fn end(&self) {
        let _ = rustix::net::shutdown(self.connection.stream(), rustix::net::Shutdown::Both);
    }
}

impl LocalCopy {
    /// How many bytes it has from there on.
    pub(crate) fn bytes_from(&self, offset: u32) -> usize {
        self.data_length.saturating_sub(offset) as usize
    }

    /// Fills `buffers` with the copy's bytes from `offset`, a leaf boundary, on: `length` of them, all of which the copy must have.
    pub(crate) fn read(&self, offset: u32, length: usize, buffers: &mut [Vec<u8>]) -> LocalRead {
        if u64::from(offset) + length as u64 > u64::from(self.data_length) {
            return LocalRead::Unusable;
        }
        let mut rest = length;
        let mut parts: Vec<IoSliceMut<'_>> = Vec::with_capacity(buffers.len());
        for buffer in buffers.iter_mut() {
            let part = rest.min(buffer.len());
            rest -= part;
            parts.push(IoSliceMut::new(&mut buffer[..part]));
        }
        let at = u64::from(self.data_offset) + u64::from(offset);
        match preadv2(&self.file, &mut parts, at, ReadWriteFlags::NOWAIT) {
            Ok(got) if got == length => {}
            Ok(_) | Err(SystemErrno::AGAIN | SystemErrno::INTR) => return LocalRead::NotInMemory,
            Err(_) => return LocalRead::Unusable,
        }
        let first_leaf = offset / LEAF_BYTES as u32;
        let hashes = &self.hashes[first_leaf as usize * LEAF_HASH_BYTES..];
        if first_wrong_leaf(first_leaf, buffers, length, hashes).is_some() {
            return LocalRead::Unusable;
        }
        zero_from(buffers, length);
        LocalRead::Done
    }
}

/// The thread that waits for the end of one connection, and closes files that nobody reads.
struct Watch {
    key: VolumeKey,
    volume: Arc<Connected>,
    volumes: Arc<Mutex<HashMap<VolumeKey, Link>>>,
    clock: SharedClock,
}

impl Watch {
    fn run(&self, watched: &UnixStream) {
        let limit = rustix::time::Timespec { tv_sec: LOOK_INTERVAL.as_secs() as i64, tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(watched, PollFlags::RDHUP)], Some(&limit)) {
                Ok(0) => self.close_unused(),
                Err(SystemErrno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let mut volumes = locked(&self.volumes);
        if matches!(volumes.get(&self.key), Some(Link::Connected(volume)) if Arc::ptr_eq(volume, &self.volume)) {
            volumes.insert(self.key, Link::Nothing(self.clock.monotonic() + REFUSED_FOR));
        }
        drop(volumes);
        self.volume.drop_copies(|_, _| true);
        // The chunkserver waits for this end as the sign that the files are closed.
        locked(&self.volume.asking).end();
    }

    fn close_unused(&self) {
        let now = self.clock.monotonic();
        self.volume.drop_copies(|_, known| match known {
            Known::Open(copy) => {
                now.since_start() >= Duration::from_millis(copy.used_ms.load(Ordering::Relaxed)) + UNUSED_MAX
            }
            Known::Refused(until) => now >= *until,
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
