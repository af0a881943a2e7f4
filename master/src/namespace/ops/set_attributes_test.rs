//! Who may change what, and what else changes with it.

use super::*;
use crate::namespace::acl::tests::acl_value;
use crate::namespace::ops::world::{World, member, user};
use crate::namespace::ops::xattrs::{GetXattr, SetXattr, XattrChange};
use rfs_common::leaf::CHUNK_BYTES;

const ROOT: InodeId = InodeId::ROOT;

/// A file of user 7 and group 7 with this mode.
fn owned(world: &mut World, mode: u32) -> InodeId {
    let inode = world.file(ROOT, "f", 0);
    world.change(inode, |node| (node.user, node.group, node.mode) = (7, 7, mode));
    inode
}

#[test]
fn the_owner_and_root_change_the_mode() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o644);
    let chmod = |caller, mode| SetAttributes { mode: Some(mode), ..SetAttributes::of(caller, inode) };
    assert_eq!(world.run(&chmod(user(8), 0o777)).map(|_| ()), Err(Errno::EPERM));
    let changed = world.run(&chmod(user(7), 0o2750)).unwrap().record;
    assert_eq!((changed.mode, changed.changed), (0o2750, world.now.into()));
    world.change(inode, |node| node.group = 70);
    assert_eq!(world.run(&chmod(user(7), 0o2755)).unwrap().record.mode, 0o755, "not in the group: no set-group-id");
    assert_eq!(world.run(&chmod(member(7, 70), 0o2755)).unwrap().record.mode, 0o2755);
    assert_eq!(world.run(&chmod(Caller::root(), 0o17777)).unwrap().record.mode, 0o7777);
}

#[test]
fn owners_give_files_to_their_groups_and_root_to_anybody() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o6755);
    let chown = |caller, user, group| SetAttributes { user, group, ..SetAttributes::of(caller, inode) };
    for (caller, to_user, to_group) in [
        (user(7), Some(8), None),
        (user(7), None, Some(70)),
        (user(8), Some(8), None),
        (user(8), None, Some(8)),
        (user(8), Some(7), None),
    ] {
        assert_eq!(
            world.run(&chown(caller, to_user, to_group)).map(|_| ()),
            Err(Errno::EPERM),
            "{to_user:?} {to_group:?}"
        );
    }
    let given = world.run(&chown(member(7, 70), Some(7), Some(70))).unwrap().record;
    assert_eq!((given.group, given.mode), (70, 0o755), "set-id bits go");
    world.change(inode, |node| (node.group, node.mode) = (90, 0o2644));
    let foreign = world.run(&chown(user(7), None, Some(90))).unwrap().record;
    assert_eq!(foreign.mode, 0o644, "without execution the bit goes too, for who is not in the group");
    world.change(inode, |node| (node.group, node.mode) = (7, 0o2644));
    let own = world.run(&chown(user(7), None, Some(7))).unwrap().record;
    assert_eq!(own.mode, 0o2644);
    world.change(inode, |node| node.mode = 0o6755);
    let given = world.run(&chown(Caller::root(), Some(9), Some(90))).unwrap().record;
    assert_eq!((given.user, given.group, given.mode), (9, 90, 0o755));
    let directory = world.mkdir(ROOT, "d", 0o755);
    world.change(directory, |node| node.mode = 0o2755);
    let kept = SetAttributes { group: Some(5), ..SetAttributes::of(Caller::root(), directory) };
    assert_eq!(world.run(&kept).unwrap().record.mode, 0o2755);
}

