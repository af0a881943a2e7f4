//! Works out how a chunk stands whenever something about it or its volumes changed, and keeps the counters and work lists
//! in step. Every method that changes an entry ends in [`Chunks::refresh`]; nothing else touches the lists.

use rfs_common::ids::{ChunkId, ServerId};

use super::Chunks;
use super::counters::LIVE_MAX;
use super::index::{CopyFlags, Counted, Entry, HeldCopy};

impl Chunks {
    /// Brings counters and work lists in step with the entry.
    pub(super) fn refresh(&mut self, chunk: ChunkId) {
        let Some(entry) = self.entries.get(&chunk) else { return };
        let live = self.live_servers(entry);
        let counted = (!entry.is_doomed()).then(|| Counted { goal: entry.goal(), live, settled: entry.is_settled() });
        let before = entry.counted;
        let under = counted.filter(|counted| counted.live > 0 && counted.live < counted.goal);
        let suspect =
            counted.is_some_and(|counted| counted.live == 0 && counted.settled) && self.has_live_suspect(entry);
        let lost = counted.is_some_and(|counted| counted.settled) && entry.may_have_lost_all();
        if under.is_none() {
            self.orders.forget_failure(chunk);
        }
        let removable = !self.deletable(chunk, entry).is_empty();

        if counted != before {
            let bytes = entry.bytes();
            before.into_iter().for_each(|before| self.counters.remove(before, bytes));
            counted.into_iter().for_each(|counted| self.counters.add(counted, bytes));
            if let Some(before) = before {
                self.under_goal.remove(&(before.live, chunk));
            }
        }
        if let Some(counted) = under {
            let is_new = self.under_goal.insert((counted.live, chunk));
            if is_new && self.repair_cursor.is_some_and(|(live, _)| counted.live < live) {
                // Greater need than what is looked at now.
                self.repair_cursor = None;
                self.repair_class = None;
            }
        }
        put(&mut self.unavailable, chunk, counted.is_some_and(|counted| counted.live == 0));
        put(&mut self.to_settle, chunk, suspect || lost);
        let in_question = counted.is_some() && self.is_to_be_compared(entry, live);
        self.to_compare.put(chunk, in_question);
        let doomed = entry.is_doomed();
        let copyless = doomed && entry.copies().is_empty();
        let was_surplus = entry.counted_surplus;
        put(&mut self.copyless, chunk, copyless);
        put(&mut self.cleanup, chunk, removable);
        self.surplus = self.surplus + usize::from(removable && !doomed) - usize::from(was_surplus);
        self.refresh_needed(chunk);
        let now_s = self.now.since(self.started).as_secs() as u32;
        if let Some(entry) = self.entries.get_mut(&chunk) {
            entry.counted = counted;
            entry.counted_surplus = removable && !doomed;
            entry.under_since_s = match (under.is_some(), entry.under_since_s) {
                (false, _) => 0,
                (true, 0) => now_s + 1,
                (true, since) => since,
            };
        }
    }

    /// Servers on which a good, current copy is live.
    pub(super) fn live_servers(&self, entry: &Entry) -> u8 {
        self.servers_with(entry, |copy| self.is_live_and_good(entry, copy))
    }

    /// Servers on which such a copy is.
    pub(super) fn servers_with(&self, entry: &Entry, is_such: impl Fn(&HeldCopy) -> bool) -> u8 {
        let mut servers = [ServerId::new(0); LIVE_MAX as usize];
        let mut count = 0;
        for copy in entry.copies() {
            if !is_such(copy) || count == servers.len() {
                continue;
            }
            let server = self.servers.volume(copy.slot).server;
            if !servers[..count].contains(&server) {
                servers[count] = server;
                count += 1;
            }
        }
        count as u8
    }

    pub(super) fn is_live_and_good(&self, entry: &Entry, copy: &HeldCopy) -> bool {
        copy.flags.is_good() && self.servers.volume(copy.slot).counts && entry.is_current(copy)
    }

    fn has_live_suspect(&self, entry: &Entry) -> bool {
        entry.copies().iter().any(|copy| {
            let suspect = copy.flags.is_in_doubt() && !copy.flags.has(CopyFlags::DELETING);
            suspect && entry.is_current(copy) && self.servers.volume(copy.slot).counts
        })
    }
}

fn put(set: &mut std::collections::BTreeSet<ChunkId>, chunk: ChunkId, belongs: bool) {
    if belongs {
        set.insert(chunk);
    } else {
        set.remove(&chunk);
    }
}
