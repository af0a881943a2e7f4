//! What records of an export say that holds no more once they are restored.
//!
//! An export is of the past. Meanwhile a file may have been synced or removed, and with it the copies of its chunks. So the
//! mark "nobody was promised that any of it is on a disk" goes from every chunk: a chunk that no volume has after a restore
//! is lost, and is never taken for one that a power cut took, which would be begun anew with zeros.

use prost::Message;

use super::records::ChunkRecord;
use crate::store::Table;

/// The record as it is to be restored, if that is another one.
pub fn amended(table: Table, value: &[u8]) -> Option<Vec<u8>> {
    if table != Table::Chunks {
        return None;
    }
    // What does not decode is left for the check to name.
    let record = ChunkRecord::decode(value).ok().filter(|record| record.unsynced)?;
    Some(ChunkRecord { unsynced: false, ..record }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_unsynced_then_is_expected_to_be_somewhere() {
        let record =
            ChunkRecord { inode: 5, version: 2, granted: 2, goal: 2, unsynced: true, ..ChunkRecord::default() };
        let amended_record = amended(Table::Chunks, &record.encode_to_vec()).unwrap();
        assert_eq!(ChunkRecord::decode(&amended_record[..]), Ok(ChunkRecord { unsynced: false, ..record }));
        assert_eq!(amended(Table::Chunks, &amended_record), None, "nothing to change");
        assert_eq!(amended(Table::Chunks, &[0xff]), None);
        assert_eq!(amended(Table::Inodes, &[0x40, 1]), None);
    }
}
