//! The records of the namespace: one definition each, used by whoever writes and whoever reads
//! (docs/formats/records.md).
//!
//! Values are protobuf messages, so that fields can be added and unknown ones are ignored. Keys are put together by the
//! functions at the end of this file from big-endian numbers, so that the order of keys is the order of ids.
//!
//! What always holds: a tag is never used again for something else; a field is never changed in kind; decoding never panics.

use prost::Message;
use rfs_common::clock::Time;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, SessionId};

use super::source::{Change, Table};

/// What a node is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NodeKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A character device.
    CharacterDevice = 4,
    /// A block device.
    BlockDevice = 5,
    /// A named pipe.
    Fifo = 6,
    /// A socket.
    Socket = 7,
}

/// A time as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Stamp {
    /// Seconds since 1970, negative before.
    #[prost(sint64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds after that second.
    #[prost(uint32, tag = "2")]
    pub nanoseconds: u32,
}

impl From<Time> for Stamp {
    fn from(time: Time) -> Stamp {
        Stamp { seconds: time.seconds(), nanoseconds: time.nanoseconds() }
    }
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Time {
        Time::new(stamp.seconds, stamp.nanoseconds)
    }
}

/// A node of the namespace. Table Inodes, key [`inode_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InodeRecord {
    /// What it is; see [`NodeKind`].
    #[prost(enumeration = "NodeKind", tag = "1")]
    pub kind: i32,
    /// Permission, set-id and sticky bits: 07777.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub user: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub group: u32,
    /// Names of it; of a directory 2 and one more for each subdirectory; 0: it is an orphan.
    #[prost(uint32, tag = "5")]
    pub links: u32,
    /// Bytes of a file; 0 for everything else.
    #[prost(uint64, tag = "6")]
    pub length: u64,
    /// Sum of the lengths of its chunks.
    #[prost(uint64, tag = "7")]
    pub allocated: u64,
    /// Of device nodes, as the kernel encodes it.
    #[prost(uint32, tag = "8")]
    pub device: u32,
    /// Last read.
    #[prost(message, required, tag = "9")]
    pub accessed: Stamp,
    /// Last change of the content.
    #[prost(message, required, tag = "10")]
    pub modified: Stamp,
    /// Last change of anything.
    #[prost(message, required, tag = "11")]
    pub changed: Stamp,
    /// When it was made.
    #[prost(message, required, tag = "12")]
    pub created: Stamp,
    /// Copies wanted of each chunk; of a directory: what new nodes in it get.
    #[prost(uint32, tag = "13")]
    pub goal: u32,
    /// Target of a symbolic link.
    #[prost(bytes = "vec", tag = "14")]
    pub target: Vec<u8>,
    /// Of a directory: the directory that it is in (the root: itself; an orphan: 0).
    #[prost(uint64, tag = "15")]
    pub parent: u64,
    /// Of a directory: how many entries it has.
    #[prost(uint64, tag = "16")]
    pub entries: u64,
    /// Of a directory: the cookie of the next entry. Never goes down.
    #[prost(uint64, tag = "17")]
    pub cookie_next: u64,
    /// Raised by every change of this record.
    #[prost(uint64, tag = "18")]
    pub revision: u64,
    /// How many extended attributes it has, ACLs among them.
    #[prost(uint32, tag = "19")]
    pub xattrs: u32,
    /// Whether an access ACL is among them.
    #[prost(bool, tag = "20")]
    pub access_acl: bool,
    /// Whether a default ACL is among them.
    #[prost(bool, tag = "21")]
    pub default_acl: bool,
    /// Of a directory: ids set aside for nodes made in it, so that they are neighbours; the first that is free.
    #[prost(uint64, tag = "22")]
    pub inode_next: u64,
    /// Of a directory: the end of the ids set aside.
    #[prost(uint64, tag = "23")]
    pub inode_end: u64,
}

impl InodeRecord {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == NodeKind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == NodeKind::File
    }

    /// The goal as a type; records from before a limit was changed count as the nearest goal.
    pub fn copies(&self) -> Goal {
        Goal::try_from(self.goal).unwrap_or(Goal::TWO)
    }
}

/// A name in a directory. Table Entries, key [`entry_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EntryRecord {
    /// The node it names.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// What that is, so that listings need not look.
    #[prost(enumeration = "NodeKind", tag = "2")]
    pub kind: i32,
    /// Position for readers that seek: above 2, below 2^63, unique in the directory, never used twice.
    #[prost(uint64, tag = "3")]
    pub cookie: u64,
}

impl EntryRecord {
    /// The node it names.
    pub fn inode_id(&self) -> InodeId {
        InodeId::new(self.inode)
    }
}

