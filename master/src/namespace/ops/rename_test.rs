//! What renames do to names, counts and parents, and what they refuse.

use rfs_common::ids::SessionId;

use super::*;
use crate::namespace::ops::make::Content;
use crate::namespace::ops::world::{World, user};

fn rename(from: (InodeId, &str), to: (InodeId, &str), target: Target) -> Rename {
    Rename {
        caller: Caller::root(),
        parent: from.0,
        name: from.1.parse().unwrap(),
        new_parent: to.0,
        new_name: to.1.parse().unwrap(),
        target,
    }
}

const ROOT: InodeId = InodeId::ROOT;

fn at(world: &mut World, parent: InodeId, name: &str) -> Option<InodeId> {
    world.with(|transaction| entries::find(transaction, parent, &name.parse().unwrap())).unwrap()
}

#[test]
fn moves_between_directories_and_counts_subdirectories() {
    let mut world = World::new();
    let (left, right) = (world.mkdir(ROOT, "left", 0o755), world.mkdir(ROOT, "right", 0o755));
    let moved = world.mkdir(left, "m", 0o755);
    let outcome = world.run(&rename((left, "m"), (right, "n"), Target::Replace)).unwrap();
    assert_eq!((outcome.moved.inode, outcome.moved.record.parent), (moved, right.get()));
    assert_eq!((outcome.parent.record.links, outcome.parent.record.entries), (2, 0));
    assert_eq!((outcome.new_parent.record.links, outcome.new_parent.record.entries), (3, 1));
    assert_eq!(outcome.moved.record.changed, world.now.into());
    assert_eq!((at(&mut world, left, "m"), at(&mut world, right, "n")), (None, Some(moved)));
    world.check();
    let same = world.run(&rename((right, "n"), (right, "o"), Target::Replace)).unwrap();
    assert_eq!(same.parent, same.new_parent);
    world.check();
}

#[test]
fn replaces_files_and_empty_directories_of_the_same_sort() {
    let mut world = World::new();
    let file = world.file(ROOT, "f", 0o644);
    let other = world.written_file(ROOT, "g", 5);
    let (empty, full) = (world.mkdir(ROOT, "empty", 0o755), world.mkdir(ROOT, "full", 0o755));
    world.file(full, "x", 0o644);
    for (from, to, expected) in [
        ("f", "empty", Errno::EISDIR),
        ("empty", "f", Errno::ENOTDIR),
        ("empty", "full", Errno::ENOTEMPTY),
        ("absent", "f", Errno::ENOENT),
    ] {
        assert_eq!(world.run(&rename((ROOT, from), (ROOT, to), Target::Replace)).map(|_| ()), Err(expected));
    }
    world.known_by.insert(other, vec![SessionId::new(8)]);
    let outcome = world.run(&rename((ROOT, "f"), (ROOT, "g"), Target::Replace)).unwrap();
    let replaced = outcome.replaced.unwrap();
    assert_eq!((replaced.inode, replaced.record.links, replaced.kept_for), (other, 0, vec![SessionId::new(8)]));
    assert_eq!(at(&mut world, ROOT, "g"), Some(file));
    world.check();
    world.run(&rename((ROOT, "full"), (ROOT, "empty"), Target::Replace)).unwrap();
    assert!(world.stored(empty).is_none());
    assert_eq!(world.node(ROOT).links, 3);
    world.check();
}

#[test]
fn keeps_or_exchanges_as_asked() {
    let mut world = World::new();
    let (directory, inner) = (world.mkdir(ROOT, "d", 0o755), world.mkdir(ROOT, "i", 0o755));
    let file = world.file(directory, "f", 0o644);
    let keep = rename((directory, "f"), (ROOT, "i"), Target::Keep);
    assert_eq!(world.run(&keep).map(|_| ()), Err(Errno::EEXIST));
    let absent = rename((directory, "f"), (ROOT, "absent"), Target::Exchange);
    assert_eq!(world.run(&absent).map(|_| ()), Err(Errno::ENOENT));
    let outcome = world.run(&rename((directory, "f"), (ROOT, "i"), Target::Exchange)).unwrap();
    assert_eq!((outcome.moved.inode, outcome.exchanged.map(|node| node.inode)), (file, Some(inner)));
    assert_eq!((at(&mut world, directory, "f"), at(&mut world, ROOT, "i")), (Some(inner), Some(file)));
    assert_eq!((world.node(inner).parent, world.node(directory).links, world.node(ROOT).links), (directory.get(), 3, 3));
    world.check();
}

#[test]
fn a_directory_never_moves_below_itself() {
    let mut world = World::new();
    let upper = world.mkdir(ROOT, "a", 0o755);
    let lower = world.mkdir(upper, "b", 0o755);
    world.file(lower, "f", 0o644);
    for (from, to, target, expected) in [
        ((ROOT, "a"), (lower, "x"), Target::Replace, Errno::EINVAL),
        ((ROOT, "a"), (upper, "x"), Target::Replace, Errno::EINVAL),
        ((lower, "f"), (ROOT, "a"), Target::Replace, Errno::ENOTEMPTY),
        ((lower, "f"), (ROOT, "a"), Target::Exchange, Errno::EINVAL),
    ] {
        assert_eq!(world.run(&rename(from, to, target)).map(|_| ()), Err(expected), "{from:?} {to:?}");
    }
    world.check();
}

#[test]
fn two_names_of_one_file_stay_as_they_are() {
    let mut world = World::new();
    let inode = world.file(ROOT, "a", 0o644);
    let link = crate::namespace::ops::link::Link {
        caller: Caller::root(),
        inode,
        parent: ROOT,
        name: "b".parse().unwrap(),
    };
    world.run(&link).unwrap();
    let revision = world.node(inode).revision;
    assert!(world.run(&rename((ROOT, "a"), (ROOT, "b"), Target::Replace)).unwrap().replaced.is_none());
    assert_eq!((world.node(inode).revision, world.node(inode).links), (revision, 2));
    world.run(&rename((ROOT, "a"), (ROOT, "a"), Target::Replace)).unwrap();
    world.check();
}

#[test]
fn needs_both_directories_the_sticky_owner_and_a_writable_directory_to_move() {
    let mut world = World::new();
    let (open, closed) = (world.mkdir(ROOT, "open", 0o777), world.mkdir(ROOT, "closed", 0o755));
    let sticky = world.mkdir(ROOT, "sticky", 0o1777);
    world.file(closed, "f", 0o666);
    world.file(sticky, "f", 0o666);
    world.mkdir(open, "d", 0o755);
    world.make(open, "l", Content::Symlink(b"x".to_vec()), 0o777);
    let run = |world: &mut World, from, to| {
        world.run(&Rename { caller: user(5), ..rename(from, to, Target::Replace) }).map(|_| ())
    };
    assert_eq!(run(&mut world, (closed, "f"), (open, "f")), Err(Errno::EACCES));
    assert_eq!(run(&mut world, (open, "l"), (closed, "l")), Err(Errno::EACCES));
    assert_eq!(run(&mut world, (sticky, "f"), (open, "f")), Err(Errno::EPERM));
    assert_eq!(run(&mut world, (open, "l"), (sticky, "f")), Err(Errno::EPERM));
    assert_eq!(run(&mut world, (open, "d"), (sticky, "d")), Err(Errno::EACCES), "its .. would change");
    assert_eq!(run(&mut world, (open, "d"), (open, "e")), Ok(()), "its .. stays");
    world.check();
}
