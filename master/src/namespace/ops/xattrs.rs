//! Extended attributes, access control lists among them.
//!
//! | names | read by | written by | on |
//! |---|---|---|---|
//! | `user.*` | who may read the node | who may write it; in a sticky directory's own case its owner | files, directories |
//! | `trusted.*` | root; others do not see them | root | everything |
//! | `security.*` | everybody | root | everything |
//! | `system.posix_acl_access`, `_default` | everybody | the owner, root | all but symbolic links; default: directories |
//!
//! Setting an access ACL sets the permission bits with it; a list that says no more than the bits is not stored.

use std::ops::{Bound, ControlFlow};

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::{XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};

use super::Node;
use crate::namespace::acl::{ACCESS_XATTR, Acl, DEFAULT_XATTR};
use crate::namespace::metadata::Transaction;
use crate::namespace::permission::{self, READ, SET_GROUP, STICKY, WRITE};
use crate::namespace::records::{self, InodeRecord, NodeKind, XattrRecord};
use crate::operation::{Caller, Context, Need, Operation};

const CAPABILITIES: &[u8] = b"security.capability";

/// The kinds of names, each with rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    AccessAcl,
    DefaultAcl,
}

impl Namespace {
    fn of(name: &[u8]) -> Result<Namespace, Errno> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX {
            return Err(Errno::ERANGE);
        }
        if name.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let prefixes =
            [(&b"user."[..], Namespace::User), (b"trusted.", Namespace::Trusted), (b"security.", Namespace::Security)];
        match prefixes.into_iter().find(|(prefix, _)| name.starts_with(prefix)) {
            Some((prefix, _)) if name.len() == prefix.len() => Err(Errno::EINVAL),
            Some((_, namespace)) => Ok(namespace),
            None if name == ACCESS_XATTR => Ok(Namespace::AccessAcl),
            None if name == DEFAULT_XATTR => Ok(Namespace::DefaultAcl),
            None => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Value of an extended attribute.
#[derive(Debug, Clone)]
pub struct GetXattr {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// The attribute's full name.
    pub name: Vec<u8>,
}

impl Operation for GetXattr {
    type Outcome = Vec<u8>;
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let node = transaction.node(self.inode)?;
        match Namespace::of(&self.name)? {
            Namespace::User if !has_user_attributes(&node) => return Err(Errno::ENODATA),
            Namespace::User => permission::check(transaction, &self.caller, self.inode, &node, READ)?,
            Namespace::Trusted if !self.caller.is_root() => return Err(Errno::ENODATA),
            _ => {}
        }
        if node.xattrs == 0 {
            return Err(Errno::ENODATA);
        }
        transaction.xattr(self.inode, &self.name)?.ok_or(Errno::ENODATA)
    }
}

/// Names of a node's extended attributes.
#[derive(Debug, Clone)]
pub struct ListXattr {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
}

impl Operation for ListXattr {
    type Outcome = Vec<Vec<u8>>;
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        if transaction.node(self.inode)?.xattrs == 0 {
            return Ok(Vec::new());
        }
        let mut names = names_of(transaction, self.inode)?;
        names.retain(|name| self.caller.is_root() || !name.starts_with(b"trusted."));
        Ok(names)
    }
}

/// What becomes of an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XattrChange {
    /// It has this value.
    Set {
        /// The value.
        value: Vec<u8>,
        /// Whether it must exist before (`XATTR_REPLACE`) or must not (`XATTR_CREATE`).
        exists: Option<bool>,
    },
    /// It is removed.
    Remove,
}

/// Sets or removes an extended attribute.
#[derive(Debug, Clone)]
pub struct SetXattr {
    /// Who asks.
    pub caller: Caller,
    /// The node.
    pub inode: InodeId,
    /// The attribute's full name.
    pub name: Vec<u8>,
    /// What becomes of it.
    pub change: XattrChange,
}

impl Operation for SetXattr {
    type Outcome = Node;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(vec![Need::ChangeAttributes(self.inode)])
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Node, Errno> {
        let node = transaction.node(self.inode)?;
        let namespace = Namespace::of(&self.name)?;
        self.check_permission(transaction, namespace, &node)?;
        match namespace {
            Namespace::AccessAcl | Namespace::DefaultAcl => self.change_acl(transaction, namespace, &node)?,
            _ => self.change_plain(transaction)?,
        }
        let record = transaction.update(self.inode, |node| node.changed = context.now.into())?;
        Ok(Node::new(self.inode, record))
    }
}

