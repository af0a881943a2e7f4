//! What a volume does when nobody asks it for anything: looks whether its filesystem is still there and has space, reads
//! from the disk to notice a stall, closes idle chunks, and at the end closes itself cleanly.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rfs_common::errno::Errno;

use crate::chunk::copy::{ChunkCopy, Held};
use crate::chunk::fault::{Fault, IoOperation};

use super::health::{self, Ground};
use super::identity;
use super::running;
use super::scan::{count_lost, named};
use super::store::Volume;

/// From this many on, one sync of the filesystem is cheaper than one per file.
const SYNC_FILESYSTEM_FROM: usize = 8;
const PROBE_FILE: &str = "probe";
/// Copies left open by the last use that are closed in one go.
const LEFT_OPEN_STEP: usize = 64;
const DIRECT_BYTES: usize = 4096;

impl Volume {
    /// One look at the filesystem. Hangs if the volume does, which the gate shows.
    pub fn look_after(&self) {
        self.note_early_syncs();
        let Ok(pass) = self.gate.enter(self.now(), self.settings.io_deadline) else { return };
        match Ground::of(&self.folder) {
            Err(error) => return self.take_out(format!("its folder cannot be looked at: {error}")),
            Ok(now) => {
                if let Some(difference) = self.ground.difference(&now) {
                    return self.take_out(difference);
                }
            }
        }
        match health::space_of(&self.root) {
            Ok(space) => *self.space.lock().unwrap_or_else(PoisonError::into_inner) = space,
            Err(error) => return self.take_out(format!("its space cannot be asked for: {error}")),
        }
        if self.lost.load(Ordering::Relaxed) > 0 {
            self.lost.store(count_lost(&self.anchor), Ordering::Relaxed);
        }
        if let Err(error) = read_past_the_page_cache(&self.folder.join(identity::FILE_NAME)) {
            self.take_out(format!("its disk cannot be read: {error}"));
        } else if self.read_only_reason().is_some() && self.write_probe().is_ok() {
            self.set_read_only(None);
        }
        drop(pass);
        self.store_wanted_epoch();
    }

    fn write_probe(&self) -> io::Result<()> {
        let file = File::create(self.anchor.join(PROBE_FILE))?;
        file.write_all_at(&[0; 512], 0)?;
        file.sync_all()
    }

    /// Syncs and closes the open copies without changes for `idle`.
    pub fn close_idle(&self, idle: Duration) {
        if self.is_out() || self.read_only_reason().is_some() {
            return;
        }
        self.load_left_open();
        let now = self.now();
        let copies = self.table().open_copies();
        let idle: Vec<(Arc<ChunkCopy>, u64)> = copies
            .into_iter()
            .filter(|copy| now - copy.used() >= idle && copy.is_open_mark_set() && !copy.held().suspect)
            .map(|copy| (Arc::clone(&copy), copy.generation()))
            .collect();
        let together = idle.len() >= SYNC_FILESYSTEM_FROM && self.sync_filesystem();
        for (copy, generation) in idle {
            if together {
                copy.note_synced(generation);
            }
            let closed = copy.sync(self.entrance()).and_then(|()| self.close_copy(&copy, generation));
            if let Err(fault) = closed {
                self.note(copy.chunk(), copy.held().version, &fault);
            }
        }
    }

    /// Opens some of the copies that the last use left with their open mark, so that they are closed as idle ones.
    fn load_left_open(&self) -> usize {
        let chunks = self.table().take_left_open(LEFT_OPEN_STEP);
        for chunk in &chunks {
            if let Err(fault) = self.copy(*chunk) {
                tracing::debug!(volume = %self.id(), %chunk, %fault, "a chunk that was left open cannot be closed");
            }
        }
        chunks.len()
    }

    fn close_copy(&self, copy: &ChunkCopy, generation: u64) -> Result<(), Fault> {
        if !copy.is_entry_durable() {
            self.layout.sync_entry(copy.chunk()).map_err(|error| Fault::io(IoOperation::Sync)(error.source))?;
            copy.note_entry_durable();
        }
        copy.close(generation)
    }

    /// True: everything written before is durable. After an error each file is synced by itself, which tells whose it is.
    fn sync_filesystem(&self) -> bool {
        rustix::fs::syncfs(&self.root).inspect_err(|error| {
            tracing::warn!(volume = %self.id(), %error, "a sync of the whole filesystem failed; its chunks are synced one by one");
        }).is_ok()
    }

    /// Closes every copy and marks the volume as cleanly closed, if all of it succeeded.
    pub fn close(&self) {
        while self.load_left_open() > 0 {
            self.close_idle(Duration::ZERO);
        }
        self.close_idle(Duration::ZERO);
        let is_settled = |held: Held| !held.open || held.suspect;
        let copies = self.table().open_copies();
        let all_closed = copies.iter().all(|copy| copy.is_bad() || is_settled(copy.held()));
        // Headers without the open mark have to be on disk before the clean mark is.
        if self.is_out() || !all_closed || !self.sync_filesystem() {
            tracing::warn!(volume = %self.id(), "volume not closed cleanly: its open chunks are checked at the next start");
            return;
        }
        let mut closed = self.epochs.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = true;
        match running::mark_clean(&self.anchor, &self.ground) {
            Ok(()) => tracing::info!(volume = %self.id(), folder = %self.folder.display(), "volume closed cleanly"),
            Err(error) => {
                let error = named(error, &self.anchor, &self.folder);
                tracing::warn!(volume = %self.id(), error = %identity::with_sources(&error), "volume not marked as clean");
            }
        }
    }

    /// Notes on the volume, if it can still be written, that the page cache is not to be trusted.
    pub fn mark_failed(&self) {
        let unknown = Ground { mount: 0, ..self.ground.clone() };
        let mut closed = self.epochs.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = true;
        if let Err(error) = running::mark_in_use(&self.anchor, &unknown) {
            let error = named(error, &self.anchor, &self.folder);
            tracing::debug!(volume = %self.id(), error = %identity::with_sources(&error), "a failed volume cannot be marked");
        }
    }
}

/// Reads a file's first block past the page cache, where the filesystem can do that.
pub(super) fn read_past_the_page_cache(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL.raw()) => return Ok(()),
        other => other?,
    };
    // O_DIRECT wants an aligned buffer: a page within two pages' worth of bytes.
    let mut buffer = vec![0_u8; 2 * DIRECT_BYTES];
    let start = buffer.as_ptr().align_offset(DIRECT_BYTES).min(DIRECT_BYTES);
    match file.read_at(&mut buffer[start..start + DIRECT_BYTES], 0) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL.raw()) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}
