//! What the filesystem adapter and [`super::Client`] say to each other: callers, answers, requests with many fields.
//!
//! Plain types without FUSE and without protobuf. An inode is always the master's number: the adapter shows
//! [`super::Client::root`] as the kernel's node 1.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

pub use crate::cache::attributes::{Attributes, Kind};

/// How long the kernel may keep what is held under a lease; it is invalidated when the lease goes.
pub const KERNEL_VALID: Duration = Duration::from_secs(3600);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The filesystem user.
    pub user: u32,
    /// The filesystem group.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// The process.
    pub process: u32,
}

/// A node, as an answer to something that names it by an entry (lookup, make, link): the kernel's lookup count of the
/// node has risen by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAnswer {
    /// The node's attributes.
    pub attributes: Attributes,
    /// How long the kernel may keep the attributes: [`KERNEL_VALID`] or nothing.
    pub attribute_valid: Duration,
    /// How long the kernel may keep the entry: [`KERNEL_VALID`] or nothing.
    pub entry_valid: Duration,
}

/// Attributes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributesAnswer {
    /// The attributes.
    pub attributes: Attributes,
    /// How long the kernel may keep them: [`KERNEL_VALID`] or nothing.
    pub attribute_valid: Duration,
}

/// An open file or directory. Never used twice in the life of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// Which accesses of a mount are noted, as the options of mount(8) say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accesses {
    /// Of any node.
    pub rule: AccessRule,
    /// Also of directories.
    pub directories: bool,
}

impl Accesses {
    /// None.
    pub const NONE: Accesses = Accesses { rule: AccessRule::Never, directories: false };
}

/// Which accesses are noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessRule {
    /// The first after a change, and one each day: relatime.
    #[default]
    WhenDue,
    /// All: strictatime.
    Always,
    /// None: noatime.
    Never,
}

/// Which reads of an open file have to come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Those that the kernel cannot answer from its page cache.
    MayBeCached,
    /// At least the first.
    FirstIsSeen,
    /// All of them.
    AllAreSeen,
}

/// The answer to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The open file or directory.
    pub handle: Handle,
    /// The kernel's cached pages (or entries) of the node are still right: FOPEN_KEEP_CACHE.
    pub keep_cache: bool,
    /// Another client has changed the file a moment ago, or is about to: the kernel's cache would be in the way.
    pub contended: bool,
    /// Which reads have to come here, so that accesses are noted.
    pub reads: Reads,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// To the master's clock.
    Now,
    /// To this.
    At(Time),
}

/// What `setattr` is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChanges {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub user: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// Length: truncates or extends.
    pub length: Option<u64>,
    /// Last access.
    pub accessed: Option<SetTime>,
    /// Last change of the data.
    pub modified: Option<SetTime>,
    /// Clear the set-id bits as a truncation by someone who is not the owner does (FATTR_KILL_SUIDGID).
    pub kill_set_id: bool,
    /// The open file through which it is done (ftruncate): permission was checked then.
    pub handle: Option<Handle>,
}

/// A node to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Permission, set-id and sticky bits, before the umask.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The node.
    pub inode: InodeId,
    /// What the node is.
    pub kind: Kind,
    /// The offset to go on after this entry.
    pub next_offset: u64,
    /// With attributes: the node as a lookup would answer it. Not for "." and "..", and not where the master withheld
    /// them: such an entry is given to the kernel without a node (readdirplus: nodeid 0).
    pub node: Option<NodeAnswer>,
}

/// Whether an entry found room in the answer's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It did; a node that came with it is known to the kernel now.
    Yes,
    /// It did not: stop.
    No,
}

/// Space of the filesystem, in bytes and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemSpace {
    /// Bytes there are, already divided by the default goal.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
    /// Bytes that users can have.
    pub available: u64,
    /// Nodes there are.
    pub inodes: u64,
    /// Nodes that can still be made.
    pub inodes_free: u64,
}

/// Whence `lseek` looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// Which family of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockFamily {
    /// fcntl: of ranges, by owner.
    Posix,
    /// flock: of whole files.
    Flock,
}

/// What kind of lock, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockType {
    /// Releases.
    Unlock,
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock that is wanted, or the one in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Which family.
    pub family: LockFamily,
    /// What kind.
    pub lock_type: LockType,
    /// The kernel's lock owner.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` is the end of the file.
    pub end: u64,
    /// The process that asks.
    pub process: u32,
}

/// Names a wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockTicket(pub u64);

/// Told once when a wait for a lock ends: it is held, or the wait was cancelled (EINTR) or failed.
pub type LockWaiter = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// The kernel's caches of this mount. Each method returns when the kernel has done it (a node or entry that the kernel
/// does not know counts as done), and may block for as long as the kernel has a request of its own on its way. The
/// client calls them from threads of its own that hold no lock, so an implementation just writes the notification.
pub trait KernelCaches: Send + Sync {
    /// Forget the attributes of a node (FUSE_NOTIFY_INVAL_INODE with a negative offset).
    fn invalidate_attributes(&self, inode: InodeId) -> Forgotten;
    /// Forget attributes and all pages of a node.
    fn invalidate_data(&self, inode: InodeId) -> Forgotten;
    /// Forget attributes and these pages of a node, whole ones; an end of `u64::MAX` is any end.
    fn invalidate_pages(&self, inode: InodeId, pages: Range<u64>) -> Forgotten;
    /// Forget an entry.
    fn invalidate_entry(&self, parent: InodeId, name: &[u8]);
    /// Forget the name of a directory that is not there any more, and that the directory was ever found there: it can be
    /// found elsewhere then, also by a rename.
    fn drop_directory(&self, parent: InodeId, name: &[u8]);
}

/// Whether the kernel has forgotten something of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It has, and it drops what answers say that were on their way then.
    Yes,
    /// It has no such node. If an answer that brings it is on its way, the kernel will take that answer's word.
    NotKnown,
}

/// A kernel without caches: for tools and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKernel;

impl KernelCaches for NoKernel {
    fn invalidate_attributes(&self, _inode: InodeId) -> Forgotten {
        Forgotten::Yes
    }
    fn invalidate_data(&self, _inode: InodeId) -> Forgotten {
        Forgotten::Yes
    }
    fn invalidate_pages(&self, _inode: InodeId, _pages: Range<u64>) -> Forgotten {
        Forgotten::Yes
    }
    fn invalidate_entry(&self, _parent: InodeId, _name: &[u8]) {}
    fn drop_directory(&self, _parent: InodeId, _name: &[u8]) {}
}

/// Where the bytes of a read go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTarget {
    /// To the program that called.
    Caller,
    /// Into pages that the kernel has locked until it is answered.
    PageCache,
}

/// Where the bytes of a write come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOrigin {
    /// A program's call.
    Call {
        /// Clear set-id bits, as the kernel asks for when the writer may not keep them.
        kill_set_id: bool,
        /// The descriptor has O_APPEND now; fcntl(2) changes that. The offset does not count.
        appends: bool,
    },
    /// Pages that a mapping made dirty. The kernel sends them through any handle that may write, also one that appends:
    /// their offset counts.
    PageCache,
}

/// What has to be on the disks before a synchronous write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncAfter {
    /// O_SYNC: the file.
    File,
    /// O_DSYNC: its data, and what is needed to find it.
    Data,
}

impl SyncAfter {
    /// What the flags of an open file ask for.
    pub fn of_flags(flags: i32) -> Option<SyncAfter> {
        match flags & libc::O_SYNC {
            libc::O_SYNC => Some(SyncAfter::File),
            libc::O_DSYNC => Some(SyncAfter::Data),
            _ => None,
        }
    }
}
