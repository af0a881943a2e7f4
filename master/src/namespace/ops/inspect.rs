//! Looking at a node: attributes, access, the target of a symbolic link; and at the whole namespace's size.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::Node;
use crate::namespace::metadata::Transaction;
use crate::namespace::permission;
use crate::namespace::records::{NodeKind, SystemRecord};
use crate::operation::{Caller, Context, Need, Operation};

/// Attributes of a node (stat).
#[derive(Debug, Clone)]
pub struct GetAttributes {
    /// The node.
    pub inode: InodeId,
}

impl Operation for GetAttributes {
    type Outcome = Node;
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::Read(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Node, Errno> {
        Ok(Node::new(self.inode, transaction.node(self.inode)?))
    }
}

/// Whether a caller may read, write, execute a node (access).
#[derive(Debug, Clone)]
pub struct Access {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// Read 4, write 2, execute 1; 0: whether it exists.
    pub mask: u32,
}

impl Operation for Access {
    type Outcome = ();
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<(), Errno> {
        let node = transaction.node(self.inode)?;
        let stored_here = matches!(node.kind(), NodeKind::File | NodeKind::Directory | NodeKind::Symlink);
        if context.read_only && stored_here && self.mask & permission::WRITE != 0 {
            return Err(Errno::EROFS);
        }
        permission::check(transaction, &self.caller, self.inode, &node, self.mask)
    }
}

/// Target of a symbolic link.
#[derive(Debug, Clone)]
pub struct ReadSymlink {
    /// The link.
    pub inode: InodeId,
}

impl Operation for ReadSymlink {
    /// The link and its target.
    type Outcome = (InodeId, Vec<u8>);
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Self::Outcome, Errno> {
        let node = transaction.node(self.inode)?;
        if node.kind() == NodeKind::Symlink { Ok((self.inode, node.target)) } else { Err(Errno::EINVAL) }
    }
}

/// How many nodes there are (statfs); space is known elsewhere.
#[derive(Debug, Clone)]
pub struct StatFilesystem;

impl Operation for StatFilesystem {
    type Outcome = SystemRecord;
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<SystemRecord, Errno> {
        Ok(transaction.system()?.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::acl::tests::acl_value;
    use crate::namespace::ops::make::Content;
    use crate::namespace::ops::world::{World, member, user};
    use crate::namespace::ops::xattrs::{SetXattr, XattrChange};

    #[test]
    fn access_goes_by_the_first_class_that_fits() {
        let mut world = World::new();
        let inode = world.file(InodeId::ROOT, "f", 0o426);
        world.change(inode, |node| (node.user, node.group) = (7, 70));
        for (caller, mask, expected) in [
            (user(7), 4, Ok(())),
            (user(7), 2, Err(Errno::EACCES)), // the owner has no more than the owner's bits
            (member(8, 70), 2, Ok(())),
            (member(8, 70), 4, Err(Errno::EACCES)),
            (user(9), 6, Ok(())),
            (user(9), 1, Err(Errno::EACCES)),
            (Caller::root(), 6, Ok(())),
            (Caller::root(), 1, Err(Errno::EACCES)), // nobody may execute it
            (user(7), 0, Ok(())),
        ] {
            assert_eq!(world.run(&Access { caller: caller.clone(), inode, mask }), expected, "{caller:?} {mask}");
        }
        world.read_only = true;
        assert_eq!(world.run(&Access { caller: Caller::root(), inode, mask: 2 }), Err(Errno::EROFS));
    }

    #[test]
    fn access_goes_by_the_list_where_there_is_one() {
        let mut world = World::new();
        let inode = world.file(InodeId::ROOT, "f", 0o640);
        let value = acl_value(&[(1, 6, 0), (2, 6, 50), (4, 4, 0), (0x10, 6, 0), (0x20, 0, 0)]);
        let name = b"system.posix_acl_access".to_vec();
        let change = XattrChange::Set { value, exists: None };
        world.run(&SetXattr { caller: Caller::root(), inode, name, change }).unwrap();
        assert_eq!(world.node(inode).mode, 0o660);
        assert_eq!(world.run(&Access { caller: user(50), inode, mask: 6 }), Ok(()));
        assert_eq!(world.run(&Access { caller: user(51), inode, mask: 4 }), Err(Errno::EACCES));
    }

    #[test]
    fn shows_targets_of_symbolic_links_only() {
        let mut world = World::new();
        let link = world.make(InodeId::ROOT, "l", Content::Symlink(b"over/there".to_vec()), 0o777);
        assert_eq!(world.run(&ReadSymlink { inode: link }), Ok((link, b"over/there".to_vec())));
        assert_eq!(world.run(&ReadSymlink { inode: InodeId::ROOT }), Err(Errno::EINVAL));
        assert_eq!(world.run(&StatFilesystem).unwrap().inodes, 2);
        assert_eq!(world.run(&GetAttributes { inode: InodeId::new(99) }), Err(Errno::ESTALE));
    }
}
