//! The files under `golden/` were written by version 1 of each format and must be read, and written, the same for ever.
//! To add one for a new version: run the tests with `RFS_WRITE_GOLDEN=1` and never do so for an old one.

use std::fs;

use super::format::*;
use super::page::Page;
use super::tests::{CLUSTER, put};
use super::*;

fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/golden").join(name);
    if std::env::var_os("RFS_WRITE_GOLDEN").is_some() {
        fs::write(&path, written).unwrap();
    }
    let golden = fs::read(&path).unwrap();
    assert!(golden == written, "{name} is written differently now");
    golden
}

fn changes() -> [Change; 3] {
    [
        put(Table::Inodes, &[0, 0, 0, 0, 0, 0, 0, 1], b"the root directory"),
        Change::Delete { table: Table::Entries, key: b"\0\0\0\0\0\0\0\x01gone".to_vec() },
        put(Table::System, b"next inode", &[]),
    ]
}

fn page() -> Page {
    let mut page = Page::default();
    page.position = 42;
    for (key, value) in [(&b"b"[..], &b"second"[..]), (b"a", b"first"), (b"c", b""), (b"b", b"replaced")] {
        page.put(key, value);
    }
    page
}

#[test]
fn a_segment_of_version_1() {
    let head = Head { kind: HeadKind::Segment, cluster: CLUSTER, position: 7, durable: 5 };
    let (mut bytes, mut record) = (encode_segment_head(&head), Vec::new());
    encode_record(&mut record, 7, 6, &changes());
    bytes.extend_from_slice(&record);
    encode_record(&mut record, 8, 7, &changes()[1..2]);
    bytes.extend_from_slice(&record);
    bytes.resize(8192, 0);
    let read = golden("segment-v1.log", &bytes);
    assert_eq!(decode_segment_head(&read).unwrap(), head);
    let first = decode_record(&read[SEGMENT_HEAD_BYTES..]).unwrap();
    assert_eq!((first.position, first.durable, &first.changes[..]), (7, 6, &changes()[..]));
    let second = decode_record(&read[SEGMENT_HEAD_BYTES + first.length..]).unwrap();
    assert_eq!((second.position, second.durable, &second.changes[..]), (8, 7, &changes()[1..2]));
}

#[test]
fn identity_and_marker_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kind, position) in [("identity-v1", HeadKind::Identity, 0), ("checkpoint-v1", HeadKind::Marker, 42)] {
        let head = Head { kind, cluster: CLUSTER, position, durable: 0 };
        let read = golden(name, &head.encode());
        assert_eq!(Head::decode(kind, &read).unwrap(), head);
        fs::write(folder.path().join(name.trim_end_matches("-v1")), read).unwrap();
    }
    // Where they are read from.
    fs::create_dir(folder.path().join(sled_pages::PAGES_FOLDER)).unwrap();
    fs::write(folder.path().join(sled_pages::PAGES_FOLDER).join("db"), "").unwrap();
    let (identity, marker) = open::read_identity(folder.path()).unwrap();
    assert_eq!((identity.cluster, marker.position), (CLUSTER, 42));
}

#[test]
fn a_marker_of_version_2() {
    let before = vec![(b"new".to_vec(), None), (b"changed".to_vec(), Some(vec![1; 8])), (vec![], Some(vec![]))];
    let bounds = Some(Bounds { digests: [1, 2, u64::MAX], before });
    let marker = Marker { cluster: CLUSTER, position: 42, bounds };
    let read = golden("checkpoint-v2", &marker.encode());
    assert_eq!(Marker::decode(&read).unwrap(), marker);
    for at in 0..read.len() {
        let mut flipped = read.clone();
        flipped[at] ^= 1;
        assert!(Marker::decode(&flipped).is_err(), "byte {at}");
    }
    assert!((0..read.len()).all(|length| Marker::decode(&read[..length]).is_err()));
}

#[test]
fn a_page_of_version_1() {
    let read = golden("page-v1", &page().encode(Table::Entries));
    let read = Page::decode(Table::Entries, &read).unwrap();
    assert_eq!(read, page());
    assert_eq!(read.get(b"b"), Some(&b"replaced"[..]));
}

#[test]
fn an_export_of_version_1() {
    let encoded = page().encode(Table::Entries);
    let mut bytes = Head { kind: HeadKind::Export, cluster: CLUSTER, position: 42, durable: 0 }.encode().to_vec();
    bytes.extend(encode_block(Table::Entries, b"a", encoded.len()));
    bytes.extend(encoded);
    let trailer = Trailer { blocks: 1, records: 3, content: crc32c::crc32c(&bytes) };
    bytes.extend(trailer.encode());
    golden("export-v1", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let export = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/golden/export-v1");
    restore(&export, folder.path()).unwrap();
    let store = super::tests::open(folder.path());
    assert_eq!(store.position().get(), 42);
    assert_eq!(store.get(Table::Entries, b"b").unwrap().unwrap(), b"replaced");
    assert_eq!(super::tests::content(&store).len(), 3);
}

#[test]
fn every_flipped_byte_of_a_page_is_seen() {
    let whole = page().encode(Table::Entries);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        assert!(Page::decode(Table::Entries, &flipped).is_err(), "byte {at}");
    }
    assert!((0..whole.len()).all(|length| Page::decode(Table::Entries, &whole[..length]).is_err()));
    assert!(Page::decode(Table::Inodes, &whole).is_err());
}

proptest::proptest! {
    /// Bytes with a right checksum and wrong content reach the parsers behind it; none may panic.
    #[test]
    fn decoding_anything_never_panics(payload in proptest::collection::vec(0_u8.., 0..200), count in 0_u32..9) {
        let mut record = Vec::new();
        encode_record(&mut record, 1, 1, &[]);
        record[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        record[24..28].copy_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&payload);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[..28]), &payload);
        record[28..32].copy_from_slice(&checksum.to_le_bytes());
        record.resize(record.len().next_multiple_of(8), 0);
        let _ = decode_record(&record);
        let _ = decode_record(&payload);
        let mut encoded = Page::default().encode(Table::Inodes);
        encoded[16..20].copy_from_slice(&count.to_le_bytes());
        encoded[20..24].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&encoded[..24]), &payload);
        encoded[24..28].copy_from_slice(&checksum.to_le_bytes());
        encoded.extend_from_slice(&payload);
        let _ = Page::decode(Table::Inodes, &encoded);
        let _ = Page::decode(Table::Inodes, &payload);
    }
}
