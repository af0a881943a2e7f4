//! Changes of names and extended attributes that take more than one call of the client.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::Adapter;
use crate::client::{AttributeChanges, Caller, Client, NewNode, NodeAnswer, Opened};

impl Adapter {
    /// Ends a change of names; with `dirsync` once it is durable. If that fails, the kernel takes nothing of the answer, so
    /// what was counted on that is given back.
    pub(super) fn names_changed<T: GiveBack>(
        &self,
        caller: &Caller,
        parent: InodeId,
        result: Result<T, Errno>,
    ) -> Result<T, Errno> {
        let value = result?;
        if self.synchronous.names
            && let Err(errno) = self.sync_names(caller, parent)
        {
            value.give_back(&self.client);
            return Err(errno);
        }
        Ok(value)
    }

    fn sync_names(&self, caller: &Caller, parent: InodeId) -> Result<(), Errno> {
        let opened = self.client.open_directory(caller, parent, 0)?;
        let synced = self.client.fsync_directory(opened.handle);
        self.client.release_directory(opened.handle);
        synced
    }

    /// Sets an attribute, and clears set-group-id if the kernel asks for it with an ACL.
    pub(super) fn set_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        flags: i32,
        kill_set_group_id: bool,
    ) -> Result<(), Errno> {
        self.client.set_xattr(caller, inode, name, value, flags as u32)?;
        if kill_set_group_id {
            let mode = self.client.get_attributes(inode)?.attributes.mode;
            if mode & libc::S_ISGID != 0 {
                let changes = AttributeChanges { mode: Some(mode & !libc::S_ISGID), ..AttributeChanges::default() };
                self.client.set_attributes(caller, inode, &changes)?;
            }
        }
        Ok(())
    }
}

/// An answer that the kernel will not get.
pub(super) trait GiveBack {
    /// Undoes what the client counts on the kernel to give back: lookups and handles.
    fn give_back(self, client: &Client);
}

impl GiveBack for () {
    fn give_back(self, _client: &Client) {}
}

impl GiveBack for NodeAnswer {
    fn give_back(self, client: &Client) {
        client.forget(self.attributes.inode, 1);
    }
}

impl GiveBack for (NodeAnswer, Opened) {
    fn give_back(self, client: &Client) {
        let (node, opened) = self;
        client.release(opened.handle, None);
        node.give_back(client);
    }
}

pub(super) fn new_node(mode: u32, umask: u32) -> NewNode {
    NewNode { mode: mode & 0o7777, umask: umask & 0o777 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_get_permission_bits_only() {
        assert_eq!(new_node(libc::S_IFREG | 0o6755, 0o7022), NewNode { mode: 0o6755, umask: 0o022 });
    }
}
