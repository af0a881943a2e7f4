//! Reads and changes of the namespace's records, in transactions.
//!
//! A [`Transaction`] reads through its own changes and collects them; nothing reaches the store until whoever runs it takes
//! the changes out and commits them, together with the reply, in one step. A transaction that failed is dropped.
//!
//! What always holds: every change of a node raises its revision; the counters of [`SystemRecord`] move with the changes
//! that they count; ids are never given twice. A record that cannot be read or decoded is answered with `EIO`, and
//! [`Transaction::failure`] says which and why.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId};

use super::records::{
    self, ChunkRecord, ChunkRef, EntryRecord, InodeRecord, NodeKind, OrphanRecord, Record, SystemKind, SystemRecord,
    XattrRecord,
};
use super::source::{Change, Source, StoreError, Table};

/// Ids that a directory sets aside at once for the nodes made in it, so that these are neighbours in the store.
const INODES_SET_ASIDE: u64 = 64;

/// The stored namespace.
#[derive(Clone)]
pub struct Metadata {
    source: Arc<dyn Source>,
}

impl Metadata {
    /// The namespace whose records are in `source`.
    pub fn new(source: Arc<dyn Source>) -> Metadata {
        Metadata { source }
    }

    /// Begins a transaction on what is stored now.
    pub fn begin(&self) -> Transaction<'_> {
        Transaction::new(&*self.source)
    }
}

/// Why records could not be read. The operation was answered with `EIO`.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store could not be read.
    #[error(transparent)]
    Store(StoreError),
    /// A record is not what it should be.
    #[error("a record of table {table:?} with key {key:02x?} is damaged: {what}; run `mfs-master check`")]
    Damaged {
        /// Its table.
        table: Table,
        /// Its key.
        key: Vec<u8>,
        /// What is wrong with it.
        what: String,
    },
}

/// What happened to a record in a transaction: its new value, or nothing if it was deleted.
type Changed = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Reads, and changes that nobody else sees yet.
pub struct Transaction<'a> {
    source: &'a dyn Source,
    changed: BTreeMap<Table, Changed>,
    system: Option<SystemRecord>,
    system_changed: bool,
    deleted_chunks: Vec<ChunkId>,
    failure: Option<Failure>,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction on what the source holds.
    pub fn new(source: &'a dyn Source) -> Transaction<'a> {
        Transaction {
            source,
            changed: BTreeMap::new(),
            system: None,
            system_changed: false,
            deleted_chunks: Vec::new(),
            failure: None,
        }
    }

    /// The changes, in the order of tables and keys, each record at most once.
    pub fn into_changes(mut self) -> Vec<Change> {
        if let (true, Some(system)) = (self.system_changed, self.system.take()) {
            self.write(records::system_key(SystemKind::Counters, 0), &system);
        }
        let mut changes = Vec::new();
        for (table, changed) in self.changed {
            changes.extend(changed.into_iter().map(|(key, value)| match value {
                Some(value) => Change::Put { table, key, value },
                None => Change::Delete { table, key },
            }));
        }
        changes
    }

    /// Whether nothing was changed so far.
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty() && !self.system_changed
    }

    /// Chunks that this transaction marked as deleted: their copies can be deleted once it is committed.
    pub fn deleted_chunks(&self) -> &[ChunkId] {
        &self.deleted_chunks
    }

    /// Why something was answered with `EIO`.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

