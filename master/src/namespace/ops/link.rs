//! Giving a node another name, or a first one to a file that was made without.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::{LINKS_MAX, Name};

use super::Node;
use crate::namespace::entries::{self, Named};
use crate::namespace::metadata::Transaction;
use crate::namespace::permission;
use crate::namespace::records::InodeRecord;
use crate::operation::{Caller, Context, Need, Operation};

/// Makes a hard link.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// The directory of the new name.
    pub parent: InodeId,
    /// The new name.
    pub name: Name,
}

/// A node with its new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The node as it is afterwards.
    pub node: Node,
    /// The directory as it is afterwards.
    pub parent: Node,
}

impl Operation for Link {
    type Outcome = Linked;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::ChangeEntries(self.parent, vec![self.name.clone()]), Need::ChangeAttributes(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Linked, Errno> {
        let node = transaction.node(self.inode)?;
        let parent = permission::searched(transaction, &self.caller, self.parent)?;
        if entries::find(transaction, self.parent, &self.name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        if parent.links == 0 {
            return Err(Errno::ENOENT);
        }
        permission::check_entry_change(transaction, &self.caller, self.parent, &parent)?;
        self.check_node(transaction, &node)?;
        transaction.remove_orphan(self.inode)?;
        let record = transaction.update(self.inode, |node| {
            node.links += 1;
            node.changed = context.now.into();
        })?;
        let named = Named { inode: self.inode, kind: record.kind() };
        let parent = entries::add(transaction, self.parent, &self.name, named, context.now)?;
        Ok(Linked { node: Node::new(self.inode, record), parent: Node::new(self.parent, parent) })
    }
}

impl Link {
    fn check_node(&self, transaction: &mut Transaction<'_>, node: &InodeRecord) -> Result<(), Errno> {
        if node.is_directory() {
            return Err(Errno::EPERM);
        }
        if node.links == 0 && !transaction.orphan(self.inode)?.is_some_and(|orphan| orphan.nameable) {
            return Err(Errno::ENOENT);
        }
        if node.links >= LINKS_MAX { Err(Errno::EMLINK) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use rfs_common::ids::SessionId;

    use super::*;
    use crate::namespace::ops::make::{Content, Make, Place};
    use crate::namespace::ops::world::{World, user};

    fn link(inode: InodeId, name: &str) -> Link {
        Link { caller: Caller::root(), inode, parent: InodeId::ROOT, name: name.parse().unwrap() }
    }

    #[test]
    fn counts_names_and_keeps_the_node_until_the_last_is_gone() {
        let mut world = World::new();
        let file = world.file(InodeId::ROOT, "a", 0o644);
        let linked = world.run(&link(file, "b")).unwrap();
        assert_eq!(linked.node.record.links, 2);
        assert_eq!(linked.parent.record.entries, 2);
        world.unlink(InodeId::ROOT, "a").unwrap();
        assert_eq!(world.node(file).links, 1);
        world.unlink(InodeId::ROOT, "b").unwrap();
        assert!(world.stored(file).is_none());
        world.check();
    }

    #[test]
    fn refuses_directories_taken_names_and_too_many() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        let file = world.file(InodeId::ROOT, "f", 0o644);
        assert_eq!(world.run(&link(directory, "e")), Err(Errno::EPERM));
        assert_eq!(world.run(&link(file, "d")), Err(Errno::EEXIST));
        assert_eq!(world.run(&Link { caller: user(5), ..link(file, "g") }), Err(Errno::EACCES));
        assert_eq!(world.run(&link(InodeId::new(777), "g")), Err(Errno::ESTALE));
        world.change(file, |node| node.links = LINKS_MAX);
        assert_eq!(world.run(&link(file, "g")), Err(Errno::EMLINK));
    }

    #[test]
    fn names_a_file_made_without_but_not_one_that_lost_its_name() {
        let mut world = World::new();
        let make = Make {
            caller: Caller::root(),
            parent: InodeId::ROOT,
            place: Place::Unnamed,
            content: Content::File,
            mode: 0o600,
            umask: 0,
        };
        let unnamed = world.run(&make).unwrap().node.inode;
        world.check();
        assert_eq!(world.run(&link(unnamed, "named")).unwrap().node.record.links, 1);
        world.known_by.insert(unnamed, vec![SessionId::new(4)]);
        world.unlink(InodeId::ROOT, "named").unwrap();
        assert_eq!(world.run(&link(unnamed, "again")), Err(Errno::ENOENT));
        world.check();
    }
}
