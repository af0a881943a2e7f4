//! Tests of a volume: what survives which end, eviction, deletion, and refusals.

use std::process::Command;

use rfs_common::clock::SystemClock;
use rfs_common::ids::{ClusterId, ServerId};
use rfs_common::leaf::hash_leaves;
use tempfile::TempDir;

use super::super::identity::Refusal;
use super::super::running;
use super::super::scan::Expected;
use super::*;
use crate::chunk::change::Piece;

pub(in crate::volume) fn around() -> (Surroundings, mpsc::Receiver<BadCopy>) {
    let (sender, receiver) = mpsc::channel(64);
    let settings = Settings {
        io_deadline: Duration::from_secs(5),
        sync_deadline: Duration::from_secs(20),
        close_after: Duration::from_secs(5),
        open_copies_max: 16,
        reserve_thousandths: 0,
        reserve_bytes_max: 0,
        scrub: ScrubSettings { period: Duration::from_secs(100), bytes_per_second_max: 1 << 30 },
    };
    let clock = SystemClock::shared();
    (Surroundings { settings, clock, bad_copies: sender, counters: Arc::default() }, receiver)
}

pub(in crate::volume) fn new_volume() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::of(folder.path()).unwrap();
    let (cluster, volume, server) = (ClusterId::new(1), VolumeId::new(2), ServerId::new(3));
    Identity::new(cluster, volume, server, "host".into(), &ground, String::new()).write(folder.path()).unwrap();
    folder
}

pub(in crate::volume) fn open(folder: &Path) -> (Volume, mpsc::Receiver<BadCopy>) {
    let (around, bad) = around();
    (Volume::open(folder, Expected::default(), &around).unwrap(), bad)
}

/// The folder as a crash leaves it: with everything the page cache has, and `running.toml` as it is.
fn crashed(folder: &Path, mount_change: u64) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let source = folder.join(".");
    assert!(Command::new("cp").arg("-a").arg(source).arg(copy.path()).status().unwrap().success());
    if mount_change != 0 {
        let ground = Ground::of(copy.path()).unwrap();
        running::mark_in_use(copy.path(), &Ground { mount: ground.mount + mount_change, ..ground }).unwrap();
    }
    copy
}

pub(in crate::volume) fn chunk(number: u64) -> ChunkId {
    ChunkId::new(number)
}

pub(in crate::volume) fn new_terms(number: u32) -> Terms {
    Terms { version_from: None, version: ChunkVersion::new(number), cut_to: None }
}

pub(in crate::volume) fn write(
    volume: &Volume,
    id: u64,
    terms: &Terms,
    bytes: &[u8],
    sync: Sync,
) -> Result<u32, Fault> {
    let hashes: Vec<u8> = hash_leaves(0, bytes).flat_map(|leaf| *leaf.as_bytes()).collect();
    volume.change(chunk(id), terms, Action::Write(&[Piece { offset: 0, bytes, hashes: &hashes }]), sync)
}

fn read(volume: &Volume, id: u64, number: u32) -> Result<Vec<u8>, Fault> {
    let mut buffer = Vec::new();
    let served = volume.read(chunk(id), ChunkVersion::new(number), 0, 1 << 20, &mut buffer)?;
    buffer.truncate(served.length);
    Ok(buffer)
}

fn held(volume: &Volume) -> Vec<(u64, Held)> {
    let copy = |(chunk, listed): (ChunkId, Listed)| match listed {
        Listed::Copy(held) => Some((chunk.get(), held)),
        Listed::Unreadable => None,
    };
    let mut all: Vec<_> = volume.inventory().into_iter().filter_map(copy).collect();
    all.sort_by_key(|(chunk, _)| *chunk);
    all
}

#[test]
fn a_clean_end_leaves_nothing_open_or_suspect() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    for id in 1..=40 {
        write(&volume, id, &new_terms(1), &[id as u8; 100], Sync::Later).unwrap();
    }
    volume.close();
    drop(volume);
    let moved = crashed(folder.path(), 0);
    let (volume, _bad) = open(moved.path());
    assert_eq!(volume.last_end(), LastEnd::Clean);
    assert_eq!(volume.chunk_count(), 40);
    assert!(held(&volume).iter().all(|(_, held)| !held.open && !held.suspect), "{:?}", held(&volume));
    assert_eq!(read(&volume, 40, 1).unwrap(), [40; 100]);
}

