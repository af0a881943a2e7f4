//! Tests of the engine's hand in copies: grants, failed copies, and what is settled after a loss.

use std::cell::Cell;

use super::*;

fn grant(client: &Client, file: u64) -> session::WriteGrant {
    client.call(&session::GrantWrite { inode: file, index: 0 }).unwrap().grant.unwrap()
}

fn commit(client: &Client, file: u64, grant: &session::WriteGrant, length: u32) {
    commit_as(client, file, grant, length, true);
}

fn commit_as(client: &Client, file: u64, grant: &session::WriteGrant, length: u32, durable: bool) {
    let chunk = session::CommittedChunk { index: 0, chunk: grant.chunk, version: grant.version, length };
    let commit = session::Commit {
        inode: file,
        length: Some(u64::from(length)),
        chunks: vec![chunk],
        durable,
        ..session::Commit::default()
    };
    client.call(&commit).unwrap();
}

#[test]
fn a_new_file_comes_with_its_first_chunk_and_readers_find_it_after_the_commit() {
    let world = World::new();
    world.chunkservers(3);
    let (writer, reader) = (world.client(Manners::Answers), world.client(Manners::Answers));
    let made = writer.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    assert_eq!((first.version_from, first.version, first.places.len()), (0, 1, 2));
    assert_eq!(grant(&writer, file), first, "asking again is told the same");
    commit(&writer, file, &first, 100);
    let again = grant(&writer, file);
    assert_eq!(again.version_from, 1, "the copies are raised already");
    assert_eq!(again.length, 100, "the writer cuts the copies to this: it must be what is committed by now");
    let located = reader.call(&session::Locate { inode: file, first_index: 0, count: 9, existing: false }).unwrap();
    assert_eq!((located.chunks.len(), located.chunks[0].length, located.chunks[0].places.len()), (1, 100, 2));
    // The reader took the write lease away, and with it the grant: the next one has its own version.
    assert_eq!(errno_of(writer.call(&session::GrantWrite { inode: file, index: 0 })), Errno::ESTALE);
    writer.write_lease(file).unwrap();
    let next = grant(&writer, file);
    assert_eq!((next.chunk, next.version_from, next.version), (first.chunk, 1, 2));
    world.check();
}

#[test]
fn a_name_comes_with_where_its_file_begins() {
    let world = World::new();
    world.chunkservers(3);
    let (writer, reader) = (world.client(Manners::Answers), world.client(Manners::Answers));
    let made = writer.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    assert_eq!(reader.lookup("f").first_chunk, None, "nothing is committed yet");
    writer.write_lease(file).unwrap();
    let again = grant(&writer, file);
    commit(&writer, file, &again, 100);
    assert_eq!(writer.lookup("f").first_chunk, None, "it is being written, and the writer knows where");
    let looked_up = reader.lookup("f").first_chunk.unwrap();
    let located = reader.call(&session::Locate { inode: file, first_index: 0, count: 9, existing: false }).unwrap();
    assert_eq!(located.chunks, std::slice::from_ref(&looked_up));
    assert_eq!((looked_up.length, looked_up.places.len()), (100, first.places.len()));
    world.check();
}

#[test]
fn a_name_does_not_come_with_a_chunk_that_has_to_be_settled() {
    let world = World::new();
    world.chunkservers(3);
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let made = writer.make("f", true);
    commit(&writer, inode_of(&made), &made.first_chunk.unwrap(), 10);
    world.clock.advance(Duration::from_secs(9));
    world.engine.heartbeat(reader.session, []).unwrap();
    world.clock.advance(Duration::from_secs(2));
    world.engine.tick(&Digests(true));
    assert_eq!(world.engine.totals().settling, 1);
    let looked_up = reader.lookup("f");
    assert!(looked_up.node.is_some());
    assert_eq!(looked_up.first_chunk, None);
    world.check();
}

