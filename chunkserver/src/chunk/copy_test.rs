//! Tests of a copy: against a model, its version rules, and every kind of damage.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rfs_common::leaf::{CHUNK_BYTES, hash_leaf, hash_leaves, split_at_leaves};
use tempfile::TempDir;

use super::super::change::{Action, Piece, Raise, Terms};
use super::super::check::RaiseOf;
use super::super::format::{DATA_AT, FLAG_OPEN, leaf_hash_at};
use super::*;
use crate::small_disk::SmallDisk;

const CHUNK: ChunkId = ChunkId::new(77);

fn version(number: u32) -> ChunkVersion {
    ChunkVersion::new(number)
}

fn plain(number: u32) -> Terms {
    Terms { version_from: Some(version(number)), version: version(number), cut_to: None }
}

fn piece_hashes(offset: u32, bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    let mut hashes = Vec::new();
    for part in split_at_leaves(offset, bytes.len() as u32) {
        let (piece, behind) = rest.split_at(part.length);
        hashes.extend_from_slice(hash_leaf(part.leaf_index, piece).as_bytes());
        rest = behind;
    }
    hashes
}

fn write(copy: &ChunkCopy, terms: &Terms, offset: u32, bytes: &[u8]) -> Result<u32, Fault> {
    let hashes = piece_hashes(offset, bytes);
    copy.change(terms, Action::Write(&[Piece { offset, bytes, hashes: &hashes }]), Raise::Durably, unhurried)
}

fn created(folder: &TempDir) -> ChunkCopy {
    let copy = ChunkCopy::create(folder.path().join("copy"), CHUNK, version(1)).unwrap();
    copy.change(&plain(1), Action::Nothing, Raise::Durably, unhurried).unwrap();
    copy
}

fn reopened(folder: &TempDir) -> ChunkCopy {
    ChunkCopy::open(folder.path().join("copy"), CHUNK, false).unwrap()
}

fn read_all(copy: &ChunkCopy, number: u32) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = Vec::new();
    loop {
        let served = copy.read(version(number), all.len() as u32, 1 << 20, &mut buffer, unhurried).unwrap();
        let bytes = &buffer[..served.length];
        assert_eq!(served.offset as usize, all.len());
        let expected: Vec<u8> =
            hash_leaves(served.offset / LEAF_BYTES as u32, bytes).flat_map(|leaf| *leaf.as_bytes()).collect();
        assert_eq!(served.hashes, expected, "leaves at {} do not match", served.offset);
        all.extend_from_slice(bytes);
        if all.len() == served.data_length as usize {
            return all;
        }
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn an_open_copy_is_raised_by_the_sync_of_what_is_written() {
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, &content(100)).unwrap();
    copy.sync(unhurried).unwrap();
    let raise = |from, to| Terms { version_from: Some(version(from)), version: version(to), cut_to: None };
    let hashes = piece_hashes(100, &content(50));
    let pieces = [Piece { offset: 100, bytes: &content(50), hashes: &hashes }];
    copy.note_entry_durable();
    copy.change(&raise(1, 2), Action::Write(&pieces), Raise::WithTheSync, unhurried).unwrap();
    assert!(copy.needs_sync(), "nothing was synced before the change");
    assert_eq!((reopened(&folder).held().version, read_all(&copy, 2).len()), (version(2), 150));
    copy.sync(unhurried).unwrap();
    copy.close(copy.generation()).unwrap();
    copy.change(&raise(2, 3), Action::Nothing, Raise::WithTheSync, unhurried).unwrap();
    assert!(!copy.needs_sync(), "the mark of a closed copy is durable before its first change");
}

#[test]
fn a_cut_is_durable_before_anything_is_written_behind_it() {
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, &content(3 * LEAF_BYTES)).unwrap();
    copy.note_entry_durable();
    let cut = |length| Terms { cut_to: Some(length), ..plain(1) };
    copy.change(&cut(100), Action::Nothing, Raise::Durably, unhurried).unwrap();
    assert!(!copy.needs_sync(), "a power cut would bring back what the master has as zeros");
    write(&copy, &cut(100), 200, &content(50)).unwrap();
    assert!(copy.needs_sync());
    let mut expected = content(100);
    expected.resize(200, 0);
    expected.extend(content(50));
    assert_eq!(read_all(&copy, 1), expected);
}

