//! Volumes that went back in time: an older image of a volume, restored or attached by its storage.
//!
//! Versions count grants, not writes, so such a volume may have older bytes under the version that is current. Therefore each
//! volume has an *epoch*, a number that the master raises at each start of its chunkserver and every few seconds while it is
//! written, that the chunkserver stores on the volume, durably, and tells from then on, and that the master keeps a record of.
//! A volume that comes with a lower epoch than that is an older image. Its copies are *astray*: they count for nothing until
//! compared with a good one, and its chunkserver hands out none of them. One that is as the good one is good again; one that differs is
//! bad, and made anew. Where nothing but such copies is left, and no volume is away that may have a better one, they are
//! settled like those that a power cut left, so that writers learn that what they wrote may be gone.
//!
//! While anything on the volume is astray it gets no new epoch, so that another start, of it or of the master, finds it so again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId, ServerId, VolumeId};

use super::Chunks;
use super::index::{CopyFlags, Entry, HeldCopy};
use super::servers::Inventory;
use super::types::{Place, Severity};

/// A volume that is written gets a new epoch this often.
const EPOCH_EVERY: Duration = Duration::from_secs(2);
/// What was to be compared and was not is given out again after this long.
const COMPARE_AGAIN: Duration = Duration::from_secs(20);
/// A copy that cannot be read so often is taken for a bad one.
const TRIES_MAX: u8 = 5;
/// Chunks that are told to be sound in one message.
const SOUND_AT_ONCE_MAX: usize = 4096;

/// Which epoch each volume was at when it last said so, also of volumes that are forgotten.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    known: BTreeMap<VolumeId, u64>,
    /// Those whose record does not say so yet.
    unrecorded: BTreeSet<VolumeId>,
}

impl Epochs {
    fn of(&self, volume: VolumeId) -> u64 {
        self.known.get(&volume).copied().unwrap_or(0)
    }
}

/// What is astray on a volume.
#[derive(Debug, Default)]
pub(super) struct Astray {
    left: BTreeSet<ChunkId>,
    found: ReturnedView,
}

/// What a volume's chunkserver has not been told yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    astray: bool,
    sound: Vec<ChunkId>,
}

/// A volume that went back in time, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReturnedView {
    /// Copies that are not decided about, or not made anew yet.
    pub left: u64,
    /// Copies that were as others are.
    pub alike: u64,
    /// Copies that were not.
    pub differing: u64,
    /// Copies that are used as they are, since there were no others.
    pub only: u64,
}

/// What the master makes of a volume, for its chunkserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch to be stored on it; 0: none.
    pub epoch: u64,
    /// It is an older image.
    pub astray: bool,
    /// Copies on it that are good all the same.
    pub sound: Vec<ChunkId>,
}

/// Copies that may be older than they look, and one that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AstrayCopies {
    /// Of this chunk.
    pub chunk: ChunkId,
    /// All of this version.
    pub version: ChunkVersion,
    /// The one to compare with.
    pub good: Place,
    /// Those in question.
    pub astray: Vec<Place>,
}

/// The chunks with such copies beside good ones.
#[derive(Debug, Default)]
pub(super) struct ToCompare {
    chunks: BTreeSet<ChunkId>,
    /// Those given out: when again, and how often they were.
    given: BTreeMap<ChunkId, (Monotonic, u8)>,
    cursor: Option<ChunkId>,
}

impl ToCompare {
    pub(super) fn put(&mut self, chunk: ChunkId, belongs: bool) {
        if belongs {
            self.chunks.insert(chunk);
        } else if self.chunks.remove(&chunk) {
            self.given.remove(&chunk);
        }
    }

    pub(super) fn contains(&self, chunk: ChunkId) -> bool {
        self.chunks.contains(&chunk)
    }
}

impl Chunks {
    /// The epoch that a record says the volume was at.
    pub fn know_epoch(&mut self, volume: VolumeId, epoch: u64) {
        self.epochs.known.insert(volume, epoch);
    }

    /// Epochs that no record has yet.
    pub fn epochs_to_record(&self) -> Vec<(VolumeId, u64)> {
        self.epochs.unrecorded.iter().map(|volume| (*volume, self.epochs.of(*volume))).collect()
    }

    /// They are on record.
    pub fn epochs_recorded(&mut self, recorded: &[(VolumeId, u64)]) {
        for (volume, epoch) in recorded {
            if self.epochs.of(*volume) == *epoch {
                self.epochs.unrecorded.remove(volume);
            }
        }
    }

