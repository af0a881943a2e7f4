//! Tests of the scrub: what it finds, what it leaves alone, and that it goes on where it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::super::layout::Layout;
use super::super::store::tests::{chunk, new_terms, new_volume, open, write};
use super::super::store::{BadCopy, Sync};
use super::*;
use crate::chunk::change::{Action, Piece};
use crate::chunk::format::DATA_AT;
use rfs_common::ids::ChunkVersion;

const BYTES: usize = 3 << 20;

/// A volume with closed chunks 1 to `count`, 3 MiB each.
fn volume_with(count: u64) -> (TempDir, Volume, mpsc::Receiver<BadCopy>) {
    let folder = new_volume();
    let (volume, bad) = open(folder.path());
    for id in 1..=count {
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at as u64 / 1000 * id) as u8).collect();
        for (at, part) in bytes.chunks(1 << 20).enumerate() {
            let version_from = (at > 0).then(|| ChunkVersion::new(1));
            let terms = crate::chunk::change::Terms { version_from, ..new_terms(1) };
            let first = (at << 20) / LEAF_BYTES;
            let hashes: Vec<u8> =
                rfs_common::leaf::hash_leaves(first as u32, part).flat_map(|leaf| *leaf.as_bytes()).collect();
            let pieces = [Piece { offset: (at << 20) as u32, bytes: part, hashes: &hashes }];
            let action = Action::Write(&pieces);
            volume.change(chunk(id), &terms, action, Sync::Later).unwrap();
        }
    }
    volume.close_idle(Duration::ZERO);
    assert!(volume.copies_held().iter().all(|(_, held)| !held.open && held.data_length as usize == BYTES));
    (folder, volume, bad)
}

fn path(folder: &TempDir, id: u64) -> PathBuf {
    Layout::new(folder.path()).path(chunk(id))
}

