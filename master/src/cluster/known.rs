//! Servers that were seen once, as records, so that one that is missing after a restart of the master is missed.
//!
//! One record per server, with its volumes, in the System table under [`SystemKind::Server`]. Written when a registration
//! differs from what is stored; removed by an administrator.

use std::ops::{Bound, ControlFlow};

use prost::Message;
use rfs_common::ids::{ServerId, VolumeId};

use crate::chunks::{Registration, ScrubReport, VolumeReport, VolumeState};
use crate::namespace::records::{SystemKind, system_key};
use crate::namespace::source::{Change, Source, StoreError, Table};

/// A known server.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerRecord {
    /// The machine it ran on.
    #[prost(string, tag = "1")]
    pub host: String,
    /// `host:port` of its data port.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Its program version.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Its volumes, in the order of their ids.
    #[prost(message, repeated, tag = "4")]
    pub volumes: Vec<VolumeRecord>,
}

/// A known volume.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VolumeRecord {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    /// Where it was mounted.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The storage machine behind it.
    #[prost(string, tag = "3")]
    pub storage_machine: String,
    /// Its size.
    #[prost(uint64, tag = "4")]
    pub total: u64,
}

/// The change that stores a registration, or nothing if it is stored already.
pub(super) fn change_to_store(source: &dyn Source, registration: &Registration) -> Result<Option<Change>, StoreError> {
    let key = system_key(SystemKind::Server, registration.server.get());
    let value = record_of(registration).encode_to_vec();
    let stored = source.get(Table::System, &key)?;
    Ok((stored.as_ref() != Some(&value)).then_some(Change::Put { table: Table::System, key, value }))
}

/// The change that forgets a server.
pub(crate) fn change_to_forget(server: ServerId) -> Change {
    Change::Delete { table: Table::System, key: system_key(SystemKind::Server, server.get()) }
}

/// The change that forgets a volume; nothing if no record names it.
pub(crate) fn change_to_forget_volume(source: &dyn Source, volume: VolumeId) -> Result<Option<Change>, StoreError> {
    let names_it = |server: &Registration| server.volumes.iter().any(|report| report.volume == volume);
    let Some(mut server) = known_servers(source)?.into_iter().find(names_it) else { return Ok(None) };
    server.volumes.retain(|report| report.volume != volume);
    change_to_store(source, &server)
}

/// All known servers.
pub fn known_servers(source: &dyn Source) -> Result<Vec<Registration>, StoreError> {
    let (from, to) = (system_key(SystemKind::Server, 0), system_key(SystemKind::Server, u64::MAX));
    let mut known = Vec::new();
    source.scan(Table::System, Bound::Included(&from), Bound::Included(&to), &mut |key, value| {
        let id = key.get(1..9).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(id), Ok(record)) = (id, ServerRecord::decode(value)) {
            known.push(registration_of(ServerId::new(id), record));
        }
        ControlFlow::Continue(())
    })?;
    Ok(known)
}

fn record_of(registration: &Registration) -> ServerRecord {
    let volume = |report: &VolumeReport| VolumeRecord {
        volume: report.volume.get(),
        path: report.path.clone(),
        storage_machine: report.storage_machine.clone(),
        total: report.total,
    };
    let mut volumes: Vec<VolumeRecord> = registration.volumes.iter().map(volume).collect();
    volumes.sort_by_key(|volume| volume.volume);
    let Registration { host, address, version, .. } = registration.clone();
    ServerRecord { host, address, version, volumes }
}

fn registration_of(server: ServerId, record: ServerRecord) -> Registration {
    let report = |volume: VolumeRecord| VolumeReport {
        volume: VolumeId::new(volume.volume),
        path: volume.path,
        state: VolumeState::InService,
        reason: String::new(),
        total: volume.total,
        free: 0,
        chunks: 0,
        storage_machine: volume.storage_machine,
        filesystem: String::new(),
        lost_power: false,
        scrub: ScrubReport::default(),
        epoch: None,
        changed: false,
    };
    let volumes = record.volumes.into_iter().map(report).collect();
    Registration { server, host: record.host, address: record.address, version: record.version, volumes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::source::MemorySource;

    fn registration() -> Registration {
        let volume = VolumeRecord { volume: 7, path: "/v7".to_owned(), storage_machine: "sto1".to_owned(), total: 5 };
        let record = ServerRecord {
            host: "h".to_owned(),
            address: "h:9422".to_owned(),
            version: "1".to_owned(),
            volumes: vec![volume],
        };
        registration_of(ServerId::new(u64::MAX), record)
    }

    #[test]
    fn a_server_is_stored_once_and_found_again_until_it_is_forgotten() {
        let source = MemorySource::default();
        let change = change_to_store(&source, &registration()).unwrap().unwrap();
        source.apply(&[change]);
        assert!(change_to_store(&source, &registration()).unwrap().is_none());
        let known = known_servers(&source).unwrap();
        assert_eq!(
            (known.len(), known[0].server, known[0].volumes[0].volume),
            (1, ServerId::new(u64::MAX), VolumeId::new(7))
        );
        source.apply(&[change_to_forget_volume(&source, VolumeId::new(7)).unwrap().unwrap()]);
        assert!(known_servers(&source).unwrap()[0].volumes.is_empty());
        assert!(change_to_forget_volume(&source, VolumeId::new(7)).unwrap().is_none());
        source.apply(&[change_to_forget(ServerId::new(u64::MAX))]);
        assert!(known_servers(&source).unwrap().is_empty());
    }
}