#[test]
fn a_killed_daemon_leaves_only_the_copy_suspect_that_was_being_written() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::Later).unwrap();
    write(&volume, 2, &new_terms(1), &[2; 100], Sync::Later).unwrap();
    let torn = crashed(folder.path(), 0);
    let path = Layout::new(torn.path()).path(chunk(2));
    std::os::unix::fs::FileExt::write_all_at(
        &fs::OpenOptions::new().write(true).open(path).unwrap(),
        b"half",
        crate::chunk::format::DATA_AT,
    )
    .unwrap();
    if volume.ground().mount == 0 {
        return;
    }
    let (after, _bad) = open(torn.path());
    assert_eq!(after.last_end(), LastEnd::ProcessEnded);
    let suspects: Vec<bool> = held(&after).iter().map(|(_, held)| held.suspect).collect();
    assert_eq!(suspects, [false, true]);
    after.close_idle(Duration::ZERO);
    assert_eq!(held(&after).iter().map(|(_, held)| held.open).collect::<Vec<_>>(), [false, true]);
    assert_eq!(read(&after, 1, 1).unwrap(), [1; 100]);
    assert!(matches!(read(&after, 2, 1), Err(Fault::Suspect)));
    let raised = after.raise(chunk(2), ChunkVersion::new(1), ChunkVersion::new(4), RaiseOf::Whatever).unwrap();
    assert_eq!((raised.version.get(), raised.suspect), (4, false));
    assert!(read(&after, 2, 4).unwrap().starts_with(b"half\x02"));
}

#[test]
fn after_a_power_cut_every_open_chunk_is_suspect_and_no_closed_one() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::BeforeAnswer).unwrap();
    volume.close_idle(Duration::ZERO);
    write(&volume, 2, &new_terms(1), &[2; 100], Sync::BeforeAnswer).unwrap();
    let after = crashed(folder.path(), 1);
    // A file that was made and never written.
    let layout = Layout::new(after.path());
    fs::write(layout.path(chunk(3)), []).unwrap();
    // One whose first sectors were lost: its bytes may be all that is left of a chunk.
    fs::write(layout.path(chunk(4)), [vec![0; 4096], vec![7; 300_000]].concat()).unwrap();
    fs::write(layout.path(chunk(5)), [1; 100]).unwrap();
    fs::write(after.path().join("incoming/000000000000000a.1"), "half a chunk").unwrap();
    let (after_volume, mut bad) = open(after.path());
    let lost = after.path().join("lost");
    assert_eq!(fs::read(lost.join("0000000000000004")).unwrap().len(), 304_096);
    assert_eq!(fs::read(lost.join("0000000000000005")).unwrap(), [1; 100]);
    assert_eq!(fs::read_dir(&lost).unwrap().count(), 2, "an empty file held nothing");
    assert!(after_volume.state().1.ends_with("lost: 2; look at them, then remove them"), "{:?}", after_volume.state());
    fs::remove_file(lost.join("0000000000000005")).unwrap();
    after_volume.look_after();
    assert!(after_volume.state().1.contains("lost: 1;"), "{:?}", after_volume.state());
    let suspects: Vec<_> = held(&after_volume).iter().map(|(chunk, held)| (*chunk, held.suspect)).collect();
    assert_eq!(suspects, [(1, false), (2, true)]);
    // What was acknowledged after its last sync may be on another copy of the same version.
    assert_eq!(read(&after_volume, 2, 1), Err(Fault::Suspect));
    let plain = Terms { version_from: Some(ChunkVersion::new(1)), ..new_terms(1) };
    assert!(write(&after_volume, 1, &plain, &[9; 5], Sync::Later).is_ok());
    assert!(matches!(write(&after_volume, 2, &plain, &[9; 5], Sync::Later), Err(Fault::BadCopy { .. })));
    assert!(matches!(after_volume.sync(chunk(2), ChunkVersion::new(1)), Err(Fault::BadCopy { .. })));
    assert_eq!(bad.try_recv().unwrap().chunk, chunk(2));
    // A clean end in between does not make it good.
    after_volume.close();
    drop(after_volume);
    let (after_volume, _bad) = open(after.path());
    assert_eq!(after_volume.last_end(), LastEnd::Clean);
    assert!(matches!(after_volume.sync(chunk(2), ChunkVersion::new(1)), Err(Fault::BadCopy { .. })));
    assert!(!layout.path(chunk(3)).exists());
    assert_eq!(fs::read_dir(after.path().join("incoming")).unwrap().count(), 0);
    // Nor does a raise for a writer that lives.
    let (from, to) = (ChunkVersion::new(1), ChunkVersion::new(2));
    assert!(matches!(after_volume.raise(chunk(2), from, to, RaiseOf::Sound), Err(Fault::BadCopy { .. })));
    assert!(matches!(after_volume.raise(chunk(2), from, from, RaiseOf::Sound), Err(Fault::BadCopy { .. })));
    after_volume.raise(chunk(2), from, to, RaiseOf::Whatever).unwrap();
    assert_eq!(read(&after_volume, 2, 2).unwrap(), [2; 100]);
}

