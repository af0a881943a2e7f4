//! The life of a chunk: grants, commits, failures, holes, and what is done for writers that are gone.

use super::*;
use crate::namespace::ops::chunks;
use crate::namespace::ops::locate::Locate;
use crate::namespace::ops::set_attributes::SetAttributes;
use crate::namespace::ops::world::World;
use crate::operation::Caller;

const ROOT: InodeId = InodeId::ROOT;

fn record(world: &mut World, chunk: ChunkId) -> ChunkRecord {
    world.with(|transaction| transaction.chunk(chunk)).unwrap().unwrap()
}

fn commit(inode: InodeId, length: u64, written: &[WrittenChunk]) -> Commit {
    Commit { inode, length: Some(length), modified: None, chunks: written.to_vec(), kill_set_id: false, durable: true }
}

#[test]
fn a_chunk_is_a_hole_until_it_is_committed() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let grant = world.run(&GrantWrite { inode, index: 2 }).unwrap();
    assert!(grant.is_new());
    assert_eq!((grant.version.get(), grant.length, grant.goal), (1, 0, Goal::TWO));
    world.check();
    let locate = Locate { inode, first_index: 0, count: 10, existing: false };
    assert!(world.run(&locate).unwrap().1.is_empty());
    let written = WrittenChunk { index: 2, chunk: grant.chunk, version: grant.version, length: 50 };
    let end = 2 * CHUNK_BYTES + 50;
    let node = world.run(&commit(inode, end, &[written])).unwrap();
    assert_eq!((node.record.length, node.record.allocated), (end, 50));
    let (_, located) = world.run(&locate).unwrap();
    assert_eq!(
        (located[0].index, located[0].chunk, located[0].record.version, located[0].length),
        (2, grant.chunk, 1, 50)
    );
    assert_eq!(world.run(&Locate { count: 2, ..locate }).unwrap().1, vec![]);
    world.check();
}

#[test]
fn existing_chunks_are_found_however_far_apart_they_are() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let far = u32::MAX - 1;
    for index in [3, 900_000, far] {
        world.write(inode, index, 10);
    }
    // Not committed: a hole, which does not count.
    world.run(&GrantWrite { inode, index: 4 }).unwrap();
    world.run(&GrantWrite { inode, index: 5 }).unwrap();
    let mut existing = |first_index, count| -> Vec<u32> {
        let located = world.run(&Locate { inode, first_index, count, existing: true }).unwrap().1;
        located.iter().map(|chunk| chunk.index).collect()
    };
    assert_eq!(existing(0, 9), [3, 900_000, far]);
    assert_eq!(existing(4, 1), [900_000]);
    assert_eq!(existing(0, 2), [3, 900_000]);
    assert_eq!(existing(900_001, 2), [far]);
    assert_eq!(existing(far, 2), [far]);
}

#[test]
fn every_grant_has_its_own_version() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let first = world.write(inode, 0, 10);
    let second = world.run(&GrantWrite { inode, index: 0 }).unwrap();
    let third = world.run(&GrantWrite { inode, index: 0 }).unwrap();
    let versions = |grant: &Grant| (grant.version_from.get(), grant.version.get(), grant.length);
    assert_eq!((versions(&second), versions(&third)), ((1, 2, 10), (1, 3, 10)));
    for stale in [first.version, second.version] {
        let late = WrittenChunk { version: stale, ..first };
        assert_eq!(world.run(&commit(inode, 10, &[late])).map(|_| ()), Err(Errno::ESTALE));
    }
    let current = WrittenChunk { version: third.version, length: 20, ..first };
    world.run(&commit(inode, 20, &[current])).unwrap();
    world.run(&commit(inode, 20, &[WrittenChunk { length: 5, ..current }])).unwrap();
    let reference = world.with(|transaction| transaction.chunk_ref(inode, 0)).unwrap().unwrap();
    assert_eq!(reference.length, 20, "a late commit does not shorten");
    assert!(record(&mut world, first.chunk).is_settled());
    world.check();
}

#[test]
fn a_chunk_never_committed_is_given_up_for_a_new_one() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let first = world.run(&GrantWrite { inode, index: 0 }).unwrap();
    let second = world.run(&GrantWrite { inode, index: 0 }).unwrap();
    assert_ne!(first.chunk, second.chunk);
    assert!(record(&mut world, first.chunk).deleted);
    world.check();
    assert_eq!(world.with(|transaction| chunks::drop_pending(transaction, second.chunk)), Ok(true));
    assert_eq!(world.with(|transaction| chunks::drop_pending(transaction, second.chunk)), Ok(false));
    world.check();
    for chunk in [first.chunk, second.chunk] {
        world.with(|transaction| chunks::forget(transaction, chunk)).unwrap();
    }
    assert_eq!(world.system().deleted_chunks, 0);
    world.check();
}

