//! Calls about names: lookup, the making and removing of nodes, links, renames.
//!
//! What is learned about an entry is kept only if the answer came under the directory's lease and no notice overtook it;
//! the kernel may keep an entry exactly if it stands in [`crate::cache::entries`]. Absent names are kept here only: the
//! kernel would not ask again when another client makes them.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::{Name, SYMLINK_BYTES_MAX};
use rfs_proto::session as wire;

use super::Client;
use super::core::{Core, Node, caller_to_wire, lock};
use super::kernel::Forget;
use super::types::{Attributes, Caller, KERNEL_VALID, Kind, NewNode, NodeAnswer, Opened};
use crate::cache::entries::Known;
use crate::cache::node::{Answered, Mode, NodeState};
use crate::cache::order::{Stamp, Ticket};
use crate::data::ChunkPlaces;

impl Client {
    /// The node that an entry names.
    ///
    /// # Errors
    /// ENOENT if there is none, which the kernel must not keep; and the master's.
    pub fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<NodeAnswer, Errno> {
        Name::check(name)?;
        let core = &*self.core;
        core.session.wait_trusted()?;
        core.let_names_be_dropped();
        let directory = core.node(parent);
        let cached = match core.known_entry(&directory, name) {
            Known::Absent => return Err(Errno::ENOENT),
            Known::Node(inode) => core.cached_answer_by_name(inode),
            Known::Unknown => None,
        };
        let answer = cached.map_or_else(|| core.look_up(caller, &directory, name), Ok)?;
        if answer.attributes.kind == Kind::Directory {
            core.directory_is_found(answer.attributes.inode, parent, name);
        }
        Ok(answer)
    }

    /// The kernel has forgotten the node `count` times.
    pub fn forget(&self, inode: InodeId, count: u64) {
        let Some(node) = self.core.table.get(inode) else { return };
        let mut state = node.state();
        state.lookups = state.lookups.saturating_sub(count);
        if state.lookups == 0 {
            state.known_as = None;
        }
        let idle = state.lookups == 0 && state.open == 0;
        drop(state);
        if idle {
            self.core.table.note_idle(inode, self.core.now());
        }
    }

