//! Requests about attributes, extended ones among them, and about the whole filesystem.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session;

use super::parts::{caller, inodes, list, node, time};
use super::{Surroundings, translations};
use crate::namespace::ops::inspect::{Access, GetAttributes, ReadSymlink, StatFilesystem};
use crate::namespace::ops::release::ReleaseOrphans;
use crate::namespace::ops::set_attributes::{LengthRight, SetAttributes, TimeChange};
use crate::namespace::ops::touch::{AccessRule, Seen, Touch, TouchNodes};
use crate::namespace::ops::xattrs::{GetXattr, ListXattr, SetXattr, XattrChange};
use crate::namespace::records::SystemRecord;

/// Nodes of one Release.
const RELEASED_MAX: usize = 100_000;
/// Nodes of one Touch.
const TOUCHED_MAX: usize = 1_024;
/// What statfs takes for the limit of nodes; there is none but the master's disk.
const INODES_MAX: u64 = 1 << 40;

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;
const ACCESS_MASK: u32 = 7;

translations! {
    session::GetAttributes => GetAttributes,
        |request| GetAttributes { inode: InodeId::new(request.inode) },
        |found, surroundings| session::NodeReply { node: node(&found, surroundings) };

    session::SetAttributes => SetAttributes,
        |request| set_attributes(request)?,
        |changed, surroundings| session::NodeReply { node: node(&changed, surroundings) };

    session::Touch => TouchNodes,
        |request| TouchNodes { touches: touches(&request.nodes, |node| Seen::Revision(node.revision))? },
        |touched, _| session::TouchReply {
            results: touched
                .iter()
                .map(|touched| session::TouchResult { revision: touched.revision, applied: touched.applied })
                .collect(),
        };

    session::ReadSymlink => ReadSymlink,
        |request| ReadSymlink { inode: InodeId::new(request.inode) },
        |(inode, target), surroundings| session::ReadSymlinkReply {
            target: target.into(),
            lease: surroundings.lease(inode),
        };

    session::Access => Access,
        |request| access(request)?,
        |(), _| session::Empty {};

    session::GetXattr => GetXattr,
        |request| GetXattr {
            caller: caller(request.caller.as_ref())?,
            inode: InodeId::new(request.inode),
            name: request.name.to_vec(),
        },
        |value, _| session::GetXattrReply { value: value.into() };

    session::ListXattr => ListXattr,
        |request| ListXattr { caller: caller(request.caller.as_ref())?, inode: InodeId::new(request.inode) },
        |names, _| session::ListXattrReply { names: names.into_iter().map(Into::into).collect() };

    session::SetXattr => SetXattr,
        |request| SetXattr {
            caller: caller(request.caller.as_ref())?,
            inode: InodeId::new(request.inode),
            name: request.name.to_vec(),
            change: xattr_change(request)?,
        },
        |_, _| session::Empty {};

    session::StatFilesystem => StatFilesystem,
        |_request| StatFilesystem,
        |system, surroundings| filesystem_reply(&system, surroundings);

    session::Release => ReleaseOrphans,
        |request| ReleaseOrphans { inodes: inodes(&request.orphans, RELEASED_MAX)? },
        |_, _| session::Empty {};
}

fn set_attributes(request: &session::SetAttributes) -> Result<SetAttributes, Errno> {
    Ok(SetAttributes {
        mode: request.mode,
        user: request.user,
        group: request.group,
        length: request.length,
        length_right: if request.by_descriptor { LengthRight::Descriptor } else { LengthRight::Path },
        accessed: time_change(request.accessed.as_ref(), request.accessed_now)?,
        modified: time_change(request.modified.as_ref(), request.modified_now)?,
        changed: time(request.changed.as_ref())?,
        kill_set_id: request.kill_set_id,
        ..SetAttributes::of(caller(request.caller.as_ref())?, InodeId::new(request.inode))
    })
}

/// Accesses of nodes as a client tells them.
///
/// # Errors
/// `EINVAL` if there are too many, or one says no time.
pub(in crate::session) fn touches(
    nodes: &[session::TouchedNode],
    seen: impl Fn(&session::TouchedNode) -> Seen,
) -> Result<Vec<Touch>, Errno> {
    let touch = |node: &session::TouchedNode| {
        let accessed = time(node.accessed.as_ref())?.ok_or(Errno::EINVAL)?;
        let rule = if node.always { AccessRule::Always } else { AccessRule::WhenDue };
        Ok(Touch { inode: InodeId::new(node.inode), accessed, seen: seen(node), rule })
    };
    list(nodes, TOUCHED_MAX)?.iter().map(touch).collect()
}

fn time_change(given: Option<&session::Time>, now: bool) -> Result<TimeChange, Errno> {
    Ok(match (time(given)?, now) {
        (_, true) => TimeChange::Now,
        (Some(time), false) => TimeChange::To(time),
        (None, false) => TimeChange::Keep,
    })
}

fn access(request: &session::Access) -> Result<Access, Errno> {
    if request.mask & !ACCESS_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = caller(request.caller.as_ref())?;
    Ok(Access { caller, inode: InodeId::new(request.inode), mask: request.mask })
}

fn xattr_change(request: &session::SetXattr) -> Result<XattrChange, Errno> {
    let exists = match request.flags {
        0 => None,
        XATTR_CREATE => Some(false),
        XATTR_REPLACE => Some(true),
        _ => return Err(Errno::EINVAL),
    };
    Ok(if request.remove { XattrChange::Remove } else { XattrChange::Set { value: request.value.to_vec(), exists } })
}

fn filesystem_reply(system: &SystemRecord, surroundings: &dyn Surroundings) -> session::StatFilesystemReply {
    let space = surroundings.space();
    session::StatFilesystemReply {
        total: space.total,
        free: space.free,
        available: space.free,
        inodes: INODES_MAX,
        inodes_free: INODES_MAX.saturating_sub(system.inodes),
    }
}
