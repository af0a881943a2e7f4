//! POSIX ACLs: stored, shown, enforced, inherited.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{Mode, XattrFlags, getxattr_query, setxattr};
use rustix::io::Errno;
use rustix::process::umask;

use super::calls::as_user_of_groups;
use super::checks::{GROUP, OTHER, USER, as_user, chmod, has_mode, make_folder, make_owned, refused, same};
use super::{Case, cases};
use crate::programs::shell;

pub(super) const CASES: &[Case] = cases![
    an_access_acl_is_stored_and_shown,
    a_named_user_is_let_in,
    a_named_user_is_kept_out,
    a_named_group_is_let_in,
    the_mask_limits_named_entries,
    the_mask_is_the_group_class,
    chmod_changes_the_mask,
    an_acl_that_says_what_the_mode_says_is_none,
    a_default_acl_is_inherited,
    a_default_acl_replaces_the_umask,
    a_default_acl_is_for_folders_only,
    a_default_acl_is_removed,
    removing_an_acl_restores_the_mode,
    only_the_owner_sets_an_acl,
    a_malformed_acl_is_refused,
    search_through_an_acl,
    copies_keep_acls,
];

/// getfacl's lines but comments, joined by a space.
fn shown(folder: &Path, name: &str) -> anyhow::Result<String> {
    let text = shell(folder, &format!("getfacl -nc {name}"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
}

fn set(folder: &Path, arguments: &str) -> anyhow::Result<()> {
    shell(folder, &format!("setfacl {arguments}")).map(drop)
}

fn owned_file(folder: &Path, mode: u32) -> anyhow::Result<std::path::PathBuf> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, mode)?;
    Ok(path)
}

fn an_access_acl_is_stored_and_shown(folder: &Path) -> anyhow::Result<()> {
    owned_file(folder, 0o640)?;
    set(folder, "-m u:1001:rw,u:1002:r,g:2000:r file")?;
    let expected = "user::rw- user:1001:rw- user:1002:r-- group::r-- group:2000:r-- mask::rw- other::---";
    same(shown(folder, "file")?, expected, "getfacl")?;
    has_mode(&folder.join("file"), 0o660, "the mode shows the mask")
}

fn a_named_user_is_let_in(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o600)?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "before"))?;
    set(folder, "-m u:1001:rw file")?;
    as_user(OTHER, || Ok(fs::write(&path, "new")?))?;
    as_user(OTHER + 1, || refused(File::open(&path), Errno::ACCESS, "someone else"))?;
    set(folder, "-x u:1001 file")?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "afterwards"))
}

fn a_named_user_is_kept_out(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o666)?;
    set(folder, "-m u:1001:- file")?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "the one who is named"))?;
    as_user(OTHER + 1, || Ok(File::open(&path).map(drop)?))
}

fn a_named_group_is_let_in(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o600)?;
    set(folder, "-m g:2000:r file")?;
    as_user_of_groups(OTHER, OTHER, &[GROUP], || {
        fs::read(&path)?;
        refused(OpenOptions::new().write(true).open(&path), Errno::ACCESS, "write")
    })?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "not a member"))
}

fn the_mask_limits_named_entries(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o600)?;
    set(folder, "-m u:1001:rw,m::r file")?;
    as_user(OTHER, || {
        fs::read(&path)?;
        refused(OpenOptions::new().write(true).open(&path), Errno::ACCESS, "write, beyond the mask")
    })
}

fn the_mask_is_the_group_class(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o660)?;
    set(folder, "-m u:1001:r,m::r file")?;
    has_mode(&path, 0o640, "the mode shows the mask")?;
    as_user_of_groups(OTHER + 1, USER, &[], || {
        refused(OpenOptions::new().write(true).open(&path), Errno::ACCESS, "the owning group, beyond the mask")
    })
}

fn chmod_changes_the_mask(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o640)?;
    set(folder, "-m u:1001:rw file")?;
    chmod(&path, 0o600)?;
    ensure!(shown(folder, "file")?.contains("mask::---"), "{}", shown(folder, "file")?);
    ensure!(shown(folder, "file")?.contains("group::r--"), "the owning group's entry stays");
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "the mask is empty"))?;
    chmod(&path, 0o660)?;
    as_user(OTHER, || Ok(fs::write(&path, "new")?))
}

fn an_acl_that_says_what_the_mode_says_is_none(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o644)?;
    set(folder, "-m u::rwx,g::-,o::- file")?;
    has_mode(&path, 0o700, "the mode follows")?;
    refused(getxattr_query(&path, "system.posix_acl_access"), Errno::NODATA, "no ACL is left")
}

