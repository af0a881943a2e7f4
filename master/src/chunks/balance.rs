//! Moves copies from full volumes to empty ones, slowly, so that all fill up together.
//!
//! It begins when the used shares of two volumes differ by more than the threshold, and ends when all are within half of it:
//! what it has made even stays so until much has changed. A copy goes from the fullest volumes to the emptiest, and only where the
//! shares still differ by more than half the threshold. Volumes above the average of all only give, those below only take, and
//! no move takes either past the average, which moves do not change: so nothing goes to and fro. Copies are never put nearer to
//! each other than they were (hosts, storage machines).
//!
//! A move is a copy made as by repair, after which the one on the full volume is superfluous and is deleted as such. While
//! anything lacks copies, or repairs wait, nothing is begun. Each volume takes part in a few moves at a time, and in so many a
//! second that the rate of its bytes stays within the limit.

use std::collections::BTreeMap;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId};

use super::Chunks;
use super::index::Entry;
use super::placement::ROOMY_BYTES;
use super::repair::PACE_AHEAD;
use super::servers::Volume;

/// Moves are looked for once in this time, and less often where there was nothing to move although there should have been.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Chunks of a volume that are looked at for one that can go, and the volumes, fullest first.
const CHUNKS_EXAMINED: usize = 64;
const SOURCES_EXAMINED: usize = 8;
/// Moves that one look begins from a volume, and that are under way on one, until the old copy is deleted.
const MOVES_AT_ONCE: usize = 2;
const MOVES_PER_VOLUME: usize = 4;
/// Shares are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Shares differ by too much, or did and are not even yet.
    active: bool,
    moves: BTreeMap<ChunkId, Move>,
    look_at: Option<Monotonic>,
    done: u64,
}

/// A copy on its way: to be made on one volume, then to be deleted on the other.
#[derive(Debug, Clone, Copy)]
struct Move {
    from: u16,
    to: u16,
    bytes: u64,
}

/// What is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalanceView {
    /// Copies are moved from full volumes to empty ones.
    pub active: bool,
    /// Copies on their way.
    pub running: u64,
    /// Copies moved since the master started.
    pub done: u64,
    /// The used shares of the emptiest and the fullest volume, in percent.
    pub used_percent: (u8, u8),
}

/// A volume that takes part.
#[derive(Debug, Clone, Copy)]
struct Share {
    slot: u16,
    used: u64,
    total: u64,
}

impl Share {
    fn millionths(self) -> u64 {
        self.with(0, 0)
    }

    /// With so many bytes more and so many less.
    fn with(self, more: u64, less: u64) -> u64 {
        let used = self.used.saturating_add(more).saturating_sub(less).min(self.total);
        (u128::from(used) * u128::from(WHOLE) / u128::from(self.total.max(1))) as u64
    }
}

impl Balance {
    /// The volume that the chunk's superfluous copy is to go from.
    pub(super) fn source_of(&self, chunk: ChunkId) -> Option<u16> {
        self.moves.get(&chunk).map(|one| one.from)
    }

    /// A copy is gone.
    pub(super) fn note_dropped(&mut self, slot: u16, chunk: ChunkId) {
        if self.moves.get(&chunk).is_some_and(|one| one.from == slot) {
            self.moves.remove(&chunk);
            self.done += 1;
        }
    }

    /// No copy was made.
    pub(super) fn note_failed(&mut self, chunk: ChunkId) {
        self.moves.remove(&chunk);
    }

    fn count_on(&self, slot: u16) -> usize {
        self.moves.values().filter(|one| one.from == slot || one.to == slot).count()
    }
}

impl Chunks {
    /// Begins moves, as many as the limits allow.
    pub(super) fn schedule_balance(&mut self) {
        if self.balance.look_at.is_some_and(|next| next > self.now) {
            return;
        }
        self.balance.look_at = Some(self.now + LOOK_EVERY);
        self.forget_ended_moves();
        let nothing_first = self.under_goal.is_empty() && self.repairs_wait().is_none();
        if !self.config.rebalance || !nothing_first {
            self.balance.active = self.balance.active && self.config.rebalance;
            return;
        }
        let shares = self.shares();
        let spread = spread(&shares);
        let threshold = u64::from(self.config.rebalance_threshold_percent) * (WHOLE / 100);
        self.balance.active = if self.balance.active { spread > threshold / 2 } else { spread > threshold };
        if self.balance.active && !self.begin_moves(shares, threshold / 2) && self.balance.moves.is_empty() {
            self.balance.look_at = Some(self.now + LOOK_AGAIN);
        }
    }

