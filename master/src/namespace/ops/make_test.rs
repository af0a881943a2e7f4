//! What new nodes are like.

use rfs_common::ids::SessionId;

use super::*;
use crate::namespace::acl::tests::acl_value;
use crate::namespace::ops::world::{World, member, user};

fn make(caller: Caller, parent: InodeId, name: &str, content: Content, mode: u32, umask: u32) -> Make {
    Make { caller, parent, place: Place::Name(name.parse().unwrap()), content, mode, umask }
}

#[test]
fn nodes_get_owner_mode_umask_times_and_goal() {
    let mut world = World::new();
    let shared = world.mkdir(InodeId::ROOT, "shared", 0o777);
    world.change(shared, |node| node.goal = 3);
    let made = world.run(&make(user(7), shared, "f", Content::File, 0o6666, 0o027)).unwrap();
    let record = &made.node.record;
    assert_eq!((record.user, record.group, record.mode, record.links, record.goal), (7, 7, 0o6640, 1, 3));
    assert_eq!((record.created, record.modified, record.accessed), (world.now.into(), world.now.into(), world.now.into()));
    assert_eq!((made.parent.record.entries, made.parent.record.modified), (1, world.now.into()));
    let directory = world.run(&make(user(7), shared, "d", Content::Directory, 0o6777, 0)).unwrap();
    assert_eq!((directory.node.record.mode, directory.node.record.links), (0o777, 2));
    assert_eq!(directory.parent.record.links, 3);
    let link = world.run(&make(user(7), shared, "l", Content::Symlink(b"t".to_vec()), 0, 0o077)).unwrap();
    assert_eq!(link.node.record.mode, 0o777);
    world.check();
}

#[test]
fn neighbours_get_neighbouring_ids_and_no_id_comes_twice() {
    let mut world = World::new();
    let first = world.mkdir(InodeId::ROOT, "a", 0o755);
    let second = world.mkdir(InodeId::ROOT, "b", 0o755);
    let mut ids = Vec::new();
    for number in 0..70 {
        ids.push(world.file(first, &number.to_string(), 0o644).get());
        ids.push(world.file(second, &number.to_string(), 0o644).get());
    }
    assert_eq!(ids[2], ids[0] + 1);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 140);
    world.check();
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    let mut world = World::new();
    let shared = world.mkdir(InodeId::ROOT, "shared", 0o777);
    world.change(shared, |node| (node.group, node.mode) = (70, 0o2777));
    let run = |world: &mut World, caller, name: &str, content, mode| {
        world.run(&make(caller, shared, name, content, mode, 0)).unwrap().node.record
    };
    let directory = run(&mut world, user(7), "d", Content::Directory, 0o755);
    assert_eq!((directory.group, directory.mode), (70, 0o2755));
    let foreign = run(&mut world, user(7), "f", Content::File, 0o2755);
    assert_eq!((foreign.group, foreign.mode), (70, 0o755), "who is no member cannot make programs of the group");
    let own = run(&mut world, member(7, 70), "g", Content::File, 0o2755);
    assert_eq!((own.group, own.mode), (70, 0o2755));
}

#[test]
fn a_default_list_takes_the_place_of_the_umask() {
    let mut world = World::new();
    let parent = world.mkdir(InodeId::ROOT, "d", 0o755);
    let value = acl_value(&[(1, 7, u32::MAX), (2, 6, 50), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]);
    world.change(parent, |node| (node.default_acl, node.xattrs) = (true, 1));
    world
        .with(|transaction| {
            transaction.write(records::xattr_key(parent, DEFAULT_XATTR), &XattrRecord { value: value.clone() });
            Ok(())
        })
        .unwrap();
    let file = world.run(&make(Caller::root(), parent, "f", Content::File, 0o666, 0o077)).unwrap().node;
    assert_eq!((file.record.mode, file.record.access_acl, file.record.default_acl), (0o660, true, false));
    let directory = world.run(&make(Caller::root(), parent, "s", Content::Directory, 0o777, 0o077)).unwrap().node;
    assert_eq!((directory.record.mode, directory.record.xattrs), (0o770, 2));
    let inherited = world.with(|transaction| transaction.xattr(directory.inode, DEFAULT_XATTR)).unwrap();
    assert_eq!(inherited, Some(value));
    world.check();
    world.unlink(parent, "f").unwrap();
    world.check();
}

