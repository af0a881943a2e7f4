//! The data path against chunkservers in this process: what is written is read, whatever fails on the way.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rfs_common::clock::SystemClock;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::leaf::CHUNK_BYTES;
use rfs_proto::frame::FrameType;

use super::fake_chunkserver::Fault;
use super::fake_master::FakeMaster;
use super::{DataPath, DataSettings, Durability, FileData, Keep, ReadPatience};

const INODE: InodeId = InodeId::new(7);

fn settings() -> DataSettings {
    DataSettings {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(100),
        write_timeout: Duration::from_millis(150),
        avoid_time: Duration::from_millis(20),
        read_give_up: Duration::from_secs(5),
        write_give_up: Duration::from_secs(5),
        flusher_threads: 2,
        read_ahead_threads: 2,
        ..DataSettings::default()
    }
}

fn start_with(master: &Arc<FakeMaster>, settings: DataSettings) -> Arc<DataPath> {
    DataPath::new(settings, SystemClock::shared(), Arc::clone(master) as _).unwrap()
}

fn start(master: &Arc<FakeMaster>) -> Arc<DataPath> {
    start_with(master, settings())
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn read(file: &Arc<FileData>, offset: u64, length: usize, file_length: u64) -> Result<Vec<u8>, Errno> {
    let handle = file.open_handle();
    let mut out = vec![0xEE; length];
    let count = file.read(&handle, offset, &mut out, file_length, (Keep::UnderLease, &ReadPatience::new(&|| true)))?;
    out.truncate(count);
    Ok(out)
}

fn commit(master: &FakeMaster, file: &Arc<FileData>, durability: Durability) {
    master.commit(file.prepare_commit(durability).unwrap(), durability);
}

fn frames(master: &FakeMaster, frame_type: FrameType) -> u32 {
    master.servers.iter().map(|server| server.count(frame_type)).sum()
}

#[test]
fn a_small_file_is_one_frame_to_each_copy() {
    let master = FakeMaster::new(2, 2);
    let path = start(&master);
    let file = path.file(INODE);
    let bytes = pattern(5000, 1);
    assert_eq!(file.write(0, &bytes, 0), Ok(5000));
    assert_eq!(read(&file, 10, 10_000, 0).unwrap(), bytes[10..]);
    assert_eq!(frames(&master, FrameType::Write), 0);
    commit(&master, &file, Durability::Durable);
    assert_eq!((frames(&master, FrameType::Write), frames(&master, FrameType::SyncChunk)), (2, 0));
    assert!(!file.has_uncommitted() && !file.has_dirty());
    assert_eq!((master.length(), path.budget.used()), (5000, 0));
    assert_eq!(read(&path.file(INODE), 0, 9000, 5000).unwrap(), bytes);
    drop(file);
    assert_eq!(read(&start(&master).file(INODE), 0, 9000, 5000).unwrap(), bytes);
}

#[test]
fn a_large_file_goes_in_whole_pieces_over_two_chunks_within_the_bound() {
    let master = FakeMaster::new(3, 2);
    let bounded = DataSettings { dirty_bytes_max: 4 << 20, dirty_bytes_per_file_max: 4 << 20, ..settings() };
    let path = start_with(&master, DataSettings { write_timeout: Duration::from_secs(5), ..bounded });
    let file = path.file(INODE);
    let start_at = CHUNK_BYTES - (5 << 20);
    let bytes = pattern(10 << 20, 3);
    for (number, part) in bytes.chunks(128 << 10).enumerate() {
        file.write(start_at + (number as u64) * (128 << 10), part, 0).unwrap();
        assert!(path.budget.used() <= 4 << 20);
    }
    commit(&master, &file, Durability::Durable);
    let end = start_at + (10 << 20);
    assert_eq!(master.length(), end);
    let fresh = start_with(&master, DataSettings { read_timeout: Duration::from_secs(5), ..settings() });
    let (fresh_file, mut got) = (fresh.file(INODE), vec![0; 10 << 20]);
    let handle = fresh_file.open_handle();
    for (number, part) in got.chunks_mut(1 << 20).enumerate() {
        let patience = ReadPatience::new(&|| true);
        fresh_file.read(&handle, start_at + ((number as u64) << 20), part, end, (Keep::UnderLease, &patience)).unwrap();
    }
    assert!(got == bytes);
    assert_eq!(read(&fresh_file, start_at - 5000, 5000, end).unwrap(), [0; 5000]);
}

#[test]
fn scattered_small_writes_travel_together() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    for number in (0..400_u64).rev() {
        file.write(number * 20_000, &[number as u8; 4096], 0).unwrap();
    }
    file.sync().unwrap();
    // 256 pieces, and the rest; the first also makes the chunk.
    assert_eq!((frames(&master, FrameType::Write), frames(&master, FrameType::SyncChunk)), (2 * 2, 0));
    for number in [0, 255, 256, 399_u64] {
        assert_eq!(read(&file, number * 20_000, 5000, 0).unwrap()[..4096], [number as u8; 4096]);
    }
}

