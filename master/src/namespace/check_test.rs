//! Each rule, broken once: the check must tell.

use rfs_common::ids::{ChunkId, InodeId, SessionId};

use super::*;
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::world::World;
use crate::namespace::source::{Change, MemorySource};

/// A world with some of everything, and the ids of a directory, of a file in it and of the file's chunk.
fn world() -> (World, InodeId, InodeId, ChunkId) {
    let mut world = World::new();
    let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
    let file = world.written_file(directory, "f", 100);
    world.written_file(directory, "g", 100);
    world.mkdir(directory, "e", 0o755);
    let kept = world.file(directory, "orphan", 0o644);
    world.known_by.insert(kept, vec![SessionId::new(1)]);
    world.unlink(directory, "orphan").unwrap();
    let chunk = world.with(|transaction| transaction.chunk_ref(file, 0)).unwrap().unwrap().chunk_id();
    world.check();
    (world, directory, file, chunk)
}

/// What the check finds after this change.
fn findings_after(change: impl FnOnce(&mut Transaction<'_>, InodeId, InodeId, ChunkId)) -> String {
    let (mut world, directory, file, chunk) = world();
    world
        .with(|transaction| {
            change(transaction, directory, file, chunk);
            Ok(())
        })
        .unwrap();
    check(&*world.source).unwrap().findings.join("\n")
}

#[track_caller]
fn assert_found(findings: &str, expected: &str) {
    assert!(findings.contains(expected), "expected {expected:?} among:\n{findings}");
}

#[test]
fn an_empty_store_is_no_namespace() {
    let findings = check(&MemorySource::default()).unwrap().findings;
    assert_eq!(findings, ["the counters are missing", "the root directory is missing or damaged"]);
}

#[test]
fn tells_wrong_counts() {
    let update = |change: fn(&mut InodeRecord)| {
        findings_after(|transaction, directory, _, _| drop(transaction.update(directory, change)))
    };
    assert_found(&update(|node| node.links += 1), "counts 4 links and has 3");
    assert_found(&update(|node| node.entries += 1), "counts 4 entries and has 3");
    assert_found(&update(|node| node.xattrs = 1), "counts 1 attributes and has 0");
    assert_found(&update(|node| node.default_acl = true), "wrong about its access control lists");
    assert_found(&update(|node| node.cookie_next = 4), "its cookie is 4");
    assert_found(&update(|node| node.inode_end = 1 << 40), "set aside ids");
    assert_found(&update(|node| node.kind = 77), "its kind 77 is not known");
    assert_found(&update(|node| node.goal = 0), "its goal is 0");
    assert_found(&update(|node| node.parent = 77), "says it is elsewhere");
    let links = findings_after(|transaction, _, file, _| drop(transaction.update(file, |node| node.links = 2)));
    assert_found(&links, "counts 2 links and has 1");
}

#[test]
fn tells_names_of_nothing_and_nodes_without_names() {
    let gone = findings_after(|transaction, _, file, _| {
        transaction.remove::<InodeRecord>(records::inode_key(file));
    });
    assert_found(&gone, "which does not exist");
    assert_found(&gone, "the counter of inodes says");
    let lost = findings_after(|transaction, directory, _, _| {
        transaction.remove::<EntryRecord>(records::entry_key(directory, b"f"));
    });
    assert_found(&lost, "it has no name and is kept for no session");
    let dots = findings_after(|transaction, directory, file, _| {
        let entry = EntryRecord { inode: file.get(), kind: NodeKind::Fifo as i32, cookie: 3 };
        transaction.write(records::entry_key(directory, b".."), &entry);
    });
    assert_found(&dots, "has a name that is not possible");
    assert_found(&dots, "is of another kind");
    let named = findings_after(|transaction, _, file, _| {
        transaction.put_orphan(file, &OrphanRecord { sessions: vec![], nameable: false }).unwrap();
    });
    assert_found(&named, "is kept as an orphan");
    assert_found(&named, "it is kept for no session");
}

#[test]
fn tells_directories_in_a_circle() {
    let findings = findings_after(|transaction, directory, _, _| {
        let inner = InodeId::new(transaction.entry(directory, b"e").unwrap().unwrap().inode);
        let entry = transaction.entry(InodeId::ROOT, b"d").unwrap().unwrap();
        transaction.remove::<EntryRecord>(records::entry_key(InodeId::ROOT, b"d"));
        transaction.write(records::entry_key(inner, b"d"), &entry);
        transaction.update(directory, |node| node.parent = inner.get()).unwrap();
    });
    assert_found(&findings, "it cannot be reached from the root");
}

#[test]
fn tells_chunks_and_references_that_disagree() {
    let reference = |change: fn(&mut ChunkRef)| {
        findings_after(|transaction, _, file, _| {
            let mut reference = transaction.chunk_ref(file, 0).unwrap().unwrap();
            change(&mut reference);
            transaction.put_ref(file, 0, &reference);
        })
    };
    assert_found(&reference(|reference| reference.length = 200), "beyond the file's end");
    assert_found(&reference(|reference| reference.length = 50), "counts 100 valid bytes and has 50");
    let other = reference(|reference| reference.chunk = 900);
    assert_found(&other, "chunk id 900 does not exist");
    assert_found(&other, "no file refers to it");
    assert_found(&reference(|reference| reference.chunk = 2), "another file has the same chunk");
    let chunk = |change: fn(&mut ChunkRecord)| {
        findings_after(|transaction, _, _, chunk| {
            let mut record = transaction.chunk(chunk).unwrap().unwrap();
            change(&mut record);
            transaction.put_chunk(chunk, &record);
        })
    };
    assert_found(&chunk(|chunk| chunk.deleted = true), "it is deleted and a file refers to it");
    assert_found(&chunk(|chunk| chunk.index = 9), "says otherwise");
    assert_found(&chunk(|chunk| chunk.version = 9), "version 9 with granted 1");
    assert_found(&chunk(|chunk| chunk.version = 0), "it was never committed and has 100 valid bytes");
    assert_found(&chunk(|chunk| chunk.goal = 10), "its goal is 10");
}

#[test]
fn tells_damaged_records_and_ids_that_would_be_given_again() {
    let (world, ..) = world();
    let key = records::inode_key(InodeId::ROOT);
    world.source.apply(&[Change::Put { table: InodeRecord::TABLE, key, value: vec![0xff; 3] }]);
    world.source.apply(&[Change::Put { table: EntryRecord::TABLE, key: vec![1], value: vec![] }]);
    let findings = check(&*world.source).unwrap().findings.join("\n");
    assert_found(&findings, "is damaged");
    assert_found(&findings, "is too short");
    assert_found(&findings, "the root directory is missing or damaged");
    let next = findings_after(|transaction, _, _, _| {
        let system = transaction.system_mut().unwrap();
        (system.inode_next, system.chunk_next, system.bytes) = (3, 1, 7);
    });
    assert_found(&next, "the next id to be given is 3");
    assert_found(&next, "the next id to be given is 1");
    assert_found(&next, "the counter of bytes says 7, there are 200");
}
