//! Making nodes: mkdir, mknod, symlink, create, and files that have no name yet.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::{Name, SYMLINK_BYTES_MAX};

use super::Node;
use crate::namespace::acl::{ACCESS_XATTR, Acl, DEFAULT_XATTR};
use crate::namespace::entries::{self, Named};
use crate::namespace::metadata::Transaction;
use crate::namespace::permission::{self, GROUP_EXECUTE, MODE_BITS, SET_GROUP, SET_USER};
use crate::namespace::records::{self, InodeRecord, NodeKind, OrphanRecord, XattrRecord};
use crate::operation::{Caller, Context, Need, Operation};

/// Where a new node goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Under this name, which must be free.
    Name(Name),
    /// Under this name; a regular file that has it already is the outcome instead.
    NameOrExisting(Name),
    /// Under no name: the file is the session's until it is linked or released.
    Unnamed,
}

/// What a new node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A device, by kind and by number as the kernel encodes it.
    Device(NodeKind, u32),
    /// A named pipe or a socket.
    Special(NodeKind),
}

impl Content {
    fn kind(&self) -> NodeKind {
        match self {
            Content::File => NodeKind::File,
            Content::Directory => NodeKind::Directory,
            Content::Symlink(_) => NodeKind::Symlink,
            Content::Device(kind, _) | Content::Special(kind) => *kind,
        }
    }
}

/// Makes a node in a directory.
#[derive(Debug, Clone)]
pub struct Make {
    /// Who asks, and owns the node.
    pub caller: Caller,
    /// The directory.
    pub parent: InodeId,
    /// Under which name, if any.
    pub place: Place,
    /// What it is.
    pub content: Content,
    /// Its permission bits.
    pub mode: u32,
    /// The bits that the caller never gives, unless the directory has a default ACL.
    pub umask: u32,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The node.
    pub node: Node,
    /// Whether it is new.
    pub created: bool,
    /// The directory as it is afterwards.
    pub parent: Node,
}

impl Operation for Make {
    type Outcome = Made;
    const CHANGES: bool = true;

    fn needs(&self, view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        match &self.place {
            Place::Unnamed => Ok(Vec::new()),
            Place::Name(name) => Ok(vec![Need::ChangeEntries(self.parent, vec![name.clone()])]),
            Place::NameOrExisting(name) => Ok(vec![match entries::find(view, self.parent, name)? {
                Some(existing) => Need::Read(existing),
                None => Need::ChangeEntries(self.parent, vec![name.clone()]),
            }]),
        }
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Made, Errno> {
        let parent = permission::searched(transaction, &self.caller, self.parent)?;
        if let Some(existing) = self.existing(transaction)? {
            return Ok(Made { node: existing, created: false, parent: Node::new(self.parent, parent) });
        }
        if parent.links == 0 {
            return Err(Errno::ENOENT);
        }
        permission::check_entry_change(transaction, &self.caller, self.parent, &parent)?;
        self.check_content(&parent)?;
        let node = self.make(transaction, &parent, context)?;
        let parent = match &self.place {
            Place::Name(name) | Place::NameOrExisting(name) => {
                let named = Named { inode: node.inode, kind: node.record.kind() };
                entries::add(transaction, self.parent, name, named, context.now)?
            }
            Place::Unnamed => {
                let record = OrphanRecord { sessions: vec![context.session.get()], nameable: true };
                transaction.put_orphan(node.inode, &record)?;
                transaction.node(self.parent)?
            }
        };
        Ok(Made { node, created: true, parent: Node::new(self.parent, parent) })
    }
}

impl Make {
    /// The node that has the name already, if it may be opened instead.
    fn existing(&self, transaction: &mut Transaction<'_>) -> Result<Option<Node>, Errno> {
        let (name, opens) = match &self.place {
            Place::Name(name) => (name, false),
            Place::NameOrExisting(name) => (name, true),
            Place::Unnamed => return Ok(None),
        };
        let Some(inode) = entries::find(transaction, self.parent, name)? else { return Ok(None) };
        let record = transaction.node(inode)?;
        match record.kind() {
            _ if !opens => Err(Errno::EEXIST),
            NodeKind::File => Ok(Some(Node::new(inode, record))),
            NodeKind::Directory => Err(Errno::EISDIR),
            // The caller's kernel found nothing there a moment ago; this makes it look again and follow what it finds.
            _ => Err(Errno::ESTALE),
        }
    }

