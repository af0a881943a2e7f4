//! Changing attributes: chmod, chown, truncate, utimes, and the goal.
//!
//! | change | who may | what follows |
//! |---|---|---|
//! | mode | owner, root | set-group-id goes if the caller is not in the group; the ACL follows |
//! | user | root (the owner may "change" it to what it is) | set-id bits go, except of directories |
//! | group | root, the owner to a group of its own | the same |
//! | length | who may write it (or has it open for that) | set-id bits go unless root truncates; times change |
//! | times to given ones | owner, root | |
//! | times to now | owner, root, who may write it | |
//!
//! Every change sets the time of change to now.

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{Goal, InodeId};
use rfs_common::name::FILE_BYTES_MAX;

use super::Node;
use crate::namespace::acl::{ACCESS_XATTR, Acl};
use crate::namespace::content;
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::xattrs;
use crate::namespace::permission::{self, MODE_BITS, SET_GROUP, WRITE};
use crate::namespace::records::{self, InodeRecord, NodeKind, XattrRecord};
use crate::operation::{Caller, Context, Need, Operation};

/// What a time becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeChange {
    /// Nothing else.
    #[default]
    Keep,
    /// The time of the operation.
    Now,
    /// This.
    To(Time),
}

/// By what right the length is changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LengthRight {
    /// Write permission, checked now (truncate).
    #[default]
    Path,
    /// The file is open for writing: permission was checked then (ftruncate).
    Descriptor,
}

/// Changes attributes of a node.
#[derive(Debug, Clone)]
pub struct SetAttributes {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// New permission and set-id bits.
    pub mode: Option<u32>,
    /// New owner.
    pub user: Option<u32>,
    /// New group.
    pub group: Option<u32>,
    /// New length.
    pub length: Option<u64>,
    /// By what right the length changes.
    pub length_right: LengthRight,
    /// New time of the last read.
    pub accessed: TimeChange,
    /// New time of the last change of the content.
    pub modified: TimeChange,
    /// The time of change, from a kernel that wrote back what it had noted itself; otherwise the time of the operation.
    pub changed: Option<Time>,
    /// Clear set-id bits, as a write by somebody who may not keep them does.
    pub kill_set_id: bool,
}

impl Operation for SetAttributes {
    type Outcome = Node;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![match self.length {
            Some(_) => Need::ChangeData(self.inode),
            None => Need::ChangeAttributes(self.inode),
        }])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Node, Errno> {
        let inode = self.inode;
        let node = transaction.node(inode)?;
        self.check_length(transaction, &node)?;
        self.check_owner_and_mode(&node)?;
        self.check_times(transaction, &node)?;
        if let Some(length) = self.length {
            content::set_length(transaction, inode, length)?;
        }
        let mode = self.mode_after(&node);
        transaction.update(inode, |node| {
            node.mode = mode;
            node.user = self.user.unwrap_or(node.user);
            node.group = self.group.unwrap_or(node.group);
            self.set_times(node, context.now);
        })?;
        if self.mode.is_some() && node.access_acl {
            follow_mode(transaction, inode, mode)?;
        }
        let another_program = self.length.is_some() || self.user.is_some() || self.group.is_some();
        if self.kills_set_id(&node) || another_program {
            xattrs::drop_file_capabilities(transaction, inode)?;
        }
        Ok(Node::new(inode, transaction.node(inode)?))
    }
}

impl SetAttributes {
    /// The change that changes nothing yet.
    pub fn of(caller: Caller, inode: InodeId) -> SetAttributes {
        SetAttributes {
            caller,
            inode,
            mode: None,
            user: None,
            group: None,
            length: None,
            length_right: LengthRight::Path,
            accessed: TimeChange::Keep,
            modified: TimeChange::Keep,
            changed: None,
            kill_set_id: false,
        }
    }

