//! Commands under way: what each is for, until when it has to be answered, and what its result changes.
//!
//! A command whose deadline passed counts as failed, but its late result is still believed where it tells which copy is
//! where. Commands die with the stream they were sent on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId};

use super::Chunks;
use super::astray::EndOfAstray;
use super::index::{ChunkMap, CopyFlags, Entry, HeldCopy};
use super::types::{Command, CommandId, CommandResult, Order, OrderId, Outcome, Place, RaiseOf, Severity, StreamId};

/// After a failure, a chunk is left alone for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A copy that was looked at because of somebody's word is not looked at again for this long.
const CHECK_AGAIN: Duration = Duration::from_secs(60);
/// So many of these, and so many failures of repairs, are remembered.
const CHECKED_MAX: usize = 10_000;

/// What a command is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Delete,
    DeleteOrphan,
    Repair {
        version: ChunkVersion,
        source: u16,
    },
    Replicate {
        order: OrderId,
        version: ChunkVersion,
    },
    Raise {
        order: OrderId,
    },
    /// Asks which version a copy has: raises it from a version to the same.
    Probe,
    /// Has its chunkserver look at a copy of which others say that it is bad.
    Check,
}

/// That copies of a chunk could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepairFailure {
    /// So often, without a success between.
    pub(super) times: u32,
    /// Where to and why, the last time.
    pub(super) reason: String,
}

#[derive(Debug)]
struct Pending {
    purpose: Purpose,
    server: ServerId,
    place: Place,
    slot: u16,
    chunk: ChunkId,
    deadline: Monotonic,
    expired: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    left: usize,
    outcome: Outcome,
}

#[derive(Debug, Default)]
pub(super) struct Orders {
    next_command: u64,
    next_order: u64,
    commands: HashMap<CommandId, Pending>,
    deadlines: BTreeSet<(Monotonic, CommandId)>,
    orders: BTreeMap<OrderId, Waiting>,
    finished: u64,
    paused: ChunkMap<Monotonic>,
    /// Chunks whose repair has failed since it last succeeded.
    failures: ChunkMap<RepairFailure>,
    /// Copies that their chunkservers were asked to look at lately.
    checked: BTreeMap<(ChunkId, u16), Monotonic>,
    /// Servers that were told to make a copy and have not answered, also when that took too long.
    making: BTreeSet<(ChunkId, ServerId)>,
    pub(super) repairs_running: u64,
}

impl Orders {
    /// Numbers differ from those before a restart, so that a result cannot be taken for another command's.
    pub(super) fn starting_at(first: u64) -> Orders {
        Orders { next_command: first, ..Orders::default() }
    }

    /// Whether something failed with this chunk a moment ago.
    pub(super) fn is_paused(&self, chunk: ChunkId) -> bool {
        self.paused.contains_key(&chunk)
    }

    /// What stood in the way of the chunk's repair the last time, if anything did.
    pub(super) fn failure(&self, chunk: ChunkId) -> Option<&RepairFailure> {
        self.failures.get(&chunk)
    }

    /// Chunks whose repair has failed.
    pub(super) fn failing(&self) -> impl Iterator<Item = (ChunkId, &RepairFailure)> {
        self.failures.iter().map(|(chunk, failure)| (*chunk, failure))
    }

    /// The chunk has what it needs, or got a copy.
    pub(super) fn forget_failure(&mut self, chunk: ChunkId) {
        if !self.failures.is_empty() {
            self.failures.remove(&chunk);
        }
    }

    /// Whether a copy may yet be made on the volume, waited for or not.
    pub(super) fn may_arrive(&self, slot: u16) -> bool {
        let makes = |pending: &Pending| {
            pending.slot == slot && matches!(pending.purpose, Purpose::Repair { .. } | Purpose::Replicate { .. })
        };
        self.commands.values().any(makes)
    }

    /// The servers that may yet make a copy of the chunk, waited for or not.
    pub(super) fn making(&self, chunk: ChunkId) -> impl Iterator<Item = ServerId> {
        let all = (chunk, ServerId::new(0))..=(chunk, ServerId::new(u64::MAX));
        self.making.range(all).map(|(_, server)| *server)
    }

