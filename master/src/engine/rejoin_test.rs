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
