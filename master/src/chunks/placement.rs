//! Chooses volumes for new copies.
//!
//! Never two on one server; on different hosts and different storage machines where there are enough of them; among the
//! rest by chance in proportion to free space, and less often where many writers are at work already. Volumes that are being
//! drained, or whose server is about to go away for maintenance, take something only where a writer would have too few places or a chunk would stay with one copy otherwise.

use rfs_common::ids::ServerId;

use super::Chunks;
use super::servers::{Drain, Volume};
use super::types::{NoSpace, Place, VolumeState};

/// Volumes with less room than a whole chunk are taken only when there are no others.
pub(super) const ROOMY_BYTES: u64 = 64 << 20;

/// Which volumes may take a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Those that stay.
    Staying,
    /// If there is nothing else, also those that are being drained and were never empty since, or in maintenance.
    LastResort,
}

/// How strictly copies are kept apart; tried from the strictest.
#[derive(Debug, Clone, Copy)]
enum Apart {
    HostsAndStorageMachines,
    StorageMachines,
    Hosts,
    Servers,
}

/// From the strictest.
const APART: [Apart; 4] = [Apart::HostsAndStorageMachines, Apart::Hosts, Apart::StorageMachines, Apart::Servers];

impl Chunks {
    pub(super) fn choose(&self, wanted: usize, needed: usize, exclude: &[ServerId]) -> Result<Vec<Place>, NoSpace> {
        let mut slots = self.choose_slots(wanted, exclude, &[], Room::Staying);
        if slots.len() < needed {
            let servers = slots.iter().map(|slot| self.servers.volume(*slot).server);
            let exclude: Vec<ServerId> = servers.chain(exclude.iter().copied()).collect();
            slots.extend(self.choose_slots(needed - slots.len(), &exclude, &slots, Room::LastResort));
        }
        let places: Vec<Place> = slots.into_iter().filter_map(|slot| self.servers.place(slot)).collect();
        if places.len() >= needed {
            return Ok(places);
        }
        let (connected, full) = self.connected_and_full();
        Err(NoSpace { found: places.len(), needed, connected, full, more_expected: self.expects_volumes() })
    }

    /// How many chunkservers are connected, and how many of their volumes have no room.
    pub(super) fn connected_and_full(&self) -> (usize, usize) {
        let connected = self.servers.servers.values().filter(|server| server.stream.is_some()).count();
        let is_full = |state: VolumeState, free: u64| state == VolumeState::Full || free == 0;
        let full = self.servers.volumes().filter(|(_, v)| v.counts && is_full(v.report.state, v.report.free)).count();
        (connected, full)
    }

    /// Up to `wanted` volumes on servers that are not excluded, away from the copies on the slots in `beside`.
    pub(super) fn choose_slots(&self, wanted: usize, exclude: &[ServerId], beside: &[u16], room: Room) -> Vec<u16> {
        let candidates = self.candidates_in_random_order(exclude, room);
        let mut chosen: Vec<u16> = Vec::with_capacity(wanted);
        for apart in APART {
            for slot in &candidates {
                if chosen.len() == wanted {
                    return chosen;
                }
                let mut others = beside.iter().chain(&chosen);
                if others.all(|other| self.are_apart(*slot, *other, apart)) {
                    chosen.push(*slot);
                }
            }
        }
        chosen
    }

    /// The weighted random order of Efraimidis and Spirakis: sorted by exponentially distributed times whose rate is the
    /// weight.
    fn candidates_in_random_order(&self, exclude: &[ServerId], room: Room) -> Vec<u16> {
        let takes = |(slot, volume): (u16, &Volume)| {
            let takes = match room {
                Room::Staying => volume.takes_new_chunks() && self.maintenance(volume.server).is_none(),
                Room::LastResort => volume.has_room() && volume.drain != Drain::Noted,
            };
            if !takes || exclude.contains(&volume.server) {
                return None;
            }
            let roomy = volume.report.free >= ROOMY_BYTES;
            let busy = f64::from(1 + volume.grants + volume.repairs);
            let weight = volume.report.free as f64 / (busy * busy);
            let chance = (self.random.below(1 << 53) + 1) as f64 / (1_u64 << 53) as f64;
            Some((!roomy, -chance.ln() / weight, slot))
        };
        let mut order: Vec<(bool, f64, u16)> = self.servers.volumes().filter_map(takes).collect();
        order.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        order.into_iter().map(|(_, _, slot)| slot).collect()
    }

    /// How near a copy here is to these others: 0 is as far as can be.
    pub(super) fn nearness(&self, slot: u16, others: &[u16]) -> usize {
        let are_apart = |apart: &Apart| others.iter().all(|other| self.are_apart(slot, *other, *apart));
        APART.iter().position(are_apart).unwrap_or(APART.len())
    }

    fn are_apart(&self, one: u16, other: u16, apart: Apart) -> bool {
        let (one, other) = (self.servers.volume(one), self.servers.volume(other));
        if one.server == other.server {
            return false;
        }
        let host = |server: ServerId| self.servers.servers.get(&server).map(|server| server.host.as_str());
        let hosts = || host(one.server) != host(other.server);
        let machines = || one.storage_machine().is_none() || one.storage_machine() != other.storage_machine();
        match apart {
            Apart::HostsAndStorageMachines => hosts() && machines(),
            Apart::StorageMachines => machines(),
            Apart::Hosts => hosts(),
            Apart::Servers => true,
        }
    }
}