#[test]
fn pieces_in_any_leaves_are_written_with_one_change() {
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    let mut expected = content(5 << 20);
    write(&copy, &plain(1), 0, &expected).unwrap();
    let leaf = LEAF_BYTES as u32;
    let places = [(10, 5), (100, leaf), (2 * leaf - 1, 2), (200 * leaf, leaf), ((5 << 20) - 3, 7), (6 << 20, 9)];
    let bytes: Vec<Vec<u8>> = places.iter().map(|(at, length)| vec![*at as u8 ^ 0x5a; *length as usize]).collect();
    let hashes: Vec<Vec<u8>> = places.iter().zip(&bytes).map(|((at, _), bytes)| piece_hashes(*at, bytes)).collect();
    let pieces: Vec<Piece<'_>> = (0..places.len())
        .map(|number| Piece { offset: places[number].0, bytes: &bytes[number], hashes: &hashes[number] })
        .collect();
    copy.change(&plain(1), Action::Write(&pieces), Raise::Durably, unhurried).unwrap();
    for piece in &pieces {
        let (from, to) = (piece.offset as usize, piece.offset as usize + piece.bytes.len());
        expected.resize(expected.len().max(to), 0);
        expected[from..to].copy_from_slice(piece.bytes);
    }
    assert!(read_all(&copy, 1) == expected);
    assert!(read_all(&reopened(&folder), 1) == expected, "the file has the hashes, too");
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u32, length: u32, seed: u8 },
    Zero { offset: u32, length: u32 },
    Cut { length: u32, offset: u32, seed: u8 },
    Reopen,
    SyncAndClose,
    Raise,
}

fn step() -> impl Strategy<Value = Step> {
    // Offsets near leaf boundaries and anywhere, also beyond the 120 leaves of the header page.
    let offset = prop_oneof![
        0..100_000_u32,
        (0..8_u32, 0..3_u32).prop_map(|(leaf, by)| (leaf * LEAF_BYTES as u32 + by).saturating_sub(1)),
        1_900_000..2_100_000_u32,
    ];
    prop_oneof![
        4 => (offset.clone(), 1..60_000_u32, any::<u8>()).prop_map(|(offset, length, seed)| Step::Write { offset, length, seed }),
        1 => (offset.clone(), 1..80_000_u32).prop_map(|(offset, length)| Step::Zero { offset, length }),
        1 => (offset.clone(), offset, any::<u8>()).prop_map(|(length, offset, seed)| Step::Cut { length, offset, seed }),
        1 => Just(Step::Reopen),
        1 => Just(Step::SyncAndClose),
        1 => Just(Step::Raise),
    ]
}

