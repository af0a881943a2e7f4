//! `golden/chunk-v1` is the beginning of a chunk file of format version 1, with leaf hashes beyond the header's page. It must
//! be read, and written, the same for ever. To add one for a new version: run this test with `RFS_WRITE_GOLDEN=1`, and never
//! do so for an old one.

use std::fs;
use std::path::{Path, PathBuf};

use rfs_common::ids::{ChunkId, ChunkVersion};
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, LeafHash, chunk_digest, hash_leaves};
use tempfile::TempDir;

use super::change::{Action, Piece, Raise, Terms};
use super::copy::{ChunkCopy, unhurried};

const CHUNK: ChunkId = ChunkId::new(0x0102_0304_0506_0708);
const VERSION: ChunkVersion = ChunkVersion::new(9);
/// 121 leaves and a short one: two hashes more than stand in the header's page.
const LENGTH: usize = 121 * LEAF_BYTES + 1000;
/// What is in `golden/chunk-v1`: header and leaf hashes.
const HEAD_BYTES: usize = 256 + 122 * LEAF_HASH_BYTES;
/// Where the data begins, as docs/formats/chunk.md says.
const DATA_BEGINS: usize = 147_456;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/chunk/golden/chunk-v1")
}

/// The whole file: the golden head, the hole, the data.
fn golden_file() -> Vec<u8> {
    let mut bytes = fs::read(golden_path()).unwrap();
    assert_eq!(bytes.len(), HEAD_BYTES);
    bytes.resize(DATA_BEGINS, 0);
    bytes.extend(content());
    bytes
}

/// A closed chunk file as it is written now.
fn written(folder: &TempDir) -> Vec<u8> {
    let path = folder.path().join("written");
    let copy = ChunkCopy::create(path.clone(), CHUNK, VERSION).unwrap();
    let (bytes, terms) = (content(), Terms { version_from: Some(VERSION), version: VERSION, cut_to: None });
    let hashes: Vec<u8> = hash_leaves(0, &bytes).flat_map(|leaf| *leaf.as_bytes()).collect();
    let whole = [Piece { offset: 0, bytes: &bytes, hashes: &hashes }];
    copy.change(&terms, Action::Write(&whole), Raise::Durably, unhurried).unwrap();
    copy.sync(unhurried).unwrap();
    copy.note_entry_durable();
    copy.close(copy.generation()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_chunk_of_version_1_is_written_the_same() {
    let folder = TempDir::new().unwrap();
    let bytes = written(&folder);
    if std::env::var_os("RFS_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(golden_path().parent().unwrap()).unwrap();
        fs::write(golden_path(), &bytes[..HEAD_BYTES]).unwrap();
    }
    let golden = golden_file();
    assert_eq!(bytes.len(), golden.len());
    let differs = bytes.iter().zip(&golden).position(|(now, then)| now != then);
    assert_eq!(differs, None, "a chunk file is written differently now");
}

#[test]
fn a_chunk_of_version_1_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("golden");
    fs::write(&path, golden_file()).unwrap();
    let copy = ChunkCopy::open(path, CHUNK, false).unwrap();
    assert_eq!((copy.held().version, copy.is_open_mark_set(), copy.is_bad()), (VERSION, false, false));
    let (mut all, mut leaves, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    while all.len() < LENGTH {
        let served = copy.read(VERSION, all.len() as u32, 1 << 20, &mut buffer, unhurried).unwrap();
        assert_eq!((served.offset as usize, served.data_length as usize), (all.len(), LENGTH));
        all.extend_from_slice(&buffer[..served.length]);
        leaves.extend(served.hashes.chunks(LEAF_HASH_BYTES).map(|hash| LeafHash::from_slice(hash).unwrap()));
    }
    assert!(all == content());
    // What the table holds merges into BLAKE3 of the content: an independent check of the golden hashes.
    assert_eq!(chunk_digest(&leaves, LENGTH as u32), *blake3::hash(&all).as_bytes());
}
