//! A master for tests of the data path: one file, its chunks, and the rules of granting, replacing and committing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId};
use rfs_common::leaf::CHUNK_BYTES;

use super::fake_chunkserver::FakeChunkserver;
use crate::data::{
    ChunkPlaces, Committable, CopyFailure, Durability, FailedWrite, FileMaster, Place, Span, WriteGrant,
};

#[derive(Clone, Debug)]
pub(crate) struct Record {
    chunk: u64,
    version: u32,
    granted: u32,
    length: u32,
    places: Vec<Place>,
    lost: u32,
}

#[derive(Debug, Default)]
struct State {
    chunks: BTreeMap<u32, Record>,
    next_chunk: u64,
    length: u64,
    refusal: Option<Errno>,
    copy_failures: Vec<CopyFailure>,
    bad_copies: Vec<CopyFailure>,
    grants: u32,
}

pub(crate) struct FakeMaster {
    pub(crate) servers: Vec<FakeChunkserver>,
    goal: usize,
    state: Mutex<State>,
}

impl FakeMaster {
    pub(crate) fn new(servers: u64, goal: usize) -> Arc<FakeMaster> {
        let servers = (1..=servers).map(FakeChunkserver::start).collect();
        Arc::new(FakeMaster { servers, goal, state: Mutex::default() })
    }

    pub(crate) fn refuse(&self, errno: Option<Errno>) {
        self.state.lock().unwrap().refusal = errno;
    }

    pub(crate) fn length(&self) -> u64 {
        self.state.lock().unwrap().length
    }

    pub(crate) fn copy_failures(&self) -> Vec<CopyFailure> {
        self.state.lock().unwrap().copy_failures.clone()
    }

    pub(crate) fn bad_copies(&self) -> Vec<CopyFailure> {
        self.state.lock().unwrap().bad_copies.clone()
    }

    pub(crate) fn grants(&self) -> u32 {
        self.state.lock().unwrap().grants
    }

    /// The chain of a chunk.
    pub(crate) fn places(&self, index: u32) -> Vec<Place> {
        self.state.lock().unwrap().chunks[&index].places.clone()
    }

    pub(crate) fn server(&self, place: &Place) -> &FakeChunkserver {
        self.servers.iter().find(|server| server.place == *place).unwrap()
    }

    /// Takes a commit, checking that what it says is on every copy (and synced).
    pub(crate) fn commit(&self, commit: Committable, durability: Durability) {
        let mut state = self.state.lock().unwrap();
        for committed in &commit.chunks {
            let record = state.chunks.get_mut(&committed.index).unwrap();
            assert_eq!((record.chunk, record.granted), (committed.chunk.get(), committed.version.get()));
            let copies: Vec<_> =
                record.places.iter().map(|place| self.server(place).state().copies[&record.chunk].clone()).collect();
            for copy in &copies {
                assert_eq!(copy.version, record.granted);
                assert!(copy.synced || durability == Durability::Acknowledged, "a copy is not synced");
                assert!(valid(&copy.data, committed.length).eq(valid(&copies[0].data, committed.length)));
            }
            record.version = record.granted;
            record.length = committed.length;
        }
        if let Some(length) = commit.length {
            state.length = length;
        }
        commit.committed();
    }

    pub(crate) fn set_length(&self, length: u64) {
        let mut state = self.state.lock().unwrap();
        state.length = length;
        state.chunks.retain(|index, record| {
            let start = u64::from(*index) * CHUNK_BYTES;
            record.length = record.length.min(length.saturating_sub(start).min(CHUNK_BYTES) as u32);
            start < length
        });
    }