#[test]
fn more_chunks_than_open_files_are_written_read_and_deleted() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    for id in 1..=100 {
        write(&volume, id, &new_terms(1), &[id as u8; 20], Sync::BeforeAnswer).unwrap();
    }
    assert!(volume.table().open_count() <= 32, "{}", volume.table().open_count());
    for id in 1..=100 {
        assert_eq!(read(&volume, id, 1).unwrap(), [id as u8; 20]);
    }
    assert!(matches!(volume.delete(chunk(7), 2), Err(Fault::WrongVersion { .. })));
    volume.delete(chunk(7), 1).unwrap();
    volume.delete(chunk(7), 1).unwrap();
    assert_eq!(read(&volume, 7, 1), Err(Fault::NoChunk));
    assert_eq!(volume.chunk_count(), 99);
    assert!(matches!(write(&volume, 8, &new_terms(2), &[1], Sync::Later), Err(Fault::Exists { .. })));
    assert!(write(&volume, 8, &new_terms(1), &[1], Sync::Later).is_ok());
    let plain = Terms { version_from: Some(ChunkVersion::new(1)), ..new_terms(1) };
    assert_eq!(write(&volume, 7, &plain, &[1], Sync::Later), Err(Fault::NoChunk));
}

#[test]
fn many_threads_on_few_chunks_lose_nothing() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let volume = &volume;
            scope.spawn(move || {
                for round in 0..100_u64 {
                    let id = round % 40 + 1;
                    let bytes = [thread as u8; 16];
                    let offset = thread as u32 * 16;
                    let hash = rfs_common::leaf::hash_leaf(0, &bytes);
                    let pieces = [Piece { offset, bytes: &bytes, hashes: hash.as_bytes() }];
                    let action = Action::Write(&pieces);
                    volume.change(chunk(id), &new_terms(1), action, Sync::Later).unwrap();
                    if round % 10 == 0 {
                        volume.close_idle(Duration::ZERO);
                    }
                }
            });
        }
    });
    for id in 1..=40 {
        let bytes = read(&volume, id, 1).unwrap();
        let expected: Vec<u8> = (0..64).map(|at| (at / 16) as u8).collect();
        assert_eq!(bytes, expected, "chunk {id}");
    }
}

#[test]
fn damaged_files_are_reported_and_can_be_deleted() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::Later).unwrap();
    volume.close();
    drop(volume);
    fs::write(Layout::new(folder.path()).path(chunk(1)), [7; 5000]).unwrap();
    let (volume, mut bad) = open(folder.path());
    volume.report_damaged();
    let report = bad.try_recv().unwrap();
    assert_eq!((report.chunk, report.version), (chunk(1), 0));
    assert!(report.reason.contains("magic"), "{}", report.reason);
    assert!(matches!(read(&volume, 1, 1), Err(Fault::BadCopy { .. })));
    assert_eq!(bad.try_recv().unwrap().version, 0, "the version asked for says nothing about the file");
    assert_eq!(volume.chunk_count(), 0);
    assert_eq!(volume.inventory(), [(chunk(1), Listed::Unreadable)]);
    volume.delete(chunk(1), 0).unwrap();
    assert!(volume.inventory().is_empty());
    assert_eq!(read(&volume, 1, 1), Err(Fault::NoChunk));
}

