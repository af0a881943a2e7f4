//! Changing owners, and what clears the set-id bits.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, lchown, symlink};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{FallocateFlags, XattrFlags, copy_file_range, fallocate, ftruncate, getxattr_query, setxattr};
use rustix::io::Errno;

use super::calls::{Map, MapKind, as_user_of_groups};
use super::checks::{
    GROUP, OTHER, USER, as_user, chmod, has_mode, make_file, make_folder, make_owned, refused, same, stat,
};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    only_root_gives_files_away,
    an_owner_may_change_to_an_own_group,
    chown_of_a_link_follows_or_not,
    chown_of_one_part_leaves_the_other,
    chown_clears_set_ids_of_files,
    chown_keeps_set_ids_of_folders,
    chown_keeps_setgid_without_group_execution,
    a_write_by_another_clears_set_ids,
    a_write_by_the_owner_clears_set_ids,
    a_write_by_root_keeps_set_ids,
    a_write_keeps_setgid_without_group_execution,
    truncate_clears_set_ids,
    opening_with_truncate_clears_set_ids,
    fallocate_clears_set_ids,
    copy_file_range_clears_set_ids,
    a_write_to_a_map_leaves_content_right,
    a_write_removes_file_capabilities,
    chown_removes_file_capabilities,
];

fn change_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, uid, gid)
}

fn only_root_gives_files_away(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o666)?;
    as_user(USER, || {
        refused(change_owner(&path, Some(OTHER), None), Errno::PERM, "the owner gives it away")?;
        refused(change_owner(&path, None, Some(GROUP)), Errno::PERM, "the owner gives it to a foreign group")?;
        Ok(change_owner(&path, Some(USER), Some(USER))?)
    })?;
    as_user(OTHER, || {
        refused(change_owner(&path, Some(OTHER), None), Errno::PERM, "another takes it")?;
        refused(change_owner(&path, None, Some(OTHER)), Errno::PERM, "another takes it for the group")
    })
}

fn an_owner_may_change_to_an_own_group(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o644)?;
    as_user_of_groups(USER, USER, &[GROUP], || Ok(change_owner(&path, None, Some(GROUP))?))?;
    same((stat(&path)?.uid(), stat(&path)?.gid()), (USER, GROUP), "owner and group")
}

fn chown_of_a_link_follows_or_not(folder: &Path) -> anyhow::Result<()> {
    let (path, link) = (folder.join("file"), folder.join("link"));
    make_file(&path, b"")?;
    symlink("file", &link)?;
    lchown(&link, Some(5), Some(6))?;
    same((stat(&link)?.uid(), stat(&path)?.uid()), (5, 0), "lchown")?;
    change_owner(&link, Some(7), Some(8))?;
    same((stat(&link)?.uid(), stat(&path)?.uid()), (5, 7), "chown")
}

fn chown_of_one_part_leaves_the_other(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, GROUP, 0o644)?;
    change_owner(&path, Some(OTHER), None)?;
    same((stat(&path)?.uid(), stat(&path)?.gid()), (OTHER, GROUP), "the owner changed")?;
    change_owner(&path, None, Some(OTHER))?;
    same((stat(&path)?.uid(), stat(&path)?.gid()), (OTHER, OTHER), "the group changed")?;
    change_owner(&path, Some(4_294_967_294), Some(3_000_000_000))?;
    same((stat(&path)?.uid(), stat(&path)?.gid()), (4_294_967_294, 3_000_000_000), "large numbers")
}

fn chown_clears_set_ids_of_files(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6755)?;
    as_user_of_groups(USER, USER, &[GROUP], || Ok(change_owner(&path, None, Some(GROUP))?))?;
    has_mode(&path, 0o755, "the owner changed the group")?;
    chmod(&path, 0o6755)?;
    change_owner(&path, Some(OTHER), None)?;
    has_mode(&path, 0o755, "root changed the owner")
}

fn chown_keeps_set_ids_of_folders(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o6755)?;
    change_owner(&inner, Some(OTHER), Some(GROUP))?;
    has_mode(&inner, 0o6755, "a folder")
}

/// Set-group-id without group execution once meant mandatory locks; it is not a privilege.
fn chown_keeps_setgid_without_group_execution(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, GROUP, 0o6745)?;
    change_owner(&path, Some(OTHER), None)?;
    has_mode(&path, 0o2745, "set-group-id without group execution")
}