    /// Moves whose copy went another way: it was freed, moved by somebody else, or its new place is gone.
    fn forget_ended_moves(&mut self) {
        let goes_on = |chunk: &ChunkId, one: &Move| {
            let entry = self.entries.get(chunk).filter(|entry| !entry.is_doomed());
            entry.is_some_and(|entry| {
                entry.copy_on(one.from).is_some() && (entry.is_repairing() || entry.copy_on(one.to).is_some())
            })
        };
        let ended: Vec<ChunkId> =
            self.balance.moves.iter().filter(|(chunk, one)| !goes_on(chunk, one)).map(|(chunk, _)| *chunk).collect();
        for chunk in ended {
            self.balance.moves.remove(&chunk);
        }
    }

    /// The volumes that take part, the fullest first. What is on its way counts as arrived.
    fn shares(&self) -> Vec<Share> {
        let takes_part = |volume: &Volume| {
            volume.keeps_copies() && volume.report.total > 0 && self.maintenance(volume.server).is_none()
        };
        let all = self.servers.volumes().filter(|(_, volume)| takes_part(volume));
        let mut shares: Vec<Share> =
            all.map(|(slot, volume)| Share { slot, used: volume.used(), total: volume.report.total }).collect();
        for (chunk, one) in &self.balance.moves {
            let Some(entry) = self.entries.get(chunk) else { continue };
            for share in &mut shares {
                if share.slot == one.from && entry.copy_on(one.from).is_some() {
                    share.used = share.used.saturating_sub(one.bytes);
                }
                if share.slot == one.to && entry.copy_on(one.to).is_none() {
                    share.used = share.used.saturating_add(one.bytes);
                }
            }
        }
        shares.sort_by_key(|share| std::cmp::Reverse(share.millionths()));
        shares
    }

    /// Begins moves between volumes whose shares differ by more than `gap`. Returns whether any was begun or could be as soon
    /// as volumes are free.
    fn begin_moves(&mut self, mut shares: Vec<Share>, gap: u64) -> bool {
        let mean = mean(&shares);
        let mut found = false;
        for at in (0..shares.len().min(SOURCES_EXAMINED)).flat_map(|index| [index; MOVES_AT_ONCE]) {
            let from = shares[at];
            let emptiest = shares.iter().map(|share| share.millionths()).min().unwrap_or(0);
            if from.millionths() <= emptiest + gap {
                continue;
            }
            if !self.may_balance(from.slot) {
                found |= !self.servers.volume(from.slot).chunks.is_empty();
                continue;
            }
            let Some((chunk, to)) = self.find_move(from, &shares, gap, mean) else {
                let mut emptier = shares.iter().filter(|to| to.millionths() + gap < from.millionths());
                found |= emptier.any(|to| !self.may_balance(to.slot));
                continue;
            };
            found = true;
            let bytes = self.entries[&chunk].bytes();
            self.begin_move(chunk, Move { from: from.slot, to, bytes });
            for share in &mut shares {
                share.used = if share.slot == from.slot { share.used.saturating_sub(bytes) } else { share.used };
                share.used = if share.slot == to { share.used + bytes } else { share.used };
            }
        }
        found
    }

    fn may_balance(&self, slot: u16) -> bool {
        let paced_until = self.servers.volume(slot).balance_paced_until;
        let under_way = self.balance.count_on(slot);
        under_way < MOVES_PER_VOLUME && paced_until <= self.now + PACE_AHEAD && self.may_move(slot)
    }

