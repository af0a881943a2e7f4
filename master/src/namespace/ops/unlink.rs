//! Removing a name: unlink and rmdir.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;

use super::Node;
use crate::namespace::entries::{self, Unnamed};
use crate::namespace::metadata::Transaction;
use crate::namespace::permission;
use crate::namespace::records::InodeRecord;
use crate::operation::{Caller, Context, Need, Operation};

/// What kind of node the caller means to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removes {
    /// Anything but a directory (unlink).
    NonDirectory,
    /// An empty directory (rmdir).
    Directory,
}

/// Removes a name.
#[derive(Debug, Clone)]
pub struct Unlink {
    /// Who asks.
    pub caller: Caller,
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Name,
    /// What it is meant to be.
    pub removes: Removes,
}

/// What a removed name leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    /// The node.
    pub removed: Unnamed,
    /// The directory as it is afterwards.
    pub parent: Node,
}

impl Operation for Unlink {
    type Outcome = Unlinked;
    const CHANGES: bool = true;

    fn needs(&self, view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        let mut needs = vec![Need::ChangeEntries(self.parent, vec![self.name.clone()])];
        needs.extend(entries::find(view, self.parent, &self.name)?.map(Need::ChangeAttributes));
        Ok(needs)
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Unlinked, Errno> {
        let parent = permission::searched(transaction, &self.caller, self.parent)?;
        let inode = entries::find(transaction, self.parent, &self.name)?.ok_or(Errno::ENOENT)?;
        let node = transaction.node(inode)?;
        permission::check_entry_change(transaction, &self.caller, self.parent, &parent)?;
        permission::check_sticky(&self.caller, &parent, &node)?;
        self.check_kind(&node)?;
        if inode == context.root || inode == InodeId::ROOT {
            return Err(Errno::EBUSY);
        }
        let parent = entries::remove(transaction, self.parent, &self.name, node.kind(), context.now)?;
        let removed = entries::drop_link(transaction, inode, context)?;
        Ok(Unlinked { removed, parent: Node::new(self.parent, parent) })
    }
}

impl Unlink {
    fn check_kind(&self, node: &InodeRecord) -> Result<(), Errno> {
        match (self.removes, node.is_directory()) {
            (Removes::NonDirectory, true) => Err(Errno::EISDIR),
            (Removes::Directory, false) => Err(Errno::ENOTDIR),
            (Removes::Directory, true) if node.entries > 0 => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rfs_common::ids::SessionId;

    use super::*;
    use crate::namespace::ops::release::ReleaseOrphans;
    use crate::namespace::ops::world::{World, user};

    fn unlink(caller: Caller, parent: InodeId, name: &str, removes: Removes) -> Unlink {
        Unlink { caller, parent, name: name.parse().unwrap(), removes }
    }

    #[test]
    fn removes_what_was_meant() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        world.file(directory, "f", 0o644);
        let run = |world: &mut World, parent, name: &str, removes| {
            world.run(&unlink(Caller::root(), parent, name, removes)).map(|unlinked| unlinked.removed.record.links)
        };
        assert_eq!(run(&mut world, InodeId::ROOT, "d", Removes::NonDirectory), Err(Errno::EISDIR));
        assert_eq!(run(&mut world, InodeId::ROOT, "d", Removes::Directory), Err(Errno::ENOTEMPTY));
        assert_eq!(run(&mut world, directory, "f", Removes::Directory), Err(Errno::ENOTDIR));
        assert_eq!(run(&mut world, directory, "g", Removes::NonDirectory), Err(Errno::ENOENT));
        assert_eq!(run(&mut world, directory, "f", Removes::NonDirectory), Ok(0));
        assert_eq!(run(&mut world, InodeId::ROOT, "d", Removes::Directory), Ok(0));
        assert_eq!(world.node(InodeId::ROOT).links, 2);
        world.check();
    }

    #[test]
    fn a_sticky_directory_protects_what_others_own() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "tmp", 0o1777);
        let file = world.file(directory, "f", 0o666);
        world.change(file, |node| node.user = 7);
        let run = |world: &mut World, caller| {
            world.run(&unlink(caller, directory, "f", Removes::NonDirectory)).map(|_| ())
        };
        assert_eq!(run(&mut world, user(8)), Err(Errno::EPERM));
        assert_eq!(run(&mut world, user(7)), Ok(()));
        let other = world.file(directory, "f", 0o666);
        world.change(other, |node| node.user = 7);
        world.change(directory, |node| node.user = 9);
        assert_eq!(run(&mut world, user(9)), Ok(()));
    }

    #[test]
    fn nodes_that_sessions_know_are_kept_until_each_has_released_them() {
        let mut world = World::new();
        let file = world.written_file(InodeId::ROOT, "f", 100);
        let (first, second) = (SessionId::new(1), SessionId::new(2));
        world.known_by.insert(file, vec![second, first]);
        let unlinked = world.unlink(InodeId::ROOT, "f").unwrap();
        assert_eq!(unlinked.removed.kept_for, [first, second]);
        world.check();
        world.session = first;
        world.run(&ReleaseOrphans { inodes: vec![file] }).unwrap();
        assert!(world.stored(file).is_some());
        world.session = second;
        let released = world.run(&ReleaseOrphans { inodes: vec![file] }).unwrap();
        assert_eq!(released, [file]);
        assert!(world.stored(file).is_none());
        assert_eq!(world.system().deleted_chunks, 1);
        world.check();
    }
}