#[test]
fn truncation_cuts_chunks_at_once_and_is_final() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o644);
    for index in 0..3 {
        world.write(inode, index, CHUNK_BYTES as u32);
    }
    let truncate = |length| SetAttributes { length: Some(length), ..SetAttributes::of(Caller::root(), inode) };
    let cut = world.run(&truncate(CHUNK_BYTES + 10)).unwrap().record;
    assert_eq!((cut.length, cut.allocated, cut.modified), (CHUNK_BYTES + 10, CHUNK_BYTES + 10, world.now.into()));
    world.check();
    let longer = world.run(&truncate(5 * CHUNK_BYTES)).unwrap().record;
    assert_eq!((longer.length, longer.allocated), (5 * CHUNK_BYTES, CHUNK_BYTES + 10), "the rest reads as zeros");
    assert_eq!((world.system().chunks, world.system().deleted_chunks), (2, 1));
    assert_eq!(world.run(&truncate(0)).unwrap().record.allocated, 0);
    world.check();
    assert_eq!(world.run(&truncate(FILE_BYTES_MAX + 1)).map(|_| ()), Err(Errno::EFBIG));
    assert!(world.run(&truncate(FILE_BYTES_MAX)).is_ok());
    let directory = SetAttributes { length: Some(0), ..SetAttributes::of(Caller::root(), ROOT) };
    assert_eq!(world.run(&directory).map(|_| ()), Err(Errno::EISDIR));
}

#[test]
fn truncation_needs_write_permission_unless_the_file_is_open() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o6755);
    let by_path = SetAttributes { length: Some(3), ..SetAttributes::of(user(8), inode) };
    assert_eq!(world.run(&by_path).map(|_| ()), Err(Errno::EACCES));
    let by_descriptor = SetAttributes { length_right: LengthRight::Descriptor, ..by_path };
    assert_eq!(world.run(&by_descriptor).unwrap().record.mode, 0o755);
    world.change(inode, |node| node.mode = 0o6755);
    let by_root = SetAttributes { caller: Caller::root(), ..by_descriptor.clone() };
    assert_eq!(world.run(&by_root).unwrap().record.mode, 0o6755);
    assert_eq!(world.run(&SetAttributes { kill_set_id: true, ..by_root }).unwrap().record.mode, 0o755);
}

#[test]
fn times_are_set_by_owners_and_to_now_by_writers() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o646);
    let given = TimeChange::To(Time::new(-5, 7));
    let touch = |caller, modified| SetAttributes { modified, ..SetAttributes::of(caller, inode) };
    assert_eq!(world.run(&touch(user(8), given)).map(|_| ()), Err(Errno::EPERM));
    let changed = world.run(&touch(user(8), TimeChange::Now)).unwrap().record;
    assert_eq!(changed.modified, world.now.into());
    let changed = world.run(&touch(user(7), given)).unwrap().record;
    assert_eq!((changed.modified, changed.changed), (Time::new(-5, 7).into(), world.now.into()));
    world.change(inode, |node| node.mode = 0o644);
    assert_eq!(world.run(&touch(user(8), TimeChange::Now)).map(|_| ()), Err(Errno::EACCES));
}

#[test]
fn the_access_list_follows_the_mode() {
    let mut world = World::new();
    let inode = owned(&mut world, 0o640);
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 6, 50), (4, 4, none), (0x10, 6, none), (0x20, 0, none)];
    let name = b"system.posix_acl_access".to_vec();
    let change = XattrChange::Set { value: acl_value(&entries), exists: None };
    world.run(&SetXattr { caller: user(7), inode, name: name.clone(), change }).unwrap();
    world.run(&SetAttributes { mode: Some(0o604), ..SetAttributes::of(user(7), inode) }).unwrap();
    let expected = [(1, 6, none), (2, 6, 50), (4, 4, none), (0x10, 0, none), (0x20, 4, none)];
    let value = world.run(&GetXattr { caller: user(9), inode, name }).unwrap();
    assert_eq!(value, acl_value(&expected));
    world.check();
}

#[test]
fn a_goal_reaches_the_chunks_of_the_file() {
    let mut world = World::new();
    let inode = world.written_file(ROOT, "g", 10);
    let set = |caller, goal| SetGoal { caller, inode, goal };
    assert_eq!(world.run(&set(user(8), Goal::ONE)).map(|_| ()), Err(Errno::EPERM));
    let (node, changed) = world.run(&set(Caller::root(), Goal::MAX)).unwrap();
    assert_eq!((node.record.goal, changed), (9, true));
    assert!(!world.run(&set(Caller::root(), Goal::MAX)).unwrap().1);
    let reference = world.with(|transaction| transaction.chunk_ref(inode, 0)).unwrap().unwrap();
    let chunk = world.with(|transaction| transaction.chunk(reference.chunk_id())).unwrap().unwrap();
    assert_eq!(chunk.goal, 9);
}
