//! The stored bytes stay what they are, and the store keeps them.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use rfs_common::clock::ManualClock;

use super::*;
use crate::namespace::check::check;
use crate::namespace::metadata::Metadata;
use crate::namespace::ops::world::World;
use crate::store::{Store, StoreOptions};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Encodes, compares with the golden bytes, and reads back.
#[track_caller]
fn assert_golden<R: Record + PartialEq + std::fmt::Debug>(record: &R, golden: &str) {
    let bytes = record.encode_to_vec();
    assert_eq!(hex(&bytes), golden);
    assert_eq!(&R::decode(bytes.as_slice()).unwrap(), record);
}

#[test]
fn values_have_their_documented_bytes() {
    let stamp = |seconds| Stamp { seconds, nanoseconds: 5 };
    let inode = InodeRecord {
        kind: NodeKind::Directory as i32,
        mode: 0o1755,
        user: 1,
        group: 2,
        links: 3,
        length: 4,
        allocated: 5,
        device: 6,
        accessed: stamp(-1),
        modified: stamp(2),
        changed: stamp(3),
        created: Stamp::default(),
        goal: 2,
        target: b"t".to_vec(),
        parent: 7,
        entries: 8,
        cookie_next: 9,
        revision: 300,
        xattrs: 11,
        access_acl: true,
        default_acl: true,
        inode_next: 12,
        inode_end: 13,
    };
    assert_golden(
        &inode,
        concat!(
            "080210ed071801200228033004380540064a04080110055204080410055a0408061005620068027201747807",
            "8001088801099001ac0298010ba00101a80101b0010cb8010d"
        ),
    );
    assert_golden(&EntryRecord { inode: 5, kind: 3, cookie: 200 }, "0805100318c801");
    let chunk =
        ChunkRecord { inode: 5, index: 1, version: 2, granted: 3, goal: 4, deleted: true, lost: 0, unsynced: false };
    assert_golden(&chunk, "080510011802200328043001");
    assert_golden(&ChunkRef { chunk: 9, length: 1 << 26 }, "080910808080 20".replace(' ', "").as_str());
    assert_golden(&XattrRecord { value: b"v".to_vec() }, "0a0176");
    assert_golden(&OrphanRecord { sessions: vec![1, 300], nameable: true }, "0a0301ac021001");
    let slot = SlotRecord { sequence: 6, reply: b"r".to_vec(), error: true };
    assert_golden(&slot, "08061201721801");
    let session = SessionRecord {
        secret: vec![1],
        host: "h".into(),
        mount_point: "m".into(),
        process_id: 2,
        version: "v".into(),
        read_only: true,
        root: 1,
        begun: stamp(1),
    };
    assert_golden(&session, "0a01011201681a016d20022a0176300138014204080210 05".replace(' ', "").as_str());
    let system = SystemRecord { inode_next: 2, chunk_next: 1, deleted_chunks: 3, ..SystemRecord::default() };
    assert_golden(&system, "080210016003");
}

#[test]
fn keys_have_their_documented_bytes_and_order() {
    let inode = InodeId::new(0x0102);
    assert_eq!(hex(&inode_key(inode)), "0000000000000102");
    assert_eq!(hex(&entry_key(inode, b"ab")), "00000000000001026162");
    assert_eq!(hex(&xattr_key(inode, b"ab")), "00000000000001026162");
    assert_eq!(hex(&ref_key(inode, 3)), "000000000000010200000003");
    assert_eq!(hex(&chunk_key(ChunkId::new(7))), "0000000000000007");
    assert_eq!(hex(&session_key(SessionId::new(7))), "0000000000000007");
    assert_eq!(hex(&slot_key(SessionId::new(7), 1)), "000000000000000700000001");
    assert_eq!(hex(&system_key(SystemKind::AskedOfVolume, 9)), "020000000000000009");
    assert_eq!(split_key(&entry_key(inode, b"ab")), Some((0x0102, &b"ab"[..])));
    assert_eq!(split_key(b"short"), None);
    assert!(inode_key(InodeId::new(255)) < inode_key(InodeId::new(256)));
    assert!(entry_key(inode, &[0xff; 255]) < entry_key(inode.next(), b"a"));
}

#[test]
fn decoding_nonsense_is_an_error_and_never_a_panic() {
    for length in 0..40 {
        for fill in [0x00, 0x0a, 0x7f, 0x80, 0xff] {
            let bytes = vec![fill; length];
            let _ = InodeRecord::decode(bytes.as_slice());
            let _ = OrphanRecord::decode(bytes.as_slice());
        }
    }
    assert!(InodeRecord::decode(&[0xff; 3][..]).is_err());
}

#[test]
fn the_store_keeps_a_namespace() {
    let mut world = World::new();
    let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
    for number in 0..600 {
        world.written_file(directory, &format!("file {number}"), 10);
    }
    world.unlink(directory, "file 7").unwrap();
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), [7; 16]).unwrap();
    let open = || {
        let clock = ManualClock::new(Time::EPOCH).shared();
        Arc::new(Store::open(folder.path(), StoreOptions::default(), clock).unwrap())
    };
    let store = open();
    for changes in world.log.chunks(50) {
        store.commit(changes).unwrap();
    }
    assert_eq!(check(&*store).unwrap().findings, Vec::<String>::new());
    store.close().unwrap();
    drop(store);
    let store = open();
    assert_eq!(check(&*store).unwrap().counted.files, 599);
    let mut names = 0;
    let metadata = Metadata::new(store);
    let mut transaction = metadata.begin();
    let visit = &mut |_: &[u8], _: EntryRecord| {
        names += 1;
        ControlFlow::Continue(())
    };
    transaction.scan_of::<EntryRecord>(directory.get(), Bound::Excluded(&b"file 598"[..]), visit).unwrap();
    assert_eq!(names, 44, "file 599, and 6, 60 to 69, 70 to 79, 8, 80 to 89, 9, 90 to 99: by bytes, not by numbers");
}
