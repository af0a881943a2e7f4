//! Writing: grants of chunks, what was written becoming the file's state, holes, and copies that failed.
//!
//! A chunk's life: granted (version 0, a hole for readers), committed (version = granted), granted again (granted = version
//! + 1), ..., deleted. Every grant has a version of its own, so that a copy that missed one can never pass for current.
//!
//! All of these need the file's WRITE lease, which is what keeps two writers apart.

use std::time::Duration;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId};
use rfs_common::leaf::CHUNK_BYTES;

use super::Node;
use crate::namespace::content;
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::xattrs;
use crate::namespace::permission;
use crate::namespace::records::{ChunkRecord, ChunkRef, InodeRecord};
use crate::operation::{Context, Need, Operation};

/// The right to write one chunk, without the places, which are chosen elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which 64 MiB of the file.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// What the copies have now; 0: the chunk is new and the first write makes it.
    pub version_from: ChunkVersion,
    /// What the writer raises them to.
    pub version: ChunkVersion,
    /// Valid bytes so far.
    pub length: u32,
    /// Copies wanted.
    pub goal: Goal,
    /// Bytes acknowledged under an older version and not synced may be gone; 0: never.
    pub lost_version: ChunkVersion,
}

impl Grant {
    /// Whether places must be found, since there are no copies yet.
    pub fn is_new(&self) -> bool {
        self.version_from.get() == 0
    }
}

/// Grants one chunk of a file, which may be new.
///
/// A chunk that was granted and never committed is given up for a new one: copies that its writer may have begun are not
/// mixed with those of the next.
#[derive(Debug, Clone)]
pub struct GrantWrite {
    /// The file.
    pub inode: InodeId,
    /// Which 64 MiB of it.
    pub index: u32,
}

impl Operation for GrantWrite {
    type Outcome = Grant;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Write(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Grant, Errno> {
        let node = file(transaction, self.inode)?;
        let Some(reference) = transaction.chunk_ref(self.inode, self.index)? else {
            return self.grant_new(transaction, &node);
        };
        let chunk = reference.chunk_id();
        let mut record = transaction.chunk(chunk)?.ok_or(Errno::EIO)?;
        if record.is_pending() {
            transaction.drop_ref(self.inode, self.index, &reference)?;
            return self.grant_new(transaction, &node);
        }
        record.granted = raised(record.version.max(record.granted))?;
        transaction.put_chunk(chunk, &record);
        Ok(grant_of(self.index, chunk, &record, reference.length, record.version))
    }
}

impl GrantWrite {
    fn grant_new(&self, transaction: &mut Transaction<'_>, node: &InodeRecord) -> Result<Grant, Errno> {
        let record = ChunkRecord {
            inode: self.inode.get(),
            index: self.index,
            version: 0,
            granted: ChunkVersion::FIRST.get(),
            goal: node.goal,
            deleted: false,
            lost: 0,
            unsynced: false,
        };
        let chunk = transaction.add_chunk(&record)?;
        Ok(grant_of(self.index, chunk, &record, 0, 0))
    }
}

/// Raises the version of a granted chunk, because a copy did not take a write: the copies that go on are raised to it and
/// the failed one can never pass for current. The outcome is the grant to go on with; its copies are raised already.
#[derive(Debug, Clone)]
pub struct CopyFailed {
    /// The file.
    pub inode: InodeId,
    /// Which 64 MiB of it.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// The version of the grant that failed.
    pub version: ChunkVersion,
}

impl Operation for CopyFailed {
    type Outcome = Grant;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Write(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Grant, Errno> {
        let (reference, mut record) = chunk_of(transaction, self.inode, self.index, self.chunk)?;
        // Versions above the grant's were reserved by tries that came to nothing.
        if record.granted < self.version.get() {
            return Err(Errno::ESTALE);
        }
        let was_settled = record.is_settled();
        record.granted = raised(record.granted)?;
        // Committed under this grant already: what copies have is known to be the file's state under the new version too.
        if was_settled {
            record.version = record.granted;
        }
        transaction.put_chunk(self.chunk, &record);
        Ok(grant_of(self.index, self.chunk, &record, reference.length, record.granted))
    }
}

/// A chunk that a client has written under a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenChunk {
    /// Which 64 MiB of the file.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// The version of the grant.
    pub version: ChunkVersion,
    /// Its valid bytes now.
    pub length: u32,
}

/// What a client wrote becomes the file's state.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The file.
    pub inode: InodeId,
    /// Its new length. A shorter one cuts it.
    pub length: Option<u64>,
    /// When its content was last changed.
    pub modified: Option<Time>,
    /// The chunks written.
    pub chunks: Vec<WrittenChunk>,
    /// Clear set-id bits: the writer may not keep them.
    pub kill_set_id: bool,
    /// The chunks are on every copy's disk.
    pub durable: bool,
}

