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
        let end = u64::from(self.first_index) + u64::from(self.count);
        let mut chunks = Vec::new();
        for (index, reference) in content::refs_from(transaction, self.inode, self.first_index, self.count as usize)? {
            let chunk = reference.chunk_id();
            if u64::from(index) >= end {
                break;
            }
            let record = transaction.chunk(chunk)?.ok_or(Errno::EIO)?;
            if !record.is_pending() {
                chunks.push(LocatedChunk { index, chunk, record, length: reference.length });
            }
        }
        Ok((Node::new(self.inode, node), chunks))
    }
}
