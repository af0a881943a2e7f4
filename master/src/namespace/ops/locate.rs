//! Which chunks a file has. Where their copies are is known elsewhere.

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId};

use super::Node;
use crate::namespace::content;
use crate::namespace::metadata::Transaction;
use crate::namespace::records::ChunkRecord;
use crate::operation::{Context, Need, Operation};

/// Lists the chunks of a part of a file.
#[derive(Debug, Clone)]
pub struct Locate {
    /// The file.
    pub inode: InodeId,
    /// The first chunk.
    pub first_index: u32,
    /// How many chunks.
    pub count: u32,
    /// Whether `count` is of chunks that exist, however far they are apart, rather than of indexes.
    pub existing: bool,
}

/// A chunk of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedChunk {
    /// Which 64 MiB of the file.
    pub index: u32,
    /// Its id.
    pub chunk: ChunkId,
    /// Its record.
    pub record: ChunkRecord,
    /// Its valid bytes.
    pub length: u32,
}

impl Operation for Locate {
    /// The file and its chunks; indexes that are missing are holes.
    type Outcome = (Node, Vec<LocatedChunk>);
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Read(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Self::Outcome, Errno> {
        let node = transaction.node(self.inode)?;
        if node.is_directory() {
            return Err(Errno::EISDIR);
        }
        Ok((Node::new(self.inode, node), self.chunks(transaction)?))
    }
}

impl Locate {
    fn chunks(&self, transaction: &mut Transaction<'_>) -> Result<Vec<LocatedChunk>, Errno> {
        let count = self.count as usize;
        let end = if self.existing { u64::MAX } else { u64::from(self.first_index) + u64::from(self.count) };
        let mut chunks = Vec::new();
        let mut next = Some(self.first_index);
        while let Some(first_index) = next {
            let references = content::refs_from(transaction, self.inode, first_index, count)?;
            // Those that were never committed are holes and count for nothing, so there may be more behind this part.
            next = references.last().filter(|_| references.len() == count).and_then(|(last, _)| last.checked_add(1));
            for (index, reference) in references {
                let record = transaction.chunk(reference.chunk_id())?.ok_or(Errno::EIO)?;
                if u64::from(index) >= end || chunks.len() == count {
                    return Ok(chunks);
                }
                if !record.is_pending() {
                    let chunk = reference.chunk_id();
                    chunks.push(LocatedChunk { index, chunk, record, length: reference.length });
                }
            }
        }
        Ok(chunks)
    }
}
