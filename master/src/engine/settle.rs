//! Settling: a chunk whose writer is gone is brought to one state on all its copies, and to a version that the writer
//! never had (docs/protocol.md, section 3).
//!
//! The ticker does one step of one chunk at a time: wait for the places of the grant, reserve a version, have all the best
//! copies raised to it (from then on a writer that still lives is shut out), compare what they hold, and note the version.
//! Copies that differ are narrowed down to one group that is raised once more. Readers and writers of the chunk wait.
//!
//! Where no copy kept its power, what the power cut left becomes the content, and the record notes the version
//! (`lost`): clients that have not synced what they wrote before learn of it. Where a power cut took every copy of a chunk that
//! nobody ever synced, every volume is asked for it, and then empty copies take its place: it reads as zeros.
//!
//! What always holds: no reader gets a chunk between its writer's end and its settling; a version is reserved in the store
//! before a copy is raised to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId};

use super::{Engine, State};
use crate::chunks::{AstrayCopies, OrderId, Place, RaiseOf, SettleView, Severity};
use crate::namespace::ops::chunks::{self, Remains};

/// How long to leave a chunk alone that cannot be settled now.
const PAUSE: Duration = Duration::from_millis(500);

/// How many chunks are settled at the same time.
const AT_ONCE_MAX: usize = 64;

/// Tells what copies hold.
pub trait CompareCopies: Send + Sync {
    /// The digest of the whole copy. None if it cannot be had; called without the engine's lock.
    fn digest(&self, place: &Place, chunk: ChunkId, version: ChunkVersion) -> Option<[u8; 32]>;
}

#[derive(Debug)]
enum Stage {
    /// Nothing was done, or it begins anew after this.
    Pending { not_before: Option<Monotonic> },
    /// Every volume is asked for a copy that none has named.
    Searching { order: OrderId, asked: usize },
    /// Copies are being raised to a version that was reserved.
    Raising { order: OrderId, to: ChunkVersion, asked: usize, alike: bool, remains: Remains },
    /// Copies were raised and are to be compared.
    Comparing { to: ChunkVersion, places: Vec<Place>, taken: bool, remains: Remains },
}

/// What follows a raise.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// The copies are known to be alike: they need not be compared.
    alike: bool,
    remains: Remains,
}

#[derive(Debug)]
struct Work {
    since: Option<Monotonic>,
    reported: bool,
    stage: Stage,
}

/// The chunks that are being settled.
#[derive(Debug, Default)]
pub(super) struct Settling {
    work: BTreeMap<ChunkId, Work>,
    cursor: Option<ChunkId>,
    /// Chunks that somebody waits for: they come before the others, of which a restart may leave a great many.
    awaited: BTreeSet<ChunkId>,
}

/// Copies to compare, taken out of the lock.
#[derive(Debug)]
pub(super) enum Comparison {
    /// Of a chunk that is being settled.
    Settling(SettleComparison),
    /// Of a chunk on an older image of a volume.
    Astray(AstrayCopies),
}

/// Copies that were raised, to see whether they are alike.
#[derive(Debug)]
pub(super) struct SettleComparison {
    chunk: ChunkId,
    version: ChunkVersion,
    places: Vec<Place>,
}

impl Settling {
    /// Chunks that were granted and not committed when the master ended.
    pub(super) fn new(unsettled: Vec<ChunkId>) -> Settling {
        let mut settling = Settling::default();
        unsettled.into_iter().for_each(|chunk| settling.add(chunk));
        settling
    }

    /// The chunk's writer is gone.
    pub(super) fn add(&mut self, chunk: ChunkId) {
        let work = || Work { since: None, reported: false, stage: Stage::Pending { not_before: None } };
        self.work.entry(chunk).or_insert_with(work);
    }

    /// Somebody waits for the chunk.
    pub(super) fn add_awaited(&mut self, chunk: ChunkId) {
        self.add(chunk);
        self.awaited.insert(chunk);
    }

    /// The chunk is gone, is settled, or has a writer again.
    ///
    /// Returns the order for it that is still under way, if there is one.
    fn remove(&mut self, chunk: ChunkId) -> Option<OrderId> {
        self.awaited.remove(&chunk);
        match self.work.remove(&chunk)?.stage {
            Stage::Searching { order, .. } | Stage::Raising { order, .. } => Some(order),
            Stage::Pending { .. } | Stage::Comparing { .. } => None,
        }
    }

    /// Whether the chunk is being settled.
    pub(super) fn contains(&self, chunk: ChunkId) -> bool {
        self.work.contains_key(&chunk)
    }

    /// The chunks.
    pub(super) fn chunks(&self) -> Vec<ChunkId> {
        self.work.keys().copied().collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.work.len()
    }

