//! Calls about the layout of a file: fallocate, seeking data and holes, copying ranges.

use std::ops::Range;
use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::name::FILE_BYTES_MAX;
use rfs_proto::session as wire;

use super::Client;
use super::bytes::Durability;
use super::core::{Core, Node, caller_to_wire};
use super::types::{Caller, Handle, ReadTarget, Seek, WriteOrigin};
use crate::cache::node::Mode;
use crate::data::ChunkPlaces;

/// Bytes of a chunk.
const CHUNK_BYTES: u64 = 64 << 20;
/// Chunks asked for at once.
const CHUNKS_PER_LOCATE: u32 = 1024;
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

impl Client {
    /// fallocate(2): mode 0 and KEEP_SIZE (nothing is reserved: space is a matter of the cluster's), PUNCH_HOLE,
    /// ZERO_RANGE. Changes times and set-id bits as a write does.
    ///
    /// # Errors
    /// EOPNOTSUPP for other modes, EINVAL, EFBIG; and what writing fails with.
    pub fn fallocate(&self, caller: &Caller, handle: Handle, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        const KNOWN: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let open = self.core.handles.file(handle)?;
        let (keep_size, punch) = (mode & libc::FALLOC_FL_KEEP_SIZE != 0, mode & libc::FALLOC_FL_PUNCH_HOLE != 0);
        let zero = mode & libc::FALLOC_FL_ZERO_RANGE != 0;
        if mode & !KNOWN != 0 || (punch && (zero || !keep_size)) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !open.writable {
            return Err(Errno::EBADF);
        }
        let end = offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let zeroed = (punch || zero) && self.core.zero_range(caller, &open.node, offset, end)?;
        let extended = !keep_size && self.core.extend(caller, &open.node, end)?;
        self.core.note_layout_change(caller, &open.node, zeroed || extended)
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// ENXIO at or beyond the end of the file, or without more data.
    pub fn seek(&self, handle: Handle, offset: u64, seek: Seek) -> Result<u64, Errno> {
        let open = self.core.handles.file(handle)?;
        self.core.commit_if_written(&open.node)?;
        let _used = self.core.use_lease(&open.node, Mode::Read)?;
        let length = self.core.length(&open.node);
        if offset >= length {
            return Err(Errno::ENXIO);
        }
        match seek {
            Seek::Data => self.core.next_data(&open.node, offset, length)?.ok_or(Errno::ENXIO),
            Seek::Hole => self.core.next_hole(&open.node, offset, length),
        }
    }

    /// Copies a range between files, or within one, and says how much; less at the end of the source.
    ///
    /// # Errors
    /// EBADF; what reading or writing failed with, if nothing was copied before.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        length: u64,
    ) -> Result<u64, Errno> {
        let core = &*self.core;
        let (source, target) = (core.handles.file(from)?, core.handles.file(to)?);
        if !source.readable || !target.writable {
            return Err(Errno::EBADF);
        }
        let mut copied = 0;
        let mut piece = Vec::new();
        // The kernel does not say whether the writer may keep set-id bits, as it does with a write.
        let origin = WriteOrigin::Call { kill_set_id: caller.user != 0, appends: false };
        while copied < length {
            let size = (length - copied).min(COPY_BYTES as u64) as usize;
            let read = core.read(&source, from_offset + copied, size, (ReadTarget::Caller, &mut piece), &|| true);
            let step = read.and_then(|count| match count {
                0 => Ok(0),
                _ => core.write(&target, to_offset + copied, &piece[..count], origin).map(|()| count),
            });
            match step {
                Err(errno) if copied == 0 => return Err(errno),
                Err(_) => break,
                Ok(0) => break,
                Ok(count) => copied += count as u64,
            }
        }
        Ok(copied)
    }
}

impl Core {
    /// Makes a range read as zeros: whole chunks are dropped, parts are zeroed where they are. Whether there was any.
    fn zero_range(&self, caller: &Caller, node: &Arc<Node>, offset: u64, end: u64) -> Result<bool, Errno> {
        let _used = self.use_lease(node, Mode::Write)?;
        self.commit(node, Durability::Acknowledged, None)?;
        let content = self.content(node);
        let end = end.min(self.length(node));
        if offset >= end {
            return Ok(false);
        }
        // A chunk that reaches the end of the file is whole if the range reaches the end.
        let first = offset.div_ceil(CHUNK_BYTES);
        let last = if end == self.length(node) { end.div_ceil(CHUNK_BYTES) } else { end / CHUNK_BYTES };
        if first >= last {
            content.zero(offset, end - offset)?;
        } else {
            let (whole_start, whole_end) = (first * CHUNK_BYTES, (last * CHUNK_BYTES).min(end));
            if offset < whole_start {
                content.zero(offset, whole_start - offset)?;
            }
            if whole_end < end {
                content.zero(whole_end, end - whole_end)?;
            }
            self.commit(node, Durability::Acknowledged, None)?;
            self.punch(caller, node, index(first)?, index(last)?)?;
        }
        self.note_written(node);
        Ok(true)
    }

