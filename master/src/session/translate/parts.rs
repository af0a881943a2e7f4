//! Parts of messages that several requests and replies share.

use bytes::Bytes;
use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::Name;
use rfs_proto::session;

use super::Surroundings;
use crate::namespace::ops::Node;
use crate::namespace::records::{InodeRecord, NodeKind, Stamp};
use crate::operation::Caller;

/// Supplementary groups that a process can have: `NGROUPS_MAX` of Linux's `limits.h`.
const GROUPS_MAX: usize = 65_536;

/// Bytes that one entry adds to the length that a directory shows.
const ENTRY_BYTES: u64 = 32;

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// Who asks; every request that needs it must say it.
///
/// # Errors
/// `EINVAL`.
pub fn caller(caller: Option<&session::Caller>) -> Result<Caller, Errno> {
    let caller = caller.ok_or(Errno::EINVAL)?;
    Ok(Caller { user: caller.user, group: caller.group, groups: list(&caller.groups, GROUPS_MAX)?.to_vec() })
}

/// An entry's name.
///
/// # Errors
/// Those of names.
pub fn name(bytes: &Bytes) -> Result<Name, Errno> {
    Ok(Name::new(bytes)?)
}

/// A list that must not be longer than this.
///
/// # Errors
/// `EINVAL`.
pub fn list<T>(items: &[T], items_max: usize) -> Result<&[T], Errno> {
    if items.len() <= items_max { Ok(items) } else { Err(Errno::EINVAL) }
}

/// A list of nodes.
///
/// # Errors
/// `EINVAL` if it is too long.
pub fn inodes(numbers: &[u64], items_max: usize) -> Result<Vec<InodeId>, Errno> {
    Ok(list(numbers, items_max)?.iter().copied().map(InodeId::new).collect())
}

/// A time, if there is one.
///
/// # Errors
/// `EINVAL` if its nanoseconds are a second or more.
pub fn time(time: Option<&session::Time>) -> Result<Option<Time>, Errno> {
    match time {
        Some(time) if time.nanoseconds >= NANOSECONDS_PER_SECOND => Err(Errno::EINVAL),
        Some(time) => Ok(Some(Time::new(time.seconds, time.nanoseconds))),
        None => Ok(None),
    }
}

/// A kind of node.
///
/// # Errors
/// `EINVAL` if there is none of that number.
pub fn kind(number: i32) -> Result<NodeKind, Errno> {
    NodeKind::try_from(number).map_err(|_| Errno::EINVAL)
}

/// The attributes of a node.
pub fn attributes(inode: InodeId, record: &InodeRecord) -> session::Attributes {
    let length = match record.kind() {
        NodeKind::Directory => record.entries * ENTRY_BYTES,
        NodeKind::Symlink => record.target.len() as u64,
        _ => record.length,
    };
    session::Attributes {
        inode: inode.get(),
        kind: record.kind,
        mode: record.mode,
        user: record.user,
        group: record.group,
        links: record.links,
        length,
        allocated: record.allocated,
        device: record.device,
        accessed: stamp(record.accessed),
        modified: stamp(record.modified),
        changed: stamp(record.changed),
        created: stamp(record.created),
        goal: record.goal,
        revision: record.revision,
        xattrs: Some(record.xattrs),
    }
}

/// The attributes of a node as an operation left it.
pub fn attributes_of(node: &Node) -> Option<session::Attributes> {
    Some(attributes(node.inode, &node.record))
}

/// A node with a lease on it.
pub fn node(node: &Node, surroundings: &mut dyn Surroundings) -> Option<session::Node> {
    Some(session::Node { attributes: attributes_of(node), lease: surroundings.lease(node.inode) })
}

fn stamp(stamp: Stamp) -> Option<session::Time> {
    Some(session::Time { seconds: stamp.seconds, nanoseconds: stamp.nanoseconds })
}
