//! Changes of names and extended attributes that take more than one call of the client.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::Adapter;
use crate::client::{AttributeChanges, Caller, NewNode};

impl Adapter {
    /// Ends a change of names; with `dirsync` once it is durable.
    pub(super) fn names_changed<T>(
        &self,
        caller: &Caller,
        parent: InodeId,
        result: Result<T, Errno>,
    ) -> Result<T, Errno> {
        let value = result?;
        if self.synchronous.names {
            let opened = self.client.open_directory(caller, parent)?;
            let synced = self.client.fsync_directory(opened.handle);
            self.client.release_directory(opened.handle);
            synced?;
        }
        Ok(value)
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