/// Records of any type.
impl Transaction<'_> {
    /// The record with this key.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn read<R: Record>(&mut self, key: &[u8]) -> Result<Option<R>, Errno> {
        if let Some(changed) = self.changed.get(&R::TABLE).and_then(|changed| changed.get(key)) {
            let Some(value) = changed else { return Ok(None) };
            let decoded = R::decode(value.as_slice());
            return decoded.map(Some).map_err(|error| self.damaged(R::TABLE, key, error.to_string()));
        }
        match self.source.get(R::TABLE, key) {
            Err(error) => Err(self.failed(Failure::Store(error))),
            Ok(None) => Ok(None),
            Ok(Some(value)) => match R::decode(value.as_slice()) {
                Ok(record) => Ok(Some(record)),
                Err(error) => Err(self.damaged(R::TABLE, key, error.to_string())),
            },
        }
    }

    /// Puts a record in place of what has this key.
    pub fn write<R: Record>(&mut self, key: Vec<u8>, record: &R) {
        self.changed.entry(R::TABLE).or_default().insert(key, Some(record.encode_to_vec()));
    }

    /// Removes the record with this key.
    pub fn remove<R: Record>(&mut self, key: Vec<u8>) {
        self.changed.entry(R::TABLE).or_default().insert(key, None);
    }

    /// Visits the records between two keys, this transaction's own among them, in the order of the keys.
    ///
    /// # Errors
    /// `EIO` if one cannot be read.
    pub fn scan<R: Record>(
        &mut self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], R) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let empty = Changed::new();
        let changed = self.changed.get(&R::TABLE).unwrap_or(&empty);
        let mut own = changed.range::<[u8], _>((from, to)).peekable();
        let mut damage = None;
        let mut ended = false;
        let mut show = |key: &[u8], value: &[u8]| match R::decode(value) {
            Ok(record) => visit(key, record),
            Err(error) => {
                damage = Some(Failure::Damaged { table: R::TABLE, key: key.to_vec(), what: error.to_string() });
                ControlFlow::Break(())
            }
        };
        let read = self.source.scan(R::TABLE, from, to, &mut |key, value| {
            let mut flow = ControlFlow::Continue(());
            let mut replaced = false;
            while let Some((own_key, own_value)) = own.next_if(|(own_key, _)| own_key.as_slice() <= key) {
                replaced = own_key.as_slice() == key;
                if let Some(own_value) = own_value {
                    flow = show(own_key, own_value);
                }
                if flow.is_break() {
                    break;
                }
            }
            if flow.is_continue() && !replaced {
                flow = show(key, value);
            }
            ended = flow.is_break();
            flow
        });
        if !ended && read.is_ok() {
            for (key, value) in own {
                if value.as_ref().is_some_and(|value| show(key, value).is_break()) {
                    break;
                }
            }
        }
        match (read, damage) {
            (Err(error), _) => Err(self.failed(Failure::Store(error))),
            (Ok(()), Some(damage)) => Err(self.failed(damage)),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Visits the records whose keys begin with this id and come after `after` (with the id before it), in order. The visit
    /// gets the rest of each key.
    ///
    /// # Errors
    /// `EIO` if one cannot be read.
    pub fn scan_of<R: Record>(
        &mut self,
        id: u64,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], R) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let prefix = id.to_be_bytes();
        let key = |rest: &[u8]| [&prefix[..], rest].concat();
        let (from_key, open) = match from {
            Bound::Included(rest) => (key(rest), false),
            Bound::Excluded(rest) => (key(rest), true),
            Bound::Unbounded => (prefix.to_vec(), false),
        };
        let from = if open { Bound::Excluded(&from_key[..]) } else { Bound::Included(&from_key[..]) };
        let end = id.checked_add(1).map(u64::to_be_bytes);
        let to = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        self.scan::<R>(from, to, &mut |key, record| visit(&key[prefix.len()..], record))
    }

    /// Keeps the first reason and gives the answer for it.
    fn failed(&mut self, failure: Failure) -> Errno {
        self.failure.get_or_insert(failure);
        Errno::EIO
    }

    /// Notes that a record is not what it should be.
    pub(crate) fn damaged(&mut self, table: Table, key: &[u8], what: impl Into<String>) -> Errno {
        self.failed(Failure::Damaged { table, key: key.to_vec(), what: what.into() })
    }
}