    /// Picks the copy that counts, brings `goal` places to it at a new version; `None`: no copy is anywhere.
    fn level(&self, record: &mut Record, failed: &[CopyFailure]) -> Option<()> {
        let has_failed = |place: &Place| failed.iter().any(|failure| failure.volume == place.volume);
        let (bad, good): (Vec<Place>, Vec<Place>) = record.places.iter().cloned().partition(|place| has_failed(place));
        let candidates: Vec<Place> = good.iter().chain(&bad).cloned().collect();
        let counts = |place: &&Place| {
            let state = self.server(place).state();
            state.copies.get(&record.chunk).is_some_and(|copy| [record.version, record.granted].contains(&copy.version))
        };
        let source = candidates.iter().find(counts)?.clone();
        let mut copy = self.server(&source).state().copies[&record.chunk].clone();
        record.granted += 1;
        copy.version = record.granted;
        let others = self.servers.iter().map(|server| server.place.clone());
        let mut places = vec![source.clone()];
        places.extend(good.into_iter().chain(others).filter(|place| *place != source && !has_failed(place)));
        places.dedup();
        places.extend(bad.into_iter().filter(|place| *place != source));
        let mut chosen: Vec<Place> = Vec::new();
        for place in places {
            if chosen.len() < self.goal && !chosen.contains(&place) {
                chosen.push(place);
            }
        }
        for server in &self.servers {
            server.state().copies.remove(&record.chunk);
        }
        for place in &chosen {
            self.server(place).state().copies.insert(record.chunk, copy.clone());
        }
        record.places = chosen;
        Some(())
    }
}

/// What counts of a copy: what it holds up to `length`, then zeros.
fn valid(data: &[u8], length: u32) -> impl Iterator<Item = u8> + '_ {
    data.iter().copied().chain(std::iter::repeat(0)).take(length as usize)
}

fn answer(index: u32, record: &Record, version_from: u32) -> WriteGrant {
    WriteGrant {
        index,
        chunk: ChunkId::new(record.chunk),
        version_from: ChunkVersion::new(version_from),
        version: ChunkVersion::new(record.granted),
        length: record.length,
        places: record.places.clone(),
        lost_version: ChunkVersion::new(record.lost),
    }
}

impl FileMaster for FakeMaster {
    fn grant(&self, _: InodeId, index: u32) -> Result<WriteGrant, Errno> {
        let mut guard = self.state.lock().unwrap();
        let state = &mut *guard;
        state.grants += 1;
        if let Some(errno) = state.refusal {
            return Err(errno);
        }
        if let Some(record) = state.chunks.get_mut(&index).filter(|record| record.version > 0) {
            if record.granted != record.version {
                self.level(record, &[]).unwrap();
                return Ok(answer(index, record, record.granted));
            }
            record.granted += 1;
            return Ok(answer(index, record, record.version));
        }
        state.next_chunk += 1;
        let first = state.next_chunk as usize;
        let places = (0..self.goal).map(|n| self.servers[(first + n) % self.servers.len()].place.clone()).collect();
        let record = Record { chunk: state.next_chunk, version: 0, granted: 1, length: 0, places, lost: 0 };
        state.chunks.insert(index, record.clone());
        Ok(answer(index, &record, 0))
    }

    fn copy_failed(&self, failed: &FailedWrite<'_>) -> Result<WriteGrant, Errno> {
        let mut guard = self.state.lock().unwrap();
        let state = &mut *guard;
        state.copy_failures.extend_from_slice(failed.failures);
        if let Some(errno) = state.refusal {
            return Err(errno);
        }
        // Cut off meanwhile.
        let Some(record) = state.chunks.get_mut(&failed.index) else { return Err(Errno::ESTALE) };
        assert_eq!((record.chunk, record.granted), (failed.chunk.get(), failed.version.get()));
        if self.level(record, failed.failures).is_some() {
            return Ok(answer(failed.index, record, record.granted));
        }
        assert_eq!(record.version, 0, "every copy of a committed chunk is gone");
        record.granted += 1;
        record.places.rotate_left(1);
        Ok(answer(failed.index, record, 0))
    }

    fn locate(&self, _: InodeId, first_index: u32, span: Span) -> Result<Vec<ChunkPlaces>, Errno> {
        let (end, count) = match span {
            Span::Indexes(count) => (first_index + count, count),
            Span::Existing(count) => (u32::MAX, count),
        };
        let state = self.state.lock().unwrap();
        let chunks = state.chunks.range(first_index..end).filter(|(_, record)| record.version > 0);
        Ok(chunks
            .take(count as usize)
            .map(|(index, record)| ChunkPlaces {
                index: *index,
                chunk: ChunkId::new(record.chunk),
                version: ChunkVersion::new(record.version),
                length: record.length,
                places: record.places.clone(),
                lost_version: ChunkVersion::new(record.lost),
            })
            .collect())
    }

    fn report_bad_copy(&self, _: ChunkId, _: ChunkVersion, failure: CopyFailure) {
        self.state.lock().unwrap().bad_copies.push(failure);
    }

    fn chunks_synced(&self, _: &[ChunkId]) -> Result<(), Errno> {
        Ok(())
    }
}