#[test]
fn an_acknowledged_rewrite_replaces_what_was_cached() {
    let master = FakeMaster::new(2, 2);
    let path = start(&master);
    let file = path.file(INODE);
    file.write(0, &[1; 50_000], 0).unwrap();
    file.flush().unwrap();
    assert_eq!(path.reader.local.writes(), 1, "files of copies on this host are forgotten with the grant");
    assert_eq!(read(&file, 20_000, 100, 0).unwrap(), [1; 100]);
    file.write(20_000, &[2; 100], 0).unwrap();
    file.flush().unwrap();
    assert_eq!(read(&file, 19_900, 200, 0).unwrap(), [[1; 100], [2; 100]].concat());
    file.zero(19_950, 100).unwrap();
    file.flush().unwrap();
    assert_eq!(read(&file, 19_900, 200, 0).unwrap(), [[1; 50], [0; 50], [0; 50], [2; 50]].concat());
}

#[test]
fn a_commit_ends_the_grant_and_the_next_write_raises_the_version() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    for round in 0..3_u8 {
        file.write(u64::from(round) * 100, &[round; 200], file.local_length().unwrap_or(master.length())).unwrap();
        commit(&master, &file, Durability::Durable);
    }
    assert_eq!(master.grants(), 3);
    let got = read(&file, 0, 1000, master.length()).unwrap();
    assert_eq!(got, [[0; 100].as_slice(), &[1; 100], &[2; 200]].concat());
}

#[test]
fn writes_during_a_commit_wait_for_it() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(0, &[1; 100], 0).unwrap();
    let committable = file.prepare_commit(Durability::Durable).unwrap();
    file.write(0, &[2; 150], 0).unwrap();
    let flushing = std::thread::spawn({
        let file = Arc::clone(&file);
        move || file.flush()
    });
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(frames(&master, FrameType::Write), 2);
    assert_eq!((committable.length, committable.chunks[0].length), (Some(100), 100));
    master.commit(committable, Durability::Durable);
    flushing.join().unwrap().unwrap();
    assert_eq!(frames(&master, FrameType::Write), 4);
    assert_eq!(file.local_length(), Some(150));
    let rest = file.committable().unwrap();
    assert_eq!((rest.length, rest.chunks[0].length), (Some(150), 150));
    drop(rest);
    commit(&master, &file, Durability::Durable);
    assert_eq!((file.committable().is_none(), master.length()), (true, 150));
}

#[test]
fn a_copy_that_fails_is_replaced_and_the_rest_is_sent_again() {
    for fault in [Fault::NoSpace, Fault::WrongVersion, Fault::Drop, Fault::DropAfter, Fault::Stall(400)] {
        for position in 0..2 {
            let master = FakeMaster::new(3, 2);
            let file = start(&master).file(INODE);
            file.write(0, &pattern(30_000, 1), 0).unwrap();
            file.flush().unwrap();
            master.server(&master.places(0)[position]).state().change_faults.push_back(fault);
            file.write(20_000, &pattern(30_000, 2), 0).unwrap();
            commit(&master, &file, Durability::Durable);
            assert!(!master.copy_failures().is_empty() || matches!(fault, Fault::Drop | Fault::DropAfter));
            let mut wanted = pattern(50_000, 1);
            wanted[20_000..].copy_from_slice(&pattern(30_000, 2));
            assert!(read(&start(&master).file(INODE), 0, 60_000, 50_000).unwrap() == wanted, "{fault:?} {position}");
        }
    }
}