    /// The volume was named in a new registration: it gets a new epoch, and hears anew what is astray on it.
    pub(super) fn begin_judging(&mut self, slot: u16) {
        self.servers.volume_mut(slot).epoch_offered = None;
        self.judge_epoch(slot);
        self.tell_astray_anew(slot);
    }

    /// The inventory of the volume begins: it may have been opened anew, and its chunkserver does not know what is astray then.
    pub(super) fn tell_astray_anew(&mut self, slot: u16) {
        let volume = self.servers.volume_mut(slot);
        volume.untold = Untold { astray: volume.astray.is_some(), sound: Vec::new() };
    }

    /// Compares the epoch that the volume was reported with, if it was, with the one it had.
    pub(super) fn judge_epoch(&mut self, slot: u16) {
        let volume = self.servers.volume(slot);
        let Some(epoch) = volume.report.epoch else { return };
        let (id, is_astray) = (volume.id, volume.astray.is_some());
        let known = self.epochs.of(id);
        if epoch > known {
            self.epochs.known.insert(id, epoch);
            self.epochs.unrecorded.insert(id);
        }
        match (epoch < known, is_astray) {
            (true, false) => self.goes_astray(slot, epoch, known),
            (false, true) => self.is_found_again(slot),
            _ => {}
        }
    }

    fn goes_astray(&mut self, slot: u16, epoch: u64, known: u64) {
        let volume = self.servers.volume_mut(slot);
        volume.astray = Some(Astray::default());
        volume.returned = None;
        volume.untold.astray = true;
        let chunks: Vec<ChunkId> = volume.chunks.iter().copied().collect();
        let what = format!("volume {} of chunkserver {}", volume.report.path, volume.server);
        let message = format!(
            "{what} is an older image of itself (it is at epoch {epoch}, and was at {known} before): an older state of its disk was restored, \
             or a copy of it was attached; nothing on it is used before it was compared with other copies"
        );
        self.notice(Severity::Error, message);
        for chunk in chunks {
            self.flag_astray(slot, chunk);
            self.refresh(chunk);
        }
    }

    /// It has stored a new epoch after everything was compared, or the volume itself is there again and not an image.
    fn is_found_again(&mut self, slot: u16) {
        let Some(astray) = self.servers.volume_mut(slot).astray.take() else { return };
        for chunk in &astray.left {
            if let Some(copy) = self.entries.get_mut(chunk).and_then(|entry| entry.copy_on_mut(slot)) {
                copy.flags.clear(CopyFlags::ASTRAY);
            }
            self.refresh(*chunk);
        }
        let volume = self.servers.volume_mut(slot);
        let ReturnedView { alike, differing, only, .. } = astray.found;
        volume.returned = Some(ReturnedView { left: 0, ..astray.found });
        let what = format!("volume {} of chunkserver {} is in full use again", volume.report.path, volume.server);
        let found = format!("{alike} copies on it were as others are, {differing} were not and were made anew");
        let (severity, lost) = match only {
            0 => (Severity::Information, String::new()),
            only => (
                Severity::Warning,
                format!(
                    "; {only} had no others and are used as they are: what was written to their files since the older state is lost"
                ),
            ),
        };
        self.notice(severity, format!("{what}: {found}{lost}"));
    }