/// Nodes and names.
impl Transaction<'_> {
    /// The node with this id, if there is one.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn inode(&mut self, inode: InodeId) -> Result<Option<InodeRecord>, Errno> {
        let key = inode.get().to_be_bytes();
        let record = self.read::<InodeRecord>(&key)?;
        if let Some(record) = &record
            && NodeKind::try_from(record.kind).is_err()
        {
            return Err(self.damaged(Table::Inodes, &key, format!("node kind {} is not known", record.kind)));
        }
        Ok(record)
    }

    /// The node with this id.
    ///
    /// # Errors
    /// `ESTALE` if there is none.
    pub fn node(&mut self, inode: InodeId) -> Result<InodeRecord, Errno> {
        self.inode(inode)?.ok_or(Errno::ESTALE)
    }

    /// The directory with this id.
    ///
    /// # Errors
    /// `ESTALE` if there is no such node, `ENOTDIR` if it is something else.
    pub fn directory(&mut self, inode: InodeId) -> Result<InodeRecord, Errno> {
        let node = self.node(inode)?;
        if node.is_directory() { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    /// Changes a node and raises its revision; the record as it is afterwards.
    ///
    /// # Errors
    /// `ESTALE` if there is no such node.
    pub fn update(&mut self, inode: InodeId, change: impl FnOnce(&mut InodeRecord)) -> Result<InodeRecord, Errno> {
        let mut node = self.node(inode)?;
        let bytes = node.length;
        change(&mut node);
        node.revision += 1;
        if node.length != bytes {
            let system = self.system_mut()?;
            system.bytes = system.bytes.wrapping_sub(bytes).wrapping_add(node.length);
        }
        self.write(records::inode_key(inode), &node);
        Ok(node)
    }

    /// Stores a new node and counts it.
    ///
    /// # Errors
    /// `EIO` if the counters cannot be read.
    pub fn add_node(&mut self, inode: InodeId, node: &InodeRecord) -> Result<(), Errno> {
        let system = self.system_mut()?;
        system.inodes += 1;
        system.files += u64::from(node.is_file());
        system.directories += u64::from(node.is_directory());
        system.bytes = system.bytes.wrapping_add(node.length);
        self.write(records::inode_key(inode), node);
        Ok(())
    }

    /// Removes a node's own record and counts it out. Names, chunks and attributes must be gone already.
    ///
    /// # Errors
    /// `ESTALE` if there is no such node.
    pub fn remove_node(&mut self, inode: InodeId) -> Result<(), Errno> {
        let node = self.node(inode)?;
        let system = self.system_mut()?;
        system.inodes = system.inodes.saturating_sub(1);
        system.files = system.files.saturating_sub(u64::from(node.is_file()));
        system.directories = system.directories.saturating_sub(u64::from(node.is_directory()));
        system.bytes = system.bytes.wrapping_sub(node.length);
        self.remove::<InodeRecord>(records::inode_key(inode));
        Ok(())
    }

    /// The entry of a directory with this name.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn entry(&mut self, directory: InodeId, name: &[u8]) -> Result<Option<EntryRecord>, Errno> {
        self.read(&records::entry_key(directory, name))
    }

    /// Sessions that keep a node without a name.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn orphan(&mut self, inode: InodeId) -> Result<Option<OrphanRecord>, Errno> {
        self.read(&records::inode_key(inode))
    }

    /// Keeps a node without a name for these sessions.
    ///
    /// # Errors
    /// `EIO` if the counters cannot be read.
    pub fn put_orphan(&mut self, inode: InodeId, record: &OrphanRecord) -> Result<(), Errno> {
        if self.orphan(inode)?.is_none() {
            self.system_mut()?.orphans += 1;
        }
        self.write(records::inode_key(inode), record);
        Ok(())
    }

    /// The node is no orphan any more: it has a name again, or it is about to be removed.
    ///
    /// # Errors
    /// `EIO` if the counters cannot be read.
    pub fn remove_orphan(&mut self, inode: InodeId) -> Result<(), Errno> {
        if self.orphan(inode)?.is_some() {
            let system = self.system_mut()?;
            system.orphans = system.orphans.saturating_sub(1);
            self.remove::<OrphanRecord>(records::inode_key(inode));
        }
        Ok(())
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn xattr(&mut self, inode: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        Ok(self.read::<XattrRecord>(&records::xattr_key(inode, name))?.map(|record| record.value))
    }
}