fn a_write_by_another_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6777)?;
    as_user(OTHER, || Ok(OpenOptions::new().write(true).open(&path)?.write_all_at(b"x", 0)?))?;
    has_mode(&path, 0o777, "after the write")?;
    // The bits may be set while a writer is open; the next write clears them again.
    let mut file = as_user(OTHER, || Ok(OpenOptions::new().write(true).open(&path)?))?;
    as_user(OTHER, || Ok(file.write_all(b"one")?))?;
    chmod(&path, 0o4777)?;
    as_user(OTHER, || Ok(file.write_all(b"two")?))?;
    has_mode(&path, 0o777, "after a later write")
}

fn a_write_by_the_owner_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6755)?;
    as_user(USER, || Ok(OpenOptions::new().append(true).open(&path)?.write_all(b"x")?))?;
    has_mode(&path, 0o755, "after the write")
}

fn a_write_by_root_keeps_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6755)?;
    OpenOptions::new().write(true).open(&path)?.write_all_at(b"x", 0)?;
    has_mode(&path, 0o6755, "after the write")
}

fn a_write_keeps_setgid_without_group_execution(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o2766)?;
    as_user_of_groups(OTHER, OTHER, &[USER], || {
        Ok(OpenOptions::new().write(true).open(&path)?.write_all_at(b"x", 0)?)
    })?;
    has_mode(&path, 0o2766, "after the write by a member of the group")
}

fn truncate_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6777)?;
    as_user(OTHER, || Ok(ftruncate(OpenOptions::new().write(true).open(&path)?, 1)?))?;
    has_mode(&path, 0o777, "after ftruncate")
}

fn opening_with_truncate_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6777)?;
    as_user(OTHER, || Ok(File::create(&path).map(drop)?))?;
    has_mode(&path, 0o777, "after O_TRUNC")
}

fn fallocate_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6777)?;
    let done = as_user(OTHER, || {
        match fallocate(OpenOptions::new().write(true).open(&path)?, FallocateFlags::empty(), 0, 10_000) {
            Err(Errno::OPNOTSUPP) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    })?;
    if done { has_mode(&path, 0o777, "after fallocate") } else { Ok(()) }
}

fn copy_file_range_clears_set_ids(folder: &Path) -> anyhow::Result<()> {
    let (path, source) = (folder.join("file"), folder.join("source"));
    make_owned(&path, USER, USER, 0o6777)?;
    make_owned(&source, OTHER, OTHER, 0o644)?;
    as_user(OTHER, || {
        let (source, file) = (File::open(&source)?, OpenOptions::new().write(true).open(&path)?);
        same(copy_file_range(&source, None, &file, None, 7)?, 7, "bytes copied")
    })?;
    has_mode(&path, 0o777, "after copy_file_range")
}

/// Linux clears set-id bits when a mapped page is first made writable; either is allowed, but the data must be there.
fn a_write_to_a_map_leaves_content_right(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o6777)?;
    as_user(OTHER, || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let map = Map::new(&file, MapKind::Shared, 0, 4096)?;
        map.write(0, b"C");
        Ok(map.sync()?)
    })?;
    same(std::fs::read(&path)?.as_slice(), &b"Content"[..], "content")?;
    ensure!(super::checks::mode(&path)? & 0o777 == 0o777, "permissions stay");
    Ok(())
}

/// security.capability, revision 2: CAP_NET_RAW permitted.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn with_capability(path: &Path) -> anyhow::Result<()> {
    make_owned(path, USER, USER, 0o755)?;
    setxattr(path, "security.capability", &CAPABILITY, XattrFlags::empty())?;
    same(getxattr_query(path, "security.capability")?, CAPABILITY.len(), "the capability is there")
}

fn a_write_removes_file_capabilities(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    with_capability(&path)?;
    // Also by root: a changed program is another program.
    OpenOptions::new().write(true).open(&path)?.write_all_at(b"x", 0)?;
    refused(getxattr_query(&path, "security.capability"), Errno::NODATA, "the capability after a write")
}

fn chown_removes_file_capabilities(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    with_capability(&path)?;
    change_owner(&path, Some(OTHER), None)?;
    refused(getxattr_query(&path, "security.capability"), Errno::NODATA, "the capability after chown")
}
