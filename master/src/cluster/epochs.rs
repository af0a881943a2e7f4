//! The epochs that volumes were at, as records: an older image of a volume is found out also after a restart of the master.
//!
//! Table System, [`SystemKind::EpochOfVolume`], by the volume's id. A record stays when its volume is forgotten: it may come back.

use prost::Message;
use rfs_common::ids::VolumeId;

use super::asked::scan;
use crate::chunks::Chunks;
use crate::namespace::records::{SystemKind, system_key};
use crate::namespace::source::{Change, Source, StoreError, Table};

/// The epoch of a volume.
#[derive(Clone, PartialEq, Eq, Message)]
struct EpochRecord {
    /// The one that it said to have stored.
    #[prost(uint64, tag = "1")]
    epoch: u64,
}

/// The change that stores it.
pub(super) fn change(volume: VolumeId, epoch: u64) -> Change {
    let key = system_key(SystemKind::EpochOfVolume, volume.get());
    Change::Put { table: Table::System, key, value: EpochRecord { epoch }.encode_to_vec() }
}

/// Tells the chunk table what the records say.
pub(super) fn load(source: &dyn Source, chunks: &mut Chunks) -> Result<(), StoreError> {
    for (id, record) in scan::<EpochRecord>(source, SystemKind::EpochOfVolume)? {
        chunks.know_epoch(VolumeId::new(id), record.epoch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::source::MemorySource;
    use crate::status::MasterStateExt;
    use crate::status::test_master::TestMaster;

    #[test]
    fn an_epoch_is_stored_as_documented_and_found_again() {
        let source = MemorySource::default();
        let change = change(VolumeId::new(9), 300);
        let Change::Put { key, value, .. } = &change else { panic!("it is put") };
        assert_eq!((&key[..], &value[..]), (&[6, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0x08, 0xac, 0x02][..]));
        source.apply(&[change]);
        let master = TestMaster::new();
        master.with_chunks(|chunks, _| load(&source, chunks)).unwrap();
        assert!(master.with_chunks(|chunks, _| chunks.epochs_to_record()).is_empty());
    }
}
