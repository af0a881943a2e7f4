//! What there is to choose from when a chunk's writer is gone without a commit.
//!
//! The engine waits for the places of the grant that are away (up to the session expiry), takes the best candidate, orders
//! it raised to a version above the granted one, and logs that. Everything that was ever acknowledged to an `fsync` is on
//! every place of the grant, so any of them is right; the newest that did not go through a power cut has all that was acknowledged, also to nobody's fsync.

use std::cmp::Reverse;

use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};

use super::Chunks;
use super::index::CopyFlags;
use super::types::Place;

/// A live copy that the chunk can go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleCandidate {
    /// Where it is.
    pub place: Place,
    /// Its version as last heard. The writer may have raised it since: a raise that fails teaches the right one.
    pub version: ChunkVersion,
    /// It went through a crash while it took writes, or is on an older image of its volume.
    pub suspect: bool,
}

/// What is known about the copies of a chunk that is to be settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettleView {
    /// Live copies of the granted or the settled version, the best first.
    pub candidates: Vec<SettleCandidate>,
    /// Volumes of the grant that are away.
    pub missing: Vec<VolumeId>,
    /// Known servers have not yet said what they hold since the master started.
    pub waits_for_servers: bool,
    /// No copy is known, every known volume is there, and nobody was promised that any of it is on a disk. Whether there
    /// really is none is to be asked of [`Chunks::every_place`].
    pub is_lost: bool,
}

impl Chunks {
    /// All volumes.
    pub fn every_place(&self) -> Vec<Place> {
        self.servers.volumes().filter_map(|(slot, _)| self.servers.live_place(slot)).collect()
    }

    /// Places for empty copies of a chunk of which nothing is left.
    pub fn choose_anew(&mut self, chunk: ChunkId) -> Vec<Place> {
        let Some(entry) = self.entries.get(&chunk) else { return Vec::new() };
        let holders: Vec<ServerId> = entry.copies().iter().map(|copy| self.servers.volume(copy.slot).server).collect();
        self.choose_new(entry.info().goal, &holders).unwrap_or_default()
    }

    /// What the chunk can be settled from.
    pub fn settle_candidates(&self, chunk: ChunkId) -> SettleView {
        let Some(entry) = self.entries.get(&chunk) else { return SettleView::default() };
        let mut view = SettleView { waits_for_servers: self.is_waiting_for_servers(), ..SettleView::default() };
        let mut ranked = Vec::new();
        for copy in entry.copies() {
            let volume = self.servers.volume(copy.slot);
            if !volume.counts {
                if copy.flags.has(CopyFlags::GRANTED) || entry.is_current(copy) {
                    view.missing.push(volume.id);
                }
                continue;
            }
            let usable = copy.version >= entry.version() && copy.version <= entry.granted() && copy.version != 0;
            // Once the places of the grant are known, an old copy elsewhere misses what was acknowledged there.
            let of_grant = !entry.knows_grant() || copy.flags.has(CopyFlags::GRANTED);
            if !usable || !of_grant || copy.flags.has(CopyFlags::DELETING) || !volume.takes_writes() {
                continue;
            }
            let Some(place) = self.servers.place(copy.slot) else { continue };
            let suspect = copy.flags.is_in_doubt();
            let candidate = SettleCandidate { place, version: ChunkVersion::new(copy.version), suspect };
            ranked.push((copy.flags.has(CopyFlags::BAD), Reverse(copy.version), suspect, candidate));
        }
        ranked.sort_by_key(|(bad, version, suspect, candidate)| (*bad, *version, *suspect, candidate.place.volume));
        if ranked.first().is_some_and(|(bad, ..)| !bad) {
            // Bad copies are only better than nothing.
            ranked.retain(|(bad, ..)| !bad);
        }
        if ranked.first().is_some_and(|(_, _, suspect, _)| !suspect) {
            // A copy that kept its power has everything; suspect ones could only outvote it.
            ranked.retain(|(_, _, suspect, _)| !suspect);
        }
        if self.waits_for_better(entry) {
            ranked.clear();
        }
        view.is_lost = ranked.is_empty()
            && entry.may_have_lost_all()
            && self.is_everything_there()
            && self.servers.volumes().any(|(_, volume)| volume.report.lost_power);
        view.candidates = ranked.into_iter().map(|(_, _, _, candidate)| candidate).collect();
        view
    }
}
