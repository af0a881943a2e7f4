//! What the engine keeps in memory of what is stored: which chunks there are, and who keeps nodes without a name. Every
//! commit passes through here, whatever made it, so that memory follows the store and nothing else.

use std::collections::HashMap;

use prost::Message;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId, SessionId};

use super::{PushMessage, State};
use crate::chunks::ChunkInfo;
use crate::namespace::records::{self, ChunkRecord, ChunkRef, OrphanRecord};
use crate::namespace::source::{Change, Table};

/// What a commit means for what is kept in memory.
#[derive(Debug)]
pub(super) enum Effect {
    /// A chunk's record, or that it is gone.
    Chunk(ChunkId, Option<ChunkRecord>),
    /// How many bytes of a chunk are valid.
    Length(ChunkId, u32),
    /// The sessions that keep a node without a name; none: it is gone or has a name.
    Orphan(InodeId, Vec<SessionId>),
}

/// The effects of changes. A record that does not decode was made by this process and cannot be.
pub(super) fn effects(changes: &[Change]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for change in changes {
        let (table, key, value) = match change {
            Change::Put { table, key, value } => (*table, key, Some(value.as_slice())),
            Change::Delete { table, key } => (*table, key, None),
        };
        if !matches!(table, Table::Chunks | Table::Orphans | Table::Refs) {
            continue;
        }
        if table == Table::Refs {
            let reference = value.map(|value| ChunkRef::decode(value).expect("this process has encoded it"));
            effects.extend(reference.map(|reference| Effect::Length(reference.chunk_id(), reference.length)));
            continue;
        }
        let Some((number, _)) = records::split_key(key) else { continue };
        if table == Table::Chunks {
            let record = value.map(|value| ChunkRecord::decode(value).expect("this process has encoded it"));
            effects.push(Effect::Chunk(ChunkId::new(number), record));
        } else {
            let record = value.map(|value| OrphanRecord::decode(value).expect("this process has encoded it"));
            let sessions = record.map(|record| record.sessions).unwrap_or_default();
            effects.push(Effect::Orphan(InodeId::new(number), sessions.into_iter().map(SessionId::new).collect()));
        }
    }
    effects
}

/// What the chunk table is told of a record.
pub(super) fn chunk_info(record: &ChunkRecord) -> ChunkInfo {
    ChunkInfo {
        inode: record.inode_id(),
        version: record.chunk_version(),
        granted: ChunkVersion::new(record.granted),
        goal: record.copies(),
        unsynced: record.unsynced,
    }
}

/// The nodes without a name, and the sessions that keep them.
#[derive(Debug, Default)]
pub(super) struct OrphanIndex {
    kept: HashMap<InodeId, Vec<SessionId>>,
}

impl OrphanIndex {
    /// Who keeps the node now; returns those who did not before.
    pub(super) fn set(&mut self, inode: InodeId, sessions: Vec<SessionId>) -> Vec<SessionId> {
        if sessions.is_empty() {
            self.kept.remove(&inode);
            return Vec::new();
        }
        let before = self.kept.get(&inode);
        let is_new = |session: &&SessionId| !before.is_some_and(|before| before.contains(session));
        let added = sessions.iter().filter(is_new).copied().collect();
        self.kept.insert(inode, sessions);
        added
    }

    /// What the session keeps.
    pub(super) fn of_session(&self, session: SessionId) -> Vec<InodeId> {
        self.kept.iter().filter(|(_, sessions)| sessions.contains(&session)).map(|(inode, _)| *inode).collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }
}

impl State {
    /// Brings memory in step with a commit made on behalf of `session`, which learns of orphans from its reply.
    pub(super) fn mirror(&mut self, session: Option<SessionId>, effects: Vec<Effect>) {
        let mut chunks_changed = false;
        for effect in effects {
            match effect {
                Effect::Chunk(chunk, record) => {
                    chunks_changed = true;
                    self.mirror_chunk(chunk, record.as_ref());
                }
                Effect::Length(chunk, length) => self.chunks.has_length(chunk, length),
                Effect::Orphan(inode, sessions) => {
                    for added in self.orphans.set(inode, sessions) {
                        if Some(added) != session {
                            self.push(added, PushMessage::Unlinked(vec![inode]));
                        }
                    }
                }
            }
        }
        if chunks_changed {
            self.wake_for_chunks();
        }
    }

    fn mirror_chunk(&mut self, chunk: ChunkId, record: Option<&ChunkRecord>) {
        match record {
            None => self.chunks.forget_freed(chunk),
            Some(record) if record.deleted => {
                self.grants.remove(chunk);
                self.stop_settling(chunk);
                self.chunks.freed(chunk);
            }
            Some(record) => self.chunks.changed(chunk, chunk_info(record)),
        }
    }
}
