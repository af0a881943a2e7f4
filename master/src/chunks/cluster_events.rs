//! What chunkservers say: registrations, inventories, heartbeats, bad copies, and their silence.
//!
//! Every event names its stream; what comes from a stream that was replaced or ended is ignored.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};

use super::Chunks;
use super::deletion::Orphan;
use super::index::{ChunkSet, CopyFlags, Entry, HeldCopy};
use super::servers::{Inventory, Signal, Traffic};
use super::types::{
    Command, CopyFault, Held, Registration, RegistrationRefusal, Severity, StreamId, VolumeReport, VolumeState,
};

/// Volumes a master can number.
const VOLUMES_MAX: usize = 60_000;
/// An inventory that does not begin is asked for again after this long.
const INVENTORY_ASK_AGAIN: Duration = Duration::from_secs(15);

impl Chunks {
    /// A server that was known before the master started, so that its absence is seen.
    pub fn know_server(&mut self, registration: Registration) {
        let server = self.servers.server_mut(registration.server);
        server.host = registration.host;
        server.address = Arc::from(registration.address);
        server.version = registration.version;
        for mut report in registration.volumes {
            if self.servers.volume_count() < VOLUMES_MAX {
                report.free = 0;
                self.servers.adopt(registration.server, report);
            }
        }
    }

    /// A chunkserver connected. An earlier stream of the same server is void from now on. The signal is raised whenever
    /// there are commands to take. Gives the volumes that are refused because another server that is connected has them: a
    /// volume in dispute is no reason to do without the others.
    pub fn register(
        &mut self,
        now: Monotonic,
        mut registration: Registration,
        stream: StreamId,
        signal: Signal,
    ) -> Result<Vec<VolumeId>, RegistrationRefusal> {
        self.now = self.now.max(now);
        let disputed = self.check_registration(&registration)?;
        registration.volumes.retain(|report| !disputed.contains(&report.volume));
        let id = registration.server;
        self.end_stream(id);
        self.notice(Severity::Information, format!("chunkserver {id} on {} has connected", registration.host));
        let server = self.servers.server_mut(id);
        server.host = registration.host;
        server.address = Arc::from(registration.address);
        server.version = registration.version;
        server.stream = Some(stream);
        server.signal = signal;
        server.last_heard = Some(now);
        server.registered = Some(now);
        server.leaving = false;
        server.stopped = None;
        let named: Vec<VolumeId> = registration.volumes.iter().map(|report| report.volume).collect();
        for report in registration.volumes {
            let slot = self.servers.adopt(id, report);
            let volume = self.servers.volume_mut(slot);
            volume.inventory = Inventory::Awaited;
            // It comes unasked after a registration.
            volume.inventory_asked = Some(now);
            self.begin_judging(slot);
        }
        self.note_unnamed_volumes(id, &named);
        Ok(disputed)
    }

    fn check_registration(&mut self, registration: &Registration) -> Result<Vec<VolumeId>, RegistrationRefusal> {
        // Taking turns with it, each would serve writes that the other's copies do not get.
        let known = self.servers.servers.get(&registration.server).filter(|server| server.stream.is_some());
        if let Some(server) = known.filter(|server| *server.address != *registration.address) {
            let (address, host) = (Arc::clone(&server.address), server.host.clone());
            return Err(RegistrationRefusal::ConnectedElsewhere { server: server.id, address, host });
        }
        let duplicates = registration.volumes.iter().filter_map(|report| {
            let volume = self.servers.volume(self.servers.slot(report.volume)?);
            let holder = self.servers.servers.get(&volume.server)?;
            let elsewhere = holder.id != registration.server && holder.stream.is_some();
            elsewhere.then(|| (report.volume, report.path.clone(), holder.id, holder.host.clone()))
        });
        let duplicates: Vec<_> = duplicates.collect();
        if !duplicates.is_empty() && duplicates.len() == registration.volumes.len() {
            return Err(RegistrationRefusal::DuplicateVolumes(duplicates));
        }
        let known = self.servers.volume_count();
        if known + registration.volumes.len() > VOLUMES_MAX {
            return Err(RegistrationRefusal::TooManyVolumes(known));
        }
        let volumes = duplicates.iter().map(|(volume, ..)| *volume).collect();
        for (volume, path, holder, host) in duplicates {
            let (server, here) = (registration.server, &registration.host);
            let what = format!("volume {volume} at {path} of chunkserver {server} on {here} is refused");
            let why =
                format!("chunkserver {holder} on {host} has it; end one of the two, or correct the copy's identity");
            self.notice(Severity::Error, format!("{what}: {why}"));
        }
        Ok(volumes)
    }

