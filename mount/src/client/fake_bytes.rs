//! Bytes of files in memory, for tests: what is written is dirty until a commit was prepared for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;

use super::bytes::{Bytes, BytesStanding, Durability, FileBytes, OpenBytes, Prepared};
use super::chunk_sync::Holds;
use super::fake_fault::Gate;
use crate::data::{ChunkPlaces, Keep, ReadPatience, WriteGrant};

#[derive(Default)]
pub(crate) struct MemoryBytes {
    files: Mutex<HashMap<InodeId, Arc<MemoryFile>>>,
}

impl MemoryBytes {
    pub(crate) fn memory(&self, inode: InodeId) -> Arc<MemoryFile> {
        Arc::clone(self.files.lock().unwrap().entry(inode).or_default())
    }
}

impl Bytes for MemoryBytes {
    fn file(&self, inode: InodeId) -> Arc<dyn FileBytes> {
        Arc::new(Shared(self.memory(inode)))
    }

    fn standing(&self) -> BytesStanding {
        BytesStanding::default()
    }
}

#[derive(Default)]
pub(crate) struct MemoryFile {
    pub(crate) state: Mutex<FileState>,
}

#[derive(Default)]
pub(crate) struct FileState {
    pub(crate) data: Vec<u8>,
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    pub(crate) local_length: Option<u64>,
    pub(crate) modified: Option<Time>,
    pub(crate) prepared: u32,
    pub(crate) invalidated: u32,
    pub(crate) doubted: u32,
    pub(crate) offered: Vec<ChunkPlaces>,
    pub(crate) lost: bool,
    /// What preparing a commit fails with: bytes could not be sent.
    pub(crate) refusal: Option<Errno>,
    /// Where preparing a commit waits: bytes cannot be sent now.
    pub(crate) gate: Option<Arc<Gate>>,
}

struct Shared(Arc<MemoryFile>);

struct MemoryCommit {
    file: Arc<MemoryFile>,
    length: Option<u64>,
    modified: Option<Time>,
}

impl Prepared for MemoryCommit {
    fn length(&self) -> Option<u64> {
        self.length
    }

    fn modified(&self) -> Option<Time> {
        self.modified
    }

    fn chunks(&self) -> Vec<wire::CommittedChunk> {
        Vec::new()
    }

    fn committed(self: Box<Self>) {
        let mut state = self.file.state.lock().unwrap();
        (state.local_length, state.modified) = (None, None);
    }
}

impl OpenBytes for Shared {
    fn read(
        &self,
        offset: u64,
        out: &mut [u8],
        length_of_file: u64,
        (_keep, _patience): (Keep, &ReadPatience<'_>),
    ) -> Result<usize, Errno> {
        let state = self.0.state.lock().unwrap();
        let end = length_of_file.min(state.data.len() as u64).min(offset + out.len() as u64);
        let count = end.saturating_sub(offset) as usize;
        out[..count].copy_from_slice(&state.data[offset as usize..offset as usize + count]);
        Ok(count)
    }

    fn take_error(&self) -> Result<(), Errno> {
        if std::mem::take(&mut self.0.state.lock().unwrap().lost) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn take_error_at_close(&self) -> Result<(), Errno> {
        self.take_error()
    }

    fn take_error_at_write(&self) -> Result<(), Errno> {
        Ok(())
    }
}

impl FileBytes for Shared {
    fn open(&self) -> Arc<dyn OpenBytes> {
        Arc::new(Shared(Arc::clone(&self.0)))
    }

    fn next_data(&self, _chunk: &ChunkPlaces, _offset: u32) -> Option<std::ops::Range<u32>> {
        None
    }

    fn write(&self, offset: u64, bytes: &[u8], length_of_file: u64) -> Result<u64, Errno> {
        let mut state = self.0.state.lock().unwrap();
        let end = offset as usize + bytes.len();
        if state.data.len() < end {
            state.data.resize(end, 0);
        }
        state.data[offset as usize..end].copy_from_slice(bytes);
        state.writes.push((offset, bytes.to_vec()));
        let length = length_of_file.max(end as u64);
        state.local_length = Some(length);
        state.modified = Some(Time::from_seconds(1000 + state.writes.len() as i64));
        Ok(length)
    }

    fn prepare_commit(&self, _durability: Durability) -> Result<Box<dyn Prepared>, Errno> {
        let gate = self.0.state.lock().unwrap().gate.clone();
        if let Some(gate) = gate {
            gate.pass();
        }
        let mut state = self.0.state.lock().unwrap();
        state.prepared += 1;
        if let Some(errno) = state.refusal {
            return Err(errno);
        }
        let (length, modified) = (state.local_length, state.modified);
        Ok(Box::new(MemoryCommit { file: Arc::clone(&self.0), length, modified }))
    }

    fn committable(&self) -> Option<Box<dyn Prepared>> {
        self.prepare_commit(Durability::Acknowledged).ok()
    }

    fn doubt_all(&self) -> Result<(), Errno> {
        self.0.state.lock().unwrap().doubted += 1;
        Ok(())
    }

    fn sync_committed(&self, _holds: Holds) -> Result<(), Errno> {
        Ok(())
    }

    fn offer_place(&self, place: ChunkPlaces) {
        self.0.state.lock().unwrap().offered.push(place);
    }

    fn give_grant(&self, _grant: WriteGrant) {}

    fn truncate(&self, length: u64) {
        let mut state = self.0.state.lock().unwrap();
        state.data.resize(length as usize, 0);
        state.local_length = None;
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.write(offset, &vec![0; length as usize], 0).map(drop)
    }

    fn forget_chunks(&self, _first_index: u32, _end_index: u32) {}

    fn end_grants(&self) {}

    fn invalidate(&self) {
        self.0.state.lock().unwrap().invalidated += 1;
    }

    fn discard(&self) {
        let mut state = self.0.state.lock().unwrap();
        state.lost |= state.local_length.is_some();
        (state.local_length, state.modified) = (None, None);
    }

    fn has_uncommitted(&self) -> bool {
        let state = self.0.state.lock().unwrap();
        state.local_length.is_some() || state.modified.is_some()
    }

    fn local_length(&self) -> Option<u64> {
        self.0.state.lock().unwrap().local_length
    }

    fn modified(&self) -> Option<Time> {
        self.0.state.lock().unwrap().modified
    }
}
