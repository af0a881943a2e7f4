//! Requests about names: lookup, listing, make, link, unlink, rename.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session;

use super::parts::{attributes, attributes_of, caller, kind, name, node};
use super::{Surroundings, translations};
use crate::namespace::entries::Unnamed;
use crate::namespace::ops::link::Link;
use crate::namespace::ops::lookup::{Lookup, Wanted};
use crate::namespace::ops::make::{Content, Make, Place};
use crate::namespace::ops::read_directory::{Listing, ReadDirectory};
use crate::namespace::ops::rename::{Rename, Renamed, Target};
use crate::namespace::ops::unlink::{Removes, Unlink};
use crate::namespace::records::NodeKind;

/// Entries of one answer: with names of 255 bytes and attributes they stay below the frame's limit.
const ENTRIES_MAX: u32 = 8_192;

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

translations! {
    session::Lookup => Lookup,
        |request| Lookup {
            caller: caller(request.caller.as_ref())?,
            parent: InodeId::new(request.parent),
            wanted: wanted(request)?,
        },
        |(parent, found), surroundings| session::LookupReply {
            node: found.and_then(|found| node(&found, surroundings)),
            parent_lease: surroundings.lease(parent),
            first_chunk: None,
        };

    session::ReadDirectory => ReadDirectory,
        |request| ReadDirectory {
            caller: caller(request.caller.as_ref())?,
            inode: InodeId::new(request.inode),
            after: if request.after.is_empty() { None } else { Some(name(&request.after)?) },
            entries_max: request.entries_max.clamp(1, ENTRIES_MAX) as usize,
            with_attributes: request.with_attributes,
        },
        |listing, surroundings| listing_reply(listing, surroundings);

    session::Make => Make,
        |request| make(request)?,
        |made, surroundings| session::MakeReply {
            node: node(&made.node, surroundings),
            parent_lease: surroundings.lease(made.parent.inode),
            created: made.created,
            first_chunk: None,
            parent: attributes_of(&made.parent),
        };

    session::Link => Link,
        |request| Link {
            caller: caller(request.caller.as_ref())?,
            inode: InodeId::new(request.inode),
            parent: InodeId::new(request.parent),
            name: name(&request.name)?,
        },
        |linked, surroundings| session::LinkReply {
            node: node(&linked.node, surroundings),
            parent: attributes_of(&linked.parent),
        };

    session::Unlink => Unlink,
        |request| Unlink {
            caller: caller(request.caller.as_ref())?,
            parent: InodeId::new(request.parent),
            name: name(&request.name)?,
            removes: if request.directory { Removes::Directory } else { Removes::NonDirectory },
        },
        |unlinked, surroundings| session::UnlinkReply {
            removed: Some(attributes(unlinked.removed.inode, &unlinked.removed.record)),
            orphan: is_kept(&unlinked.removed, surroundings),
            parent: attributes_of(&unlinked.parent),
        };

    session::Rename => Rename,
        |request| Rename {
            caller: caller(request.caller.as_ref())?,
            parent: InodeId::new(request.parent),
            name: name(&request.name)?,
            new_parent: InodeId::new(request.new_parent),
            new_name: name(&request.new_name)?,
            target: target(request.flags)?,
        },
        |renamed, surroundings| rename_reply(&renamed, surroundings);
}

fn wanted(request: &session::Lookup) -> Result<Wanted, Errno> {
    Ok(match &request.name[..] {
        b"." => Wanted::Itself,
        b".." => Wanted::Parent,
        _ => Wanted::Entry(name(&request.name)?),
    })
}

fn listing_reply(listing: Listing, surroundings: &mut dyn Surroundings) -> session::ReadDirectoryReply {
    let entries = listing.entries.into_iter().map(|entry| session::DirectoryEntry {
        inode: entry.inode.get(),
        kind: entry.kind as i32,
        cookie: entry.cookie,
        node: entry.node.map(|record| session::Node {
            attributes: Some(attributes(entry.inode, &record)),
            lease: surroundings.lease(entry.inode),
        }),
        name: entry.name.into(),
    });
    session::ReadDirectoryReply {
        entries: entries.collect(),
        end: listing.end,
        parent_inode: listing.parent.get(),
        lease: surroundings.lease(listing.inode),
    }
}

fn make(request: &session::Make) -> Result<Make, Errno> {
    let kind = kind(request.kind)?;
    if (request.unnamed || request.open) && kind != NodeKind::File {
        return Err(Errno::EINVAL);
    }
    let place = match (request.unnamed, kind == NodeKind::File && !request.exclusive) {
        (true, _) => Place::Unnamed,
        (false, true) => Place::NameOrExisting(name(&request.name)?),
        (false, false) => Place::Name(name(&request.name)?),
    };
    let content = match kind {
        NodeKind::File => Content::File,
        NodeKind::Directory => Content::Directory,
        NodeKind::Symlink => Content::Symlink(request.target.to_vec()),
        NodeKind::CharacterDevice | NodeKind::BlockDevice => Content::Device(kind, request.device),
        NodeKind::Fifo | NodeKind::Socket => Content::Special(kind),
    };
    Ok(Make {
        caller: caller(request.caller.as_ref())?,
        parent: InodeId::new(request.parent),
        place,
        content,
        mode: request.mode,
        umask: request.umask,
    })
}

fn target(flags: u32) -> Result<Target, Errno> {
    match flags {
        0 => Ok(Target::Replace),
        RENAME_NOREPLACE => Ok(Target::Keep),
        RENAME_EXCHANGE => Ok(Target::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

/// After an exchange, `replaced` is the node that has the old name now; it has links.
fn rename_reply(renamed: &Renamed, surroundings: &dyn Surroundings) -> session::RenameReply {
    let replaced = renamed.replaced.as_ref().map(|replaced| attributes(replaced.inode, &replaced.record));
    session::RenameReply {
        moved: attributes_of(&renamed.moved),
        replaced: replaced.or_else(|| renamed.exchanged.as_ref().and_then(attributes_of)),
        orphan: renamed.replaced.as_ref().is_some_and(|replaced| is_kept(replaced, surroundings)),
        parent: attributes_of(&renamed.parent),
        new_parent: attributes_of(&renamed.new_parent),
    }
}

fn is_kept(unnamed: &Unnamed, surroundings: &dyn Surroundings) -> bool {
    unnamed.kept_for.contains(&surroundings.session())
}
