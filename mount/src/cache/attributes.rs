//! Attributes of a node as the client keeps and answers them, and their translation from the wire.
//!
//! prost types of attributes stop here. Whatever the master sends is checked: an unknown kind is an error, since there is
//! nothing sensible to show for it.

use rfs_common::clock::Time;
use rfs_common::ids::InodeId;
use rfs_proto::session;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// From the wire; nothing for a number that is not a kind.
    pub fn from_wire(number: i32) -> Option<Kind> {
        match session::NodeKind::try_from(number).ok()? {
            session::NodeKind::Unspecified => None,
            session::NodeKind::File => Some(Kind::File),
            session::NodeKind::Directory => Some(Kind::Directory),
            session::NodeKind::Symlink => Some(Kind::Symlink),
            session::NodeKind::CharacterDevice => Some(Kind::CharacterDevice),
            session::NodeKind::BlockDevice => Some(Kind::BlockDevice),
            session::NodeKind::Fifo => Some(Kind::Fifo),
            session::NodeKind::Socket => Some(Kind::Socket),
        }
    }

    /// For the wire.
    pub fn to_wire(self) -> session::NodeKind {
        match self {
            Kind::File => session::NodeKind::File,
            Kind::Directory => session::NodeKind::Directory,
            Kind::Symlink => session::NodeKind::Symlink,
            Kind::CharacterDevice => session::NodeKind::CharacterDevice,
            Kind::BlockDevice => session::NodeKind::BlockDevice,
            Kind::Fifo => session::NodeKind::Fifo,
            Kind::Socket => session::NodeKind::Socket,
        }
    }
}

/// Attributes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The node.
    pub inode: InodeId,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Names it has.
    pub links: u32,
    /// Bytes.
    pub length: u64,
    /// Bytes that `st_blocks` is made of.
    pub allocated: u64,
    /// Device number as the kernel encodes it, of device nodes.
    pub device: u32,
    /// Last access.
    pub accessed: Time,
    /// Last change of the data.
    pub modified: Time,
    /// Last change of anything.
    pub changed: Time,
    /// When it was made.
    pub created: Time,
    /// Copies wanted.
    pub goal: u32,
    /// Rises with every change; orders two answers about one node.
    pub revision: u64,
    /// Extended attributes it has, if the master says so.
    pub xattrs: Option<u32>,
}

impl Attributes {
    /// From the wire; nothing if the node has no kind that is known here.
    pub fn from_wire(wire: &session::Attributes) -> Option<Attributes> {
        Some(Attributes {
            inode: InodeId::new(wire.inode),
            kind: Kind::from_wire(wire.kind)?,
            mode: wire.mode & 0o7777,
            user: wire.user,
            group: wire.group,
            links: wire.links,
            length: wire.length,
            allocated: wire.allocated,
            device: wire.device,
            accessed: time_from_wire(wire.accessed.as_ref()),
            modified: time_from_wire(wire.modified.as_ref()),
            changed: time_from_wire(wire.changed.as_ref()),
            created: time_from_wire(wire.created.as_ref()),
            goal: wire.goal,
            revision: wire.revision,
            xattrs: wire.xattrs,
        })
    }
}

/// A time from the wire; one that is missing is 1970.
pub fn time_from_wire(wire: Option<&session::Time>) -> Time {
    wire.map_or(Time::EPOCH, |time| Time::new(time.seconds, time.nanoseconds))
}

/// A time for the wire.
pub fn time_to_wire(time: Time) -> session::Time {
    session::Time { seconds: time.seconds(), nanoseconds: time.nanoseconds() }
}