impl SetXattr {
    fn check_permission(
        &self,
        transaction: &mut Transaction<'_>,
        namespace: Namespace,
        node: &InodeRecord,
    ) -> Result<(), Errno> {
        match namespace {
            Namespace::User if !has_user_attributes(node) => Err(Errno::EPERM),
            Namespace::User if node.is_directory() && node.mode & STICKY != 0 && !self.caller.owns(node) => {
                Err(Errno::EPERM)
            }
            Namespace::User => permission::check(transaction, &self.caller, self.inode, node, WRITE),
            Namespace::Trusted | Namespace::Security if !self.caller.is_root() => Err(Errno::EPERM),
            Namespace::AccessAcl | Namespace::DefaultAcl if node.kind() == NodeKind::Symlink => Err(Errno::EOPNOTSUPP),
            Namespace::AccessAcl | Namespace::DefaultAcl if !self.caller.owns(node) => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    fn change_plain(&self, transaction: &mut Transaction<'_>) -> Result<(), Errno> {
        let exists_already = transaction.xattr(self.inode, &self.name)?.is_some();
        match &self.change {
            XattrChange::Set { value, .. } if value.len() > XATTR_VALUE_BYTES_MAX => Err(Errno::E2BIG),
            XattrChange::Set { exists: Some(true), .. } | XattrChange::Remove if !exists_already => Err(Errno::ENODATA),
            XattrChange::Set { exists: Some(false), .. } if exists_already => Err(Errno::EEXIST),
            XattrChange::Set { value, .. } => put(transaction, self.inode, &self.name, value.clone()),
            XattrChange::Remove => delete(transaction, self.inode, &self.name),
        }
    }

    fn change_acl(
        &self,
        transaction: &mut Transaction<'_>,
        namespace: Namespace,
        node: &InodeRecord,
    ) -> Result<(), Errno> {
        let acl = match &self.change {
            XattrChange::Set { value, .. } if value.len() > XATTR_VALUE_BYTES_MAX => return Err(Errno::E2BIG),
            XattrChange::Set { value, .. } => Acl::decode(value)?,
            XattrChange::Remove => None,
        };
        if namespace == Namespace::DefaultAcl && !node.is_directory() {
            return if acl.is_some() { Err(Errno::EACCES) } else { Ok(()) };
        }
        let keeps_set_group = self.caller.keeps_set_group(node.group);
        let is_access = namespace == Namespace::AccessAcl;
        let stored = acl.as_ref().filter(|acl| !is_access || !acl.is_minimal());
        match stored {
            Some(acl) => put(transaction, self.inode, &self.name, acl.encode())?,
            None => delete(transaction, self.inode, &self.name)?,
        }
        let stores = stored.is_some();
        transaction.update(self.inode, |node| match (is_access, &acl) {
            (true, Some(acl)) => {
                let set_group = if keeps_set_group { 0 } else { SET_GROUP };
                node.mode = (node.mode & !0o777 & !set_group) | acl.mode_bits();
                node.access_acl = stores;
            }
            (true, None) => node.access_acl = false,
            (false, _) => node.default_acl = stores,
        })?;
        Ok(())
    }
}

/// Removes what lets a program run with more rights than its caller; a write or a new owner ends that.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn drop_file_capabilities(transaction: &mut Transaction<'_>, inode: InodeId) -> Result<(), Errno> {
    if transaction.node(inode)?.xattrs == 0 { Ok(()) } else { delete(transaction, inode, CAPABILITIES) }
}

fn has_user_attributes(node: &InodeRecord) -> bool {
    matches!(node.kind(), NodeKind::File | NodeKind::Directory)
}

fn names_of(transaction: &mut Transaction<'_>, inode: InodeId) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    transaction.scan_of::<XattrRecord>(inode.get(), Bound::Unbounded, &mut |name, _| {
        names.push(name.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(names)
}

/// Stores a value; a name more must still fit into what can be listed.
fn put(transaction: &mut Transaction<'_>, inode: InodeId, name: &[u8], value: Vec<u8>) -> Result<(), Errno> {
    if transaction.xattr(inode, name)?.is_none() {
        let listed: usize = names_of(transaction, inode)?.iter().map(|name| name.len() + 1).sum();
        if listed + name.len() + 1 > XATTR_LIST_BYTES_MAX {
            return Err(Errno::ENOSPC);
        }
        transaction.update(inode, |node| node.xattrs += 1)?;
    }
    transaction.write(records::xattr_key(inode, name), &XattrRecord { value });
    Ok(())
}

fn delete(transaction: &mut Transaction<'_>, inode: InodeId, name: &[u8]) -> Result<(), Errno> {
    if transaction.xattr(inode, name)?.is_some() {
        transaction.update(inode, |node| node.xattrs = node.xattrs.saturating_sub(1))?;
        transaction.remove::<XattrRecord>(records::xattr_key(inode, name));
    }
    Ok(())
}

#[cfg(test)]
#[path = "xattrs_test.rs"]
mod tests;
