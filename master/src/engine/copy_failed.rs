//! A copy did not take a write: the copies that did are raised to a new version, which shuts the failed one out, and the
//! writer goes on with them (docs/protocol.md, section 3).
//!
//! Each version is reserved in the store before the first copy is raised to it, so no copy ever has a version above the
//! record's. A raise that fails on one copy may have been done there after all: the others are raised once more.
//! Copies whose chunkservers are away, as after their end or the master's, are waited for: nothing that was acknowledged is
//! given up while a volume that may have it can come back.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};

use super::data::settles;
use super::grants::PlacedGrant;
use super::turn::{Performed, Turn};
use super::{Failure, Refusal};
use crate::chunks::{OrderId, Outcome, Place, RaiseOf, Severity};
use crate::namespace::ops::chunks::{self, Remains};
use crate::namespace::ops::write::{CopyFailed, Grant, GrantWrite};

/// A copy that failed, as its writer saw it.
#[derive(Clone, Debug)]
pub(crate) struct FailedCopy {
    pub(crate) volume: VolumeId,
    pub(crate) reason: Arc<str>,
}

/// How often copies are raised anew because one of them failed meanwhile.
const ROUNDS_MAX: usize = 6;

/// How many sets of places are drawn to find one that avoids those that have failed.
const CHOICES: usize = 8;

/// How long to leave a chunk alone that cannot go on before chunkservers are back.
const PAUSE: Duration = Duration::from_millis(250);

/// How one try ended.
enum Tried {
    /// The grant to go on with, and what its copies have.
    Granted(PlacedGrant, Remains),
    /// Not now; why.
    NotNow(Failure),
    /// Nothing of the chunk is left, and it never was committed: a new one takes its place.
    BeginAgain,
    /// A power cut took a committed chunk, which nobody ever synced, from everywhere: settling makes it anew, empty.
    Vanished,
}

/// What became of the copies that were to be raised.
#[derive(Default)]
struct Raised {
    /// The version that these copies agree on; none: no copy is left.
    agreed: Option<(ChunkVersion, Vec<Place>)>,
    /// A copy was never made: nothing can have been acknowledged by all.
    any_absent: bool,
}

