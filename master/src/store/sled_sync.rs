//! Makes sled's idea of "on disk" true.
//!
//! sled 0.34.7 calls `sync_file_range(2)` after each write of its own log and from then on takes the bytes for safe: it
//! reuses the segments whose content they replace. But that call neither writes the metadata that makes new bytes
//! reachable (file size, extents) nor empties the drive's cache, so a power cut in the middle of a checkpoint could lose
//! both the new and the old place of a page. This module defines the symbol `sync_file_range` for the whole program and
//! answers it with `fdatasync(2)`, which keeps the promise sled counts on. `docs/decisions/sled-durability.md` has the
//! reasons and what else was considered.
//!
//! What always holds: a success is returned only after `fdatasync` succeeded. This is the only `unsafe` of the store.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

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
