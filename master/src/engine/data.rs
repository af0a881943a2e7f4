//! The operations that tie the two halves of the chunk table together: records of the namespace, and places of copies.

use prost::Message;
use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId, LogPosition, VolumeId};

use super::grants::PlacedGrant;
use super::turn::{Performed, Precedence, Turn};
use super::{Failure, Refusal};
use crate::chunks::{CopyFault, Place, WriteRefusal};
use crate::leases::{Lease, LeaseMode};
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::Node;
use crate::namespace::ops::chunks;
use crate::namespace::ops::locate::{Locate, LocatedChunk};
use crate::namespace::ops::make::{Made, Make};
use crate::namespace::ops::write::{Commit, Grant, GrantWrite};
use crate::operation::{Context, Need, Operation};

/// A chunk with its live copies.
#[derive(Clone, Debug)]
pub(crate) struct PlacedChunk {
    pub(crate) located: LocatedChunk,
    pub(crate) version: ChunkVersion,
    pub(crate) places: Vec<Place>,
}

impl Turn<'_> {
    /// Grants one chunk. `shape` makes the reply, which is remembered with the grant.
    pub(crate) fn grant_write<R: Message>(
        &mut self,
        operation: &GrantWrite,
        shape: impl Fn(&PlacedGrant) -> R,
    ) -> Result<R, Refusal> {
        let deadline = self.chunk_deadline();
        let session = self.session();
        loop {
            self.settle_before_grant(operation, deadline)?;
            if self.state().leases.may_write(session, operation.inode)
                && let Some(mut placed) = self.state().told_again(session, operation.inode, operation.index)
                && let Some(length) = self.committed_length(operation, placed.grant.chunk)?
            {
                // The writer first cuts the copies to this: commits since the grant have made it longer, truncation shorter.
                placed.grant.length = length;
                return Ok(shape(&placed));
            }
            let Performed { outcome: grant, changes } = self.perform(operation)?;
            let places = match self.places_for(&grant) {
                Ok(places) => places,
                Err(PlacesRefusal::Busy) => {
                    self.sleep_for_chunks(deadline, || busy(grant.chunk))?;
                    continue;
                }
                Err(PlacesRefusal::Failed(failure)) => return Err(failure.into()),
            };
            let placed = PlacedGrant { grant, places };
            let reply = shape(&placed);
            if let Err(refusal) = self.commit(changes, &reply) {
                self.state().chunks.end_write(grant.chunk);
                return Err(refusal);
            }
            self.state().grant_given(session, operation.inode, &placed);
            return Ok(reply);
        }
    }

    /// The valid bytes of a chunk; none if it is not the file's any more.
    fn committed_length(&self, operation: &GrantWrite, chunk: ChunkId) -> Result<Option<u32>, Refusal> {
        let reference = self.engine.transaction().chunk_ref(operation.inode, operation.index)?;
        Ok(reference.filter(|reference| reference.chunk_id() == chunk).map(|reference| reference.length))
    }

    /// A chunk whose last writer is not known to be done is settled before it is granted anew.
    fn settle_before_grant(&mut self, operation: &GrantWrite, deadline: Monotonic) -> Result<(), Refusal> {
        let engine = self.engine;
        loop {
            let reference = engine.transaction().chunk_ref(operation.inode, operation.index)?;
            let Some(chunk) = reference.map(|reference| reference.chunk_id()) else { return Ok(()) };
            let state = self.state();
            state.settle_left_open();
            let Some(info) = state.chunks.info(chunk) else { return Ok(()) };
            if state.mending.contains(&chunk) {
                self.sleep_for_chunks(deadline, || settles(chunk))?;
                continue;
            }
            if info.version.get() == 0 || (info.is_settled() && !state.is_settling(chunk)) {
                return Ok(());
            }
            if state.grants.get(chunk).is_some() {
                return Ok(());
            }
            state.settling.add_awaited(chunk);
            self.sleep_for_chunks(deadline, || settles(chunk))?;
        }
    }

    fn places_for(&mut self, grant: &Grant) -> Result<Vec<Place>, PlacesRefusal> {
        let session = self.session();
        let chunks = &mut self.state().chunks;
        let chunk = grant.chunk;
        if grant.is_new() {
            return chunks.choose_new(grant.goal, &[]).map_err(|none| match none.may_pass() {
                true => PlacesRefusal::Busy,
                false => PlacesRefusal::Failed(Failure::new(Errno::ENOSPC, none.to_string())),
            });
        }
        let copies_min = usize::from(grant.goal.get()).min(chunks.config().copies_min);
        match chunks.begin_write(grant.chunk, session) {
            Ok(places) if places.len() >= copies_min => Ok(places),
            // Repair is about to add copies: at once where one is left, after a while otherwise. Where the others are there
            // and cannot be written, it would not.
            Ok(_) => {
                chunks.end_write(chunk);
                chunks.add_writable_copy(chunk);
                Err(PlacesRefusal::Busy)
            }
            Err(WriteRefusal::NoCopies) => {
                chunks.add_writable_copy(chunk);
                Err(PlacesRefusal::Busy)
            }
            Err(WriteRefusal::Busy) => Err(PlacesRefusal::Busy),
        }
    }

    /// Makes a file that its maker opens at once: with the grant of its first chunk, if there is room for it just now.
    pub(crate) fn make_opened(&mut self, make: &Make) -> Result<(Performed<Made>, Option<PlacedGrant>), Refusal> {
        let performed = self.perform(&MakeOpened(make))?;
        let (made, grant) = performed.outcome;
        let Some(grant) = grant else { return Ok((Performed { outcome: made, changes: performed.changes }, None)) };
        match self.state().chunks.choose_new(grant.goal, &[]) {
            Ok(places) => {
                let placed = PlacedGrant { grant, places };
                Ok((Performed { outcome: made, changes: performed.changes }, Some(placed)))
            }
            // The lock was not given away: the file is made again, without a chunk.
            Err(_) => Ok((self.perform(make)?, None)),
        }
    }

    /// Notes the first chunk's grant once the file is committed, and gives the WRITE lease on it.
    pub(crate) fn first_chunk_given(&mut self, inode: InodeId, placed: Option<&PlacedGrant>) -> Lease {
        let session = self.session();
        let state = self.state();
        let lease = state.leases.take_write(session, inode);
        if let Some(placed) = placed {
            state.grant_given(session, inode, placed);
        }
        lease
    }

    /// What was written becomes the file's state; then the lease comes down, if that is asked.
    pub(crate) fn commit_written<R: Message>(
        &mut self,
        operation: &Commit,
        return_lease: Option<Lease>,
        shape: impl Fn(&Node) -> R,
    ) -> Result<(R, Node, LogPosition), Refusal> {
        let session = self.session();
        let Performed { outcome: node, changes } = self.perform(operation)?;
        let reply = shape(&node);
        let position = self.commit(changes, &reply)?;
        if let Some(lease) = return_lease {
            self.state().lower_lease(session, lease);
        }
        Ok((reply, node, position))
    }

    /// Where the chunks of a part of a file are. Chunks whose writer is gone are settled first.
    pub(crate) fn locate(&mut self, operation: &Locate) -> Result<(Node, Vec<PlacedChunk>), Refusal> {
        let deadline = self.chunk_deadline();
        let session = self.session();
        loop {
            let Performed { outcome: (node, located), .. } = self.perform(operation)?;
            let in_time = self.engine.clock.monotonic() < deadline;
            let state = self.state();
            state.settle_left_open();
            for located in &located {
                state.end_grant_without_copies(located.chunk);
            }
            let has_writer = state.leases.writer(operation.inode).is_some();
            let unsettled = located.iter().find(|located| {
                // Nothing but a lost writer can have left it so; the own reclaimed lease is one that knows its places. What is
                // being settled has no writer that may go on, whoever holds the lease by now.
                let being_settled = state.is_settling(located.chunk) || !located.record.is_settled() && !has_writer;
                being_settled && state.grants.get(located.chunk).is_none_or(|held| held.session != session)
            });
            if let Some(unsettled) = unsettled.map(|located| located.chunk)
                && in_time
            {
                state.settling.add_awaited(unsettled);
                self.sleep_for_chunks(deadline, || settles(unsettled))?;
                continue;
            }
            let placed = located.into_iter().map(|located| {
                let own = state.grants.get(located.chunk).filter(|held| held.session == session);
                match own {
                    Some(held) => {
                        // Of its places, those that have not lost power since.
                        let is_suspect = |place: &&Place| state.chunks.is_suspect(located.chunk, place.volume);
                        let places = held.placed.places.iter().filter(|place| !is_suspect(place)).cloned().collect();
                        PlacedChunk { version: held.placed.grant.version, places, located }
                    }
                    None => PlacedChunk {
                        version: located.record.chunk_version(),
                        places: state.chunks.places(located.chunk),
                        located,
                    },
                }
            });
            let placed = placed.collect();
            return Ok((node, placed));
        }
    }

    /// Where the first chunk of a file is, to go with an answer that is about its name: nothing where there would be anything
    /// to wait for or to settle first.
    pub(crate) fn first_chunk(&mut self, inode: InodeId) -> Result<Option<PlacedChunk>, Refusal> {
        let engine = self.engine;
        let mut transaction = engine.transaction();
        let Some(reference) = transaction.chunk_ref(inode, 0)? else { return Ok(None) };
        let chunk = reference.chunk_id();
        let Some(record) = transaction.chunk(chunk)? else { return Ok(None) };
        let state = self.state();
        state.settle_left_open();
        let in_hand = state.is_settling(chunk) || state.grants.get(chunk).is_some();
        if in_hand || record.is_pending() || !record.is_settled() || state.leases.writer(inode).is_some() {
            return Ok(None);
        }
        let (version, places) = (record.chunk_version(), state.chunks.places(chunk));
        let located = LocatedChunk { index: 0, chunk, record, length: reference.length };
        Ok((!places.is_empty()).then_some(PlacedChunk { located, version, places }))
    }

    /// A client has synced every copy of these chunks.
    pub(crate) fn chunks_synced(&mut self, synced: &[ChunkId]) -> Result<(), Refusal> {
        let engine = self.engine;
        let mut transaction = engine.transaction();
        for chunk in synced {
            chunks::synced(&mut transaction, *chunk)?;
        }
        if !transaction.is_unchanged() {
            self.state().commit(engine, None, &transaction.into_changes())?;
        }
        Ok(())
    }

    /// A reader was not given right bytes.
    pub(crate) fn report_bad_copy(&mut self, chunk: ChunkId, version: ChunkVersion, volume: VolumeId, reason: &str) {
        let session = self.session();
        let fault = CopyFault::Reported(format!("session {session}: {reason}"));
        self.state().chunks.bad_copy(volume, chunk, version, &fault);
        self.state().wake_for_chunks();
    }

    /// Acquires a lease. READ may come as NONE, "use once"; WRITE comes as soon as nobody else holds anything.
    pub(crate) fn acquire(&mut self, inode: InodeId, mode: LeaseMode) -> Result<(), Refusal> {
        match mode {
            LeaseMode::Write => self.clear(&[Need::ChangeData(inode)], Precedence::After(inode)),
            LeaseMode::Read | LeaseMode::None => self.clear(&[Need::Read(inode)], Precedence::None),
        }
    }
}

/// Makes a node and grants the first chunk of a file that is new.
struct MakeOpened<'a>(&'a Make);

impl Operation for MakeOpened<'_> {
    type Outcome = (Made, Option<Grant>);
    const CHANGES: bool = true;

    fn needs(&self, view: &mut Transaction<'_>, context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        self.0.needs(view, context)
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Self::Outcome, Errno> {
        let made = self.0.run(transaction, context)?;
        let is_new_file = made.created && made.node.record.is_file();
        let first = GrantWrite { inode: made.node.inode, index: 0 };
        let grant = if is_new_file { Some(first.run(transaction, context)?) } else { None };
        Ok((made, grant))
    }
}

enum PlacesRefusal {
    Busy,
    Failed(Failure),
}

/// The client asks again, for as long as it was told to.
fn busy(chunk: ChunkId) -> Failure {
    let message =
        format!("chunk {chunk} has too few copies that can be written, or is being repaired: look at `rfs status`");
    Failure::new(Errno::EAGAIN, message)
}

pub(super) fn settles(chunk: ChunkId) -> Failure {
    let message = format!("chunk {chunk} waits for copies since its last writer is gone: look at `rfs status`");
    Failure::new(Errno::EAGAIN, message)
}