    fn note_unnamed_volumes(&mut self, id: ServerId, named: &[VolumeId]) {
        for slot in self.servers.server_mut(id).slots.clone() {
            let volume = self.servers.volume_mut(slot);
            if !named.contains(&volume.id) {
                volume.named = false;
                volume.report.state = VolumeState::Out;
                volume.report.reason = "its chunkserver did not name it when it registered".to_owned();
                volume.inventory = Inventory::Awaited;
            }
        }
    }

    /// Part of the list of all copies on a volume. The volume counts once the last part is there.
    pub fn inventory(
        &mut self,
        now: Monotonic,
        server: ServerId,
        stream: StreamId,
        volume: VolumeId,
        held: &[Held],
        part: InventoryPart,
    ) {
        self.now = self.now.max(now);
        let Some(slot) = self.volume_of(server, stream, volume) else { return };
        self.heard(server);
        let state = &mut self.servers.volume_mut(slot).inventory;
        if part.first {
            *state = Inventory::Receiving(ChunkSet::default());
            self.tell_astray_anew(slot);
        }
        let state = &mut self.servers.volume_mut(slot).inventory;
        let Inventory::Receiving(seen) = state else { return };
        seen.extend(held.iter().map(|held| held.chunk));
        for held in held {
            self.hold(slot, held);
        }
        if !self.servers.volume(slot).was_inventoried {
            self.note_left_open(held);
        }
        if part.last {
            self.end_inventory(slot);
        }
    }

    /// From before the start of this master, which knows the writers since.
    fn note_left_open(&mut self, held: &[Held]) {
        for held in held.iter().filter(|held| held.open) {
            let unknown_writer = !self.writers.contains_key(&held.chunk);
            let of_settled = |entry: &&Entry| !entry.is_doomed() && entry.is_settled();
            if unknown_writer && self.entries.get(&held.chunk).filter(of_settled).is_some() {
                self.left_open.insert(held.chunk);
            }
        }
    }

    /// The slot of the volume, if this stream may speak for it.
    fn volume_of(&self, server: ServerId, stream: StreamId, volume: VolumeId) -> Option<u16> {
        let slot = self.servers.slot(volume)?;
        let speaks = self.servers.is_stream_of(server, stream) && self.servers.volume(slot).server == server;
        speaks.then_some(slot)
    }

    fn heard(&mut self, server: ServerId) {
        let now = self.now;
        self.servers.server_mut(server).last_heard = Some(now);
    }

    fn hold(&mut self, slot: u16, held: &Held) {
        let now = self.now;
        let version = held.version.get();
        let unknown = Orphan { version, since: now };
        let Some(entry) = self.entries.get_mut(&held.chunk) else {
            self.orphans.entry((slot, held.chunk)).or_insert(unknown).version = version;
            return;
        };
        if entry.copy_on(slot).is_none() {
            entry.push_copy(HeldCopy { version, slot, flags: CopyFlags::NONE });
        }
        let Some(copy) = entry.copy_on_mut(slot) else { return };
        let newly_unreadable = held.unreadable && !(copy.version == 0 && copy.flags.has(CopyFlags::BAD));
        let newly_bad = held.bad && !(copy.version == version && copy.flags.has(CopyFlags::BAD));
        if copy.version != version {
            copy.version = version;
            copy.flags.clear(CopyFlags::BAD);
        }
        if held.unreadable || held.bad {
            copy.flags.set(CopyFlags::BAD);
        }
        if held.suspect {
            copy.flags.set(CopyFlags::SUSPECT);
        } else {
            copy.flags.clear(CopyFlags::SUSPECT);
        }
        let copy = *copy;
        if self.servers.volume(slot).astray.is_some() {
            self.flag_astray(slot, held.chunk);
        }
        let Some(entry) = self.entries.get_mut(&held.chunk) else { return };
        if entry.is_anomaly(&copy) {
            let newest = self.newer.entry(held.chunk).or_default();
            *newest = version.max(*newest);
            self.orphans.entry((slot, held.chunk)).or_insert(unknown).version = version;
        } else {
            self.orphans.remove(&(slot, held.chunk));
        }
        let bytes = entry.bytes();
        self.servers.add_chunk(slot, held.chunk, bytes);
        if u64::from(held.length) > bytes {
            self.has_length(held.chunk, held.length);
        }
        self.refresh(held.chunk);
        if newly_unreadable {
            self.notice_unreadable(slot, held.chunk);
        } else if newly_bad {
            self.notice_bad(slot, held.chunk);
        }
    }