impl Turn<'_> {
    /// Takes the failed copies out and grants the rest, with fresh copies where too few are left. Waits for chunkservers
    /// that are away: what was acknowledged is on their disks or in their memory.
    pub(crate) fn copy_failed<R: Message>(
        &mut self,
        operation: &CopyFailed,
        failed: &[FailedCopy],
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<R, Refusal> {
        let deadline = self.chunk_deadline();
        self.log_failures(operation.chunk, failed);
        loop {
            self.begin_mending(operation.chunk, deadline)?;
            // Only what it checks and finds counts here; the versions are reserved one by one.
            let grant = self.perform(operation)?.outcome;
            let in_time = self.engine.clock.monotonic() < deadline;
            let failure = match self.go_on_without(operation, grant, failed, in_time)? {
                Tried::Granted(placed, remains) => match self.grant_the_rest(operation, placed, remains, &shape)? {
                    Some(reply) => return Ok(reply),
                    None => continue,
                },
                Tried::NotNow(failure) => failure,
                Tried::Vanished => {
                    self.end_mending();
                    self.state().end_grant_to_settle(operation.chunk);
                    continue;
                }
                Tried::BeginAgain => match self.begin_again(operation, failed, &shape)? {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                },
            };
            self.end_mending();
            self.wait_for_volumes(deadline, failure)?;
        }
    }

    /// Waits until nobody else raises the chunk's copies: the engine that settles it, or another turn like this one. Two at
    /// once would use each other's versions.
    fn begin_mending(&mut self, chunk: ChunkId, deadline: Monotonic) -> Result<(), Refusal> {
        while self.mending.is_none() {
            let state = self.state();
            state.settle_left_open();
            let settling = state.is_settling(chunk);
            if !settling && state.mending.insert(chunk) {
                self.mending = Some(chunk);
                break;
            }
            if settling {
                state.settling.add_awaited(chunk);
            }
            self.sleep_for_chunks(deadline, || settles(chunk))?;
        }
        Ok(())
    }

    fn end_mending(&mut self) {
        if let Some(chunk) = self.mending.take() {
            self.state().mending_ended(chunk);
        }
    }

    fn go_on_without(
        &mut self,
        operation: &CopyFailed,
        mut grant: Grant,
        failed: &[FailedCopy],
        in_time: bool,
    ) -> Result<Tried, Refusal> {
        let chunk = operation.chunk;
        let (before, version_from) = self.places_of(operation);
        let has_failed = |place: &Place| failed.iter().any(|copy| copy.volume == place.volume);
        // What lost its power, or is on an older image of its volume, may lack what was acknowledged.
        let chunks = &self.state().chunks;
        let in_doubt: Vec<VolumeId> =
            before.iter().map(|place| place.volume).filter(|volume| chunks.is_suspect(chunk, *volume)).collect();
        let trusted = before.iter().filter(|place| !in_doubt.contains(&place.volume)).cloned();
        let (named, survivors): (Vec<Place>, Vec<Place>) = trusted.partition(has_failed);
        let is_pending = self.state().chunks.info(chunk).is_some_and(|info| info.version.get() == 0);
        let mut remains = Remains::Everything;
        let mut raised = self.raise_until_agreed(operation, survivors, version_from, RaiseOf::Sound)?;
        if raised.agreed.is_none() && is_pending && (raised.any_absent || !in_time) {
            return Ok(Tried::BeginAgain);
        }
        if raised.agreed.is_none() {
            // What was named failed to take a write. It has what was acknowledged before, if it has not lost its power.
            raised = self.raise_until_agreed(operation, named, version_from, RaiseOf::Sound)?;
        }
        let may_wait = in_time && self.any_may_come_back(&before);
        if raised.agreed.is_none() && is_pending && !may_wait {
            return Ok(Tried::BeginAgain);
        }
        if raised.agreed.is_none() && !may_wait {
            // All of them failed, as after a power cut of all: what is left goes on, and the writer learns of it. It is one copy,
            // of which the others are made anew: each may have lost something else, and no two may differ under one version.
            remains = Remains::WhatWasSynced;
            // One that kept its power has everything, and was only slow so far.
            let mut by_trust = before.clone();
            by_trust.sort_by_key(|place| self.state().chunks.is_suspect(chunk, place.volume));
            for place in by_trust {
                raised = self.raise_until_agreed(operation, vec![place], version_from, RaiseOf::Whatever)?;
                if raised.agreed.is_some() {
                    break;
                }
            }
        }
        if raised.agreed.is_none() && !may_wait && self.state().chunks.settle_candidates(chunk).is_lost {
            return Ok(Tried::Vanished);
        }
        let Some((version, places)) = raised.agreed else { return Ok(Tried::NotNow(no_copy_left(chunk))) };
        (grant.version_from, grant.version) = (version, version);
        if remains == Remains::WhatWasSynced {
            grant.lost_version = version;
        }
        Ok(match self.fill_up(&grant, places, &before)? {
            Ok(places) => Tried::Granted(PlacedGrant { grant, places }, remains),
            Err(failure) => Tried::NotNow(failure),
        })
    }

    /// Notes the version that the copies agree on and grants it. None: another version was reserved meanwhile, and the copies
    /// have to be raised above it.
    fn grant_the_rest<R: Message>(
        &mut self,
        operation: &CopyFailed,
        mut placed: PlacedGrant,
        remains: Remains,
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<Option<R>, Refusal> {
        let (engine, session) = (self.engine, self.session());
        // The file may have been cut, or the lease have come down, while copies were raised.
        placed.grant.length = self.perform(operation)?.outcome.length;
        let info = self.state().chunks.info(operation.chunk);
        if info.is_some_and(|info| info.granted > placed.grant.version) {
            return Ok(None);
        }
        let mut transaction = engine.transaction();
        // Committed under the grant that failed: versions reserved since say nothing.
        if info.is_some_and(|info| info.version >= operation.version) {
            chunks::settle(&mut transaction, operation.chunk, placed.grant.version, remains)?;
        } else if let Some(mut record) = transaction.chunk(operation.chunk)? {
            record.granted = record.granted.max(placed.grant.version.get());
            record.lost = record.lost.max(placed.grant.lost_version.get());
            transaction.put_chunk(operation.chunk, &record);
        }
        let reply = shape(&placed);
        self.commit(transaction.into_changes(), &reply)?;
        self.state().grant_given(session, operation.inode, &placed);
        Ok(Some(reply))
    }

    /// Whether any of these places is away, and may have what was acknowledged.
    fn any_may_come_back(&mut self, places: &[Place]) -> bool {
        let chunks = &self.state().chunks;
        chunks.is_waiting_for_servers() || places.iter().any(|place| chunks.may_come_back(place.volume))
    }

    /// Waits a little, if a volume is away that may come back; else the failure is the answer. One that waited in vain is
    /// EAGAIN: the client asks again for as long as it was told to.
    fn wait_for_volumes(&mut self, deadline: Monotonic, failure: Failure) -> Result<(), Refusal> {
        if !self.state().chunks.expects_volumes() {
            return Err(failure.into());
        }
        let clock = &self.engine.clock;
        let until = deadline.min(clock.monotonic() + PAUSE);
        if clock.monotonic() >= deadline {
            return Err(Failure { errno: Errno::EAGAIN, ..failure }.into());
        }
        while clock.monotonic() < until {
            self.sleep(super::waiting::Reason::Chunks, Some(until))?;
        }
        Ok(())
    }

    /// The places of the chunk's grant, and the version they had before it.
    fn places_of(&mut self, operation: &CopyFailed) -> (Vec<Place>, Option<ChunkVersion>) {
        let (chunk, version) = (operation.chunk, operation.version);
        let state = self.state();
        if let Some(held) = state.grants.get(chunk) {
            return (held.placed.places.clone(), Some(held.placed.grant.version_from));
        }
        // Granted before the master restarted. Copies below the grant's version miss what was acknowledged under it, unless
        // that was the first since the commit, and came to nothing everywhere.
        let mut copies = state.chunks.settle_candidates(chunk).candidates;
        let before = state.readable_version(chunk).filter(|before| before.next() == version);
        let is_raised = |version_of: ChunkVersion| version_of >= version;
        if copies.iter().any(|copy| is_raised(copy.version)) {
            copies.retain(|copy| is_raised(copy.version));
        } else {
            copies.retain(|copy| Some(copy.version) == before);
        }
        (copies.into_iter().map(|copy| copy.place).collect(), before)
    }

    fn log_failures(&mut self, chunk: ChunkId, failed: &[FailedCopy]) {
        for copy in failed {
            let (volume, reason, session) = (copy.volume, &copy.reason, self.session());
            let what =
                format!("the copy of chunk {chunk} on volume {volume} did not take a write of session {session}");
            self.engine.report(Severity::Warning, format!("{what}: {reason}; the other copies go on without it"));
        }
    }

    /// Raises the copies to one version that every copy left has.
    fn raise_until_agreed(
        &mut self,
        operation: &CopyFailed,
        mut places: Vec<Place>,
        version_from: Option<ChunkVersion>,
        of: RaiseOf,
    ) -> Result<Raised, Refusal> {
        let chunk = operation.chunk;
        let mut from = self.versions_of(operation, version_from);
        let mut any_absent = false;
        for _ in 0..ROUNDS_MAX {
            if places.is_empty() {
                break;
            }
            let remains = if of == RaiseOf::Whatever { Remains::WhatWasSynced } else { Remains::Everything };
            let to = self.reserve_version(chunk, remains)?;
            let mut left = places.clone();
            let mut raised = Vec::new();
            for version in &from {
                let outcome = self.raise(chunk, *version, to, &left, of)?;
                any_absent |= outcome.absent > 0;
                raised.extend(outcome.done.into_iter().map(|(place, _)| place));
                left.retain(|place| raised.iter().all(|done: &Place| done.volume != place.volume));
                if left.is_empty() {
                    break;
                }
            }
            if left.is_empty() {
                return Ok(Raised { agreed: Some((to, raised)), any_absent });
            }
            // Those that failed may have taken the version after all: it must not be used.
            places = raised;
            from = vec![to];
        }
        Ok(Raised { agreed: None, any_absent })
    }

    /// The versions that copies may have: the writer's, the one before its first write, and those of tries before this one.
    fn versions_of(&mut self, operation: &CopyFailed, version_from: Option<ChunkVersion>) -> Vec<ChunkVersion> {
        let candidates = self.state().chunks.settle_candidates(operation.chunk).candidates;
        let mut versions = vec![operation.version];
        for version in version_from.into_iter().chain(candidates.into_iter().map(|candidate| candidate.version)) {
            if version.get() > 0 && !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions
    }

    fn reserve_version(&mut self, chunk: ChunkId, remains: Remains) -> Result<ChunkVersion, Refusal> {
        let engine = self.engine;
        let mut transaction = engine.transaction();
        let version = chunks::raise(&mut transaction, chunk, remains)?.ok_or(Errno::ESTALE)?;
        self.state().commit(engine, None, &transaction.into_changes())?;
        Ok(version)
    }

    fn raise(
        &mut self,
        chunk: ChunkId,
        from: ChunkVersion,
        to: ChunkVersion,
        places: &[Place],
        of: RaiseOf,
    ) -> Result<Outcome, Refusal> {
        let order = self.state().chunks.order_raise(chunk, from, to, places, of);
        self.outcome(order)
    }

    /// Sleeps until the order is carried out, has failed or is too late.
    fn outcome(&mut self, order: OrderId) -> Result<Outcome, Refusal> {
        self.order = Some(order);
        loop {
            if let Some(outcome) = self.state().chunks.order_outcome(order) {
                self.order = None;
                return Ok(outcome);
            }
            self.sleep(super::waiting::Reason::Chunks, None)?;
        }
    }

    /// Copies a survivor to fresh places until there are as many as a write needs; to servers that had the chunk before only where
    /// there are no others.
    fn fill_up(
        &mut self,
        grant: &Grant,
        mut places: Vec<Place>,
        before: &[Place],
    ) -> Result<Result<Vec<Place>, Failure>, Refusal> {
        let needed = usize::from(grant.goal.get()).min(self.state().chunks.config().copies_min);
        let mut excluded: Vec<_> = places.iter().map(|place| place.server).collect();
        while places.len() < needed {
            let chunks = &mut self.state().chunks;
            let mut avoided = excluded.clone();
            avoided.extend(before.iter().map(|place| place.server));
            let chosen = chunks.choose_new(grant.goal, &avoided).or_else(|_| chunks.choose_new(grant.goal, &excluded));
            let Some(target) = chosen.ok().and_then(|places| places.into_iter().next()) else {
                return Ok(Err(nowhere(grant.chunk, places.len(), needed)));
            };
            excluded.push(target.server);
            let order = self.state().chunks.order_replicate(grant.chunk, grant.version, &places, &target);
            let outcome = self.outcome(order)?;
            match outcome.failed.first() {
                None => places.push(target),
                Some((place, reason)) => {
                    let message = format!("chunk {} was not copied to volume {}: {reason}", grant.chunk, place.volume);
                    self.engine.report(Severity::Warning, message);
                }
            }
        }
        Ok(Ok(places))
    }

    /// Nothing of a chunk that was never committed is left: the writer gets a new chunk in its place.
    fn begin_again<R: Message>(
        &mut self,
        operation: &CopyFailed,
        failed: &[FailedCopy],
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<Result<R, Failure>, Refusal> {
        let session = self.session();
        // It still is the file's: none but this one is replaced.
        self.perform(operation)?;
        let again = GrantWrite { inode: operation.inode, index: operation.index };
        let Performed { outcome: grant, changes } = self.perform(&again)?;
        let has_failed = |place: &Place| failed.iter().any(|copy| copy.volume == place.volume);
        let mut best: Option<Vec<Place>> = None;
        for _ in 0..CHOICES {
            let chosen = self.state().chunks.choose_new(grant.goal, &[]);
            let chosen = match chosen {
                Ok(chosen) => chosen,
                Err(none) => return Ok(Err(Failure::new(Errno::ENOSPC, none.to_string()))),
            };
            let count = |places: &[Place]| places.iter().filter(|place| has_failed(place)).count();
            if best.as_ref().is_none_or(|best| count(&chosen) < count(best)) {
                best = Some(chosen);
            }
        }
        let placed = PlacedGrant { grant, places: best.unwrap_or_default() };
        let reply = shape(&placed);
        self.commit(changes, &reply)?;
        self.state().grant_given(session, operation.inode, &placed);
        Ok(Ok(reply))
    }
}

fn no_copy_left(chunk: ChunkId) -> Failure {
    let message =
        format!("no copy of chunk {chunk} took the write or can be raised: its chunkservers are away or failed");
    Failure::new(Errno::EIO, message)
}

fn nowhere(chunk: ChunkId, left: usize, needed: usize) -> Failure {
    let message = format!(
        "only {left} of the {needed} copies that a write of chunk {chunk} needs are left, and no chunkserver can take another: \
         start one, or free space"
    );
    Failure::new(if left == 0 { Errno::EIO } else { Errno::ENOSPC }, message)
}
