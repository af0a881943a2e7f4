//! The client's answers sent to the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{
    FileHandle, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr,
};
use rfs_common::errno::Errno;

use super::files::opened_as;
use super::reply::{self, Nodes, XattrAnswer};
use super::{Adapter, Mapping};
use crate::client::{AttributesAnswer, Entry, KERNEL_VALID, NodeAnswer, Opened, Taken};

/// The master never uses an inode number twice, so every node has the same generation.
const GENERATION: Generation = Generation(0);

impl Adapter {
    pub(super) fn answer_entry(&self, answer: Result<NodeAnswer, Errno>, reply: ReplyEntry) {
        match answer {
            Ok(node) => {
                let attributes = reply::attributes(&node.attributes, self.nodes().node(node.attributes.inode));
                reply.entry_with_ttls(&node.attribute_valid, &node.entry_valid, &attributes, GENERATION);
            }
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    pub(super) fn answer_created(&self, answer: Result<(NodeAnswer, Opened), Errno>, flags: i32, reply: ReplyCreate) {
        match answer {
            Ok((node, opened)) => {
                let attributes = reply::attributes(&node.attributes, self.nodes().node(node.attributes.inode));
                let valid = reply::shorter(node.attribute_valid, node.entry_valid);
                reply.created(
                    &valid,
                    &attributes,
                    GENERATION,
                    FileHandle(opened.handle.0),
                    opened_as(opened, flags, self.mapping),
                );
            }
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }
}

pub(super) fn answer_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

pub(super) fn answer_attributes(answer: Result<AttributesAnswer, Errno>, reply: ReplyAttr) {
    match answer {
        Ok(answer) => {
            // This is what st_ino shows, of the root, too.
            let number = INodeNo(answer.attributes.inode.get());
            reply.attr(&answer.attribute_valid, &reply::attributes(&answer.attributes, number));
        }
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

pub(super) fn answer_opened(answer: Result<Opened, Errno>, flags: i32, mapping: Mapping, reply: ReplyOpen) {
    match answer {
        Ok(opened) => reply.opened(FileHandle(opened.handle.0), opened_as(opened, flags, mapping)),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

pub(super) fn answer_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value.and_then(|value| XattrAnswer::for_buffer(size, value.len()).map(|answer| (answer, value))) {
        Ok((XattrAnswer::Size(needed), _)) => reply.size(needed),
        Ok((XattrAnswer::Value, value)) => reply.data(&value),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

pub(super) fn answer_written(written: Result<usize, Errno>, reply: ReplyWrite) {
    match written.and_then(|bytes| u32::try_from(bytes).map_err(|_| Errno::EOVERFLOW)) {
        Ok(bytes) => reply.written(bytes),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

/// Room in the answer of a directory request.
pub(super) fn taken(is_full: bool) -> Taken {
    if is_full { Taken::No } else { Taken::Yes }
}

pub(super) fn add_entry(reply: &mut ReplyDirectory, entry: &Entry<'_>) -> Taken {
    let name = OsStr::from_bytes(entry.name);
    taken(reply.add(INodeNo(entry.inode.get()), entry.next_offset, reply::file_type(entry.kind), name))
}

pub(super) fn add_entry_with_node(reply: &mut ReplyDirectoryPlus, entry: &Entry<'_>, nodes: Nodes) -> Taken {
    let (attributes, valid) = match &entry.node {
        Some(node) => {
            let attributes = reply::attributes(&node.attributes, nodes.node(entry.inode));
            (attributes, reply::shorter(node.attribute_valid, node.entry_valid))
        }
        None => (reply::no_attributes(entry.kind), KERNEL_VALID),
    };
    let name = OsStr::from_bytes(entry.name);
    taken(reply.add(INodeNo(entry.inode.get()), entry.next_offset, name, &valid, &attributes, GENERATION))
}