    fn notice_unreadable(&mut self, slot: u16, chunk: ChunkId) {
        let volume = self.servers.volume(slot);
        let what = format!(
            "the file of chunk {chunk} on {} of chunkserver {} is unreadable",
            volume.report.path, volume.server
        );
        let then = "another copy replaces it where there is one; the chunkserver's log says what is wrong with it";
        self.notice(Severity::Warning, format!("{what}: {then}"));
    }

    fn notice_bad(&mut self, slot: u16, chunk: ChunkId) {
        let volume = self.servers.volume(slot);
        let what = format!("the copy of chunk {chunk} on {} of chunkserver {}", volume.report.path, volume.server);
        self.notice(
            Severity::Warning,
            format!(
                "{what} is marked bad: a write, a sync or a check of it failed before; another copy replaces it where there is one"
            ),
        );
    }

    /// Everything that was not named is not there; what is there counts.
    fn end_inventory(&mut self, slot: u16) {
        let volume = self.servers.volume_mut(slot);
        let Inventory::Receiving(seen) = std::mem::replace(&mut volume.inventory, Inventory::Complete) else { return };
        volume.was_inventoried = true;
        // The report that came with the registration counts what only now is known one by one.
        volume.bytes_at_report = volume.bytes;
        let missing: Vec<ChunkId> = volume.chunks.iter().filter(|chunk| !seen.contains(*chunk)).copied().collect();
        for chunk in missing {
            let copy = self.entries.get(&chunk).and_then(|entry| entry.copy_on(slot));
            // The writer may create the copy of a new chunk, or the copy may have been listed before it did.
            if !copy.is_some_and(|copy| copy.flags.has(CopyFlags::GRANTED)) {
                self.drop_copy(slot, chunk);
            }
        }
        let of_volume = self.orphans.range((slot, ChunkId::new(0))..=(slot, ChunkId::new(u64::MAX)));
        let gone: Vec<(u16, ChunkId)> = of_volume.map(|(key, _)| *key).filter(|key| !seen.contains(&key.1)).collect();
        for key in gone {
            self.orphans.remove(&key);
        }
        self.report_orphans(slot);
        self.update_counting(slot);
        if self.servers.volume(slot).counts {
            self.seek_on(slot);
        }
        self.schedule();
    }

    fn report_orphans(&mut self, slot: u16) {
        let of_volume = self.orphans.range((slot, ChunkId::new(0))..=(slot, ChunkId::new(u64::MAX)));
        let (mut unknown, mut newer, mut beyond, mut passed_over) = (0_u64, 0_u64, 0_u64, 0_u64);
        for ((_, chunk), _) in of_volume {
            match self.entries.contains_key(chunk) {
                true => newer += 1,
                false if *chunk >= self.next_chunk => beyond += 1,
                false if !self.was_given_out(*chunk) => passed_over += 1,
                false => unknown += 1,
            }
        }
        let volume = self.servers.volume(slot);
        let (path, server, days) =
            (volume.report.path.clone(), volume.server, self.config.orphan_grace.as_secs() / 86_400);
        let older = "this metadata: it seems to come from an older export";
        if newer > 0 {
            let what = format!("{path} of chunkserver {server} holds {newer} copies that are newer than {older}");
            self.notice(Severity::Error, format!("{what}; their chunks go on with the newest"));
        }
        if beyond > 0 {
            let what =
                format!("{path} of chunkserver {server} holds {beyond} copies of chunks with ids beyond {older}");
            self.notice(Severity::Error, format!("{what}; they are kept"));
        }
        if passed_over > 0 {
            self.notice(Severity::Warning, format!(
                "{path} of chunkserver {server} holds {passed_over} copies of chunks that this metadata has not given out: a power cut of the \
                 master took their records, or it comes from an older export; they are kept"));
        }
        if unknown > 0 {
            self.notice(Severity::Warning, format!(
                "{path} of chunkserver {server} holds {unknown} copies of chunks that are not known; they are deleted after {days} days"));
        }
    }