#[test]
fn asking_where_chunks_are_leaves_the_lease_as_it_is_known() {
    let world = World::new();
    world.chunkservers(3);
    let (reader, writer) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let made = writer.make("f", true);
    let file = inode_of(&made);
    commit(&writer, file, &made.first_chunk.unwrap(), 100);
    let told = reader.attributes(file).unwrap().node.unwrap().lease.unwrap().grant;
    reader.call(&session::Locate { inode: file, first_index: 0, count: 9, existing: false }).unwrap();
    let waiting = writer.spawn(session::AcquireLease { inode: file, mode: session::LeaseMode::Write as i32 });
    until("the recall", || !reader.peer.recalls().is_empty());
    let (recall, items) = reader.peer.recalls().remove(0);
    assert_eq!(
        items.leases[0].grant.get(),
        told,
        "the reader would wait for an answer with the grant it does not know"
    );
    world.engine.recall_done(reader.session, recall);
    waiting.join().unwrap().unwrap();
}

#[test]
fn without_chunkservers_files_are_made_and_writing_says_what_lacks() {
    let world = World::new();
    let client = world.client(Manners::Answers);
    let made = client.make("f", true);
    assert!(made.created && made.first_chunk.is_none());
    let Err(Refusal::Failed(failure)) = client.call(&session::GrantWrite { inode: inode_of(&made), index: 0 }) else {
        panic!("granted without servers");
    };
    assert_eq!(failure.errno, Errno::ENOSPC);
    assert!(failure.message.contains("chunkserver"), "{}", failure.message);
    world.check();
}

#[test]
fn a_failed_copy_is_replaced_and_the_others_are_raised() {
    let world = World::new();
    world.chunkservers(3);
    let client = world.client(Manners::Answers);
    let made = client.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit(&client, file, &first, 10);
    let lost = first.places[0].clone();
    let failure = session::CopyFailure { server: lost.server, volume: lost.volume, errno: 5, reason: "gone".into() };
    let failed = session::CopyFailed {
        inode: file,
        index: 0,
        chunk: first.chunk,
        version: first.version,
        failures: vec![failure],
    };
    let waiting = client.spawn(failed);
    let mut ordered = Vec::new();
    until("the new grant", || {
        ordered.extend(world.carry_out(3, &[]));
        waiting.is_finished()
    });
    let next = waiting.join().unwrap().unwrap().grant.unwrap();
    assert_eq!((next.chunk, next.version_from, next.version), (first.chunk, 2, 2));
    assert_eq!(next.places.len(), 2);
    assert!(next.places.iter().all(|place| place.volume != lost.volume));
    assert!(ordered.iter().any(|command| matches!(command.order, Order::Raise { .. })));
    assert!(ordered.iter().any(|command| matches!(command.order, Order::Replicate { .. })));
    commit(&client, file, &next, 20);
    world.check();
}

#[test]
fn what_a_lost_writer_leaves_is_settled_before_anyone_reads_it() {
    for alike in [true, false] {
        let world = World::new();
        world.chunkservers(3);
        let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
        let made = writer.make("f", true);
        let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
        commit(&writer, file, &first, 10);
        world.clock.advance(Duration::from_secs(9));
        world.engine.heartbeat(reader.session, []).unwrap();
        world.clock.advance(Duration::from_secs(2));
        world.engine.tick(&Digests(alike));
        assert_eq!(world.engine.totals().settling, 1);
        let waiting = reader.spawn(session::Locate { inode: file, first_index: 0, count: 1, existing: false });
        until("the wait", || world.engine.totals().waiting == 1);
        until("the settling", || {
            world.carry_out_but_repairs(3);
            world.engine.tick(&Digests(alike));
            waiting.is_finished()
        });
        let chunk = waiting.join().unwrap().unwrap().chunks.remove(0);
        let expected = if alike { (2, 2) } else { (3, 1) };
        assert_eq!((chunk.version, chunk.places.len()), expected, "alike: {alike}");
        assert_eq!(world.engine.totals().settling, 0);
        world.check();
    }
}

