//! Copies on a volume that went back to an older image: what a chunkserver refuses, and what makes a copy count again.

use std::process::Command;
use std::time::Duration;

use rfs_proto::cluster::Judgement;

use super::*;
use crate::chunk::change::{Action, Piece, Terms};
use crate::chunk::check::RaiseOf;
use crate::volume::store::Sync;
use crate::volume::store::tests::{chunk, new_volume, open};
use rfs_common::ids::ChunkVersion;
use rfs_common::leaf::hash_leaf;

fn write(volume: &Volume, number: u64, bytes: &[u8]) -> Result<u32, Fault> {
    let version = ChunkVersion::FIRST;
    let is_there = volume.held(chunk(number)).is_ok();
    let terms = Terms { version_from: is_there.then_some(version), version, cut_to: None };
    let hash = hash_leaf(0, bytes);
    let piece = Piece { offset: 0, bytes, hashes: hash.as_bytes() };
    volume.change(chunk(number), &terms, Action::Write(&[piece]), Sync::BeforeAnswer)
}

fn read(volume: &Volume, number: u64) -> Result<Vec<u8>, Fault> {
    let mut buffer = Vec::new();
    volume.read(chunk(number), ChunkVersion::FIRST, 0, 16384, &mut buffer).map(|_| buffer)
}

#[test]
fn an_older_image_has_the_epoch_of_its_time_however_often_it_is_started() {
    let folder = new_volume();
    let (volume, _reports) = open(folder.path());
    assert_eq!((volume.epoch(), volume.has_changed_since_epoch()), (0, false));
    write(&volume, 1, b"old").unwrap();
    assert!(volume.has_changed_since_epoch());
    volume.judge(&Judgement { epoch: 5, ..Judgement::default() });
    assert_eq!(volume.epoch(), 0, "not before it is on the disk");
    volume.look_after();
    assert_eq!((volume.epoch(), volume.has_changed_since_epoch()), (5, false));
    let image = tempfile::tempdir().unwrap();
    let source = folder.path().join(".");
    assert!(Command::new("cp").arg("-a").arg(source).arg(image.path()).status().unwrap().success());
    write(&volume, 1, b"new").unwrap();
    volume.judge(&Judgement { epoch: 6, ..Judgement::default() });
    volume.look_after();
    volume.close();
    volume.judge(&Judgement { epoch: 7, ..Judgement::default() });
    volume.look_after();
    drop(volume);
    let (volume, _reports) = open(folder.path());
    assert_eq!(volume.epoch(), 6, "and nothing after it was closed");
    for _ in 0..3 {
        let (older, _reports) = open(image.path());
        assert_eq!(older.epoch(), 5);
        older.close();
    }
}

#[test]
fn nobody_reads_or_writes_what_is_astray_until_the_master_says_so() {
    let folder = new_volume();
    let (volume, _reports) = open(folder.path());
    for number in 1..=4 {
        write(&volume, number, b"bytes").unwrap();
    }
    volume.judge(&Judgement { astray: true, ..Judgement::default() });
    assert_eq!(read(&volume, 1).unwrap_err(), Fault::Astray);
    assert_eq!(write(&volume, 1, b"other").unwrap_err(), Fault::Astray);
    assert_eq!(volume.sync(chunk(1), ChunkVersion::FIRST).unwrap_err(), Fault::Astray);
    assert!(volume.open_for_reader(chunk(1), ChunkVersion::FIRST).is_err());
    volume.digest(chunk(1), ChunkVersion::FIRST).unwrap();
    assert_eq!(volume.inventory().len(), 4, "they are told as ever");
    // What comes new is not astray.
    write(&volume, 9, b"new").unwrap();
    read(&volume, 9).unwrap();
    volume.judge(&Judgement { sound: vec![1], ..Judgement::default() });
    assert_eq!(read(&volume, 1).unwrap(), b"bytes");
    let to = ChunkVersion::new(2);
    assert_eq!(volume.raise(chunk(2), ChunkVersion::FIRST, to, RaiseOf::Sound).unwrap_err(), Fault::Astray);
    volume.raise(chunk(1), ChunkVersion::FIRST, ChunkVersion::FIRST, RaiseOf::Sound).unwrap();
    volume.raise(chunk(2), ChunkVersion::FIRST, to, RaiseOf::Whatever).unwrap();
    let mut buffer = Vec::new();
    volume.read(chunk(2), to, 0, 16384, &mut buffer).unwrap();
    volume.delete(chunk(3), 1).unwrap();
    write(&volume, 3, b"made anew").unwrap();
    assert_eq!(read(&volume, 4).unwrap_err(), Fault::Astray);
    // The master says so with each registration; what was decided since stays so.
    volume.judge(&Judgement { astray: true, ..Judgement::default() });
    for number in [1, 3, 9] {
        read(&volume, number).unwrap();
    }
    volume.read(chunk(2), to, 0, 16384, &mut buffer).unwrap();
    assert_eq!(read(&volume, 4).unwrap_err(), Fault::Astray);
    // With the next epoch the master is content with all of it.
    volume.judge(&Judgement { epoch: 9, ..Judgement::default() });
    volume.look_after();
    assert_eq!(read(&volume, 4).unwrap(), b"bytes");
    volume.close_idle(Duration::ZERO);
}