#[test]
fn a_payload_damaged_on_the_way_is_sent_again() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    master.servers[0].state().change_faults.push_back(Fault::BadHashSent);
    file.write(0, &pattern(100, 1), 0).unwrap();
    commit(&master, &file, Durability::Durable);
    assert!(master.copy_failures().is_empty());
    assert_eq!(read(&start(&master).file(INODE), 0, 100, 100).unwrap(), pattern(100, 1));
}

#[test]
fn a_read_passes_over_a_bad_copy_and_reports_it() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(0, &pattern(100_000, 1), 0).unwrap();
    commit(&master, &file, Durability::Durable);
    for fault in [Fault::WrongHash, Fault::Drop, Fault::WrongVersion, Fault::Stall(300)] {
        let first = &master.places(0)[0];
        master.server(first).state().read_faults.push_back(fault);
        assert!(read(&start(&master).file(INODE), 0, 100_000, 100_000).unwrap() == pattern(100_000, 1), "{fault:?}");
    }
    let bad = master.bad_copies();
    assert_eq!((bad.len(), bad[0].errno), (1, Errno::EBADMSG));
}

#[test]
fn a_copy_that_is_wrong_everywhere_is_not_handed_out() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(0, &pattern(100, 1), 0).unwrap();
    commit(&master, &file, Durability::Durable);
    for server in &master.servers {
        server.state().read_faults.extend([Fault::WrongHash; 500]);
    }
    let hasty = DataSettings { read_give_up: Duration::from_millis(100), ..settings() };
    assert_eq!(read(&start_with(&master, hasty).file(INODE), 0, 100, 100), Err(Errno::EIO));
}

#[test]
fn what_is_lost_is_told_once_to_each_handle_and_never_vouched_for() {
    let master = FakeMaster::new(2, 2);
    let path = start_with(&master, DataSettings { write_give_up: Duration::from_millis(200), ..settings() });
    let file = path.file(INODE);
    file.write(0, &[1; 1000], 0).unwrap();
    file.flush().unwrap();
    let (first, second) = (file.open_handle(), file.open_handle());
    let servers: Vec<_> = master.places(0).iter().map(|place| master.server(place)).collect();
    servers[1].state().broken = Some(Fault::Drop);
    file.write(500, &[2; 1000], 0).unwrap();
    assert!(file.prepare_commit(Durability::Durable).is_err());
    assert_eq!(file.take_error(&first), Err(Errno::EIO));
    assert_eq!(file.take_error(&first), Ok(()));
    assert_eq!(file.take_error(&second), Err(Errno::EIO));
    assert_eq!((file.take_error(&file.open_handle()), path.budget.used()), (Ok(()), 0));
    assert_eq!(read(&file, 600, 10, 0), Err(Errno::EIO));
    assert_eq!(read(&file, 0, 500, 0).unwrap(), [1; 500]);
    servers[1].state().broken = None;
    file.write(600, &[3; 100], 0).unwrap();
    assert_eq!(read(&file, 600, 100, 0).unwrap(), [3; 100]);
    commit(&master, &file, Durability::Durable);
    let wanted = [[1; 500].as_slice(), &[0; 100], &[3; 100], &[0; 800]].concat();
    assert_eq!(read(&file, 0, 2000, master.length()).unwrap(), wanted);
    assert_eq!(read(&start(&master).file(INODE), 0, 2000, 1500).unwrap(), wanted);
}

#[test]
fn the_masters_refusal_reaches_the_application() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    let handle = file.open_handle();
    master.refuse(Some(Errno::ENOSPC));
    file.write(0, &[1; 10], 0).unwrap();
    assert_eq!(file.flush(), Err(Errno::ENOSPC));
    assert_eq!(file.take_error(&handle), Err(Errno::ENOSPC));
    master.refuse(None);
    file.write(0, &[2; 10], 0).unwrap();
    commit(&master, &file, Durability::Durable);
    assert_eq!(read(&file, 0, 10, 10).unwrap(), [2; 10]);
}

