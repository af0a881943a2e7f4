//! One chunk's entry in memory: its record and its known copies, in few bytes.
//!
//! An entry takes 64 bytes with up to three copies, its place in the hash table about 100, and each copy about 12 in its
//! volume's set: some 125 bytes per chunk with two copies.
//!
//! What makes a copy **current**: of a settled chunk, the record's version; of a chunk that is granted to a writer, being
//! one of the places of the grant. After a restart of the master the places of a grant are not known: then the copies with
//! the granted version are current, or if there are none, those with the record's version.

use std::hash::{BuildHasherDefault, Hasher};

use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId};

use super::types::ChunkInfo;

/// Hashes ids, which are numbers that nobody outside chooses, with one multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.0 ^ number).wrapping_mul(ODD);
        self.0 = mixed ^ (mixed >> 32);
    }
}

pub(super) type IdHash = BuildHasherDefault<IdHasher>;
pub(super) type ChunkSet = std::collections::HashSet<ChunkId, IdHash>;
pub(super) type ChunkMap<T> = std::collections::HashMap<ChunkId, T, IdHash>;

/// Lengths are remembered in units of this: those of whole chunks fit into two bytes then.
const PAGE_BYTES: u64 = 4096;
const _: () = assert!(rfs_common::leaf::CHUNK_BYTES / PAGE_BYTES <= u16::MAX as u64);

/// What is remarkable about a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CopyFlags(u8);

impl CopyFlags {
    pub(super) const NONE: CopyFlags = CopyFlags(0);
    /// One of the places of the present grant.
    pub(super) const GRANTED: CopyFlags = CopyFlags(1);
    /// Open in a crash: leaves and data may disagree.
    pub(super) const SUSPECT: CopyFlags = CopyFlags(2);
    /// Gave wrong bytes, or none.
    pub(super) const BAD: CopyFlags = CopyFlags(4);
    /// A command to delete it is under way.
    pub(super) const DELETING: CopyFlags = CopyFlags(8);
    /// On an older image of its volume, and not compared with a good one (`astray.rs`).
    pub(super) const ASTRAY: CopyFlags = CopyFlags(16);

    /// Both, to be asked about at once.
    pub(super) const fn and(self, other: CopyFlags) -> CopyFlags {
        CopyFlags(self.0 | other.0)
    }

    /// Whether it has any of these.
    pub(super) fn has(self, flag: CopyFlags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(super) fn set(&mut self, flag: CopyFlags) {
        self.0 |= flag.0;
    }

    pub(super) fn clear(&mut self, flag: CopyFlags) {
        self.0 &= !flag.0;
    }

    /// Nothing speaks against reading and counting it.
    pub(super) fn is_good(self) -> bool {
        self.0 & (Self::SUSPECT.0 | Self::BAD.0 | Self::DELETING.0 | Self::ASTRAY.0) == 0
    }

    /// Acknowledged bytes may be missing from it, though it may be whole in itself.
    pub(super) fn is_in_doubt(self) -> bool {
        self.has(Self::SUSPECT.and(Self::ASTRAY))
    }

    /// It may be read if there is nothing better.
    pub(super) fn is_last_resort(self) -> bool {
        !self.has(Self::DELETING)
    }
}

/// A copy on the volume with this slot number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HeldCopy {
    /// As last heard. A copy of a grant may have been raised by its writer since.
    pub(super) version: u32,
    pub(super) slot: u16,
    pub(super) flags: CopyFlags,
}

/// The copies of a chunk; up to three without an allocation.
#[derive(Debug, Clone)]
enum Copies {
    Few(u8, [HeldCopy; Copies::FEW_MAX]),
    Many(Vec<HeldCopy>),
}

impl Copies {
    const FEW_MAX: usize = 3;

