//! A copy did not take a write: the copies that did are raised to a new version, which shuts the failed one out, and the
//! writer goes on with them (docs/protocol.md, section 3).
//!
//! Each version is reserved in the store before the first copy is raised to it, so no copy ever has a version above the
//! record's. A raise that fails on one copy may have been done there after all: the others are raised once more.

use std::sync::Arc;

use prost::Message;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};

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

impl Turn<'_> {
    /// Takes the failed copies out and grants the rest, with fresh copies where too few are left.
    pub(crate) fn copy_failed<R: Message>(
        &mut self,
        operation: &CopyFailed,
        failed: &[FailedCopy],
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<R, Refusal> {
        // Only what it checks and finds counts here; the versions are reserved one by one below.
        let mut grant = self.perform(operation)?.outcome;
        let session = self.session();
        let (before, version_from) = self.places_of(operation.chunk);
        self.log_failures(operation.chunk, failed);
        let survivors: Vec<Place> =
            before.iter().filter(|place| failed.iter().all(|copy| copy.volume != place.volume)).cloned().collect();
        let from = [Some(operation.version), version_from].into_iter().flatten().collect();
        let was_settled = self.state().chunks.info(operation.chunk).is_some_and(|info| info.is_settled());
        let is_pending = self.state().chunks.info(operation.chunk).is_some_and(|info| info.version.get() == 0);
        let from: Vec<ChunkVersion> = from;
        let mut remains = Remains::Everything;
        let mut raised = self.raise_until_agreed(operation.chunk, survivors, from.clone(), RaiseOf::Sound)?;
        if raised.is_none() && is_pending {
            return self.begin_again(operation, failed, shape);
        }
        if raised.is_none() {
            // All of them failed, as after a power cut of all: what is left goes on, and the writer learns of it.
            remains = Remains::WhatWasSynced;
            raised = self.raise_until_agreed(operation.chunk, before, from, RaiseOf::Whatever)?;
        }
        let Some((version, places)) = raised else { return Err(no_copy_left(operation.chunk).into()) };
        grant.version_from = version;
        grant.version = version;
        let places = self.fill_up(&grant, places)?;
        if remains == Remains::WhatWasSynced {
            grant.lost_version = version;
        }
        let placed = PlacedGrant { grant, places };
        let engine = self.engine;
        let mut transaction = engine.transaction();
        if was_settled {
            chunks::settle(&mut transaction, operation.chunk, placed.grant.version, remains)?;
        } else if let Some(mut record) = transaction.chunk(operation.chunk)? {
            record.granted = placed.grant.version.get();
            record.lost = placed.grant.lost_version.get();
            transaction.put_chunk(operation.chunk, &record);
        }
        let reply = shape(&placed);
        self.commit(transaction.into_changes(), &reply)?;
        self.state().grant_given(session, operation.inode, &placed);
        Ok(reply)
    }

    /// The places of the chunk's grant, and the version they had before it.
    fn places_of(&mut self, chunk: ChunkId) -> (Vec<Place>, Option<ChunkVersion>) {
        let state = self.state();
        if let Some(held) = state.grants.get(chunk) {
            return (held.placed.places.clone(), Some(held.placed.grant.version_from));
        }
        // Granted before the master restarted: whatever copies are there.
        let candidates = state.chunks.settle_candidates(chunk).candidates;
        (candidates.into_iter().map(|candidate| candidate.place).collect(), state.readable_version(chunk))
    }

    fn log_failures(&mut self, chunk: ChunkId, failed: &[FailedCopy]) {
        for copy in failed {
            let (volume, reason, session) = (copy.volume, &copy.reason, self.session());
            let what =
                format!("the copy of chunk {chunk} on volume {volume} did not take a write of session {session}");
            self.engine.report(Severity::Warning, format!("{what}: {reason}; the other copies go on without it"));
        }
    }

    /// Raises the copies, all from one of these versions, to one version that every copy left has. None: no copy is left.
    fn raise_until_agreed(
        &mut self,
        chunk: ChunkId,
        mut places: Vec<Place>,
        mut from: Vec<ChunkVersion>,
        of: RaiseOf,
    ) -> Result<Option<(ChunkVersion, Vec<Place>)>, Refusal> {
        from.retain(|version| version.get() > 0);
        from.dedup();
        for _ in 0..ROUNDS_MAX {
            if places.is_empty() {
                return Ok(None);
            }
            let to = self.reserve_version(chunk)?;
            let mut left = places.clone();
            let mut raised = Vec::new();
            for version in &from {
                let outcome = self.raise(chunk, *version, to, &left, of)?;
                raised.extend(outcome.done.into_iter().map(|(place, _)| place));
                left.retain(|place| raised.iter().all(|done: &Place| done.volume != place.volume));
                if left.is_empty() {
                    break;
                }
            }
            if left.is_empty() {
                return Ok(Some((to, raised)));
            }
            // Those that failed may have taken the version after all: it must not be used.
            places = raised;
            from = vec![to];
        }
        Ok(None)
    }

    fn reserve_version(&mut self, chunk: ChunkId) -> Result<ChunkVersion, Refusal> {
        let engine = self.engine;
        let mut transaction = engine.transaction();
        let version = chunks::raise(&mut transaction, chunk)?.ok_or(Errno::ESTALE)?;
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
        loop {
            if let Some(outcome) = self.state().chunks.order_outcome(order) {
                return Ok(outcome);
            }
            self.sleep(super::waiting::Reason::Chunks, None)?;
        }
    }

    /// Copies a survivor to fresh places until there are as many as a write needs.
    fn fill_up(&mut self, grant: &Grant, mut places: Vec<Place>) -> Result<Vec<Place>, Refusal> {
        let needed = usize::from(grant.goal.get()).min(self.state().chunks.config().copies_min);
        let mut excluded: Vec<_> = places.iter().map(|place| place.server).collect();
        while places.len() < needed {
            let chosen = self.state().chunks.choose_new(grant.goal, &excluded);
            let Some(target) = chosen.ok().and_then(|places| places.into_iter().next()) else {
                return Err(nowhere(grant.chunk, places.len(), needed).into());
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
        Ok(places)
    }

    /// Nothing of a chunk that was never committed is left: the writer gets a new chunk in its place.
    fn begin_again<R: Message>(
        &mut self,
        operation: &CopyFailed,
        failed: &[FailedCopy],
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<R, Refusal> {
        let session = self.session();
        let again = GrantWrite { inode: operation.inode, index: operation.index };
        let Performed { outcome: grant, changes } = self.perform(&again)?;
        let has_failed = |place: &Place| failed.iter().any(|copy| copy.volume == place.volume);
        let mut best: Option<Vec<Place>> = None;
        for _ in 0..CHOICES {
            let chosen = self.state().chunks.choose_new(grant.goal, &[]);
            let chosen = chosen.map_err(|none| Failure::new(Errno::ENOSPC, none.to_string()))?;
            let count = |places: &[Place]| places.iter().filter(|place| has_failed(place)).count();
            if best.as_ref().is_none_or(|best| count(&chosen) < count(best)) {
                best = Some(chosen);
            }
        }
        let placed = PlacedGrant { grant, places: best.unwrap_or_default() };
        let reply = shape(&placed);
        self.commit(changes, &reply)?;
        self.state().grant_given(session, operation.inode, &placed);
        Ok(reply)
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
