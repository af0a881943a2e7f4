//! Chunks that are fetched from another chunkserver: each grows in a file of its own and takes its place when it is complete.

use std::fs;

use rfs_common::ids::{ChunkId, ChunkVersion};

use crate::chunk::change::{Action, Raise, Terms};
use crate::chunk::copy::{ChunkCopy, Effort, Held};
use crate::chunk::fault::{Fault, IoOperation};

use super::store::Volume;
use super::table::Known;

impl Volume {
    /// A file to fetch a chunk into.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn begin_incoming(&self, chunk: ChunkId, version: ChunkVersion, number: u64) -> Result<ChunkCopy, Fault> {
        let result = self.try_begin_incoming(chunk, version, number);
        self.noted(chunk, version, result)
    }

    fn try_begin_incoming(&self, chunk: ChunkId, version: ChunkVersion, number: u64) -> Result<ChunkCopy, Fault> {
        self.check_writable()?;
        self.check_space()?;
        // Not in the condition itself: the table would stay locked while the copy is opened.
        let known = self.table().find(chunk);
        if let Known::Open(_) | Known::Closed(_) = known {
            let have = self.copy(chunk)?.held().version;
            if have >= version {
                return Err(Fault::Exists { have });
            }
        }
        let _pass = self.entrance()(Effort::Io)?;
        ChunkCopy::create(self.layout.incoming(chunk, number), chunk, version)
    }

    /// Makes one change of a chunk that is being fetched.
    ///
    /// # Errors
    /// [`Fault`]; see [`ChunkCopy::change`].
    pub fn change_incoming(&self, incoming: &ChunkCopy, terms: &Terms, action: Action<'_>) -> Result<(), Fault> {
        let change = || {
            self.check_writable()?;
            self.check_growth(incoming, action)?;
            incoming.change(terms, action, Raise::WithTheSync, self.entrance())
        };
        let result = change();
        self.noted(incoming.chunk(), terms.version, result).map(|_| ())
    }

    /// Drops a file that was not fetched to its end.
    pub fn abandon_incoming(&self, chunk: ChunkId, number: u64) {
        let path = self.layout.incoming(chunk, number);
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "a half fetched chunk could not be removed");
        }
    }

    /// Gives a completely fetched chunk its place, durably, instead of an older copy. It counts from then on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn adopt(&self, incoming: &ChunkCopy, number: u64) -> Result<Held, Fault> {
        let result = self.try_adopt(incoming, number);
        self.noted(incoming.chunk(), incoming.held().version, result)
    }

    fn try_adopt(&self, incoming: &ChunkCopy, number: u64) -> Result<Held, Fault> {
        let chunk = incoming.chunk();
        incoming.sync(self.entrance())?;
        incoming.note_entry_durable();
        incoming.close(incoming.generation())?;
        let _files = self.lock_files(chunk);
        let known = self.table().find(chunk);
        if let Known::Open(_) | Known::Closed(_) = known {
            let new_version = incoming.held().version;
            self.copy(chunk)?.retire(|held| {
                if held.version < new_version { Ok(()) } else { Err(Fault::Exists { have: held.version }) }
            })?;
            self.table().remove(chunk);
        }
        let write = Fault::io(IoOperation::Write);
        // Not refused half way: a volume that stalls now is noticed, and the copy is in its place.
        let _pass = self.gate.enter_anyway(self.now(), self.settings.sync_deadline);
        self.layout.make_folder(chunk).map_err(&write)?;
        fs::rename(self.layout.incoming(chunk, number), self.layout.path(chunk)).map_err(&write)?;
        self.layout.sync_entry(chunk).map_err(|error| Fault::io(IoOperation::Sync)(error.source))?;
        let held = incoming.held();
        self.table().add(chunk, held);
        self.is_sound(chunk);
        self.note_changed();
        Ok(held)
    }
}
