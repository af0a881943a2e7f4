//! What sled must be given from outside, since its own ways do not do: a sync that makes its idea of "on disk" true, and the
//! end of one that has failed.
//!
//! sled 0.34.7 calls `sync_file_range(2)` after each write of its own log and from then on takes the bytes for safe: it
//! reuses the segments whose content they replace. But that call neither writes the metadata that makes new bytes
//! reachable (file size, extents) nor empties the drive's cache, so a power cut in the middle of a checkpoint could lose
//! both the new and the old place of a page. This module defines the symbol `sync_file_range` for the whole program and
//! answers it with `fdatasync(2)`, which keeps the promise sled counts on. What is longer than a quarter of a segment sled
//! keeps in blobs, files of their own, and never syncs; those that the written part of the log names are synced first.
//! `docs/decisions/sled-durability.md` has the reasons and what else was considered.
//!
//! A sled that has met an error is never dropped: its drop flushes, and waits for ever for a buffer of its log that the
//! error kept from being written (a blob that found no space leaves one). It is left behind in memory, and [`disarm`] takes
//! its file away, with the lock on it, so that another sled can open it and nothing that the old one may still do changes it.
//!
//! What always holds: a success is returned only after the bytes, and all blobs that they name, were synced. This is the only
//! `unsafe` of the store.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::DupFlags;

use super::log::locked;
use super::sled_format::{SLED_BLOBS, SLED_SEGMENT_BYTES, blobs_named};
use super::sled_survey::SLED_LOG;

static CALLS: AtomicU64 = AtomicU64::new(0);
/// Those in which sled has its log open, or had.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
#[cfg(test)]
static BLOBS_SYNCED: AtomicU64 = AtomicU64::new(0);

/// How often sled's syncs came through here. If this stays at zero after sled has written, the linker took the C
/// library's symbol instead, and the store refuses to call a checkpoint complete.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// How many blobs were synced for the log's sake.
#[cfg(test)]
pub(crate) fn blobs_synced() -> u64 {
    BLOBS_SYNCED.load(Ordering::Relaxed)
}

/// Stands in for the C library's function of this name: waits until these bytes of sled's log are on disk, with the blobs that
/// they name. Answers -1 and leaves the reason in `errno` if a sync fails.
///
/// # Safety
///
/// `descriptor` must be open for the length of the call, as for any system call on it.
// SAFETY: the signature is that of the C library's function, so that every caller of that one can call this one.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(descriptor: RawFd, offset: i64, length: i64, _flags: u32) -> i32 {
    CALLS.fetch_add(1, Ordering::Relaxed);
    if descriptor < 0 {
        return fail(libc::EBADF);
    }
    // SAFETY: the caller holds the descriptor open for the length of the call, and it was just seen not to be -1.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let written = offset.cast_unsigned()..offset.cast_unsigned() + length.cast_unsigned();
    match sync_blobs_named(file, written).and_then(|()| Ok(rustix::fs::fdatasync(file)?)) {
        Ok(()) => 0,
        Err(error) => fail(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// What a C function does that has failed.
fn fail(reason: i32) -> i32 {
    // sled would sync the log alone and go on where the call is not known.
    let reason = if reason == libc::ENOSYS { libc::EIO } else { reason };
    // SAFETY: this is where the C library keeps this thread's `errno`.
    unsafe { *libc::__errno_location() = reason };
    -1
}

/// Syncs the blobs that this part of the log names, which was written just now and is read from the page cache. They come
/// before the log: what the log says must be there when it is read.
fn sync_blobs_named(log: BorrowedFd<'_>, written: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; (written.end - written.start) as usize];
    let mut known = 0;
    while known < bytes.len() {
        match rustix::io::pread(log, &mut bytes[known..], written.start + known as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => known += count,
        }
    }
    let folder = folder_of(log)?.join(SLED_BLOBS);
    let blobs: Vec<PathBuf> = match blobs_named(&bytes, written.start % SLED_SEGMENT_BYTES) {
        Some(named) => named.into_iter().map(|blob| folder.join(blob.to_string())).collect(),
        // Whatever it is, it names no others than are there.
        None => fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
    };
    if blobs.is_empty() {
        return Ok(());
    }
    for blob in blobs {
        match File::open(blob) {
            // Replaced already by what comes later in the same piece of the log.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => file?.sync_all()?,
        }
        #[cfg(test)]
        BLOBS_SYNCED.fetch_add(1, Ordering::Relaxed);
    }
    File::open(folder)?.sync_all()
}

/// Notes a folder of sled's before sled opens its log there. The log's own name says nothing once the disk was unmounted beneath the
/// master, whose paths go on then ([`super::anchor`]).
pub(crate) fn prepare(folder: &Path) {
    let mut folders = locked(&FOLDERS);
    folders.retain(|known| known != folder && known.exists());
    folders.push(folder.to_owned());
}

/// The folder that this log is in.
fn folder_of(log: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let log = rustix::fs::fstat(log)?;
    let is_its = |folder: &&PathBuf| {
        fs::metadata(folder.join(SLED_LOG)).is_ok_and(|file| (file.dev(), file.ino()) == (log.st_dev, log.st_ino))
    };
    locked(&FOLDERS).iter().find(is_its).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
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
