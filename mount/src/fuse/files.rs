//! Open files: how the kernel is to use them, and what a write has to do besides writing.

use std::cell::RefCell;

use fuser::{FileHandle, FopenFlags, WriteFlags};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::{Adapter, Mapping};
use crate::client::{AttributeChanges, Caller, Handle, KernelCaches, Opened, Reads, SyncAfter, WriteOrigin};

/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

thread_local! {
    /// Where this thread reads data into before it is given to the kernel.
    pub(super) static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Adapter {
    /// Opens a file, and truncates it separately where the set-id bits have to go with the data.
    pub(super) fn open_file(
        &self,
        caller: &Caller,
        inode: InodeId,
        flags: i32,
        kill_set_id: bool,
    ) -> Result<Opened, Errno> {
        let truncates = kill_set_id && flags & libc::O_TRUNC != 0;
        if !truncates || !self.has_set_id(inode)? {
            return self.client.open(caller, inode, flags);
        }
        let opened = self.client.open(caller, inode, flags & !libc::O_TRUNC)?;
        let handle = Some(opened.handle);
        let changes = AttributeChanges { length: Some(0), kill_set_id, handle, ..AttributeChanges::default() };
        match self.client.set_attributes(caller, inode, &changes) {
            Ok(_) => {
                self.kernel.invalidate_attributes(inode);
                Ok(opened)
            }
            Err(errno) => {
                self.client.release(opened.handle, None);
                Err(errno)
            }
        }
    }

    /// Writes, and waits for the disks where the file or the mount is synchronous: the kernel does not do it for files
    /// that bypass its page cache. The answer to a write has no attributes, so a mode that changed with it is made known by
    /// having the kernel ask again.
    pub(super) fn write_file(&self, write: &FileWrite<'_>, write_flags: WriteFlags, flags: i32) -> Result<(), Errno> {
        let kill_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let changes_mode = kill_set_id && self.has_set_id(write.inode)?;
        let from_pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let call = WriteOrigin::Call { kill_set_id, appends: flags & libc::O_APPEND != 0 };
        let origin = if from_pages { WriteOrigin::PageCache } else { call };
        self.client.write(write.handle, write.offset, write.data, origin)?;
        if changes_mode {
            self.kernel.invalidate_attributes(write.inode);
        }
        self.sync_if_asked(write.handle, SyncAfter::of_flags(flags))
    }

    /// As the client's; the kernel does not ask anew for a mode that this changes.
    pub(super) fn fallocate(
        &self,
        caller: &Caller,
        (inode, file): (InodeId, Handle),
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let changes_mode = caller.user != 0 && self.has_set_id(inode)?;
        self.client.fallocate(caller, file, offset, length, mode)?;
        if changes_mode {
            self.kernel.invalidate_attributes(inode);
        }
        Ok(())
    }

    /// Copies, and then waits as a write does.
    pub(super) fn copy_file_range(
        &self,
        caller: &Caller,
        source: (Handle, u64),
        target: (Handle, u64),
        length: u64,
    ) -> Result<u64, Errno> {
        let copied = self.client.copy_file_range(caller, source, target, length)?;
        self.sync_if_asked(target.0, self.client.sync_after(target.0))?;
        Ok(copied)
    }

    /// Waits for the disks if the file or the mount is synchronous.
    fn sync_if_asked(&self, handle: Handle, by_file: Option<SyncAfter>) -> Result<(), Errno> {
        let by_mount = self.synchronous.writes.then_some(SyncAfter::File);
        by_file.or(by_mount).map_or(Ok(()), |after| self.client.fsync(handle, after == SyncAfter::Data))
    }

    pub(super) fn has_set_id(&self, inode: InodeId) -> Result<bool, Errno> {
        Ok(self.client.get_attributes(inode)?.attributes.mode & SET_ID_BITS != 0)
    }
}

/// Bytes for a file.
pub(super) struct FileWrite<'a> {
    pub(super) inode: InodeId,
    pub(super) handle: Handle,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
}

/// What an open file is to the kernel. What may be written goes past the page cache: that is several times faster, several
/// writers of one file need not wait for each other, and reads are not cut by a length that the kernel took from an
/// answer overtaken by another (docs/decisions/kernel-caches.md). What is only read is kept, unless other clients change it
/// now, or reads have to be seen so that accesses are noted. Where the kernel cannot map files that bypass its cache, those that may be mapped for writing go through it.
pub(super) fn opened_as(opened: Opened, flags: i32, mapping: Mapping) -> FopenFlags {
    let only_written = flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_DIRECT != 0;
    let shared = flags & libc::O_ACCMODE == libc::O_RDWR || opened.contended || opened.reads == Reads::AllAreSeen;
    let bypasses_cache = only_written || (shared && mapping == Mapping::AlsoDirect);
    let mut how = FopenFlags::empty();
    how.set(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, bypasses_cache);
    how.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache && opened.reads == Reads::MayBeCached);
    how
}

/// The client's name of an open file.
pub(super) fn handle(handle: FileHandle) -> Handle {
    Handle(handle.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(flags: i32, contended: bool, mapping: Mapping) -> FopenFlags {
        opened_as(Opened { handle: Handle(1), keep_cache: false, contended, reads: Reads::MayBeCached }, flags, mapping)
    }

    #[test]
    fn only_what_is_read_alone_goes_through_the_page_cache() {
        let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        for mapping in [Mapping::AlsoDirect, Mapping::OnlyCached] {
            assert_eq!(opened(libc::O_WRONLY | libc::O_APPEND, false, mapping), direct);
            assert_eq!(opened(libc::O_RDWR | libc::O_DIRECT, false, mapping), direct);
            assert_eq!(opened(libc::O_RDONLY, false, mapping), FopenFlags::empty());
        }
        assert_eq!(opened(libc::O_RDWR, false, Mapping::AlsoDirect), direct);
        assert_eq!(opened(libc::O_RDONLY, true, Mapping::AlsoDirect), direct);
        assert_eq!(opened(libc::O_RDWR, true, Mapping::OnlyCached), FopenFlags::empty());
        let kept = Opened { handle: Handle(1), keep_cache: true, contended: false, reads: Reads::MayBeCached };
        assert_eq!(opened_as(kept, libc::O_RDONLY, Mapping::AlsoDirect), FopenFlags::FOPEN_KEEP_CACHE);
        let seen = |reads| opened_as(Opened { reads, ..kept }, libc::O_RDONLY, Mapping::AlsoDirect);
        assert_eq!(seen(Reads::FirstIsSeen), FopenFlags::empty(), "cached pages go, and the next ones are kept");
        assert_eq!(seen(Reads::AllAreSeen), direct);
    }
}