#[test]
fn refuses_in_the_kernels_order() {
    let mut world = World::new();
    let closed = world.mkdir(InodeId::ROOT, "closed", 0o755);
    let file = world.file(closed, "f", 0o644);
    let device = || Content::Device(NodeKind::BlockDevice, 5);
    for (caller, parent, name, content, expected) in [
        (user(5), closed, "f", Content::File, Errno::EEXIST), // before the permission
        (user(5), closed, "g", Content::File, Errno::EACCES),
        (user(5), file, "g", Content::File, Errno::ENOTDIR),
        (Caller::root(), InodeId::new(999), "g", Content::File, Errno::ESTALE),
        (Caller::root(), closed, "g", Content::Symlink(vec![]), Errno::ENOENT),
        (Caller::root(), closed, "g", Content::Symlink(vec![b'a'; 4096]), Errno::ENAMETOOLONG),
    ] {
        let refused = world.run(&make(caller, parent, name, content, 0o644, 0)).map(|_| ());
        assert_eq!(refused, Err(expected), "{name}");
    }
    let open = world.mkdir(InodeId::ROOT, "open", 0o777);
    assert_eq!(world.run(&make(user(5), open, "b", device(), 0o644, 0)).map(|_| ()), Err(Errno::EPERM));
    let made = world.run(&make(Caller::root(), open, "b", device(), 0o644, 0)).unwrap();
    assert_eq!((made.node.record.device, made.node.record.kind()), (5, NodeKind::BlockDevice));
    world.change(open, |node| node.links = rfs_common::name::LINKS_MAX);
    let full = world.run(&make(Caller::root(), open, "d", Content::Directory, 0o755, 0)).map(|_| ());
    assert_eq!(full, Err(Errno::EMLINK));
}

#[test]
fn an_existing_file_is_opened_instead_if_that_is_allowed() {
    let mut world = World::new();
    let file = world.file(InodeId::ROOT, "f", 0o644);
    world.mkdir(InodeId::ROOT, "d", 0o755);
    world.make(InodeId::ROOT, "l", Content::Symlink(b"f".to_vec()), 0o777);
    let open = |world: &mut World, name: &str| {
        let place = Place::NameOrExisting(name.parse().unwrap());
        let caller = Caller::root();
        world.run(&Make { caller, parent: InodeId::ROOT, place, content: Content::File, mode: 0o600, umask: 0 })
    };
    let opened = open(&mut world, "f").unwrap();
    assert_eq!((opened.node.inode, opened.created, opened.node.record.mode), (file, false, 0o644));
    assert_eq!(open(&mut world, "d").map(|_| ()), Err(Errno::EISDIR));
    assert_eq!(open(&mut world, "l").map(|_| ()), Err(Errno::ESTALE));
    assert!(open(&mut world, "new").unwrap().created);
}

#[test]
fn nothing_is_made_in_a_directory_that_was_removed_or_by_a_reader() {
    let mut world = World::new();
    let directory = world.mkdir(InodeId::ROOT, "d", 0o755);
    world.known_by.insert(directory, vec![SessionId::new(3)]);
    world.rmdir(InodeId::ROOT, "d").unwrap();
    let late = world.run(&make(Caller::root(), directory, "f", Content::File, 0o644, 0)).map(|_| ());
    assert_eq!(late, Err(Errno::ENOENT));
    world.read_only = true;
    let refused = world.run(&make(Caller::root(), InodeId::ROOT, "f", Content::File, 0o644, 0)).map(|_| ());
    assert_eq!(refused, Err(Errno::EROFS));
}