    fn begin_order(&mut self) -> OrderId {
        self.next_order += 1;
        let order = OrderId(self.next_order);
        self.orders.insert(order, Waiting::default());
        order
    }
}

impl Chunks {
    /// Orders these copies to be raised. If any of them fails, the version `to` must not be used: the failed copy may
    /// have taken it after all. Raise those that succeeded once more, to a higher version.
    pub fn order_raise(
        &mut self,
        chunk: ChunkId,
        from: ChunkVersion,
        to: ChunkVersion,
        places: &[Place],
        of: RaiseOf,
    ) -> OrderId {
        let order = self.orders.begin_order();
        for place in places {
            let command = Order::Raise { volume: place.volume, chunk, from, to, of };
            let deadline = self.config.order_deadline;
            self.issue_for(order, place, chunk, Purpose::Raise { order }, command, deadline);
        }
        order
    }

    /// Orders a copy to be made at `target`, whose server must not have one already.
    pub fn order_replicate(
        &mut self,
        chunk: ChunkId,
        version: ChunkVersion,
        sources: &[Place],
        target: &Place,
    ) -> OrderId {
        let order = self.orders.begin_order();
        let command = Order::Replicate { volume: target.volume, chunk, version, sources: sources.to_vec() };
        let deadline = self.config.replicate_deadline;
        self.issue_for(order, target, chunk, Purpose::Replicate { order, version }, command, deadline);
        order
    }

    /// What became of an order, once all its commands are answered, failed or too late. Asked once: the answer is forgotten.
    pub fn order_outcome(&mut self, order: OrderId) -> Option<Outcome> {
        if self.orders.orders.get(&order).is_some_and(|waiting| waiting.left > 0) {
            return None;
        }
        Some(self.orders.orders.remove(&order).map(|waiting| waiting.outcome).unwrap_or_default())
    }

    /// Nobody will ask what became of the order.
    pub fn abandon_order(&mut self, order: OrderId) {
        self.orders.orders.remove(&order);
    }

    /// How many orders nobody has asked about yet.
    #[cfg(test)]
    pub(crate) fn orders_kept(&self) -> usize {
        self.orders.orders.len()
    }

    /// Rises whenever an order of the engine is finished.
    pub fn orders_finished(&self) -> u64 {
        self.orders.finished
    }

    fn issue_for(
        &mut self,
        id: OrderId,
        place: &Place,
        chunk: ChunkId,
        purpose: Purpose,
        order: Order,
        deadline: Duration,
    ) {
        if let Some(waiting) = self.orders.orders.get_mut(&id) {
            waiting.left += 1;
        }
        match self.servers.slot(place.volume) {
            Some(slot) => self.issue(slot, chunk, purpose, order, deadline),
            None => self.answer(id, place.clone(), Err("the volume is not known".to_owned())),
        }
    }

    /// Sends a command, or lets it fail at once where its server is away.
    pub(super) fn issue(&mut self, slot: u16, chunk: ChunkId, purpose: Purpose, order: Order, deadline: Duration) {
        let Some(place) = self.servers.place(slot) else { return };
        let id = CommandId(self.orders.next_command);
        self.orders.next_command += 1;
        let deadline = self.now + deadline;
        let server = place.server;
        let pending = Pending { purpose, server, place, slot, chunk, deadline, expired: false };
        self.orders.repairs_running += u64::from(matches!(pending.purpose, Purpose::Repair { .. }));
        if let Purpose::Repair { .. } | Purpose::Replicate { .. } = pending.purpose {
            self.orders.making.insert((chunk, server));
        }
        self.orders.commands.insert(id, pending);
        self.orders.deadlines.insert((deadline, id));
        if !self.servers.send(server, Command { id, order }) {
            self.fail(id, "its chunkserver is away");
        }
    }

    /// Asks the volume which version of the chunk it has.
    pub(super) fn probe(&mut self, slot: u16, chunk: ChunkId, version: u32) {
        let version = ChunkVersion::new(version);
        let volume = self.servers.volume(slot).id;
        let order = Order::Raise { volume, chunk, from: version, to: version, of: RaiseOf::Sound };
        let deadline = self.config.order_deadline;
        self.issue(slot, chunk, Purpose::Probe, order, deadline);
    }

