//! Transactions read through their own changes, and say why they could not.

use proptest::prelude::*;
use rfs_common::clock::Time;
use rfs_common::ids::Goal;

use super::*;
use crate::namespace::bootstrap;
use crate::namespace::source::MemorySource;

/// Every record of a table from a key on, as a transaction sees it.
fn scanned(transaction: &mut Transaction<'_>, from: Bound<&[u8]>, stop_at: usize) -> Vec<(Vec<u8>, u64)> {
    let mut found = Vec::new();
    let visit = &mut |key: &[u8], record: EntryRecord| {
        found.push((key.to_vec(), record.inode));
        if found.len() == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    transaction.scan::<EntryRecord>(from, Bound::Excluded(&[200]), visit).unwrap();
    found
}

proptest! {
    /// A scan through changes sees what a scan after their commit sees.
    #[test]
    fn scans_merge_what_is_stored_with_what_is_changed(
        stored in prop::collection::btree_map(any::<u8>(), any::<u16>(), 0..20),
        changed in prop::collection::btree_map(any::<u8>(), prop::option::of(any::<u16>()), 0..20),
        from: u8,
        excluded: bool,
        stop_at in 1..30_usize,
    ) {
        let record = |inode: u16| EntryRecord { inode: u64::from(inode), ..EntryRecord::default() };
        let source = MemorySource::default();
        for (key, inode) in &stored {
            source.apply(&[records::put(vec![*key], &record(*inode))]);
        }
        let mut transaction = Transaction::new(&source);
        for (key, inode) in &changed {
            match inode {
                Some(inode) => transaction.write(vec![*key], &record(*inode)),
                None => transaction.remove::<EntryRecord>(vec![*key]),
            }
        }
        let from = [from.min(199)];
        let from = if excluded { Bound::Excluded(&from[..]) } else { Bound::Included(&from[..]) };
        let before = scanned(&mut transaction, from, stop_at);
        let changes = transaction.into_changes();
        source.apply(&changes);
        let after = scanned(&mut Transaction::new(&source), from, stop_at);
        prop_assert_eq!(before, after);
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_a_reason() {
    let source = MemorySource::default();
    let mut transaction = Transaction::new(&source);
    assert_eq!(transaction.system().map(|_| ()), Err(Errno::EIO));
    assert!(transaction.failure().unwrap().to_string().contains("the counters are missing"));
    source.apply(&bootstrap::new_cluster(Goal::TWO, Time::EPOCH));
    let key = records::inode_key(InodeId::new(5));
    source.apply(&[Change::Put { table: Table::Inodes, key, value: vec![0xff; 3] }]);
    let mut transaction = Transaction::new(&source);
    assert_eq!(transaction.node(InodeId::new(5)), Err(Errno::EIO));
    assert!(transaction.failure().unwrap().to_string().contains("run `mfs-master check`"));
    assert_eq!(transaction.node(InodeId::new(6)), Err(Errno::ESTALE));
    assert!(transaction.is_unchanged());
    assert_eq!(transaction.into_changes(), vec![]);
}
