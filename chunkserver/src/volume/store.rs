//! A volume in use: every operation on its copies, with deadlines, and what their failures mean for the volume.
//!
//! An operation passes the gate, finds its copy (opening the file if it is not open), and works under that copy's own
//! lock. Failures go through [`Volume::note`]: a bad copy is reported to the master, an error of the filesystem takes the
//! volume out of service or makes it read-only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};
use rfs_proto::cluster::VolumeState;
use tokio::sync::mpsc;

use crate::chunk::change::{Action, Raise, Terms};
use crate::chunk::check::RaiseOf;
use crate::chunk::copy::{ChunkCopy, Effort, Held, OpenFault, OpenedCopy, Served};
use crate::chunk::fault::{Fault, IoOperation};
use crate::chunk::holes::DataRange;

use super::early_sync::EarlySyncs;
use super::epoch::Epochs;
use super::found_bad::FoundBad;
use super::gate::{Gate, Pass};
use super::health::{Ground, Space};
use super::identity::Identity;
use super::layout::{LOST, Layout};
use super::running::LastEnd;
use super::scan::anchor_of;
use super::scrub::{Progress, ScrubSettings};
use super::table::{Known, Table};

/// What a volume is run with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Reads and writes that take longer mean that the volume is stalled.
    pub io_deadline: Duration,
    /// The same for syncs, which wait for everything written before.
    pub sync_deadline: Duration,
    /// A copy without changes for this long is synced and closed.
    pub close_after: Duration,
    /// Open files per volume.
    pub open_copies_max: usize,
    /// Part of the volume that new chunks leave free, in thousandths.
    pub reserve_thousandths: u64,
    /// At most this much of it, in bytes.
    pub reserve_bytes_max: u64,
    /// How the volume is scrubbed.
    pub scrub: ScrubSettings,
}

/// A copy found bad, for the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCopy {
    /// On which volume.
    pub volume: VolumeId,
    /// Of which chunk.
    pub chunk: ChunkId,
    /// The version, or 0 if not even that can be read.
    pub version: u32,
    /// What is wrong.
    pub reason: String,
}

/// A file on the volume, as an inventory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A copy.
    Copy(Held),
    /// A file that is named as a chunk and whose header cannot be read.
    Unreadable,
}

/// Where bad copies are reported. Full: the report is dropped, since the next use of the copy reports it again.
pub type BadCopies = mpsc::Sender<BadCopy>;

/// A copy with so many bytes that are not on the disk is synced without being asked.
const EARLY_SYNC_BYTES: u64 = 16 << 20;

/// With less than this much free, no chunk grows.
const GROWTH_FLOOR_BYTES: u64 = 16 << 20;

/// What has been done since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads served.
    pub reads: AtomicU64,
    /// Changes applied.
    pub writes: AtomicU64,
    /// Bytes of those reads.
    pub read_bytes: AtomicU64,
    /// Bytes of those changes.
    pub written_bytes: AtomicU64,
}

/// A volume in use.
#[derive(Debug)]
pub struct Volume {
    pub(super) identity: Identity,
    pub(super) folder: PathBuf,
    pub(super) ground: Ground,
    /// The folder, kept open for syncs of the filesystem and for its space.
    pub(super) root: File,
    /// A path that leads to `root` and to nothing else: what is written after another filesystem was mounted on the
    /// folder, or this one unmounted, must not land there.
    pub(super) anchor: PathBuf,
    pub(super) layout: Layout,
    pub(super) table: Mutex<Table>,
    pub(super) gate: Arc<Gate>,
    pub(super) settings: Settings,
    pub(super) clock: SharedClock,
    pub(super) space: Mutex<Space>,
    pub(super) last_end: LastEnd,
    pub(super) epochs: Epochs,
    pub(super) found_bad: FoundBad,
    /// Held for creations and removals of files of the same remainder, so that two do not meet at one path.
    pub(super) files: [Mutex<()>; 16],
    pub(super) scrubbed: Mutex<Progress>,
    /// Files that stand aside in `lost`.
    pub(super) lost: AtomicU64,
    condition: Mutex<Condition>,
    out: AtomicBool,
    bad_copies: BadCopies,
    pub(super) counters: Arc<Counters>,
    early_syncs: EarlySyncs,
    _lock: FolderLock,
}

#[derive(Debug, Default)]
struct Condition {
    out: Option<String>,
    read_only: Option<String>,
}