#[test]
fn what_was_lost_before_it_was_sent_leaves_what_was_there() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(0, &[1; 1000], 0).unwrap();
    commit(&master, &file, Durability::Durable);
    file.invalidate();
    let handle = file.open_handle();
    master.refuse(Some(Errno::EIO));
    file.write(100, &[2; 50], 1000).unwrap();
    assert_eq!((file.flush(), file.take_error(&handle)), (Err(Errno::EIO), Err(Errno::EIO)));
    assert_eq!(read(&file, 100, 50, 1000), Err(Errno::EIO));
    master.refuse(None);
    file.write(500, &[3; 10], 1000).unwrap();
    commit(&master, &file, Durability::Durable);
    let wanted = [[1; 500].as_slice(), &[3; 10], &[1; 490]].concat();
    assert_eq!(read(&file, 0, 1000, 1000).unwrap(), wanted);
    assert_eq!(read(&start(&master).file(INODE), 0, 1000, 1000).unwrap(), wanted);
}

#[test]
fn what_was_lost_is_not_lost_again_by_the_next_try() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    let handle = file.open_handle();
    master.refuse(Some(Errno::ENOSPC));
    file.write(0, &[1; 10], 0).unwrap();
    assert_eq!((file.flush(), file.take_error(&handle)), (Err(Errno::ENOSPC), Err(Errno::ENOSPC)));
    assert_eq!((file.flush(), file.take_error(&handle)), (Ok(()), Ok(())), "the lost end was cut off");
    assert_eq!((file.take_error_at_close(&handle), file.local_length()), (Ok(()), None));
    file.truncate(0);
    assert_eq!((file.flush(), file.has_uncommitted()), (Ok(()), false));
}

#[test]
fn a_full_cluster_is_told_by_the_next_write_and_leaves_no_zeros() {
    let master = FakeMaster::new(2, 2);
    let path = start(&master);
    let file = path.file(INODE);
    let handle = file.open_handle();
    file.write(0, &[1; 1000], 0).unwrap();
    file.flush().unwrap();
    master.refuse(Some(Errno::ENOSPC));
    let second = CHUNK_BYTES;
    // The cluster is not known to be full yet.
    file.write(second, &[2; 1000], 0).unwrap();
    assert_eq!((file.local_length(), file.flush()), (Some(second + 1000), Err(Errno::ENOSPC)));
    assert_eq!(file.local_length(), Some(1000), "what was lost is not the file's end");
    assert_eq!([file.take_error_at_write(&handle), file.take_error_at_write(&handle)], [Err(Errno::ENOSPC), Ok(())]);
    // Now it is: nothing is taken that has no place.
    assert_eq!(file.write(second, &[3; 1000], 0), Err(Errno::ENOSPC));
    assert_eq!((file.local_length(), path.budget.used()), (Some(1000), 0));
    // Where there is space, writing goes on, and is on the copies at once.
    file.write(1000, &[4; 10], 0).unwrap();
    assert!(!file.has_dirty());
    commit(&master, &file, Durability::Durable);
    assert_eq!(master.length(), 1010);
    master.refuse(None);
    file.write(second, &[5; 10], 1010).unwrap();
    assert!(!file.has_dirty());
    file.write(second + 10, &[6; 10], 1010).unwrap();
    assert!(file.has_dirty(), "there is space again, which nobody has to wait for");
    commit(&master, &file, Durability::Durable);
    let fresh = start(&master).file(INODE);
    assert_eq!(read(&fresh, 0, 1010, second + 20).unwrap(), [[1; 1000].as_slice(), &[4; 10]].concat());
    assert_eq!(read(&fresh, second, 100, second + 20).unwrap(), [[5; 10], [6; 10]].concat());
}