fn put(model: &mut Vec<u8>, offset: u32, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if model.len() < end {
        model.resize(end, 0);
    }
    model[offset as usize..end].copy_from_slice(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_an_array_of_bytes(steps in proptest::collection::vec(step(), 1..14)) {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = created(&folder);
        let mut model: Vec<u8> = Vec::new();
        let mut number = 1;
        for step in steps {
            match step {
                Step::Write { offset, length, seed } => {
                    let bytes: Vec<u8> = content(length as usize).iter().map(|byte| byte ^ seed).collect();
                    let data_length = write(&copy, &plain(number), offset, &bytes).unwrap();
                    put(&mut model, offset, &bytes);
                    prop_assert_eq!(data_length as usize, model.len());
                }
                Step::Zero { offset, length } => {
                    copy.change(&plain(number), Action::Zero { offset, length }, Raise::Durably, unhurried).unwrap();
                    let end = model.len().min((offset + length) as usize);
                    if (offset as usize) < end {
                        model[offset as usize..end].fill(0);
                    }
                }
                Step::Cut { length, offset, seed } => {
                    let terms = Terms {
                        version_from: Some(version(number)),
                        version: version(number + 1),
                        cut_to: Some(length),
                    };
                    number += 1;
                    model.truncate(length as usize);
                    put(&mut model, offset, &[seed; 10]);
                    write(&copy, &terms, offset, &[seed; 10]).unwrap();
                }
                Step::Reopen => copy = reopened(&folder),
                Step::SyncAndClose => {
                    copy.sync(unhurried).unwrap();
                    copy.note_entry_durable();
                    copy.close(copy.generation()).unwrap();
                    prop_assert!(!copy.held().open);
                    copy = reopened(&folder);
                    prop_assert!(!copy.held().open);
                }
                Step::Raise => {
                    copy.raise(version(number), version(number + 1), RaiseOf::Whatever, unhurried).unwrap();
                    number += 1;
                }
            }
            prop_assert_eq!(read_all(&copy, number), model.clone());
        }
        let copy = reopened(&folder);
        prop_assert_eq!(copy.mismatches().unwrap(), Vec::<u32>::new());
        prop_assert_eq!(read_all(&copy, number), model);
    }
}

#[test]
fn version_rules() {
    let wrong = |have| Err(Fault::WrongVersion { have: version(have) });
    // The copy's version, version_from (0: none), version, what comes of it, the version afterwards.
    let table = [
        (5, 5, 5, Ok(10), 5),
        (5, 4, 5, Ok(10), 5),
        (5, 0, 5, Ok(10), 5),
        (5, 5, 6, Ok(10), 6),
        (5, 5, 9, Ok(10), 9),
        (5, 4, 6, wrong(5), 5),
        (5, 6, 6, wrong(5), 5),
        (5, 6, 7, wrong(5), 5),
        (5, 4, 4, wrong(5), 5),
        (5, 0, 4, wrong(5), 5),
        (5, 0, 6, wrong(5), 5),
    ];
    for (have, from, to, expected, after) in table {
        let folder = tempfile::tempdir().unwrap();
        let copy = ChunkCopy::create(folder.path().join("copy"), CHUNK, version(have)).unwrap();
        write(&copy, &plain(have), 0, &[1; 10]).unwrap();
        let terms = Terms { version_from: (from != 0).then(|| version(from)), version: version(to), cut_to: None };
        assert_eq!(write(&copy, &terms, 0, &[2; 10]), expected, "{have} {from} {to}");
        assert_eq!(copy.held().version, version(after));
        assert_eq!(reopened(&folder).held().version, version(after));
        assert_eq!(read_all(&copy, after), [if expected.is_ok() { 2 } else { 1 }; 10]);
    }
}

#[test]
fn a_closed_copy_is_marked_open_before_it_changes_and_a_sync_alone_does_not_open_it() {
    let folder = tempfile::tempdir().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, b"bytes").unwrap();
    copy.sync(unhurried).unwrap();
    copy.note_entry_durable();
    copy.close(copy.generation()).unwrap();
    copy.change(&plain(1), Action::Nothing, Raise::Durably, unhurried).unwrap();
    assert!(!reopened(&folder).held().open);
    write(&copy, &plain(1), 0, b"other").unwrap();
    assert!(reopened(&folder).held().open);
    // What was written after the generation was looked at keeps it open.
    let before = copy.generation();
    write(&copy, &plain(1), 0, b"third").unwrap();
    copy.sync(unhurried).unwrap();
    copy.close(before).unwrap();
    assert!(copy.held().open);
}

#[test]
fn a_full_chunk_and_a_gap_of_a_full_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let copy = created(&folder);
    let last = CHUNK_BYTES as u32 - 3;
    assert_eq!(write(&copy, &plain(1), last, b"end").unwrap(), CHUNK_BYTES as u32);
    assert_eq!(copy.mismatches().unwrap(), Vec::<u32>::new());
    let mut buffer = Vec::new();
    let served = copy.read(version(1), last, 3, &mut buffer, unhurried).unwrap();
    assert_eq!((served.offset, served.length), (CHUNK_BYTES as u32 - LEAF_BYTES as u32, LEAF_BYTES));
    assert!(buffer[..served.length].ends_with(b"end"));
    let (length, digest) = copy.digest(version(1), unhurried).unwrap();
    let mut all = vec![0; length as usize];
    all[last as usize..].copy_from_slice(b"end");
    assert_eq!(digest, *blake3::hash(&all).as_bytes());
    // At most one frame's payload, from a leaf boundary on.
    let served = copy.read(version(1), 5, 4 << 20, &mut buffer, unhurried).unwrap();
    assert_eq!((served.offset, served.length), (0, 4 << 20));
    assert_eq!(copy.read(version(1), 0, 0, &mut buffer, unhurried).unwrap().length, 0);
}