#[test]
fn a_chunk_that_was_never_committed_goes_with_its_writer() {
    let world = World::new();
    world.chunkservers(2);
    let writer = world.client(Manners::Keeps);
    let made = writer.make("f", true);
    assert!(made.first_chunk.is_some());
    world.tick_after(11);
    world.tick_after(1);
    let other = world.client(Manners::Answers);
    let located =
        other.call(&session::Locate { inode: inode_of(&made), first_index: 0, count: 1, existing: false }).unwrap();
    assert_eq!(located.chunks, []);
    assert_eq!(world.engine.totals().grants, 0);
    world.check();
}

/// Every volume of the grant has its chunk in this version, marked as taking writes.
fn open_copies(places: &[session::Place], chunk: u64, version: u32, volume: u64) -> Vec<Held> {
    let (chunk, version) = (ChunkId::new(chunk), ChunkVersion::new(version));
    let held = Held { chunk, version, length: 0, open: true, suspect: false, unreadable: false, bad: false };
    if places.iter().any(|place| place.volume == volume) { vec![held] } else { Vec::new() }
}

#[test]
fn what_was_written_after_a_commit_is_compared_when_master_and_writer_are_gone() {
    for comes_back in [false, true] {
        let mut world = World::new();
        world.chunkservers(3);
        let writer = world.client(Manners::Keeps);
        let made = writer.make("f", true);
        let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
        commit(&writer, file, &first, 10);
        world.restart();
        world.chunkservers_holding(3, |volume| open_copies(&first.places, first.chunk, 1, volume));
        if comes_back {
            let grant = rfs_common::ids::LeaseGrant::new(1);
            let lease = Lease { inode: InodeId::new(file), mode: LeaseMode::Write, grant };
            let reclaimed = ReclaimedState { leases: vec![lease], last: true, ..ReclaimedState::default() };
            assert_eq!(world.engine.reclaim(writer.session, &reclaimed).unwrap(), []);
            world.tick_after(1);
            assert_eq!(world.engine.totals().settling, 0, "its writer is back and goes on");
        }
        world.tick_after(11);
        assert_eq!(world.engine.totals().settling, 1, "its writer is gone; back before: {comes_back}");
        let reader = world.client(Manners::Answers);
        let waiting = reader.spawn(session::Locate { inode: file, first_index: 0, count: 1, existing: false });
        until("the settling", || {
            world.carry_out_but_repairs(3);
            world.engine.tick(&Digests(false));
            waiting.is_finished()
        });
        let chunk = waiting.join().unwrap().unwrap().chunks.remove(0);
        assert_eq!((chunk.version, chunk.places.len(), chunk.lost_version), (3, 1, 0));
        world.check();
    }
}

#[test]
fn a_writer_whose_copies_all_lost_power_goes_on_and_learns_that_bytes_are_gone() {
    let world = World::new();
    world.chunkservers(2);
    let client = world.client(Manners::Answers);
    let made = client.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit(&client, file, &first, 10);
    let failure = |place: &session::Place| session::CopyFailure {
        server: place.server,
        volume: place.volume,
        errno: 5,
        reason: "it is suspect".into(),
    };
    let (chunk, version) = (first.chunk, first.version);
    let failures = first.places.iter().map(failure).collect();
    let waiting = client.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures });
    let (kept, made_anew) = (Cell::new(0), Cell::new(0));
    until("the new grant", || {
        world.carry_out_or_fail(2, |server, order: &Order| match order {
            Order::Raise { of: RaiseOf::Sound, .. } => Some(5),
            Order::Raise { of: RaiseOf::Whatever, .. } => {
                kept.set(server);
                None
            }
            Order::Replicate { .. } => {
                made_anew.set(server);
                None
            }
            Order::Delete { .. } | Order::Check { .. } => None,
        });
        waiting.is_finished()
    });
    let next = waiting.join().unwrap().unwrap().grant.unwrap();
    assert!(next.version > first.version && next.version_from == next.version, "{next:?}");
    assert_eq!((next.lost_version, next.places.len()), (next.version, 2));
    // Each may have lost something else.
    assert_eq!(kept.get() + made_anew.get(), 3, "one is kept and the other made anew of it");
    world.check();
}

