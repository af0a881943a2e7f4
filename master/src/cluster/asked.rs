//! What an administrator has asked of volumes and chunkservers, as records, so that it outlives the master.
//!
//! Table System, [`SystemKind::AskedOfVolume`] and [`SystemKind::AskedOfServer`], by their ids. A record that would say nothing is
//! removed; what is forgotten takes its record along.

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use prost::Message;
use rfs_common::clock::SharedClock;
use rfs_common::ids::{ServerId, VolumeId};

use crate::chunks::{Chunks, DrainMark, Maintenance};
use crate::namespace::records::{SystemKind, system_key};
use crate::namespace::source::{Change, Source, StoreError, Table};

/// Nobody may be away for longer: also a clock that was set does not make it more.
pub(crate) const MAINTENANCE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was asked of a volume.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct AskedOfVolumeRecord {
    /// It is to be emptied.
    #[prost(bool, tag = "1")]
    pub(crate) drain: bool,
    /// Nothing was on it any more, be it because of that or because its chunkserver is to be emptied.
    #[prost(bool, tag = "2")]
    pub(crate) drained: bool,
}

/// What was asked of a chunkserver.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct AskedOfServerRecord {
    /// All volumes that it has or gets are to be emptied.
    #[prost(bool, tag = "1")]
    pub(crate) drain: bool,
    /// Until when it may be away without its copies being made anew, in seconds since 1970; 0: no maintenance.
    #[prost(sint64, tag = "2")]
    pub(crate) maintenance_until_s: i64,
}

impl AskedOfServerRecord {
    /// As it is recorded.
    pub(crate) fn of(chunks: &Chunks, server: ServerId) -> AskedOfServerRecord {
        let until = chunks.maintenance(server).map_or(0, |maintenance| maintenance.until_s);
        AskedOfServerRecord { drain: chunks.is_server_draining(server), maintenance_until_s: until }
    }
}

/// The change that stores what is asked of a volume.
pub(crate) fn change_of_volume(volume: VolumeId, mark: DrainMark) -> Change {
    let record = AskedOfVolumeRecord { drain: mark.wanted, drained: mark.drained };
    change(SystemKind::AskedOfVolume, volume.get(), &record)
}

/// The change that stores what is asked of a chunkserver.
pub(crate) fn change_of_server(server: ServerId, record: &AskedOfServerRecord) -> Change {
    change(SystemKind::AskedOfServer, server.get(), record)
}

fn change<R: Message + Default + PartialEq>(kind: SystemKind, id: u64, record: &R) -> Change {
    let (table, key) = (Table::System, system_key(kind, id));
    match *record == R::default() {
        true => Change::Delete { table, key },
        false => Change::Put { table, key, value: record.encode_to_vec() },
    }
}

/// The changes that take along what was asked of a volume that is forgotten.
pub(crate) fn changes_to_forget_volume(chunks: &Chunks, volume: VolumeId) -> Vec<Change> {
    match chunks.drain_mark(volume) == DrainMark::default() {
        true => Vec::new(),
        false => vec![change_of_volume(volume, DrainMark::default())],
    }
}

/// The same of a chunkserver and its volumes.
pub(crate) fn changes_to_forget_server(chunks: &Chunks, server: ServerId) -> Vec<Change> {
    let volumes = chunks.server(server).map(|view| view.volumes).unwrap_or_default();
    let of_volumes = volumes.iter().flat_map(|volume| changes_to_forget_volume(chunks, volume.report.volume));
    let asked = AskedOfServerRecord::of(chunks, server) != AskedOfServerRecord::default();
    let of_server = asked.then(|| change_of_server(server, &AskedOfServerRecord::default()));
    of_volumes.chain(of_server).collect()
}

/// Tells the chunk table what the records say.
pub(super) fn load(source: &dyn Source, chunks: &mut Chunks, clock: &SharedClock) -> Result<(), StoreError> {
    for (id, record) in scan::<AskedOfVolumeRecord>(source, SystemKind::AskedOfVolume)? {
        chunks.set_drain_mark(VolumeId::new(id), DrainMark { wanted: record.drain, drained: record.drained });
    }
    for (id, record) in scan::<AskedOfServerRecord>(source, SystemKind::AskedOfServer)? {
        let server = ServerId::new(id);
        chunks.set_server_draining(server, record.drain);
        if record.maintenance_until_s != 0 {
            // One that is over by now is taken off the records like any other.
            let left_s = record.maintenance_until_s.saturating_sub(clock.now().seconds());
            let until = clock.monotonic() + Duration::from_secs(left_s.try_into().unwrap_or(0)).min(MAINTENANCE_MAX);
            chunks.set_maintenance(server, Some(Maintenance { until, until_s: record.maintenance_until_s }));
        }
    }
    Ok(())
}

pub(super) fn scan<R: Message + Default>(source: &dyn Source, kind: SystemKind) -> Result<Vec<(u64, R)>, StoreError> {
    let (from, to) = (system_key(kind, 0), system_key(kind, u64::MAX));
    let mut found = Vec::new();
    source.scan(Table::System, Bound::Included(&from), Bound::Included(&to), &mut |key, value| {
        let id = key.get(1..9).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(id), Ok(record)) = (id, R::decode(value)) {
            found.push((id, record));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
