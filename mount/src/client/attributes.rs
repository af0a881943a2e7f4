//! Calls about one node: attributes, access, the target of a link, extended attributes, the filesystem's space.

use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::{FILE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use rfs_proto::session as wire;
use tracing::debug;

use super::Client;
use super::bytes::Durability;
use super::core::{Core, Node, caller_to_wire};
use super::types::{AttributeChanges, AttributesAnswer, Caller, FilesystemSpace, SetTime};
use crate::cache::attributes::time_to_wire;
use crate::cache::node::{Answered, Mode, NodeState};
use crate::cache::order::{Stamp, Ticket};

/// They go when the file's content changes, which the master learns from a commit.
const FILE_CAPABILITIES: &[u8] = b"security.capability";

impl Client {
    /// The node's attributes.
    ///
    /// # Errors
    /// The master's: ESTALE if the node is gone.
    pub fn get_attributes(&self, inode: InodeId) -> Result<AttributesAnswer, Errno> {
        self.core.attributes(&self.core.node(inode))
    }

    /// Changes attributes. What was written before is committed first, so that a later commit cannot undo the times or
    /// the length set here.
    ///
    /// # Errors
    /// The master's; EFBIG for a length that is not possible. What writing dirty data failed with is told by fsync and close:
    /// a file that found no room can still be cut.
    pub fn set_attributes(
        &self,
        caller: &Caller,
        inode: InodeId,
        changes: &AttributeChanges,
    ) -> Result<AttributesAnswer, Errno> {
        let core = &*self.core;
        core.session.wait_trusted()?;
        let node = core.node(inode);
        let request = set_request(caller, inode, changes);
        // What is set explicitly counts, whatever was read before.
        let read_before = changes.accessed.and_then(|_| core.take_pending_access(&node));
        let known_to_kernel = {
            let mut state = node.state();
            state.changing += 1;
            state.kernel_told_at.is_some()
        };
        if known_to_kernel {
            // Who asks meanwhile may be shown the change before the kernel has its answer. It is not to show anybody what was before
            // after that, and is told nothing to keep until the change is over.
            core.kernel.invalidate_attributes(inode);
        }
        let changed = match changes.length {
            Some(length) => core.set_length(&node, &request, length),
            None => {
                core.commit_if_possible(&node);
                core.set_attributes(&node, &request)
            }
        };
        node.state().changing -= 1;
        if let (Err(_), Some(pending)) = (&changed, read_before) {
            core.put_access_back(&node, pending);
        }
        changed
    }

    /// Asks the master whether the caller may (R_OK 4, W_OK 2, X_OK 1).
    ///
    /// # Errors
    /// EACCES; and the master's others.
    pub fn access(&self, caller: &Caller, inode: InodeId, mask: u32) -> Result<(), Errno> {
        self.core.session.call(&wire::Access { caller: caller_to_wire(caller), inode: inode.get(), mask }).map(drop)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// The master's: EINVAL if it is something else.
    pub fn read_symlink(&self, inode: InodeId) -> Result<Vec<u8>, Errno> {
        let core = &*self.core;
        core.session.wait_trusted()?;
        let node = core.node(inode);
        {
            let state = node.state();
            if let Some(target) = state.target.clone().filter(|_| state.mode > Mode::None) {
                drop(state);
                core.note_access(&node);
                return Ok(target.to_vec());
            }
        }
        let mut ticket = core.order.begin();
        let reply = core.call(&mut ticket, &wire::ReadSymlink { inode: inode.get() })?;
        let answered = Answered::from_wire(None, reply.lease.as_ref());
        let now = core.now();
        let mut state = node.state();
        node.learn(&mut state, &ticket, &answered, now);
        if answered.lease.is_some() && node.may_keep(&state, &ticket, &answered, now) {
            state.target = Some(Arc::from(&*reply.target));
        }
        drop(state);
        core.note_access(&node);
        Ok(reply.target.to_vec())
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA if there is none; and the master's others.
    pub fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
        check_xattr_name(name)?;
        let core = &*self.core;
        let node = core.node(inode);
        if name == FILE_CAPABILITIES {
            core.commit_if_possible(&node);
        }
        core.session.wait_trusted()?;
        if let Some(kept) = core.kept_xattr(&node, name) {
            return kept.map(|value| value.to_vec()).ok_or(Errno::ENODATA);
        }
        let (before, mut ticket) = (kept_revision(&node.state()), core.order.begin());
        let request = wire::GetXattr { caller: caller_to_wire(caller), inode: inode.get(), name: name.to_vec().into() };
        let value = match core.call(&mut ticket, &request) {
            Ok(reply) => Some(reply.value),
            // Who may not see it is answered the same.
            Err(Errno::ENODATA) if caller.user == 0 => None,
            Err(errno) => return Err(errno),
        };
        if let Some(revision) = before {
            core.keep_xattr(&node, &ticket, revision, (name, value.as_deref()));
        }
        value.map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    /// The names of the extended attributes that the caller may see.
    ///
    /// # Errors
    /// The master's.
    pub fn list_xattr(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, Errno> {
        self.core.session.wait_trusted()?;
        if self.core.has_no_xattrs(&self.core.node(inode)) {
            return Ok(Vec::new());
        }
        let request = wire::ListXattr { caller: caller_to_wire(caller), inode: inode.get() };
        Ok(self.core.session.call(&request)?.names.iter().map(|name| name.to_vec()).collect())
    }

    /// Sets an extended attribute (XATTR_CREATE 1, XATTR_REPLACE 2).
    ///
    /// # Errors
    /// E2BIG, ERANGE; and the master's.
    pub fn set_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        self.core.change_xattr(caller, inode, name, |request| wire::SetXattr {
            value: value.to_vec().into(),
            flags,
            ..request
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA if there is none; and the master's others.
    pub fn remove_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<(), Errno> {
        self.core.change_xattr(caller, inode, name, |request| wire::SetXattr { remove: true, ..request })
    }

    /// The space of the filesystem.
    ///
    /// # Errors
    /// The master's.
    pub fn filesystem_space(&self) -> Result<FilesystemSpace, Errno> {
        let reply = self.core.session.call(&wire::StatFilesystem {})?;
        Ok(FilesystemSpace {
            total: reply.total,
            free: reply.free,
            available: reply.available,
            inodes: reply.inodes,
            inodes_free: reply.inodes_free,
        })
    }
}

fn check_xattr_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX { Err(Errno::ERANGE) } else { Ok(()) }
}

/// Names that the master would look for; others it refuses.
fn is_storable(name: &[u8]) -> bool {
    let prefixes = [&b"user."[..], b"trusted.", b"security."];
    let acls = [&b"system.posix_acl_access"[..], b"system.posix_acl_default"];
    prefixes.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) || acls.contains(&name)
}

/// The revision of the node that is known to be the present one.
fn kept_revision(state: &NodeState) -> Option<u64> {
    let keeps = state.fresh && state.mode > Mode::None && !state.closing && state.recalls_waiting == 0;
    state.attributes.as_ref().filter(|_| keeps).map(|attributes| attributes.revision)
}

fn set_request(caller: &Caller, inode: InodeId, changes: &AttributeChanges) -> wire::SetAttributes {
    let at = |time: Option<SetTime>| match time {
        Some(SetTime::At(time)) => Some(time_to_wire(time)),
        Some(SetTime::Now) | None => None,
    };
    wire::SetAttributes {
        caller: caller_to_wire(caller),
        inode: inode.get(),
        mode: changes.mode,
        user: changes.user,
        group: changes.group,
        length: changes.length,
        accessed: at(changes.accessed),
        modified: at(changes.modified),
        accessed_now: changes.accessed == Some(SetTime::Now),
        modified_now: changes.modified == Some(SetTime::Now),
        by_descriptor: changes.handle.is_some(),
        kill_set_id: changes.kill_set_id,
        changed: None,
    }
}

impl Core {
    /// Whether the node is known to have no extended attributes at all, as most.
    fn has_no_xattrs(&self, node: &Node) -> bool {
        let state = node.state();
        kept_revision(&state).is_some() && state.attributes.as_ref().is_some_and(|known| known.xattrs == Some(0))
    }

    /// What is known of an extended attribute. Who may see it was the kernel's decision (`default_permissions`).
    fn kept_xattr(&self, node: &Node, name: &[u8]) -> Option<Option<Arc<[u8]>>> {
        if is_storable(name) && self.has_no_xattrs(node) {
            return Some(None);
        }
        let state = node.state();
        state.xattrs.get(kept_revision(&state)?, name)
    }

    /// Keeps it, if the node is still the one that it was before it was asked for.
    fn keep_xattr(&self, node: &Node, ticket: &Ticket<'_>, before: u64, (name, value): (&[u8], Option<&[u8]>)) {
        let now = self.now();
        let mut state = node.state();
        if kept_revision(&state) == Some(before) && node.may_keep(&state, ticket, &Answered::default(), now) {
            state.xattrs.keep(before, name, value);
        }
    }

    /// Asks the master to change attributes, and learns how they are then.
    pub(super) fn set_attributes(
        &self,
        node: &Arc<Node>,
        request: &wire::SetAttributes,
    ) -> Result<AttributesAnswer, Errno> {
        let (_asking, mut ticket) = (node.ask(), self.order.begin());
        let reply = self.call(&mut ticket, request)?;
        let (node, answered) = self.learn_node(&ticket, reply.node.as_ref())?;
        self.changed(&node);
        let mut state = node.state();
        self.answer(&node, &mut state, answered.attributes.as_ref()).ok_or(Errno::EPROTO)
    }

    /// Changes the length, under the WRITE lease: nobody else reads or writes meanwhile.
    pub(super) fn set_length(
        &self,
        node: &Arc<Node>,
        request: &wire::SetAttributes,
        length: u64,
    ) -> Result<AttributesAnswer, Errno> {
        if length > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let _used = self.use_lease(node, Mode::Write)?;
        self.set_length_in_use(node, request, length)
    }

    /// The same where the caller uses the WRITE lease: a second use could wait for a recall that waits for the first.
    pub(super) fn set_length_in_use(
        &self,
        node: &Arc<Node>,
        request: &wire::SetAttributes,
        length: u64,
    ) -> Result<AttributesAnswer, Errno> {
        let _cutting = self.begin_cut(node);
        if node.content().is_some_and(|content| content.has_uncommitted())
            && let Err(errno) = self.commit(node, Durability::Acknowledged, None)
        {
            debug!(inode = node.inode().get(), %errno, "not all of a file could be committed before its length was set");
        }
        let (_asking, mut ticket) = (node.ask(), self.order.begin());
        let reply = self.call(&mut ticket, request)?;
        if let Some(content) = node.content() {
            content.truncate(length);
        }
        let (node, answered) = self.learn_node(&ticket, reply.node.as_ref())?;
        self.changed(&node);
        let mut state = node.state();
        self.answer(&node, &mut state, answered.attributes.as_ref()).ok_or(Errno::EPROTO)
    }

    /// Commits what was written here and not committed, so that an answer of the master about the node includes it.
    pub(super) fn commit_if_written(&self, node: &Arc<Node>) -> Result<(), Errno> {
        if !node.content().is_some_and(|content| content.has_uncommitted()) {
            return Ok(());
        }
        if let Some(_used) = self.try_use(node, Mode::Write)? {
            self.commit(node, Durability::Acknowledged, None)?;
        }
        Ok(())
    }

    /// The same before a change that has to be made also if what was written is lost: fsync and close tell of that.
    pub(super) fn commit_if_possible(&self, node: &Arc<Node>) {
        if let Err(errno) = self.commit_if_written(node) {
            debug!(inode = node.inode().get(), %errno, "not all of a file could be committed before it was changed");
        }
    }

    fn change_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        finish: impl FnOnce(wire::SetXattr) -> wire::SetXattr,
    ) -> Result<(), Errno> {
        check_xattr_name(name)?;
        self.session.wait_trusted()?;
        let request = wire::SetXattr {
            caller: caller_to_wire(caller),
            inode: inode.get(),
            name: name.to_vec().into(),
            ..wire::SetXattr::default()
        };
        if name == FILE_CAPABILITIES {
            // What was written before would take away with its commit what is set now.
            self.commit_if_possible(&self.node(inode));
        }
        self.session.call(&finish(request))?;
        // The change time (and, of an access list, the mode) changed with it; the answer does not say how. The kernel
        // forgets by itself what its own call changed. Answers that are on their way may be from before.
        self.order.stamp(inode, Stamp::Foreign);
        if let Some(node) = self.table.get(inode) {
            node.state().fresh = false;
            self.changed(&node);
        }
        Ok(())
    }
}