#[test]
fn copies_without_space_are_tried_a_few_times_and_the_file_ends_before_what_was_lost() {
    let master = FakeMaster::new(2, 2);
    let path = start(&master);
    let file = path.file(INODE);
    file.write(0, &[1; 1000], 0).unwrap();
    file.flush().unwrap();
    let handle = file.open_handle();
    let servers: Vec<_> = master.places(0).iter().map(|place| master.server(place)).collect();
    // The next chunk finds room, and this one cannot grow.
    file.write(CHUNK_BYTES, &[2; 1000], 0).unwrap();
    file.flush().unwrap();
    servers.iter().for_each(|server| server.state().broken = Some(Fault::NoSpace));
    let clock = SystemClock::shared();
    let begun = clock.monotonic();
    file.write(1000, &[3; 1000], 0).unwrap();
    assert_eq!(file.flush(), Err(Errno::ENOSPC));
    assert!(
        clock.monotonic().since(begun) < Duration::from_secs(2),
        "they are not asked for as long as one that is away"
    );
    assert_eq!((file.local_length(), file.take_error_at_write(&handle)), (Some(1000), Err(Errno::ENOSPC)));
    servers.iter().for_each(|server| server.state().broken = None);
    commit(&master, &file, Durability::Durable);
    assert_eq!((master.length(), read(&file, 0, 5000, 1000).unwrap()), (1000, vec![1; 1000]));
    file.write(CHUNK_BYTES, &[4; 10], 1000).unwrap();
    commit(&master, &file, Durability::Durable);
    let fresh = start(&master).file(INODE);
    assert_eq!(read(&fresh, CHUNK_BYTES, 5000, CHUNK_BYTES + 10).unwrap(), [4; 10]);
    assert_eq!(read(&fresh, 0, 3000, CHUNK_BYTES + 10).unwrap(), [[1; 1000].as_slice(), &[0; 2000]].concat());
}

#[test]
fn what_a_commit_under_way_tells_of_is_not_cut_with_what_was_lost_meanwhile() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(CHUNK_BYTES, &[1; 1000], 0).unwrap();
    file.flush().unwrap();
    let under_way = file.committable().unwrap();
    assert_eq!(under_way.length, Some(CHUNK_BYTES + 1000));
    master.refuse(Some(Errno::ENOSPC));
    file.write(0, &[2; 10], 0).unwrap();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| file.flush());
        while file.state().lost_from.is_none() {
            std::thread::yield_now();
        }
        master.commit(under_way, Durability::Acknowledged);
        assert_eq!(flush.join().unwrap(), Err(Errno::ENOSPC));
    });
    master.refuse(None);
    assert_eq!(read(&file, CHUNK_BYTES, 1000, master.length()).unwrap(), [1; 1000]);
    commit(&master, &file, Durability::Durable);
    let fresh = start(&master).file(INODE);
    assert_eq!(
        (master.length(), read(&fresh, CHUNK_BYTES, 1000, CHUNK_BYTES + 1000).unwrap()),
        (CHUNK_BYTES + 1000, vec![1; 1000])
    );
}

#[test]
fn what_was_acknowledged_before_others_cut_the_file_does_not_count_for_its_length() {
    let master = FakeMaster::new(2, 2);
    let file = start(&master).file(INODE);
    file.write(0, &[1; 1000], 0).unwrap();
    commit(&master, &file, Durability::Acknowledged);
    // The lease goes, another client cuts the file, and the lease comes back.
    file.invalidate();
    master.set_length(0);
    file.write(0, &[2; 500], 0).unwrap();
    assert_eq!(file.committable().unwrap().length, None, "nothing of it has been sent");
    commit(&master, &file, Durability::Acknowledged);
    assert_eq!(master.length(), 500);
}

#[test]
fn a_read_without_a_copy_asks_less_and_less_often() {
    let patience = ReadPatience::new(&|| true);
    let pauses: Vec<u128> = (0..6).map(|_| patience.next_pause().as_millis()).collect();
    assert_eq!(pauses, [20, 40, 80, 160, 250, 250]);
}

#[test]
fn discarding_drops_the_unsent_and_tells() {
    let master = FakeMaster::new(2, 2);
    let path = start(&master);
    let file = path.file(INODE);
    let handle = file.open_handle();
    file.write(0, &[1; 10], 0).unwrap();
    file.discard();
    assert_eq!((file.take_error(&handle), file.has_uncommitted(), path.budget.used()), (Err(Errno::EIO), false, 0));
    file.flush().unwrap();
    assert_eq!(frames(&master, FrameType::Write), 0);
}