/// Flips a bit of the file and says what came of opening, of a read, and of the leaves.
fn flip(folder: &TempDir, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(folder.path().join("copy")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn damage_is_named_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(130 * LEAF_BYTES + 100);
    write(&created(&folder), &plain(1), 0, &bytes).unwrap();
    for at in [0, 9, 13, 17, 25, 29, 33, 37, 100, 252] {
        flip(&folder, at);
        let opened = ChunkCopy::open(folder.path().join("copy"), CHUNK, false);
        assert!(matches!(opened, Err(OpenFault::Header(_))), "byte {at} of the header: {opened:?}");
        flip(&folder, at);
    }
    for (at, leaf_index) in [
        (leaf_hash_at(0) + 3, 0),
        (leaf_hash_at(119) + 31, 119),
        (leaf_hash_at(130), 130),
        (DATA_AT, 0),
        (DATA_AT + 5 * LEAF_BYTES as u64 + 7, 5),
        (DATA_AT + bytes.len() as u64 - 1, 130),
    ] {
        flip(&folder, at);
        let copy = reopened(&folder);
        assert_eq!(copy.mismatches().unwrap(), [leaf_index]);
        // A change that needs the rest of the leaf refuses to build on it; one that replaces all of it heals it.
        let start = leaf_index * LEAF_BYTES as u32;
        let inside = write(&copy, &plain(1), start + 1, b"x");
        assert!(matches!(inside, Err(Fault::BadCopy { .. })), "{inside:?}");
        flip(&folder, at);
    }
    let another = ChunkCopy::open(folder.path().join("copy"), ChunkId::new(78), false);
    assert!(matches!(another, Err(OpenFault::Header(HeaderError::Field { field: "chunk id", .. }))));
    OpenOptions::new().write(true).open(folder.path().join("copy")).unwrap().set_len(DATA_AT + 50).unwrap();
    let read = reopened(&folder).read(version(1), 0, 100, &mut Vec::new(), unhurried);
    assert!(matches!(read, Err(Fault::BadCopy { .. })), "{read:?}");
    assert!(matches!(ChunkCopy::open(folder.path().join("none"), CHUNK, false), Err(OpenFault::Fault(Fault::NoChunk))));
}

#[test]
fn a_suspect_copy_takes_nothing_until_it_is_raised_and_then_keeps_the_data_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(3 * LEAF_BYTES);
    let copy = created(&folder);
    write(&copy, &plain(1), 0, &bytes).unwrap();
    copy.sync(unhurried).unwrap();
    drop(copy);
    // The data of an unsynced overwrite reached the disk, its hash did not; and bytes beyond the end did.
    let file = OpenOptions::new().write(true).open(folder.path().join("copy")).unwrap();
    file.write_all_at(b"torn", DATA_AT + LEAF_BYTES as u64).unwrap();
    file.write_all_at(b"beyond", DATA_AT + 3 * LEAF_BYTES as u64 + 100).unwrap();
    let copy = ChunkCopy::open(folder.path().join("copy"), CHUNK, true).unwrap();
    assert!(matches!(write(&copy, &plain(1), 0, b"x"), Err(Fault::BadCopy { .. })));
    assert!(matches!(copy.change(&plain(1), Action::Nothing, Raise::Durably, unhurried), Err(Fault::BadCopy { .. })));
    for offset in [0, LEAF_BYTES as u32] {
        assert_eq!(copy.read(version(1), offset, 1, &mut Vec::new(), unhurried).err(), Some(Fault::Suspect));
    }
    let digest = copy.digest(version(1), unhurried).unwrap();
    copy.raise(version(1), version(2), RaiseOf::Whatever, unhurried).unwrap();
    assert_eq!(copy.digest(version(2), unhurried).unwrap(), digest);
    assert!(matches!(write(&copy, &plain(1), 0, b"x"), Err(Fault::WrongVersion { .. })));
    let mut expected = bytes;
    expected[LEAF_BYTES..LEAF_BYTES + 4].copy_from_slice(b"torn");
    assert_eq!(read_all(&copy, 2), expected);
    write(&copy, &plain(2), 3 * LEAF_BYTES as u32 + 200, b"grown").unwrap();
    expected.resize(3 * LEAF_BYTES + 200, 0);
    expected.extend_from_slice(b"grown");
    assert_eq!(read_all(&reopened(&folder), 2), expected);
}

