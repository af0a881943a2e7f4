//! The epoch of a volume: a number that the master raises while the volume is written and that the volume stores durably. A
//! volume that comes with a lower one than the master knows is an older image of itself (docs/protocol.md, section 4).
//!
//! The epoch only follows what the master says: a daemon that starts on an old image again and again must not come to look like a
//! new one. While the master has not compared what is on an older image, its copies are *astray*: nobody reads or writes them,
//! and they are told, fetched and deleted as always.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rfs_common::errno::Errno;
use rfs_common::ids::ChunkId;
use rfs_proto::cluster::Judgement;

use crate::chunk::fault::{Fault, IoOperation};

use super::epoch_file::{self, EPOCH_MAX};
use super::identity::with_sources;
use super::scan::named;
use super::store::Volume;

/// Where a volume stands.
#[derive(Debug)]
pub(super) struct Epochs {
    stored: AtomicU64,
    wanted: AtomicU64,
    /// There were changes since it was stored.
    changed: AtomicBool,
    astray: RwLock<HashSet<ChunkId>>,
    /// Whether there are any: asked on every way to a copy.
    any_astray: AtomicBool,
    /// The master has said so since the volume was opened. It says so again with each registration and each inventory, but what was
    /// made, raised or found sound since is not astray.
    was_astray: AtomicBool,
    /// Held for every write of `running.toml` and `epoch.toml`; true once the volume is closed, after which nothing is to write there.
    pub(super) closed: Mutex<bool>,
}

impl Epochs {
    pub(super) fn at(stored: u64) -> Epochs {
        Epochs {
            stored: AtomicU64::new(stored),
            wanted: AtomicU64::new(stored),
            changed: AtomicBool::new(false),
            astray: RwLock::default(),
            any_astray: AtomicBool::new(false),
            was_astray: AtomicBool::new(false),
            closed: Mutex::new(false),
        }
    }
}

impl Volume {
    /// The epoch that is stored on it.
    pub fn epoch(&self) -> u64 {
        self.epochs.stored.load(Ordering::Acquire)
    }

    /// Whether there were changes since it was.
    pub fn has_changed_since_epoch(&self) -> bool {
        self.epochs.changed.load(Ordering::Acquire)
    }

    /// Something has been written: to be noted afterwards, so that no epoch is stored between the note and the change.
    pub(super) fn note_changed(&self) {
        if !self.epochs.changed.load(Ordering::Relaxed) {
            self.epochs.changed.store(true, Ordering::Release);
        }
    }

    /// Takes over what the master makes of the volume. An epoch is stored by whoever looks after the volume.
    pub fn judge(&self, judgement: &Judgement) {
        if judgement.astray && !self.epochs.was_astray.swap(true, Ordering::AcqRel) {
            let copies: HashSet<ChunkId> = self.table().entries().into_iter().map(|(chunk, ..)| chunk).collect();
            tracing::error!(volume = %self.id(), folder = %self.folder().display(), copies = copies.len(), epoch = self.epoch(),
                "the volume is an older image of itself; its copies are not used until the master has compared them with others");
            *self.epochs.astray.write().unwrap_or_else(PoisonError::into_inner) = copies;
            self.epochs.any_astray.store(true, Ordering::Release);
        }
        for chunk in &judgement.sound {
            self.is_sound(ChunkId::new(*chunk));
        }
        if judgement.epoch > 0 {
            self.epochs.wanted.fetch_max(judgement.epoch.min(EPOCH_MAX), Ordering::AcqRel);
        }
    }

    /// The copy has been found to be as others are, was raised, replaced or deleted.
    pub(super) fn is_sound(&self, chunk: ChunkId) {
        if self.epochs.any_astray.load(Ordering::Acquire) {
            self.epochs.astray.write().unwrap_or_else(PoisonError::into_inner).remove(&chunk);
        }
    }

    /// Nobody may have what is astray.
    pub(super) fn check_not_astray(&self, chunk: ChunkId) -> Result<(), Fault> {
        let is_astray = || self.epochs.astray.read().unwrap_or_else(PoisonError::into_inner).contains(&chunk);
        if self.epochs.any_astray.load(Ordering::Acquire) && is_astray() { Err(Fault::Astray) } else { Ok(()) }
    }

    /// Stores the epoch that the master wants. Hangs if the volume does.
    pub(super) fn store_wanted_epoch(&self) {
        let wanted = self.epochs.wanted.load(Ordering::Acquire);
        if wanted <= self.epoch() || self.check_writable().is_err() {
            return;
        }
        let Ok(_pass) = self.gate.enter(self.now(), self.settings.sync_deadline) else { return };
        let closed = self.epochs.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return;
        }
        self.epochs.changed.store(false, Ordering::Release);
        match epoch_file::store_epoch(&self.anchor, wanted) {
            Ok(()) => {
                self.epochs.stored.store(wanted, Ordering::Release);
                self.epochs.any_astray.store(false, Ordering::Release);
                self.epochs.astray.write().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Err(error) => {
                self.note_changed();
                drop(closed);
                let errno = Errno::from_io(&error.source);
                let error = named(error, &self.anchor, &self.folder);
                tracing::warn!(volume = %self.id(), error = %with_sources(&error), "the volume's epoch could not be stored");
                if errno == Errno::EIO {
                    self.set_read_only(Some(format!("could not {}: {errno}", IoOperation::Write)));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "epoch_test.rs"]
mod tests;
