//! What a session that comes back after a restart of the master may go on with, and which ids are never given again.

use super::*;

#[test]
fn a_session_goes_on_unless_the_log_has_lost_what_it_was_told() {
    let mut world = World::new();
    let client = world.client(Manners::Answers);
    client.make("f", false);
    let (start, told) = (world.engine.master_start(), world.storage.position().get());
    assert!(!world.engine.has_lost(start, told + 1), "it is this start's own");
    world.restart();
    assert!(!world.engine.has_lost(start, told), "a log that is whole, as after kill -9");
    assert!(world.engine.has_lost(start, told + 1));
    assert_eq!(world.engine.recovered_after(start), Some(told));
    // What was lost stays lost, however far the log goes on; what was there stays there.
    for name in ["g", "h", "i"] {
        let other = world.client(Manners::Answers);
        world.tick_after(11);
        let _ = other.call(&make(name, false));
        world.restart();
    }
    assert!(world.storage.position().get() > told + 1);
    assert!(world.engine.has_lost(start, told + 1) && !world.engine.has_lost(start, told));
    // Nobody knows what a start found that is not remembered, or has not been.
    assert!(world.engine.has_lost(world.engine.master_start() + 1, 1));
    for _ in 0..64 {
        world.restart();
    }
    assert!(world.engine.has_lost(start, 1));
}

#[test]
fn a_session_that_knows_what_was_lost_ends_by_its_own_word_only() {
    let mut world = World::new();
    let begun = world.engine.begin_session(ClientDescription::default(), b"").unwrap();
    world.restart();
    assert_eq!(world.engine.end_deceived(begun.session, &[0; 16]).errno, Errno::ENOTRECOVERABLE);
    assert!(world.engine.join_session(begun.session, &begun.secret).is_ok() && world.engine.totals().grace);
    assert_eq!(world.engine.end_deceived(begun.session, &begun.secret).errno, Errno::ENOTRECOVERABLE);
    assert_eq!(world.engine.join_session(begun.session, &begun.secret).unwrap_err().errno, Errno::ESTALE);
    assert!(!world.engine.totals().grace, "nobody waits for it");
    world.check();
}

#[test]
fn numbers_of_nodes_and_sessions_are_not_given_again_after_a_restart() {
    let mut world = World::new();
    let client = world.client(Manners::Answers);
    let before = inode_of(&client.make("f", false));
    assert_eq!(inode_of(&client.make("g", false)), before + 1, "neighbours");
    client.engine.goodbye(client.session);
    world.restart();
    let later = world.client(Manners::Answers);
    assert!(later.session.get() > client.session.get() + 65_000);
    // A power cut may have taken the records of any node that the directory's range still had room for.
    assert!(inode_of(&later.make("h", false)) > before + 65_000);
    world.check();
}

#[test]
fn a_repeated_make_brings_no_chunk_as_it_brings_no_lease() {
    let mut world = World::new();
    world.chunkservers(2);
    let client = world.client(Manners::Answers);
    let request = Request { session: client.session, slot: 1, sequence: 1 };
    let first = client.call_as(request, &make("f", true)).unwrap();
    let (file, chunk) = (inode_of(&first), first.first_chunk.unwrap());
    let again = client.call_as(request, &make("f", true)).unwrap();
    assert!(again.created && again.first_chunk.is_none() && again.node.unwrap().lease.is_none());
    client.write_lease(file).unwrap();
    let told = client.call(&session::GrantWrite { inode: file, index: 0 }).unwrap().grant.unwrap();
    assert_eq!(told.chunk, chunk.chunk, "the grant is still there for whoever asks under the lease");
    // kill -9 before the answer was read: the client holds no lease, and its chunk is deleted.
    world.restart();
    let client = Client::attached(&world.engine, client.session, Manners::Answers);
    world.engine.reclaim(client.session, &ReclaimedState { last: true, ..ReclaimedState::default() }).unwrap();
    let again = client.call_as(request, &make("f", true)).unwrap();
    assert!(again.created && again.first_chunk.is_none(), "it would write to a chunk that is being deleted");
    world.check();
}

#[test]
fn ids_that_starts_have_passed_over_are_remembered() {
    let mut world = World::new();
    let given_out =
        |world: &World, chunk: u64| world.engine.with_chunks(|chunks, _| chunks.was_given_out(ChunkId::new(chunk)));
    // The second start in a row without a new chunk goes on with the range of the first.
    world.restart();
    world.restart();
    world.chunkservers(2);
    let client = world.client(Manners::Answers);
    let chunk = client.make("f", true).first_chunk.unwrap().chunk;
    assert!(chunk > 2 * 65_000 && given_out(&world, chunk));
    world.engine.goodbye(client.session);
    for _ in 0..2 {
        assert!([5, 65_000, 65_537, chunk - 1].iter().all(|chunk| !given_out(&world, *chunk)));
        world.restart();
        assert!(given_out(&world, chunk) && !given_out(&world, chunk + 1) && !given_out(&world, chunk + 70_000));
    }
    world.check();
}