    /// Makes a node that is neither directory nor link (a file is made without being opened).
    ///
    /// # Errors
    /// The master's.
    pub fn make_node(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        kind: Kind,
        new: NewNode,
        device: u32,
    ) -> Result<NodeAnswer, Errno> {
        let request = wire::Make { device, exclusive: true, ..make_request(caller, parent, name, kind, new)? };
        Ok(self.core.make(&request)?.answer)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// The master's.
    pub fn make_directory(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<NodeAnswer, Errno> {
        let request = wire::Make { exclusive: true, ..make_request(caller, parent, name, Kind::Directory, new)? };
        let made = self.core.make(&request)?.answer;
        self.core.directory_is_found(made.attributes.inode, parent, name);
        Ok(made)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// ENAMETOOLONG for a target that is too long; and the master's.
    pub fn make_symlink(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<NodeAnswer, Errno> {
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let new = NewNode { mode: 0o777, umask: 0 };
        let request = wire::Make {
            target: target.to_vec().into(),
            exclusive: true,
            ..make_request(caller, parent, name, Kind::Symlink, new)?
        };
        Ok(self.core.make(&request)?.answer)
    }

    /// Makes a file and opens it: open(2) with O_CREAT, where O_EXCL, O_TRUNC, O_APPEND and the access mode count. A
    /// file that exists is opened, unless O_EXCL forbids it.
    ///
    /// # Errors
    /// The master's.
    pub fn create(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
        flags: i32,
    ) -> Result<(NodeAnswer, Opened), Errno> {
        let request = wire::Make {
            exclusive: flags & libc::O_EXCL != 0,
            open: true,
            ..make_request(caller, parent, name, Kind::File, new)?
        };
        let mut made = self.core.make(&request)?;
        let opened = if made.created {
            self.core.open_file(&made.node, flags)
        } else {
            let opened = made.answer.attributes.kind_may_be_opened().and_then(|()| {
                self.core.check_access(caller, made.node.inode(), flags)?;
                self.core.open_existing(caller, &made.node, flags)
            });
            match opened {
                Ok(opened) => opened,
                Err(errno) => {
                    self.forget(made.node.inode(), 1);
                    return Err(errno);
                }
            }
        };
        if flags & libc::O_TRUNC != 0 && !made.created {
            let mut state = made.node.state();
            if let Some(now) = self.core.answer(&made.node, &mut state, None) {
                made.answer.attributes = now.attributes;
            }
        }
        Ok((made.answer, opened))
    }

    /// Makes a file without a name and opens it (O_TMPFILE).
    ///
    /// # Errors
    /// The master's.
    pub fn make_unnamed(
        &self,
        caller: &Caller,
        parent: InodeId,
        new: NewNode,
        flags: i32,
    ) -> Result<(NodeAnswer, Opened), Errno> {
        let request = wire::Make {
            open: true,
            unnamed: true,
            exclusive: true,
            name: prost::bytes::Bytes::new(),
            ..make_request(caller, parent, b"unnamed", Kind::File, new)?
        };
        let made = self.core.make(&request)?;
        made.node.state().orphan = true;
        let opened = self.core.open_file(&made.node, flags);
        Ok((made.answer, opened))
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// The master's.
    pub fn link(
        &self,
        caller: &Caller,
        inode: InodeId,
        new_parent: InodeId,
        new_name: &[u8],
    ) -> Result<NodeAnswer, Errno> {
        Name::check(new_name)?;
        let core = &*self.core;
        core.session.wait_trusted()?;
        let (node, directory) = (core.node(inode), core.node(new_parent));
        core.commit_if_possible(&node);
        let (_asking, mut ticket) = (directory.ask(), core.order.begin());
        let request = wire::Link {
            caller: caller_to_wire(caller),
            inode: inode.get(),
            parent: new_parent.get(),
            name: new_name.to_vec().into(),
        };
        let reply = core.call(&mut ticket, &request)?;
        core.entries_changed(new_parent);
        core.learn_attributes(&ticket, reply.parent.as_ref());
        let (node, answered) = core.learn_node(&ticket, reply.node.as_ref())?;
        core.changed(&node);
        if answered.attributes.as_ref().is_some_and(|attributes| attributes.links > 0) {
            node.state().orphan = false;
        }
        let entry_valid = core.keep_own_change(&directory, &ticket, new_name, Some(inode));
        let answer = core.answer_by_name(&node, &answered, entry_valid)?;
        core.note_told_of_change(&node);
        Ok(answer)
    }

    /// Removes a name that is not a directory's.
    ///
    /// # Errors
    /// The master's.
    pub fn unlink(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<(), Errno> {
        self.core.remove(caller, parent, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The master's.
    pub fn remove_directory(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<(), Errno> {
        self.core.remove(caller, parent, name, true)
    }

    /// Moves a name; flags as of renameat2 (RENAME_NOREPLACE 1, RENAME_EXCHANGE 2).
    ///
    /// # Errors
    /// EINVAL for other flags; and the master's.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        const NO_REPLACE: u32 = 1;
        const EXCHANGE: u32 = 2;
        Name::check(name)?;
        Name::check(new_name)?;
        if flags & !(NO_REPLACE | EXCHANGE) != 0 || flags == NO_REPLACE | EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let core = &*self.core;
        core.session.wait_trusted()?;
        let (from, to) = (core.node(parent), core.node(new_parent));
        let (_asking_from, _asking_to, mut ticket) = (from.ask(), to.ask(), core.order.begin());
        let request = wire::Rename {
            caller: caller_to_wire(caller),
            parent: parent.get(),
            name: name.to_vec().into(),
            new_parent: new_parent.get(),
            new_name: new_name.to_vec().into(),
            flags,
        };
        let reply = core.call(&mut ticket, &request)?;
        core.entries_changed(parent);
        core.entries_changed(new_parent);
        for attributes in [&reply.parent, &reply.new_parent, &reply.moved, &reply.replaced] {
            core.learn_attributes(&ticket, attributes.as_ref());
        }
        let number = |attributes: &Option<wire::Attributes>| attributes.as_ref().map(|a| InodeId::new(a.inode));
        let (moved, replaced) = (number(&reply.moved), number(&reply.replaced));
        let left_behind = if flags & EXCHANGE != 0 { replaced } else { None };
        if let Some(moved) = moved {
            core.directory_was_renamed(moved, new_parent, new_name);
        }
        if let Some(left_behind) = left_behind {
            core.directory_was_renamed(left_behind, parent, name);
        }
        core.moved(&from, &ticket, name, left_behind);
        core.moved(&to, &ticket, new_name, moved);
        if let Some(replaced) = replaced.filter(|_| reply.orphan) {
            core.orphaned(replaced);
        }
        Ok(())
    }
}

impl Attributes {
    /// Whether `create` may open what it found.
    fn kind_may_be_opened(&self) -> Result<(), Errno> {
        match self.kind {
            Kind::Directory => Err(Errno::EISDIR),
            Kind::Symlink => Err(Errno::ELOOP),
            _ => Ok(()),
        }
    }
}

/// A node that was made, or found.
pub(super) struct Made {
    pub(super) node: Arc<Node>,
    pub(super) answer: NodeAnswer,
    pub(super) created: bool,
}

fn make_request(caller: &Caller, parent: InodeId, name: &[u8], kind: Kind, new: NewNode) -> Result<wire::Make, Errno> {
    Name::check(name)?;
    Ok(wire::Make {
        caller: caller_to_wire(caller),
        parent: parent.get(),
        name: name.to_vec().into(),
        kind: kind.to_wire().into(),
        mode: new.mode & 0o7777,
        umask: new.umask,
        ..wire::Make::default()
    })
}

impl Core {
    fn known_entry(&self, directory: &Node, name: &[u8]) -> Known {
        let mut state = directory.state();
        if state.mode == Mode::None {
            return Known::Unknown;
        }
        let known = state.entries.get(name);
        if matches!(known, Known::Node(_)) {
            self.told_to_keep(&mut state);
        }
        known
    }

    /// An entry of this directory is answered that the kernel may keep; how long it may.
    pub(super) fn told_to_keep(&self, directory: &mut NodeState) -> Duration {
        directory.kernel_told_at = Some(self.now());
        KERNEL_VALID
    }

    /// A node whose entry is known, if its attributes are, too.
    fn cached_answer_by_name(&self, inode: InodeId) -> Option<NodeAnswer> {
        let node = self.table.get(inode)?;
        let mut state = node.state();
        if state.mode == Mode::None || !state.fresh || state.releasing {
            return None;
        }
        let answer = self.answer(&node, &mut state, None)?;
        state.lookups += 1;
        let (attributes, attribute_valid) = (answer.attributes, answer.attribute_valid);
        Some(NodeAnswer { attributes, attribute_valid, entry_valid: KERNEL_VALID })
    }

    fn look_up(&self, caller: &Caller, directory: &Arc<Node>, name: &[u8]) -> Result<NodeAnswer, Errno> {
        let (_asking, mut ticket) = (directory.ask(), self.order.begin());
        let parent = directory.inode().get();
        let request = wire::Lookup { caller: caller_to_wire(caller), parent, name: name.to_vec().into() };
        let reply = self.call(&mut ticket, &request)?;
        let of_parent = Answered::from_wire(None, reply.parent_lease.as_ref());
        let Some(_) = &reply.node else {
            self.keep_entry(directory, &ticket, &of_parent, name, None);
            return Err(Errno::ENOENT);
        };
        let (node, answered) = self.learn_node(&ticket, reply.node.as_ref())?;
        let entry_valid = self.keep_entry(directory, &ticket, &of_parent, name, Some(node.inode()));
        if let Some(first) = reply.first_chunk {
            self.keep_first_chunk(&node, &ticket, &answered, first);
        }
        let answered = self.under_a_lease(&node, answered)?;
        self.answer_by_name(&node, &answered, entry_valid)
    }

    /// Keeps where a file begins until it is opened, if the rest of the answer was kept.
    fn keep_first_chunk(&self, node: &Node, ticket: &Ticket<'_>, answered: &Answered, first: wire::ChunkPlaces) {
        let now = self.now();
        let mut state = node.state();
        let revision = |attributes: &Option<Attributes>| attributes.as_ref().map(|attributes| attributes.revision);
        let is_now = state.fresh && revision(&state.attributes) == revision(&answered.attributes);
        if is_now && node.content().is_none() && node.may_keep(&state, ticket, answered, now) {
            state.first_chunk = Some(Box::new(ChunkPlaces::from(first)));
        }
    }

    /// Keeps what an answer under the directory's lease said about a name, if it may be kept. The result is how long the
    /// kernel may keep it.
    pub(super) fn keep_entry(
        &self,
        directory: &Node,
        ticket: &Ticket<'_>,
        of_parent: &Answered,
        name: &[u8],
        inode: Option<InodeId>,
    ) -> Duration {
        let now = self.now();
        let mut state = directory.state();
        directory.learn(&mut state, ticket, of_parent, now);
        let usable = of_parent.lease.is_some()
            && directory.may_keep(&state, ticket, of_parent, now)
            && !ticket.is_before(directory.inode(), Stamp::Own)
            && !state.closing
            && state.recalls_waiting == 0;
        if usable && state.entries.learn(name, inode) { self.told_to_keep(&mut state) } else { Duration::ZERO }
    }

    /// Keeps what a change of our own did to a name, or at least forgets what was known of it.
    fn keep_own_change(&self, directory: &Node, ticket: &Ticket<'_>, name: &[u8], inode: Option<InodeId>) -> Duration {
        let mut state = directory.state();
        let silent = Answered::default();
        let usable =
            directory.may_keep(&state, ticket, &silent, self.now()) && !state.closing && state.recalls_waiting == 0;
        if usable && state.entries.change(name, inode) {
            return self.told_to_keep(&mut state);
        }
        state.entries.forget(name);
        Duration::ZERO
    }

    /// One end of a rename. The kernel keeps a moved entry for as long as it might have kept it in its old place; where
    /// we may not keep it, it has to go.
    fn moved(&self, directory: &Node, ticket: &Ticket<'_>, name: &[u8], inode: Option<InodeId>) {
        let kept = self.keep_own_change(directory, ticket, name, inode);
        if inode.is_some() && kept.is_zero() {
            self.post(Forget::Entry(directory.inode(), name.into()));
        }
    }

    /// Has the kernel forget something, without waiting.
    pub(super) fn post(&self, what: Forget) {
        if !self.notifier.try_post(what.clone()) {
            lock(&self.later.forget_again).push((self.now(), what));
        }
    }

    pub(super) fn make(&self, request: &wire::Make) -> Result<Made, Errno> {
        self.session.wait_trusted()?;
        let directory = self.node(InodeId::new(request.parent));
        let (_asking, mut ticket) = (directory.ask(), self.order.begin());
        let reply = self.call(&mut ticket, request)?;
        let (node, answered) = self.learn_node(&ticket, reply.node.as_ref())?;
        let of_parent = Answered::from_wire(reply.parent.as_ref(), reply.parent_lease.as_ref());
        self.entries_changed(directory.inode());
        self.changed(&node);
        if reply.created && request.kind == i32::from(Kind::Directory.to_wire()) {
            self.keep_emptiness(&node, &ticket, &answered, directory.inode());
        }
        let entry_valid = if request.unnamed {
            Duration::ZERO
        } else {
            self.keep_made(&directory, &ticket, &of_parent, &request.name, node.inode())
        };
        let brought_write = {
            let mut state = node.state();
            // Nobody else has written what is new.
            state.others_synced = reply.created && state.mode > Mode::None;
            // A grant is good under the WRITE lease only. An answer that is a repetition does not bring it, and one of a master
            // that has gone since does not count.
            answered.lease == Some((Mode::Write, state.grant)) && state.mode == Mode::Write
        };
        if let Some(grant) = reply.first_chunk.filter(|_| brought_write) {
            self.content(&node).give_grant(grant.into());
        }
        let answer = self.answer_by_name(&node, &answered, entry_valid)?;
        self.note_told_of_change(&node);
        Ok(Made { node, answer, created: reply.created })
    }

    /// Of a directory just made, every absent name is known: what is then made in it need not be looked up first.
    fn keep_emptiness(&self, made: &Node, ticket: &Ticket<'_>, answered: &Answered, parent: InodeId) {
        let now = self.now();
        let mut state = made.state();
        let usable = answered.lease.is_some()
            && made.may_keep(&state, ticket, answered, now)
            && !ticket.is_before(made.inode(), Stamp::Own)
            && !state.closing
            && state.recalls_waiting == 0;
        if usable {
            state.entries.learn_all(&Arc::from([]), parent);
        }
    }

    fn keep_made(
        &self,
        directory: &Node,
        ticket: &Ticket<'_>,
        of_parent: &Answered,
        name: &[u8],
        inode: InodeId,
    ) -> Duration {
        let now = self.now();
        let mut state = directory.state();
        directory.learn(&mut state, ticket, of_parent, now);
        let usable = of_parent.lease.is_some()
            && directory.may_keep(&state, ticket, of_parent, now)
            && !state.closing
            && state.recalls_waiting == 0;
        if usable && state.entries.change(name, Some(inode)) {
            return self.told_to_keep(&mut state);
        }
        state.entries.forget(name);
        Duration::ZERO
    }

    fn remove(&self, caller: &Caller, parent: InodeId, name: &[u8], directory: bool) -> Result<(), Errno> {
        Name::check(name)?;
        self.session.wait_trusted()?;
        let from = self.node(parent);
        let (_asking, mut ticket) = (from.ask(), self.order.begin());
        let request = wire::Unlink {
            caller: caller_to_wire(caller),
            parent: parent.get(),
            name: name.to_vec().into(),
            directory,
        };
        let reply = self.call(&mut ticket, &request)?;
        self.entries_changed(parent);
        self.learn_attributes(&ticket, reply.parent.as_ref());
        self.learn_attributes(&ticket, reply.removed.as_ref());
        self.keep_own_change(&from, &ticket, name, None);
        if let Some(removed) = reply.removed.filter(|_| reply.orphan) {
            self.orphaned(InodeId::new(removed.inode));
        }
        Ok(())
    }

    /// The master keeps the node for us although it has no name: to be released once nobody has it open.
    pub(super) fn orphaned(&self, inode: InodeId) {
        let open = self.table.get(inode).is_some_and(|node| {
            let mut state = node.state();
            state.orphan = true;
            state.open > 0
        });
        if !open {
            lock(&self.later.orphans).push(inode);
        }
    }
}
