//! What the master is told, made from the volumes' state.

use rfs_common::ids::ChunkId;
use rfs_proto::cluster::from_chunkserver::Message;
use rfs_proto::cluster::{
    FromChunkserver, Heartbeat, Held as WireHeld, Inventory, Scrub as WireScrub, Volume as WireVolume, VolumeState,
};

use crate::volume::identity::Identity;
use crate::volume::running::LastEnd;
use crate::volume::store::{Counters, Listed};
use crate::volumes::{Current, Slot, Volumes};

/// Chunks in one part of an inventory.
const PART_CHUNKS: usize = 8192;

pub(super) fn message(message: Message) -> FromChunkserver {
    FromChunkserver { message: Some(message) }
}

/// Every volume of this server whose identity is known; one that was never readable has no id to be reported under.
pub(super) fn volumes(volumes: &Volumes) -> Vec<WireVolume> {
    volumes.own_slots().map(|(slot, identity)| volume(slot, identity)).collect()
}

fn volume(slot: &Slot, identity: Identity) -> WireVolume {
    let mut told = WireVolume {
        volume: identity.volume.get(),
        path: slot.folder().display().to_string(),
        filesystem_uuid: identity.filesystem_uuid,
        storage_machine: identity.storage_machine,
        ..WireVolume::default()
    };
    match slot.current() {
        Current::Out { reason, .. } => {
            told.set_state(VolumeState::Out);
            told.reason = reason;
        }
        Current::InUse(volume) => {
            let (state, reason) = volume.state();
            told.set_state(state);
            told.reason = reason;
            told.total = volume.space().total;
            told.free = volume.free_above_reserve();
            told.chunks = volume.chunk_count();
            told.filesystem = filesystem(volume.ground().device);
            told.epoch = Some(volume.epoch());
            told.changed = volume.has_changed_since_epoch();
            told.lost_power = volume.last_end() == LastEnd::PowerCut;
            let scrub = volume.scrubbed();
            told.scrub = Some(WireScrub {
                done: scrub.done,
                chunks: scrub.chunks,
                completed: scrub.completed,
                found: scrub.found,
            });
        }
    }
    told
}

/// What names a filesystem among all machines: the boot of the machine and the device.
fn filesystem((major, minor): (u32, u32)) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot.is_empty() { String::new() } else { format!("{} {major}:{minor}", boot.trim()) }
}

/// The inventory of a volume in parts; an empty volume has one empty part.
pub(super) fn inventory(volume: u64, chunks: &[(ChunkId, Listed)]) -> Vec<FromChunkserver> {
    let parts: Vec<&[(ChunkId, Listed)]> =
        if chunks.is_empty() { vec![&[]] } else { chunks.chunks(PART_CHUNKS).collect() };
    let last = parts.len() - 1;
    let part = |(at, part): (usize, &&[(ChunkId, Listed)])| {
        let chunks = part.iter().map(|(chunk, listed)| held(*chunk, *listed));
        message(Message::Inventory(Inventory { volume, chunks: chunks.collect(), first: at == 0, last: at == last }))
    };
    parts.iter().enumerate().map(part).collect()
}

fn held(chunk: ChunkId, listed: Listed) -> WireHeld {
    let chunk = chunk.get();
    match listed {
        Listed::Copy(held) => WireHeld {
            chunk,
            version: held.version.get(),
            length: held.data_length,
            open: held.open,
            suspect: held.suspect,
            unreadable: false,
            bad: held.bad,
        },
        Listed::Unreadable => WireHeld { chunk, unreadable: true, ..WireHeld::default() },
    }
}

/// What was done since the last heartbeat, which is what the master shows as rates.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: [u64; 4],
}

impl Rates {
    pub(super) fn heartbeat(&mut self, volumes: Vec<WireVolume>, counters: &Counters) -> FromChunkserver {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let now =
            [load(&counters.reads), load(&counters.writes), load(&counters.read_bytes), load(&counters.written_bytes)];
        let [reads, writes, read_bytes, written_bytes] = std::array::from_fn(|at| now[at] - self.last[at]);
        self.last = now;
        message(Message::Heartbeat(Heartbeat { volumes, reads, writes, read_bytes, written_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use rfs_common::ids::ChunkVersion;

    use super::*;
    use crate::chunk::copy::Held;

    #[test]
    fn inventories_begin_and_end_once_however_many_parts() {
        let held = Held { version: ChunkVersion::FIRST, data_length: 5, open: false, suspect: true, bad: true };
        let held = Listed::Copy(held);
        for count in [0, 1, PART_CHUNKS, PART_CHUNKS + 1, 3 * PART_CHUNKS] {
            let chunks: Vec<_> = (0..count as u64).map(|id| (ChunkId::new(id + 1), held)).collect();
            let parts: Vec<Inventory> = inventory(7, &chunks)
                .into_iter()
                .map(|part| match part.message {
                    Some(Message::Inventory(inventory)) => inventory,
                    other => panic!("not an inventory: {other:?}"),
                })
                .collect();
            assert_eq!(parts.iter().map(|part| part.chunks.len()).sum::<usize>(), count);
            assert!(parts.iter().flat_map(|part| &part.chunks).all(|held| held.suspect && held.bad && !held.open));
            assert_eq!(parts.iter().filter(|part| part.first).count(), 1);
            assert!(parts[0].first && parts[parts.len() - 1].last);
            assert_eq!(parts.iter().filter(|part| part.last).count(), 1);
        }
    }
}