    /// The chunks to look at now: those that somebody waits for, and some of the others, in turn.
    fn next(&mut self) -> Vec<ChunkId> {
        let from = self.cursor.map_or(ChunkId::new(0), ChunkId::next);
        let after = self.work.range(from..).map(|(chunk, _)| *chunk);
        let before = self.work.range(..from).map(|(chunk, _)| *chunk);
        let mut chosen: Vec<ChunkId> = after.chain(before).take(AT_ONCE_MAX).collect();
        self.cursor = chosen.last().copied();
        let mut first: Vec<ChunkId> = self.awaited.iter().copied().collect();
        chosen.retain(|chunk| !self.awaited.contains(chunk));
        first.append(&mut chosen);
        first
    }
}

impl State {
    /// One step of some of the chunks that are being settled. What copies hold is compared by the caller, without the
    /// lock, and told with [`State::compared`].
    pub(super) fn settle_step(&mut self, engine: &Engine, now: Monotonic) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for chunk in self.settling.next() {
            comparisons.extend(self.settle_one(engine, chunk, now));
        }
        comparisons
    }

    /// Copies that are newer than the metadata, which was put back from before: what they hold was acknowledged, so their
    /// chunks go on with it.
    pub(super) fn adopt_newer(&mut self, engine: &Engine, now: Monotonic) {
        for (chunk, version) in self.chunks.with_newer_copies() {
            let mut transaction = engine.transaction();
            let adopted = chunks::adopt(&mut transaction, chunk, version);
            if adopted.is_err() || self.commit(engine, None, &transaction.into_changes()).is_err() {
                continue;
            }
            self.chunks.adopted(chunk);
            if adopted == Ok(false) {
                continue;
            }
            self.settling.add(chunk);
            let inode = self.chunks.info(chunk).map_or(InodeId::new(0), |info| info.inode);
            engine.report(
                Severity::Warning,
                format!("chunk {chunk} of inode {inode} goes on with copies of version {version}, newer than this metadata knew"),
            );
            self.tell_data_changed(inode, now);
        }
    }

    /// The chunk is settled, has a writer again, or is gone.
    pub(super) fn stop_settling(&mut self, chunk: ChunkId) {
        if let Some(order) = self.settling.remove(chunk) {
            self.chunks.abandon_order(order);
        }
    }

    fn settle_one(&mut self, engine: &Engine, chunk: ChunkId, now: Monotonic) -> Option<Comparison> {
        if self.mending.contains(&chunk) {
            return None;
        }
        let Some(info) = self.chunks.info(chunk) else {
            self.stop_settling(chunk);
            return None;
        };
        if info.version.get() == 0 {
            self.drop_pending(engine, chunk, now);
            return None;
        }
        let work = self.settling.work.get_mut(&chunk)?;
        let since = *work.since.get_or_insert(now);
        match &mut work.stage {
            Stage::Pending { not_before } if not_before.is_some_and(|time| now < time) => None,
            Stage::Pending { .. } => {
                self.begin_raise(engine, chunk, since, now);
                None
            }
            Stage::Searching { order, asked } => {
                let (order, asked) = (*order, *asked);
                let outcome = self.chunks.order_outcome(order)?;
                let nowhere = outcome.absent == asked && self.chunks.settle_candidates(chunk).is_lost;
                if nowhere {
                    self.begin_anew(engine, chunk, now);
                } else {
                    self.pause(chunk, now + PAUSE);
                }
                None
            }
            Stage::Raising { order, to, asked, alike, remains } => {
                let (order, to, asked, alike, remains) = (*order, *to, *asked, *alike, *remains);
                let outcome = self.chunks.order_outcome(order)?;
                let places: Vec<Place> = outcome.done.into_iter().map(|(place, _)| place).collect();
                if places.is_empty() || places.len() < asked {
                    // The version may have been taken where it was not answered: it must not be used. What the failures
                    // taught about versions is known to the table now.
                    let until = if places.is_empty() { now + PAUSE } else { now };
                    self.pause(chunk, until);
                    return None;
                }
                if alike || places.len() == 1 {
                    self.settled(engine, chunk, to, &places, remains, now);
                } else if let Some(work) = self.settling.work.get_mut(&chunk) {
                    work.stage = Stage::Comparing { to, places, taken: false, remains };
                }
                None
            }
            Stage::Comparing { to, places, taken, .. } => {
                if std::mem::replace(taken, true) {
                    return None;
                }
                Some(Comparison::Settling(SettleComparison { chunk, version: *to, places: places.clone() }))
            }
        }
    }

    /// Raises the best copies, once all places of the grant are there or were waited for long enough.
    fn begin_raise(&mut self, engine: &Engine, chunk: ChunkId, since: Monotonic, now: Monotonic) {
        let view = self.chunks.settle_candidates(chunk);
        if view.is_lost && !view.waits_for_servers && view.missing.is_empty() {
            return self.search(chunk);
        }
        let waited = now.since(since) >= engine.config.session_expiry;
        if view.candidates.is_empty() || (!waited && (view.waits_for_servers || !view.missing.is_empty())) {
            self.report_stuck(engine, chunk, waited, &view);
            return self.pause(chunk, now + PAUSE);
        }
        let (best, suspect) = (view.candidates[0].version, view.candidates[0].suspect);
        let remains = if suspect { Remains::WhatWasSynced } else { Remains::Everything };
        let best_ones = || view.candidates.iter().filter(|candidate| candidate.version == best);
        let any_in_doubt = best_ones().any(|candidate| candidate.suspect);
        let places: Vec<Place> = best_ones().map(|candidate| candidate.place.clone()).collect();
        // Copies that all still have the committed version were never written to under the grant. One that lost its power, or is on an
        // older image of its volume, may have other bytes all the same.
        let alike =
            !any_in_doubt && self.chunks.info(chunk).is_some_and(|info| best == info.version && !info.is_settled());
        self.raise_to_settle(engine, chunk, best, &places, now, Next { alike, remains });
    }

    /// Asks every volume for a chunk that none has named. One that has it after all is then known to have it.
    fn search(&mut self, chunk: ChunkId) {
        let (places, version) = (self.chunks.every_place(), self.chunks.info(chunk).map(|info| info.version));
        let version = version.unwrap_or(ChunkVersion::FIRST);
        let order = self.chunks.order_raise(chunk, version, version, &places, RaiseOf::Sound);
        if let Some(work) = self.settling.work.get_mut(&chunk) {
            work.stage = Stage::Searching { order, asked: places.len() };
        }
    }

    /// Has empty copies made of a chunk of which nothing is left.
    fn begin_anew(&mut self, engine: &Engine, chunk: ChunkId, now: Monotonic) {
        let places = self.chunks.choose_anew(chunk);
        if places.is_empty() {
            return self.pause(chunk, now + PAUSE);
        }
        let inode = self.chunks.info(chunk).map_or(InodeId::new(0), |info| info.inode);
        let what = format!("a power cut took chunk {chunk} of inode {inode} from every volume");
        engine.report(Severity::Warning, format!("{what}; no fsync had covered it: it reads as zeros from now on"));
        let next = Next { alike: true, remains: Remains::WhatWasSynced };
        self.raise_to_settle(engine, chunk, ChunkVersion::new(0), &places, now, next);
    }

    fn raise_to_settle(
        &mut self,
        engine: &Engine,
        chunk: ChunkId,
        from: ChunkVersion,
        places: &[Place],
        now: Monotonic,
        next: Next,
    ) {
        let mut transaction = engine.transaction();
        let reserved = chunks::raise(&mut transaction, chunk, next.remains);
        let to = match reserved {
            Ok(Some(to)) => to,
            Ok(None) => return self.stop_settling(chunk),
            Err(_) => {
                engine.note_failure(transaction.failure());
                return self.pause(chunk, now + PAUSE);
            }
        };
        if self.commit(engine, None, &transaction.into_changes()).is_err() {
            return self.pause(chunk, now + PAUSE);
        }
        let order = self.chunks.order_raise(chunk, from, to, places, RaiseOf::Whatever);
        let Next { alike, remains } = next;
        if let Some(work) = self.settling.work.get_mut(&chunk) {
            work.stage = Stage::Raising { order, to, asked: places.len(), alike, remains };
        }
    }

    /// Nobody could compare the copies now: they are given out again.
    pub(super) fn not_compared(&mut self, comparison: &Comparison) {
        let comparison = match comparison {
            Comparison::Settling(comparison) => comparison,
            Comparison::Astray(copies) => return self.chunks.astray_not_compared(copies),
        };
        let work = self.settling.work.get_mut(&comparison.chunk);
        if let Some(Stage::Comparing { to, taken, .. }) = work.map(|work| &mut work.stage)
            && *to == comparison.version
        {
            *taken = false;
        }
    }

    /// What the copies hold is known: if they are alike, the chunk is settled; else the largest group goes on alone.
    pub(super) fn compared(
        &mut self,
        engine: &Engine,
        comparison: &SettleComparison,
        digests: &[Option<[u8; 32]>],
        now: Monotonic,
    ) {
        let chunk = comparison.chunk;
        let remains = match self.settling.work.get(&chunk).map(|work| &work.stage) {
            Some(Stage::Comparing { to, remains, .. }) if *to == comparison.version => *remains,
            _ => return,
        };
        let group_of = |digest: &[u8; 32]| -> Vec<Place> {
            let alike = comparison.places.iter().zip(digests).filter(|(_, other)| other.as_ref() == Some(digest));
            alike.map(|(place, _)| place.clone()).collect()
        };
        // The first of the largest: candidates are in the order of how good they are.
        let mut best: Vec<Place> = Vec::new();
        for digest in digests.iter().flatten() {
            let group = group_of(digest);
            if group.len() > best.len() {
                best = group;
            }
        }
        if best.is_empty() {
            // Nothing can be compared: one copy is enough to go on with, the others are made anew from it.
            best = comparison.places[..1].to_vec();
        }
        if best.len() == comparison.places.len() {
            return self.settled(engine, chunk, comparison.version, &best, remains, now);
        }
        let (kept, all) = (best.len(), comparison.places.len());
        engine.report(
            Severity::Warning,
            format!("{all} copies of chunk {chunk} differ after the loss of their writer: {kept} are kept, the others made anew"),
        );
        self.raise_to_settle(engine, chunk, comparison.version, &best, now, Next { alike: true, remains });
    }

    fn settled(
        &mut self,
        engine: &Engine,
        chunk: ChunkId,
        version: ChunkVersion,
        places: &[Place],
        remains: Remains,
        now: Monotonic,
    ) {
        // Memory follows only a record that still says what the copies were raised to.
        if self.chunks.info(chunk).is_none_or(|info| info.granted != version) {
            return self.pause(chunk, now);
        }
        let mut transaction = engine.transaction();
        let settled = chunks::settle(&mut transaction, chunk, version, remains);
        if settled == Ok(true) {
            self.chunks.granted(chunk, version, version, places);
        }
        if settled.is_err() || self.commit(engine, None, &transaction.into_changes()).is_err() {
            return self.pause(chunk, now + PAUSE);
        }
        self.stop_settling(chunk);
        self.end_write(chunk);
        engine.metrics.chunks_settled.add_one();
        if remains == Remains::WhatWasSynced
            && let Some(info) = self.chunks.info(chunk)
        {
            self.tell_data_changed(info.inode, now);
        }
    }

    /// A chunk that was granted and never committed goes.
    fn drop_pending(&mut self, engine: &Engine, chunk: ChunkId, now: Monotonic) {
        let mut transaction = engine.transaction();
        let dropped = chunks::drop_pending(&mut transaction, chunk);
        if dropped.is_err() || self.commit(engine, None, &transaction.into_changes()).is_err() {
            return self.pause(chunk, now + PAUSE);
        }
        self.stop_settling(chunk);
        self.wake_for_chunks();
    }

    fn pause(&mut self, chunk: ChunkId, until: Monotonic) {
        if let Some(work) = self.settling.work.get_mut(&chunk) {
            work.stage = Stage::Pending { not_before: Some(until) };
        }
    }

    fn report_stuck(&mut self, engine: &Engine, chunk: ChunkId, waited: bool, view: &SettleView) {
        let Some(work) = self.settling.work.get_mut(&chunk) else { return };
        if !waited || work.reported {
            return;
        }
        work.reported = true;
        let missing: Vec<String> = view.missing.iter().map(ToString::to_string).collect();
        let volumes = if missing.is_empty() { "none that is known".to_owned() } else { missing.join(", ") };
        engine.report(
            Severity::Error,
            format!("chunk {chunk} cannot be read: its writer is gone and no copy is live (volumes that are away: {volumes}); \
                     bring these volumes back"),
        );
    }
}

/// Asks for the digests of the copies.
pub(super) fn compare(comparison: &SettleComparison, copies: &dyn CompareCopies) -> Vec<Option<[u8; 32]>> {
    comparison.places.iter().map(|place| copies.digest(place, comparison.chunk, comparison.version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_does_not_wait_for_the_rest() {
        let mut settling = Settling::new((1..=10_000).map(ChunkId::new).collect());
        settling.next();
        settling.add_awaited(ChunkId::new(9_000));
        for _ in 0..3 {
            let next = settling.next();
            assert_eq!((next[0], next.len()), (ChunkId::new(9_000), AT_ONCE_MAX + 1));
        }
        settling.remove(ChunkId::new(9_000));
        let seen: BTreeSet<ChunkId> = (0..10_000 / AT_ONCE_MAX + 1).flat_map(|_| settling.next()).collect();
        assert_eq!((seen.len(), seen.contains(&ChunkId::new(9_000))), (9_999, false));
    }
}