    /// Has the copy compared with its hashes by its own chunkserver, whose word counts. Not again for a while.
    pub(super) fn check_copy(&mut self, slot: u16, chunk: ChunkId) -> bool {
        let known = self.orders.checked.get(&(chunk, slot)).is_some_and(|when| self.now.since(*when) < CHECK_AGAIN);
        if known || self.orders.checked.len() >= CHECKED_MAX {
            return false;
        }
        self.orders.checked.insert((chunk, slot), self.now);
        let order = Order::Check { volume: self.servers.volume(slot).id, chunk };
        self.issue(slot, chunk, Purpose::Check, order, self.config.order_deadline);
        true
    }

    /// The bytes that a copy was to be made from were wrong: which of the good copies is meant, their chunkservers find out.
    fn check_sources(&mut self, chunk: ChunkId) {
        let Some(entry) = self.entries.get(&chunk) else { return };
        let good = entry.copies().iter().filter(|copy| self.is_live_and_good(entry, copy));
        let slots: Vec<u16> = good.map(|copy| copy.slot).collect();
        for slot in slots {
            self.check_copy(slot, chunk);
        }
    }

    /// A chunkserver answered a command.
    pub fn command_result(&mut self, now: Monotonic, server: ServerId, stream: StreamId, result: &CommandResult) {
        self.now = self.now.max(now);
        let known = self.orders.commands.get(&result.command).is_some_and(|pending| pending.server == server);
        if !known || !self.servers.is_stream_of(server, stream) {
            return;
        }
        let Some(pending) = self.take(result.command) else { return };
        if !pending.expired {
            self.release_limits(&pending);
        }
        self.learn(&pending, result);
        if !pending.expired {
            if let Purpose::Raise { order } = pending.purpose
                && !result.done
                && result.errno == ENOENT
                && let Some(waiting) = self.orders.orders.get_mut(&order)
            {
                waiting.outcome.absent += 1;
            }
            let reason = format!("{} (errno {})", result.message, result.errno);
            let outcome = if result.done { Ok(result.length) } else { Err(reason) };
            self.conclude(&pending, outcome);
            if matches!(pending.purpose, Purpose::Repair { .. }) && !result.done && result.errno == EIO {
                self.check_sources(pending.chunk);
            }
        }
        self.refresh(pending.chunk);
        if !self.waits_for_more_deletions(&pending) {
            self.schedule();
        }
    }

    /// Deletions are ordered many at a time: every order on its own would wake threads here and at the chunkserver, and
    /// most come while clients remove files. What is left is ordered with the next tick.
    fn waits_for_more_deletions(&self, done: &Pending) -> bool {
        let deletes = matches!(done.purpose, Purpose::Delete | Purpose::DeleteOrphan);
        deletes && self.servers.volume(done.slot).deletions > self.config.deletions_per_volume / 2
    }

    /// Forgets a command.
    fn take(&mut self, id: CommandId) -> Option<Pending> {
        let pending = self.orders.commands.remove(&id)?;
        self.orders.deadlines.remove(&(pending.deadline, id));
        self.orders.making.remove(&(pending.chunk, pending.server));
        Some(pending)
    }

    fn fail(&mut self, id: CommandId, reason: &str) {
        let Some(pending) = self.take(id) else { return };
        if !pending.expired {
            self.release_limits(&pending);
            self.conclude(&pending, Err(reason.to_owned()));
        }
        if let Purpose::Delete = pending.purpose
            && let Some(copy) = self.entries.get_mut(&pending.chunk).and_then(|entry| entry.copy_on_mut(pending.slot))
        {
            copy.flags.clear(CopyFlags::DELETING);
        }
        self.refresh(pending.chunk);
    }

    /// The stream of the server ended: its commands will never be answered.
    pub(super) fn fail_commands_of(&mut self, server: ServerId) {
        let of_server = self.orders.commands.iter().filter(|(_, pending)| pending.server == server);
        let ids: Vec<CommandId> = of_server.map(|(id, _)| *id).collect();
        for id in ids {
            self.expect_copy(id);
            self.fail(id, "its chunkserver went away");
        }
    }