#[test]
fn a_chunk_that_a_power_cut_took_from_everywhere_is_made_anew_if_nobody_ever_synced_it() {
    const ENOENT: u32 = 2;
    for synced in [false, true] {
        let mut world = World::new();
        world.chunkservers(3);
        let writer = world.client(Manners::Answers);
        let made = writer.make("f", true);
        let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
        commit_as(&writer, file, &first, 10, false);
        if synced {
            writer.call(&session::Sync { chunks: vec![first.chunk] }).unwrap();
        }
        world.engine.goodbye(writer.session);
        world.restart();
        world.chunkservers(3);
        let mut asked = 0;
        for _ in 0..20 {
            world.tick_after(1);
            let missing =
                |_, order: &Order| matches!(order, Order::Raise { from, .. } if from.get() != 0).then_some(ENOENT);
            let ordered = world.carry_out_or_fail(3, missing);
            let search = |command: &&Command| matches!(command.order, Order::Raise { from, to, .. } if from == to);
            asked += ordered.iter().filter(search).count();
        }
        let chunk = world.engine.with_chunks(|chunks, _| chunks.info(ChunkId::new(first.chunk)).unwrap());
        let places = world.engine.with_chunks(|chunks, _| chunks.places(ChunkId::new(first.chunk)).len());
        if synced {
            assert_eq!((asked, places, chunk.version.get()), (0, 0, 1), "what was promised is waited for");
        } else {
            assert_eq!((asked, places, chunk.version.get()), (3, 2, 2));
        }
        world.check();
    }
}

#[test]
fn older_metadata_that_were_put_back_go_on_with_the_newest_copies() {
    let mut world = World::new();
    world.chunkservers(3);
    let writer = world.client(Manners::Answers);
    let made = writer.make("f", true);
    let first = made.first_chunk.as_ref().unwrap();
    commit(&writer, inode_of(&made), first, 10);
    world.engine.goodbye(writer.session);
    world.restart();
    let (chunk, stale) = (ChunkId::new(first.chunk), first.places[0].volume);
    world.chunkservers_holding(3, |volume| {
        let version = ChunkVersion::new(if volume == stale { 1 } else { 5 });
        vec![Held { chunk, version, open: false, suspect: false, unreadable: false, bad: false, length: 10 }]
    });
    for _ in 0..30 {
        world.tick_after(1);
        for Command { order, .. } in world.carry_out(3, &[]) {
            let old = matches!(order, Order::Delete { volume, .. } if volume.get() == stale);
            assert!(old || !matches!(order, Order::Delete { .. }), "{order:?}");
        }
    }
    let places = world.engine.with_chunks(|chunks, _| chunks.places(chunk));
    assert!(places.len() == 2 && places.iter().all(|place| place.volume.get() != stale), "{places:?}");
    check_settled(&world, first.chunk, 2);
    let info = world.engine.with_chunks(|chunks, _| chunks.info(chunk).unwrap());
    assert_eq!(info.version.get(), 6, "above all that the copies ever had");
}

#[test]
fn a_start_gives_out_other_chunks_than_another_one_from_the_same_metadata() {
    let mut world = World::new();
    world.restart();
    world.chunkservers(3);
    let given = world.client(Manners::Answers).make("f", true).first_chunk.unwrap().chunk;
    assert!(given > 1 << 20, "{given} is what any other start would give out, too");
}

#[test]
fn a_writer_that_asks_for_committed_bytes_learns_that_all_copies_lost_power() {
    let world = World::new();
    world.chunkservers(2);
    let writer = world.client(Manners::Answers);
    let made = writer.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit_as(&writer, file, &first, 10, false);
    world.chunkservers_holding(2, |volume| {
        let copies = open_copies(&first.places, first.chunk, 1, volume);
        copies.into_iter().map(|held| Held { suspect: true, ..held }).collect()
    });
    let waiting = writer.spawn(session::Locate { inode: file, first_index: 0, count: 1, existing: false });
    until("the settling", || {
        world.carry_out(2, &[]);
        world.engine.tick(&Digests(true));
        waiting.is_finished()
    });
    let chunk = waiting.join().unwrap().unwrap().chunks.remove(0);
    assert_eq!((chunk.version, chunk.lost_version, chunk.places.len()), (2, 2, 2));
    world.check();
}

