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
}

impl TestMaster {
    pub(crate) fn new() -> Arc<TestMaster> {
        let clock = ManualClock::new(Time::from_seconds(1_000_000));
        let random = Arc::new(SeededRandom::new(1));
        let chunks = Mutex::new(Chunks::new(ChunksConfig::default(), random, Monotonic::START));
        let shared_clock: SharedClock = Arc::new(clock.clone());
        let (records, events) = (MemorySource::default(), Events::new());
        Arc::new(TestMaster { chunks, records, clock, shared_clock, events, goals: Mutex::default() })
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

    fn expect_copies(&self, _chunks: &[ChunkId]) -> Result<(), String> {
        Ok(())
    }

    fn set_goals(&self, nodes: &[InodeId], goal: Goal) -> Result<u64, GoalFailure> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner).push((nodes.to_vec(), goal));
        Ok(nodes.len() as u64)
    }
}