    fn check_length(&self, transaction: &mut Transaction<'_>, node: &InodeRecord) -> Result<(), Errno> {
        let Some(length) = self.length else { return Ok(()) };
        match node.kind() {
            NodeKind::File => {}
            NodeKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if self.length_right == LengthRight::Path {
            permission::check(transaction, &self.caller, self.inode, node, WRITE)?;
        }
        if length > FILE_BYTES_MAX { Err(Errno::EFBIG) } else { Ok(()) }
    }

    fn check_owner_and_mode(&self, node: &InodeRecord) -> Result<(), Errno> {
        let caller = &self.caller;
        if caller.is_root() {
            return self.check_mode_kind(node);
        }
        let is_owner = caller.user == node.user;
        if self.user.is_some_and(|user| !is_owner || user != node.user) {
            return Err(Errno::EPERM);
        }
        if self.group.is_some_and(|group| !is_owner || (group != node.group && !caller.is_in_group(group))) {
            return Err(Errno::EPERM);
        }
        if self.mode.is_some() && !is_owner {
            return Err(Errno::EPERM);
        }
        self.check_mode_kind(node)
    }

    fn check_mode_kind(&self, node: &InodeRecord) -> Result<(), Errno> {
        if self.mode.is_some() && node.kind() == NodeKind::Symlink { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }

    fn check_times(&self, transaction: &mut Transaction<'_>, node: &InodeRecord) -> Result<(), Errno> {
        // A kernel that writes back its own times has had them checked; a truncation has been checked above.
        if self.changed.is_some() || self.caller.owns(node) {
            return Ok(());
        }
        let times = [self.accessed, self.modified];
        if times.iter().any(|time| matches!(time, TimeChange::To(_))) {
            return Err(Errno::EPERM);
        }
        if times.contains(&TimeChange::Now) && self.length.is_none() {
            permission::check(transaction, &self.caller, self.inode, node, WRITE)?;
        }
        Ok(())
    }

    fn kills_set_id(&self, node: &InodeRecord) -> bool {
        let truncated = self.length.is_some() && !self.caller.is_root();
        node.is_file() && (self.kill_set_id || truncated)
    }

    fn mode_after(&self, node: &InodeRecord) -> u32 {
        let mut mode = node.mode;
        let group = self.group.unwrap_or(node.group);
        if (self.user.is_some() || self.group.is_some()) && !node.is_directory() {
            mode = permission::without_set_id(mode);
            if !self.caller.keeps_set_group(node.group) {
                mode &= !SET_GROUP;
            }
        }
        if self.kills_set_id(node) {
            mode = permission::without_set_id(mode);
        }
        if let Some(wanted) = self.mode {
            mode = wanted & MODE_BITS;
            if !self.caller.keeps_set_group(group) {
                mode &= !SET_GROUP;
            }
        }
        mode
    }

    fn set_times(&self, node: &mut InodeRecord, now: Time) {
        let after = |change: TimeChange, old| match change {
            TimeChange::Keep => old,
            TimeChange::Now => now.into(),
            TimeChange::To(time) => time.into(),
        };
        node.accessed = after(self.accessed, node.accessed);
        node.modified = match (self.length, self.modified) {
            (Some(_), TimeChange::Keep) => now.into(),
            (_, change) => after(change, node.modified),
        };
        node.changed = self.changed.unwrap_or(now).into();
    }
}

/// Lets the access ACL say the same as the new permission bits.
fn follow_mode(transaction: &mut Transaction<'_>, inode: InodeId, mode: u32) -> Result<(), Errno> {
    let Some(value) = transaction.xattr(inode, ACCESS_XATTR)? else { return Ok(()) };
    let Some(acl) = Acl::decode(&value).map_err(|_| Errno::EIO)? else { return Ok(()) };
    let value = acl.with_mode(mode).encode();
    transaction.write(records::xattr_key(inode, ACCESS_XATTR), &XattrRecord { value });
    Ok(())
}

/// Changes how many copies a node's chunks (a directory's new nodes) are to have.
#[derive(Debug, Clone)]
pub struct SetGoal {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// The goal.
    pub goal: Goal,
}

impl Operation for SetGoal {
    /// The node, and whether it had another goal.
    type Outcome = (Node, bool);
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::ChangeAttributes(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<(Node, bool), Errno> {
        let node = transaction.node(self.inode)?;
        if !self.caller.owns(&node) {
            return Err(Errno::EPERM);
        }
        let goal = u32::from(self.goal.get());
        if node.goal == goal {
            return Ok((Node::new(self.inode, node), false));
        }
        for (_, reference) in content::refs_from(transaction, self.inode, 0, usize::MAX)? {
            if let Some(mut chunk) = transaction.chunk(reference.chunk_id())? {
                chunk.goal = goal;
                transaction.put_chunk(reference.chunk_id(), &chunk);
            }
        }
        let record = transaction.update(self.inode, |node| {
            node.goal = goal;
            node.changed = context.now.into();
        })?;
        Ok((Node::new(self.inode, record), true))
    }
}

#[cfg(test)]
#[path = "set_attributes_test.rs"]
mod tests;