    /// A copy that was ordered from a server which went away may be there: its next inventory tells. Until then it is known
    /// as a copy on a volume that does not count.
    fn expect_copy(&mut self, id: CommandId) {
        let Some(pending) = self.orders.commands.get(&id) else { return };
        let (slot, chunk) = (pending.slot, pending.chunk);
        let (Purpose::Repair { version, .. } | Purpose::Replicate { version, .. }) = pending.purpose else { return };
        let Some(entry) = self.entries.get_mut(&chunk).filter(|entry| entry.copy_on(slot).is_none()) else { return };
        entry.push_copy(HeldCopy { version: version.get(), slot, flags: CopyFlags::NONE });
        self.servers.add_chunk(slot, chunk, entry.bytes());
    }

    /// Ends the wait for commands that took too long. They stay known for a late result.
    pub(super) fn expire_commands(&mut self) {
        while let Some((deadline, id)) = self.orders.deadlines.first().copied().filter(|(when, _)| *when <= self.now) {
            self.orders.deadlines.remove(&(deadline, id));
            let Some(mut pending) = self.orders.commands.remove(&id) else { continue };
            self.release_limits(&pending);
            self.conclude(&pending, Err("it was not carried out in time".to_owned()));
            pending.expired = true;
            let chunk = pending.chunk;
            self.orders.commands.insert(id, pending);
            self.refresh(chunk);
        }
        let now = self.now;
        self.orders.paused.retain(|_, until| *until > now);
        self.orders.checked.retain(|_, when| now.since(*when) < CHECK_AGAIN);
    }

    fn release_limits(&mut self, pending: &Pending) {
        match pending.purpose {
            Purpose::Delete | Purpose::DeleteOrphan => self.servers.volume_mut(pending.slot).deletions -= 1,
            Purpose::Repair { source, .. } => {
                self.orders.repairs_running -= 1;
                self.servers.volume_mut(source).repairs -= 1;
                self.servers.volume_mut(pending.slot).repairs -= 1;
            }
            Purpose::Replicate { .. } | Purpose::Raise { .. } | Purpose::Probe | Purpose::Check => {}
        }
    }

    /// What the result says about the copy.
    fn learn(&mut self, pending: &Pending, result: &CommandResult) {
        let version = result.version.get();
        match pending.purpose {
            Purpose::Delete if result.done || version == 0 && result.errno == 0 => {
                self.drop_copy(pending.slot, pending.chunk);
            }
            Purpose::Delete => {
                if let Some(copy) = self.entries.get_mut(&pending.chunk).and_then(|e| e.copy_on_mut(pending.slot)) {
                    copy.flags.clear(CopyFlags::DELETING);
                    if version != 0 && copy.version == 0 {
                        // It was unreadable, and is a copy again.
                        copy.flags.clear(CopyFlags::BAD);
                    }
                    // With 0 the result says nothing about the version; a file that is unreadable is reported as such.
                    if version != 0 {
                        copy.version = version;
                    }
                }
                if version == 0 && result.errno == ENOENT {
                    self.drop_copy(pending.slot, pending.chunk);
                }
            }
            Purpose::DeleteOrphan if result.done || version == 0 && result.errno == ENOENT => {
                self.drop_copy(pending.slot, pending.chunk);
            }
            Purpose::DeleteOrphan | Purpose::Check => {}
            Purpose::Repair { .. } | Purpose::Replicate { .. } if !result.done => {}
            Purpose::Repair { version: made, .. } | Purpose::Replicate { version: made, .. } => {
                self.set_copy(pending.slot, pending.chunk, if version == 0 { made.get() } else { version });
            }
            // Also one that a writer was granted and the volume lost: it would be raised for ever.
            Purpose::Raise { .. } if version == 0 && result.errno == ENOENT => {
                self.drop_copy(pending.slot, pending.chunk);
            }
            Purpose::Raise { .. } | Purpose::Probe if version == 0 => {}
            Purpose::Raise { .. } if result.done => {
                self.is_not_astray(pending.slot, pending.chunk, EndOfAstray::UsedAsItIs);
                self.set_copy(pending.slot, pending.chunk, version);
            }
            Purpose::Raise { .. } | Purpose::Probe => self.set_version(pending.slot, pending.chunk, version),
        }
    }