#[test]
fn refuses_other_owners_and_a_second_user() {
    let folder = new_volume();
    let (around, _bad) = around();
    let expect = |cluster, server| Expected {
        owner: Some((ClusterId::new(cluster), ServerId::new(server))),
        failed_before: false,
    };
    let refused = |expected| Volume::open(folder.path(), expected, &around).unwrap_err();
    assert!(matches!(refused(expect(9, 3)), Refusal::OtherCluster { .. }));
    assert!(matches!(refused(expect(1, 9)), Refusal::OtherServer { .. }));
    let (_volume, _bad) = open(folder.path());
    assert!(matches!(refused(expect(1, 3)), Refusal::Locked { .. }));
}

#[test]
fn a_full_volume_takes_no_new_chunks_and_a_failed_one_nothing() {
    let folder = new_volume();
    let (mut around, _bad) = around();
    around.settings.reserve_thousandths = 1000;
    around.settings.reserve_bytes_max = u64::MAX;
    let volume = Volume::open(folder.path(), Expected::default(), &around).unwrap();
    assert_eq!(write(&volume, 1, &new_terms(1), &[1], Sync::Later), Err(Fault::NoSpace));
    assert_eq!(volume.state().0, VolumeState::Full);
    volume.look_after();
    assert!(!volume.is_out());
    let fault = Fault::Io { operation: IoOperation::Write, errno: Errno::EIO };
    volume.note(chunk(1), ChunkVersion::new(1), &fault);
    assert_eq!(volume.state().0, VolumeState::ReadOnly);
    volume.look_after();
    assert_eq!(volume.state().0, VolumeState::Full);
    let fault = Fault::Io { operation: IoOperation::Read, errno: Errno::ESHUTDOWN };
    volume.note(chunk(1), ChunkVersion::new(1), &fault);
    assert_eq!(volume.state().0, VolumeState::Out);
    assert!(matches!(read(&volume, 1, 1), Err(Fault::VolumeOut { .. })));
}

#[test]
fn an_empty_copy_is_made_only_where_there_is_none() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(3), &[1; 100], Sync::Later).unwrap();
    assert!(matches!(volume.make_empty(chunk(1), ChunkVersion::new(5)), Err(Fault::Exists { .. })));
    assert_eq!(read(&volume, 1, 3).unwrap(), [1; 100]);
    for _ in 0..2 {
        let made = volume.make_empty(chunk(2), ChunkVersion::new(5)).unwrap();
        assert_eq!((made.version, made.data_length), (ChunkVersion::new(5), 0));
    }
    let after = crashed(folder.path(), 1);
    let (after_volume, _bad) = open(after.path());
    assert_eq!(held(&after_volume).len(), 2, "it outlives a power cut");
}

#[test]
fn what_is_mounted_in_place_of_a_volume_is_not_written_to() {
    let parent = tempfile::tempdir().unwrap();
    let (place, aside) = (parent.path().join("volume"), parent.path().join("aside"));
    fs::rename(new_volume().keep(), &place).unwrap();
    let (volume, _bad) = open(&place);
    // As with `umount --lazy`: what the daemon has open is elsewhere now, and the path leads to something else.
    fs::rename(&place, &aside).unwrap();
    fs::create_dir(&place).unwrap();
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::BeforeAnswer).unwrap();
    crate::volume::scrub::Scrubber::of(&volume).save(&volume);
    volume.mark_failed();
    volume.close();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "something was written where the volume is not");
    drop(volume);
    let (volume, _bad) = open(&aside);
    assert_eq!(read(&volume, 1, 1).unwrap(), [1; 100]);
    volume.close();
    drop(volume);
    // The same at the moment of opening.
    let root = File::open(&aside).unwrap();
    let (around, _bad) = around();
    let volume = Volume::open_root(root, &place, Expected::default(), &around).unwrap();
    assert_eq!(read(&volume, 1, 1).unwrap(), [1; 100]);
    volume.close();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "something was written where the volume is not");
}

