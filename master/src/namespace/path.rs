//! Walking a path from a directory, for mounts of a subdirectory and for the administrator's tools.
//!
//! Programs' paths are walked by their own kernels; here nobody's permission is checked and symbolic links are not followed.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;

use super::metadata::Transaction;
use super::records::NodeKind;

/// The node at this path below `start`. Empty parts and "." mean the directory itself, ".." its parent.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`; `ELOOP` if a part before the last is a symbolic link.
pub fn resolve_path(transaction: &mut Transaction<'_>, start: InodeId, path: &[u8]) -> Result<InodeId, Errno> {
    let mut inode = start;
    for part in path.split(|byte| *byte == b'/') {
        let node = transaction.node(inode)?;
        match (node.kind(), part) {
            (_, b"") => {}
            (NodeKind::Symlink, _) => return Err(Errno::ELOOP),
            (NodeKind::Directory, b".") => {}
            (NodeKind::Directory, b"..") if inode == start => {}
            (NodeKind::Directory, b"..") => inode = InodeId::new(node.parent),
            (NodeKind::Directory, name) => {
                let name = Name::new(name)?;
                let entry = transaction.entry(inode, name.as_bytes())?;
                inode = entry.ok_or(Errno::ENOENT)?.inode_id();
            }
            _ => return Err(Errno::ENOTDIR),
        }
    }
    Ok(inode)
}
