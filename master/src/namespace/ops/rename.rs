//! Moving a name, over another one or in exchange with it.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;

use super::Node;
use crate::namespace::entries::{self, Named, Unnamed};
use crate::namespace::metadata::Transaction;
use crate::namespace::permission;
use crate::namespace::records::{self, EntryRecord, InodeRecord};
use crate::operation::{Caller, Context, Need, Operation};

/// What may happen to a node that has the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// It is replaced.
    Replace,
    /// It stays: the rename fails with `EEXIST`.
    Keep,
    /// It gets the old name; it must exist.
    Exchange,
}

/// Moves a name.
#[derive(Debug, Clone)]
pub struct Rename {
    /// Who asks.
    pub caller: Caller,
    /// The directory of the name.
    pub parent: InodeId,
    /// The name.
    pub name: Name,
    /// The directory of the new name.
    pub new_parent: InodeId,
    /// The new name.
    pub new_name: Name,
    /// What may happen to a node that has the new name.
    pub target: Target,
}

/// A node under its new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The node as it is afterwards.
    pub moved: Node,
    /// The node whose name it took.
    pub replaced: Option<Unnamed>,
    /// The node that has the old name now.
    pub exchanged: Option<Node>,
    /// The old directory as it is afterwards.
    pub parent: Node,
    /// The new directory as it is afterwards.
    pub new_parent: Node,
}

impl Operation for Rename {
    type Outcome = Renamed;
    const CHANGES: bool = true;

    fn needs(&self, view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        let mut needs = if self.parent == self.new_parent {
            vec![Need::ChangeEntries(self.parent, vec![self.name.clone(), self.new_name.clone()])]
        } else {
            vec![
                Need::ChangeEntries(self.parent, vec![self.name.clone()]),
                Need::ChangeEntries(self.new_parent, vec![self.new_name.clone()]),
            ]
        };
        for (parent, name) in [(self.parent, &self.name), (self.new_parent, &self.new_name)] {
            needs.extend(entries::find(view, parent, name)?.map(Need::ChangeAttributes));
        }
        Ok(needs)
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Renamed, Errno> {
        let parent = permission::searched(transaction, &self.caller, self.parent)?;
        let new_parent = permission::searched(transaction, &self.caller, self.new_parent)?;
        let source = entries::find(transaction, self.parent, &self.name)?.ok_or(Errno::ENOENT)?;
        let source = Node::new(source, transaction.node(source)?);
        let target = match entries::find(transaction, self.new_parent, &self.new_name)? {
            Some(inode) => Some(Node::new(inode, transaction.node(inode)?)),
            None => None,
        };
        self.check_target_exists(target.as_ref())?;
        self.check_loops(transaction, &source, target.as_ref())?;
        if target.as_ref().is_some_and(|target| target.inode == source.inode) {
            return self.outcome(transaction, source.inode, None, None);
        }
        let directories = Directories { parent: &parent, new_parent: &new_parent };
        self.check_permission(transaction, &directories, &source, target.as_ref())?;
        self.check_kinds(&directories, &source, target.as_ref())?;
        match target {
            Some(target) if self.target == Target::Exchange => self.exchange(transaction, context, &source, &target),
            target => self.move_over(transaction, context, &source, target.as_ref()),
        }
    }
}

struct Directories<'a> {
    parent: &'a InodeRecord,
    new_parent: &'a InodeRecord,
}

/// The checks.
impl Rename {
    fn check_target_exists(&self, target: Option<&Node>) -> Result<(), Errno> {
        match (self.target, target) {
            (Target::Keep, Some(_)) => Err(Errno::EEXIST),
            (Target::Exchange, None) => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }

    /// A directory cannot move below itself, and cannot take the place of one that it is in.
    fn check_loops(
        &self,
        transaction: &mut Transaction<'_>,
        source: &Node,
        target: Option<&Node>,
    ) -> Result<(), Errno> {
        if source.record.is_directory() && is_at_or_above(transaction, source.inode, self.new_parent)? {
            return Err(Errno::EINVAL);
        }
        match target {
            Some(target) if target.record.is_directory() && is_at_or_above(transaction, target.inode, self.parent)? => {
                Err(if self.target == Target::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY })
            }
            _ => Ok(()),
        }
    }

    fn check_permission(
        &self,
        transaction: &mut Transaction<'_>,
        directories: &Directories<'_>,
        source: &Node,
        target: Option<&Node>,
    ) -> Result<(), Errno> {
        let Directories { parent, new_parent } = directories;
        permission::check_entry_change(transaction, &self.caller, self.parent, parent)?;
        permission::check_sticky(&self.caller, parent, &source.record)?;
        if new_parent.links == 0 {
            return Err(Errno::ENOENT);
        }
        permission::check_entry_change(transaction, &self.caller, self.new_parent, new_parent)?;
        if let Some(target) = target {
            permission::check_sticky(&self.caller, new_parent, &target.record)?;
        }
        if self.target != Target::Exchange {
            check_replaceable(source, target)?;
        }
        // A directory's ".." is part of its content.
        if self.parent != self.new_parent {
            let exchanged = target.filter(|_| self.target == Target::Exchange);
            for moved in [Some(source), exchanged].into_iter().flatten().filter(|moved| moved.record.is_directory()) {
                permission::check(transaction, &self.caller, moved.inode, &moved.record, permission::WRITE)?;
            }
        }
        Ok(())
    }

