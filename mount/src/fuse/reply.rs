//! The client's answers in the kernel's words, and the kernel's words in the client's.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use crate::client::{Attributes, Kind, Lock, LockFamily, LockType, SetTime};

/// `st_blksize`: what programs that ask use for their buffers. Larger requests cost less per byte.
const PREFERRED_IO_BYTES: u32 = 64 << 10;

/// Bytes of the blocks that `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;

/// The error in fuser's words.
pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

/// What a node is, in fuser's words.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

/// What mknod(2) is to make; nothing for what it cannot make.
pub(super) fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFCHR => Some(Kind::CharacterDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        _ => None,
    }
}

/// Attributes for the kernel, with this node number.
pub(super) fn attributes(attributes: &Attributes, node: INodeNo) -> FileAttr {
    FileAttr {
        ino: node,
        size: attributes.length,
        blocks: attributes.allocated.div_ceil(STAT_BLOCK_BYTES),
        atime: SystemTime::from(attributes.accessed),
        mtime: SystemTime::from(attributes.modified),
        ctime: SystemTime::from(attributes.changed),
        crtime: SystemTime::from(attributes.created),
        kind: file_type(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.links,
        uid: attributes.user,
        gid: attributes.group,
        rdev: attributes.device,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// Attributes for an entry that comes without a node: nothing but its kind, and node 0.
pub(super) fn no_attributes(kind: Kind) -> FileAttr {
    let unknown = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: unknown,
        mtime: unknown,
        ctime: unknown,
        crtime: unknown,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A time that `setattr` sets.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time.into()),
    }
}

/// How an extended attribute is answered: the caller's buffer has `size` bytes, and none asks for the size needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum XattrAnswer {
    /// The size needed.
    Size(u32),
    /// The value itself.
    Value,
}

impl XattrAnswer {
    pub(super) fn for_buffer(size: u32, value_bytes: usize) -> Result<XattrAnswer, Errno> {
        let needed = u32::try_from(value_bytes).map_err(|_| Errno::E2BIG)?;
        match size {
            0 => Ok(XattrAnswer::Size(needed)),
            size if size < needed => Err(Errno::ERANGE),
            _ => Ok(XattrAnswer::Value),
        }
    }
}

/// Names as listxattr(2) gives them, each with a NUL after it.
pub(super) fn xattr_list(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

/// A lock request; nothing for a type that does not exist.
pub(super) fn lock(
    family: fuser::LockKind,
    owner: u64,
    range: (u64, u64),
    lock_type: i32,
    process: u32,
) -> Option<Lock> {
    let family = match family {
        fuser::LockKind::Posix => LockFamily::Posix,
        fuser::LockKind::Flock => LockFamily::Flock,
    };
    let lock_type = match lock_type {
        libc::F_RDLCK => LockType::Shared,
        libc::F_WRLCK => LockType::Exclusive,
        libc::F_UNLCK => LockType::Unlock,
        _ => return None,
    };
    Some(Lock { family, lock_type, owner, start: range.0, end: range.1, process })
}

/// The type of a lock in fcntl's words.
pub(super) fn lock_type(lock_type: LockType) -> i32 {
    match lock_type {
        LockType::Shared => libc::F_RDLCK,
        LockType::Exclusive => libc::F_WRLCK,
        LockType::Unlock => libc::F_UNLCK,
    }
}

/// The node numbers of a mount whose root may be any folder of the filesystem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nodes {
    pub(super) root: InodeId,
}

impl Nodes {
    /// The master's number of a node.
    pub(super) fn inode(self, node: INodeNo) -> InodeId {
        if node == INodeNo::ROOT { self.root } else { InodeId::new(node.0) }
    }

    /// The kernel's number of an inode.
    pub(super) fn node(self, inode: InodeId) -> INodeNo {
        if inode == self.root { INodeNo::ROOT } else { INodeNo(inode.get()) }
    }
}

/// How long an entry of a directory and its attributes may both be kept.
pub(super) fn shorter(one: Duration, other: Duration) -> Duration {
    one.min(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_decides_how_an_extended_attribute_is_answered() {
        assert_eq!(XattrAnswer::for_buffer(0, 5), Ok(XattrAnswer::Size(5)));
        assert_eq!(XattrAnswer::for_buffer(4, 5), Err(Errno::ERANGE));
        assert_eq!(XattrAnswer::for_buffer(5, 5), Ok(XattrAnswer::Value));
        assert_eq!(XattrAnswer::for_buffer(1, 0), Ok(XattrAnswer::Value));
        assert_eq!(XattrAnswer::for_buffer(0, 0), Ok(XattrAnswer::Size(0)));
    }

    #[test]
    fn names_are_listed_with_their_ends() {
        assert_eq!(xattr_list(&[b"user.a".to_vec(), b"user.b".to_vec()]), b"user.a\0user.b\0");
        assert!(xattr_list(&[]).is_empty());
    }

    #[test]
    fn the_root_is_node_one_wherever_it_is() {
        let nodes = Nodes { root: InodeId::new(77) };
        assert_eq!(nodes.inode(INodeNo::ROOT), InodeId::new(77));
        assert_eq!(nodes.node(InodeId::new(77)), INodeNo::ROOT);
        assert_eq!(nodes.node(nodes.inode(INodeNo(5))), INodeNo(5));
    }

    #[test]
    fn mknod_makes_files_and_special_files_only() {
        assert_eq!(kind_of_mode(libc::S_IFREG | 0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(libc::S_IFSOCK), Some(Kind::Socket));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
        assert_eq!(kind_of_mode(libc::S_IFLNK), None);
    }

    #[test]
    fn locks_keep_their_meaning() {
        let asked = lock(fuser::LockKind::Flock, 9, (0, i64::MAX as u64), libc::F_WRLCK, 4).unwrap();
        assert_eq!((asked.family, asked.lock_type), (LockFamily::Flock, LockType::Exclusive));
        for kind in [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK] {
            assert_eq!(lock_type(lock(fuser::LockKind::Posix, 1, (0, 1), kind, 1).unwrap().lock_type), kind);
        }
        assert_eq!(lock(fuser::LockKind::Posix, 1, (0, 1), 77, 1), None);
    }
}