#[test]
fn what_a_killed_write_left_beyond_the_end_never_becomes_data() {
    let folder = tempfile::tempdir().unwrap();
    write(&created(&folder), &plain(1), 0, b"short").unwrap();
    let file = OpenOptions::new().write(true).open(folder.path().join("copy")).unwrap();
    file.write_all_at(&[0xaa; 50_000], DATA_AT + 5).unwrap();
    let copy = reopened(&folder);
    write(&copy, &plain(1), 30_000, b"far").unwrap();
    let mut expected = b"short".to_vec();
    expected.resize(30_000, 0);
    expected.extend_from_slice(b"far");
    assert_eq!(read_all(&copy, 1), expected);
}

#[test]
fn a_bad_copy_stays_bad() {
    let folder = tempfile::tempdir().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, b"bytes").unwrap();
    copy.mark_bad("a test said so");
    for copy in [copy, reopened(&folder)] {
        assert!(matches!(copy.read(version(1), 0, 1, &mut Vec::new(), unhurried), Err(Fault::BadCopy { .. })));
        assert!(matches!(write(&copy, &plain(1), 0, b"x"), Err(Fault::BadCopy { .. })));
        assert!(matches!(copy.sync(unhurried), Err(Fault::BadCopy { .. })));
        assert!(matches!(copy.raise(version(1), version(2), RaiseOf::Whatever, unhurried), Err(Fault::BadCopy { .. })));
    }
    assert_eq!(FLAG_OPEN & FLAG_BAD, 0);
}

/// A sync that was told of nothing, while another was told that the data are lost, must not pass for a good one.
#[test]
fn nothing_that_syncs_beside_a_sync_that_fails_returns_ok() {
    let lost = || Err(std::io::Error::from_raw_os_error(5));
    let raise = Terms { version_from: Some(version(1)), version: version(2), cut_to: None };
    for beside in ["a sync", "a raise"] {
        let folder = TempDir::new().unwrap();
        let copy = created(&folder);
        write(&copy, &plain(1), 0, &content(100)).unwrap();
        let (begun, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let copy = &copy;
            let failing = scope.spawn(move || {
                copy.sync_by(unhurried, |_| {
                    begun.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    lost()
                })
            });
            wait.recv().unwrap();
            let other = match beside {
                "a sync" => copy.sync_by(unhurried, |_| Ok(())),
                _ => copy.change(&raise, Action::Nothing, Raise::Durably, unhurried).map(|_| ()),
            };
            assert!(matches!(other, Err(Fault::BadCopy { .. })), "{beside}: {other:?}");
            assert!(matches!(failing.join().unwrap(), Err(Fault::Io { .. })));
        });
    }
    // Nor one during which a write failed.
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, &content(100)).unwrap();
    let synced = copy.sync_by(unhurried, |_| {
        copy.mark_bad("a write failed");
        Ok(())
    });
    assert!(matches!(synced, Err(Fault::BadCopy { .. })), "{synced:?}");
    copy.note_synced(copy.generation());
    assert!(copy.sync(unhurried).is_err());
}

fn efforts(copy: &ChunkCopy, number: u32) -> Vec<Effort> {
    let bytes = content(10);
    let hashes = piece_hashes(0, &bytes);
    let mut efforts = Vec::new();
    let pieces = [Piece { offset: 0, bytes: &bytes, hashes: &hashes }];
    copy.change(&plain(number), Action::Write(&pieces), Raise::WithTheSync, |effort| {
        efforts.push(effort);
        Ok(())
    })
    .unwrap();
    efforts
}

#[test]
fn an_open_mark_that_was_found_is_made_durable_before_the_first_change() {
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    assert_eq!(efforts(&copy, 1), [Effort::Io], "a new file");
    drop(copy);
    // As after `kill -9`: the mark is in the file, and nobody knows whether it is on the disk.
    let copy = reopened(&folder);
    assert!(copy.held().open);
    assert_eq!(efforts(&copy, 1), [Effort::Sync]);
    assert_eq!(efforts(&copy, 1), [Effort::Io]);
    // A sync that somebody asked for does as well.
    let copy = reopened(&folder);
    copy.sync(unhurried).unwrap();
    assert_eq!(efforts(&copy, 1), [Effort::Io]);
    copy.sync(unhurried).unwrap();
    copy.note_entry_durable();
    copy.close(copy.generation()).unwrap();
    assert_eq!(efforts(&copy, 1), [Effort::Sync], "a closed copy");
}