fn a_default_acl_is_inherited(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o755)?;
    set(folder, "-d -m u::rwx,u:1001:rwx,g::rx,o::- inner")?;
    as_user(USER, || {
        fs::write(inner.join("file"), "x")?;
        Ok(fs::create_dir(inner.join("folder"))?)
    })?;
    let file = shown(&inner, "file")?;
    same(
        file.as_str(),
        "user::rw- user:1001:rwx #effective:rw- group::r-x #effective:r-- mask::rw- other::---",
        "a file",
    )
    .or_else(|_| {
        same(
            file.split_whitespace().filter(|word| !word.starts_with('#')).collect::<Vec<_>>().join(" "),
            "user::rw- user:1001:rwx group::r-x mask::rw- other::---",
            "a file",
        )
    })?;
    let inherited = shown(&inner, "folder")?;
    ensure!(inherited.contains("default:user:1001:rwx"), "a folder hands it on: {inherited}");
    ensure!(inherited.starts_with("user::rwx user:1001:rwx"), "and is under it itself: {inherited}");
    as_user(OTHER, || Ok(fs::write(inner.join("file"), "new")?))
}

fn a_default_acl_replaces_the_umask(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o777)?;
    set(folder, "-d -m u::rwx,g::rwx,o::rwx inner")?;
    as_user(USER, || {
        umask(Mode::from_raw_mode(0o077));
        OpenOptions::new().write(true).create_new(true).mode(0o666).open(inner.join("file"))?;
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(inner.join("less"))?;
        Ok(fs::create_dir(inner.join("folder"))?)
    })?;
    has_mode(&inner.join("file"), 0o666, "a file")?;
    has_mode(&inner.join("less"), 0o640, "a file made with a smaller mode")?;
    has_mode(&inner.join("folder"), 0o777, "a folder")
}

fn a_default_acl_is_for_folders_only(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o644)?;
    let result = setxattr(&path, "system.posix_acl_default", &acl_of_mode(), XattrFlags::empty());
    refused(result, Errno::ACCESS, "a default ACL of a file")
}

/// user::rwx group::r-x other::r-x as the kernel takes it.
fn acl_of_mode() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1u16, 7u16), (4, 5), (0x20, 5)] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    bytes
}

fn a_default_acl_is_removed(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o755)?;
    set(folder, "-d -m u:1001:rwx inner")?;
    ensure!(getxattr_query(&inner, "system.posix_acl_default")? > 0, "it is there");
    set(folder, "-k inner")?;
    refused(getxattr_query(&inner, "system.posix_acl_default"), Errno::NODATA, "the default ACL")?;
    File::create(inner.join("file"))?;
    has_mode(&inner.join("file"), 0o644, "a new file")
}

fn removing_an_acl_restores_the_mode(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o640)?;
    set(folder, "-m u:1001:rwx file")?;
    set(folder, "-b file")?;
    has_mode(&path, 0o640, "the mode")?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "the one who was named"))
}

fn only_the_owner_sets_an_acl(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o666)?;
    let set = || setxattr(&path, "system.posix_acl_access", &acl_of_mode(), XattrFlags::empty());
    as_user(OTHER, || refused(set(), Errno::PERM, "by another"))?;
    as_user(USER, || Ok(set()?))?;
    has_mode(&path, 0o755, "set by the owner")
}

fn a_malformed_acl_is_refused(folder: &Path) -> anyhow::Result<()> {
    let path = owned_file(folder, 0o644)?;
    let mut unsorted = acl_of_mode();
    unsorted.rotate_left(4);
    for bytes in [&b"x"[..], &[9, 0, 0, 0], &acl_of_mode()[..12], &unsorted] {
        let result = setxattr(&path, "system.posix_acl_access", bytes, XattrFlags::empty());
        super::checks::refused_as(result, &[Errno::INVAL, Errno::OPNOTSUPP], "a malformed ACL")?;
    }
    has_mode(&path, 0o644, "the mode")
}

fn search_through_an_acl(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o700)?;
    make_owned(&inner.join("file"), USER, USER, 0o644)?;
    as_user(OTHER, || refused(File::open(inner.join("file")), Errno::ACCESS, "before"))?;
    set(folder, "-m u:1001:x inner")?;
    as_user(OTHER, || {
        fs::read(inner.join("file"))?;
        refused(fs::read_dir(&inner), Errno::ACCESS, "list")
    })
}

fn copies_keep_acls(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, 0, 0, 0o755)?;
    fs::write(inner.join("file"), "x")?;
    set(folder, "-m u:1001:rw inner/file")?;
    set(folder, "-d -m g:2000:rx inner")?;
    shell(folder, "cp -a inner copy")?;
    for name in ["", "/file"] {
        same(shown(folder, &format!("copy{name}"))?, shown(folder, &format!("inner{name}"))?, "the copy's ACL")?;
    }
    Ok(())
}