#[test]
fn a_sequential_reader_is_read_ahead_of_and_finds_its_bytes_in_the_cache() {
    let master = FakeMaster::new(2, 2);
    let writing = start_with(&master, DataSettings { write_timeout: Duration::from_secs(5), ..settings() });
    let file = writing.file(INODE);
    let bytes = pattern(6 << 20, 9);
    file.write(0, &bytes, 0).unwrap();
    commit(&master, &file, Durability::Acknowledged);
    let path = start_with(&master, DataSettings { read_timeout: Duration::from_secs(5), ..settings() });
    let file = path.file(INODE);
    let (handle, mut got) = (file.open_handle(), vec![0; 6 << 20]);
    for (number, part) in got.chunks_mut(128 << 10).enumerate() {
        file.read(
            &handle,
            (number as u64) * (128 << 10),
            part,
            6 << 20,
            (Keep::UnderLease, &ReadPatience::new(&|| true)),
        )
        .unwrap();
    }
    assert!(got == bytes);
    // One for each part if nothing were read ahead; how far ahead it gets depends on the machine.
    let parts = (6 << 20) / (128 << 10);
    assert!(frames(&master, FrameType::Read) < parts, "{} reads", frames(&master, FrameType::Read));
    assert!(!path.connections.is_avoided(&master.servers[0].place));
}

#[test]
fn nothing_is_fetched_ahead_or_kept_once_the_lease_of_the_read_is_gone() {
    let master = FakeMaster::new(2, 2);
    let patient =
        DataSettings { write_timeout: Duration::from_secs(5), read_timeout: Duration::from_secs(5), ..settings() };
    let writing = start_with(&master, patient.clone()).file(INODE);
    writing.write(0, &pattern(4 << 20, 1), 0).unwrap();
    commit(&master, &writing, Durability::Acknowledged);
    let path = start_with(&master, DataSettings { read_ahead_threads: 0, ..patient });
    let (file, patience) = (path.file(INODE), ReadPatience::new(&|| true));
    let (handle, mut out) = (file.open_handle(), vec![0; 128 << 10]);
    for number in 0..4_u64 {
        file.read(&handle, number * (128 << 10), &mut out, 4 << 20, (Keep::UnderLease, &patience)).unwrap();
    }
    let chunk = file.places(0).unwrap().unwrap();
    let fetched = frames(&master, FrameType::Read);
    file.invalidate();
    path.fetches.pop().expect("a fetch was queued").run();
    assert_eq!((frames(&master, FrameType::Read), path.cache.bytes()), (fetched, 0));
    assert!(file.state().located.is_empty(), "the fetch asked the master, without a lease");
    // A fetch in several parts: the part after the invalidation.
    let before = file.state().invalidations;
    file.invalidate();
    assert!(file.fetch(&chunk, 0..8, before).is_err());
    assert_eq!((frames(&master, FrameType::Read), path.cache.bytes()), (fetched, 0));
}

