//! Directories that another mount has moved.
//!
//! The kernel has one name for a directory. Told of it under another, it moves what it has from the one to the other, but
//! not while a rename is under way on this mount: it answers ESTALE then, also where that rename itself is what meets
//! the directory in its new place. So a name that a directory has no more is dropped, and not only made to expire: when the
//! other mount's change is told here, and, for names of which nothing was told, when the new name is looked up.
//!
//! A lookup may be that of a rename which holds the old name's directory in the kernel. The name can be dropped only when that
//! rename has let go, which it does with ESTALE before it tries once more; so the wait for the kernel is short.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::ids::InodeId;

use super::core::{Core, Node};
use super::kernel::Forget;
use super::types::Kind;
use crate::cache::node::{EntryName, NodeState};

/// How long a lookup waits for the kernel to drop the old name.
const DROPPED_WITHIN: Duration = Duration::from_millis(20);

impl Core {
    /// The kernel is about to be told that this directory has this name.
    pub(super) fn directory_is_found(&self, inode: InodeId, parent: InodeId, name: &[u8]) {
        let Some(node) = self.table.get(inode) else { return };
        let Some(old) = note_name(&mut node.state(), parent, name) else { return };
        let old_name = Forget::Directory(old.directory, old.name.clone());
        if !self.notifier.drop_within(old_name, DROPPED_WITHIN) {
            // Whoever asks next has it dropped again.
            node.state().known_as = Some(old);
        }
    }

    /// Something is about to be looked up. What a rename found and the kernel could not drop, since that rename had the old directory,
    /// can be dropped now: having got ESTALE it looks up its path once more, and holds nothing until it comes to the last names.
    pub(super) fn let_names_be_dropped(&self) {
        self.notifier.let_late_drops_end(DROPPED_WITHIN);
    }

    /// The same, with a listing, of which the kernel leaves out what it cannot take in.
    pub(super) fn directory_is_listed(&self, node: &Node, parent: InodeId, name: &[u8]) {
        let old = note_name(&mut node.state(), parent, name);
        if let Some(EntryName { directory, name }) = old {
            self.post(Forget::Directory(directory, name));
        }
    }

    /// This mount has given a node another name, which the kernel knows.
    pub(super) fn directory_was_renamed(&self, inode: InodeId, parent: InodeId, name: &[u8]) {
        let Some(node) = self.table.get(inode) else { return };
        let mut state = node.state();
        if state.known_as.is_some() {
            state.known_as = Some(EntryName { directory: parent, name: name.into() });
        }
    }

    /// What the kernel is to forget when another mount changes a name that is known to be this node's.
    pub(super) fn name_to_forget(&self, node: Option<Arc<Node>>, parent: InodeId, name: &[u8]) -> Forget {
        let is_directory = |node: Arc<Node>| {
            let state = node.state();
            state.attributes.as_ref().is_some_and(|known| known.kind == Kind::Directory)
        };
        let how = if node.is_some_and(is_directory) { Forget::Directory } else { Forget::Entry };
        how(parent, name.into())
    }
}

/// Notes the name that the kernel is told; the one that it may still have.
fn note_name(state: &mut NodeState, parent: InodeId, name: &[u8]) -> Option<EntryName> {
    if state.known_as.as_ref().is_some_and(|known| known.is(parent, name)) {
        return None;
    }
    state.known_as.replace(EntryName { directory: parent, name: name.into() })
}
