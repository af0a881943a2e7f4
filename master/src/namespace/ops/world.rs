//! A namespace in memory for tests: runs operations one after the other and stores what they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{Goal, InodeId, SessionId};

use super::make::{Content, Make, Place};
use super::unlink::{Removes, Unlink, Unlinked};
use super::write::{Commit, GrantWrite, WrittenChunk};
use crate::namespace::metadata::{Metadata, Transaction};
use crate::namespace::records::{InodeRecord, SystemRecord};
use crate::namespace::source::{Change, MemorySource};
use crate::namespace::{bootstrap, check, records};
use crate::operation::{Caller, Context, Operation, perform};

pub(crate) struct World {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) log: Vec<Change>,
    pub(crate) now: Time,
    pub(crate) session: SessionId,
    pub(crate) root: InodeId,
    pub(crate) read_only: bool,
    pub(crate) known_by: BTreeMap<InodeId, Vec<SessionId>>,
    pub(crate) written_elsewhere: BTreeSet<InodeId>,
}

/// A caller in the group of its own number.
pub(crate) fn user(user: u32) -> Caller {
    Caller { user, group: user, groups: Vec::new() }
}

/// A caller in one more group.
pub(crate) fn member(user: u32, group: u32) -> Caller {
    Caller { user, group: user, groups: vec![group] }
}

impl World {
    pub(crate) fn new() -> World {
        let log = bootstrap::new_cluster(Goal::TWO, Time::from_seconds(1_000));
        let source = Arc::new(MemorySource::default());
        source.apply(&log);
        World {
            source,
            log,
            now: Time::from_seconds(2_000),
            session: SessionId::new(1),
            root: InodeId::ROOT,
            read_only: false,
            known_by: BTreeMap::new(),
            written_elsewhere: BTreeSet::new(),
        }
    }

    /// Runs an operation one second later than the last, and stores what it changed if it succeeded.
    pub(crate) fn run<O: Operation>(&mut self, operation: &O) -> Result<O::Outcome, Errno> {
        self.now = Time::from_seconds(self.now.seconds() + 1);
        let known_by = |inode| self.known_by.get(&inode).cloned().unwrap_or_default();
        let written_elsewhere = |inode| self.written_elsewhere.contains(&inode);
        let context = Context {
            session: self.session,
            read_only: self.read_only,
            root: self.root,
            now: self.now,
            known_by: &known_by,
            written_elsewhere: &written_elsewhere,
        };
        let metadata = Metadata::new(self.source.clone());
        let mut transaction = metadata.begin();
        operation.needs(&mut transaction, &context)?;
        assert!(transaction.is_unchanged(), "needs() changes nothing");
        let outcome = perform(operation, &mut transaction, &context)?;
        self.store(transaction.into_changes());
        Ok(outcome)
    }

    /// Runs what is not an operation.
    pub(crate) fn with<T>(
        &mut self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let metadata = Metadata::new(self.source.clone());
        let mut transaction = metadata.begin();
        let outcome = change(&mut transaction)?;
        self.store(transaction.into_changes());
        Ok(outcome)
    }

    fn store(&mut self, changes: Vec<Change>) {
        self.source.apply(&changes);
        self.log.extend(changes);
    }

    pub(crate) fn make(&mut self, parent: InodeId, name: &str, content: Content, mode: u32) -> InodeId {
        let place = Place::Name(name.parse().unwrap());
        let make = Make { caller: Caller::root(), parent, place, content, mode, umask: 0 };
        self.run(&make).unwrap().node.inode
    }

    pub(crate) fn mkdir(&mut self, parent: InodeId, name: &str, mode: u32) -> InodeId {
        self.make(parent, name, Content::Directory, mode)
    }

    pub(crate) fn file(&mut self, parent: InodeId, name: &str, mode: u32) -> InodeId {
        self.make(parent, name, Content::File, mode)
    }

    /// A file with one chunk of this many bytes.
    pub(crate) fn written_file(&mut self, parent: InodeId, name: &str, bytes: u32) -> InodeId {
        let inode = self.file(parent, name, 0o644);
        self.write(inode, 0, bytes);
        inode
    }

    /// Grants and commits one chunk; the file is made long enough.
    pub(crate) fn write(&mut self, inode: InodeId, index: u32, bytes: u32) -> WrittenChunk {
        let grant = self.run(&GrantWrite { inode, index }).unwrap();
        let written = WrittenChunk { index, chunk: grant.chunk, version: grant.version, length: bytes };
        let end = u64::from(index) * rfs_common::leaf::CHUNK_BYTES + u64::from(bytes);
        let length = Some(self.node(inode).length.max(end));
        let modified = Some(self.now);
        self.run(&Commit { inode, length, modified, chunks: vec![written], kill_set_id: false, durable: false })
            .unwrap();
        written
    }

    pub(crate) fn unlink(&mut self, parent: InodeId, name: &str) -> Result<Unlinked, Errno> {
        let name = name.parse().unwrap();
        self.run(&Unlink { caller: Caller::root(), parent, name, removes: Removes::NonDirectory })
    }

    pub(crate) fn rmdir(&mut self, parent: InodeId, name: &str) -> Result<Unlinked, Errno> {
        let name = name.parse().unwrap();
        self.run(&Unlink { caller: Caller::root(), parent, name, removes: Removes::Directory })
    }

    pub(crate) fn stored(&self, inode: InodeId) -> Option<InodeRecord> {
        Metadata::new(self.source.clone()).begin().inode(inode).unwrap()
    }

    pub(crate) fn node(&self, inode: InodeId) -> InodeRecord {
        self.stored(inode).expect("the node exists")
    }

    pub(crate) fn system(&self) -> SystemRecord {
        Metadata::new(self.source.clone()).begin().system().unwrap().clone()
    }

    /// Changes a record directly, past all rules.
    pub(crate) fn change(&mut self, inode: InodeId, change: impl FnOnce(&mut InodeRecord)) {
        let mut node = self.node(inode);
        change(&mut node);
        self.store(vec![records::put(records::inode_key(inode), &node)]);
    }

    /// Asserts that what is stored is whole.
    pub(crate) fn check(&self) {
        let report = check::check(&*self.source).unwrap();
        assert_eq!(report.findings, Vec::<String>::new());
    }
}
