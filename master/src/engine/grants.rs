//! The rights to write chunks that sessions have: who may write which chunk, where, and from which version on.
//!
//! A grant lives as long as the WRITE lease that it was given under, also after a commit has settled its version: the
//! writer may go on under it. So a session that ends without a word may leave any of its chunks in a state that differs
//! between copies, and all of them are settled (`settle.rs`).

use std::collections::HashMap;

use rfs_common::ids::{ChunkId, ChunkVersion, InodeId, SessionId};

use super::State;
use crate::chunks::Place;
use crate::namespace::ops::write::Grant;

/// A grant with the places it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlacedGrant {
    /// Chunk and versions.
    pub(crate) grant: Grant,
    /// The chain, first to last.
    pub(crate) places: Vec<Place>,
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) inode: InodeId,
    pub(super) placed: PlacedGrant,
}

/// All grants.
#[derive(Debug, Default)]
pub(super) struct Grants {
    held: HashMap<ChunkId, Held>,
    nodes: HashMap<InodeId, Vec<ChunkId>>,
    /// Chunks that were granted before the master restarted, under WRITE leases that were reclaimed; their places are not
    /// known.
    reclaimed: HashMap<InodeId, Vec<ChunkId>>,
}

impl Grants {
    /// A grant was given, in place of an earlier one of the chunk.
    pub(super) fn put(&mut self, session: SessionId, inode: InodeId, placed: PlacedGrant) {
        let chunk = placed.grant.chunk;
        if self.held.insert(chunk, Held { session, inode, placed }).is_none() {
            self.nodes.entry(inode).or_default().push(chunk);
        }
    }

    /// The grant of a chunk.
    pub(super) fn get(&self, chunk: ChunkId) -> Option<&Held> {
        self.held.get(&chunk)
    }

    /// The chunk is gone, or its writer is.
    pub(super) fn remove(&mut self, chunk: ChunkId) -> Option<Held> {
        let held = self.held.remove(&chunk)?;
        if let Some(chunks) = self.nodes.get_mut(&held.inode) {
            chunks.retain(|other| *other != chunk);
            if chunks.is_empty() {
                self.nodes.remove(&held.inode);
            }
        }
        Some(held)
    }

    /// Takes the chunks of a file that were granted, before the restart too.
    fn take_of_node(&mut self, inode: InodeId) -> Vec<ChunkId> {
        let mut chunks = self.nodes.remove(&inode).unwrap_or_default();
        chunks.iter().for_each(|chunk| drop(self.held.remove(chunk)));
        chunks.extend(self.reclaimed.remove(&inode).unwrap_or_default());
        chunks
    }

    /// The files that a session has grants in.
    fn nodes_of(&self, session: SessionId) -> Vec<InodeId> {
        let mut nodes: Vec<InodeId> =
            self.held.values().filter(|held| held.session == session).map(|held| held.inode).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// A chunk that was granted before the restart, under a lease that was reclaimed.
    pub(super) fn put_reclaimed(&mut self, inode: InodeId, chunk: ChunkId) {
        self.reclaimed.entry(inode).or_default().push(chunk);
    }

    fn note_reclaimed(&mut self, inode: InodeId) {
        self.reclaimed.entry(inode).or_default();
    }

    fn is_reclaimed(&self, inode: InodeId) -> bool {
        self.reclaimed.contains_key(&inode)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.held.len()
    }
}

impl State {
    /// Takes the chunks of a file that were granted: nobody writes it any more.
    fn take_grants(&mut self, inode: InodeId) -> Vec<ChunkId> {
        self.chunks.is_not_written_on(inode);
        self.grants.take_of_node(inode)
    }

    /// A WRITE lease on the file was reclaimed: chunks of it may have been granted before the restart.
    pub(super) fn note_reclaimed(&mut self, inode: InodeId) {
        self.grants.note_reclaimed(inode);
        self.chunks.is_written_on(inode);
    }

    /// The WRITE lease on the file came down in order: what was committed is right on every copy; what was granted and
    /// not committed is settled.
    pub(super) fn writing_ended(&mut self, inode: InodeId) {
        for chunk in self.take_grants(inode) {
            if self.chunks.info(chunk).is_some_and(|info| !info.is_settled()) {
                self.settling.add(chunk);
            }
            self.end_write(chunk);
        }
    }