    fn as_slice(&self) -> &[HeldCopy] {
        match self {
            Copies::Few(count, copies) => &copies[..usize::from(*count)],
            Copies::Many(copies) => copies,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [HeldCopy] {
        match self {
            Copies::Few(count, copies) => &mut copies[..usize::from(*count)],
            Copies::Many(copies) => copies,
        }
    }

    fn push(&mut self, copy: HeldCopy) {
        match self {
            Copies::Few(count, copies) if usize::from(*count) < Self::FEW_MAX => {
                copies[usize::from(*count)] = copy;
                *count += 1;
            }
            Copies::Few(_, copies) => {
                let mut all = copies.to_vec();
                all.push(copy);
                *self = Copies::Many(all);
            }
            Copies::Many(copies) => copies.push(copy),
        }
    }

    fn remove(&mut self, index: usize) {
        match self {
            Copies::Few(count, copies) => {
                copies.copy_within(index + 1..usize::from(*count), index);
                *count -= 1;
            }
            Copies::Many(copies) => {
                copies.remove(index);
            }
        }
    }
}

/// How an entry was counted last: its goal and its live copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) goal: u8,
    pub(super) live: u8,
    pub(super) settled: bool,
}

impl Counted {
    /// How many copies can be made and are not there.
    pub(super) fn missing(self) -> u64 {
        if self.live == 0 { 0 } else { u64::from(self.goal.saturating_sub(self.live)) }
    }
}

/// A chunk.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    inode: u64,
    version: u32,
    granted: u32,
    copies: Copies,
    /// Since when it lacks copies, in seconds of the chunk table's clock plus one; 0: it does not.
    pub(super) under_since_s: u32,
    pub(super) counted: Option<Counted>,
    /// Its length in pages, rounded up, as far as it is known: for sums and estimates, never to decide what a copy has to hold.
    pages: u16,
    /// Whether it was counted among the chunks with copies that should go.
    pub(super) counted_surplus: bool,
    goal: u8,
    repairing: bool,
    doomed: bool,
    unsynced: bool,
}

impl Entry {
    pub(super) fn new(info: ChunkInfo) -> Entry {
        Entry {
            inode: info.inode.get(),
            version: info.version.get(),
            granted: info.granted.get(),
            copies: Copies::Few(0, [HeldCopy::default(); Copies::FEW_MAX]),
            under_since_s: 0,
            pages: 0,
            counted: None,
            counted_surplus: false,
            goal: info.goal.get(),
            repairing: false,
            doomed: false,
            unsynced: info.unsynced,
        }
    }

    pub(super) fn info(&self) -> ChunkInfo {
        ChunkInfo {
            inode: InodeId::new(self.inode),
            version: ChunkVersion::new(self.version),
            granted: ChunkVersion::new(self.granted),
            goal: Goal::new(self.goal).unwrap_or(Goal::ONE),
            unsynced: self.unsynced,
        }
    }

    /// Takes over a changed record. When it settles the chunk at the granted version, the places of the grant have that
    /// version. Returns the slots of a grant that ended with it.
    pub(super) fn set_info(&mut self, info: ChunkInfo) -> Vec<u16> {
        let granted_before = self.granted;
        self.inode = info.inode.get();
        self.version = info.version.get();
        self.granted = info.granted.get();
        self.goal = info.goal.get();
        self.unsynced = info.unsynced;
        if !info.is_settled() {
            return Vec::new();
        }
        self.end_grant(|copy| {
            if info.version.get() == granted_before {
                copy.version = granted_before;
            }
        })
    }

    /// The writer may from now on write to these places, and to no others. Returns the slots of the grant before.
    pub(super) fn grant(&mut self, from: ChunkVersion, to: ChunkVersion, slots: &[u16]) -> Vec<u16> {
        let before = self.end_grant(|_| {});
        self.granted = to.get();
        for slot in slots {
            if self.copy_on(*slot).is_none() {
                let version = if from == to { to.get() } else { from.get() };
                self.copies.push(HeldCopy { version, slot: *slot, flags: CopyFlags::NONE });
            }
            let Some(copy) = self.copy_on_mut(*slot) else { continue };
            copy.flags.set(CopyFlags::GRANTED);
            if from == to {
                copy.version = to.get();
            }
        }
        before
    }

    fn end_grant(&mut self, each: impl Fn(&mut HeldCopy)) -> Vec<u16> {
        let mut slots = Vec::new();
        for copy in self.copies.as_mut_slice() {
            if copy.flags.has(CopyFlags::GRANTED) {
                copy.flags.clear(CopyFlags::GRANTED);
                each(copy);
                slots.push(copy.slot);
            }
        }
        slots
    }

    /// The record is gone. Returns the slots of a grant that ended with it.
    pub(super) fn doom(&mut self) -> Vec<u16> {
        self.doomed = true;
        self.repairing = false;
        self.end_grant(|_| {})
    }

    pub(super) fn copies(&self) -> &[HeldCopy] {
        self.copies.as_slice()
    }

    pub(super) fn copy_on(&self, slot: u16) -> Option<&HeldCopy> {
        self.copies().iter().find(|copy| copy.slot == slot)
    }

    pub(super) fn copy_on_mut(&mut self, slot: u16) -> Option<&mut HeldCopy> {
        self.copies.as_mut_slice().iter_mut().find(|copy| copy.slot == slot)
    }