    /// Decides anew whether the volume counts; if that changed, brings all its chunks in step.
    fn update_counting(&mut self, slot: u16) {
        let volume = self.servers.volume(slot);
        let connected = self.servers.servers.get(&volume.server).is_some_and(|server| server.stream.is_some());
        let complete =
            matches!(volume.inventory, Inventory::Complete) || volume.counts && connected && self.is_receiving(slot);
        let counts = connected && complete && volume.report.state.is_readable() && !volume.forgotten;
        if counts == volume.counts {
            return;
        }
        let now = self.now;
        let volume = self.servers.volume_mut(slot);
        volume.counts = counts;
        volume.vanished = (!counts).then_some(now);
        self.refresh_volume(slot);
        self.reconsider_repairs();
    }

    /// A volume that counts goes on doing so while its inventory is taken once more.
    fn is_receiving(&self, slot: u16) -> bool {
        matches!(self.servers.volume(slot).inventory, Inventory::Receiving(_))
    }

    pub(super) fn refresh_volume(&mut self, slot: u16) {
        let chunks: Vec<ChunkId> = self.servers.volume(slot).chunks.iter().copied().collect();
        for chunk in chunks {
            self.refresh(chunk);
        }
    }

    /// A sign of life with the state of the volumes and what was served since the last one. Returns the volumes whose inventory is to be asked for.
    pub fn heartbeat(
        &mut self,
        now: Monotonic,
        server: ServerId,
        stream: StreamId,
        reports: Vec<VolumeReport>,
        traffic: Traffic,
    ) -> Vec<VolumeId> {
        self.now = self.now.max(now);
        if !self.servers.is_stream_of(server, stream) {
            return Vec::new();
        }
        self.heard(server);
        self.servers.server_mut(server).traffic += traffic;
        let mut wanted = Vec::new();
        for report in reports {
            let slot = self.volume_of(server, stream, report.volume);
            let Some(slot) = slot.or_else(|| self.take_over(server, &report)) else { continue };
            self.take_report(slot, report);
            let volume = self.servers.volume_mut(slot);
            let asked = volume.inventory_asked.is_some_and(|asked| now.since(asked) < INVENTORY_ASK_AGAIN);
            if volume.report.state.is_readable() && matches!(volume.inventory, Inventory::Awaited) && !asked {
                volume.inventory_asked = Some(now);
                wanted.push(volume.id);
            }
        }
        wanted
    }

    /// A volume that its server did not name when it registered, or that another had then: it is taken if nobody who is
    /// connected has it now.
    fn take_over(&mut self, server: ServerId, report: &VolumeReport) -> Option<u16> {
        let holder = self.servers.slot(report.volume).map(|slot| self.servers.volume(slot).server);
        let is_held =
            holder.and_then(|holder| self.servers.servers.get(&holder)).is_some_and(|one| one.stream.is_some());
        if is_held || self.servers.volume_count() >= VOLUMES_MAX {
            return None;
        }
        let slot = self.servers.adopt(server, report.clone());
        let volume = self.servers.volume_mut(slot);
        volume.inventory = Inventory::Awaited;
        volume.inventory_asked = None;
        self.begin_judging(slot);
        self.update_counting(slot);
        Some(slot)
    }

    fn take_report(&mut self, slot: u16, report: VolumeReport) {
        let volume = self.servers.volume_mut(slot);
        volume.bytes_at_report = volume.bytes;
        let before = std::mem::replace(&mut volume.report, report);
        let (state, server) = (volume.report.state, volume.server);
        self.judge_epoch(slot);
        let volume = self.servers.volume_mut(slot);
        if before.state == state {
            return;
        }
        if state == VolumeState::Out {
            volume.inventory = Inventory::Awaited;
            volume.inventory_asked = None;
        }
        let (path, reason) = (volume.report.path.clone(), volume.report.reason.clone());
        let severity = if state == VolumeState::InService { Severity::Information } else { Severity::Warning };
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.notice(severity, format!("volume {path} of chunkserver {server} is now {}{why}", state.text()));
        self.update_counting(slot);
        // Full and in service differ for new chunks only: a volume at its reserve goes to and fro between them.
        if before.state.is_writable() != state.is_writable() {
            self.refresh_volume(slot);
        }
    }

    /// The server said that it is about to stop.
    pub fn leaving(&mut self, server: ServerId, stream: StreamId) {
        if self.servers.is_stream_of(server, stream) {
            self.servers.server_mut(server).leaving = true;
        }
    }

