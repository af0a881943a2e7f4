//! What requests become and what outcomes are told as.

use rfs_proto::session;

use super::*;
use crate::namespace::ops::world::World;
use crate::namespace::records::NodeKind;

struct Fixed;

impl Surroundings for Fixed {
    fn session(&self) -> SessionId {
        SessionId::new(1)
    }

    fn lease(&mut self, inode: InodeId) -> Option<session::Lease> {
        Some(session::Lease { inode: inode.get(), mode: session::LeaseMode::Read.into(), grant: 9 })
    }

    fn places(&mut self, chunk: ChunkId) -> Vec<session::Place> {
        vec![session::Place { server: 1, volume: chunk.get(), address: "127.0.0.1:9422".into() }]
    }

    fn space(&self) -> Space {
        Space { total: 100, free: 40 }
    }
}

/// Runs a request against a world as the engine does.
fn ask<M: Translate>(world: &mut World, request: &M) -> Result<M::Reply, Errno> {
    Ok(M::reply(world.run(&request.operation()?)?, &mut Fixed))
}

fn root() -> Option<session::Caller> {
    Some(session::Caller::default())
}

fn make(name: &'static str, kind: session::NodeKind) -> session::Make {
    session::Make {
        caller: root(),
        parent: 1,
        name: name.as_bytes().into(),
        kind: kind.into(),
        mode: 0o644,
        ..session::Make::default()
    }
}

#[test]
fn kinds_have_the_same_numbers_on_the_wire_and_in_the_store() {
    for number in -1..=8 {
        let wire = session::NodeKind::try_from(number).ok().filter(|kind| *kind != session::NodeKind::Unspecified);
        let stored = NodeKind::try_from(number).ok();
        let names = (wire.map(|kind| format!("{kind:?}")), stored.map(|kind| format!("{kind:?}")));
        assert_eq!(names.0, names.1, "{number}");
    }
}

#[test]
fn a_file_is_made_found_written_and_listed() {
    let mut world = World::new();
    let made = ask(&mut world, &make("f", session::NodeKind::File)).unwrap();
    assert!(made.created);
    let inode = made.node.unwrap().attributes.unwrap().inode;
    assert_eq!(made.parent_lease.unwrap().inode, 1);
    let again = ask(&mut world, &make("f", session::NodeKind::File)).unwrap();
    assert!(!again.created, "an existing file is opened");
    let grant = ask(&mut world, &session::GrantWrite { inode, index: 0 }).unwrap().grant.unwrap();
    assert_eq!((grant.version_from, grant.version, grant.places.len()), (0, 1, 1));
    let chunk = session::CommittedChunk { index: 0, chunk: grant.chunk, version: 1, length: 700 };
    let commit = session::Commit { inode, length: Some(700), chunks: vec![chunk], ..session::Commit::default() };
    let committed = ask(&mut world, &commit).unwrap().node.unwrap().attributes.unwrap();
    assert_eq!((committed.length, committed.allocated), (700, 700));
    let located = ask(&mut world, &session::Locate { inode, first_index: 0, count: 9, existing: false }).unwrap();
    assert_eq!((located.chunks[0].length, located.chunks[0].version), (700, 1));
    let list = session::ReadDirectory { caller: root(), inode: 1, with_attributes: true, ..Default::default() };
    let listing = ask(&mut world, &list).unwrap();
    assert!(listing.end);
    assert_eq!(listing.entries[0].node.as_ref().unwrap().attributes.as_ref().unwrap().length, 700);
    let unlink = session::Unlink { caller: root(), parent: 1, name: "f".into(), directory: false };
    let unlinked = ask(&mut world, &unlink).unwrap();
    assert!(!unlinked.orphan);
    assert_eq!(unlinked.parent.unwrap().length, 0);
}

#[test]
fn an_absent_entry_is_an_answer_with_a_lease() {
    let mut world = World::new();
    let lookup = session::Lookup { caller: root(), parent: 1, name: "absent".into() };
    let reply = ask(&mut world, &lookup).unwrap();
    assert_eq!(reply.node, None);
    assert_eq!(reply.parent_lease.unwrap().inode, 1);
}

#[test]
fn requests_that_are_not_valid_are_refused() {
    let lookup = |name: &'static [u8]| session::Lookup { caller: root(), parent: 1, name: name.into() };
    assert_eq!(lookup(b"a/b").operation().err(), Some(Errno::EINVAL));
    assert_eq!(lookup(b"").operation().err(), Some(Errno::ENOENT));
    assert_eq!(lookup(&[b'a'; 256]).operation().err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(session::Lookup { caller: None, ..lookup(b"a") }.operation().err(), Some(Errno::EINVAL));
    assert_eq!(session::Make { kind: 99, ..make("x", session::NodeKind::File) }.operation().err(), Some(Errno::EINVAL));
    let unnamed = session::Make { unnamed: true, ..make("x", session::NodeKind::Directory) };
    assert_eq!(unnamed.operation().err(), Some(Errno::EINVAL));
    assert_eq!(make(".", session::NodeKind::Directory).operation().err(), Some(Errno::EINVAL));
    let time = session::Time { seconds: 0, nanoseconds: 1_000_000_000 };
    let touch = session::SetAttributes { caller: root(), inode: 1, modified: Some(time), ..Default::default() };
    assert_eq!(touch.operation().err(), Some(Errno::EINVAL));
    let rename = session::Rename {
        caller: root(),
        name: "a".into(),
        new_name: "b".into(),
        flags: 3,
        ..session::Rename::default()
    };
    assert_eq!(rename.operation().err(), Some(Errno::EINVAL));
    let access = session::Access { caller: root(), inode: 1, mask: 8 };
    assert_eq!(access.operation().err(), Some(Errno::EINVAL));
}