#[test]
fn files_of_one_name_do_not_meet_in_the_folder_of_lost_ones() {
    let folder = new_volume();
    let layout = Layout::new(folder.path());
    layout.make_folder(chunk(3)).unwrap();
    for round in 1..=2 {
        // Neither end was clean, by a mark that cannot be read.
        fs::write(folder.path().join("running.toml"), "").unwrap();
        fs::write(layout.path(chunk(3)), vec![0; 1000 * round]).unwrap();
        drop(open(folder.path()));
    }
    let lost = folder.path().join("lost");
    assert_eq!(fs::read(lost.join("0000000000000003")).unwrap().len(), 1000);
    assert_eq!(fs::read(lost.join("0000000000000003.1")).unwrap().len(), 2000);
    // After a clean end nothing explains it: the file stays, and the master decides.
    let (volume, _bad) = open(folder.path());
    volume.close();
    drop(volume);
    fs::write(layout.path(chunk(3)), vec![0; 500]).unwrap();
    let (volume, _bad) = open(folder.path());
    assert_eq!(volume.inventory(), [(chunk(3), Listed::Unreadable)]);
}

#[test]
fn a_bad_copy_is_named_bad_also_after_a_restart() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::BeforeAnswer).unwrap();
    volume.close_idle(Duration::ZERO);
    write(&volume, 2, &new_terms(1), &[2; 100], Sync::Later).unwrap();
    for id in 1..=2 {
        volume.copy(chunk(id)).unwrap().mark_bad("a test");
    }
    let bad = |volume: &Volume| held(volume).iter().map(|(_, held)| (held.bad, held.suspect)).collect::<Vec<_>>();
    assert_eq!(bad(&volume), [(true, false); 2]);
    volume.close();
    drop(volume);
    for crash in [0, 1] {
        let after = crashed(folder.path(), crash);
        let (volume, _bad) = open(after.path());
        assert_eq!(bad(&volume), [(true, false); 2], "before a file is opened");
        assert!(matches!(read(&volume, 1, 1), Err(Fault::BadCopy { .. })));
        assert_eq!(bad(&volume), [(true, false); 2]);
    }
}

#[test]
fn nothing_grows_into_the_last_blocks_and_everything_else_goes_on() {
    let folder = new_volume();
    let (volume, _bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::Later).unwrap();
    *volume.space.lock().unwrap() = Space { total: 1 << 40, free: 1 << 20 };
    let plain = Terms { version_from: Some(ChunkVersion::new(1)), ..new_terms(1) };
    assert_eq!(write(&volume, 1, &plain, &[2; 101], Sync::Later), Err(Fault::NoSpace));
    write(&volume, 1, &plain, &[3; 100], Sync::BeforeAnswer).unwrap();
    assert_eq!(read(&volume, 1, 1).unwrap(), [3; 100]);
    assert_eq!(write(&volume, 2, &new_terms(1), &[2; 1], Sync::Later), Err(Fault::NoSpace));
    assert_eq!(volume.state().0, VolumeState::Full, "or writers would be sent here");
    assert_eq!(volume.chunk_count(), 1, "a chunk that could not be written is not made");
}

#[test]
fn the_failure_of_an_early_sync_is_reported() {
    let folder = new_volume();
    let (volume, mut bad) = open(folder.path());
    write(&volume, 1, &new_terms(1), &[1; 100], Sync::Later).unwrap();
    let copy = volume.copy(chunk(1)).unwrap();
    copy.mark_bad("a test");
    let entrance = || (Arc::clone(&volume.gate), Arc::clone(&volume.clock), Duration::from_secs(5));
    volume.early_syncs.ask(&copy, entrance);
    let deadline = volume.now() + Duration::from_secs(10);
    let report = loop {
        volume.note_early_syncs();
        match bad.try_recv() {
            Ok(report) => break report,
            Err(_) => assert!(volume.now() < deadline, "nothing is reported"),
        }
    };
    assert_eq!((report.chunk, report.version), (chunk(1), 1));
}
