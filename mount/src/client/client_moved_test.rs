//! What the kernel is told of directories that others have moved.

use super::*;

#[test]
fn the_name_of_a_directory_that_another_changes_is_dropped() {
    let mounted = Mounted::new();
    let made = mounted.client.make_directory(&mounted.caller, ROOT_INODE, b"here", NEW).unwrap().attributes.inode;
    mounted.lookup("five").unwrap();
    let names = vec![(&b"here"[..]).into(), (&b"five"[..]).into()];
    let entries = vec![wire::EntryNotice { directory: ROOT, names }];
    mounted.master.wait_done(mounted.master.recall(wire::Recall { entries, ..wire::Recall::default() }));
    assert!(mounted.kernel.was_told("directory 1 here"));
    assert!(mounted.kernel.was_told("entry 1 five") && !mounted.kernel.was_told("directory 1 five"));
    assert!(made > ROOT_INODE);
}

#[test]
fn a_directory_that_is_found_under_another_name_loses_the_old_one_first() {
    let mounted = Mounted::new();
    let made = mounted.client.make_directory(&mounted.caller, ROOT_INODE, b"here", NEW).unwrap().attributes.inode;
    let core = &mounted.client.core;
    core.directory_is_found(made, ROOT_INODE, b"here");
    assert!(!mounted.kernel.was_told("directory 1 here"), "it has that name");
    core.directory_is_found(made, ROOT_INODE, b"there");
    assert!(mounted.kernel.was_told("directory 1 here"));
    core.directory_was_renamed(made, ROOT_INODE, b"elsewhere");
    core.directory_is_found(made, ROOT_INODE, b"elsewhere");
    assert!(!mounted.kernel.was_told("directory 1 there"), "the kernel has moved it itself");
    mounted.client.forget(made, 100);
    core.directory_is_found(made, ROOT_INODE, b"anew");
    assert!(!mounted.kernel.was_told("directory 1 elsewhere"), "the kernel had forgotten it");
}