    fn punch(&self, caller: &Caller, node: &Arc<Node>, first_index: u32, end_index: u32) -> Result<(), Errno> {
        let (_asking, mut ticket) = (node.ask(), self.order.begin());
        let request =
            wire::PunchHole { caller: caller_to_wire(caller), inode: node.inode().get(), first_index, end_index };
        let reply = self.call(&mut ticket, &request)?;
        self.content(node).forget_chunks(first_index, end_index);
        self.changed(node);
        self.learn_node(&ticket, reply.node.as_ref()).map(drop)
    }

    /// After a fallocate: the times, where nothing else has changed them, and what a write clears of the mode.
    fn note_layout_change(&self, caller: &Caller, node: &Arc<Node>, any_changed: bool) -> Result<(), Errno> {
        if any_changed {
            return if caller.user == 0 { Ok(()) } else { self.kill_set_id(node) };
        }
        let request = wire::SetAttributes {
            // By root's right: whoever may write the file may do this to it.
            caller: Some(wire::Caller::default()),
            inode: node.inode().get(),
            by_descriptor: true,
            modified_now: true,
            kill_set_id: caller.user != 0,
            ..wire::SetAttributes::default()
        };
        self.set_attributes(node, &request).map(drop)
    }

    /// Makes the file at least this long. Whether it was shorter.
    fn extend(&self, caller: &Caller, node: &Arc<Node>, end: u64) -> Result<bool, Errno> {
        let _used = self.use_lease(node, Mode::Write)?;
        if self.length(node) >= end {
            return Ok(false);
        }
        let request = wire::SetAttributes {
            caller: caller_to_wire(caller),
            inode: node.inode().get(),
            length: Some(end),
            by_descriptor: true,
            ..wire::SetAttributes::default()
        };
        self.set_length_in_use(node, &request, end).map(|_| true)
    }

    /// Looks at the chunks that have bytes, from the one at `offset` on, in the order of the file, as long as `look` wants
    /// more: it gets where each begins, and the chunk.
    fn walk_chunks(
        &self,
        node: &Node,
        offset: u64,
        mut look: impl FnMut(u64, &ChunkPlaces) -> Walk,
    ) -> Result<(), Errno> {
        let mut first_index = index(offset / CHUNK_BYTES)?;
        loop {
            let request =
                wire::Locate { inode: node.inode().get(), first_index, count: CHUNKS_PER_LOCATE, existing: true };
            let chunks = self.session.call(&request)?.chunks;
            let count = chunks.len();
            let next = chunks.last().and_then(|last| last.index.checked_add(1));
            for chunk in chunks.into_iter().filter(|chunk| chunk.length > 0) {
                if look(u64::from(chunk.index) * CHUNK_BYTES, &ChunkPlaces::from(chunk)) == Walk::Ends {
                    return Ok(());
                }
            }
            match next.filter(|_| count == CHUNKS_PER_LOCATE as usize) {
                Some(next) => first_index = next,
                None => return Ok(()),
            }
        }
    }

    fn next_data(&self, node: &Node, offset: u64, length: u64) -> Result<Option<u64>, Errno> {
        let mut found = None;
        self.walk_chunks(node, offset, |start, chunk| {
            let data = start + self.data_in_chunk(node, chunk, offset.saturating_sub(start)).start;
            let is_there = data < (start + u64::from(chunk.length)).min(length);
            found = is_there.then_some(data);
            if is_there || start >= length { Walk::Ends } else { Walk::GoesOn }
        })?;
        Ok(found)
    }

    fn next_hole(&self, node: &Node, offset: u64, length: u64) -> Result<u64, Errno> {
        let mut hole = offset;
        self.walk_chunks(node, offset, |start, chunk| {
            if start > hole {
                return Walk::Ends;
            }
            let data = self.data_in_chunk(node, chunk, hole - start);
            if start + data.start == hole {
                hole = start + data.end;
            }
            if hole < start + CHUNK_BYTES { Walk::Ends } else { Walk::GoesOn }
        })?;
        Ok(hole.min(length))
    }

    /// The first part of a chunk at or after `offset` that has bytes; empty, at the end of those that are valid, if there is
    /// none. Where no copy tells, all of them are some.
    fn data_in_chunk(&self, node: &Node, chunk: &ChunkPlaces, offset: u64) -> Range<u64> {
        let length = u64::from(chunk.length);
        if offset >= length {
            return length..length;
        }
        let told = u32::try_from(offset).ok().and_then(|offset| self.content(node).next_data(chunk, offset));
        let data = told.map_or(offset..length, |data| u64::from(data.start)..u64::from(data.end));
        data.start.min(length)..data.end.min(length)
    }
}

/// Whether a walk over chunks is to see the next one.
#[derive(PartialEq, Eq)]
enum Walk {
    GoesOn,
    Ends,
}

/// A chunk's index for the wire.
fn index(number: u64) -> Result<u32, Errno> {
    u32::try_from(number).map_err(|_| Errno::EFBIG)
}