fn overwrite(path: &Path, bytes: &[u8], at: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// One round to its end.
fn round(scrubber: &mut Scrubber, volume: &Volume) {
    scrubber.record.started = 0;
    scrubber.step(volume);
    while scrubber.round.is_some() {
        scrubber.step(volume);
    }
}

fn found(bad: &mut mpsc::Receiver<BadCopy>) -> Vec<(u64, u32)> {
    std::iter::from_fn(|| bad.try_recv().ok()).map(|bad| (bad.chunk.get(), bad.version)).collect()
}

#[test]
fn a_healthy_volume_is_read_to_its_end_and_nothing_is_found() {
    let (_folder, volume, mut bad) = volume_with(3);
    write(&volume, 9, &new_terms(1), &[9; 100], Sync::Later).unwrap();
    let mut scrubber = Scrubber::of(&volume);
    let mut pauses = scrubber.step(&volume);
    while scrubber.round.is_some() {
        pauses += scrubber.step(&volume);
    }
    assert_eq!(found(&mut bad), []);
    let progress = volume.scrubbed();
    assert_eq!((progress.done, progress.chunks, progress.found), (4, 4, 0));
    assert!(progress.completed > 0);
    // 9 MiB at 1 MiB a second.
    assert!((8.9..9.2).contains(&pauses.as_secs_f64()), "{pauses:?}");
    assert!(!scrubber.begin_if_due(&volume), "the next round is not due yet");
}

#[test]
fn every_kind_of_rot_is_found_and_the_healthy_chunk_is_not() {
    let (folder, volume, mut bad) = volume_with(8);
    overwrite(&path(&folder, 1), &[0xa5], DATA_AT + BYTES as u64 - 1);
    overwrite(&path(&folder, 2), &[0xa5], 30);
    overwrite(&path(&folder, 3), &[0xa5], 256 + 5);
    overwrite(&path(&folder, 4), &vec![0; DATA_AT as usize + BYTES], 0);
    fs::OpenOptions::new().write(true).open(path(&folder, 5)).unwrap().set_len(DATA_AT + 4096).unwrap();
    fs::remove_file(path(&folder, 6)).unwrap();
    fs::copy(path(&folder, 8), path(&folder, 7)).unwrap();
    let mut scrubber = Scrubber::of(&volume);
    round(&mut scrubber, &volume);
    assert_eq!(found(&mut bad), [1, 2, 3, 4, 5, 6, 7].map(|id| (id, 1)));
    assert_eq!(volume.scrubbed().found, 7);
    // A file that is gone is still known, so it is named again until the master has it deleted.
    volume.delete(chunk(2), 1).unwrap();
    scrubber.report_again(&volume);
    assert_eq!(found(&mut bad), [], "not at once");
    scrubber.report_next = volume.now();
    scrubber.report_again(&volume);
    assert_eq!(found(&mut bad), [1, 3, 4, 5, 6, 7].map(|id| (id, 1)));
}

#[test]
fn a_round_goes_on_where_the_last_use_of_the_volume_ended() {
    let (folder, volume, mut bad) = volume_with(4);
    let mut scrubber = Scrubber::of(&volume);
    while scrubber.round.as_ref().is_none_or(|round| round.chunks.len() > 2) {
        scrubber.step(&volume);
    }
    scrubber.step(&volume);
    scrubber.save(&volume);
    overwrite(&path(&folder, 1), &[0xa5], DATA_AT);
    overwrite(&path(&folder, 4), &[0xa5], DATA_AT);
    let mut scrubber = Scrubber::of(&volume);
    assert_eq!(scrubber.record.next, 3);
    scrubber.step(&volume);
    assert_eq!((volume.scrubbed().done, volume.scrubbed().chunks), (2, 4));
    while scrubber.round.is_some() {
        scrubber.step(&volume);
    }
    assert_eq!(found(&mut bad), [(4, 1)], "the first two were behind it");
    round(&mut scrubber, &volume);
    assert_eq!(found(&mut bad), [(1, 1), (4, 1)]);
}

#[test]
fn a_record_that_cannot_be_read_is_a_scrub_that_never_was() {
    let (folder, volume, _bad) = volume_with(1);
    for text in ["", "started = \"x\"", "started = 1\nunknown = 2"] {
        fs::write(folder.path().join(FILE_NAME), text).unwrap();
        assert_eq!(Scrubber::of(&volume).record, Record::default(), "{text}");
    }
}

#[test]
fn copies_that_are_marked_bad_are_reported() {
    let (_folder, volume, mut bad) = volume_with(2);
    volume.copy(chunk(2)).unwrap().mark_bad("a test");
    let mut scrubber = Scrubber::of(&volume);
    round(&mut scrubber, &volume);
    assert_eq!(found(&mut bad), [(2, 1)]);
}

#[test]
fn a_copy_that_the_master_asks_about_is_looked_at_out_of_turn_and_stands_in_the_inventory() {
    let (folder, volume, mut bad) = volume_with(4);
    let mut scrubber = Scrubber::of(&volume);
    round(&mut scrubber, &volume);
    overwrite(&path(&folder, 3), &[0xa5], DATA_AT + BYTES as u64 - 1);
    volume.ask_to_check(chunk(2));
    volume.ask_to_check(chunk(3));
    for _ in 0..3 {
        scrubber.step(&volume);
    }
    assert_eq!(found(&mut bad), [(3, 1)]);
    assert!(scrubber.round.is_none());
    let marked: Vec<u64> = volume
        .inventory()
        .into_iter()
        .filter(|(_, listed)| matches!(listed, crate::volume::store::Listed::Copy(held) if held.bad))
        .map(|(chunk, _)| chunk.get())
        .collect();
    assert_eq!(marked, [3]);
}

#[test]
fn a_file_cut_short_is_seen_when_the_volume_is_opened() {
    let (folder, volume, _bad) = volume_with(3);
    volume.close();
    drop(volume);
    fs::OpenOptions::new().write(true).open(path(&folder, 2)).unwrap().set_len(DATA_AT + 4096).unwrap();
    let (volume, mut bad) = open(folder.path());
    volume.report_damaged();
    assert_eq!(found(&mut bad), [(2, 1)]);
    let is_bad = |(_, listed): &(_, crate::volume::store::Listed)| matches!(listed, crate::volume::store::Listed::Copy(held) if held.bad);
    assert_eq!(volume.inventory().iter().filter(|listed| is_bad(listed)).count(), 1);
}
