//! What sled must be given from outside, since its own ways do not do: a sync that makes its idea of "on disk" true, and the
//! end of one that has failed.
//!
//! sled 0.34.7 calls `sync_file_range(2)` after each write of its own log and from then on takes the bytes for safe: it
//! reuses the segments whose content they replace. But that call neither writes the metadata that makes new bytes
//! reachable (file size, extents) nor empties the drive's cache, so a power cut in the middle of a checkpoint could lose
//! both the new and the old place of a page. This module defines the symbol `sync_file_range` for the whole program and
//! answers it with `fdatasync(2)`, which keeps the promise sled counts on. `docs/decisions/sled-durability.md` has the
//! reasons and what else was considered.
//!
//! A sled that has met an error is never dropped: its drop flushes, and waits for ever for a buffer of its log that the
//! error kept from being written (a blob that found no space leaves one). It is left behind in memory, and [`disarm`] takes
//! its file away, with the lock on it, so that another sled can open it and nothing that the old one may still do changes it.
//!
//! What always holds: a success is returned only after `fdatasync` succeeded. This is the only `unsafe` of the store.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::DupFlags;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How often sled's syncs came through here. If this stays at zero after sled has written, the linker took the C
/// library's symbol instead, and the store refuses to call a checkpoint complete.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Stands in for the C library's function of this name: waits until the file's data is on disk.
///
/// # Safety
///
/// `descriptor` must be open for the length of the call, as for any system call on it.
// SAFETY: the signature is that of the C library's function, so that every caller of that one can call this one.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(descriptor: RawFd, _offset: i64, _length: i64, _flags: u32) -> i32 {
    CALLS.fetch_add(1, Ordering::Relaxed);
    if descriptor < 0 {
        return -1;
    }
    // SAFETY: the caller holds the descriptor open for the length of the call, and it was just seen not to be -1.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    match rustix::fs::fdatasync(file) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// Takes a file away from whoever in this process has it open and locked: the lock is free, reads go on, writes fail. A write
/// that is under way still ends, and the lock is free only then.
pub(crate) fn disarm(path: &Path) -> io::Result<()> {
    let file = fs::metadata(path)?;
    let read_only = File::open(path)?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(descriptor) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        // One that another thread has closed meanwhile is none of those looked for.
        let Ok(open) = fs::metadata(format!("/proc/self/fd/{descriptor}")) else { continue };
        let Ok(about) = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) else { continue };
        if (open.dev(), open.ino()) != (file.dev(), file.ino()) || !about.contains("FLOCK") {
            continue;
        }
        // SAFETY: the descriptor is open: it holds the lock on sled's file, its owner was left behind in memory and never
        // closes it, and nobody else locks that file. It is not closed here either (`ManuallyDrop`): another file takes its
        // place, which keeps every use of its number valid.
        let mut taken = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) });
        rustix::io::dup3(&read_only, &mut taken, DupFlags::CLOEXEC)?;
    }
    Ok(())
}