impl Operation for Commit {
    type Outcome = Node;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Write(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Node, Errno> {
        let node = file(transaction, self.inode)?;
        if let Some(length) = self.length
            && length != node.length
        {
            content::set_length(transaction, self.inode, length)?;
        }
        let length = self.length.unwrap_or(node.length);
        let mut added = 0;
        for written in &self.chunks {
            added += self.commit_chunk(transaction, written, length)?;
        }
        // A changed program is another program, whoever changed it.
        if self.kill_set_id || self.modified.is_some() {
            xattrs::drop_file_capabilities(transaction, self.inode)?;
        }
        let unchanged = self.length.is_none() && self.modified.is_none() && self.chunks.is_empty() && !self.kill_set_id;
        if unchanged {
            return Ok(Node::new(self.inode, node));
        }
        let record = transaction.update(self.inode, |node| {
            node.allocated += added;
            node.modified = self.modified.map_or(node.modified, Into::into);
            node.changed = self.changed(node.changed.into(), context.now).into();
            if self.kill_set_id {
                node.mode = permission::without_set_id(node.mode);
            }
        })?;
        Ok(Node::new(self.inode, record))
    }
}

impl Commit {
    /// The change time after it, which the client that wrote has shown as this already (`add_local_changes` in the mount):
    /// a commit is no change of its own, and programs go by a time that stays. It always rises, and by this clock only.
    fn changed(&self, before: Time, now: Time) -> Time {
        let next = before + Duration::from_nanos(1);
        let written = if self.kill_set_id { Some(now) } else { self.modified };
        written.map_or(next, |written| written.min(now).max(next))
    }

    /// Settles one chunk; how many valid bytes it has gained.
    fn commit_chunk(
        &self,
        transaction: &mut Transaction<'_>,
        written: &WrittenChunk,
        file_length: u64,
    ) -> Result<u64, Errno> {
        let end = u64::from(written.index) * CHUNK_BYTES + u64::from(written.length);
        if u64::from(written.length) > CHUNK_BYTES || (written.length > 0 && end > file_length) {
            return Err(Errno::EINVAL);
        }
        let (reference, mut record) = granted(transaction, self.inode, written.index, written.chunk, written.version)?;
        let before = record.clone();
        record.unsynced = !self.durable && (record.is_pending() || record.unsynced);
        record.version = record.granted;
        if record != before {
            transaction.put_chunk(written.chunk, &record);
        }
        // Bytes become fewer by cutting only; a commit that is late knows less than what is stored.
        let length = reference.length.max(written.length);
        if length != reference.length {
            transaction.put_ref(self.inode, written.index, &ChunkRef { length, ..reference });
        }
        Ok(u64::from(length - reference.length))
    }
}

/// Drops whole chunks of a file: a hole. Parts of chunks are zeroed at the data.
#[derive(Debug, Clone)]
pub struct PunchHole {
    /// The file.
    pub inode: InodeId,
    /// The first chunk dropped.
    pub first_index: u32,
    /// The first chunk that stays.
    pub end_index: u32,
}

impl Operation for PunchHole {
    type Outcome = Node;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Write(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Node, Errno> {
        file(transaction, self.inode)?;
        if self.first_index > self.end_index {
            return Err(Errno::EINVAL);
        }
        content::punch(transaction, self.inode, self.first_index..self.end_index)?;
        let record = transaction.update(self.inode, |node| {
            node.modified = context.now.into();
            node.changed = context.now.into();
        })?;
        Ok(Node::new(self.inode, record))
    }
}

fn file(transaction: &mut Transaction<'_>, inode: InodeId) -> Result<InodeRecord, Errno> {
    let node = transaction.node(inode)?;
    match () {
        () if node.is_file() => Ok(node),
        () if node.is_directory() => Err(Errno::EISDIR),
        () => Err(Errno::EINVAL),
    }
}

/// A chunk whose last grant is this one.
fn granted(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    index: u32,
    chunk: ChunkId,
    version: ChunkVersion,
) -> Result<(ChunkRef, ChunkRecord), Errno> {
    let (reference, record) = chunk_of(transaction, inode, index, chunk)?;
    if record.granted == version.get() { Ok((reference, record)) } else { Err(Errno::ESTALE) }
}

fn chunk_of(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    index: u32,
    chunk: ChunkId,
) -> Result<(ChunkRef, ChunkRecord), Errno> {
    let reference = transaction.chunk_ref(inode, index)?.filter(|reference| reference.chunk_id() == chunk);
    let reference = reference.ok_or(Errno::ESTALE)?;
    Ok((reference, transaction.chunk(chunk)?.ok_or(Errno::EIO)?))
}

fn grant_of(index: u32, chunk: ChunkId, record: &ChunkRecord, length: u32, version_from: u32) -> Grant {
    Grant {
        index,
        chunk,
        version_from: ChunkVersion::new(version_from),
        version: ChunkVersion::new(record.granted),
        length,
        goal: record.copies(),
        lost_version: ChunkVersion::new(record.lost),
    }
}

fn raised(version: u32) -> Result<u32, Errno> {
    version.checked_add(1).ok_or(Errno::EOVERFLOW)
}

#[cfg(test)]
#[path = "write_test.rs"]
mod tests;