    /// Tells whoever waits, unlocks the chunk, and leaves it alone for a while after a failure.
    fn conclude(&mut self, pending: &Pending, outcome: Result<u32, String>) {
        if let Purpose::Repair { .. } = pending.purpose
            && let Some(entry) = self.entries.get_mut(&pending.chunk)
        {
            entry.unlock_after_repair();
        }
        match pending.purpose {
            Purpose::Raise { order } | Purpose::Replicate { order, .. } => {
                self.answer(order, pending.place.clone(), outcome);
            }
            Purpose::Repair { .. } | Purpose::Delete => {
                let Err(reason) = outcome else { return };
                self.orders.paused.insert(pending.chunk, self.now + PAUSE_AFTER_FAILURE);
                if let Purpose::Repair { .. } = pending.purpose {
                    self.balance.note_failed(pending.chunk);
                    self.note_repair_failed(pending, &reason);
                    let (chunk, place) = (pending.chunk, &pending.place);
                    let what = format!(
                        "chunk {chunk} was not copied to volume {} of chunkserver {}",
                        place.volume, place.server
                    );
                    self.notice(Severity::Warning, format!("{what}: {reason}; it is tried again"));
                }
            }
            Purpose::DeleteOrphan | Purpose::Probe | Purpose::Check => {}
        }
    }

    fn note_repair_failed(&mut self, pending: &Pending, reason: &str) {
        let host = self.servers.servers.get(&pending.server).map_or("", |server| &server.host);
        let reason = format!("to {} on {host}: {reason}", self.servers.volume(pending.slot).report.path);
        if let Some(failure) = self.orders.failures.get_mut(&pending.chunk) {
            failure.times = failure.times.saturating_add(1);
            failure.reason = reason;
        } else if self.orders.failures.len() < CHECKED_MAX {
            self.orders.failures.insert(pending.chunk, RepairFailure { times: 1, reason });
        }
    }

    fn answer(&mut self, order: OrderId, place: Place, outcome: Result<u32, String>) {
        let Some(waiting) = self.orders.orders.get_mut(&order) else { return };
        waiting.left = waiting.left.saturating_sub(1);
        match outcome {
            Ok(length) => waiting.outcome.done.push((place, length)),
            Err(reason) => waiting.outcome.failed.push((place, reason)),
        }
        if waiting.left == 0 {
            self.orders.finished += 1;
        }
    }

    /// The copy is there, checked, in this version.
    fn set_copy(&mut self, slot: u16, chunk: ChunkId, version: u32) {
        self.orders.forget_failure(chunk);
        self.is_not_astray(slot, chunk, EndOfAstray::Replaced);
        self.set_version(slot, chunk, version);
        if let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) {
            for flag in [CopyFlags::SUSPECT, CopyFlags::BAD, CopyFlags::DELETING] {
                copy.flags.clear(flag);
            }
        }
    }

    fn set_version(&mut self, slot: u16, chunk: ChunkId, version: u32) {
        let Some(entry) = self.entries.get_mut(&chunk) else { return };
        match entry.copy_on_mut(slot) {
            Some(copy) => copy.version = version,
            None => entry.push_copy(HeldCopy { version, slot, flags: CopyFlags::NONE }),
        }
        self.servers.add_chunk(slot, chunk, entry.bytes());
    }

    /// There is no such copy any more.
    pub(super) fn drop_copy(&mut self, slot: u16, chunk: ChunkId) {
        let bytes = self.entries.get(&chunk).map_or(0, Entry::bytes);
        self.servers.remove_chunk(slot, chunk, bytes);
        self.balance.note_dropped(slot, chunk);
        self.is_not_astray(slot, chunk, EndOfAstray::Replaced);
        self.orphans.remove(&(slot, chunk));
        let removed = self.entries.get_mut(&chunk).and_then(|entry| entry.remove_copy(slot));
        if removed.is_some_and(|copy| copy.flags.has(CopyFlags::GRANTED)) {
            self.servers.grants_ended(&[slot]);
        }
        self.refresh(chunk);
    }
}

const ENOENT: u32 = 2;
const EIO: u32 = 5;
