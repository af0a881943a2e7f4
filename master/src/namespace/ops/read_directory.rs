//! Listing a directory.
//!
//! A listing goes by the order of names and is resumed after a name, so that entries made or removed meanwhile neither hide
//! others nor show them twice.

use std::ops::{Bound, ControlFlow};

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;

use crate::namespace::metadata::Transaction;
use crate::namespace::permission;
use crate::namespace::records::{EntryRecord, InodeRecord, NodeKind};
use crate::operation::{Caller, Context, Need, Operation};

/// Lists entries of a directory, without "." and "..".
#[derive(Debug, Clone)]
pub struct ReadDirectory {
    /// Who asks.
    pub caller: Caller,
    /// The directory.
    pub inode: InodeId,
    /// The name to go on after.
    pub after: Option<Name>,
    /// How many entries at most.
    pub entries_max: usize,
    /// Whether the nodes are wanted too.
    pub with_attributes: bool,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The node.
    pub inode: InodeId,
    /// What that is.
    pub kind: NodeKind,
    /// Its position: unique in the directory and never used again.
    pub cookie: u64,
    /// The node's record, if it was asked for and no other session is changing it.
    pub node: Option<InodeRecord>,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The directory.
    pub inode: InodeId,
    /// The entries, in the order of their names.
    pub entries: Vec<ListedEntry>,
    /// Whether nothing comes after them.
    pub end: bool,
    /// What ".." is.
    pub parent: InodeId,
}

impl Operation for ReadDirectory {
    type Outcome = Listing;
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Listing, Errno> {
        let directory = transaction.directory(self.inode)?;
        // Checked where a listing begins, as opendir() does; it may go on although the mode has changed meanwhile.
        if self.after.is_none() {
            permission::check(transaction, &self.caller, self.inode, &directory, permission::READ)?;
        }
        let (mut entries, end) = self.list(transaction)?;
        if self.with_attributes {
            for entry in &mut entries {
                if !(context.written_elsewhere)(entry.inode) {
                    entry.node = transaction.inode(entry.inode)?;
                }
            }
        }
        let parent = if self.inode == context.root { self.inode } else { InodeId::new(directory.parent) };
        Ok(Listing { inode: self.inode, entries, end, parent })
    }
}

impl ReadDirectory {
    fn list(&self, transaction: &mut Transaction<'_>) -> Result<(Vec<ListedEntry>, bool), Errno> {
        let from = self.after.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_bytes()));
        let mut entries = Vec::new();
        let mut end = true;
        transaction.scan_of::<EntryRecord>(self.inode.get(), from, &mut |name, entry| {
            if entries.len() >= self.entries_max {
                end = false;
                return ControlFlow::Break(());
            }
            let (inode, kind, cookie) = (entry.inode_id(), entry.kind(), entry.cookie);
            entries.push(ListedEntry { name: name.to_vec(), inode, kind, cookie, node: None });
            ControlFlow::Continue(())
        })?;
        Ok((entries, end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::namespace::ops::world::{World, user};

    fn list(world: &mut World, inode: InodeId, after: Option<&str>, entries_max: usize) -> Listing {
        let after = after.map(|name| name.parse().unwrap());
        world.run(&ReadDirectory { caller: Caller::root(), inode, after, entries_max, with_attributes: true }).unwrap()
    }

    #[test]
    fn goes_on_after_a_name_while_entries_come_and_go() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        for name in ["a", "b", "c", "d", "e"] {
            world.file(directory, name, 0o644);
        }
        world.file(InodeId::ROOT, "z", 0o644);
        let first = list(&mut world, directory, None, 2);
        assert!(!first.end);
        assert_eq!(first.parent, InodeId::ROOT);
        world.unlink(directory, "b").unwrap();
        world.file(directory, "aa", 0o644);
        let second = list(&mut world, directory, Some("b"), 9);
        assert!(second.end);
        let names: Vec<&[u8]> = first.entries.iter().chain(&second.entries).map(|entry| &entry.name[..]).collect();
        assert_eq!(names, [b"a", b"b", b"c", b"d", b"e"]);
        let cookies: BTreeSet<u64> = first.entries.iter().chain(&second.entries).map(|entry| entry.cookie).collect();
        assert_eq!(cookies.len(), 5);
        assert!(cookies.first() > Some(&2));
        assert!(second.entries.iter().all(|entry| entry.node.is_some()));
    }

    #[test]
    fn needs_read_permission_to_begin() {
        let mut world = World::new();
        let inode = world.mkdir(InodeId::ROOT, "d", 0o711);
        let operation = ReadDirectory { caller: user(5), inode, after: None, entries_max: 1, with_attributes: false };
        assert_eq!(world.run(&operation), Err(Errno::EACCES));
        let later = ReadDirectory { after: Some("a".parse().unwrap()), ..operation };
        assert!(world.run(&later).is_ok());
    }

    #[test]
    fn leaves_out_what_another_session_is_writing() {
        let mut world = World::new();
        let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
        let busy = world.file(directory, "busy", 0o644);
        world.file(directory, "idle", 0o644);
        world.written_elsewhere.insert(busy);
        let listing = list(&mut world, directory, None, 9);
        let known: Vec<bool> = listing.entries.iter().map(|entry| entry.node.is_some()).collect();
        assert_eq!(known, [false, true]);
    }
}
