//! A master for tests: a chunk table behind a lock, records in memory, and no sessions.

use std::sync::{Arc, Mutex, PoisonError};

use rfs_common::clock::{ManualClock, Monotonic, SharedClock, Time};
use rfs_common::ids::{ChunkId, ClusterId, Goal, InodeId};
use rfs_common::random::SeededRandom;
use rfs_proto::frame::FrameType;

use super::master_state::{GoalFailure, MasterState};
use super::report::SessionReport;
use crate::chunks::{Chunks, ChunksConfig, Severity};
use crate::events::{Event, Events};
use crate::namespace::source::{Change, MemorySource, Source};

#[derive(Debug)]
pub(crate) struct TestMaster {
    pub(crate) chunks: Mutex<Chunks>,
    pub(crate) records: MemorySource,
    pub(crate) clock: ManualClock,
    shared_clock: SharedClock,
    pub(crate) events: Events,
    pub(crate) goals: Mutex<Vec<(Vec<InodeId>, Goal)>>,
    pub(crate) expected: Mutex<Vec<ChunkId>>,
    /// Happens once, in the middle of an administrator's request.
    pub(crate) meanwhile: Mutex<Option<fn(&mut Chunks)>>,
}

impl TestMaster {
    pub(crate) fn new() -> Arc<TestMaster> {
        let clock = ManualClock::new(Time::from_seconds(1_000_000));
        let random = Arc::new(SeededRandom::new(1));
        let chunks = Mutex::new(Chunks::new(ChunksConfig::default(), random, Monotonic::START));
        let shared_clock: SharedClock = Arc::new(clock.clone());
        let (records, events) = (MemorySource::default(), Events::new());
        let (goals, expected, meanwhile) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(TestMaster { chunks, records, clock, shared_clock, events, goals, expected, meanwhile })
    }
}

impl MasterState for TestMaster {
    fn visit_chunks(&self, look: &mut dyn FnMut(&mut Chunks, Monotonic)) {
        use rfs_common::clock::Clock;
        look(&mut self.chunks.lock().unwrap_or_else(PoisonError::into_inner), self.clock.monotonic());
    }

    fn source(&self) -> &dyn Source {
        &self.records
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), String> {
        self.records.apply(&changes);
        Ok(())
    }

    fn commit_with_chunks(
        &self,
        decide: &dyn Fn(&Chunks) -> Option<Vec<Change>>,
        follow: &mut dyn FnMut(&mut Chunks),
    ) -> Result<bool, String> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(changes) = decide(&chunks) else { return Ok(false) };
        self.records.apply(&changes);
        follow(&mut chunks);
        Ok(true)
    }

    fn wait_until_durable(&self) -> Result<(), String> {
        Ok(())
    }

    fn cluster(&self) -> ClusterId {
        ClusterId::new(0x1234)
    }

    fn clock(&self) -> &SharedClock {
        &self.shared_clock
    }

    fn report(&self, severity: Severity, message: String) {
        self.events.report(Time::EPOCH, severity, message);
    }

    fn events_after(&self, after: u64) -> Vec<Event> {
        self.events.after(after)
    }

    fn sessions(&self) -> Vec<SessionReport> {
        Vec::new()
    }

    fn metrics_text(&self) -> String {
        String::new()
    }

    fn operations(&self) -> Vec<(FrameType, u64)> {
        Vec::new()
    }

    fn expect_copies(&self, chunks: &[ChunkId]) -> Result<(), String> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(chunks);
        let meanwhile = self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(happens) = meanwhile {
            happens(&mut self.chunks.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    fn set_goals(&self, nodes: &[InodeId], goal: Goal) -> Result<u64, GoalFailure> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner).push((nodes.to_vec(), goal));
        Ok(nodes.len() as u64)
    }
}
