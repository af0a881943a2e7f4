//! How many chunks have how many of the copies they should have, kept up to date with every change of an entry.

use std::time::Duration;

use super::balance::BalanceView;
use super::excuse::Excused;
use super::index::Counted;
use super::pace::Left;

const GOALS: usize = 10;
/// Live copies are counted up to this number; what has more is counted here.
pub(super) const LIVE_MAX: u8 = 15;

/// The numbers of the status page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// (goal, live copies, chunks), only where there are any.
    pub chunks: Vec<(u8, u8, u64)>,
    /// Chunks that exist.
    pub total: u64,
    /// Live current copies.
    pub copies: u64,
    /// Chunks with fewer live current copies than their goal, those with none included.
    pub under_goal: u64,
    /// Chunks without any.
    pub unavailable: u64,
    /// Chunks with exactly one although their goal is higher.
    pub last_copy: u64,
    /// Every chunk has its goal of live current copies on distinct servers.
    pub fully_replicated: bool,
    /// Copies that have to be made until no chunk lacks any, chunks without any left out.
    pub missing_copies: u64,
    /// About how many bytes have to be copied until none lacks copies, chunks without any left out.
    pub missing_bytes: u64,
    /// Chunks that a writer holds.
    pub unsettled: u64,
    /// Repairs under way.
    pub repairs_running: u64,
    /// Freed chunks and superfluous copies that are not deleted yet.
    pub deletions_waiting: u64,
    /// Copies that no record knows or that are newer than their record.
    pub orphans: u64,
    /// At the present pace it takes so long until none lacks copies; nothing if nothing becomes less.
    pub time_left: Option<Duration>,
    /// How even volumes are filled.
    pub balance: BalanceView,
    /// Chunkservers that are away on purpose and waited for.
    pub excused: Vec<Excused>,
    /// Why repairs wait, if they do.
    pub repairs_wait: Option<String>,
    /// Known servers and those connected.
    pub servers: (u32, u32),
    /// Known volumes and those in service.
    pub volumes: (u32, u32),
    /// Bytes of all volumes that count: total and free.
    pub space: (u64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    chunks: [[u64; LIVE_MAX as usize + 1]; GOALS],
    unsettled: u64,
    missing_copies: u64,
    missing_bytes: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { chunks: [[0; LIVE_MAX as usize + 1]; GOALS], unsettled: 0, missing_copies: 0, missing_bytes: 0 }
    }
}

impl Counters {
    /// A chunk whose copies have so many bytes each.
    pub(super) fn add(&mut self, counted: Counted, bytes: u64) {
        self.chunks[usize::from(counted.goal)][usize::from(counted.live)] += 1;
        self.missing_copies += counted.missing();
        self.missing_bytes += counted.missing() * bytes;
        self.unsettled += u64::from(!counted.settled);
    }

    pub(super) fn remove(&mut self, counted: Counted, bytes: u64) {
        self.chunks[usize::from(counted.goal)][usize::from(counted.live)] -= 1;
        self.missing_copies -= counted.missing();
        self.missing_bytes -= counted.missing() * bytes;
        self.unsettled -= u64::from(!counted.settled);
    }

    /// What repair has to do.
    pub(super) fn left(&self) -> Left {
        Left { copies: self.missing_copies, bytes: self.missing_bytes }
    }

    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary {
            unsettled: self.unsettled,
            missing_copies: self.missing_copies,
            missing_bytes: self.missing_bytes,
            ..Summary::default()
        };
        for (goal, row) in self.chunks.iter().enumerate() {
            for (live, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
                summary.chunks.push((goal as u8, live as u8, *count));
                summary.total += count;
                summary.copies += count * live as u64;
                summary.under_goal += if live < goal { *count } else { 0 };
                summary.unavailable += if live == 0 { *count } else { 0 };
                summary.last_copy += if live == 1 && goal > 1 { *count } else { 0 };
            }
        }
        summary.fully_replicated = summary.under_goal == 0;
        summary
    }
}