#[test]
fn a_writer_whose_committed_chunk_a_power_cut_took_from_everywhere_goes_on_with_empty_copies() {
    let world = World::new();
    world.chunkservers(2);
    let client = world.client(Manners::Keeps);
    let made = client.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit_as(&client, file, &first, 10, false);
    world.chunkservers_holding(2, |_| Vec::new());
    let (chunk, version) = (first.chunk, first.version);
    let failures = first.places.iter().map(failed_copy).collect();
    let waiting = client.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures });
    let made_anew = Cell::new(false);
    until("the new grant", || {
        world.engine.tick(&Digests(true));
        world.carry_out_or_fail(2, |_, order: &Order| match order {
            Order::Raise { from, .. } if from.get() == 0 => {
                made_anew.set(true);
                None
            }
            Order::Raise { .. } if !made_anew.get() => Some(rfs_common::errno::Errno::ENOENT.raw() as u32),
            _ => None,
        });
        waiting.is_finished()
    });
    let next = waiting.join().unwrap().unwrap().grant.unwrap();
    assert_eq!((next.chunk, next.places.len()), (chunk, 2), "{next:?}");
    assert!(next.lost_version > version, "what was acknowledged and not synced is gone: {next:?}");
    commit(&client, file, &next, 20);
    check_settled(&world, chunk, 2);
}

#[test]
fn a_failed_copy_waits_for_chunkservers_that_are_away_and_nothing_is_lost() {
    for committed in [true, false] {
        let world = World::new();
        world.chunkservers(3);
        let client = world.client(Manners::Answers);
        let made = client.make("f", true);
        let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
        if committed {
            commit_as(&client, file, &first, 10, false);
        }
        world.chunkservers_gone(3);
        let lost = &first.places[0];
        let failure =
            session::CopyFailure { server: lost.server, volume: lost.volume, errno: 104, reason: "gone".into() };
        let (chunk, version) = (first.chunk, first.version);
        let failures = vec![failure];
        let waiting = client.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures });
        until("the wait", || world.engine.totals().waiting == 1);
        world.tick_after(1);
        until("the second wait", || world.engine.totals().waiting == 1);
        assert!(!waiting.is_finished());
        world.chunkservers_holding(3, |volume| open_copies(&first.places, first.chunk, 1, volume));
        until("the new grant", || {
            world.engine.heartbeat(client.session, []).unwrap();
            // Time goes on only while the other thread waits for it.
            if world.engine.totals().waiting == 1 {
                world.tick_after(1);
            }
            world.carry_out(3, &[]);
            waiting.is_finished()
        });
        let next = waiting.join().unwrap().unwrap().grant.unwrap();
        assert_eq!((next.chunk, next.lost_version, next.places.len()), (first.chunk, 0, 2), "{next:?}");
        assert!(next.version > first.version && next.version_from == next.version, "{next:?}");
        commit(&client, file, &next, 20);
        world.check();
    }
}

fn failed_copy(place: &session::Place) -> session::CopyFailure {
    session::CopyFailure { server: place.server, volume: place.volume, errno: 5, reason: "gone".into() }
}

/// The chunk can be read, and nobody has reserved a version that no copy has.
fn check_settled(world: &World, chunk: u64, copies: usize) {
    world.engine.with_chunks(|chunks, _| {
        let chunk = ChunkId::new(chunk);
        let info = chunks.info(chunk).unwrap();
        assert!(info.is_settled(), "{info:?}");
        assert_eq!(chunks.places(chunk).len(), copies);
        assert_eq!(chunks.orders_kept(), 0, "an order that nobody will ask about is kept");
    });
    world.check();
}