    fn check_kinds(&self, directories: &Directories<'_>, source: &Node, target: Option<&Node>) -> Result<(), Errno> {
        if self.parent == self.new_parent {
            return Ok(());
        }
        let target_is_directory = target.is_some_and(|target| target.record.is_directory());
        if source.record.is_directory() && !target_is_directory {
            entries::check_room_for_subdirectory(directories.new_parent)?;
        }
        if self.target == Target::Exchange && target_is_directory && !source.record.is_directory() {
            entries::check_room_for_subdirectory(directories.parent)?;
        }
        Ok(())
    }
}

/// Whether `source` may take the name of `target`: directories replace empty directories, everything else replaces
/// everything else.
fn check_replaceable(source: &Node, target: Option<&Node>) -> Result<(), Errno> {
    let Some(target) = target else { return Ok(()) };
    match (source.record.is_directory(), target.record.is_directory()) {
        (true, false) => Err(Errno::ENOTDIR),
        (false, true) => Err(Errno::EISDIR),
        _ if target.record.entries > 0 => Err(Errno::ENOTEMPTY),
        _ => Ok(()),
    }
}

/// Whether one node is another directory or above it.
fn is_at_or_above(transaction: &mut Transaction<'_>, upper: InodeId, lower: InodeId) -> Result<bool, Errno> {
    let mut steps_left = transaction.system()?.directories;
    let mut inode = lower;
    loop {
        if inode == upper {
            return Ok(true);
        }
        let parent = match transaction.inode(inode)? {
            Some(node) => InodeId::new(node.parent),
            None => return Ok(false),
        };
        if parent == inode || parent.get() == 0 || steps_left == 0 {
            return Ok(false);
        }
        inode = parent;
        steps_left -= 1;
    }
}

/// The changes.
impl Rename {
    fn move_over(
        &self,
        transaction: &mut Transaction<'_>,
        context: &Context<'_>,
        source: &Node,
        target: Option<&Node>,
    ) -> Result<Renamed, Errno> {
        let kind = source.record.kind();
        let mut replaced = None;
        if let Some(target) = target {
            entries::remove(transaction, self.new_parent, &self.new_name, target.record.kind(), context.now)?;
            replaced = Some(entries::drop_link(transaction, target.inode, context)?);
        }
        entries::remove(transaction, self.parent, &self.name, kind, context.now)?;
        let named = Named { inode: source.inode, kind };
        entries::add(transaction, self.new_parent, &self.new_name, named, context.now)?;
        moved_to(transaction, source.inode, self.new_parent, context)?;
        self.outcome(transaction, source.inode, replaced, None)
    }

    fn exchange(
        &self,
        transaction: &mut Transaction<'_>,
        context: &Context<'_>,
        source: &Node,
        target: &Node,
    ) -> Result<Renamed, Errno> {
        self.rename_entry(transaction, self.parent, &self.name, target)?;
        self.rename_entry(transaction, self.new_parent, &self.new_name, source)?;
        for (directory, loses, gets) in [(self.parent, source, target), (self.new_parent, target, source)] {
            transaction.update(directory, |node| {
                node.links -= u32::from(loses.record.is_directory());
                node.links += u32::from(gets.record.is_directory());
                node.modified = context.now.into();
                node.changed = context.now.into();
            })?;
        }
        moved_to(transaction, source.inode, self.new_parent, context)?;
        moved_to(transaction, target.inode, self.parent, context)?;
        self.outcome(transaction, source.inode, None, Some(target.inode))
    }

    /// Makes an entry name another node; its position stays.
    fn rename_entry(
        &self,
        transaction: &mut Transaction<'_>,
        directory: InodeId,
        name: &Name,
        node: &Node,
    ) -> Result<(), Errno> {
        let cookie = transaction.entry(directory, name.as_bytes())?.ok_or(Errno::ENOENT)?.cookie;
        let entry = EntryRecord { inode: node.inode.get(), kind: node.record.kind, cookie };
        transaction.write(records::entry_key(directory, name.as_bytes()), &entry);
        Ok(())
    }

    fn outcome(
        &self,
        transaction: &mut Transaction<'_>,
        moved: InodeId,
        replaced: Option<Unnamed>,
        exchanged: Option<InodeId>,
    ) -> Result<Renamed, Errno> {
        let mut node = |inode| transaction.node(inode).map(|record| Node::new(inode, record));
        Ok(Renamed {
            moved: node(moved)?,
            replaced,
            exchanged: exchanged.map(&mut node).transpose()?,
            parent: node(self.parent)?,
            new_parent: node(self.new_parent)?,
        })
    }
}

fn moved_to(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    directory: InodeId,
    context: &Context<'_>,
) -> Result<(), Errno> {
    transaction.update(inode, |node| {
        node.changed = context.now.into();
        if node.is_directory() {
            node.parent = directory.get();
        }
    })?;
    Ok(())
}

#[cfg(test)]
#[path = "rename_test.rs"]
mod tests;