#[test]
fn a_read_without_a_lease_leaves_nothing_behind() {
    let master = FakeMaster::new(2, 2);
    let writing = start(&master).file(INODE);
    writing.write(0, &pattern(600_000, 1), 0).unwrap();
    commit(&master, &writing, Durability::Acknowledged);
    let path = start(&master);
    let (file, patience) = (path.file(INODE), ReadPatience::new(&|| true));
    let (handle, mut out) = (file.open_handle(), vec![0; 300_000]);
    for offset in [0, 300_000] {
        file.read(&handle, offset, &mut out, 600_000, (Keep::Nothing, &patience)).unwrap();
        assert!(out == pattern(600_000, 1)[offset as usize..][..300_000]);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((path.cache.bytes(), file.state().located.len()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Read(u64, usize),
    Truncate(u64),
    Zero(u64, u64),
    Flush,
    Commit(Durability),
    Invalidate,
    Fail(usize, Fault),
    FailRead(usize, Fault),
}

const WINDOW_BYTES: usize = 3 << 20;

/// Offsets in two windows: the file's start, and around the border of the first two chunks.
fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..100_000_u64, 2 => 0..2_000_000_u64, 1 => CHUNK_BYTES - 60_000..CHUNK_BYTES + 60_000]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = || prop_oneof![3 => 1..6000_usize, 2 => 1..100_000_usize, 1 => 1..900_000_usize];
    let fault = prop_oneof![
        Just(Fault::NoSpace),
        Just(Fault::BadHashSent),
        Just(Fault::WrongVersion),
        Just(Fault::Drop),
        Just(Fault::DropAfter)
    ];
    let read_fault = prop_oneof![Just(Fault::WrongHash), Just(Fault::Drop), Just(Fault::WrongVersion)];
    let step = prop_oneof![
        10 => (offsets(), length(), 1..=255_u8).prop_map(|(at, length, fill)| Step::Write(at, length, fill)),
        8 => (offsets(), length()).prop_map(|(at, length)| Step::Read(at, length)),
        3 => offsets().prop_map(Step::Truncate),
        2 => (offsets(), length()).prop_map(|(at, length)| Step::Zero(at, length as u64)),
        2 => Just(Step::Flush),
        2 => prop_oneof![Just(Durability::Acknowledged), Just(Durability::Durable)].prop_map(Step::Commit),
        1 => Just(Step::Invalidate),
        3 => (0..3_usize, fault).prop_map(|(server, fault)| Step::Fail(server, fault)),
        2 => (0..3_usize, read_fault).prop_map(|(server, fault)| Step::FailRead(server, fault)),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    master: Arc<FakeMaster>,
    file: Arc<FileData>,
    model: Vec<u8>,
    length: u64,
}

impl World {
    fn run(&mut self, step: &Step) {
        match *step {
            Step::Write(at, length, fill) => {
                let bytes = pattern(length, fill);
                self.length = self.file.write(at, &bytes, self.length).unwrap();
                self.model[at as usize..at as usize + length].copy_from_slice(&bytes);
            }
            Step::Read(at, length) => self.check(&self.file, at, length),
            Step::Truncate(length) => {
                self.master.set_length(length);
                self.file.truncate(length);
                let old = self.length.max(length) as usize;
                self.model[length as usize..old].fill(0);
                self.length = length;
            }
            Step::Zero(at, length) => {
                let end = (at + length).min(self.length);
                if at < end {
                    self.file.zero(at, end - at).unwrap();
                    self.model[at as usize..end as usize].fill(0);
                }
            }
            Step::Flush => self.file.flush().unwrap(),
            Step::Commit(durability) => commit(&self.master, &self.file, durability),
            Step::Invalidate => self.file.invalidate(),
            Step::Fail(server, fault) => self.master.servers[server].state().change_faults.push_back(fault),
            Step::FailRead(server, fault) => self.master.servers[server].state().read_faults.push_back(fault),
        }
    }

    fn check(&self, file: &Arc<FileData>, at: u64, length: usize) {
        let wanted = &self.model[at as usize..(at as usize + length).min(self.length.max(at) as usize)];
        let got = read(file, at, length, self.length).unwrap();
        assert_eq!(got.len(), wanted.len());
        let wrong = (0..got.len()).find(|byte| got[*byte] != wanted[*byte]);
        assert_eq!(wrong, None, "reading {length} at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_an_array_whatever_fails(steps in steps()) {
        let master = FakeMaster::new(3, 2);
        let small = DataSettings {
            dirty_bytes_max: 700_000,
            dirty_bytes_per_file_max: 500_000,
            cache_bytes_max: 300_000,
            ..settings()
        };
        let timeouts = DataSettings {
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(3),
            ..small
        };
        let path = start_with(&master, timeouts.clone());
        let model = vec![0; CHUNK_BYTES as usize + WINDOW_BYTES];
        let mut world = World { file: path.file(INODE), master: Arc::clone(&master), model, length: 0 };
        for step in &steps {
            world.run(step);
        }
        commit(&master, &world.file, Durability::Durable);
        prop_assert_eq!(world.length, master.length());
        prop_assert!(!world.file.has_uncommitted());
        prop_assert_eq!(path.budget.used(), 0);
        let fresh = start_with(&master, timeouts).file(INODE);
        for file in [&world.file, &fresh] {
            world.check(file, 0, WINDOW_BYTES);
            world.check(file, CHUNK_BYTES - 70_000, 1_100_000);
        }
    }
}