#[test]
fn a_failed_copy_waits_until_the_chunk_is_settled() {
    let world = World::new();
    world.chunkservers(2);
    let writer = world.client(Manners::Keeps);
    let made = writer.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit_as(&writer, file, &first, 10, false);
    world.chunkservers_holding(2, |volume| {
        let copies = open_copies(&first.places, first.chunk, 1, volume);
        copies.into_iter().map(|held| Held { suspect: true, ..held }).collect()
    });
    let locate = writer.spawn(session::Locate { inode: file, first_index: 0, count: 1, existing: false });
    until("the settling to begin", || world.engine.totals().settling == 1);
    // A version is reserved and the copies are raised, but nobody has looked at what came of it.
    world.engine.tick(&Digests(true));
    world.carry_out(2, &[]);
    let (chunk, version) = (first.chunk, first.version);
    let failures = vec![failed_copy(&first.places[0])];
    let waiting = writer.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures });
    until("the wait", || world.engine.totals().waiting == 2);
    until("the new grant", || {
        world.engine.tick(&Digests(true));
        world.carry_out(2, &[]);
        waiting.is_finished() && locate.is_finished()
    });
    let located = locate.join().unwrap().unwrap().chunks.remove(0);
    // Whether it is answered before the failed copy is taken out is chance.
    assert_eq!((located.version, located.lost_version), (2, 2));
    assert!((1..=2).contains(&located.places.len()), "{located:?}");
    let next = waiting.join().unwrap().unwrap().grant.unwrap();
    assert_eq!((next.chunk, next.version_from, next.version), (chunk, 3, 3), "{next:?}");
    assert_eq!(next.lost_version, 2, "what was acknowledged and not synced may be gone");
    commit(&writer, file, &next, 20);
    assert_eq!(world.engine.totals().settling, 0);
    check_settled(&world, chunk, next.places.len());
}

#[test]
fn two_reports_of_failed_copies_of_one_chunk_come_one_after_the_other() {
    let world = World::new();
    world.chunkservers(3);
    let client = world.client(Manners::Answers);
    let made = client.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit(&client, file, &first, 10);
    let (chunk, version) = (first.chunk, first.version);
    let report = |place: &session::Place| {
        let failures = vec![failed_copy(place)];
        client.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures })
    };
    let waiting = [report(&first.places[0]), report(&first.places[0])];
    until("both", || world.engine.totals().waiting == 2);
    let mut grants = Vec::new();
    until("the new grants", || {
        world.carry_out(3, &[]);
        waiting.iter().all(|waiting| waiting.is_finished())
    });
    for waiting in waiting {
        grants.push(waiting.join().unwrap().unwrap().grant.unwrap());
    }
    let last = grants.into_iter().max_by_key(|grant| grant.version).unwrap();
    let info = world.engine.with_chunks(|chunks, _| chunks.info(ChunkId::new(chunk)).unwrap());
    assert_eq!(info.granted.get(), last.version, "the later grant is the one that can be committed");
    commit(&client, file, &last, 20);
    check_settled(&world, chunk, last.places.len());
}

#[test]
fn an_order_whose_turn_has_ended_is_forgotten() {
    let world = World::new();
    world.chunkservers(3);
    let client = world.client(Manners::Answers);
    let made = client.make("f", true);
    let (file, first) = (inode_of(&made), made.first_chunk.unwrap());
    commit(&client, file, &first, 10);
    let (chunk, version) = (first.chunk, first.version);
    let failures = vec![failed_copy(&first.places[0])];
    let waiting = client.spawn(session::CopyFailed { inode: file, index: 0, chunk, version, failures });
    until("the order", || world.engine.totals().waiting == 1);
    world.engine.goodbye(client.session);
    assert_eq!(errno_of(waiting.join().unwrap()), Errno::ESTALE);
    for _ in 0..40 {
        world.tick_after(1);
        world.carry_out(3, &[]);
    }
    assert_eq!(world.engine.totals().settling, 0);
    let kept = world.engine.with_chunks(|chunks, _| chunks.orders_kept());
    assert_eq!(kept, 0);
    world.check();
}