    /// A chunk of the volume that can go to one that is so much emptier, the emptiest first.
    fn find_move(&self, from: Share, shares: &[Share], gap: u64, mean: u64) -> Option<(ChunkId, u16)> {
        let chunks = &self.servers.volume(from.slot).chunks;
        // Not always the same ones: some may have no other place.
        let skipped = self.random.below(chunks.len().saturating_sub(CHUNKS_EXAMINED) as u64 + 1) as usize;
        chunks.iter().skip(skipped).take(CHUNKS_EXAMINED).find_map(|chunk| {
            let entry = self.entries.get(chunk)?;
            let bytes = entry.bytes();
            let good = entry.copy_on(from.slot).is_some_and(|copy| self.is_live_and_good(entry, copy));
            let complete = entry.counted.is_some_and(|counted| counted.live == counted.goal);
            let at_rest = entry.is_settled() && !entry.is_doomed() && !entry.is_repairing();
            if bytes == 0 || !good || !complete || !at_rest || self.is_busy(*chunk, entry) {
                return None;
            }
            let emptiest = shares.iter().rev().take_while(|to| to.millionths() + gap < from.millionths());
            let mut fitting = emptiest.filter(|to| from.with(0, bytes) >= mean && to.with(bytes, 0) <= mean);
            let to = fitting.find(|to| self.may_balance(to.slot) && self.may_go(entry, from.slot, to.slot, bytes))?;
            Some((*chunk, to.slot))
        })
    }

    fn is_busy(&self, chunk: ChunkId, entry: &Entry) -> bool {
        self.has_writer(chunk, entry)
            || self.orders.is_paused(chunk)
            || self.cleanup.contains(&chunk)
            || self.orders.making(chunk).next().is_some()
    }

    /// Whether the copy may stand on the other volume instead: there is room, its server has no other one, and it is no nearer
    /// to the others than it was.
    fn may_go(&self, entry: &Entry, from: u16, to: u16, bytes: u64) -> bool {
        let (source, target) = (self.servers.volume(from), self.servers.volume(to));
        let same_space = !source.report.filesystem.is_empty() && source.report.filesystem == target.report.filesystem;
        if same_space || !target.takes_new_chunks() || target.report.free < bytes + ROOMY_BYTES {
            return false;
        }
        let others: Vec<u16> = entry.copies().iter().map(|copy| copy.slot).filter(|slot| *slot != from).collect();
        let server = |slot: u16| self.servers.volume(slot).server;
        let holders: Vec<ServerId> = others.iter().map(|slot| server(*slot)).collect();
        !holders.contains(&target.server) && self.nearness(to, &others) <= self.nearness(from, &others)
    }

    fn begin_move(&mut self, chunk: ChunkId, one: Move) {
        let entry = &self.entries[&chunk];
        let version = ChunkVersion::new(entry.version());
        // Read where it is to go: the other copies serve readers.
        let mut sources = vec![one.from];
        let good = entry.copies().iter().filter(|copy| copy.slot != one.from && self.is_live_and_good(entry, copy));
        sources.extend(good.map(|copy| copy.slot));
        self.balance.moves.insert(chunk, one);
        let rate = self.config.rebalance_bytes_per_second.max(1);
        let (now, takes) = (self.now, Duration::from_secs_f64(one.bytes as f64 / rate as f64));
        for slot in [one.from, one.to] {
            let volume = self.servers.volume_mut(slot);
            volume.balance_paced_until = volume.balance_paced_until.max(now) + takes;
        }
        self.order_repair(chunk, version, &sources, one.to);
    }

    /// How balancing stands.
    pub(super) fn balance_view(&self) -> BalanceView {
        let shares = self.shares();
        let percent = |share: Option<&Share>| share.map_or(0, |share| (share.millionths() * 100 / WHOLE) as u8);
        BalanceView {
            active: self.balance.active,
            running: self.balance.moves.len() as u64,
            done: self.balance.done,
            used_percent: (percent(shares.last()), percent(shares.first())),
        }
    }
}

/// The share of all volumes together.
fn mean(shares: &[Share]) -> u64 {
    let used: u128 = shares.iter().map(|share| u128::from(share.used)).sum();
    let total: u128 = shares.iter().map(|share| u128::from(share.total)).sum();
    (used * u128::from(WHOLE) / total.max(1)) as u64
}

fn spread(shares: &[Share]) -> u64 {
    match (shares.first(), shares.last()) {
        (Some(fullest), Some(emptiest)) => fullest.millionths() - emptiest.millionths(),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "balance_test.rs"]
mod tests;