/// What [`Volume::assemble`] puts together.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) identity: Identity,
    pub(super) folder: PathBuf,
    pub(super) ground: Ground,
    pub(super) root: File,
    pub(super) space: Space,
    pub(super) last_end: LastEnd,
    pub(super) epoch: u64,
    pub(super) lock: FolderLock,
    pub(super) lost: u64,
}

/// What volumes share with the daemon.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// How volumes are run.
    pub settings: Settings,
    /// The clock.
    pub clock: SharedClock,
    /// Where bad copies are reported.
    pub bad_copies: BadCopies,
    /// What has been done, over all volumes.
    pub counters: Arc<Counters>,
}

impl Volume {
    pub(super) fn assemble(parts: Parts, table: Table, around: &Surroundings) -> Volume {
        let anchor = anchor_of(&parts.root);
        Volume {
            layout: Layout::new(&anchor),
            anchor,
            identity: parts.identity,
            folder: parts.folder,
            ground: parts.ground,
            root: parts.root,
            table: Mutex::new(table),
            gate: Arc::default(),
            settings: around.settings.clone(),
            clock: Arc::clone(&around.clock),
            space: Mutex::new(parts.space),
            last_end: parts.last_end,
            epochs: Epochs::at(parts.epoch),
            found_bad: FoundBad::default(),
            files: Default::default(),
            scrubbed: Mutex::default(),
            lost: AtomicU64::new(parts.lost),
            condition: Mutex::default(),
            out: AtomicBool::new(false),
            bad_copies: around.bad_copies.clone(),
            counters: Arc::clone(&around.counters),
            early_syncs: EarlySyncs::default(),
            _lock: parts.lock,
        }
    }

    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.identity.volume
    }

    /// Its identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it stands on.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// How its last use ended.
    pub fn last_end(&self) -> LastEnd {
        self.last_end
    }

    /// Its gate, for the watchdog.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Makes one change of one chunk's copy, and syncs it if asked. Gives the data's length.
    ///
    /// # Errors
    /// [`Fault`]; see [`ChunkCopy::change`].
    pub fn change(&self, chunk: ChunkId, terms: &Terms, action: Action<'_>, sync: Sync) -> Result<u32, Fault> {
        let result = self.try_change(chunk, terms, action, sync);
        self.noted(chunk, terms.version, result)
    }

    fn try_change(&self, chunk: ChunkId, terms: &Terms, action: Action<'_>, sync: Sync) -> Result<u32, Fault> {
        self.check_writable()?;
        self.check_not_astray(chunk)?;
        let (copy, made) = self.copy_or_new(chunk, terms)?;
        copy.touch(self.now());
        let raise = match sync {
            Sync::BeforeAnswer => Raise::WithTheSync,
            Sync::Later => Raise::Durably,
        };
        let changed =
            self.check_growth(&copy, action).and_then(|()| copy.change(terms, action, raise, self.entrance()));
        if changed.is_err() && made {
            self.unmake(&copy);
        }
        let length = changed?;
        self.note_changed();
        if sync == Sync::BeforeAnswer {
            self.sync_copy(&copy)?;
        } else if copy.has_written(EARLY_SYNC_BYTES) {
            self.early_syncs
                .ask(&copy, || (Arc::clone(&self.gate), Arc::clone(&self.clock), self.settings.sync_deadline));
        }
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        if let Action::Write(pieces) = action {
            let bytes: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
            self.counters.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Ok(length)
    }

    /// Makes everything acknowledged of a chunk durable. Gives the data's length.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn sync(&self, chunk: ChunkId, version: ChunkVersion) -> Result<u32, Fault> {
        let sync = || {
            self.check_in_service()?;
            self.check_not_astray(chunk)?;
            let copy = self.copy(chunk)?;
            let terms = Terms { version_from: Some(version), version, cut_to: None };
            let length = copy.change(&terms, Action::Nothing, Raise::Durably, self.entrance())?;
            self.sync_copy(&copy)?;
            Ok(length)
        };
        let result = sync();
        self.noted(chunk, version, result)
    }

    fn sync_copy(&self, copy: &ChunkCopy) -> Result<(), Fault> {
        copy.sync(self.entrance())?;
        if !copy.is_entry_durable() {
            let _pass = self.entrance()(Effort::Sync)?;
            self.layout.sync_entry(copy.chunk()).map_err(|error| Fault::io(IoOperation::Sync)(error.source))?;
            copy.note_entry_durable();
        }
        Ok(())
    }

    /// Reads whole leaves into `buffer`; see [`ChunkCopy::read`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read(
        &self,
        chunk: ChunkId,
        version: ChunkVersion,
        offset: u32,
        length: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Served, Fault> {
        let mut read = || {
            self.check_not_astray(chunk)?;
            let copy = self.copy_in_service(chunk)?;
            copy.read(version, offset, length, buffer, self.entrance())
        };
        let result = read();
        let served = self.noted(chunk, version, result)?;
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters.read_bytes.fetch_add(served.length as u64, Ordering::Relaxed);
        Ok(served)
    }

    /// The next part of a copy that is no hole; see [`ChunkCopy::next_data`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn next_data(&self, chunk: ChunkId, version: ChunkVersion, offset: u32) -> Result<DataRange, Fault> {
        let copy = self.check_not_astray(chunk).and_then(|()| self.copy_in_service(chunk));
        let found = copy.and_then(|copy| copy.next_data(version, offset, self.entrance()));
        self.noted(chunk, version, found)
    }

    /// The file of a copy; see [`ChunkCopy::open_for_reader`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open_for_reader(&self, chunk: ChunkId, version: ChunkVersion) -> Result<OpenedCopy, Fault> {
        // Nobody is to wait for a copy whose lock is held by what hangs.
        if self.gate.is_stalled() {
            return Err(Fault::Timeout);
        }
        let copy = self.check_not_astray(chunk).and_then(|()| self.copy_in_service(chunk));
        let result = copy.and_then(|copy| copy.open_for_reader(version));
        self.noted(chunk, version, result)
    }

    /// Length and digest of a copy.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn digest(&self, chunk: ChunkId, version: ChunkVersion) -> Result<(u32, [u8; 32]), Fault> {
        let result = self.copy_in_service(chunk).and_then(|copy| copy.digest(version, self.entrance()));
        self.noted(chunk, version, result)
    }

    /// Raises a copy durably; see [`ChunkCopy::raise`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn raise(&self, chunk: ChunkId, from: ChunkVersion, to: ChunkVersion, of: RaiseOf) -> Result<Held, Fault> {
        let raise = || {
            self.check_writable()?;
            if of == RaiseOf::Sound {
                self.check_not_astray(chunk)?;
            }
            let copy = self.copy_in_service(chunk)?;
            copy.raise(from, to, of, self.entrance())?;
            self.sync_copy(&copy)?;
            self.is_sound(chunk);
            Ok(copy.held())
        };
        let result = raise();
        self.noted(chunk, from, result)
    }

    /// Makes an empty copy, durably; one of this version that is there already is fine.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Exists`] if there is a copy of another version.
    pub fn make_empty(&self, chunk: ChunkId, version: ChunkVersion) -> Result<Held, Fault> {
        let terms = Terms { version_from: None, version, cut_to: None };
        self.change(chunk, &terms, Action::Nothing, Sync::BeforeAnswer)?;
        self.held(chunk)
    }

    /// Deletes a copy of exactly this version; 0 deletes a file that is no copy. That there is none is fine.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn delete(&self, chunk: ChunkId, version: u32) -> Result<(), Fault> {
        let result = self.try_delete(chunk, version);
        match self.noted(chunk, ChunkVersion::new(version), result) {
            Err(Fault::NoChunk) => Ok(()),
            other => other,
        }
    }

    fn try_delete(&self, chunk: ChunkId, version: u32) -> Result<(), Fault> {
        self.check_writable()?;
        let _files = self.lock_files(chunk);
        // It may have to wait for a change that syncs.
        let _pass = self.entrance()(Effort::Sync)?;
        let check = |held: Held| {
            if held.version.get() == version { Ok(()) } else { Err(Fault::WrongVersion { have: held.version }) }
        };
        let known = self.table().find(chunk);
        match known {
            Known::Nothing => return Err(Fault::NoChunk),
            Known::Damaged(_) if version == 0 => {}
            Known::Damaged(reason) => return Err(Fault::BadCopy { reason }),
            Known::Open(copy) => copy.retire(check)?,
            Known::Closed(_) => self.copy(chunk)?.retire(check)?,
        }
        self.table().remove(chunk);
        self.is_sound(chunk);
        match fs::remove_file(self.layout.path(chunk)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Fault::io(IoOperation::Write)(error)),
            _ => Ok(()),
        }
    }

    /// What the master is told of one copy.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn held(&self, chunk: ChunkId) -> Result<Held, Fault> {
        Ok(self.copy(chunk)?.held())
    }

    /// What is known of a copy without opening its file.
    pub(super) fn known_held(&self, chunk: ChunkId) -> Option<Held> {
        let known = self.table().find(chunk);
        match known {
            Known::Open(copy) => Some(copy.held()),
            Known::Closed(held) => Some(held),
            Known::Damaged(_) | Known::Nothing => None,
        }
    }

    /// Every copy.
    pub(super) fn copies_held(&self) -> Vec<(ChunkId, Held)> {
        let copy = |(chunk, listed)| match listed {
            Listed::Copy(held) => Some((chunk, held)),
            Listed::Unreadable => None,
        };
        self.inventory().into_iter().filter_map(copy).collect()
    }

    /// Every file, as the master is told.
    pub fn inventory(&self) -> Vec<(ChunkId, Listed)> {
        // One look at both: a file that is found damaged meanwhile must not be missing from either.
        let (entries, unreadable) = {
            let table = self.table();
            (table.entries(), table.damaged())
        };
        let copies = entries.into_iter().map(|(chunk, held, copy)| {
            let held = copy.map_or(held, |copy| copy.held());
            let bad = held.bad || self.found_bad.contains(chunk, held.version);
            (chunk, Listed::Copy(Held { bad, ..held }))
        });
        copies.chain(unreadable.into_iter().map(|(chunk, _)| (chunk, Listed::Unreadable))).collect()
    }

    /// Tells the master why files are no copies. That they are there stands in the inventory.
    pub fn report_damaged(&self) {
        let damaged = self.table().damaged();
        for (chunk, reason) in damaged {
            self.report_bad(chunk, 0, reason);
        }
        for (chunk, version, reason) in self.still_bad() {
            self.report_bad(chunk, version.get(), reason);
        }
    }

    /// How many copies there are.
    pub fn chunk_count(&self) -> u64 {
        self.table().count() as u64
    }

    /// Its state, and why it is not in service.
    pub fn state(&self) -> (VolumeState, String) {
        let condition = self.condition();
        if let Some(reason) = &condition.out {
            return (VolumeState::Out, reason.clone());
        }
        if self.gate.is_stalled() {
            return (VolumeState::Stalled, "an operation on it does not come back".to_owned());
        }
        if let Some(reason) = &condition.read_only {
            return (VolumeState::ReadOnly, reason.clone());
        }
        drop(condition);
        if self.free_above_reserve() == 0 {
            return (VolumeState::Full, "it is filled up to its reserve".to_owned());
        }
        (VolumeState::InService, self.lost_words())
    }

    fn lost_words(&self) -> String {
        match self.lost.load(Ordering::Relaxed) {
            0 => String::new(),
            count => format!("files without a header in its folder {LOST}: {count}; look at them, then remove them"),
        }
    }

    /// How far its scrub is.
    pub fn scrubbed(&self) -> Progress {
        *self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Space of the filesystem, as last looked at.
    pub fn space(&self) -> Space {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that new chunks may take.
    pub fn free_above_reserve(&self) -> u64 {
        let space = self.space();
        let reserve = (space.total / 1000).saturating_mul(self.settings.reserve_thousandths);
        // Where nothing can grow, nothing new is to be begun either.
        let reserve = reserve.min(self.settings.reserve_bytes_max).max(GROWTH_FLOOR_BYTES);
        space.free.saturating_sub(reserve)
    }

    /// Takes the volume out of service.
    pub fn take_out(&self, reason: String) {
        let mut condition = self.condition();
        if condition.out.is_none() {
            tracing::error!(volume = %self.id(), folder = %self.folder.display(), reason,
                "volume out of service; it is tried again, and comes back by itself once it works");
            condition.out = Some(reason);
            self.out.store(true, Ordering::Release);
        }
    }

    /// Whether it has been taken out of service.
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    pub(super) fn read_only_reason(&self) -> Option<String> {
        self.condition().read_only.clone()
    }

    pub(super) fn set_read_only(&self, reason: Option<String>) {
        let mut condition = self.condition();
        match &reason {
            Some(reason) if condition.read_only.is_none() => {
                tracing::error!(volume = %self.id(), folder = %self.folder.display(), reason, "volume is read-only from now on");
            }
            None if condition.read_only.is_some() => {
                tracing::info!(volume = %self.id(), folder = %self.folder.display(), "volume takes writes again");
            }
            _ => {}
        }
        condition.read_only = reason;
    }

    fn copy_in_service(&self, chunk: ChunkId) -> Result<Arc<ChunkCopy>, Fault> {
        self.check_in_service()?;
        let copy = self.copy(chunk)?;
        copy.touch(self.now());
        Ok(copy)
    }

    /// How operations on a copy pass the gate, once they hold the copy's locks.
    pub(super) fn entrance<'volume>(&'volume self) -> impl Fn(Effort) -> Result<Pass<'volume>, Fault> {
        |effort| {
            let limit = match effort {
                Effort::Io => self.settings.io_deadline,
                Effort::Sync => self.settings.sync_deadline,
            };
            self.gate.enter(self.now(), limit)
        }
    }

    fn check_in_service(&self) -> Result<(), Fault> {
        if !self.is_out() {
            return Ok(());
        }
        Err(Fault::VolumeOut { reason: self.condition().out.clone().unwrap_or_default() })
    }

    pub(super) fn check_writable(&self) -> Result<(), Fault> {
        self.check_in_service()?;
        match self.read_only_reason() {
            Some(reason) => Err(Fault::ReadOnly { reason }),
            None => Ok(()),
        }
    }

    pub(super) fn check_space(&self) -> Result<(), Fault> {
        if self.free_above_reserve() == 0 { Err(Fault::NoSpace) } else { Ok(()) }
    }

    /// Chunks that are there may grow into the reserve, but not to the last block: a filesystem needs some for itself.
    pub(super) fn check_growth(&self, copy: &ChunkCopy, action: Action<'_>) -> Result<(), Fault> {
        let Action::Write([.., last]) = action else { return Ok(()) };
        let too_little = self.space().free < GROWTH_FLOOR_BYTES;
        let end = u64::from(last.offset) + last.bytes.len() as u64;
        if too_little && end > u64::from(copy.held().data_length) { Err(Fault::NoSpace) } else { Ok(()) }
    }

    /// The open copy of a chunk, opening it if needed.
    pub(super) fn copy(&self, chunk: ChunkId) -> Result<Arc<ChunkCopy>, Fault> {
        // Twice around at most when the file is found to be missing or replaced; the third time it is odd.
        for _ in 0..3 {
            let known = self.table().find(chunk);
            let held = match known {
                Known::Open(copy) => return Ok(copy),
                Known::Closed(held) => held,
                Known::Damaged(reason) => return Err(Fault::BadCopy { reason }),
                Known::Nothing => return Err(Fault::NoChunk),
            };
            self.make_room();
            let _pass = self.entrance()(Effort::Io)?;
            match ChunkCopy::open(self.layout.path(chunk), chunk, held.suspect) {
                Ok(copy) => {
                    if let Some(copy) = self.table().add_open(copy) {
                        return Ok(copy);
                    }
                }
                Err(OpenFault::Fault(Fault::NoChunk)) => {
                    self.table().add_damaged(chunk, "its file has vanished".to_owned());
                }
                Err(OpenFault::Fault(fault)) => return Err(fault),
                Err(OpenFault::Header(error)) => self.table().add_damaged(chunk, error.to_string()),
            }
        }
        Err(Fault::BadCopy { reason: "its file is not the one that the volume was opened with".to_owned() })
    }

    /// The copy of a chunk, made if the terms allow it; true: it was made now.
    fn copy_or_new(&self, chunk: ChunkId, terms: &Terms) -> Result<(Arc<ChunkCopy>, bool), Fault> {
        let found = match self.copy(chunk) {
            Err(Fault::NoChunk | Fault::BadCopy { .. }) if terms.version_from.is_none() => None,
            other => Some(other?),
        };
        if let Some(copy) = found {
            return Self::not_another(copy, terms);
        }
        self.check_space()?;
        let _files = self.lock_files(chunk);
        let known = self.table().find(chunk);
        match known {
            Known::Open(copy) => return Self::not_another(copy, terms),
            Known::Closed(_) => return Self::not_another(self.copy(chunk)?, terms),
            Known::Nothing | Known::Damaged(_) => {}
        }
        self.make_room();
        let _pass = self.entrance()(Effort::Io)?;
        self.layout.make_folder(chunk).map_err(Fault::io(IoOperation::Write))?;
        let path = self.layout.path(chunk);
        let copy = match ChunkCopy::create(path.clone(), chunk, terms.version) {
            Err(Fault::Io { errno: Errno::EEXIST, .. }) => {
                // A file that the table does not have as a copy: its header was never written, or is damaged.
                fs::remove_file(&path).map_err(Fault::io(IoOperation::Write))?;
                ChunkCopy::create(path, chunk, terms.version)?
            }
            other => other?,
        };
        let mut table = self.table();
        table.add(chunk, copy.held());
        let copy = table.add_open(copy).ok_or(Fault::NoChunk)?;
        Ok((copy, true))
    }

    fn not_another(copy: Arc<ChunkCopy>, terms: &Terms) -> Result<(Arc<ChunkCopy>, bool), Fault> {
        if terms.version_from.is_none() {
            let have = copy.held().version;
            if have != terms.version {
                return Err(Fault::Exists { have });
            }
        }
        Ok((copy, false))
    }

    /// Takes back a copy that was made for a change that failed.
    fn unmake(&self, copy: &ChunkCopy) {
        let _files = self.lock_files(copy.chunk());
        let empty = |held: Held| if held.data_length == 0 { Ok(()) } else { Err(Fault::Exists { have: held.version }) };
        if copy.retire(empty).is_ok() {
            self.table().remove(copy.chunk());
            if let Err(error) = fs::remove_file(self.layout.path(copy.chunk())) {
                tracing::warn!(volume = %self.id(), chunk = %copy.chunk(), %error, "a chunk that was not made left its file");
            }
        }
    }

    /// Keeps the number of open copies bounded.
    fn make_room(&self) {
        let limit = self.settings.open_copies_max;
        let unsynced = {
            let mut table = self.table();
            if table.open_count() < limit {
                return;
            }
            let oldest_unsynced = table.evict(limit - limit / 8);
            if table.open_count() < 2 * limit { None } else { oldest_unsynced }
        };
        if let Some(copy) = unsynced
            && let Err(fault) = self.sync_copy(&copy)
        {
            self.note(copy.chunk(), copy.held().version, &fault);
        }
    }

    pub(super) fn noted<T>(&self, chunk: ChunkId, version: ChunkVersion, result: Result<T, Fault>) -> Result<T, Fault> {
        result.inspect_err(|fault| self.note(chunk, version, fault))
    }

    /// Draws the consequences of a failure.
    pub(super) fn note(&self, chunk: ChunkId, version: ChunkVersion, fault: &Fault) {
        match fault {
            Fault::BadCopy { reason } => {
                let unreadable = matches!(self.table().find(chunk), Known::Damaged(_));
                self.report_bad(chunk, if unreadable { 0 } else { version.get() }, reason.clone());
            }
            Fault::Io { operation, errno } => {
                let reason = format!("could not {operation}: {errno}");
                tracing::warn!(volume = %self.id(), %chunk, reason, "I/O failed");
                match (*operation, *errno) {
                    (_, Errno::EROFS) => self.set_read_only(Some(reason)),
                    (IoOperation::Write | IoOperation::Sync, Errno::EIO | Errno::ENOSPC) => {
                        self.report_bad(chunk, version.get(), reason.clone());
                        self.set_read_only(Some(reason));
                    }
                    // One sector that cannot be read; whether the whole volume is meant, the probe finds out.
                    (_, Errno::EIO) => self.report_bad(chunk, version.get(), reason),
                    (_, Errno::EUCLEAN | Errno::ESHUTDOWN | Errno::ENODEV | Errno::ENXIO | Errno::ESTALE) => {
                        self.take_out(reason);
                    }
                    _ => {}
                }
            }
            // Not a reason to distrust the volume, unless not even the old bytes could be kept.
            Fault::NoSpace => {
                let known = self.table().find(chunk);
                if let Known::Open(copy) = known
                    && copy.is_bad()
                {
                    self.report_bad(chunk, version.get(), "a write of it failed half way for want of space".to_owned());
                }
            }
            _ => {}
        }
    }

    /// Draws the consequences of early syncs that failed.
    pub(super) fn note_early_syncs(&self) {
        for (chunk, version, fault) in self.early_syncs.take_failed() {
            self.note(chunk, version, &fault);
        }
    }

    pub(super) fn report_bad(&self, chunk: ChunkId, version: u32, reason: String) {
        self.found_bad.add(chunk, ChunkVersion::new(version), &reason);
        let report = BadCopy { volume: self.id(), chunk, version, reason };
        if self.bad_copies.try_send(report).is_err() {
            tracing::debug!(volume = %self.id(), %chunk, "too many bad copies at once; this one is reported at its next use");
        }
    }

    pub(super) fn lock_files(&self, chunk: ChunkId) -> MutexGuard<'_, ()> {
        self.files[(chunk.get() % 16) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }
}

/// Whether a change is made durable before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It is.
    BeforeAnswer,
    /// When a sync asks for it, or in the background.
    Later,
}

#[cfg(test)]
#[path = "store_test.rs"]
pub(in crate::volume) mod tests;
