//! Extended attributes: rules of each kind of name, flags, limits, lists.

use super::*;
use crate::namespace::acl::tests::acl_value;
use crate::namespace::ops::make::Content;
use crate::namespace::ops::world::{World, user};

const ROOT: InodeId = InodeId::ROOT;
const NONE: u32 = u32::MAX;

fn set(caller: Caller, inode: InodeId, name: &str, value: &[u8], exists: Option<bool>) -> SetXattr {
    let change = XattrChange::Set { value: value.to_vec(), exists };
    SetXattr { caller, inode, name: name.into(), change }
}

fn remove(caller: Caller, inode: InodeId, name: &str) -> SetXattr {
    SetXattr { caller, inode, name: name.into(), change: XattrChange::Remove }
}

fn get(world: &mut World, caller: Caller, inode: InodeId, name: &str) -> Result<Vec<u8>, Errno> {
    world.run(&GetXattr { caller, inode, name: name.into() })
}

#[test]
fn values_come_back_are_listed_and_removed_with_their_node() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let run = |world: &mut World, operation: SetXattr| world.run(&operation).map(|_| ());
    let root = Caller::root;
    assert_eq!(run(&mut world, set(root(), inode, "user.a", b"1", Some(true))), Err(Errno::ENODATA));
    assert_eq!(run(&mut world, set(root(), inode, "user.a", b"1", Some(false))), Ok(()));
    assert_eq!(run(&mut world, set(root(), inode, "user.a", b"2", Some(false))), Err(Errno::EEXIST));
    assert_eq!(run(&mut world, set(root(), inode, "user.a", b"", None)), Ok(()));
    assert_eq!(get(&mut world, user(5), inode, "user.a"), Ok(vec![]));
    assert_eq!(get(&mut world, user(5), inode, "user.b"), Err(Errno::ENODATA));
    run(&mut world, set(root(), inode, "trusted.t", b"1", None)).unwrap();
    let list = |world: &mut World, caller| world.run(&ListXattr { caller, inode }).unwrap();
    assert_eq!(list(&mut world, root()), [&b"trusted.t"[..], b"user.a"]);
    assert_eq!(list(&mut world, user(5)), [&b"user.a"[..]]);
    assert_eq!(run(&mut world, remove(root(), inode, "user.a")), Ok(()));
    assert_eq!(run(&mut world, remove(root(), inode, "user.a")), Err(Errno::ENODATA));
    assert_eq!(world.node(inode).xattrs, 1);
    world.check();
    world.unlink(ROOT, "f").unwrap();
    world.check();
}

#[test]
fn each_kind_of_name_has_its_rules() {
    let mut world = World::new();
    let file = world.file(ROOT, "f", 0o644);
    let link = world.make(ROOT, "l", Content::Symlink(b"x".to_vec()), 0o777);
    let sticky = world.mkdir(ROOT, "s", 0o1777);
    for (caller, inode, name, expected) in [
        (user(5), file, "user.a", Errno::EACCES),
        (user(5), file, "trusted.a", Errno::EPERM),
        (user(5), file, "security.a", Errno::EPERM),
        (user(5), file, "system.posix_acl_access", Errno::EPERM),
        (user(5), sticky, "user.a", Errno::EPERM),
        (Caller::root(), link, "user.a", Errno::EPERM),
        (Caller::root(), link, "system.posix_acl_access", Errno::EOPNOTSUPP),
        (Caller::root(), file, "other.a", Errno::EOPNOTSUPP),
        (Caller::root(), file, "user.", Errno::EINVAL),
        (Caller::root(), file, "", Errno::ERANGE),
        (Caller::root(), file, "system.posix_acl_access", Errno::EOPNOTSUPP), // version 0x31
    ] {
        let refused = world.run(&set(caller, inode, name, b"1234", None)).map(|_| ());
        assert_eq!(refused, Err(expected), "{name} on {inode}");
    }
    assert_eq!(get(&mut world, user(5), file, "trusted.a"), Err(Errno::ENODATA));
    assert_eq!(get(&mut world, user(5), link, "user.a"), Err(Errno::ENODATA));
    assert!(world.run(&set(Caller::root(), link, "trusted.a", b"1", None)).is_ok());
}

#[test]
fn values_and_lists_of_names_are_limited() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o644);
    let large = vec![0; XATTR_VALUE_BYTES_MAX + 1];
    assert_eq!(world.run(&set(Caller::root(), inode, "user.a", &large, None)).map(|_| ()), Err(Errno::E2BIG));
    assert!(world.run(&set(Caller::root(), inode, "user.a", &large[1..], None)).is_ok());
    let name = |number: usize| format!("user.{number:0>250}");
    let refused = (0..300).find_map(|number| world.run(&set(Caller::root(), inode, &name(number), b"", None)).err());
    assert_eq!(refused, Some(Errno::ENOSPC));
    world.check();
}

#[test]
fn an_access_list_sets_the_mode_and_is_stored_only_if_it_says_more() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o600);
    let name = "system.posix_acl_access";
    let minimal = acl_value(&[(1, 7, NONE), (4, 5, NONE), (0x20, 1, NONE)]);
    world.run(&set(Caller::root(), inode, name, &minimal, None)).unwrap();
    assert_eq!((world.node(inode).mode, world.node(inode).xattrs), (0o751, 0));
    let full = acl_value(&[(1, 6, NONE), (4, 0, NONE), (8, 4, 60), (0x10, 4, NONE), (0x20, 0, NONE)]);
    world.run(&set(Caller::root(), inode, name, &full, None)).unwrap();
    assert_eq!((world.node(inode).mode, world.node(inode).access_acl), (0o640, true));
    world.check();
    world.run(&remove(Caller::root(), inode, name)).unwrap();
    assert_eq!((world.node(inode).mode, world.node(inode).access_acl), (0o640, false));
    world.check();
    let default = "system.posix_acl_default";
    assert_eq!(world.run(&set(Caller::root(), inode, default, &full, None)).map(|_| ()), Err(Errno::EACCES));
    world.run(&set(Caller::root(), ROOT, default, &full, None)).unwrap();
    assert!(world.node(ROOT).default_acl);
    world.check();
}

#[test]
fn a_new_owner_or_a_write_ends_file_capabilities() {
    let mut world = World::new();
    let inode = world.file(ROOT, "f", 0o755);
    world.run(&set(Caller::root(), inode, "security.capability", b"x", None)).unwrap();
    let chown = crate::namespace::ops::set_attributes::SetAttributes {
        user: Some(3),
        ..crate::namespace::ops::set_attributes::SetAttributes::of(Caller::root(), inode)
    };
    world.run(&chown).unwrap();
    assert_eq!(get(&mut world, Caller::root(), inode, "security.capability"), Err(Errno::ENODATA));
    world.check();
}