/// Else somebody who only waits for another's sync would make the volume look stalled.
#[test]
fn a_deadline_begins_when_the_copy_is_free() {
    let folder = TempDir::new().unwrap();
    let copy = created(&folder);
    write(&copy, &plain(1), 0, &content(100)).unwrap();
    let free = std::sync::atomic::AtomicBool::new(false);
    let enter = |_| {
        assert!(free.load(Ordering::SeqCst));
        Ok(())
    };
    std::thread::scope(|scope| {
        let (state, syncing) = (copy.write_state(), copy.lock_syncing());
        scope.spawn(|| copy.read(version(1), 0, 100, &mut Vec::new(), enter).unwrap());
        scope.spawn(|| copy.change(&plain(1), Action::Nothing, Raise::Durably, enter).unwrap());
        scope.spawn(|| copy.sync(enter).unwrap());
        scope.spawn(|| copy.digest(version(1), enter).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        free.store(true, Ordering::SeqCst);
        drop((state, syncing));
    });
}

#[test]
fn a_full_volume_costs_no_copy() {
    let Some(disk) = SmallDisk::of("4m") else { return };
    let copy = created(disk.folder());
    // The next leaf needs another page of the table of leaf hashes.
    let mut expected = content(120 * LEAF_BYTES);
    write(&copy, &plain(1), 0, &expected).unwrap();
    let leaf = LEAF_BYTES as u32;
    for pages_free in 0..5 {
        let filler = disk.fill(pages_free);
        let grown = write(&copy, &plain(1), 120 * leaf, &content(LEAF_BYTES));
        assert_eq!(grown, Err(Fault::NoSpace), "{pages_free} pages free");
        let bytes = vec![pages_free as u8; 100_000];
        let hashes = [piece_hashes(5, &bytes), piece_hashes(130 * leaf, &bytes)];
        let pieces = [
            Piece { offset: 5, bytes: &bytes, hashes: &hashes[0] },
            Piece { offset: 130 * leaf, bytes: &bytes, hashes: &hashes[1] },
        ];
        let both = copy.change(&plain(1), Action::Write(&pieces), Raise::Durably, unhurried);
        assert_eq!(both, Err(Fault::NoSpace), "{pages_free} pages free");
        assert!(!copy.is_bad(), "{pages_free} pages free");
        expected[5..5 + bytes.len()].copy_from_slice(&bytes);
        assert!(read_all(&copy, 1) == expected, "{pages_free} pages free");
        assert!(read_all(&reopened(disk.folder()), 1) == expected, "{pages_free} pages free, from the file");
        std::fs::remove_file(filler).unwrap();
    }
    write(&copy, &plain(1), 120 * leaf, &content(LEAF_BYTES)).unwrap();
    expected.extend(content(LEAF_BYTES));
    assert!(read_all(&reopened(disk.folder()), 1) == expected);
}

#[test]
fn a_copy_opened_on_a_read_only_filesystem_is_written_once_that_takes_writes() {
    let Some(disk) = SmallDisk::of("4m") else { return };
    let copy = created(disk.folder());
    write(&copy, &plain(1), 0, &content(100)).unwrap();
    copy.sync(unhurried).unwrap();
    drop(copy);
    disk.remount("ro");
    let copy = reopened(disk.folder());
    assert_eq!(read_all(&copy, 1), content(100));
    let refused = write(&copy, &plain(1), 0, &content(10));
    assert!(matches!(refused, Err(Fault::Io { errno: rfs_common::errno::Errno::EROFS, .. })), "{refused:?}");
    assert!(!copy.is_bad());
    disk.remount("rw");
    write(&copy, &plain(1), 100, &content(50)).unwrap();
    copy.sync(unhurried).unwrap();
    copy.note_entry_durable();
    copy.close(copy.generation()).unwrap();
    assert_eq!(reopened(disk.folder()).held().data_length, 150);
}