/// A chunk of a file. Table Chunks, key [`chunk_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkRecord {
    /// The file it belongs to.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// Which 64 MiB of the file.
    #[prost(uint32, tag = "2")]
    pub index: u32,
    /// The version that copies must have; 0: nothing was ever committed.
    #[prost(uint32, tag = "3")]
    pub version: u32,
    /// The version that the last writer was given; equal to `version`: settled.
    #[prost(uint32, tag = "4")]
    pub granted: u32,
    /// Copies wanted.
    #[prost(uint32, tag = "5")]
    pub goal: u32,
    /// Nothing refers to it any more: the record stays until every copy is deleted.
    #[prost(bool, tag = "6")]
    pub deleted: bool,
    /// The version at which its copies last went on from what a power cut had left of all of them: bytes that were
    /// acknowledged under an older one and not synced may be gone. 0: never.
    #[prost(uint32, tag = "7")]
    pub lost: u32,
    /// It was committed, and nobody has said since that any of it is on a disk: a power cut may take all of it.
    #[prost(bool, tag = "8")]
    pub unsynced: bool,
}

impl ChunkRecord {
    /// The file it belongs to.
    pub fn inode_id(&self) -> InodeId {
        InodeId::new(self.inode)
    }

    /// Whether no writer has it.
    pub fn is_settled(&self) -> bool {
        self.version == self.granted
    }

    /// Whether it was granted to a writer and nothing was committed yet: for readers it is a hole.
    pub fn is_pending(&self) -> bool {
        self.version == 0
    }

    /// The goal as a type.
    pub fn copies(&self) -> Goal {
        Goal::try_from(self.goal).unwrap_or(Goal::TWO)
    }

    /// The version as a type.
    pub fn chunk_version(&self) -> ChunkVersion {
        ChunkVersion::new(self.version)
    }
}

/// Which chunk has a part of a file's bytes. Table Refs, key [`ref_key`].
///
/// A chunk that was granted and never committed has its reference already, with length 0: a hole for readers.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkRef {
    /// The chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Its valid bytes: what copies hold beyond reads as zeros.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

impl ChunkRef {
    /// The chunk.
    pub fn chunk_id(&self) -> ChunkId {
        ChunkId::new(self.chunk)
    }
}

/// An extended attribute. Table Xattrs, key [`xattr_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct XattrRecord {
    /// Its value.
    #[prost(bytes = "vec", tag = "1")]
    pub value: Vec<u8>,
}

/// A node without a name that sessions still use. Table Orphans, key [`inode_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OrphanRecord {
    /// The sessions that have not released it, ascending.
    #[prost(uint64, repeated, tag = "1")]
    pub sessions: Vec<u64>,
    /// It never had a name and may be given one (a file made with `O_TMPFILE`).
    #[prost(bool, tag = "2")]
    pub nameable: bool,
}

/// What there is one of in a cluster. Table System, key [`system_key`] of [`SystemKind::Counters`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SystemRecord {
    /// Every inode id in use, or set aside, is below.
    #[prost(uint64, tag = "1")]
    pub inode_next: u64,
    /// Every chunk id ever used is below.
    #[prost(uint64, tag = "2")]
    pub chunk_next: u64,
    /// Nodes, orphans among them.
    #[prost(uint64, tag = "3")]
    pub inodes: u64,
    /// Regular files.
    #[prost(uint64, tag = "4")]
    pub files: u64,
    /// Directories.
    #[prost(uint64, tag = "5")]
    pub directories: u64,
    /// Chunks that are not deleted.
    #[prost(uint64, tag = "6")]
    pub chunks: u64,
    /// Sum of the lengths of files.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
    /// Nodes without a name.
    #[prost(uint64, tag = "8")]
    pub orphans: u64,
    /// Copies wanted where nothing else was said.
    #[prost(uint32, tag = "9")]
    pub goal: u32,
    /// Session ids ever given are below.
    #[prost(uint64, tag = "10")]
    pub session_next: u64,
    /// Raised by every start of the master.
    #[prost(uint64, tag = "11")]
    pub master_start: u64,
    /// Deleted chunks whose copies are not all gone yet.
    #[prost(uint64, tag = "12")]
    pub deleted_chunks: u64,
    /// Up to where the log reached at each of the last starts of the master, the latest last.
    #[prost(uint64, repeated, tag = "13")]
    pub recovered: Vec<u64>,
    /// Ids that directories had set aside before the last start are below, and are not given any more.
    #[prost(uint64, tag = "14")]
    pub inode_floor: u64,
}