    fn check_content(&self, parent: &InodeRecord) -> Result<(), Errno> {
        match &self.content {
            Content::Directory => entries::check_room_for_subdirectory(parent),
            Content::Device(..) if !self.caller.is_root() => Err(Errno::EPERM),
            Content::Symlink(target) if target.is_empty() => Err(Errno::ENOENT),
            Content::Symlink(target) if target.len() > SYMLINK_BYTES_MAX => Err(Errno::ENAMETOOLONG),
            Content::Symlink(target) if target.contains(&0) => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    fn make(&self, transaction: &mut Transaction<'_>, parent: &InodeRecord, context: &Context<'_>) -> Result<Node, Errno> {
        let inode = transaction.new_inode_id(self.parent)?;
        let now = context.now.into();
        let mut record = InodeRecord {
            mode: self.mode & MODE_BITS,
            user: self.caller.user,
            group: self.caller.group,
            links: 1,
            accessed: now,
            modified: now,
            changed: now,
            created: now,
            goal: parent.goal,
            revision: 1,
            ..InodeRecord::default()
        };
        record.set_kind(self.content.kind());
        match &self.content {
            Content::Directory => {
                record.links = 2;
                record.parent = self.parent.get();
                record.cookie_next = entries::COOKIE_FIRST;
                record.mode &= !(SET_USER | SET_GROUP);
            }
            Content::Symlink(target) => {
                record.target.clone_from(target);
                record.mode = 0o777;
            }
            Content::Device(_, device) => record.device = *device,
            Content::File | Content::Special(_) => {}
        }
        if self.place == Place::Unnamed {
            record.links = 0;
        }
        self.inherit_group(parent, &mut record);
        self.inherit_acl(transaction, parent, inode, &mut record)?;
        transaction.add_node(inode, &record)?;
        Ok(Node::new(inode, record))
    }

    /// In a set-group-id directory nodes get its group, and directories the bit; programs that would run as a group of which
    /// the caller is no member lose the bit.
    fn inherit_group(&self, parent: &InodeRecord, record: &mut InodeRecord) {
        if parent.mode & SET_GROUP == 0 {
            return;
        }
        record.group = parent.group;
        let runs_as_group = record.mode & (SET_GROUP | GROUP_EXECUTE) == SET_GROUP | GROUP_EXECUTE;
        if record.is_directory() {
            record.mode |= SET_GROUP;
        } else if runs_as_group && !self.caller.keeps_set_group(parent.group) {
            record.mode &= !SET_GROUP;
        }
    }

    /// A default ACL of the directory takes the place of the umask.
    fn inherit_acl(
        &self,
        transaction: &mut Transaction<'_>,
        parent: &InodeRecord,
        inode: InodeId,
        record: &mut InodeRecord,
    ) -> Result<(), Errno> {
        if record.kind() == NodeKind::Symlink {
            return Ok(());
        }
        let default = match parent.default_acl {
            true => transaction.xattr(self.parent, DEFAULT_XATTR)?,
            false => None,
        };
        let Some(value) = default else {
            record.mode &= !(self.umask & 0o777);
            return Ok(());
        };
        let Some(acl) = Acl::decode(&value).map_err(|_| Errno::EIO)? else { return Ok(()) };
        let access = acl.inherited(record.mode);
        record.mode = record.mode & !0o777 | access.mode_bits();
        if !access.is_minimal() {
            record.access_acl = true;
            record.xattrs += 1;
            transaction.write(records::xattr_key(inode, ACCESS_XATTR), &XattrRecord { value: access.encode() });
        }
        if record.is_directory() {
            record.default_acl = true;
            record.xattrs += 1;
            transaction.write(records::xattr_key(inode, DEFAULT_XATTR), &XattrRecord { value });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "make_test.rs"]
mod tests;