    pub(super) fn push_copy(&mut self, copy: HeldCopy) {
        self.copies.push(copy);
    }

    /// Forgets the copy. Returns whether it was one of the places of a grant.
    pub(super) fn remove_copy(&mut self, slot: u16) -> Option<HeldCopy> {
        let index = self.copies().iter().position(|copy| copy.slot == slot)?;
        let copy = self.copies()[index];
        self.copies.remove(index);
        Some(copy)
    }

    /// About how long each copy is.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_BYTES
    }

    /// Takes over a length; returns whether that changed [`Entry::bytes`].
    pub(super) fn set_length(&mut self, length: u32) -> bool {
        let pages = u64::from(length).div_ceil(PAGE_BYTES) as u16;
        std::mem::replace(&mut self.pages, pages) != pages
    }

    pub(super) fn inode(&self) -> InodeId {
        InodeId::new(self.inode)
    }

    pub(super) fn goal(&self) -> u8 {
        self.goal
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn granted(&self) -> u32 {
        self.granted
    }

    pub(super) fn is_settled(&self) -> bool {
        self.version == self.granted
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// A repair holds the lock on the chunk.
    pub(super) fn is_repairing(&self) -> bool {
        self.repairing
    }

    pub(super) fn lock_for_repair(&mut self) {
        self.repairing = true;
    }

    pub(super) fn unlock_after_repair(&mut self) {
        self.repairing = false;
    }

    /// Whether the places of the present grant are known.
    pub(super) fn knows_grant(&self) -> bool {
        self.copies().iter().any(|copy| copy.flags.has(CopyFlags::GRANTED))
    }

    /// Whether the copy has what the chunk is now. Says nothing about its volume being there.
    pub(super) fn is_current(&self, copy: &HeldCopy) -> bool {
        if self.is_settled() {
            return copy.version == self.version && copy.version != 0;
        }
        if self.knows_grant() {
            return copy.flags.has(CopyFlags::GRANTED);
        }
        let any_granted = self.copies().iter().any(|copy| copy.version == self.granted);
        copy.version != 0 && copy.version == if any_granted { self.granted } else { self.version }
    }

    /// Whether a power cut may have taken every copy: none with the right version is known, and none was promised to last.
    pub(super) fn may_have_lost_all(&self) -> bool {
        self.unsynced && !self.copies().iter().any(|copy| self.is_current(copy))
    }

    /// Whether the copy is newer than anything this metadata knows of.
    pub(super) fn is_anomaly(&self, copy: &HeldCopy) -> bool {
        !self.doomed && copy.version > self.granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: u32, granted: u32) -> ChunkInfo {
        let (version, granted) = (ChunkVersion::new(version), ChunkVersion::new(granted));
        ChunkInfo { inode: InodeId::new(1), version, granted, goal: Goal::TWO, unsynced: false }
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }

    #[test]
    fn copies_move_to_the_heap_and_keep_their_order() {
        let mut entry = Entry::new(info(1, 1));
        for slot in 0..5 {
            entry.push_copy(HeldCopy { version: 1, slot, flags: CopyFlags::NONE });
        }
        entry.remove_copy(1);
        let slots: Vec<u16> = entry.copies().iter().map(|copy| copy.slot).collect();
        assert_eq!(slots, [0, 2, 3, 4]);
    }

    #[test]
    fn only_places_of_the_grant_become_current_with_the_commit() {
        let mut entry = Entry::new(info(3, 3));
        for slot in 0..3 {
            entry.push_copy(HeldCopy { version: 3, slot, flags: CopyFlags::NONE });
        }
        entry.grant(ChunkVersion::new(3), ChunkVersion::new(4), &[0, 2]);
        let current = |entry: &Entry| -> Vec<u16> {
            entry.copies().iter().filter(|copy| entry.is_current(copy)).map(|copy| copy.slot).collect()
        };
        assert_eq!(current(&entry), [0, 2]);
        entry.set_info(info(4, 4));
        assert_eq!(current(&entry), [0, 2]);
        assert!(!entry.knows_grant());
    }

    #[test]
    fn a_grant_that_nobody_used_leaves_the_copies_as_they_were() {
        let mut entry = Entry::new(info(3, 3));
        entry.push_copy(HeldCopy { version: 3, slot: 7, flags: CopyFlags::NONE });
        entry.grant(ChunkVersion::new(3), ChunkVersion::new(4), &[7]);
        entry.set_info(info(3, 3));
        assert_eq!(entry.copies()[0].version, 3);
    }
}