/// Chunks.
impl Transaction<'_> {
    /// A chunk, if it is known; deleted ones are.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn chunk(&mut self, chunk: ChunkId) -> Result<Option<ChunkRecord>, Errno> {
        self.read(&records::chunk_key(chunk))
    }

    /// Stores a chunk that is not new.
    pub fn put_chunk(&mut self, chunk: ChunkId, record: &ChunkRecord) {
        self.write(records::chunk_key(chunk), record);
    }

    /// Stores a new chunk under a new id and ties it to its file, with no valid bytes.
    ///
    /// # Errors
    /// `EIO` if the counters cannot be read.
    pub fn add_chunk(&mut self, record: &ChunkRecord) -> Result<ChunkId, Errno> {
        let system = self.system_mut()?;
        let chunk = ChunkId::new(system.chunk_next);
        system.chunk_next += 1;
        system.chunks += 1;
        self.write(records::chunk_key(chunk), record);
        let reference = ChunkRef { chunk: chunk.get(), length: 0 };
        self.write(records::ref_key(record.inode_id(), record.index), &reference);
        Ok(chunk)
    }

    /// Which chunk has this part of a file.
    ///
    /// # Errors
    /// `EIO` if it cannot be read.
    pub fn chunk_ref(&mut self, inode: InodeId, index: u32) -> Result<Option<ChunkRef>, Errno> {
        self.read(&records::ref_key(inode, index))
    }

    /// Stores how much of a chunk is valid.
    pub fn put_ref(&mut self, inode: InodeId, index: u32, reference: &ChunkRef) {
        self.write(records::ref_key(inode, index), reference);
    }

    /// Unties a chunk from its file and marks it as deleted.
    ///
    /// # Errors
    /// `EIO` if there is no such chunk.
    pub fn drop_ref(&mut self, inode: InodeId, index: u32, reference: &ChunkRef) -> Result<(), Errno> {
        let chunk = reference.chunk_id();
        let key = records::chunk_key(chunk);
        let Some(mut record) = self.chunk(chunk)? else {
            return Err(self.damaged(Table::Chunks, &key, "a file refers to it and it is missing"));
        };
        record.deleted = true;
        self.write(key, &record);
        self.remove::<ChunkRef>(records::ref_key(inode, index));
        let system = self.system_mut()?;
        system.chunks = system.chunks.saturating_sub(1);
        system.deleted_chunks += 1;
        self.deleted_chunks.push(chunk);
        Ok(())
    }

    /// Forgets a deleted chunk: every copy is gone.
    ///
    /// # Errors
    /// `EIO` if the counters cannot be read.
    pub fn forget_chunk(&mut self, chunk: ChunkId) -> Result<(), Errno> {
        if self.chunk(chunk)?.is_some_and(|record| record.deleted) {
            self.remove::<ChunkRecord>(records::chunk_key(chunk));
            let system = self.system_mut()?;
            system.deleted_chunks = system.deleted_chunks.saturating_sub(1);
        }
        Ok(())
    }
}

/// Counters and ids.
impl Transaction<'_> {
    /// The counters.
    ///
    /// # Errors
    /// `EIO` if there are none.
    pub fn system(&mut self) -> Result<&SystemRecord, Errno> {
        self.system_mut_unmarked().map(|system| &*system)
    }

    /// The counters, to be changed.
    ///
    /// # Errors
    /// `EIO` if there are none.
    pub fn system_mut(&mut self) -> Result<&mut SystemRecord, Errno> {
        self.system_changed = true;
        self.system_mut_unmarked()
    }

    /// A new id for a node made in this directory, near those of its neighbours.
    ///
    /// # Errors
    /// `ESTALE` if there is no such directory.
    pub fn new_inode_id(&mut self, directory: InodeId) -> Result<InodeId, Errno> {
        let mut node = self.directory(directory)?;
        let floor = self.system()?.inode_floor;
        if node.inode_next >= node.inode_end || node.inode_next < floor {
            let system = self.system_mut()?;
            node.inode_next = system.inode_next;
            system.inode_next += INODES_SET_ASIDE;
            node.inode_end = system.inode_next;
        }
        let inode = InodeId::new(node.inode_next);
        node.inode_next += 1;
        self.write(records::inode_key(directory), &node);
        Ok(inode)
    }

    fn system_mut_unmarked(&mut self) -> Result<&mut SystemRecord, Errno> {
        if self.system.is_none() {
            let key = records::system_key(SystemKind::Counters, 0);
            let Some(system) = self.read::<SystemRecord>(&key)? else {
                return Err(self.damaged(Table::System, &key, "the counters are missing"));
            };
            self.system = Some(system);
        }
        self.system.as_mut().ok_or(Errno::EIO)
    }
}

#[cfg(test)]
#[path = "metadata_test.rs"]
mod tests;