    /// The inventory of the volume, or what was known of it, names the copy.
    pub(super) fn flag_astray(&mut self, slot: u16, chunk: ChunkId) {
        let Some(astray) = &mut self.servers.volume_mut(slot).astray else { return };
        if let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) {
            copy.flags.set(CopyFlags::ASTRAY);
            astray.left.insert(chunk);
        }
    }

    /// The copy is gone, was made anew or was raised.
    pub(super) fn is_not_astray(&mut self, slot: u16, chunk: ChunkId, how: EndOfAstray) {
        if let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) {
            copy.flags.clear(CopyFlags::ASTRAY);
        }
        if let Some(astray) = &mut self.servers.volume_mut(slot).astray
            && astray.left.remove(&chunk)
            && how == EndOfAstray::UsedAsItIs
        {
            astray.found.only += 1;
        }
    }

    /// What the server is to be told of its volumes now.
    pub fn take_judgements(&mut self, server: ServerId) -> Vec<Judgement> {
        let slots = self.servers.servers.get(&server).map(|server| server.slots.clone()).unwrap_or_default();
        slots.into_iter().filter_map(|slot| self.take_judgement(slot)).collect()
    }

    fn take_judgement(&mut self, slot: u16) -> Option<Judgement> {
        let epoch = self.offer(slot).unwrap_or(0);
        let volume = self.servers.volume_mut(slot);
        let told = volume.untold.sound.len().min(SOUND_AT_ONCE_MAX);
        let sound: Vec<ChunkId> = volume.untold.sound.drain(..told).collect();
        let astray = std::mem::take(&mut volume.untold.astray);
        let judgement = Judgement { volume: volume.id, epoch, astray, sound };
        (epoch > 0 || judgement.astray || !judgement.sound.is_empty()).then_some(judgement)
    }

    /// The next epoch of the volume, if it is time for it.
    fn offer(&mut self, slot: u16) -> Option<u64> {
        let volume = self.servers.volume(slot);
        let stored = volume.report.epoch?;
        let known = self.epochs.of(volume.id);
        let has_told = matches!(volume.inventory, Inventory::Complete);
        let may_have_one = match &volume.astray {
            Some(astray) => has_told && astray.left.is_empty(),
            None => has_told && stored >= known,
        };
        let waited = volume.epoch_offered.is_none_or(|offered| self.now.since(offered) >= EPOCH_EVERY);
        let is_due = volume.epoch_offered.is_none() || volume.report.changed || volume.astray.is_some();
        if !may_have_one || !waited || !is_due {
            return None;
        }
        let now = self.now;
        self.servers.volume_mut(slot).epoch_offered = Some(now);
        Some(stored.max(known).saturating_add(1))
    }

    /// Whether there are astray copies to compare with a good one.
    pub(super) fn is_to_be_compared(&self, entry: &Entry, live: u8) -> bool {
        live > 0 && entry.is_settled() && entry.copies().iter().any(|copy| self.is_in_question(entry, copy))
    }

    /// Astray, and nothing else speaks against it.
    fn is_in_question(&self, entry: &Entry, copy: &HeldCopy) -> bool {
        let others = CopyFlags::SUSPECT.and(CopyFlags::BAD).and(CopyFlags::DELETING);
        let astray = copy.flags.has(CopyFlags::ASTRAY) && !copy.flags.has(others);
        astray && entry.is_current(copy) && self.servers.volume(copy.slot).counts
    }

    /// Copies to compare now, at most `limit` chunks: what becomes of it is told with [`Chunks::astray_compared`].
    pub fn astray_to_compare(&mut self, limit: usize) -> Vec<AstrayCopies> {
        const EXAMINED_MAX: usize = 4096;
        let after = self.to_compare.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let part: Vec<ChunkId> =
            self.to_compare.chunks.range((after, Bound::Unbounded)).take(EXAMINED_MAX).copied().collect();
        let mut found = Vec::new();
        let mut last = None;
        for chunk in &part {
            if found.len() >= limit {
                break;
            }
            last = Some(*chunk);
            let given = self.to_compare.given.get(chunk).copied();
            if given.is_some_and(|(again, _)| self.now < again) {
                continue;
            }
            if let Some(copies) = self.copies_to_compare(*chunk) {
                let tries = given.map_or(0, |(_, tries)| tries).saturating_add(1);
                self.to_compare.given.insert(*chunk, (self.now + COMPARE_AGAIN, tries));
                found.push(copies);
            }
        }
        let is_end = last == part.last().copied() && part.len() < EXAMINED_MAX;
        self.to_compare.cursor = if is_end { None } else { last };
        found
    }

    fn copies_to_compare(&self, chunk: ChunkId) -> Option<AstrayCopies> {
        let entry = self.entries.get(&chunk)?;
        if entry.is_repairing() || !entry.is_settled() {
            return None;
        }
        let mut good: Vec<Place> = entry
            .copies()
            .iter()
            .filter(|copy| self.is_live_and_good(entry, copy))
            .filter_map(|copy| self.servers.live_place(copy.slot))
            .collect();
        self.shuffle(&mut good);
        let in_question = entry.copies().iter().filter(|copy| self.is_in_question(entry, copy));
        let astray = in_question.filter_map(|copy| self.servers.live_place(copy.slot)).collect();
        Some(AstrayCopies {
            chunk,
            version: ChunkVersion::new(entry.version()),
            good: good.into_iter().next()?,
            astray,
        })
    }

    /// Nobody could compare them now: that was no try.
    pub fn astray_not_compared(&mut self, copies: &AstrayCopies) {
        if let Some((again, tries)) = self.to_compare.given.get_mut(&copies.chunk) {
            (*again, *tries) = (self.now, tries.saturating_sub(1));
        }
    }

    /// What the copies hold, as far as they told. Gives the file, if some of them have other bytes than they should: who knows where
    /// its copies are may have asked them.
    pub fn astray_compared(
        &mut self,
        copies: &AstrayCopies,
        good: Option<[u8; 32]>,
        astray: &[Option<[u8; 32]>],
    ) -> Option<InodeId> {
        let chunk = copies.chunk;
        let entry = self.entries.get(&chunk).filter(|entry| entry.is_settled())?;
        if entry.version() != copies.version.get() || !self.to_compare.contains(chunk) {
            return None;
        }
        let inode = entry.inode();
        let Some(good) = good else {
            // Later again: it says nothing of the others that the good one could not be read.
            if let Some((_, tries)) = self.to_compare.given.get_mut(&chunk) {
                *tries = tries.saturating_sub(1);
            }
            return None;
        };
        let last_try = self.to_compare.given.get(&chunk).is_some_and(|(_, tries)| *tries >= TRIES_MAX);
        let mut differs = false;
        for (place, digest) in copies.astray.iter().zip(astray) {
            match digest {
                Some(digest) if *digest == good => self.is_alike(chunk, place.volume),
                None if !last_try => {}
                _ => {
                    differs = true;
                    self.is_different(chunk, place.volume);
                }
            }
        }
        self.refresh(chunk);
        differs.then_some(inode)
    }

    fn is_alike(&mut self, chunk: ChunkId, volume: VolumeId) {
        let Some(slot) = self.servers.slot(volume) else { return };
        self.is_not_astray(slot, chunk, EndOfAstray::Compared);
        let volume = self.servers.volume_mut(slot);
        volume.untold.sound.push(chunk);
        if let Some(astray) = &mut volume.astray {
            astray.found.alike += 1;
        }
    }

    /// It stays astray as well, so that its chunkserver goes on keeping it from everybody until it is made anew.
    fn is_different(&mut self, chunk: ChunkId, volume: VolumeId) {
        let Some(slot) = self.servers.slot(volume) else { return };
        let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) else { return };
        copy.flags.set(CopyFlags::BAD);
        if let Some(astray) = &mut self.servers.volume_mut(slot).astray {
            astray.found.differing += 1;
        }
    }

    /// Whether a chunk of which only astray copies are live may go on with them: no volume is away that has a better one, or that
    /// has not said yet whether it has.
    pub(super) fn may_use_astray(&self, entry: &Entry) -> bool {
        let is_better = |copy: &HeldCopy| {
            let useless = copy.flags.has(CopyFlags::ASTRAY.and(CopyFlags::BAD));
            !useless && entry.is_current(copy) && !self.servers.volume(copy.slot).counts
        };
        self.servers.all_have_told() && !entry.copies().iter().any(is_better)
    }

    /// Whether the chunk waits for better copies than the astray ones that are live.
    pub(super) fn waits_for_better(&self, entry: &Entry) -> bool {
        let live = |copy: &&HeldCopy| self.servers.volume(copy.slot).counts && entry.is_current(copy);
        let mut live = entry.copies().iter().filter(live).peekable();
        live.peek().is_some() && live.all(|copy| copy.flags.has(CopyFlags::ASTRAY)) && !self.may_use_astray(entry)
    }

    /// What is known of a volume that went back in time.
    pub(super) fn returned_view(&self, slot: u16) -> Option<ReturnedView> {
        let volume = self.servers.volume(slot);
        match &volume.astray {
            Some(astray) => Some(ReturnedView { left: astray.left.len() as u64, ..astray.found }),
            None => volume.returned,
        }
    }

    /// Whether nothing on the volume is to be believed without a comparison.
    pub(super) fn is_astray(&self, slot: u16) -> bool {
        self.servers.volume(slot).astray.is_some()
    }
}

/// How a copy ceased to be astray.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndOfAstray {
    /// It was as a good one.
    Compared,
    /// It is gone, or made anew.
    Replaced,
    /// There was no other, and it was given a new version.
    UsedAsItIs,
}

#[cfg(test)]
#[path = "astray_test.rs"]
mod tests;