/// Chunk ids that a start of the master passed over: given to nobody by this metadata. Table System, key [`system_key`] with
/// the first of them.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PassedOverRecord {
    /// The first id that is none of them.
    #[prost(uint64, tag = "1")]
    pub end: u64,
}

/// A session. Table Sessions, key [`session_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SessionRecord {
    /// Proves that the session is the caller's: 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub secret: Vec<u8>,
    /// The client's host.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Where it is mounted there.
    #[prost(string, tag = "3")]
    pub mount_point: String,
    /// The client's process.
    #[prost(uint32, tag = "4")]
    pub process_id: u32,
    /// The client's program version.
    #[prost(string, tag = "5")]
    pub version: String,
    /// It may change nothing.
    #[prost(bool, tag = "6")]
    pub read_only: bool,
    /// The directory it takes for its root.
    #[prost(uint64, tag = "7")]
    pub root: u64,
    /// When it began.
    #[prost(message, required, tag = "8")]
    pub begun: Stamp,
}

/// The last change that a slot of a session asked for, and what it was answered. Table Sessions, key [`slot_key`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SlotRecord {
    /// Number of that request.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The answer's message as it was sent; of a failure: the encoded `Failure`.
    #[prost(bytes = "vec", tag = "2")]
    pub reply: Vec<u8>,
    /// Whether the answer was a failure.
    #[prost(bool, tag = "3")]
    pub error: bool,
}

/// What the System table holds. The number is the first byte of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SystemKind {
    /// [`SystemRecord`], id 0.
    Counters = 1,
    /// What was asked of a volume, by its id.
    AskedOfVolume = 2,
    /// A known chunkserver, by its id.
    Server = 3,
    /// [`PassedOverRecord`], by the first id of the range.
    PassedOver = 4,
    /// What was asked of a chunkserver, by its id.
    AskedOfServer = 5,
    /// The epoch that a volume was at, by its id.
    EpochOfVolume = 6,
}

/// A type that is stored in one table.
pub trait Record: Message + Default + Clone {
    /// Its table.
    const TABLE: Table;
}

/// Pairs record types with their tables.
macro_rules! tables {
    ($($record:ty => $table:ident;)*) => {
        $(impl Record for $record {
            const TABLE: Table = Table::$table;
        })*
    };
}

tables! {
    InodeRecord => Inodes;
    EntryRecord => Entries;
    ChunkRecord => Chunks;
    ChunkRef => Refs;
    XattrRecord => Xattrs;
    OrphanRecord => Orphans;
    SystemRecord => System;
    PassedOverRecord => System;
    SessionRecord => Sessions;
    SlotRecord => Sessions;
}

/// The change that stores a record under this key.
pub fn put<R: Record>(key: Vec<u8>, record: &R) -> Change {
    Change::Put { table: R::TABLE, key, value: record.encode_to_vec() }
}

/// Key of a node and of an orphan: 8 bytes.
pub fn inode_key(inode: InodeId) -> Vec<u8> {
    inode.get().to_be_bytes().to_vec()
}

/// Key of an entry: its directory (8 bytes), then the name.
pub fn entry_key(directory: InodeId, name: &[u8]) -> Vec<u8> {
    [&directory.get().to_be_bytes()[..], name].concat()
}

/// Key of a chunk: 8 bytes.
pub fn chunk_key(chunk: ChunkId) -> Vec<u8> {
    chunk.get().to_be_bytes().to_vec()
}

/// Key of a chunk reference: the file (8 bytes), then the chunk's index in it (4 bytes).
pub fn ref_key(inode: InodeId, index: u32) -> Vec<u8> {
    [&inode.get().to_be_bytes()[..], &index.to_be_bytes()[..]].concat()
}

/// Key of an extended attribute: the node (8 bytes), then the attribute's full name.
pub fn xattr_key(inode: InodeId, name: &[u8]) -> Vec<u8> {
    [&inode.get().to_be_bytes()[..], name].concat()
}

/// Key of a session: 8 bytes.
pub fn session_key(session: SessionId) -> Vec<u8> {
    session.get().to_be_bytes().to_vec()
}

/// Key of a slot's last answer: the session (8 bytes), then the slot (4 bytes).
pub fn slot_key(session: SessionId, slot: u32) -> Vec<u8> {
    [&session.get().to_be_bytes()[..], &slot.to_be_bytes()[..]].concat()
}

/// Key in the System table: the kind (1 byte), then the id (8 bytes).
pub fn system_key(kind: SystemKind, id: u64) -> Vec<u8> {
    [&[kind as u8][..], &id.to_be_bytes()[..]].concat()
}

/// The number that the first 8 bytes of a key are, and the rest of the key.
pub fn split_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
#[path = "records_test.rs"]
mod tests;
