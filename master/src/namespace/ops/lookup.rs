//! Finding a name in a directory.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;

use super::Node;
use crate::namespace::metadata::Transaction;
use crate::namespace::{entries, permission};
use crate::operation::{Caller, Context, Need, Operation};

/// What is looked for in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// ".": the directory itself.
    Itself,
    /// "..": the directory above; of the session's root, the root itself.
    Parent,
    /// An entry.
    Entry(Name),
}

/// Finds a name; the outcome is nothing (and not an error) if the directory has none, so that this can be remembered.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Who asks.
    pub caller: Caller,
    /// The directory.
    pub parent: InodeId,
    /// What is looked for.
    pub wanted: Wanted,
}

impl Operation for Lookup {
    /// The directory, and what it has under the name.
    type Outcome = (InodeId, Option<Node>);
    const CHANGES: bool = false;

    fn needs(&self, view: &mut Transaction<'_>, context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(self.find(view, context)?.map(Need::Read).into_iter().collect())
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Self::Outcome, Errno> {
        permission::searched(transaction, &self.caller, self.parent)?;
        let Some(inode) = self.find(transaction, context)? else { return Ok((self.parent, None)) };
        Ok((self.parent, Some(Node::new(inode, transaction.node(inode)?))))
    }
}

impl Lookup {
    fn find(&self, view: &mut Transaction<'_>, context: &Context<'_>) -> Result<Option<InodeId>, Errno> {
        match &self.wanted {
            Wanted::Itself => Ok(Some(self.parent)),
            Wanted::Parent if self.parent == context.root => Ok(Some(self.parent)),
            Wanted::Parent => Ok(view.inode(self.parent)?.map(|node| node.parent).filter(|id| *id != 0).map(InodeId::new)),
            Wanted::Entry(name) => entries::find(view, self.parent, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::ops::world::{World, user};

    #[test]
    fn finds_entries_itself_and_the_parent() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        let file = world.file(directory, "f", 0o644);
        let find = |world: &mut World, parent, wanted| {
            world.run(&Lookup { caller: user(5), parent, wanted }).map(|(_, node)| node.map(|node| node.inode))
        };
        let entry = |name: &str| Wanted::Entry(name.parse().unwrap());
        assert_eq!(find(&mut world, directory, entry("f")), Ok(Some(file)));
        assert_eq!(find(&mut world, directory, entry("g")), Ok(None));
        assert_eq!(find(&mut world, directory, Wanted::Itself), Ok(Some(directory)));
        assert_eq!(find(&mut world, directory, Wanted::Parent), Ok(Some(InodeId::ROOT)));
        assert_eq!(find(&mut world, InodeId::ROOT, Wanted::Parent), Ok(Some(InodeId::ROOT)));
        assert_eq!(find(&mut world, file, entry("f")), Err(Errno::ENOTDIR));
        assert_eq!(find(&mut world, InodeId::new(999), entry("f")), Err(Errno::ESTALE));
    }

    #[test]
    fn needs_search_permission() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o600);
        world.file(directory, "f", 0o644);
        let lookup = |caller| Lookup { caller, parent: directory, wanted: Wanted::Entry("f".parse().unwrap()) };
        assert_eq!(world.run(&lookup(user(5))), Err(Errno::EACCES));
        assert!(world.run(&lookup(Caller::root())).unwrap().1.is_some());
    }

    #[test]
    fn the_parent_of_a_sessions_root_is_itself() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        world.root = directory;
        let lookup = Lookup { caller: Caller::root(), parent: directory, wanted: Wanted::Parent };
        assert_eq!(world.run(&lookup).unwrap().1.unwrap().inode, directory);
    }
}