#[test]
fn a_failed_copy_raises_the_version_of_the_others() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let grant = world.run(&GrantWrite { inode, index: 0 }).unwrap();
    let failed = |version| CopyFailed { inode, index: 0, chunk: grant.chunk, version };
    let next = world.run(&failed(grant.version)).unwrap();
    assert_eq!((next.version_from.get(), next.version.get()), (2, 2));
    assert_eq!(record(&mut world, grant.chunk).version, 0, "still not committed");
    let again = world.run(&failed(grant.version)).unwrap();
    assert_eq!(again.version.get(), 3, "a try may have come to nothing after versions were reserved");
    assert_eq!(world.run(&failed(again.version.next())).map(|_| ()), Err(Errno::ESTALE));
    let written = WrittenChunk { index: 0, chunk: grant.chunk, version: again.version, length: 9 };
    world.run(&commit(inode, 9, &[written])).unwrap();
    let later = world.run(&failed(again.version)).unwrap();
    let chunk = record(&mut world, grant.chunk);
    assert_eq!((later.version.get(), chunk.version, chunk.granted), (4, 4, 4), "readers follow the copies");
    world.check();
}

#[test]
fn commits_cut_extend_and_refuse_what_does_not_fit() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o6755);
    let written = world.write(inode, 0, 100);
    assert_eq!(world.run(&commit(inode, 50, &[written])).map(|_| ()), Err(Errno::EINVAL));
    let cut = world.run(&commit(inode, 50, &[])).unwrap().record;
    assert_eq!((cut.length, cut.allocated), (50, 50));
    let unknown = WrittenChunk { index: 1, length: 0, ..written };
    assert_eq!(world.run(&commit(inode, 50, &[unknown])).map(|_| ()), Err(Errno::ESTALE));
    assert_eq!(world.run(&commit(ROOT, 50, &[])).map(|_| ()), Err(Errno::EISDIR));
    let killed = world.run(&Commit { kill_set_id: true, ..commit(inode, 50, &[]) }).unwrap().record;
    assert_eq!(killed.mode, 0o755);
    let revision = world.node(inode).revision;
    let nothing = Commit { length: None, ..commit(inode, 0, &[]) };
    assert_eq!(world.run(&nothing).unwrap().record.revision, revision);
    world.check();
}

#[test]
fn a_commit_sets_the_change_time_that_the_writer_has_shown() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let one = Duration::from_nanos(1);
    let created: Time = world.node(inode).changed.into();
    let mut changed = |modified: Time| {
        let written = Commit { modified: Some(modified), length: None, ..commit(inode, 0, &[]) };
        Time::from(world.run(&written).unwrap().record.changed)
    };
    assert_eq!(changed(created.before(Duration::from_secs(9))), created + one, "a writer whose clock is behind");
    // The world's clock goes on by a second with each operation.
    let ahead = changed(created + Duration::from_secs(99));
    assert_eq!(ahead, created + Duration::from_secs(2), "a writer whose clock is ahead");
    world.now = world.now + Duration::from_secs(10);
    let written = Commit { modified: Some(created + Duration::from_secs(3)), ..commit(inode, 0, &[]) };
    assert_eq!(Time::from(world.run(&written).unwrap().record.changed), created + Duration::from_secs(3));
    world.check();
}

#[test]
fn a_truncation_leaves_chunks_that_are_being_written_for_the_first_time() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    world.write(inode, 0, 100);
    let grant = world.run(&GrantWrite { inode, index: 1 }).unwrap();
    world.run(&SetAttributes { length: Some(0), ..SetAttributes::of(Caller::root(), inode) }).unwrap();
    world.check();
    let written = WrittenChunk { index: 1, chunk: grant.chunk, version: grant.version, length: 7 };
    assert!(world.run(&commit(inode, CHUNK_BYTES + 7, &[written])).is_ok());
    assert_eq!(world.system().chunks, 1);
    world.check();
}

#[test]
fn holes_drop_whole_chunks() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    for index in 0..4 {
        world.write(inode, index, 10);
    }
    let node = world.run(&PunchHole { inode, first_index: 1, end_index: 3 }).unwrap();
    assert_eq!((node.record.allocated, world.system().chunks, world.system().deleted_chunks), (20, 2, 2));
    assert_eq!(world.run(&PunchHole { inode, first_index: 3, end_index: 1 }).map(|_| ()), Err(Errno::EINVAL));
    world.check();
}

#[test]
fn settling_never_goes_back() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let written = world.write(inode, 0, 10);
    world.run(&GrantWrite { inode, index: 0 }).unwrap();
    let settle = |world: &mut World, version| {
        world.with(|transaction| {
            chunks::settle(transaction, written.chunk, ChunkVersion::new(version), chunks::Remains::Everything)
        })
    };
    assert_eq!(settle(&mut world, 1), Err(Errno::EINVAL));
    let raised =
        world.with(|transaction| chunks::raise(transaction, written.chunk, chunks::Remains::Everything)).unwrap();
    assert_eq!(raised, Some(ChunkVersion::new(3)));
    assert_eq!(settle(&mut world, 3), Ok(true));
    assert!(record(&mut world, written.chunk).is_settled());
    world.unlink(ROOT, "f").unwrap();
    assert_eq!(settle(&mut world, 4), Ok(false));
    world.check();
}