    /// The stream ended. Returns whether it still was the server's.
    pub fn disconnected(&mut self, now: Monotonic, server: ServerId, stream: StreamId) -> bool {
        self.now = self.now.max(now);
        if !self.servers.is_stream_of(server, stream) {
            return false;
        }
        let known = self.servers.server_mut(server);
        let (host, leaving) = (known.host.clone(), known.leaving);
        let (severity, how) = match leaving {
            true => (Severity::Information, "has stopped"),
            false => (Severity::Warning, "is away: its connection ended"),
        };
        self.notice(severity, format!("chunkserver {server} on {host} {how}"));
        self.end_stream(server);
        true
    }

    fn end_stream(&mut self, id: ServerId) {
        let Some(server) = self.servers.servers.get_mut(&id).filter(|server| server.stream.is_some()) else { return };
        server.stream = None;
        server.stopped = server.leaving.then_some(self.now);
        server.outbox.clear();
        server.signal.raise();
        let slots = server.slots.clone();
        self.fail_commands_of(id);
        for slot in slots {
            self.servers.volume_mut(slot).inventory = Inventory::Awaited;
            self.update_counting(slot);
        }
    }

    /// A copy turned out to be bad. A reader's word takes it out of use only if there is another good copy; else its chunkserver has
    /// to look at it. Version 0 in its
    /// chunkserver's words: not even the file's header can be read.
    pub fn bad_copy(&mut self, volume: VolumeId, chunk: ChunkId, version: ChunkVersion, fault: &CopyFault) {
        let Some(slot) = self.servers.slot(volume) else { return };
        if version.get() == 0 && matches!(fault, CopyFault::Found(_)) {
            let unreadable =
                Held { chunk, version, length: 0, open: false, suspect: false, unreadable: true, bad: false };
            return self.hold(slot, &unreadable);
        }
        let Some(entry) = self.entries.get(&chunk) else { return };
        let Some(copy) = entry.copy_on(slot).filter(|copy| copy.version == version.get()) else { return };
        let already = copy.flags.has(CopyFlags::BAD);
        let others = usize::from(self.live_servers(entry)) > usize::from(self.is_live_and_good(entry, copy));
        let (who, reason, believed) = match fault {
            CopyFault::Found(reason) => ("its chunkserver", reason, true),
            CopyFault::Reported(reason) => ("a reader", reason, others),
        };
        if already {
            return;
        }
        let (path, server) = (self.servers.volume(slot).report.path.clone(), self.servers.volume(slot).server);
        if !believed {
            if self.check_copy(slot, chunk) {
                let what = format!(
                    "a reader found the only good copy of chunk {chunk}, on {path} of chunkserver {server}, to be bad"
                );
                self.notice(Severity::Warning, format!("{what}: {reason}; its chunkserver is asked to check it"));
            }
            return;
        }
        if let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) {
            copy.flags.set(CopyFlags::BAD);
        }
        let what =
            format!("{who} found the copy of chunk {chunk} on {path} of chunkserver {server} to be bad: {reason}");
        if others {
            self.notice(Severity::Warning, format!("{what}; another copy replaces it"));
        } else {
            self.notice(Severity::Error, format!("{what}; no other good one is here: `rfs status` names the file"));
        }
        self.refresh(chunk);
    }

    /// Time passed: servers that are silent are away, orders that take too long failed, and what can be done now is begun.
    pub fn tick(&mut self, now: Monotonic) {
        self.now = self.now.max(now);
        self.expire_servers();
        self.expire_commands();
        self.schedule_orphans();
        self.watch_drains();
        self.pace.look(self.now, self.counters.left());
        self.asked_back.retain(|_, asked| self.now.since(*asked).as_secs() < 60);
        self.schedule();
    }

    fn expire_servers(&mut self) {
        let expiry = self.config.server_expiry;
        let silent = self.servers.servers.values().filter(|server| {
            server.stream.is_some() && server.last_heard.is_none_or(|heard| self.now.since(heard) >= expiry)
        });
        let silent: Vec<(ServerId, String)> = silent.map(|server| (server.id, server.host.clone())).collect();
        for (server, host) in silent {
            let expiry_s = expiry.as_secs_f32();
            let what = format!("chunkserver {server} on {host} is away: nothing was heard from it for {expiry_s} s");
            self.notice(Severity::Warning, what);
            self.end_stream(server);
        }
    }

    pub(super) fn schedule(&mut self) {
        self.schedule_repairs();
        self.schedule_moves();
        self.schedule_balance();
        self.schedule_deletions();
    }

    /// Takes commands that wait to be sent to the server, a bounded number.
    pub fn take_commands(&mut self, server: ServerId, stream: StreamId) -> Vec<Command> {
        const AT_ONCE_MAX: usize = 256;
        match self.servers.servers.get_mut(&server) {
            Some(server) if server.stream == Some(stream) => {
                let count = server.outbox.len().min(AT_ONCE_MAX);
                server.outbox.drain(..count).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the stream is still the one of the server.
    pub fn is_stream_of(&self, server: ServerId, stream: StreamId) -> bool {
        self.servers.is_stream_of(server, stream)
    }

    /// Chunks of which the server, which is away, has or may have the only good copies.
    pub fn last_copies_of(&self, id: ServerId) -> Vec<ChunkId> {
        let Some(server) = self.servers.servers.get(&id) else { return Vec::new() };
        self.last_copies_on(&server.slots)
    }

    /// The same of one volume.
    pub fn last_copies_of_volume(&self, id: VolumeId) -> Vec<ChunkId> {
        self.servers.slot(id).map_or_else(Vec::new, |slot| self.last_copies_on(&[slot]))
    }

    fn last_copies_on(&self, slots: &[u16]) -> Vec<ChunkId> {
        let mut chunks: Vec<ChunkId> =
            slots.iter().flat_map(|slot| self.servers.volume(*slot).chunks.iter().copied()).collect();
        let is_last = |chunk: &ChunkId| {
            let Some(entry) = self.entries.get(chunk).filter(|entry| !entry.is_doomed()) else { return false };
            let here = good_holders(entry).any(|copy| slots.contains(&copy.slot));
            // One that is astray has yet to be found as good as this one.
            let mut others = good_holders(entry).filter(|copy| !copy.flags.has(CopyFlags::ASTRAY));
            here && !others.any(|copy| !slots.contains(&copy.slot))
        };
        chunks.retain(is_last);
        if slots.iter().any(|slot| !self.servers.volume(*slot).was_inventoried) {
            // It has said nothing since this master started: it may have whatever nobody else has.
            let is_nowhere =
                |entry: &Entry| !entry.is_doomed() && entry.version() > 0 && good_holders(entry).next().is_none();
            chunks.extend(self.entries.iter().filter(|(_, entry)| is_nowhere(entry)).map(|(chunk, _)| *chunk));
        }
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// Forgets a server that is gone for good, with all that was on it. Returns whether it was known and is not connected.
    pub fn forget_server(&mut self, id: ServerId) -> bool {
        let Some(server) = self.servers.servers.get(&id).filter(|server| server.stream.is_none()) else {
            return false;
        };
        for slot in server.slots.clone() {
            self.drop_copies_on(slot);
        }
        self.servers.forget(id);
        self.reconsider_repairs();
        true
    }

    /// Forgets a volume that is gone for good, with all that was on it. Returns whether it was known and may be forgotten: its
    /// server does not name it any more, or is not connected.
    pub fn forget_volume(&mut self, id: VolumeId) -> bool {
        let Some(slot) = self.servers.slot(id).filter(|slot| !self.servers.volume(*slot).forgotten) else {
            return false;
        };
        let volume = self.servers.volume(slot);
        let connected = self.servers.servers.get(&volume.server).is_some_and(|server| server.stream.is_some());
        if connected && volume.named {
            return false;
        }
        self.drop_copies_on(slot);
        self.servers.forget_volume(slot);
        self.update_counting(slot);
        self.reconsider_repairs();
        true
    }

    fn drop_copies_on(&mut self, slot: u16) {
        let chunks: Vec<ChunkId> = self.servers.volume(slot).chunks.iter().copied().collect();
        for chunk in chunks {
            self.drop_copy(slot, chunk);
        }
        self.orphans.retain(|key, _| key.0 != slot);
    }

    /// This process did nothing for so long, as when it was stopped: what was not heard in that time says nothing of others.
    pub fn stood_still(&mut self, now: Monotonic, pause: Duration) {
        for server in self.servers.servers.values_mut() {
            server.last_heard = server.last_heard.map(|heard| (heard + pause).min(now));
        }
    }
}

/// Where in an inventory a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InventoryPart {
    /// Nothing came before it.
    pub first: bool,
    /// Nothing comes after it.
    pub last: bool,
}

/// The copies that have what the chunk is now, and that no write failed on.
fn good_holders(entry: &Entry) -> impl Iterator<Item = &HeldCopy> {
    let good = |copy: &&HeldCopy| entry.is_current(copy) && !copy.flags.has(CopyFlags::BAD);
    entry.copies().iter().filter(good)
}