    /// The session is gone without a word: every chunk that it could have been writing is settled.
    pub(super) fn writer_lost(&mut self, session: SessionId) {
        for inode in self.grants.nodes_of(session) {
            for chunk in self.take_grants(inode) {
                self.settling.add(chunk);
                self.end_write(chunk);
            }
        }
        let may_write = |inode: &&InodeId| self.leases.may_write(session, **inode);
        let reclaimed: Vec<InodeId> = self.grants.reclaimed.keys().filter(may_write).copied().collect();
        for inode in reclaimed {
            for chunk in self.take_grants(inode) {
                self.settling.add(chunk);
            }
        }
    }

    /// The session has ended in order: as if it had given back each WRITE lease.
    pub(super) fn writer_left(&mut self, session: SessionId) {
        let mut nodes = self.grants.nodes_of(session);
        nodes.extend(self.grants.reclaimed.keys().filter(|inode| self.leases.may_write(session, **inode)));
        nodes.into_iter().for_each(|inode| self.writing_ended(inode));
    }

    /// Chunks that were being written when the master restarted, and that its records call settled: a writer may go on
    /// after a commit, and copies may differ in what it wrote since. Those of writers that came back are theirs; the others
    /// are settled.
    pub(super) fn settle_left_open(&mut self) {
        for chunk in self.chunks.take_left_open() {
            let Some(inode) = self.chunks.info(chunk).map(|info| info.inode) else { continue };
            if self.grants.get(chunk).is_some() {
                continue;
            }
            if self.grants.is_reclaimed(inode) {
                self.grants.put_reclaimed(inode, chunk);
            } else {
                self.settling.add(chunk);
            }
        }
    }

    /// A grant whose chunk was committed, and of which nothing but suspect copies is left, ends: its writer, which is asking
    /// where they are, cannot go on with them, and settling does not wait for the lease to come down.
    pub(super) fn end_grant_without_copies(&mut self, chunk: ChunkId) {
        let is_mended = self.mending.contains(&chunk);
        if !is_mended && self.grants.get(chunk).is_some() && self.chunks.lacks_sound_copies(chunk) {
            self.end_grant_to_settle(chunk);
        }
    }

    /// The writer cannot go on before the chunk is settled.
    pub(super) fn end_grant_to_settle(&mut self, chunk: ChunkId) {
        self.grants.remove(chunk);
        self.settling.add(chunk);
        self.end_write(chunk);
    }

    /// Notes a grant that was committed.
    pub(super) fn grant_given(&mut self, session: SessionId, inode: InodeId, placed: &PlacedGrant) {
        let grant = &placed.grant;
        self.chunks.granted(grant.chunk, grant.version_from, grant.version, &placed.places);
        // Of a new chunk only now: it locks the chunk against repair, the places are those just chosen.
        let _ = self.chunks.begin_write(grant.chunk, session);
        self.grants.put(session, inode, placed.clone());
        // It has a writer again, who commits it or whose end settles it.
        self.stop_settling(grant.chunk);
    }

    /// How a grant that the session has is told to it again: copies that are settled at its version are raised already.
    pub(super) fn told_again(&self, session: SessionId, inode: InodeId, index: u32) -> Option<PlacedGrant> {
        let chunks = self.grants.nodes.get(&inode)?;
        let held = chunks.iter().filter_map(|chunk| self.grants.held.get(chunk));
        let held = held.into_iter().find(|held| held.session == session && held.placed.grant.index == index)?;
        let info = self.chunks.info(held.placed.grant.chunk)?;
        if info.granted != held.placed.grant.version {
            return None;
        }
        let mut placed = held.placed.clone();
        if info.is_settled() {
            placed.grant.version_from = placed.grant.version;
        }
        Some(placed)
    }

    /// Whether the chunk is being brought to one state, as it has no writer that could commit it.
    pub(super) fn is_settling(&self, chunk: ChunkId) -> bool {
        self.settling.contains(chunk)
    }

    /// The version of the copies that readers may see: that of the last commit or settling.
    pub(super) fn readable_version(&self, chunk: ChunkId) -> Option<ChunkVersion> {
        self.chunks.info(chunk).map(|info| info.version)
    }
}
