//! The operations, one file each: what it needs, what it checks, and which records it changes.
//!
//! | file | operations |
//! |---|---|
//! | `lookup` | find a name |
//! | `read_directory` | list names |
//! | `make` | mkdir, mknod, symlink, create, unnamed files |
//! | `link`, `unlink`, `rename` | names of nodes that exist |
//! | `inspect` | attributes, access, symbolic link, space |
//! | `set_attributes` | chmod, chown, truncate, utimes, goal |
//! | `touch` | times of access |
//! | `xattrs` | extended attributes and access control lists |
//! | `locate` | which chunks a file has |
//! | `write` | grants of chunks, commit, holes, failed copies |
//! | `chunks` | settling and forgetting of chunks, asked by the master itself |
//! | `release` | nodes without a name |
//!
//! Order of checks: as in the kernel, since programs (and test suites) see which error comes first. In short: the
//! directories that are named must exist and be searchable, then the names must be there or not, then the directory must be
//! writable, then everything else.

pub mod lookup;

pub mod read_directory;

pub mod make;

pub mod link;

pub mod unlink;

pub mod rename;

pub mod inspect;

pub mod set_attributes;

pub mod touch;

pub mod xattrs;

pub mod locate;

pub mod write;

pub mod chunks;

pub mod release;

use rfs_common::ids::InodeId;

use super::records::InodeRecord;

#[cfg(test)]
pub(crate) mod world;

/// A node as an operation found or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub inode: InodeId,
    /// Its record.
    pub record: InodeRecord,
}

impl Node {
    fn new(inode: InodeId, record: InodeRecord) -> Node {
        Node { inode, record }
    }
}
